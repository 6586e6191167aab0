"""How `agents.toml`, `agents.lock` and this machine differ, for a person and for CI."""

from __future__ import annotations

from typing import NamedTuple

from agenthub.errors import AgentRuntimeError
from agenthub.projects.home import content_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from agenthub.projects.installing import State
    from agenthub.projects.lock_file import Lock, LockedAgent
    from agenthub.projects.project_file import Project, Wanted


class Difference(NamedTuple):
    """One thing that is not as it should be.

    Attributes:
        agent: whose; "" for all of them.
        kind: `"added"`, `"removed"` or `"changed"`.
        text: what differs, in a few words.
    """

    agent: str
    kind: str
    text: str


def lock_differences(project: Project, lock: Lock | None) -> list[Difference]:
    """How a lock differs from what is wanted, as far as this machine alone can say."""
    if lock is None:
        return [Difference("", "added", "there is no agents.lock")]
    found = []
    if lock.python != project.python:
        was, now = (python or "any Python" for python in (lock.python, project.python))
        found.append(Difference("", "changed", f"agents.toml asks for Python {now}, it was locked for {was}"))
    for wanted in project.agents:
        locked = lock.find(wanted.owner, wanted.name)
        if locked is None:
            found.append(Difference(wanted.label, "added", "is in agents.toml and not in agents.lock"))
        else:
            found += _agent_differences(project, wanted, locked)
    names = {one.label for one in project.agents}
    found += [
        Difference(one.label, "removed", "is in agents.lock and not in agents.toml")
        for one in lock.agents
        if one.label not in names
    ]
    return found


def machine_differences(states: Sequence[State]) -> list[Difference]:
    """How this machine differs from a lock."""
    found = []
    for locked, directory, linked, current in states:
        if linked:
            continue
        if current is None:
            text = f"{locked.version} is not installed" if directory is None else f"{locked.version} is not in use here"
            found.append(Difference(locked.label, "added", text))
        else:
            found.append(
                Difference(locked.label, "changed", f"{_what(current)} is installed, {locked.version} is locked")
            )
    return found


def _what(directory: str) -> str:
    from agenthub.packages.record import read_record

    try:
        record = read_record(directory)
    except AgentRuntimeError:
        return "a broken version"
    return f"another {record.version}" if record.locked else record.version


def _agent_differences(project: Project, wanted: Wanted, locked: LockedAgent) -> list[Difference]:
    if wanted.source != locked.source:
        text = f"agents.toml asks for {describe(wanted.source)}, it was locked for {describe(locked.source)}"
        return [Difference(wanted.label, "changed", text)]
    path = locked.source.get("path")
    if path is None:
        return []
    try:
        digest = content_digest(project.directory, path)
    except AgentRuntimeError as error:
        return [Difference(wanted.label, "changed", error.message)]
    if digest == (locked.archive or locked.digest):
        return []
    said = "has changed since it was locked" if digest else "is not there"
    return [Difference(wanted.label, "changed", f"{path} {said}")]


def describe(source: dict[str, str]) -> str:
    """A source in a few words."""
    if "version" in source:
        return "any version" if source["version"] == "*" else source["version"]
    text = source.get("path") or source.get("git", "")
    text += f"@{source['ref']}" if "ref" in source else ""
    return text + (f"#{source['subdirectory']}" if "subdirectory" in source else "")
