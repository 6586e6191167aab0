"""The façade of publishing: a directory or an archive is packed, checked and signed, and given to an index."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, NamedTuple

from agenthub.errors import AgentNotFoundError, InvalidInputError, InvalidManifestError
from agenthub.indexes.inspection import Inspected, archive_place, unpack_release
from agenthub.indexes.publish import LARGEST_SIGNATURE, NewSignature, Publication, publish, set_notice
from agenthub.packages.names import check_name
from agenthub.packages.pack import DEFAULT_RULES, SUFFIX, Packed, PackRules, pack, pack_into
from agenthub.runtime.agents.validator import validate_agent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agenthub.config import Settings
    from agenthub.indexes.configured import IndexSource


class Prepared(NamedTuple):
    """An archive that may be published. `packed` is None for one that was made before."""

    archive: str
    found: Inspected
    packed: Packed | None


class Outcome(NamedTuple):
    """What an index says after a publication. `changed` is False where exactly that was there before."""

    version: str
    digest: str
    latest: str | None
    changed: bool


@contextmanager
def prepared(path: str, rules: PackRules = DEFAULT_RULES) -> Iterator[Prepared]:
    """Packs the agent in a directory, or takes an archive, and checks what is in it as `validate` does.

    Raises:
        AgentNotFoundError: there is neither.
        InstallError: something in it is refused.
        InvalidManifestError: it could not be run by who installs it; says why.
        PermissionDeniedError: secrets or large files would be published.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="agenthub-pack-") as scratch:
        packed = None
        archive = path
        if os.path.isdir(path):
            archive = os.path.join(scratch, "packed" + SUFFIX)
            packed = pack(path, archive, rules)
        elif not os.path.isfile(path):
            raise AgentNotFoundError(f"there is no directory and no archive {path}")
        tree = os.path.join(scratch, "tree")
        found = unpack_release(archive, tree)
        _check(path, tree)
        if packed is None:
            with tempfile.TemporaryFile() as nowhere:
                pack_into(tree, nowhere, rules._replace(heed_lists=False), what=path)
        yield Prepared(archive, found, packed)


def archive_name(found: Inspected) -> str:
    """What an archive is called: `name-version.agent`."""
    return f"{found.name}-{found.version}{SUFFIX}"


def signatures(
    ready: Prepared, owner: str, key: str | None = None, sigstore: str | None = None
) -> tuple[NewSignature, ...]:
    """Signs an archive with the key in a file, and takes a Sigstore bundle that was made elsewhere.

    Raises:
        InvalidInputError: one of the files is not what it should be.
        InstallError: the key does not sign.
    """
    made = []
    if key is not None:
        from agenthub.trust.keys import signing_key
        from agenthub.trust.signatures import sign_file

        found = ready.found
        data = sign_file(
            ready.archive, key, owner=owner, name=found.name, version=found.version, tree_digest=found.tree_digest
        )
        made.append(NewSignature("ssh", data, signing_key(data).fingerprint))
    if sigstore is not None:
        made.append(NewSignature("sigstore", _read_bundle(sigstore)))
    return tuple(made)


def give(
    source: IndexSource,
    settings: Settings,
    ready: Prepared,
    owner: str,
    signed: tuple[NewSignature, ...],
    *,
    force: bool,
    waiting: Callable[[], None] | None = None,
) -> Outcome:
    """Publishes to an index: in its directory, or through its server.

    Raises:
        PermissionDeniedError: it would change what was published, or be the latest by accident; or a token is lacking.
        InstallError: the index cannot be reached or written.
        InvalidInputError: it is a git host.
    """
    found, owner = ready.found, check_name(owner, "owner")
    if source.kind == "file":
        publication = Publication(ready.archive, owner, _user(), signatures=signed, force=force, digest=found.digest)
        done = publish(_directory(source), publication, waiting)
        return Outcome(done.release.version, done.release.digest, done.latest, done.changed)
    place = archive_place(owner, found.name, found.version)
    answer = _remote(source, settings).put(ready.archive, place, found.digest, signed, force=force)
    latest = answer.get("latest")
    changed = answer.get("changed") is not False
    return Outcome(found.version, found.digest, latest if isinstance(latest, str) else None, changed)


def give_notice(
    source: IndexSource, settings: Settings, owner: str, name: str, version: str, **reasons: str
) -> list[str]:
    """Yanks or deprecates releases of an index (an empty reason: takes it back); the versions that this is said of.

    Raises:
        AgentNotFoundError: there is no such release.
        InstallError: the index cannot be reached or written.
        PermissionDeniedError: a token is lacking.
    """
    if source.kind == "file":
        done = set_notice(_directory(source), owner, name, version, **reasons)
        return [release.version for release in done]
    notice: dict[str, Any] = {"version": version, **{key: reason or None for key, reason in reasons.items()}}
    answer = _remote(source, settings).patch(check_name(owner, "owner"), check_name(name), notice)
    releases = answer.get("releases")
    return sorted(map(str, releases)) if isinstance(releases, dict) else [version]


def _check(path: str, tree: str) -> None:
    errors = [finding for finding in validate_agent(tree).findings if finding.severity == "error"]
    if errors:
        lines = [f"{finding.where}: {finding.message}" for finding in errors]
        raise InvalidManifestError(
            f"{path} is not packed: {lines[0]}",
            details=lines[1:],
            suggestion="what an ignore list leaves out is not in it; agenthub validate says more",
        )


def _directory(source: IndexSource) -> Any:
    from agenthub.indexes.directory import IndexDirectory

    return IndexDirectory(source.directory)


def _remote(source: IndexSource, settings: Settings) -> Any:
    if source.kind == "git":
        raise InvalidInputError(
            f"{source.url} is a git host: its agents are repositories",
            suggestion="push a tag such as v1.2.0 to publish",
        )
    from agenthub.indexes.configured import read_indexes
    from agenthub.indexes.remote import RemoteIndex

    return RemoteIndex(source, settings["index_timeout"], read_indexes(settings.paths))


def _read_bundle(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_SIGNATURE + 1)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > LARGEST_SIGNATURE or not data.lstrip().startswith(b"{"):
        raise InvalidInputError(f"{path} is not a Sigstore bundle")
    return data


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return f"user {os.getuid()}"
