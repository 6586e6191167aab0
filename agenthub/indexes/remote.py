"""Publishes to an index over HTTP: a PUT for a release, a PATCH for a notice, as the reference server takes them."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

from agenthub.errors import AgentRuntimeError, InstallError, InvalidInputError, PermissionDeniedError, error_class
from agenthub.indexes.configured import IndexSource
from agenthub.indexes.credentials import authorization, keyring_authorization, token_variable
from agenthub.indexes.http import HttpClient, TransferError
from agenthub.indexes.publish import NewSignature
from agenthub.indexes.summaries import AGENTS
from agenthub.indexes.uploads import DIGEST, FORCE, LARGEST_HEADER, SIGNATURE, SIGSTORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

_ATTEMPTS = 3
_PAUSE = 0.2  # seconds; each further one is twice as long
_LARGEST_ANSWER = 1 << 20
# What a server may say that an error is; it does not choose among all our exit codes.
_REASONS = ("PermissionDeniedError", "AgentNotFoundError", "InvalidManifestError", "InvalidInputError", "InstallError")
_HEADERS = {"ssh": SIGNATURE, "sigstore": SIGSTORE}


class RemoteIndex:
    """An index whose server takes releases.

    Args:
        source: the index.
        timeout: seconds, as for `HttpClient`.
        configured: the user's indexes.
    """

    def __init__(self, source: IndexSource, timeout: float, configured: Sequence[IndexSource]) -> None:
        self._source = source
        self._http = HttpClient(timeout)
        self._authorization = authorization(source, os.environ, configured)

    def put(
        self, archive: str, place: str, digest: str, signatures: tuple[NewSignature, ...], *, force: bool
    ) -> dict[str, Any]:
        """Sends an archive, as often as it takes: the same twice is published once.

        Args:
            archive: the file.
            place: where it belongs in the index.
            digest: `"sha256:…"` of it.
            signatures: of it.
            force: as `Publication.force`.

        Raises:
            AgentRuntimeError: the server refuses, with its reason.
            InstallError: it cannot be reached, or takes no uploads.
        """
        headers = {
            "Content-Length": str(os.stat(archive).st_size),
            "Content-Type": "application/octet-stream",
            DIGEST: f"sha-256=:{base64.b64encode(bytes.fromhex(digest.removeprefix('sha256:'))).decode()}:",
            **dict(map(_signature_header, signatures)),
            **({FORCE: "1"} if force else {}),
        }

        def send() -> dict[str, Any]:
            with open(archive, "rb") as file:
                return self._ask("PUT", place, headers, file)

        return self._retrying(send)

    def patch(self, owner: str, name: str, notice: dict[str, Any]) -> dict[str, Any]:
        """Sends a notice.

        Raises:
            AgentRuntimeError: the server refuses, with its reason.
            InstallError: it cannot be reached, or takes no notices.
        """
        body = json.dumps(notice).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        return self._retrying(lambda: self._ask("PATCH", f"{AGENTS}/{owner}/{name}.json", headers, body))

    def _retrying(self, send: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        for attempt in range(_ATTEMPTS):
            try:
                return send()
            except TransferError as error:
                if not error.again or attempt == _ATTEMPTS - 1:
                    raise InstallError(
                        f"cannot publish to {self._source.url}: {error.reason}",
                        suggestion="nothing was published, or all of it: publish again to be sure",
                    ) from error
                time.sleep(error.after if error.after is not None else _PAUSE * 2**attempt)
            except OSError as error:
                if isinstance(error, AgentRuntimeError):
                    raise
                raise InstallError(f"cannot read what is to be published: {error.strerror}") from error
        raise AssertionError("unreachable")

    def _ask(self, method: str, place: str, headers: dict[str, str], body: BinaryIO | bytes) -> dict[str, Any]:
        given = {
            "Connection": "close",
            **headers,
            **({"Authorization": self._authorization} if self._authorization else {}),
        }
        with self._http.exchange(method, f"{self._source.url}/{place}", given, body) as response:
            data = b""
            for chunk in self._http.chunks(response):
                data += chunk
                if len(data) > _LARGEST_ANSWER:
                    break
            status = response.status
        if status == 401 and (found := keyring_authorization(self._source)) not in (None, self._authorization):
            self._authorization = found
            if not isinstance(body, bytes):
                body.seek(0)
            return self._ask(method, place, headers, body)
        answer = _answer(data)
        if status not in (200, 201) or answer is None:
            raise self._refusal(status, answer)
        return answer

    def _refusal(self, status: int, answer: dict[str, Any] | None) -> AgentRuntimeError:
        reason = str(answer.get("error", ""))[:500] if answer else ""
        said = f"{self._source.url} refuses: {reason}" if reason else f"{self._source.url} answers {status}"
        if status == 401:
            variable = token_variable(self._source)
            return PermissionDeniedError(said, suggestion=f"export {variable}=TOKEN, or write a login into ~/.netrc")
        if answer and answer.get("error_type") in _REASONS:
            hint = answer.get("suggestion")
            error = error_class(answer["error_type"])
            return error(said, suggestion=str(hint)[:500] if hint else None)
        if status in (404, 405, 501):
            return InstallError(
                said, suggestion="publish into the directory that it serves, or to agenthub index serve"
            )
        return InstallError(said)


def _signature_header(signature: NewSignature) -> tuple[str, str]:
    value = base64.b64encode(signature.data).decode()
    if len(value) > LARGEST_HEADER:
        raise InvalidInputError(f"the {signature.kind} signature is too large to be published over HTTP")
    return _HEADERS[signature.kind], f"{signature.key} {value}".strip()


def _answer(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
