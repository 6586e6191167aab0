"""Makes a machine as a lock says: versions of agents in the store, and the project's links to them."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from agenthub import __version__
from agenthub.config import VENV
from agenthub.errors import StoreError
from agenthub.packages.files import remove_tree
from agenthub.packages.locks import hold
from agenthub.packages.project_links import LOCK_FILE
from agenthub.packages.record import InstallRecord, now, read_record
from agenthub.projects.made import Made
from agenthub.projects.parallel import in_parallel
from agenthub.runtime.agent_runtime import needs_python
from agenthub.runtime.agents.building import environment_fields, without_leftovers
from agenthub.runtime.environments.pinned import Pins
from agenthub.runtime.runs.locator import LocatedAgent
from agenthub.runtime.runs.variables import undeclared_hints
from agenthub.trust.contents import write_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agenthub.packages.store import Store
    from agenthub.projects.home import ProjectHome
    from agenthub.projects.lock_file import LockedAgent
    from agenthub.projects.supply import Supply
    from agenthub.projects.trees import Tree, Trees
    from agenthub.runtime.environment_manager import EnvironmentManager

    Say = Callable[[str], None]


class State(NamedTuple):
    """What this machine has of a locked agent.

    Attributes:
        locked: the agent.
        directory: a complete version that is what was locked; None: there is none.
        linked: whether the project's link names it.
        current: the version that the link names now, whatever that is.
    """

    locked: LockedAgent
    directory: str | None
    linked: bool
    current: str | None


class Synced(NamedTuple):
    """An agent as it is after a sync; `changed` is False where nothing had to be done."""

    owner: str
    name: str
    version: str
    directory: str
    environment: bool
    changed: bool

    @property
    def label(self) -> str:
        return f"{self.owner}/{self.name}"


class Machine:
    """What this machine has of a project, and makes of it.

    Args:
        store: the user's.
        home: the project's part of it.
        environments: builds and checks environments.
        supply: has packages, which are then taken from there.
    """

    def __init__(
        self, store: Store, home: ProjectHome, environments: EnvironmentManager, supply: Supply | None = None
    ) -> None:
        self.store = store
        self.home = home
        self.environments = environments
        self._supply = supply
        self._made = Made(store.paths)

    def states(self, agents: Sequence[LockedAgent]) -> list[State]:
        """What there is of each agent."""
        return [self._state(one) for one in agents]

    def superfluous(self, agents: Sequence[LockedAgent]) -> list[tuple[str, str]]:
        """Owner and name of what the project has links to, and the lock does not name."""
        named = {(one.owner, one.name) for one in agents}
        return [(owner, name) for owner, name, _ in self.home.links() if (owner, name) not in named]

    def was_seen(self, locked: LockedAgent) -> bool:
        """Whether this content of this agent, with these packages, is in the store: then the user agreed to it.

        A lock comes with the repository, and may name other packages than the agent declares.
        """
        return any(
            record.digest == locked.digest and (record.locked == locked.environment_key() or _has_all(record, locked))
            for _, record in self._versions(locked)
        )

    def install(self, states: Sequence[State], trees: Trees, say: Say, done: Callable[[str], None]) -> list[Synced]:
        """Makes what is missing, side by side; each agent is afterwards the old one or the new one, whole.

        Raises:
            InstallError: the store cannot be written, or a source gives something else than was locked.
            EnvironmentError: an environment cannot be made.
        """
        states = self._made.in_order(states)
        labels = [state.locked.label for state in states]
        return in_parallel([partial(self._install, state, trees, say) for state in states], labels, done)

    @staticmethod
    def unchanged(state: State) -> Synced:
        """What a sync says of an agent that is as it should be."""
        locked, directory = state.locked, state.directory
        assert directory is not None
        record = read_record(directory)
        return Synced(locked.owner, locked.name, record.version, directory, record.interpreter is not None, False)

    def prune(self, agents: Sequence[tuple[str, str]]) -> None:
        """Takes agents from the project; versions that nothing else uses go with them."""
        for owner, name in agents:
            with self.store.agent_lock(owner, name):
                target = self.home.target(owner, name)
                self.home.unlink(owner, name)
                self._discard(target)

    def _state(self, locked: LockedAgent) -> State:
        current = self.home.target(locked.owner, locked.name)
        directory = self._fitting(locked, current)
        return State(locked, directory, directory is not None and directory == current, current)

    def _fitting(self, locked: LockedAgent, first: str | None) -> str | None:
        versions = self._versions(locked)
        versions.sort(key=lambda one: one[0] != first)
        key = locked.environment_key()
        for directory, record in versions:
            if record.digest == locked.digest and record.locked == key and not self._problems(directory, record):
                return directory
        return None

    def _versions(self, locked: LockedAgent) -> list[tuple[str, InstallRecord]]:
        folder = os.path.join(self.store.paths.versions, locked.owner, locked.name)
        found = []
        with suppress(FileNotFoundError, NotADirectoryError):
            for leaf in sorted(os.listdir(folder)):
                with suppress(StoreError):  # without a record it is no version
                    found.append((os.path.join(folder, leaf), read_record(os.path.join(folder, leaf))))
        return found

    def _problems(self, directory: str, record: InstallRecord) -> list[str]:
        if record.interpreter is None:
            return []
        expected = [(package["name"], package["version"]) for package in record.dependencies]
        return self.environments.check(os.path.join(directory, VENV), expected)

    def _install(self, state: State, trees: Trees, say: Say) -> Synced:
        locked = state.locked
        link = self.home.link(locked.owner, locked.name)
        tree = trees.locked(locked) if state.directory is None else None
        with self.store.agent_lock(locked.owner, locked.name, lambda: say(f"waiting for {locked.label}")):
            place = self._fitting(locked, state.directory)
            if place is not None:
                with hold(place):
                    self.store.activate(place, link)
            else:
                place = self._build(locked, tree or trees.locked(locked), link, say)
            self._tidy(locked, place)
        record = read_record(place)
        return Synced(locked.owner, locked.name, record.version, place, record.interpreter is not None, True)

    def _build(self, locked: LockedAgent, tree: Tree, link: str, say: Say) -> str:
        identity = (locked.owner, locked.name, locked.version, locked.digest)
        with (
            self._made.like(locked, tree) as like,
            self.store.prepare_version(*identity, tree.directory, link=link) as place,
        ):
            say(f"installing {locked.label}")
            record = self._record(locked, tree, place, like, say)
            self.store.complete_version(place, record)
            self.store.activate(place, link)
            self._made.add(record, place)
        return place

    def _record(
        self, locked: LockedAgent, tree: Tree, place: str, like: tuple[str | None, str], say: Say
    ) -> InstallRecord:
        manifest, fetched = tree.manifest, tree.fetched
        supplied = self._supply.environment(locked) if self._supply is not None else None
        pins, python = supplied or (Pins(locked.pins, LOCK_FILE), locked.python)
        pins = pins._replace(like=like[0], like_python=like[1])
        environment = None
        if locked.pins or needs_python(LocatedAgent(place, locked.owner, locked.name, manifest, None)):
            with without_leftovers(place):
                environment = self.environments.build(place, manifest, python=python, on_progress=say, pins=pins)
        names = [name for name, _ in environment.dependencies] if environment else []
        record = InstallRecord(
            owner=locked.owner,
            name=locked.name,
            version=manifest.version,
            source=fetched.source,
            digest=locked.digest,
            installed_at=now(),
            tool_version=__version__,
            interpreter=None,
            dependencies=[],
            environment="none",
            size={"code": fetched.bytes, "environment": 0},
            manifest=manifest.to_compiled(),
            warnings=[],
            hints=undeclared_hints(manifest, place, names),
            locked=locked.environment_key(),
            environment_files=write_list(place, self.environments.config.venv_location),
        )
        return record._replace(**environment_fields(record, environment)) if environment else record

    def _tidy(self, locked: LockedAgent, place: str) -> None:
        """Removes what the project had of an agent before, and what an earlier sync did not come to remove."""
        for directory, record in self._versions(locked):
            if record.locked and directory != place:
                self._discard(directory)

    def _discard(self, directory: str | None) -> None:
        """Removes a version that a project's lock made, once nothing uses it; the caller holds the agent's lock."""
        if directory is None or not self.environments.config.auto_cleanup:
            return
        with suppress(StoreError):  # it is gone, or it is the user's current one
            record = read_record(directory)
            if record.locked and self.store.remove_version(directory):
                leaf = os.path.basename(directory)
                remove_tree(self.store.paths.workers_of(record.owner, record.name, leaf))


def _has_all(record: InstallRecord, locked: LockedAgent) -> bool:
    """Whether a version's environment has each package that a lock names, but for those in the agent itself."""
    have = {f"{package['name']}=={package['version']}" for package in record.dependencies}
    return have.issuperset(locked.foreign_packages())
