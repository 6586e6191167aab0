"""Makes an index's documents anew from its archives: the same files give the same documents.

What no archive says is taken from the documents that are there: when and by whom it was published, what was yanked or
deprecated, whose key signed. For an archive that no document knows, the file's time is the time of publication.
"""

from __future__ import annotations

import calendar
import os
import time
from contextlib import suppress
from typing import NamedTuple

from agenthub.errors import InstallError, PermissionDeniedError
from agenthub.indexes.directory import Change, IndexDirectory, listed
from agenthub.indexes.documents import AgentDocument, Release, Signature
from agenthub.indexes.inspection import archive_place, inspect_archive, release_of
from agenthub.indexes.publish import SIGNATURE_SUFFIXES, described
from agenthub.indexes.summaries import AGENTS, FILES, Entries, document_bytes, set_entry, timestamp
from agenthub.packages.names import is_name
from agenthub.packages.pack import SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Built(NamedTuple):
    """What a build found: `changed` are the agents whose documents are others now; `lost` is what could not be kept."""

    agents: int
    releases: int
    changed: list[str]
    lost: list[str]


def build(index: IndexDirectory, on_progress: Callable[[str], None] | None = None) -> Built:
    """Makes all documents of an index anew.

    Raises:
        InstallError: an archive is damaged, or is not where its release belongs, or the index cannot be written.
        PermissionDeniedError: an archive is another than the one that was published under its name.
    """
    say = on_progress or (lambda line: None)
    with index.changing() as change:
        lost: list[str] = []
        earlier = {agent: _earlier(index, *agent, lost) for agent in index.agents()}
        documents = []
        for owner, name in archived_agents(index):
            say(f"{owner}/{name}")
            document = _document(index, change.scratch, owner, name, earlier.get((owner, name)))
            lost += _lost_releases(document, earlier.get((owner, name)))
            documents.append(document)
        changed = _write(index, change, documents, earlier)
    return Built(len(documents), sum(len(document.releases) for document in documents), changed, lost)


def archived_agents(index: IndexDirectory) -> list[tuple[str, str]]:
    """Owner and name of everything that has an archive."""
    return [
        (owner, name)
        for owner in filter(is_name, listed(index.path(FILES)))
        for name in filter(is_name, listed(index.path(FILES, owner)))
        if any(file.endswith(SUFFIX) for file in listed(index.path(FILES, owner, name)))
    ]


def signatures_beside(index: IndexDirectory, file: str) -> Iterator[tuple[str, str]]:
    """Kind and place of each signature that lies beside an archive."""
    for kind, suffix in SIGNATURE_SUFFIXES.items():
        if os.path.isfile(index.path(file + suffix)):
            yield kind, file + suffix


def _earlier(index: IndexDirectory, owner: str, name: str, lost: list[str]) -> AgentDocument | None:
    try:
        return index.document(owner, name)
    except InstallError as error:
        lost.append(f"{owner}/{name}: what its document said of yanked releases: {error.message}")
        return None


def _document(
    index: IndexDirectory, scratch: str, owner: str, name: str, earlier: AgentDocument | None
) -> AgentDocument:
    releases = {}
    for file in listed(index.path(FILES, owner, name)):
        if file.endswith(SUFFIX):
            release = _release(index, scratch, f"{FILES}/{owner}/{name}/{file}", owner, earlier)
            releases[release.version] = release
    document = AgentDocument(owner, name, earlier.serial if earlier else 0, "", "", (), releases)
    return described(index, document, scratch)


def _release(index: IndexDirectory, scratch: str, place: str, owner: str, earlier: AgentDocument | None) -> Release:
    path = index.path(place)
    found = inspect_archive(path, scratch)
    belongs = archive_place(owner, found.name, found.version)
    if belongs != place:
        raise InstallError(
            f"{path} is {found.name} {found.version}, and that belongs at {belongs}",
            suggestion="agenthub publish puts an archive where it belongs; take this one out",
        )
    known = earlier.releases.get(found.version) if earlier else None
    if known is not None and known.digest != found.digest:
        raise PermissionDeniedError(
            f"{path} is not what was published as {known.label}; what was published stays as it is",
            suggestion="put the published file back; without it, remove the release's file",
        )
    made = known or release_of(owner, found, timestamp(os.stat(path).st_mtime), "")
    keys = {signature.kind: signature.key for signature in made.signatures}
    return release_of(owner, found, made.published_at, made.published_by)._replace(
        yanked=made.yanked,
        deprecated=made.deprecated,
        signatures=tuple(Signature(kind, file, keys.get(kind, "")) for kind, file in signatures_beside(index, place)),
    )


def _lost_releases(document: AgentDocument, earlier: AgentDocument | None) -> list[str]:
    gone = [
        release
        for version, release in (earlier.releases if earlier else {}).items()
        if version not in document.releases
    ]
    return [f"{release.label}: its archive {release.file} is gone" for release in gone]


def _write(
    index: IndexDirectory,
    change: Change,
    documents: list[AgentDocument],
    earlier: dict[tuple[str, str], AgentDocument | None],
) -> list[str]:
    before = index.summary()
    times = [_seconds(release.published_at) for document in documents for release in document.releases.values()]
    known = [document.serial for document in earlier.values() if document]
    serial = max([before.serial + 1, *(number + 1 for number in known), *times])
    changed: list[str] = []
    entries: Entries = {}
    for document in documents:
        old = earlier.get((document.owner, document.name))
        newest = max(release.published_at for release in document.releases.values())
        if old is None or document_bytes(document._replace(updated=old.updated)) != document_bytes(old):
            document = document._replace(serial=serial, updated=newest)
            changed.append(f"{document.owner}/{document.name}")
            change.write_document(document)
        set_entry(entries, document)
    for owner, name in earlier.keys() - {(document.owner, document.name) for document in documents}:
        changed.append(f"{owner}/{name}")
        with suppress(FileNotFoundError):
            os.unlink(index.path(AGENTS, owner, f"{name}.json"))
    at = timestamp(max(times, default=0)) if changed else before.updated
    highest = serial if changed else max([before.serial, *known])
    change.write_summaries(entries, len(documents), highest, at)
    return sorted(changed)


def _seconds(text: str) -> int:
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0
