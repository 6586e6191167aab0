"""Changes of what is installed. Each is one rename: before it there is the old state, after it the new one, whole."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress

from agenthub.config import IN_USE, RECORD, Paths
from agenthub.errors import AgentNotFoundError, StoreError
from agenthub.interrupts import deferred_interrupts
from agenthub.packages.files import fsync_directory, remove_empty, remove_tree, storing, sync_file_system
from agenthub.packages.locks import acquire, acquire_abandoned, claim_unused, hold
from agenthub.packages.names import check_name, is_name, version_directory
from agenthub.packages.record import InstallRecord, write_record
from agenthub.packages.staging import new_staging, open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ATTEMPTS = 100  # against another process that removes an empty owner directory at the same moment


@contextmanager
def agent_lock(paths: Paths, owner: str, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """The right to change one agent, among all processes of this machine.

    Args:
        paths: of the store.
        owner: the agent's owner.
        name: its name.
        waiting: called once when somebody else has held it for a second.
    """
    check_name(owner, "owner")
    check_name(name)
    open_store(paths)
    with storing("lock", paths.locks):
        os.makedirs(paths.locks, mode=0o700, exist_ok=True)
        descriptor = acquire(_lock_path(paths, owner, name), waiting)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def prepare_version(paths: Paths, owner: str, name: str, version: str, digest: str, tree: str) -> Iterator[str]:
    """Moves the fetched directory `tree` to where it stays, and yields that place for the environment to be built in.

    The caller holds the agent's lock. What was not activated when the context ends is removed, and what a dead
    process left is removed by `sweep`.
    """
    check_name(owner, "owner")
    check_name(name)
    with new_staging(paths) as staging, ExitStack() as stack:
        with storing("write", os.path.join(tree, IN_USE)):
            os.makedirs(os.path.join(tree, os.path.dirname(IN_USE)), exist_ok=True)
            os.close(os.open(os.path.join(tree, IN_USE), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        stack.enter_context(hold(tree))
        folder = os.path.join(paths.versions, owner, name)
        place = _free_place(os.path.join(folder, version_directory(version, digest)))
        staging.note(place)
        try:
            with storing("write", place):
                _rename_into(tree, place)
            yield place
        finally:
            if _current(paths, owner, name) != place:
                with storing("clean up", place), deferred_interrupts():
                    remove_tree(place)
                    remove_empty(folder, os.path.dirname(folder))


def complete_version(version_dir: str, record: InstallRecord) -> None:
    """Makes a prepared version durable, and then complete by writing its record."""
    with storing("write", version_dir):
        sync_file_system(version_dir)
    write_record(version_dir, record)


def activate(paths: Paths, version_dir: str) -> None:
    """Makes a complete version the current one of its agent: one rename. The caller holds the agent's lock.

    Raises:
        StoreError: the version is not complete, or the store cannot be written; nothing was changed.
    """
    owner, name, leaf = _parts(paths, version_dir)
    if not os.path.exists(os.path.join(version_dir, RECORD)):
        raise StoreError(f"{version_dir} has no install record and cannot be made current")
    link = os.path.join(paths.agents, owner, name)
    if os.path.isdir(link) and not os.path.islink(link):
        raise StoreError(
            f"{link} is a directory that agenthub did not make", suggestion="move it away, then install again"
        )
    # Made inside the version, where nobody else looks and where it is removed with it.
    fresh = os.path.join(version_dir, os.path.dirname(RECORD), "link")
    with storing("write", link):
        with suppress(FileNotFoundError):
            os.unlink(fresh)
        os.symlink(os.path.join("..", "..", os.path.basename(paths.versions), owner, name, leaf), fresh)
        _rename_into(fresh, link)
        fsync_directory(os.path.dirname(link))


def remove_version(paths: Paths, version_dir: str) -> bool:
    """Removes a version that is not current; False, and nothing removed, while a run uses it.

    The caller holds the agent's lock.

    Raises:
        StoreError: it is the current one, or cannot be removed.
    """
    owner, name, _ = _parts(paths, version_dir)
    if _current(paths, owner, name) == version_dir:
        raise StoreError(f"{version_dir} is the current version of {owner}/{name} and stays")
    with storing("remove", version_dir):
        unused = claim_unused(version_dir)
        if unused is None:
            return False
        with new_staging(paths) as staging:
            with unused, suppress(FileNotFoundError):
                os.rename(version_dir, os.path.join(staging.path, "removed"))
            remove_empty(os.path.dirname(version_dir), os.path.dirname(os.path.dirname(version_dir)))
    return True


def uninstall(
    paths: Paths, owner: str, name: str, *, force: bool = False, waiting: Callable[[], None] | None = None
) -> None:
    """Removes an agent: its link first, then all that was made for it, and what it was granted.

    Args:
        paths: of the store.
        owner: the agent's owner.
        name: its name.
        force: although a run is in progress.
        waiting: as for `agent_lock`.

    Raises:
        AgentNotFoundError: it is not installed.
        StoreError: a run is in progress, or the store cannot be written.
    """
    link = os.path.join(paths.agents, owner, name)
    folder = os.path.join(paths.versions, owner, name)
    _check_removable(link, folder)
    with agent_lock(paths, owner, name, waiting), ExitStack() as claims:
        try:
            _check_removable(link, folder)
        except AgentNotFoundError:  # another process was faster
            os.unlink(_lock_path(paths, owner, name))
            raise
        if not force and not _claim_all(folder, claims):
            raise StoreError(
                f"{owner}/{name} is running",
                suggestion="wait for it to end, or stop it; --force removes it nevertheless",
            )
        _remove_all(paths, owner, name, claims)


def sweep_removed(paths: Paths) -> list[str]:
    """Finishes removals that were cut short: versions and grants of agents that have no link any more.

    Returns:
        list[str]: the directories and files that were removed.
    """
    removed = []
    with storing("clean up", paths.home):
        found = set(_entries(paths.versions))
        found |= {(owner, leaf.removesuffix(".json")) for owner, leaf in _entries(paths.grants)}
        for owner, name in sorted(found):
            known = is_name(owner) and is_name(name)
            if known and not os.path.lexists(os.path.join(paths.agents, owner, name)):
                removed += _finish_removal(paths, owner, name)
    return removed


def _entries(root: str) -> Iterator[tuple[str, str]]:
    with suppress(FileNotFoundError):
        for owner in os.listdir(root):
            with suppress(NotADirectoryError):
                yield from ((owner, leaf) for leaf in os.listdir(os.path.join(root, owner)))


def _finish_removal(paths: Paths, owner: str, name: str) -> list[str]:
    lock = _lock_path(paths, owner, name)
    os.makedirs(paths.locks, mode=0o700, exist_ok=True)
    os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    descriptor = acquire_abandoned(lock)
    if descriptor is None:  # it is being installed
        return []
    try:
        folder = os.path.join(paths.versions, owner, name)
        if os.path.lexists(os.path.join(paths.agents, owner, name)):
            return []
        with ExitStack() as claims:
            if not _claim_all(folder, claims):
                return []
            _remove_all(paths, owner, name, claims)
        return [folder]
    finally:
        os.close(descriptor)


def _remove_all(paths: Paths, owner: str, name: str, claims: ExitStack) -> None:
    """The link first: from then on the agent is not there, and `sweep_removed` finishes what is cut short."""
    link = os.path.join(paths.agents, owner, name)
    folder = os.path.join(paths.versions, owner, name)
    grants = os.path.join(paths.grants, owner, f"{name}.json")
    with storing("remove", link), new_staging(paths) as staging:
        with suppress(FileNotFoundError):
            os.unlink(link)
            fsync_directory(os.path.dirname(link))
        with suppress(FileNotFoundError):
            os.rename(folder, os.path.join(staging.path, "removed"))
        claims.close()
        for file in (grants, _lock_path(paths, owner, name)):
            with suppress(FileNotFoundError):
                os.unlink(file)
        remove_empty(*map(os.path.dirname, (link, folder, grants)))


def superseded(paths: Paths, owner: str, name: str) -> list[str]:
    """The complete versions of an agent that are not current, the newest first."""
    folder = os.path.join(paths.versions, owner, name)
    current = _current(paths, owner, name)
    found = []
    with storing("read", folder), suppress(FileNotFoundError):
        for leaf in os.listdir(folder):
            version_dir = os.path.join(folder, leaf)
            with suppress(FileNotFoundError, NotADirectoryError):
                time = os.stat(os.path.join(version_dir, RECORD)).st_mtime_ns
                if version_dir != current:
                    found.append((time, version_dir))
    return [version_dir for _, version_dir in sorted(found, reverse=True)]


def _check_removable(link: str, folder: str) -> None:
    if not os.path.lexists(link) and not os.path.isdir(folder):
        agent = "/".join(link.split(os.sep)[-2:])
        raise AgentNotFoundError(f"{agent} is not installed", suggestion="agenthub list shows what is")
    if os.path.isdir(link) and not os.path.islink(link):
        raise StoreError(f"{link} is a directory that agenthub did not make", suggestion="remove it by hand")


def _claim_all(folder: str, claims: ExitStack) -> bool:
    """Claims all versions in a folder; False while one of them is in use."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for leaf in os.listdir(folder):
            unused = claim_unused(os.path.join(folder, leaf))
            if unused is None:
                return False
            claims.enter_context(unused)
    return True


def _rename_into(source: str, target: str) -> None:
    """Renames, making the parents of `target`, which another process may just be removing because they are empty."""
    for _ in range(_ATTEMPTS):
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(source, target)
            return
        except (FileNotFoundError, FileExistsError):  # makedirs says the latter of a parent that went just then
            if not os.path.lexists(source):
                raise
    os.rename(source, target)


def _free_place(place: str) -> str:
    number, candidate = 1, place
    while os.path.lexists(candidate):
        number += 1
        candidate = f"{place}-{number}"
    return candidate


def _current(paths: Paths, owner: str, name: str) -> str | None:
    link = os.path.join(paths.agents, owner, name)
    try:
        return os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    except OSError:
        return None


def _parts(paths: Paths, version_dir: str) -> tuple[str, str, str]:
    parts = os.path.relpath(version_dir, paths.versions).split(os.sep)
    if len(parts) != 3 or parts[0] in ("..", "."):
        raise StoreError(f"{version_dir} is not a version in the store {paths.home}")
    return parts[0], parts[1], parts[2]


def _lock_path(paths: Paths, owner: str, name: str) -> str:
    return os.path.join(paths.locks, f"{owner}@{name}.lock")
