"""The façade of projects: add, remove, lock, sync and check, each of which changes all that it says or nothing."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import NamedTuple

from agenthub.config import VENV
from agenthub.errors import AgentNotFoundError, InvalidInputError, nearest
from agenthub.packages.names import check_name
from agenthub.packages.project_links import LOCK_FILE, PROJECT_FILE
from agenthub.packages.spec import parse_spec
from agenthub.packages.store import Store
from agenthub.projects.differences import Difference, lock_differences, machine_differences
from agenthub.projects.edit import with_agent, without_agent
from agenthub.projects.files import read_bytes, write_text
from agenthub.projects.home import ProjectHome, Stamp, changed_at, inputs_digest
from agenthub.projects.installing import Machine, Synced
from agenthub.projects.lock_file import Lock, LockedAgent, format_lock, read_lock
from agenthub.projects.locking import check_requirements, lock_project
from agenthub.projects.project_file import Project, Wanted, git_source, parse_project, read_project, relative_to
from agenthub.projects.trees import Tree, Trees
from agenthub.runtime.environments.state import site_packages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from agenthub.packages.sources import FetchIndex
    from agenthub.packages.spec import Spec
    from agenthub.projects.installing import State
    from agenthub.projects.supply import Supply
    from agenthub.runtime.agent_runtime import AgentRuntime


class Listener(NamedTuple):
    """Who is asked and told.

    Attributes:
        consent: asked once, with labels and contents, before anything that was never seen may run; refuses by raising.
        say: told what is being done, from any thread.
        done: told, from any thread, how many of how many agents are installed.
        warn: told what the user should know.
    """

    consent: Callable[[Sequence[tuple[str, Tree]]], None]
    say: Callable[[str], None] = lambda line: None
    done: Callable[[str, int, int], None] = lambda label, number, count: None
    warn: Callable[[str], None] = lambda line: None


class Outcome(NamedTuple):
    """What a command did.

    Attributes:
        lock: the lock as it is now.
        changes: how it differs from the one before; empty where it was left alone.
        synced: the agents of the project on this machine; empty where it was not synced.
        pruned: labels of agents that were taken from the project here.
    """

    lock: Lock
    changes: list[Difference]
    synced: list[Synced]
    pruned: list[str]


class ProjectManager:
    """One project, on one machine.

    Args:
        runtime: whose store and environments are used.
        directory: the project's real directory.
        listener: who is asked and told.
        fetcher: gives what fetches agents from an index, see `Trees`.
        supply: has what was locked, before its sources are asked.
    """

    def __init__(
        self,
        runtime: AgentRuntime,
        directory: str,
        listener: Listener,
        fetcher: Callable[[str | None], FetchIndex],
        supply: Supply | None = None,
    ) -> None:
        self.directory = directory
        self.listener = listener
        self._fetcher = fetcher
        self._supply = supply
        self._paths = runtime.settings.paths
        self._environments = runtime.environment_manager
        self._store = Store(self._paths)
        self.home = ProjectHome(self._paths, directory)
        self._machine = Machine(self._store, self.home, self._environments, supply)

    # the commands --------------------------------------------------------------------------------------------------

    def check(self) -> tuple[list[Difference], list[Difference]]:
        """How the lock differs from `agents.toml`, and how this machine differs from the lock; changes nothing."""
        project, lock = read_project(self.directory), read_lock(self.directory)
        machine = machine_differences(self._machine.states(lock.agents)) if lock else []
        return lock_differences(project, lock), machine

    def lock(self, upgrade: Collection[str] | None = (), *, dry_run: bool = False) -> Outcome:
        """Writes `agents.lock`.

        Args:
            upgrade: names of agents that are chosen anew; None: all of them.
            dry_run: say what would change, and write nothing.

        Raises:
            AgentNotFoundError: the project has no agent of such a name.
            AgentRuntimeError: as `locking.lock_project`.
        """
        with self._changing() as trees:
            project = self._project(trees)
            labels = None if upgrade is None else {self._named(project, name) for name in upgrade}
            lock, changes = self._lock(project, trees, labels)
            if not dry_run:
                self._write_lock(lock)
            return Outcome(lock, changes, [], [])

    def sync(self, *, frozen: bool = False, prune: bool = False) -> Outcome:
        """Makes this machine as the lock says, and the lock first as `agents.toml` says.

        Args:
            frozen: the lock is taken as it is, and must be what `agents.toml` asks for.
            prune: take from the project here what the lock does not name.

        Raises:
            InvalidInputError: `frozen`, and they disagree.
            AgentRuntimeError: something cannot be had or made, or was refused; other agents may be done.
        """
        with self._changing() as trees:
            project, lock = self._project(trees), read_lock(self.directory)
            different = lock_differences(project, lock)
            if frozen and different:
                first = f"{different[0].agent} {different[0].text}".strip()
                more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
                raise InvalidInputError(
                    f"agents.lock is not what agents.toml asks for: {first}{more}",
                    suggestion="agenthub lock brings it up to date; agenthub sync --check shows all of it",
                )
            changes: list[Difference] = []
            if different or lock is None:
                lock, changes = self._lock(project, trees, ())
                self._write_lock(lock)
            return self._sync(lock, changes, trees, prune)

    def add(self, text: str, identity: str | None, at: str | None, *, sync: bool, cwd: str | None = None) -> Outcome:
        """Adds the agent that a SPEC names to `agents.toml` and to the lock, or asks for it in another way.

        Args:
            text: the SPEC.
            identity: `owner/name` to call it; None: the source's owner and the manifest's name.
            at: the index to take it from; None: the one that its owner belongs to.
            sync: install it, too.
            cwd: what a relative path is relative to.
        """
        spec = parse_spec(text, cwd)
        with self._changing() as trees:
            before = self._text()
            project = self._project(trees)
            wanted = self._wanted(spec, identity, at, trees)
            trees.at[wanted.label] = at
            others = tuple(one for one in project.agents if one.label != wanted.label)
            lock, changes = self._lock(project._replace(agents=(*others, wanted)), trees, {wanted.label})
            if wanted.source == {"version": "*"}:  # newer ones, and no older ones, unless somebody says so
                wanted, lock = _at_least(wanted, lock)
            write_text(project.path, with_agent(before, wanted))
            self._write_lock(lock)
            return self._sync(lock, changes, trees, False) if sync else Outcome(lock, changes, [], [])

    def remove(self, names: Sequence[str]) -> Outcome:
        """Takes agents from `agents.toml`, from the lock, and from the project on this machine.

        Raises:
            AgentNotFoundError: the project has no agent of such a name.
            InstallError: another of its agents requires one of them.
        """
        with self._changing() as trees:
            text, project, lock = self._text(), self._project(trees), read_lock(self.directory)
            labels = [self._named(project, name) for name in names]
            kept = tuple(one for one in (lock.agents if lock else ()) if one.label not in labels)
            check_requirements(kept)
            for label in dict.fromkeys(labels):
                text = without_agent(text, label)
            write_text(project.path, text)
            after = Lock(lock.python if lock else project.python, kept)
            if lock is not None:
                self._write_lock(after)
            gone = [(owner, name) for owner, name in self._machine.superfluous(kept) if f"{owner}/{name}" in labels]
            self._machine.prune(gone)
            return Outcome(after, _changes(lock, after), [], [f"{owner}/{name}" for owner, name in gone])

    # what they are made of -----------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Trees]:
        say = self.listener.say
        self._store.sweep()
        with (
            self.home.held(lambda: say("waiting for another agenthub that changes this project")),
            Trees(self._store, self.directory, self._fetcher, say, self._supply) as trees,
        ):
            yield trees
            for note in trees.notes():
                self.listener.warn(note)

    def _text(self) -> str:
        try:
            return read_bytes(os.path.join(self.directory, PROJECT_FILE)).decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{os.path.join(self.directory, PROJECT_FILE)} is not UTF-8: {error}") from None

    def _project(self, trees: Trees) -> Project:
        project = parse_project(self.directory, self._text().encode())
        trees.at.update({wanted.label: wanted.at for wanted in project.agents})
        return project

    def _lock(self, project: Project, trees: Trees, upgrade: Collection[str] | None) -> tuple[Lock, list[Difference]]:
        before = read_lock(self.directory)
        agents = lock_project(
            project, before, trees, self._environments, self._ask, upgrade=upgrade, say=self.listener.say
        )
        lock = Lock(project.python, agents)
        # Packages that were resolved just now are what agents declare, to which the user agreed; kept ones are not.
        kept = {one.pins for one in before.agents} if before else set()
        self.home.add_agreed(packages={one.label: one.environment_key() for one in agents if one.pins not in kept})
        return lock, _changes(before, lock)

    def _write_lock(self, lock: Lock) -> None:
        write_text(os.path.join(self.directory, LOCK_FILE), format_lock(lock.python, lock.agents))

    def _sync(self, lock: Lock, changes: list[Difference], trees: Trees, prune: bool) -> Outcome:
        states = self._machine.states(lock.agents)
        todo = [state for state in states if not state.linked]
        self._ask_for(todo, trees)
        finished: list[str] = []

        def done(label: str) -> None:
            finished.append(label)
            self.listener.done(label, len(finished), len(todo))

        installed = {one.label: one for one in self._machine.install(todo, trees, self.listener.say, done)}
        synced = [installed.get(state.locked.label) or self._machine.unchanged(state) for state in states]
        gone = self._machine.superfluous(lock.agents) if prune else []
        self._machine.prune(gone)
        self._stamp(lock, synced)
        return Outcome(lock, changes, synced, [f"{owner}/{name}" for owner, name in gone])

    def _ask_for(self, todo: Sequence[State], trees: Trees) -> None:
        """Fetches what is missing, and asks for what was never seen."""
        from functools import partial

        from agenthub.projects.parallel import in_parallel

        missing = [state.locked for state in todo if state.directory is None]
        labels = [locked.label for locked in missing]
        fetched = in_parallel([partial(trees.locked, locked) for locked in missing], labels)
        agreed = self.home.agreed_packages() if missing else {}
        new = []
        for locked, tree in zip(missing, fetched, strict=True):
            if self._machine.was_seen(locked):
                continue
            packages = locked.foreign_packages()
            known = not packages or agreed.get(locked.label) == locked.environment_key()
            new.append((locked.label, tree if known else tree._replace(packages=packages)))
        self._ask(new)
        self.home.add_agreed(packages={one.label: one.environment_key() for one in missing})
        for tree in fetched:
            if tree.fetched.accepted is not None:
                tree.fetched.accepted()

    def _ask(self, agents: Sequence[tuple[str, Tree]]) -> None:
        agreed = self.home.agreed() if agents else {}
        new = [(label, tree) for label, tree in agents if tree.packages or agreed.get(label) != tree.fetched.digest]
        if new:
            self.listener.consent(new)
            self.home.add_agreed({label: tree.fetched.digest for label, tree in new})

    def _stamp(self, lock: Lock, synced: Sequence[Synced]) -> None:
        paths = {one.source["path"]: one.archive or one.digest for one in lock.agents if "path" in one.source}
        agents = []
        for one in synced:
            packages = site_packages(os.path.join(one.directory, VENV)) if one.environment else ""
            agents.append((one.label, one.version, one.directory, packages, changed_at(packages)))
        self.home.write_stamp(Stamp(inputs_digest(self.directory), paths, agents))

    def _wanted(self, spec: Spec, identity: str | None, at: str | None, trees: Trees) -> Wanted:
        if spec.kind == "index":
            if identity not in (None, spec.location):
                raise InvalidInputError(f"{spec.location} is called so by its index, and cannot be {identity} here")
            owner, _, name = spec.location.partition("/")
            return Wanted(check_name(owner, "owner"), check_name(name), {"version": spec.ref or "*"}, at)
        if at is not None:
            raise InvalidInputError(f"--index goes with owner/name, and {spec.text} is none")
        if spec.kind == "git":
            source = git_source(self.directory, spec)
        else:
            source = {"path": relative_to(self.directory, spec.location)}
        tree = trees.take(spec)
        owner, _, name = (identity or f"{spec.owner}/{tree.manifest.name.lower()}").partition("/")
        wanted = Wanted(check_name(owner, "owner"), check_name(name), source)
        trees.call(tree, wanted.label)
        return wanted

    def _named(self, project: Project, name: str) -> str:
        found = [one.label for one in project.agents if name in (one.label, one.name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise AgentNotFoundError(f"several owners have an agent '{name}' here", suggestion=", ".join(found))
        close = nearest(name, [each for one in project.agents for each in (one.label, one.name)])
        raise AgentNotFoundError(
            f"no agent '{name}' is in {project.path}",
            suggestion=f"did you mean {close}?" if close else f"agenthub uninstall {name} removes one that is yours",
        )


def _at_least(wanted: Wanted, lock: Lock) -> tuple[Wanted, Lock]:
    locked = lock.find(wanted.owner, wanted.name)
    assert locked is not None
    wanted = wanted._replace(source={"version": f">={locked.version}"})
    changed = locked._replace(source=wanted.source)
    return wanted, lock._replace(agents=tuple(changed if one is locked else one for one in lock.agents))


def _changes(before: Lock | None, after: Lock) -> list[Difference]:
    """What a lock has that the one before it had not, for a person."""
    old = {one.label: one for one in (before.agents if before else ())}
    new = {one.label: one for one in after.agents}
    found = []
    for label in sorted({*old, *new}):
        if label not in old:
            found.append(Difference(label, "added", new[label].version))
        elif label not in new:
            found.append(Difference(label, "removed", old[label].version))
        elif old[label] != new[label]:
            found.append(Difference(label, "changed", _moved(old[label], new[label])))
    return found


def _moved(old: LockedAgent, new: LockedAgent) -> str:
    if old.version != new.version:
        return f"{old.version} → {new.version}"
    if old.digest != new.digest:
        return f"{new.version}, with other content"
    was, now = {pin.label for pin in old.pins}, {pin.label for pin in new.pins}
    gone, come = sorted(was - now), sorted(now - was)
    if not gone and not come:
        return f"{new.version}, asked for in another way"
    return f"{new.version}: " + ", ".join([f"-{label}" for label in gone] + [f"+{label}" for label in come])
