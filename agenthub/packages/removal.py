"""Removals: an agent with all that was made for it, or versions of it that nobody needs. Never what is in use."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from agenthub.config import Paths
from agenthub.errors import AgentNotFoundError, StoreError
from agenthub.packages.changes import agent_lock, current_version, lock_path, owner_and_name, superseded
from agenthub.packages.files import fsync_directory, remove_empty, storing
from agenthub.packages.locks import acquire_abandoned, claim_unused
from agenthub.packages.names import content_of, is_name
from agenthub.packages.project_links import referenced_versions
from agenthub.packages.staging import new_staging
from agenthub.packages.states import state_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def remove_version(paths: Paths, version_dir: str) -> bool:
    """Removes a version that is not current; False, and nothing removed, while a run or a project uses it.

    The caller holds the agent's lock.

    Raises:
        StoreError: it is the current one, or cannot be removed.
    """
    owner, name = owner_and_name(paths, version_dir)
    if current_version(paths, owner, name) == version_dir:
        raise StoreError(f"{version_dir} is the current version of {owner}/{name} and stays")
    if version_dir in referenced_versions(paths):
        return False
    with storing("remove", version_dir):
        unused = claim_unused(version_dir)
        if unused is None:
            return False
        with new_staging(paths) as staging:
            with unused, suppress(FileNotFoundError):
                os.rename(version_dir, os.path.join(staging.path, "removed"))
            remove_empty(os.path.dirname(version_dir), os.path.dirname(os.path.dirname(version_dir)))
    return True


def prune(paths: Paths, owner: str, name: str, keep: int) -> list[str]:
    """Removes an agent's superseded versions beyond the `keep` that it had last, and those whose content stays.

    The caller holds the agent's lock.

    Returns:
        list[str]: what was removed; not what a run uses.
    """
    return [place for place in surplus(paths, owner, name, keep) if remove_version(paths, place)]


def surplus(paths: Paths, owner: str, name: str, keep: int) -> list[str]:
    """What `prune` would remove, where nobody uses it."""
    current = current_version(paths, owner, name)
    kept = {content_of(current)} if current else set()
    most = len(kept) + keep
    found = []
    for place in superseded(paths, owner, name):
        if content_of(place) in kept or len(kept) >= most:
            found.append(place)
        else:
            kept.add(content_of(place))
    return found


def uninstall(
    paths: Paths, owner: str, name: str, *, force: bool = False, waiting: Callable[[], None] | None = None
) -> None:
    """Removes an agent: its link first, then all that was made for it, and what it was granted.

    Versions that projects use stay.

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
            os.unlink(lock_path(paths, owner, name))
            raise
        removable = _removable(paths, folder)
        if not force and not _claim_all(removable, claims):
            raise StoreError(
                f"{owner}/{name} is running",
                suggestion="wait for it to end, or stop it; --force removes it nevertheless",
            )
        _remove_all(paths, owner, name, removable, claims)


def sweep_removed(paths: Paths, *, remove: bool = True) -> list[str]:
    """Finishes removals that were cut short: versions, grants and states of agents that have no link any more.

    Args:
        paths: of the store.
        remove: off: only look.

    Returns:
        list[str]: the directories and files that were removed, or would be.
    """
    removed = []
    with storing("clean up", paths.home):
        found = set(_entries(paths.versions))
        for root in (paths.grants, paths.states):
            found |= {(owner, leaf.removesuffix(".json")) for owner, leaf in _entries(root)}
        for owner, name in sorted(found):
            known = is_name(owner) and is_name(name)
            if known and not os.path.lexists(os.path.join(paths.agents, owner, name)):
                removed += _finish_removal(paths, owner, name, remove=remove)
    return removed


def _entries(root: str) -> Iterator[tuple[str, str]]:
    with suppress(FileNotFoundError):
        for owner in os.listdir(root):
            with suppress(NotADirectoryError):
                yield from ((owner, leaf) for leaf in os.listdir(os.path.join(root, owner)))


def _finish_removal(paths: Paths, owner: str, name: str, *, remove: bool) -> list[str]:
    lock = lock_path(paths, owner, name)
    os.makedirs(paths.locks, mode=0o700, exist_ok=True)
    os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    descriptor = acquire_abandoned(lock)
    if descriptor is None:  # it is being installed
        return []
    try:
        folder = os.path.join(paths.versions, owner, name)
        if os.path.lexists(os.path.join(paths.agents, owner, name)):
            return []
        removable = _removable(paths, folder)
        files = (os.path.join(paths.grants, owner, f"{name}.json"), state_path(paths, owner, name))
        found = bool(removable) or any(map(os.path.lexists, files))
        with ExitStack() as claims:
            if remove and not _claim_all(removable, claims):
                return []
            if remove:
                _remove_all(paths, owner, name, removable, claims)
        return [folder] if found else []
    finally:
        os.close(descriptor)


def _removable(paths: Paths, folder: str) -> list[str]:
    """The versions in a folder that no project uses."""
    used = referenced_versions(paths)
    with suppress(FileNotFoundError, NotADirectoryError):
        return [place for leaf in sorted(os.listdir(folder)) if (place := os.path.join(folder, leaf)) not in used]
    return []


def _remove_all(paths: Paths, owner: str, name: str, removable: list[str], claims: ExitStack) -> None:
    """The link first: from then on the agent is not there, and `sweep_removed` finishes what is cut short."""
    link = os.path.join(paths.agents, owner, name)
    folder = os.path.join(paths.versions, owner, name)
    grants = os.path.join(paths.grants, owner, f"{name}.json")
    state = state_path(paths, owner, name)
    with storing("remove", link), new_staging(paths) as staging:
        with suppress(FileNotFoundError):
            os.unlink(link)
            fsync_directory(os.path.dirname(link))
        for place in removable:
            with suppress(FileNotFoundError):
                os.rename(place, os.path.join(staging.path, os.path.basename(place)))
        claims.close()
        for file in (grants, state, lock_path(paths, owner, name)):
            with suppress(FileNotFoundError):
                os.unlink(file)
        remove_empty(folder, *map(os.path.dirname, (link, folder, grants, state)), paths.states)


def _check_removable(link: str, folder: str) -> None:
    if not os.path.lexists(link) and not os.path.isdir(folder):
        agent = "/".join(link.split(os.sep)[-2:])
        raise AgentNotFoundError(f"{agent} is not installed", suggestion="agenthub list shows what is")
    if os.path.isdir(link) and not os.path.islink(link):
        raise StoreError(f"{link} is a directory that agenthub did not make", suggestion="remove it by hand")


def _claim_all(versions: list[str], claims: ExitStack) -> bool:
    """Claims these versions; False while one of them is in use."""
    for version_dir in versions:
        with suppress(NotADirectoryError):
            unused = claim_unused(version_dir)
            if unused is None:
                return False
            claims.enter_context(unused)
    return True
