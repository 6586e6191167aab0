"""Makes bundles: one file with agents, their wheels and what fixes them, for machines such as this one."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from agenthub import __version__
from agenthub.errors import InstallError, InvalidInputError
from agenthub.packages.project_links import LOCK_FILE, PROJECT_FILE
from agenthub.packages.record import read_record
from agenthub.packages.store import Store
from agenthub.projects.files import read_bytes
from agenthub.projects.home import ProjectHome
from agenthub.projects.installing import Machine
from agenthub.projects.lock_file import Lock, parse_lock
from agenthub.transfer.container import Written, write_container
from agenthub.transfer.entries import AgentEntry
from agenthub.transfer.opening import BUNDLE
from agenthub.transfer.packing import Chosen, Packed, Packer, choose_installed
from agenthub.transfer.platforms import Platform, needed_platform, this_machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agenthub.runtime.agent_runtime import AgentRuntime

    Say = Callable[[str], None]

SUFFIX = ".agentbundle"


class Bundled(NamedTuple):
    """A bundle that was made.

    Attributes:
        path: the file.
        written: its digest and size.
        agents: what is in it.
        wheels: how many wheels are.
        platform: what a machine has to be to install it.
    """

    path: str
    written: Written
    agents: list[AgentEntry]
    wheels: int
    platform: Platform


def bundle_agents(
    runtime: AgentRuntime, agents: Sequence[str], path: str | None, allowed: Iterable[str], say: Say
) -> Bundled:
    """Bundles agents as `run` finds them here, and those that they need.

    Args:
        runtime: whose settings, store and environments are used.
        agents: their names; none: all of the user's.
        path: the file; None: in the working directory, called after the agent.
        allowed: paths of files that are taken although they look like secrets.
        say: called with a line of what is being done.

    Raises:
        AgentNotFoundError: one of them is not installed.
        AgentRuntimeError: as `Packer.pack`, `write_container`.
    """
    paths = runtime.settings.paths
    store = Store.here(paths) if agents else Store(paths)
    chosen = choose_installed(store, agents or [f"{one.owner}/{one.name}" for one in store.list_agents()])
    if not chosen:
        raise InvalidInputError("no agents are installed", suggestion="agenthub install SPEC, then bundle it")
    if path is None:
        names = [one for one in chosen if one.label in agents or one.name in agents]
        path = f"{names[0].name}-{_plain(names[0].record.version)}" if len(names) == 1 else "agents"
        path += SUFFIX
    return _write(runtime, chosen, path, {}, {}, allowed, say)


def bundle_project(
    runtime: AgentRuntime, directory: str, path: str | None, allowed: Iterable[str], say: Say
) -> Bundled:
    """Bundles what a project's lock fixes; `path` None: called after the project's directory.

    Raises:
        InvalidInputError: there is no lock.
        InstallError: an agent of it is not as locked on this machine.
    """
    data = read_bytes(os.path.join(directory, LOCK_FILE))
    if not data:
        raise InvalidInputError(
            f"there is no {LOCK_FILE} in {directory}", suggestion="agenthub lock, and agenthub sync"
        )
    lock = parse_lock(data, os.path.join(directory, LOCK_FILE))
    chosen = _locked(runtime, directory, lock)
    files = {name: os.path.join(directory, name) for name in (PROJECT_FILE, LOCK_FILE)}
    path = path or (os.path.basename(directory) or "project") + SUFFIX
    return _write(runtime, chosen, path, files, {"lock": LOCK_FILE}, allowed, say)


def _locked(runtime: AgentRuntime, directory: str, lock: Lock) -> list[Chosen]:
    paths = runtime.settings.paths
    machine = Machine(Store(paths), ProjectHome(paths, directory), runtime.environment_manager)
    chosen = []
    for locked, place, *_ in machine.states(lock.agents):
        if place is None:
            raise InstallError(f"{locked.label} is not here as {LOCK_FILE} fixes it", suggestion="agenthub sync")
        chosen.append(Chosen(locked.owner, locked.name, place, read_record(place), locked.pins))
    return chosen


def _write(
    runtime: AgentRuntime,
    chosen: Sequence[Chosen],
    path: str,
    files: dict[str, str],
    values: dict[str, Any],
    allowed: Iterable[str],
    say: Say,
) -> Bundled:
    path = os.path.abspath(path)
    if not os.path.isdir(os.path.dirname(path)):
        raise InstallError(f"there is no directory {os.path.dirname(path)}")
    with Store(runtime.settings.paths).new_staging() as scratch:
        packed: Packed = Packer(runtime, scratch, allowed, say).pack(chosen, wheels=True)
        platform = needed_platform(map(os.path.basename, packed.wheels), this_machine())
        document = {
            "tool_version": __version__,
            "platform": platform._asdict(),
            "agents": [entry.to_json() for entry in packed.entries],
            **values,
        }
        say(f"writing {path}")
        written = write_container(path, BUNDLE, document, {**packed.files, **files})
    return Bundled(path, written, packed.entries, len(packed.wheels), platform)


def _plain(version: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".+-_" else "_" for letter in version)
