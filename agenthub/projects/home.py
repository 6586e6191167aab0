"""A project's part of the store: its lock between processes, its links, and the stamp of what it was made from."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from agenthub import __version__
from agenthub.config import RECORD, VENV, Paths
from agenthub.errors import StoreError
from agenthub.packages.files import SCHEMA_VERSION, fsync_directory, read_json, remove_empty, storing, write_json
from agenthub.packages.project_links import (
    LOCK_FILE,
    PROJECT_FILE,
    grants_of,
    link_target,
    links_of,
    project_home,
    project_links,
)
from agenthub.projects.files import open_regular, read_bytes
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Stamp(NamedTuple):
    """What a machine was synced from, and what it has had since; a cache, like every stamp.

    Attributes:
        inputs: digest of `agents.toml`, `agents.lock` and our version.
        paths: digests of directories and archives that are agents, by path relative to the project.
        agents: for each agent its label, its version, its version directory, where its packages are ("": it has no
            environment), and when something was last put there or taken away (ns).
    """

    inputs: str
    paths: dict[str, str]
    agents: list[tuple[str, str, str, str, int]]


class ProjectHome:
    """What the store keeps for one project.

    Args:
        paths: of the store.
        project: the project's real directory.
    """

    def __init__(self, paths: Paths, project: str) -> None:
        self.paths = paths
        self.project = project
        self.place = project_home(paths, project)

    def link(self, owner: str, name: str) -> str:
        """The link to the version that the project uses of an agent."""
        return os.path.join(links_of(self.place), owner, name)

    def target(self, owner: str, name: str) -> str | None:
        """The version directory that it names."""
        return link_target(self.link(owner, name))

    def links(self) -> list[tuple[str, str, str]]:
        """Owner, name and version directory of each link."""
        return list(project_links(self.place))

    @contextmanager
    def held(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """The right to change this project's links, among all processes; `waiting` is called after a second of it."""
        from agenthub.packages.locks import acquire
        from agenthub.packages.staging import open_store

        open_store(self.paths)
        with storing("write", self.place):
            os.makedirs(self.place, mode=0o700, exist_ok=True)
            descriptor = acquire(os.path.join(self.place, "lock"), waiting)
        try:
            self._say_whose()
            yield
        finally:
            os.close(descriptor)

    def unlink(self, owner: str, name: str) -> None:
        """Takes an agent from the project, and what it was granted there; the caller holds the agent's lock."""
        link, grants = self.link(owner, name), os.path.join(grants_of(self.place), owner, f"{name}.json")
        with storing("remove", link):
            for path in (link, grants):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                    fsync_directory(os.path.dirname(path))
            remove_empty(os.path.dirname(link), os.path.dirname(grants))

    def agreed(self) -> dict[str, str]:
        """The content that the user agreed to, by agent; asked for before it is in the store."""
        return self._consents("agents")

    def agreed_packages(self) -> dict[str, str]:
        """`LockedAgent.environment_key` of the packages that the user agreed to, by agent."""
        return self._consents("packages")

    def add_agreed(self, contents: Mapping[str, str] = {}, *, packages: Mapping[str, str] = {}) -> None:
        """Remembers digests that the user agreed to, and keys of packages, by agent."""
        from agenthub.packages.staging import new_staging

        before = {"agents": self.agreed(), "packages": self.agreed_packages()}
        after = {"agents": {**before["agents"], **contents}, "packages": {**before["packages"], **packages}}
        if after == before:
            return
        with new_staging(self.paths) as staging:
            value = {"schema_version": SCHEMA_VERSION, **after}
            write_json(os.path.join(self.place, "consents.json"), value, staging.path, mode=0o600)

    def _consents(self, kind: str) -> dict[str, str]:
        try:
            values = read_json(os.path.join(self.place, "consents.json"), "remove it: you are asked again")
        except FileNotFoundError:
            return {}
        found = values.get(kind)
        return found if isinstance(found, dict) else {}

    def write_stamp(self, stamp: Stamp) -> None:
        """Remembers what the machine was made from."""
        from agenthub.packages.staging import new_staging

        with new_staging(self.paths) as staging:
            value = {"schema_version": SCHEMA_VERSION, **stamp._asdict()}
            write_json(os.path.join(self.place, "stamp.json"), value, staging.path, durable=False)

    def current_stamp(self) -> Stamp | None:
        """The stamp, where files, links and versions are as it says: then there is nothing to do."""
        try:
            values = read_json(os.path.join(self.place, "stamp.json"))
            stamp = Stamp(values["inputs"], values["paths"], [tuple(one) for one in values["agents"]])
            if stamp.inputs != inputs_digest(self.project):
                return None
            if not all(self._is_whole(*agent) for agent in stamp.agents):
                return None
            if any(content_digest(self.project, path) != digest for path, digest in stamp.paths.items()):
                return None
        except (OSError, StoreError, KeyError, TypeError, ValueError):
            return None
        return stamp

    def _is_whole(self, label: str, version: str, directory: str, packages: str, changed: int) -> bool:
        owner, _, name = label.partition("/")
        if self.target(owner, name) != directory or not os.path.exists(os.path.join(directory, RECORD)):
            return False
        if not packages:
            return True
        return os.access(os.path.join(directory, VENV, "bin", "python"), os.X_OK) and changed_at(packages) == changed

    def _say_whose(self) -> None:
        """Notes the project's path, by which `abandoned_projects` knows it."""
        from agenthub.packages.staging import new_staging

        path = os.path.join(self.place, "project.json")
        if not os.path.exists(path):
            with new_staging(self.paths) as staging:
                write_json(path, {"schema_version": SCHEMA_VERSION, "path": self.project}, staging.path)


def changed_at(packages: str) -> int:
    """When something was last put into a directory or taken away (ns); 0 where there is none."""
    return os.stat(packages).st_mtime_ns if packages else 0


def inputs_digest(project: str) -> str:
    """What changes when `agents.toml`, `agents.lock` or agenthub do."""
    import hashlib

    digest = hashlib.sha256(__version__.encode())
    for name in (PROJECT_FILE, LOCK_FILE):
        data = read_bytes(os.path.join(project, name))
        digest.update(b"\0%d\0" % len(data) + data)
    return digest.hexdigest()


def content_digest(project: str, path: str) -> str:
    """The digest of an agent's directory, or of an archive's file, as it is now; "" where there is none.

    Raises:
        InstallError: what is there is refused.
    """
    whole = os.path.normpath(os.path.join(project, path))
    if os.path.isdir(whole):
        from agenthub.packages.tree import tree_digest

        return tree_digest(whole)
    import hashlib

    try:
        with open_regular(whole) as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""
