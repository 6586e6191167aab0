"""Which of its installed versions an agent is: `use`, `rollback`, `pin`. Nothing is fetched, and nothing built."""

from __future__ import annotations

import os

from agenthub.config import VENV
from agenthub.errors import AgentNotFoundError, EnvironmentError, StoreError
from agenthub.packages.versions import choose_installed, installed_versions, matching
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.packages.record import InstallRecord
    from agenthub.packages.store import Store
    from agenthub.packages.versions import InstalledVersion

    Prepare = Callable[[InstalledVersion], None]


class Switched(NamedTuple):
    """An agent that is another version now.

    Attributes:
        owner: the agent's owner.
        name: its name.
        before: the version that it was; empty where that was broken.
        record: of the version that it is.
        directory: where that is.
        changed: False where it was that one already.
        unmet: what other agents need of it and do not have now, a sentence each.
    """

    owner: str
    name: str
    before: str
    record: InstallRecord
    directory: str
    changed: bool
    unmet: list[str]


def use(store: Store, owner: str, name: str, wanted: str, prepare: Prepare | None = None) -> Switched:
    """Makes an installed version the current one.

    Args:
        store: where it is.
        owner: the agent's owner.
        name: its name.
        wanted: a version, its beginning, a range, or the name of a version's directory.
        prepare: called with the version before it is looked at, to mend it.

    Raises:
        AgentNotFoundError: no such version is installed.
        EnvironmentError: that version's environment is broken.
    """
    return _switch(store, owner, name, lambda: choose_installed(store.paths, owner, name, wanted), prepare)


def rollback(store: Store, owner: str, name: str, prepare: Prepare | None = None) -> Switched:
    """Goes back to the version that was current before; the next time, back again. Otherwise as `use`."""
    return _switch(store, owner, name, lambda: earlier_version(store, owner, name), prepare)


def earlier_version(store: Store, owner: str, name: str) -> InstalledVersion:
    """What `rollback` goes back to.

    Raises:
        AgentNotFoundError: there is none.
    """
    previous = store.read_state(owner, name).previous
    for each in installed_versions(store.paths, owner, name):
        if not each.current and each.leaf in previous:
            return each
    raise AgentNotFoundError(
        f"{owner}/{name} has no earlier version to go back to", suggestion=f"agenthub use {name} shows what it has"
    )


def pin(store: Store, owner: str, name: str, pinned: bool) -> bool:
    """Has upgrades leave an agent alone, or no longer; returns whether that is new."""
    with store.agent_lock(owner, name):
        store.current_version_dir(owner, name)
        state = store.read_state(owner, name)
        if state.pinned == pinned:
            return False
        store.write_state(owner, name, state._replace(pinned=pinned))
    return True


def unmet_needs(store: Store, owner: str, name: str, version: str) -> list[str]:
    """What other agents need of this one and would not have, were it of this version; a sentence each."""
    label = f"{owner}/{name}"
    try:
        entries = store.list_agents()
    except StoreError:
        return []
    return [
        f"{entry.owner}/{entry.name} {entry.version} needs {label} {entry.requires[label] or '*'}"
        for entry in entries
        if label in entry.requires and not matching(entry.requires[label], [version])
    ]


def environment_problems(record: InstallRecord, directory: str) -> list[str]:
    """What is wrong with the environment of an installed version, as is seen at a glance; a sentence each."""
    if record.interpreter is None:
        return []
    from agenthub.runtime.environments.state import problems

    expected = [(package["name"], package["version"]) for package in record.dependencies]
    return problems(os.path.join(directory, VENV), expected, deep=False)


def _switch(
    store: Store, owner: str, name: str, choose: Callable[[], InstalledVersion], prepare: Prepare | None
) -> Switched:
    if prepare is not None:
        prepare(choose())
    with store.agent_lock(owner, name):
        chosen = choose()
        before = next((each for each in installed_versions(store.paths, owner, name) if each.current), None)
        said = before.record.version if before else ""
        if chosen.current:
            return Switched(owner, name, said, chosen.record, chosen.directory, False, [])
        if wrong := environment_problems(chosen.record, chosen.directory):
            raise EnvironmentError(
                f"{owner}/{name} {chosen.record.version} cannot be used: its environment is broken: {'; '.join(wrong)}",
                suggestion=f"--rebuild makes it anew first; {said or 'the broken one'} stays until then",
            )
        unmet = unmet_needs(store, owner, name, chosen.record.version)
        store.activate(chosen.directory)
    return Switched(owner, name, said, chosen.record, chosen.directory, True, unmet)
