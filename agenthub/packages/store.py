"""The store under `AGENTHUB_HOME`: what is installed. Reading is light; what changes it is imported when it is used."""

from __future__ import annotations

import os
from contextlib import suppress

from agenthub.config import Paths
from agenthub.errors import AgentNotFoundError, StoreError, nearest
from agenthub.packages.files import storing
from agenthub.packages.locks import Hold, claim_unused, hold
from agenthub.packages.names import is_name
from agenthub.packages.project_links import current_project, grants_of, links_of, project_links
from agenthub.packages.record import InstallRecord, read_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from agenthub.packages.index import AgentSummary
    from agenthub.packages.states import AgentState
    from agenthub.packages.versions import InstalledVersion

_ATTEMPTS = 10  # to catch a version between two upgrades


class Store:
    """Installed agents. Nothing is created by reading; a missing home is an empty store.

    Every method that changes something raises `StoreError` where the store cannot be written or is newer than us.

    Args:
        paths: where it is.
        project: the home of a project (see `project_links`), whose agents come before the user's own when agents are
            looked up, and have grants of their own. None: the user's alone.
    """

    def __init__(self, paths: Paths, project: str | None = None) -> None:
        self.paths = paths
        self.project = project

    @classmethod
    def here(cls, paths: Paths) -> Store:
        """With the agents of the project that the working directory is in."""
        return cls(paths, current_project(paths))

    # reading

    def resolve(self, agent: str) -> tuple[str, str]:
        """Owner and name of the agent that `owner/name` or `name` means: one of the project, else an installed one.

        Raises:
            AgentNotFoundError: there is none (says the nearest), or several owners have one (lists them).
        """
        owner, slash, name = agent.rpartition("/")
        for root in self._roots() if is_name(name) and (not slash or is_name(owner)) else ():
            owners = [owner] if slash else self._names(root)
            owners = [each for each in owners if os.path.lexists(os.path.join(root, each, name))]
            if len(owners) == 1:
                return owners[0], name
            if owners:
                choice = ", ".join(f"{each}/{name}" for each in owners)
                raise AgentNotFoundError(f"several owners have an agent '{name}'", suggestion=f"one of {choice}")
        raise self._not_found(agent)

    def _roots(self) -> tuple[str, ...]:
        return (links_of(self.project), self.paths.agents) if self.project else (self.paths.agents,)

    def is_projects(self, owner: str, name: str) -> bool:
        """Whether the agent of that name is the project's."""
        return self.project is not None and os.path.lexists(os.path.join(links_of(self.project), owner, name))

    def agent_dir(self, owner: str, name: str) -> str:
        """The agent's directory for people: a link to its current version."""
        root = links_of(self.project) if self.project and self.is_projects(owner, name) else self.paths.agents
        return os.path.join(root, owner, name)

    def current_version_dir(self, owner: str, name: str) -> str:
        """The directory of the current version, which no upgrade changes.

        Raises:
            AgentNotFoundError: it is not installed.
            StoreError: it is broken.
        """
        link = self.agent_dir(owner, name)
        try:
            place = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
        except FileNotFoundError:
            raise self._not_found(f"{owner}/{name}") from None
        except OSError:
            place = link  # a directory that was put there by hand
        if not os.path.isdir(place):
            raise StoreError(
                f"{owner}/{name} is broken: {place} is missing", suggestion="install it again, or uninstall it"
            )
        return place

    def hold_current(self, owner: str, name: str) -> tuple[str, Hold]:
        """The current version's directory, held against removal until the second result is closed.

        Raises:
            AgentNotFoundError: it is not installed.
            StoreError: it is broken.
        """
        for attempt in range(_ATTEMPTS):
            try:
                place = self.current_version_dir(owner, name)
                held = hold(place)
            except AgentNotFoundError:
                if not os.path.lexists(self.agent_dir(owner, name)):
                    raise
            except StoreError:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                if held.held or os.path.isdir(place):
                    return place, held
        raise StoreError(f"{owner}/{name} is changing all the time", suggestion="try again")

    def read_record(self, owner: str, name: str) -> InstallRecord:
        """The record of the current version.

        Raises:
            AgentNotFoundError: it is not installed.
            StoreError: it is broken.
        """
        return read_record(self.current_version_dir(owner, name))

    def list_agents(self) -> list[AgentSummary]:
        """All agents, by owner and name: the project's, and the user's of other names. What is broken has a `problem`.

        Raises:
            StoreError: the store cannot be read, or a newer agenthub wrote it.
        """
        from agenthub.packages import index
        from agenthub.packages.staging import check_marker

        check_marker(self.paths)
        agents = index.list_agents(self.paths)
        return index.with_projects(agents, self.project) if self.project else agents

    def superseded(self, owner: str, name: str) -> list[str]:
        """The complete versions that are not current: those it had before, the latest first, then the newest."""
        from agenthub.packages import changes

        return changes.superseded(self.paths, owner, name)

    def versions(self, owner: str, name: str) -> list[InstalledVersion]:
        """All complete versions of an agent, the current one first; see `versions.installed_versions`."""
        from agenthub.packages import versions

        return versions.installed_versions(self.paths, owner, name)

    def choose_version(self, owner: str, name: str, wanted: str) -> InstalledVersion:
        """The installed version that `wanted` means; raises as `versions.choose_installed` does."""
        from agenthub.packages import versions

        return versions.choose_installed(self.paths, owner, name, wanted)

    def read_state(self, owner: str, name: str) -> AgentState:
        """Whether an agent is pinned, which versions it may become, which it had."""
        from agenthub.packages import states

        return states.read_state(self.paths, owner, name)

    @staticmethod
    def in_use(version_dir: str) -> bool:
        """Whether a run holds this version at the moment."""
        unused = claim_unused(version_dir)
        if unused is not None:
            unused.close()
        return unused is None

    @staticmethod
    def hold(version_dir: str) -> Hold:
        """Holds a version against removal, for the length of a run; see `locks.hold`."""
        return hold(version_dir)

    def grants_path(self, owner: str, name: str) -> str:
        """Where it is kept what the user allowed an agent; a project's agents have nothing of the user's own."""
        root = grants_of(self.project) if self.project and self.is_projects(owner, name) else self.paths.grants
        return os.path.join(root, owner, f"{name}.json")

    def read_grants(self, owner: str, name: str) -> dict[str, list[str]]:
        """What the user allowed an agent: `environment` (variables) and `code` (digests)."""
        from agenthub.packages import grants

        return grants.read_grants(self.grants_path(owner, name))

    def has_consent(self, location: str, digest: str) -> bool:
        """Whether the user agreed to run this content from a path or URL without installing it."""
        from agenthub.packages import grants

        return grants.has_consent(self.paths, location, digest)

    # changing

    def new_staging(self) -> AbstractContextManager[str]:
        """A directory of one's own on the store's file system; gone afterwards, whatever happens."""
        from agenthub.packages import staging

        return staging.new_staging_directory(self.paths)

    def sweep(self, *, thorough: bool = False, remove: bool = True) -> list[str]:
        """Removes what dead processes left, and says what; `thorough` looks at every version, without `remove` only."""
        from agenthub.packages import removal, staging

        found = staging.sweep(self.paths, thorough=thorough, remove=remove)
        return found + (removal.sweep_removed(self.paths, remove=remove) if thorough else [])

    def agent_lock(
        self, owner: str, name: str, waiting: Callable[[], None] | None = None
    ) -> AbstractContextManager[None]:
        """The right to change one agent; `waiting` is called once when it is not to be had within a second."""
        from agenthub.packages import changes

        return changes.agent_lock(self.paths, owner, name, waiting)

    def prepare_version(
        self, owner: str, name: str, version: str, digest: str, tree: str, *, link: str | None = None
    ) -> AbstractContextManager[str]:
        """Moves a fetched tree to its final place, under the agent's lock; removed unless it is activated inside."""
        from agenthub.packages import changes

        return changes.prepare_version(self.paths, owner, name, version, digest, tree, link=link)

    @staticmethod
    def complete_version(version_dir: str, record: InstallRecord) -> None:
        """Makes a version durable, and complete by its record."""
        from agenthub.packages import changes

        changes.complete_version(version_dir, record)

    def activate(self, version_dir: str, link: str | None = None) -> None:
        """Makes a complete version what a link (None: the user's) names, in one step, under the agent's lock."""
        from agenthub.packages import changes

        changes.activate(self.paths, version_dir, link)

    def forget_summary(self) -> None:
        """After a record was rewritten in its place, which the summary of all agents does not notice."""
        with storing("clean up", self.paths.index), suppress(FileNotFoundError):
            os.unlink(self.paths.index)

    def remove_version(self, version_dir: str) -> bool:
        """Removes a version that is not current; False while a run uses it."""
        from agenthub.packages import removal

        return removal.remove_version(self.paths, version_dir)

    def prune(self, owner: str, name: str, keep: int) -> list[str]:
        """Removes superseded versions beyond the `keep` last ones, but for those in use; under the agent's lock."""
        from agenthub.packages import removal

        return removal.prune(self.paths, owner, name, keep)

    def uninstall(
        self, owner: str, name: str, *, force: bool = False, waiting: Callable[[], None] | None = None
    ) -> None:
        """Removes an agent and all that was made for it; takes the agent's lock itself.

        Raises:
            AgentNotFoundError: it is not installed.
            StoreError: a run is in progress and `force` is not given.
        """
        from agenthub.packages import removal

        removal.uninstall(self.paths, owner, name, force=force, waiting=waiting)

    def write_state(self, owner: str, name: str, state: AgentState) -> None:
        """Replaces what is known of an agent beside its versions, under the agent's lock."""
        from agenthub.packages import states

        states.write_state(self.paths, owner, name, state)

    def write_grants(self, owner: str, name: str, grants: dict[str, list[str]]) -> None:
        """Replaces what an agent was granted, under the agent's lock."""
        from agenthub.packages import grants as module

        module.write_grants(self.paths, self.grants_path(owner, name), grants)

    def add_consent(self, location: str, digest: str) -> None:
        """Remembers that the user agreed to run this content from a path or URL."""
        from agenthub.packages import grants

        grants.add_consent(self.paths, location, digest)

    def _not_found(self, agent: str) -> AgentNotFoundError:
        from agenthub.packages.index import agent_names
        from agenthub.packages.staging import check_marker

        check_marker(self.paths)  # a store that cannot be read is another error
        with storing("read", self.paths.agents):
            known = [f"{owner}/{name}" for owner, name in agent_names(self.paths)]
        project = self.project or current_project(self.paths)
        theirs = [f"{owner}/{name}" for owner, name, _ in project_links(project)] if project else []
        if self.project is not None:
            known += theirs
        elif any(agent in (label, label.rpartition("/")[2]) for label in theirs):
            return AgentNotFoundError(
                f"'{agent}' is an agent of this project, and you have none of your own",
                suggestion=f"agenthub lock --upgrade {agent}, or agenthub remove {agent}",
            )
        by_name = {name.rpartition("/")[2]: name for name in known}
        close = nearest(agent.lower(), known) or by_name.get(nearest(agent.rpartition("/")[2].lower(), by_name) or "")
        if close:
            return AgentNotFoundError(f"no agent '{agent}' is installed", suggestion=f"did you mean {close}?")
        if os.path.isdir(agent):
            return AgentNotFoundError(f"no agent '{agent}' is installed", suggestion=f"did you mean ./{agent}?")
        return AgentNotFoundError(f"no agent '{agent}' is installed", suggestion="agenthub list shows what is")

    @staticmethod
    def _names(directory: str) -> list[str]:
        try:
            return sorted(os.listdir(directory))
        except OSError:
            return []
