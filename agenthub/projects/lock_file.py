"""`agents.lock`: what is fixed of each agent. The same project gives the same bytes on every machine."""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

from agenthub.errors import EnvironmentError, InvalidInputError
from agenthub.packages.names import is_name
from agenthub.packages.project_links import LOCK_FILE
from agenthub.projects.conflicts import refuse_conflicts
from agenthub.projects.files import read_bytes
from agenthub.projects.project_file import Wanted, check_python
from agenthub.runtime.environments.pins import Pin, format_pins, parse_pins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 1
_HEAD = "# Made by `agenthub lock` from agents.toml. Commit it, and leave the editing to agenthub.\n"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LONGEST = 4096  # characters of a text that is not a set of packages


class LockedAgent(NamedTuple):
    """What is fixed of one agent.

    Attributes:
        owner: as in `agents.toml`.
        name: as in `agents.toml`.
        version: its manifest's.
        source: what was asked for when it was locked, as `Wanted.source`.
        digest: `"sha256:…"` of its content.
        archive: `"sha256:…"` of the archive that an index has of it, or that `path` names; else None.
        commit: of a git source; else None.
        python: the versions of Python that it may run on; None: it needs no environment.
        requires: ranges of versions of other agents, by `owner/name`.
        pins: all packages of its environment, for every platform.
    """

    owner: str
    name: str
    version: str
    source: dict[str, str]
    digest: str
    archive: str | None
    commit: str | None
    python: str | None
    requires: dict[str, str]
    pins: tuple[Pin, ...]

    @property
    def label(self) -> str:
        return f"{self.owner}/{self.name}"

    def environment_key(self) -> str:
        """The same for two agents exactly if their environments have the same packages on the same machine."""
        import hashlib

        text = json.dumps([self.python, format_pins(self.pins)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def foreign_packages(self) -> tuple[str, ...]:
        """The packages that are not in the agent's own content: `name==version`, or `name @ URL`."""
        return tuple(pin.label for pin in self.pins if not pin.requirement.startswith("./"))


class Lock(NamedTuple):
    """A lock: the Python that the project asked for, and its agents by owner and name."""

    python: str
    agents: tuple[LockedAgent, ...]

    def find(self, owner: str, name: str) -> LockedAgent | None:
        """The agent of that name."""
        return next((one for one in self.agents if (one.owner, one.name) == (owner, name)), None)


def read_lock(directory: str) -> Lock | None:
    """The lock of the project in `directory`; None where there is none.

    Raises:
        InvalidInputError: it is damaged, has merge conflicts, or a newer agenthub wrote it.
    """
    path = os.path.join(directory, LOCK_FILE)
    data = read_bytes(path)
    return parse_lock(data, path) if data else None


def parse_lock(data: bytes, path: str) -> Lock:
    """The lock in `data`; raises as `read_lock` does."""
    import tomllib

    try:
        text = data.decode()
        refuse_conflicts(text, path)
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number with more digits than Python reads
        raise InvalidInputError(f"{path} is damaged: {error}", suggestion="restore it, or: agenthub lock") from None
    version, python, blocks = values.get("schema_version"), values.get("python", ""), values.get("agent", [])
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InvalidInputError(
            f"{path} was written by a newer agenthub (schema {version}, not {SCHEMA_VERSION})",
            suggestion="upgrade agenthub",
        )
    if version != SCHEMA_VERSION or not isinstance(python, str) or not isinstance(blocks, list):
        raise _damaged(path, "it is not a lock")
    agents = [_agent(block, path) for block in blocks]
    for label, request in [("python", python), *((f"python of {one.label}", one.python) for one in agents)]:
        if request:
            check_python(request, path, label)
    names = [one.label for one in agents]
    if len(set(names)) != len(names):
        raise _damaged(path, f"{next(name for name in names if names.count(name) > 1)} is in it twice")
    return Lock(python, tuple(sorted(agents, key=lambda one: (one.owner, one.name))))


def _damaged(path: str, what: str) -> InvalidInputError:
    return InvalidInputError(f"{path} is damaged: {what}", suggestion="restore it from version control, or remove it")


def _agent(block: Any, path: str) -> LockedAgent:
    label = block.get("name") if isinstance(block, dict) else None
    owner, _, name = label.partition("/") if isinstance(label, str) else ("", "", "")
    if not (is_name(owner) and is_name(name)):
        raise _damaged(path, "an agent in it has no name")
    texts = {key: block.get(key) for key in ("version", "digest", "archive", "commit", "python", "packages")}
    source, requires = block.get("source"), block.get("requires", {})
    given = [value for key, value in texts.items() if value is not None and key != "packages"]
    if not all(isinstance(value, str) and _is_plain(value) for value in given) or not texts["version"]:
        raise _damaged(path, f"{label} has no version, or something that is not a text")
    if not _DIGEST.fullmatch(texts["digest"] or "") or not _DIGEST.fullmatch(texts["archive"] or "sha256:" + "0" * 64):
        raise _damaged(path, f"{label} has no digest")
    if not _COMMIT.fullmatch(texts["commit"] or "0" * 40):
        raise _damaged(path, f"the commit of {label} is not one")
    if not _is_table(source) or not source or not _is_table(requires):
        raise _damaged(path, f"{label} has no source")
    try:
        pins = parse_pins(texts["packages"] if isinstance(texts["packages"], str) else "", str(label))
    except EnvironmentError as error:
        raise _damaged(path, error.message) from None
    values = {key: texts[key] for key in ("version", "digest", "archive", "commit", "python")}
    return LockedAgent(owner, name, source=source, requires=requires, pins=pins, **values)


def _is_plain(text: str) -> bool:
    return len(text) <= _LONGEST and text.isprintable()


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, str) and _is_plain(item) and _is_plain(key) for key, item in value.items()
    )


def format_lock(python: str, agents: Iterable[LockedAgent]) -> str:
    """A lock as text: one block an agent, by owner and name."""
    head = f"{_HEAD}schema_version = {SCHEMA_VERSION}\n" + (f"python = {_text(python)}\n" if python else "")
    return head + "".join(map(_block, sorted(agents, key=lambda one: (one.owner, one.name))))


def _block(agent: LockedAgent) -> str:
    lines = ["", "[[agent]]", f"name = {_text(agent.label)}", f"version = {_text(agent.version)}"]
    lines.append(f"source = {_table(agent.source)}")
    for key in ("commit", "archive", "digest", "python"):
        value = getattr(agent, key)
        if value is not None:
            lines.append(f"{key} = {_text(value)}")
    if agent.requires:
        lines.append(f"requires = {_table(agent.requires)}")
    if agent.pins:
        lines.append(f"packages = '''\n{format_pins(agent.pins)}'''")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a basic string of TOML, of what can be printed


def _table(values: dict[str, str]) -> str:
    items = (f"{key if key.isalpha() else _text(key)} = {_text(values[key])}" for key in sorted(values))
    return f"{{ {', '.join(items)} }}"


def matches(wanted: Wanted, locked: LockedAgent | None) -> bool:
    """Whether a lock's agent is what `agents.toml` asks for now."""
    return locked is not None and wanted.source == locked.source
