"""Advisories in the format of OSV (ossf.github.io/osv-schema), and whether one is about an installed package."""

from __future__ import annotations

import re
from typing import Any

from agenthub.errors import InstallError
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from packaging.version import Version

ECOSYSTEM = "PyPI"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,99}", re.ASCII)
_PREFERRED = ("PYSEC-", "GHSA-", "CVE-")
_LONGEST_SUMMARY = 300
_NOT_A_NAME = re.compile(r"[-_.]+")


class Package(NamedTuple):
    """An installed package; `name` is normalised (PEP 503)."""

    name: str
    version: str


class Vulnerability(NamedTuple):
    """What is known against one version of one package.

    Attributes:
        id: of the advisory.
        aliases: how others call it, sorted.
        summary: in a sentence; what a stranger wrote.
        severity: a word, or a CVSS vector; empty where nobody says.
        fixed_in: the earliest version without it that is no older than the installed one; empty where none is known.
    """

    id: str
    aliases: tuple[str, ...]
    summary: str
    severity: str
    fixed_in: str


def normalised(name: str) -> str:
    """A package's name as indexes compare it."""
    return _NOT_A_NAME.sub("-", name).lower()


def is_identifier(text: object) -> bool:
    """Whether `text` may be an advisory's id."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def names_of(entry: Any, where: str) -> set[str]:
    """The packages of Python's index that an advisory is about.

    Raises:
        InstallError: it is no advisory.
    """
    if not isinstance(entry, dict) or not is_identifier(entry.get("id")):
        raise InstallError(f"{where} is not an advisory in OSV format")
    return {normalised(name) for affected in _listed(entry, "affected") for name in _name(affected)}


def withdrawn(entry: dict[str, Any]) -> bool:
    """Whether an advisory was taken back."""
    return bool(entry.get("withdrawn"))


def vulnerability(entry: dict[str, Any], package: Package) -> Vulnerability:
    """What an advisory says of a package that it is about."""
    aliases = entry.get("aliases")
    return Vulnerability(
        entry["id"],
        tuple(sorted({alias for alias in aliases if is_identifier(alias)})) if isinstance(aliases, list) else (),
        _summary(entry),
        _severity(entry),
        _fixed_in(entry, package),
    )


def is_affected(entry: dict[str, Any], package: Package) -> bool:
    """Whether an advisory that was not withdrawn is about this version of a package.

    Raises:
        InstallError: what it says of the package makes no sense, so that nobody can know.
    """
    return not withdrawn(entry) and any(_covers(affected, package) for affected in _about(entry, package.name))


def merged(found: Iterable[Vulnerability]) -> list[Vulnerability]:
    """Those that are aliases of each other as one, under the id that people who use Python know best."""
    groups: list[tuple[set[str], list[Vulnerability]]] = []
    for each in found:
        ids, members = {each.id, *each.aliases}, [each]
        for group in [group for group in groups if group[0] & ids]:
            groups.remove(group)
            ids |= group[0]
            members = group[1] + members
        groups.append((ids, members))
    return sorted((_one(ids, members) for ids, members in groups), key=lambda each: each.id)


def _one(ids: set[str], members: list[Vulnerability]) -> Vulnerability:
    members = sorted(members, key=lambda each: (_rank(each.id), each.id))
    first = members[0]

    def best(field: str) -> str:
        return next((getattr(each, field) for each in members if getattr(each, field)), "")

    return Vulnerability(first.id, tuple(sorted(ids - {first.id})), best("summary"), best("severity"), best("fixed_in"))


def _rank(identifier: str) -> int:
    return next((rank for rank, prefix in enumerate(_PREFERRED) if identifier.startswith(prefix)), len(_PREFERRED))


def _name(affected: Any) -> Iterator[str]:
    package = affected.get("package") if isinstance(affected, dict) else None
    if isinstance(package, dict) and package.get("ecosystem") == ECOSYSTEM and isinstance(package.get("name"), str):
        yield package["name"]


def _about(entry: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    for affected in _listed(entry, "affected"):
        if name in map(normalised, _name(affected)):
            yield affected


def _covers(affected: dict[str, Any], package: Package) -> bool:
    version = _version(package.version)
    for text in _listed(affected, "versions"):
        if text == package.version or (version is not None and _version(text) == version):
            return True
    return version is not None and any(_in_range(events, version) for events in _ranges(affected))


def _listed(values: dict[str, Any], key: str) -> list[Any]:
    found = values.get(key) or []
    if not isinstance(found, list):
        raise InstallError(f"an advisory is not to be understood: its '{key}' is not a list")
    return found


def _ranges(affected: dict[str, Any]) -> Iterator[list[tuple[Version, int, str]]]:
    """The events of each range, in the order in which they hold: version, rank among equals, kind."""
    from packaging.version import Version

    order = {"introduced": 0, "fixed": 1, "last_affected": 2, "limit": 3}
    for each in _listed(affected, "ranges"):
        if not isinstance(each, dict) or each.get("type") not in ("ECOSYSTEM", "SEMVER"):
            continue
        events = []
        for event in _listed(each, "events"):
            for kind, text in event.items() if isinstance(event, dict) else ():
                version = Version("0.dev0") if kind == "introduced" and text == "0" else _version(text)
                if kind in order and version is not None:
                    events.append((version, order[kind], kind))
        yield sorted(events)


def _in_range(events: list[tuple[Version, int, str]], version: Version) -> bool:
    """The evaluation that OSV's specification gives."""
    limits = [limit for limit, _, kind in events if kind == "limit"]
    if limits and not any(version < limit for limit in limits):
        return False
    affected = False
    for at, _, kind in events:
        if kind == "introduced" and version >= at:
            affected = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            affected = False
    return affected


def _fixed_in(entry: dict[str, Any], package: Package) -> str:
    version = _version(package.version)
    fixes = [
        at
        for affected in _about(entry, package.name)
        for events in _ranges(affected)
        for at, _, kind in events
        if kind == "fixed" and (version is None or (at > version and _in_range(events, version)))
    ]
    return str(min(fixes)) if fixes else ""


def _version(text: object) -> Version | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text) if isinstance(text, str) else None
    except InvalidVersion:
        return None


def _summary(entry: dict[str, Any]) -> str:
    for key in ("summary", "details"):
        text = entry.get(key)
        if isinstance(text, str) and text.strip():
            line = " ".join(text.strip().splitlines()[0].split())
            return line if len(line) <= _LONGEST_SUMMARY else line[: _LONGEST_SUMMARY - 1] + "…"
    return ""


def _severity(entry: dict[str, Any]) -> str:
    specific = entry.get("database_specific")
    word = specific.get("severity") if isinstance(specific, dict) else None
    if isinstance(word, str) and word.isascii() and word.isalpha():
        return word.lower()
    severity = entry.get("severity")
    for each in severity if isinstance(severity, list) else ():
        score = each.get("score") if isinstance(each, dict) else None
        if isinstance(score, str) and len(score) < 200 and score.isascii() and score.isprintable():
            return score
    return ""
