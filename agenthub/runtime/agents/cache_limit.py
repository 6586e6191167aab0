"""Keeps the cache of agents that are run without being installed within its size: what lay longest goes first."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import NamedTuple

from agenthub.config import IN_USE, RECORD, Paths
from agenthub.errors import StoreError
from agenthub.packages.changes import agent_lock
from agenthub.packages.files import read_json, remove_tree, storing
from agenthub.packages.locks import acquire_abandoned, claim_unused
from agenthub.packages.staging import new_staging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Entry(NamedTuple):
    """Something in the cache that can be removed alone.

    Attributes:
        used: when it was used last, seconds since 1970.
        size: bytes.
        path: a directory or a file.
    """

    used: float
    size: int
    path: str


def limit_cache(paths: Paths, most: int, *, keep: Collection[str] = (), remove: bool = True) -> list[Entry]:
    """Removes what was used longest ago until the rest has at most `most` bytes; never what is in use.

    Args:
        paths: of the store.
        most: bytes; 0: any.
        keep: paths that stay.
        remove: off: only say what would go.

    Returns:
        list[Entry]: what was removed.
    """
    if not most:
        return []
    entries = sorted(cache_entries(paths))
    total = sum(entry.size for entry in entries)
    removed = []
    for entry in entries:
        if total <= most:
            break
        if entry.path in keep or (remove and not _remove(paths, entry.path)):
            continue
        total -= entry.size
        removed.append(entry)
    return removed


def clear_cache(paths: Paths) -> list[Entry]:
    """Removes the whole cache, but for what is in use, which is returned."""
    used = [entry for entry in cache_entries(paths) if not _remove(paths, entry.path)]
    busy = _being_made(paths)
    stay = {os.path.relpath(path, paths.cache).split(os.sep)[0] for path in (*busy, *(entry.path for entry in used))}
    with storing("clean up", paths.cache):
        for path in _paths(paths.cache):
            if os.path.basename(path) not in stay:
                remove_tree(path)
        if not stay:
            remove_tree(paths.cache)
    return used


def _being_made(paths: Paths) -> list[str]:
    """Where somebody fetches or builds something at this moment, by the locks that he holds."""
    runs = _runs(paths)
    found = []
    for folder in (paths.workshop, runs.staging, runs.locks):
        for path in _paths(folder):
            if path.endswith(".lock"):
                descriptor = acquire_abandoned(path)
                if descriptor is not None:
                    os.close(descriptor)
                elif os.path.exists(path):
                    found.append(path)
    return found


def cache_entries(paths: Paths) -> list[Entry]:
    """Everything that `limit_cache` may remove: agents, their sources and environments, archives of indexes."""
    found = list(_agents(_runs(paths).versions))
    for folder in ("sources", "environments"):
        for path in _paths(os.path.join(paths.cache, folder)):
            if os.path.isdir(path):
                with suppress(OSError):
                    found.append(Entry(_used(path), _size(path), path))
    for path in _paths(os.path.join(paths.index_cache, "archives")):
        with suppress(OSError):
            status = os.stat(path)
            found.append(Entry(status.st_mtime, status.st_size, path))
    return found


def _agents(versions: str) -> Iterator[Entry]:
    for owner in _paths(versions):
        for name in _paths(owner):
            for path in _paths(name):
                try:
                    sizes = read_json(os.path.join(path, RECORD))["size"]
                    yield Entry(_used(path), int(sizes["code"]) + int(sizes["environment"]), path)
                except (OSError, StoreError, KeyError, TypeError, ValueError):
                    with suppress(OSError):  # unfinished: whoever makes it holds it
                        yield Entry(0.0, _size(path), path)


def _remove(paths: Paths, path: str) -> bool:
    """Removes an entry, in one step for those who look for it; False while it is in use."""
    if os.path.isfile(path):
        return _remove_file(path)
    runs = _runs(paths)
    agent = os.path.relpath(path, runs.versions).split(os.sep)
    with ExitStack() as stack:
        if agent[0] != "..":
            stack.enter_context(agent_lock(runs, agent[0], agent[1]))
        unused = claim_unused(path)
        if unused is None:
            return False
        with storing("clean up", path):
            removed = stack.enter_context(new_staging(paths)).path
            with unused, suppress(FileNotFoundError):
                os.rename(path, os.path.join(removed, "removed"))
            if agent[0] != "..":
                _forget_link(os.path.join(runs.agents, agent[0], agent[1]), os.path.dirname(path))
            if os.path.exists(f"{path}.lock"):
                _remove_file(f"{path}.lock")
    return True


def _remove_file(path: str) -> bool:
    """A file, unless somebody has locked it, as an archive is while it is fetched."""
    descriptor = acquire_abandoned(path)
    if descriptor is None:
        return False
    with suppress(FileNotFoundError):
        os.unlink(path)
    os.close(descriptor)
    return True


def _forget_link(link: str, folder: str) -> None:
    """After a version of an agent went that was its current one: the one used last is it now, if there is another."""
    if os.path.exists(link):
        return
    with suppress(FileNotFoundError):
        os.unlink(link)
    others = [path for path in _paths(folder) if os.path.exists(os.path.join(path, RECORD))]
    if others:
        os.symlink(os.path.relpath(max(others, key=_used), os.path.dirname(link)), link)


def _runs(paths: Paths) -> Paths:
    """Of the store that `run_cache` keeps in the cache."""
    from agenthub.runtime.agents.run_cache import cached_store

    return cached_store(paths).paths


def _used(path: str) -> float:
    try:
        return os.stat(os.path.join(path, IN_USE)).st_mtime
    except FileNotFoundError:
        return os.stat(path).st_mtime


def _size(path: str) -> int:
    from agenthub.runtime.environments.state import directory_size

    return directory_size(path)


def _paths(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
