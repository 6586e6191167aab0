"""Everything that a user would want on a new machine, in one file."""

from __future__ import annotations

import os
from typing import NamedTuple

from agenthub import __version__
from agenthub.errors import AgentRuntimeError, InstallError
from agenthub.packages.record import read_record
from agenthub.packages.store import Store
from agenthub.transfer.container import Written, write_container
from agenthub.transfer.entries import AgentEntry
from agenthub.transfer.opening import SETUP
from agenthub.transfer.packing import Chosen, Packer
from agenthub.transfer.past import write_history
from agenthub.transfer.platforms import needed_platform, this_machine
from agenthub.transfer.setups import Setup, read_setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agenthub.runtime.agent_runtime import AgentRuntime

    Say = Callable[[str], None]

HISTORY = "history.jsonl"


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path: the file.
        written: its digest and size.
        agents: what is in it.
        setup: settings, indexes and whom to trust.
        runs: how many of the history's; None: it is not in it.
        problems: what could not be taken, a sentence each.
    """

    path: str
    written: Written
    agents: list[AgentEntry]
    setup: Setup
    runs: int | None
    problems: list[str]


def export_setup(
    runtime: AgentRuntime, path: str, allowed: Iterable[str], say: Say, *, wheels: bool, history: bool
) -> Exported:
    """Writes the user's agents and all that was told to agenthub to the file `path`; no secrets.

    Args:
        runtime: whose settings, store and environments are used.
        path: the file.
        allowed: paths of files of agents that are taken although they look like secrets.
        say: called with a line of what is being done.
        wheels: with the packages of agents, so that nothing is asked of indexes of packages on the other machine.
        history: with what was run.

    Raises:
        PermissionDeniedError: an agent holds what looks like a secret.
        AgentRuntimeError: something cannot be read or written.
    """
    paths, path = runtime.settings.paths, os.path.abspath(path)
    store = Store(paths)
    if not os.path.isdir(os.path.dirname(path)):
        raise InstallError(f"there is no directory {os.path.dirname(path)}")
    setup = read_setup(paths)
    chosen, problems = _installed(store)
    with store.new_staging() as scratch:
        packed = Packer(runtime, scratch, allowed, say).pack(chosen, wheels=wheels)
        entries = [_with_state(store, entry) for entry in packed.entries]
        files, runs = dict(packed.files), None
        if history:
            files[HISTORY] = os.path.join(scratch, HISTORY)
            runs = write_history(paths, files[HISTORY])
        values = {
            "tool_version": __version__,
            "platform": needed_platform(map(os.path.basename, packed.wheels), this_machine())._asdict(),
            "agents": [entry.to_json() for entry in entries],
            "setup": setup.to_json(),
            "history": HISTORY if history else None,
        }
        say(f"writing {path}")
        written = write_container(path, SETUP, values, files)
    return Exported(path, written, entries, setup, runs, problems)


def _installed(store: Store) -> tuple[list[Chosen], list[str]]:
    chosen, problems = [], []
    for entry in store.list_agents():
        try:
            directory = os.path.realpath(store.current_version_dir(entry.owner, entry.name))
            chosen.append(Chosen(entry.owner, entry.name, directory, read_record(directory)))
        except AgentRuntimeError as error:
            problems.append(f"{entry.owner}/{entry.name} is left out: {error.message}")
    return chosen, problems


def _with_state(store: Store, entry: AgentEntry) -> AgentEntry:
    state = store.read_state(entry.owner, entry.name)
    grants = {kind: items for kind, items in store.read_grants(entry.owner, entry.name).items() if items}
    return entry._replace(wanted=state.wanted, pinned=state.pinned, grants=grants)
