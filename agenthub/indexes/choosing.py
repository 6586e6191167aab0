"""Which release of an agent a person means by what stands behind the `@`; and why there is none."""

from __future__ import annotations

from typing import NamedTuple

from agenthub.errors import AgentNotFoundError, nearest
from agenthub.indexes.documents import AgentDocument, Release
from agenthub.packages.versions import matching

_SHOWN = 8


class Choice(NamedTuple):
    """A release, and what is to be said of it."""

    release: Release
    notes: tuple[str, ...]


def choose(document: AgentDocument, wanted: str | None) -> Choice:
    """The newest release that `wanted` allows: none that was yanked, and a pre-release only where there is no other.

    Args:
        document: of the agent.
        wanted: a version (a yanked one, too), its beginning, a range, `"latest"` or None.

    Raises:
        AgentNotFoundError: there is none; says what there is.
        InvalidInputError: `wanted` is neither a version nor a range.
    """
    wanted = wanted or "latest"
    label = f"{document.owner}/{document.name}"
    exact = wanted.removeprefix("==").strip()
    releases = document.releases
    fitting = matching(wanted, releases)
    if exact in releases:
        return Choice(releases[exact], _notes(releases[exact], wanted))
    offered = [version for version in fitting if releases[version].yanked is None]
    if offered:
        return Choice(releases[offered[0]], _notes(releases[offered[0]], wanted))
    if fitting:
        first = releases[fitting[0]]
        raise AgentNotFoundError(
            f"{label} has no {_asked(wanted)} that was not yanked: {fitting[0]}: {first.yanked}",
            suggestion=f"to have it nevertheless: {label}@{fitting[0]}",
        )
    if not releases:
        raise AgentNotFoundError(f"{label} has no releases")
    known = [version for version in matching("latest", releases) if releases[version].yanked is None]
    close = nearest(exact, known)
    listed = ", ".join(known[:_SHOWN]) + (" …" if len(known) > _SHOWN else "")
    hint = f"did you mean {label}@{close}? " if close else ""
    raise AgentNotFoundError(f"{label} has no {_asked(wanted)}", suggestion=f"{hint}there is: {listed or 'nothing'}")


def _asked(wanted: str) -> str:
    return "release" if wanted == "latest" else f"version {wanted}"


def _notes(release: Release, wanted: str) -> tuple[str, ...]:
    from packaging.version import Version

    notes = []
    if release.yanked is not None:
        notes.append(f"{release.version} was yanked: {release.yanked or 'without a reason'}")
    if release.deprecated is not None:
        notes.append(f"it is deprecated: {release.deprecated or 'without a reason'}")
    if Version(release.version).is_prerelease and release.version != wanted.removeprefix("=="):
        notes.append(f"{release.version} is a pre-release: there is no other that fits")
    return tuple(notes)
