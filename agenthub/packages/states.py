"""What is known of an agent beside its versions: whether it is pinned, which versions it may become, which it had."""

from __future__ import annotations

import os

from agenthub.config import Paths
from agenthub.errors import StoreError
from agenthub.packages.files import SCHEMA_VERSION, read_json, remove_empty, storing, write_json
from agenthub.values import NamedTuple

_MOST_PREVIOUS = 64
_ATTEMPTS = 20  # against another process that removes an empty directory at the same moment


class AgentState(NamedTuple):
    """Of one agent; without a file there is the default.

    Attributes:
        pinned: `upgrade` leaves it alone.
        wanted: the versions of an index that it may become (`"1.2"`, `">=1,<2"`); None: any.
        previous: names of the version directories that were current, the latest first. The current one may be among
            them, and some that are gone: whoever reads passes over those.
    """

    pinned: bool = False
    wanted: str | None = None
    previous: tuple[str, ...] = ()


def state_path(paths: Paths, owner: str, name: str) -> str:
    """Where it is kept."""
    return os.path.join(paths.states, owner, f"{name}.json")


def read_state(paths: Paths, owner: str, name: str) -> AgentState:
    """What is known of an agent.

    Raises:
        StoreError: the file is damaged, or a newer agenthub wrote it.
    """
    path = state_path(paths, owner, name)
    try:
        values = read_json(path, f"remove it: {owner}/{name} is then not pinned, and has no version to go back to")
    except FileNotFoundError:
        return AgentState()
    wanted, previous = values.get("wanted"), values.get("previous")
    return AgentState(
        values.get("pinned") is True,
        wanted if isinstance(wanted, str) else None,
        tuple(leaf for leaf in previous if _is_leaf(leaf)) if isinstance(previous, list) else (),
    )


def write_state(paths: Paths, owner: str, name: str, state: AgentState) -> None:
    """Replaces what is known of an agent. The caller holds the agent's lock.

    Raises:
        StoreError: it cannot be written.
    """
    from agenthub.packages.staging import new_staging

    path = state_path(paths, owner, name)
    values = {"pinned": state.pinned, "wanted": state.wanted, "previous": state.previous[:_MOST_PREVIOUS]}
    with new_staging(paths) as staging:
        for attempt in range(_ATTEMPTS):
            try:
                with storing("write", path):
                    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                write_json(path, {"schema_version": SCHEMA_VERSION, **values}, staging.path, mode=0o600)
                return
            except StoreError as error:
                if not isinstance(error.__cause__, (FileNotFoundError, FileExistsError)) or attempt == _ATTEMPTS - 1:
                    remove_empty(os.path.dirname(path), paths.states)
                    raise


def _is_leaf(leaf: object) -> bool:
    return isinstance(leaf, str) and leaf not in ("", ".", "..") and "/" not in leaf and "\0" not in leaf
