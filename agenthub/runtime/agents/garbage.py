"""What nobody refers to any more: superseded versions, projects that are gone, and what dead processes left."""

from __future__ import annotations

import os
from typing import NamedTuple

from agenthub.config import VENV, Paths, Settings, scratch_base
from agenthub.packages.changes import agent_lock
from agenthub.packages.files import read_json, remove_tree, storing
from agenthub.packages.index import agent_names
from agenthub.packages.locks import acquire_abandoned
from agenthub.packages.removal import remove_version, surplus
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION, PROJECT, LEFTOVER = "version", "project", "leftover"


class Garbage(NamedTuple):
    """Something that nobody refers to.

    Attributes:
        kind: `"version"`, `"project"` (its links) or `"leftover"`.
        path: where it is, or was.
        what: whose it is.
        size: bytes.
        in_use: a run holds it, and it stays for now.
    """

    kind: str
    path: str
    what: str
    size: int
    in_use: bool = False


def collect(
    settings: Settings, *, keep: int | None = None, remove: bool = True, say: Callable[[str], None] | None = None
) -> list[Garbage]:
    """Removes what nobody refers to, and says what; never what a run or a project uses.

    Args:
        settings: say where the store is, and how many superseded versions of an agent stay.
        keep: how many stay; None: as `keep_versions` says.
        remove: off: only look.
        say: called with a line of what is being done.

    Raises:
        StoreError: the store cannot be written, or a newer agenthub wrote it.
    """
    paths = settings.paths
    if not os.path.isdir(paths.home):
        return []
    keep = settings["keep_versions"] if keep is None else keep
    found = list(_abandoned_projects(paths, remove))  # first: they may be what refers to a version
    gone = {each.path for each in found}
    for owner, name in list(agent_names(paths)):
        if say is not None:
            say(f"looking at {owner}/{name}")
        found += _superseded(paths, owner, name, keep, remove)
    found += _abandoned_builds(paths, remove)
    swept = Store(paths).sweep(thorough=True, remove=remove)
    found += [Garbage(LEFTOVER, path, "a process that was killed", 0) for path in swept if path not in gone]
    if remove:
        from agenthub.runtime.processes.scratch import sweep

        found += [Garbage(LEFTOVER, path, "a run that was killed", 0) for path in sweep(scratch_base())]
    return found


def _superseded(paths: Paths, owner: str, name: str, keep: int, remove: bool) -> Iterator[Garbage]:
    if not surplus(paths, owner, name, keep):
        return
    with agent_lock(paths, owner, name):
        for place in surplus(paths, owner, name, keep):
            entry = Garbage(VERSION, place, f"{owner}/{name} {os.path.basename(place)}", _size(place))
            done = remove_version(paths, place) if remove else not Store.in_use(place)
            yield entry if done else entry._replace(in_use=True)


def _abandoned_builds(paths: Paths, remove: bool) -> Iterator[Garbage]:
    """Environments beside those of installed versions whose builds were killed, or failed and were kept."""
    from agenthub.runtime.environments.replacing import abandoned
    from agenthub.runtime.environments.replacing import remove as remove_build

    for owner, name in _entries(paths.versions):
        folder = os.path.join(paths.versions, owner, name)
        for leaf in _names(folder):
            for path in (
                abandoned(os.path.join(folder, leaf, VENV)) if os.path.isdir(os.path.join(folder, leaf)) else ()
            ):
                entry = Garbage(
                    LEFTOVER, path, f"{owner}/{name} {leaf}: an environment that was not finished", _size(path)
                )
                if remove:
                    remove_build(path)
                yield entry


def _entries(root: str) -> Iterator[tuple[str, str]]:
    for owner in _names(root):
        yield from ((owner, name) for name in _names(os.path.join(root, owner)))


def _abandoned_projects(paths: Paths, remove: bool) -> Iterator[Garbage]:
    """The links of projects whose directory has gone."""
    for name in sorted(_names(paths.projects)):
        home = os.path.join(paths.projects, name)
        try:
            project = read_json(os.path.join(home, "project.json")).get("path")
        except FileNotFoundError:
            continue
        if not isinstance(project, str) or os.path.isdir(project):
            continue
        lock = acquire_abandoned(os.path.join(home, "lock"))
        if lock is None:  # it is being synced
            continue
        try:
            if remove:
                with storing("remove", home):
                    remove_tree(home)
            yield Garbage(PROJECT, home, project, 0)
        finally:
            os.close(lock)


def _size(version_dir: str) -> int:
    from agenthub.runtime.environments.state import directory_size

    try:
        return directory_size(version_dir)
    except OSError:  # it is being removed by another process
        return 0


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
