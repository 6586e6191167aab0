"""Versions as people ask for them, and the versions of an agent that are installed."""

from __future__ import annotations

import os

from agenthub.config import RECORD, Paths
from agenthub.errors import AgentNotFoundError, InvalidInputError, StoreError
from agenthub.packages.record import InstallRecord, read_record
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from packaging.specifiers import SpecifierSet

LATEST = "latest"


class InstalledVersion(NamedTuple):
    """A complete version of an agent in the store; `current` is what its link names."""

    directory: str
    record: InstallRecord
    current: bool

    @property
    def leaf(self) -> str:
        """The name of its directory, which tells apart what has the same version."""
        return os.path.basename(self.directory)


def installed_versions(paths: Paths, owner: str, name: str) -> list[InstalledVersion]:
    """All complete versions of an agent: the current one, then those it had before, the latest first.

    What has a damaged record is left out.
    """
    from agenthub.packages.changes import current_version, other_versions

    current = current_version(paths, owner, name)
    directories = [current] if current and os.path.exists(os.path.join(current, RECORD)) else []
    found = []
    for directory in [*directories, *other_versions(paths, owner, name)]:
        try:
            record = read_record(directory)
        except StoreError:
            continue
        if record.locked and directory != current:
            continue  # a project's
        found.append(InstalledVersion(directory, record, directory == current))
    return found


def choose_installed(paths: Paths, owner: str, name: str, wanted: str) -> InstalledVersion:
    """The installed version that `wanted` means: a version, its beginning, a range, or a version directory's name.

    Where several have the same version, the current one or the one that was current last.

    Raises:
        AgentNotFoundError: none of them fits; lists them.
        InvalidInputError: `wanted` cannot be a version.
    """
    found = installed_versions(paths, owner, name)
    for each in found:
        if each.leaf == wanted:
            return each
    fitting = matching(wanted, [each.record.version for each in found])
    if fitting:
        return next(each for each in found if each.record.version == fitting[0])
    known = ", ".join(dict.fromkeys(each.record.version for each in found))
    raise AgentNotFoundError(
        f"no version {wanted} of {owner}/{name} is installed",
        suggestion=f"installed: {known}" if known else "agenthub list shows what is",
    )


def matching(wanted: str, versions: Iterable[str]) -> list[str]:
    """Those of `versions` that `wanted` means, the best first: the very same, else the newest that are in its range.

    Pre-releases come last, unless `wanted` names one.

    Raises:
        InvalidInputError: `wanted` is neither a version nor a range of versions.
    """
    versions = list(dict.fromkeys(versions))
    if wanted in versions:
        return [wanted]
    specifiers = parse_range(wanted)
    from packaging.version import InvalidVersion, Version

    parsed = []
    for text in versions:
        try:
            version = Version(text)
        except InvalidVersion:  # manifests may call a version as they like: it can be asked for as it is
            continue
        if specifiers.contains(version, prereleases=True):
            parsed.append((bool(specifiers.prereleases) or not version.is_prerelease, version, text))
    return [text for *_, text in sorted(parsed, reverse=True)]


def parse_range(wanted: str) -> SpecifierSet:
    """The versions that `wanted` allows: `""`, `"*"` and `"latest"` all of them, `"1.2"` also 1.2.3, `">=1,<2"`.

    Raises:
        InvalidInputError: it is neither a version nor a range of versions.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    wanted = wanted.strip()
    if wanted in ("", "*", LATEST):
        return SpecifierSet()
    try:
        if wanted[0] not in "<>=!~":
            version = Version(wanted)
            whole = version.is_prerelease or version.is_postrelease or version.local
            return SpecifierSet(f"=={version}" if whole else f"=={version}.*")
        return SpecifierSet(wanted)
    except (InvalidSpecifier, InvalidVersion):
        raise InvalidInputError(
            f"{wanted[:80]!r} is neither a version nor a range of versions",
            suggestion="write for example 1.2 or >=1,<2",
        ) from None


def newer(version: str, than: str) -> bool:
    """Whether a version is a later one than another; two that are not PEP 440 cannot be compared, and are not."""
    return bool(version_key(version) > version_key(than))


def version_key(version: str) -> Any:
    """What versions are ordered by; those that are not PEP 440 are all the same, and before the others."""
    from packaging.version import InvalidVersion, Version

    try:
        return (1, Version(version))
    except InvalidVersion:
        return (0,)


def split_version(agent: str) -> tuple[str, str | None]:
    """AGENT and what stands behind its `@`, if anything does."""
    name, at, wanted = agent.partition("@")
    return name, wanted if at else None
