"""What a publisher sends to the reference server: received whole, checked, and then published at one moment."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import time
from typing import Any

from agenthub.errors import AgentRuntimeError
from agenthub.indexes.directory import writing
from agenthub.indexes.documents import is_version, release_to_json
from agenthub.indexes.inspection import archive_place
from agenthub.indexes.publish import NewSignature, Publication, publish, set_notice
from agenthub.indexes.summaries import AGENTS, FILES
from agenthub.packages.ledger import LIMITS, MB
from agenthub.packages.pack import SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.indexes.publishers import Publisher
    from agenthub.indexes.server import IndexRequest

DIGEST, SIGNATURE, SIGSTORE, FORCE = "Content-Digest", "Agenthub-Signature", "Agenthub-Sigstore", "Agenthub-Force"
LARGEST_HEADER = 40_000  # characters; of one line http.server takes 65,536
_LARGEST_NOTICE = 1 << 16
_SLOWEST = 16 * 1024  # bytes a second
_EXPANSION = 8  # an archive of others may be compressed; ours are not


class _Refused(AgentRuntimeError):
    """An upload that is not taken, with the status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = status

    @property
    def error_type(self) -> str:
        """What it is to the publisher."""
        return "PermissionDeniedError" if self.http_status == 403 else "InstallError"


def receive_release(request: IndexRequest, place: str, publisher: Publisher) -> tuple[int, dict[str, Any]]:
    """Takes the body of a PUT for a release at `place`; status and document of the answer.

    Raises:
        AgentRuntimeError: it is refused; nothing was published.
    """
    owner, name, version = _release_at(place)
    _check_owner(publisher, owner)
    serving, index = request.server.serving, request.server.index
    length = _length(request, serving.max_upload)
    signatures = tuple(_signatures(request))
    with index.scratch() as scratch:
        path = os.path.join(scratch, "upload")
        _receive(request, path, length, index.root)
        limits = LIMITS._replace(size=min(LIMITS.size, _EXPANSION * serving.max_upload))
        done = publish(
            index,
            Publication(
                path,
                owner,
                publisher.name,
                signatures=signatures,
                force=request.headers.get(FORCE) == "1",
                name=name,
                version=version,
                limits=limits,
                shown="the archive",
            ),
        )
    said = {"version": done.release.version, "latest": done.latest, "changed": done.changed}
    return (201 if done.changed else 200), {**said, "release": release_to_json(done.release)}


def receive_notice(request: IndexRequest, place: str, publisher: Publisher) -> tuple[int, dict[str, Any]]:
    """Takes the body of a PATCH of an agent's document: `version`, and a reason for `yanked` or `deprecated`, or null.

    Raises:
        AgentRuntimeError: it is refused; nothing was changed.
    """
    if not place.startswith(f"{AGENTS}/"):
        raise _Refused(405, "a notice is for the document of an agent: agents/OWNER/NAME.json")
    _, owner, file = place.split("/")
    _check_owner(publisher, owner)
    length = _length(request, _LARGEST_NOTICE)
    _say_continue(request)
    try:
        notice = json.loads(request.rfile.read(length))
        version = notice["version"]
        reasons = {key: notice[key] or "" for key in ("yanked", "deprecated") if key in notice}
    except (ValueError, RecursionError, KeyError, TypeError):
        raise _Refused(400, "it is not a JSON object with a version") from None
    texts = [version, *reasons.values()]
    if not all(isinstance(text, str) and len(text) <= 1000 for text in texts) or not reasons:
        raise _Refused(400, "it needs a reason, as a short text, for yanked or deprecated")
    releases = set_notice(request.server.index, owner, file.removesuffix(".json"), version, **reasons)
    return 200, {"releases": {release.version: release_to_json(release) for release in releases}}


def _release_at(place: str) -> tuple[str, str, str]:
    folder, owner, name, file = place.split("/") if place.count("/") == 3 else ("", "", "", "")
    version = file.removeprefix(f"{name}-").removesuffix(SUFFIX)
    if folder != FILES or not is_version(version) or archive_place(owner, name, version) != place:
        raise _Refused(404, f"a release is published at {FILES}/OWNER/NAME/NAME-VERSION{SUFFIX}")
    return owner, name, version


def _check_owner(publisher: Publisher, owner: str) -> None:
    if not publisher.may_publish(owner):
        raise _Refused(403, f"the token of {publisher.name} is not for agents of {owner}")


def _length(request: IndexRequest, most: int) -> int:
    length = request.content_length()
    if length is None:
        raise _Refused(411, "the length has to be said in Content-Length")
    if length > most:
        raise _Refused(413, f"at most {most // MB or 1} MB are taken, and these are {-(-length // MB)} MB")
    return length


def _receive(request: IndexRequest, path: str, length: int, root: str) -> None:
    """Writes the body to a file, and compares its digest where the sender said one."""
    _say_continue(request)
    wanted, digest = _digest(request), hashlib.sha256()
    deadline = time.monotonic() + 60 + length / _SLOWEST
    left = length
    with writing(root), open(path, "xb") as file:
        while left > 0:
            data = _read(request, min(left, MB))
            if time.monotonic() > deadline:
                raise _Refused(408, "the upload takes too long")
            digest.update(data)
            file.write(data)
            left -= len(data)
    if wanted is not None and wanted != digest.digest():
        raise _Refused(400, "what arrived is not what was sent: its digest is another")


def _read(request: IndexRequest, most: int) -> bytes:
    try:
        data = request.rfile.read1(most)
    except OSError:
        data = b""
    if not data:
        raise _Refused(400, "the upload was cut off; nothing was published")
    return data


def _say_continue(request: IndexRequest) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue":
        request.send_response_only(100)
        request.end_headers()


def _digest(request: IndexRequest) -> bytes | None:
    """The sha256 of RFC 9530's header."""
    for part in request.headers.get(DIGEST, "").split(","):
        algorithm, _, value = part.strip().partition("=")
        if algorithm.lower() == "sha-256":
            return _decoded(value.strip().strip(":"), DIGEST)
    return None


def _signatures(request: IndexRequest) -> list[NewSignature]:
    found = []
    for header, kind in ((SIGNATURE, "ssh"), (SIGSTORE, "sigstore")):
        key, _, value = request.headers.get(header, "").rpartition(" ")
        if value:
            found.append(NewSignature(kind, _decoded(value, header), key.strip()[:200]))
    return found


def _decoded(text: str, header: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Refused(400, f"the header {header} is not base64") from None
