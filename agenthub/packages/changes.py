"""Changes of what is installed. Each is one rename: before it there is the old state, after it the new one, whole."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress

from agenthub.config import IN_USE, RECORD, Paths
from agenthub.errors import StoreError
from agenthub.interrupts import deferred_interrupts
from agenthub.packages.files import fsync_directory, remove_empty, remove_tree, storing, sync_file_system
from agenthub.packages.locks import acquire, hold
from agenthub.packages.names import check_name, version_directory
from agenthub.packages.project_links import link_target, referenced_versions
from agenthub.packages.record import InstallRecord, write_record
from agenthub.packages.staging import new_staging, open_store
from agenthub.packages.states import AgentState, read_state, state_path, write_state

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
        descriptor = acquire(lock_path(paths, owner, name), waiting)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def prepare_version(
    paths: Paths, owner: str, name: str, version: str, digest: str, tree: str, *, link: str | None = None
) -> Iterator[str]:
    """Moves the fetched directory `tree` to where it stays, and yields that place for the environment to be built in.

    The caller holds the agent's lock. What `link` (None: the user's) does not name when the context ends is removed,
    and what a dead process left is removed by `sweep`.
    """
    link = link or paths.current_link(owner, name)
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
            if link_target(link) != place:
                with storing("clean up", place), deferred_interrupts():
                    remove_tree(place)
                    remove_empty(folder, os.path.dirname(folder))


def complete_version(version_dir: str, record: InstallRecord) -> None:
    """Makes a prepared version durable, and then complete by writing its record."""
    with storing("write", version_dir):
        sync_file_system(version_dir)
    write_record(version_dir, record)


def activate(paths: Paths, version_dir: str, link: str | None = None) -> None:
    """Makes a complete version the current one of its agent: one rename. The caller holds the agent's lock.

    The version that was current is noted before as the one to go back to; a note that this was cut short after is
    harmless, since who reads it passes over what is current.

    Args:
        paths: of the store.
        version_dir: the version.
        link: which link names it then; None: the user's, or else one of a project's.

    Raises:
        StoreError: the version is not complete, or the store cannot be written; nothing was changed.
    """
    owner, name = owner_and_name(paths, version_dir)
    if not os.path.exists(os.path.join(version_dir, RECORD)):
        raise StoreError(f"{version_dir} has no install record and cannot be made current")
    users, link = link is None, link or paths.current_link(owner, name)
    if os.path.isdir(link) and not os.path.islink(link):
        raise StoreError(
            f"{link} is a directory that agenthub did not make", suggestion="move it away, then install again"
        )
    noted = users and _note_previous(paths, owner, name, version_dir)
    try:
        _link(version_dir, link)
    except StoreError:
        if noted:
            _forget_note(paths, owner, name)
        raise


def _link(version_dir: str, link: str) -> None:
    # Made inside the version, where nobody else looks and where it is removed with it.
    fresh = os.path.join(version_dir, os.path.dirname(RECORD), "link")
    with storing("write", link):
        with suppress(FileNotFoundError):
            os.unlink(fresh)
        os.symlink(os.path.relpath(version_dir, os.path.dirname(link)), fresh)
        _rename_into(fresh, link)
        fsync_directory(os.path.dirname(link))


def _note_previous(paths: Paths, owner: str, name: str, version_dir: str) -> bool:
    """Notes the current version as one to go back to; returns whether that is all that is known of the agent."""
    current = current_version(paths, owner, name)
    if current in (None, version_dir):
        return False
    state = read_state(paths, owner, name)
    folder = os.path.join(paths.versions, owner, name)
    previous = dict.fromkeys((os.path.basename(str(current)), *state.previous))
    kept = tuple(leaf for leaf in previous if os.path.isdir(os.path.join(folder, leaf)))
    if kept != state.previous:
        write_state(paths, owner, name, state._replace(previous=kept))
    return state == AgentState()


def _forget_note(paths: Paths, owner: str, name: str) -> None:
    """Leaves nothing of a change that failed, where there was nothing before."""
    path = state_path(paths, owner, name)
    with suppress(OSError):
        os.unlink(path)
        remove_empty(os.path.dirname(path), paths.states)


def superseded(paths: Paths, owner: str, name: str) -> list[str]:
    """As `other_versions`, without those that a project uses."""
    used = referenced_versions(paths)
    return [version_dir for version_dir in other_versions(paths, owner, name) if version_dir not in used]


def other_versions(paths: Paths, owner: str, name: str) -> list[str]:
    """The complete versions of an agent but the current: those it had before, the latest first, then the newest."""
    folder = os.path.join(paths.versions, owner, name)
    current = current_version(paths, owner, name)
    found = []
    with storing("read", folder), suppress(FileNotFoundError):
        for leaf in os.listdir(folder):
            version_dir = os.path.join(folder, leaf)
            with suppress(FileNotFoundError, NotADirectoryError):
                time = os.stat(os.path.join(version_dir, RECORD)).st_mtime_ns
                if version_dir != current:
                    found.append((time, version_dir))
    if len(found) < 2:
        return [version_dir for _, version_dir in found]
    rank = {leaf: -number for number, leaf in enumerate(read_state(paths, owner, name).previous, 1)}
    lowest = -len(rank) - 1
    found.sort(key=lambda one: (rank.get(os.path.basename(one[1]), lowest), one[0]), reverse=True)
    return [version_dir for _, version_dir in found]


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


def current_version(paths: Paths, owner: str, name: str) -> str | None:
    """The directory that an agent's link names, be it there or not; None without a link."""
    link = os.path.join(paths.agents, owner, name)
    try:
        return os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    except OSError:
        return None


def owner_and_name(paths: Paths, version_dir: str) -> tuple[str, str]:
    """Whose version a directory is.

    Raises:
        StoreError: it is none of this store.
    """
    parts = os.path.relpath(version_dir, paths.versions).split(os.sep)
    if len(parts) != 3 or parts[0] in ("..", "."):
        raise StoreError(f"{version_dir} is not a version in the store {paths.home}")
    return parts[0], parts[1]


def lock_path(paths: Paths, owner: str, name: str) -> str:
    """The file whose lock is the right to change an agent."""
    return os.path.join(paths.locks, f"{owner}@{name}.lock")
