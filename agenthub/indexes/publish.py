"""The rules of publishing: what was published stays as it is, and nothing becomes the latest version by accident."""

from __future__ import annotations

import os
from typing import NamedTuple

from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError, PermissionDeniedError, nearest
from agenthub.indexes.directory import IndexDirectory, writing
from agenthub.indexes.documents import AgentDocument, Release, Signature
from agenthub.indexes.inspection import Inspected, inspect_archive, release_of
from agenthub.indexes.summaries import describing_release, latest_release, timestamp
from agenthub.packages.ledger import LIMITS, Limits
from agenthub.packages.names import check_name
from agenthub.packages.spec import LOCAL_OWNER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from packaging.version import Version

SIGNATURE_SUFFIXES = {"ssh": ".sig", "sigstore": ".sigstore.json"}
LARGEST_SIGNATURE = 1 << 20
EVERY_VERSION = "*"


class NewSignature(NamedTuple):
    """A signature to publish beside an archive. `kind` is `"ssh"` or `"sigstore"`; `key` as `Signature.key`."""

    kind: str
    data: bytes
    key: str = ""


class Publication(NamedTuple):
    """What is to be published.

    Attributes:
        archive: the file, anywhere.
        owner: whose agent it is.
        published_by: what the index says of who published it.
        signatures: of the archive.
        force: although the version jumps, or the name looks like another's.
        name: the name it must have, and `version`; None: whatever its manifest says.
        digest: `"sha256:…"` that it must have; None: whatever it has.
        limits: caps on what it unpacks to.
        shown: what messages call the archive; None: its path.
    """

    archive: str
    owner: str
    published_by: str
    signatures: tuple[NewSignature, ...] = ()
    force: bool = False
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    limits: Limits = LIMITS
    shown: str | None = None


class Published(NamedTuple):
    """What the index says now. `changed` is False where exactly that had been published before."""

    release: Release
    latest: str | None
    changed: bool


def publish(index: IndexDirectory, publication: Publication, waiting: Callable[[], None] | None = None) -> Published:
    """Adds a release to an index, at one moment.

    Args:
        index: may be empty, or not be there: it is made then.
        publication: what is published.
        waiting: called once when another publisher is busy.

    Raises:
        InstallError: the archive is damaged or hostile, or the index cannot be written.
        InvalidManifestError: its manifest is wrong, or cannot be that of a release.
        PermissionDeniedError: it would change what was published, or become the latest version by accident.
    """
    owner = check_name(publication.owner, "owner")
    if owner == LOCAL_OWNER:
        raise InstallError(f"nobody publishes as {owner}: it is the owner of what was installed from a directory")
    index.check_usable()
    with index.scratch() as scratch:
        archive = os.path.join(scratch, "archive")
        _copy(publication.archive, archive, index)
        found = _inspected(publication, archive, scratch)
        _check_wanted(publication, found)
        with index.changing(waiting) as change:
            document = index.document(owner, found.name)
            earlier = _published(document, found.version)
            if earlier is not None and earlier.digest != found.digest:
                raise _changes(earlier)
            if not publication.force and earlier is None:
                check_version(document, found.version)
                if document is None:
                    _check_look_alikes(index, owner, found.name)
            release = earlier or release_of(owner, found, "", publication.published_by)
            signed, files = _with_signatures(release, publication.signatures, scratch)
            if signed == earlier:
                assert document is not None
                return Published(earlier, _latest(document), False)
            moment = _now()
            if earlier is None:
                signed = signed._replace(published_at=timestamp(moment))
                os.utime(archive, (moment, moment))  # what `index build` takes for the time of publication
                files.append((archive, release.file))
            document = change.commit(_with_release(document, signed, found), files, at=moment)
    return Published(signed, _latest(document), True)


def set_notice(
    index: IndexDirectory,
    owner: str,
    name: str,
    version: str,
    *,
    yanked: str | None = None,
    deprecated: str | None = None,
) -> list[Release]:
    """Says of releases that they are not to be chosen any more (`yanked`), or that others should be (`deprecated`).

    Args:
        index: has the releases.
        owner: whose agent it is.
        name: the agent's.
        version: of the release; `EVERY_VERSION`: of all that there are.
        yanked: the reason; empty: it may be chosen again; None: as it was.
        deprecated: the reason; empty: not any more; None: as it was.

    Returns:
        list[Release]: as they are now.

    Raises:
        AgentNotFoundError: there is no such release.
        InstallError: it cannot be written.
    """
    index.check_exists()
    with index.changing() as change:
        document = index.document(check_name(owner, "owner"), check_name(name))
        if document is None:
            raise _no_agent(index, owner, name)
        changed = {
            release.version: release._replace(
                yanked=release.yanked if yanked is None else yanked or None,
                deprecated=release.deprecated if deprecated is None else deprecated or None,
            )
            for release in _chosen(document, version)
        }
        after = document._replace(releases={**document.releases, **changed})
        if after != document:
            if describing_release(after).version != describing_release(document).version:
                after = described(index, after, change.scratch)
            change.commit(after)
    return list(changed.values())


def _chosen(document: AgentDocument, version: str) -> list[Release]:
    if version == EVERY_VERSION:
        return list(document.releases.values())
    release = _published(document, version)
    if release is None:
        raise AgentNotFoundError(
            f"{document.owner}/{document.name} {version} was not published",
            suggestion=f"published: {', '.join(document.releases)}",
        )
    return [release]


def described(index: IndexDirectory, document: AgentDocument, scratch: str) -> AgentDocument:
    """The document with description and tags as they are in the archive of `describing_release`."""
    manifest = inspect_archive(index.path(describing_release(document).file), scratch).manifest
    return document._replace(description=manifest.description, tags=manifest.tags)


def check_version(document: AgentDocument | None, text: str) -> None:
    """Refuses a version that would be the latest for ever, most likely by a slip of a finger.

    Raises:
        PermissionDeniedError: it has an epoch, or a major number that jumps by more than one.
    """
    from packaging.version import Version

    version = Version(text)
    highest = _highest(document)
    if version.epoch != (highest.epoch if highest else 0):
        raise _by_accident(f"{text} has an epoch, and so is later than every version without")
    if highest is not None and version.major > highest.major + 1:
        raise _by_accident(f"{text} jumps from {highest}, and whatever is published after that must be higher")


def _highest(document: AgentDocument | None) -> Version | None:
    from packaging.version import Version

    releases = list(document.releases.values()) if document else []
    offered = [release for release in releases if release.yanked is None] or releases
    return max((Version(release.version) for release in offered), default=None)


def _by_accident(reason: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"not published: {reason}", suggestion="if that is what you want: --force")


def _inspected(publication: Publication, copy: str, scratch: str) -> Inspected:
    try:
        return inspect_archive(copy, scratch, publication.limits)
    except AgentRuntimeError as error:  # which is to name the archive, and not our copy of it
        shown = publication.shown or publication.archive
        error.message = error.message.replace(os.path.join(scratch, "inspected"), shown).replace(copy, shown)
        raise


def _check_wanted(publication: Publication, found: Inspected) -> None:
    if publication.digest not in (None, found.digest):
        raise InstallError(f"the archive did not arrive as it was sent: {found.digest}, not {publication.digest}")
    for what, wanted, is_ in (("name", publication.name, found.name), ("version", publication.version, found.version)):
        if wanted not in (None, is_):
            raise InstallError(f"the archive is published as {what} {wanted}, and its manifest says {is_}")


def _check_look_alikes(index: IndexDirectory, owner: str, name: str) -> None:
    agents = index.agents()
    owners = {known for known, _ in agents}
    if owner not in owners:
        for known in sorted(owners):
            if skeleton(known) == skeleton(owner):
                raise _by_accident(f"the owner {owner} looks like {known}, which is another")
    for known_owner, known in agents:
        if known_owner == owner and known != name and skeleton(known) == skeleton(name):
            raise _by_accident(f"{owner}/{name} looks like {owner}/{known}, which is another agent")


def skeleton(name: str) -> str:
    """The same for two names that people take for one another."""
    for letters, one in (("rn", "m"), ("vv", "w"), ("0", "o"), ("1", "l"), ("i", "l"), ("5", "s")):
        name = name.replace(letters, one)
    return "".join(letter for letter in name if letter not in "._-")


def _with_signatures(
    release: Release, new: tuple[NewSignature, ...], scratch: str
) -> tuple[Release, list[tuple[str, str]]]:
    """The release with its new signatures, and the files that they are; a kind that it has already stays."""
    have = {signature.kind for signature in release.signatures}
    signatures, files = list(release.signatures), []
    for signature in new:
        if signature.kind not in SIGNATURE_SUFFIXES or not 0 < len(signature.data) <= LARGEST_SIGNATURE:
            raise InstallError(f"{signature.kind[:20]!r} is not a kind of signature that can be published, or is empty")
        place = release.file + SIGNATURE_SUFFIXES[signature.kind]
        if signature.kind in have:
            continue
        path = os.path.join(scratch, os.path.basename(place))
        with writing(scratch), open(path, "xb") as file:
            file.write(signature.data)
            file.flush()
            os.fsync(file.fileno())
        signatures.append(Signature(signature.kind, place, signature.key))
        files.append((path, place))
    return release._replace(signatures=tuple(signatures)), files


def _with_release(document: AgentDocument | None, release: Release, found: Inspected) -> AgentDocument:
    releases = {**(document.releases if document else {}), release.version: release}
    if document is None:
        document = AgentDocument(release.owner, release.name, 0, "", "", (), {})
    document = document._replace(releases=releases)
    if describing_release(document) == release:
        document = document._replace(description=found.manifest.description, tags=found.manifest.tags)
    return document


def _published(document: AgentDocument | None, text: str) -> Release | None:
    """The release of that version, however it is spelt."""
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(text)
    except InvalidVersion:
        return None
    releases = document.releases.values() if document else ()
    return next((release for release in releases if Version(release.version) == version), None)


def _changes(earlier: Release) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"{earlier.label} is published already, with other content; what was published stays as it is",
        suggestion="raise the version in agent.yaml, and publish that",
    )


def _no_agent(index: IndexDirectory, owner: str, name: str) -> AgentNotFoundError:
    close = nearest(f"{owner}/{name}", ["/".join(agent) for agent in index.agents()])
    hint = f"did you mean {close}?" if close else None
    return AgentNotFoundError(f"{owner}/{name} was not published in {index.root}", suggestion=hint)


def _latest(document: AgentDocument) -> str | None:
    release = latest_release(document)
    return release.version if release else None


def _copy(source: str, target: str, index: IndexDirectory) -> None:
    try:
        file = open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise InstallError(f"cannot read {source}: {error.strerror}") from error
    with file, writing(index.root), open(target, "xb") as copy:
        while chunk := file.read(1 << 20):
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())


def _now() -> float:
    import time

    return float(int(time.time()))
