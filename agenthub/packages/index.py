"""The summary of all installed agents for `list`: one file instead of one for each agent.

It is a cache. Readers bring it up to date, and writers of the store leave it alone: it is believed only while the
directories have the times that it noted, and a time so recent that a later change could have the same one is not
believed (the problem that git calls "racily clean").
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from agenthub.config import RECORD, Paths
from agenthub.errors import StoreError
from agenthub.packages.files import SCHEMA_VERSION, storing
from agenthub.packages.project_links import links_of, project_links
from agenthub.quick_json import dumps, loads
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_TICK = 50_000_000  # ns; file systems' clocks lag behind by a kernel tick, at most 10 ms
_COARSE_TICK = 2_000_000_000  # ns; of those that count in seconds


class AgentSummary(NamedTuple):
    """One line of `list`. `problem` says why an entry is broken; its other fields are then empty."""

    owner: str
    name: str
    version: str
    description: str
    installed_at: str
    source: str
    size: int
    methods: list[str]
    problem: str
    requires: dict[str, str] = {}  # noqa: RUF012 - never changed
    project: bool = False  # whether it is the project's, and not the user's


# A summary with the identity of the record that it was read from: inode, time, size; empty for a broken entry.
_Entry = tuple[AgentSummary, list[int]]


def list_agents(paths: Paths) -> list[AgentSummary]:
    """All installed agents, by owner and name; broken ones too.

    Raises:
        StoreError: the store cannot be read at all.
    """
    index = _read(paths)
    if index is not None and _is_current(paths, index):
        return list(map(AgentSummary._make, index["agents"]))
    if not os.path.isdir(paths.agents):
        return []
    with storing("read", paths.agents):
        known = _entries(index) if index else {}
        scanned = time.time_ns()
        directories = _directories(paths)
        entries = [
            _entry(paths.current_link(owner, name), owner, name, known.get((owner, name)))
            for owner, name in agent_names(paths)
        ]
    agents = [summary for summary, _ in entries]
    stamps = [stamp for _, stamp in entries]
    with suppress(StoreError):  # a store that cannot be written can still be listed
        _write(paths, {"scanned": scanned, "directories": directories, "agents": agents, "stamps": dumps(stamps)})
    return agents


def with_projects(agents: list[AgentSummary], home: str) -> list[AgentSummary]:
    """`agents` with those of a project in the place of the user's of the same names."""
    found = {(one.owner, one.name): one for one in agents}
    for owner, name, _ in project_links(home):
        summary, _ = _entry(os.path.join(links_of(home), owner, name), owner, name, None)
        found[owner, name] = summary._replace(project=True)
    return [found[key] for key in sorted(found)]


def agent_names(paths: Paths) -> Iterator[tuple[str, str]]:
    """Owner and name of everything under `agents/`, sorted."""
    for owner in _listed(paths.agents):
        for name in _listed(os.path.join(paths.agents, owner)):
            yield owner, name


def _listed(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _entries(index: dict[str, Any]) -> dict[tuple[str, str], _Entry]:
    """What it knows; `stamps` are a text in it, since who finds it current does without them."""
    try:
        return {
            (row[0], row[1]): (AgentSummary._make(row), stamp)
            for row, stamp in zip(index["agents"], loads(index["stamps"]), strict=True)
        }
    except (ValueError, TypeError):  # damaged
        return {}


def _entry(path: str, owner: str, name: str, known: _Entry | None) -> _Entry:
    try:
        status = os.stat(os.path.join(path, RECORD))
    except OSError:
        problem = "it has no install record" if os.path.isdir(path) else "its installed version is missing"
        return AgentSummary(owner, name, "", "", "", "", 0, [], problem), []
    stamp = [status.st_ino, status.st_mtime_ns, status.st_size]
    if known is not None and known[1] == stamp:
        return known
    from agenthub.packages.record import read_record

    try:
        record = read_record(path)
        summary = AgentSummary(
            owner=owner,
            name=name,
            version=record.version,
            description=str(record.manifest.get("description", "")),
            installed_at=record.installed_at,
            source=str(record.source.get("kind", "")),
            size=sum(record.size.values()),
            methods=[method[0] for method in record.manifest.get("methods", ())],  # the compiled form
            problem="",
            requires=dict(record.manifest.get("requires") or {}),
        )
    except (StoreError, AttributeError, TypeError) as error:
        problem = error.message if isinstance(error, StoreError) else "its install record is damaged"
        return AgentSummary(owner, name, "", "", "", "", 0, [], problem), []
    return summary, stamp


def _directories(paths: Paths) -> dict[str, int]:
    """Modification times (ns) of the directories whose content decides what is installed."""
    times = {}
    for root in (paths.agents, paths.versions):
        for directory in (root, *(os.path.join(root, owner) for owner in _listed(root))):
            with suppress(FileNotFoundError):
                times[os.path.relpath(directory, paths.home)] = os.stat(directory).st_mtime_ns
    return times


def _is_current(paths: Paths, index: dict[str, Any]) -> bool:
    for directory, noted in index["directories"].items():
        try:
            if os.stat(os.path.join(paths.home, directory)).st_mtime_ns != noted:
                return False
        except OSError:
            return False
        if noted + (_TICK if noted % 1_000_000_000 else _COARSE_TICK) >= index["scanned"]:
            return False
    return bool(index["directories"])


def _read(paths: Paths) -> dict[str, Any] | None:
    """The index, or None when it is missing, damaged or of another version: it is rebuilt then."""
    try:
        with open(paths.index, "rb") as file:
            index = loads(file.read())
        width = len(AgentSummary._fields)
        sound = (
            index["schema_version"] == SCHEMA_VERSION
            and isinstance(index["scanned"], int)
            and all(isinstance(noted, int) for noted in index["directories"].values())
            and all(len(row) == width for row in index["agents"])
            and isinstance(index["stamps"], str)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return index if sound else None


def _write(paths: Paths, index: dict[str, Any]) -> None:
    from agenthub.packages.files import write_json
    from agenthub.packages.staging import new_staging

    with new_staging(paths) as staging:
        write_json(paths.index, {"schema_version": SCHEMA_VERSION, **index}, staging.path, durable=False)
