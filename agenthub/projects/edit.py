"""Edits of `agents.toml` that leave the rest of it, comments and all, as somebody wrote it."""

from __future__ import annotations

from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.projects.project_file import Wanted

_NEW = """\
# The agents of this project: `agenthub lock` fixes them in agents.lock, `agenthub sync` installs them.

[agents]
"""


def with_agent(text: str, wanted: Wanted) -> str:
    """The text of an `agents.toml` in which an agent is added, or asked for in another way."""
    import tomlkit

    document = tomlkit.parse(text or _NEW)
    if "agents" not in document:
        document["agents"] = tomlkit.table()
    agents: Any = document["agents"]
    agents[wanted.label] = _entry(wanted)
    return tomlkit.dumps(document)


def without_agent(text: str, label: str) -> str:
    """The text of an `agents.toml` from which an agent, which is in it, is taken."""
    import tomlkit

    document = tomlkit.parse(text)
    agents: Any = document["agents"]
    del agents[label]
    return tomlkit.dumps(document)


def _entry(wanted: Wanted) -> Any:
    import tomlkit

    if set(wanted.source) == {"version"} and wanted.at is None:
        return wanted.source["version"]
    table = tomlkit.inline_table()
    table.update(wanted.source)
    if wanted.at is not None:
        table.update({"index": wanted.at})
    return table
