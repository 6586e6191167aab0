"""Work in progress: each piece is held by a lock of its maker, so that what the dead left can be told and removed."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from agenthub.config import RECORD, Paths
from agenthub.errors import StoreError
from agenthub.interrupts import deferred_interrupts
from agenthub.packages.files import SCHEMA_VERSION, read_json, remove_tree, storing, write_json
from agenthub.packages.locks import acquire, acquire_abandoned, claim_unused
from agenthub.packages.project_links import referenced_versions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = ".lock"


class Staging:
    """A directory under `staging/`, and a note of what else its maker is making."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def note(self, version_dir: str) -> None:
        """Makes `version_dir` part of the work: it is removed as well when its maker dies before its record exists."""
        with storing("write", self.path + _LOCK):
            os.pwrite(self._descriptor, os.fsencode(version_dir), 0)
            os.fsync(self._descriptor)


def open_store(paths: Paths) -> None:
    """Makes the store if there is none, for its owner alone; checks that this agenthub may write it.

    Raises:
        StoreError: it cannot be made, or a newer agenthub wrote it.
    """
    if check_marker(paths):
        return
    with storing("create", paths.home):
        os.makedirs(paths.home, mode=0o700, exist_ok=True)
        os.makedirs(paths.staging, mode=0o700, exist_ok=True)
    with _staging(paths) as staging:
        write_json(paths.marker, {"schema_version": SCHEMA_VERSION}, staging.path)


def check_marker(paths: Paths) -> bool:
    """Whether there is a store.

    Raises:
        StoreError: a newer agenthub wrote it.
    """
    try:
        read_json(paths.marker, "agenthub doctor --fix writes it anew")
    except FileNotFoundError:
        return False
    return True


def _mend_marker(paths: Paths) -> list[str]:
    """Removes a marker that cannot be read at all: the next change makes it anew, and records have a schema too."""
    try:
        check_marker(paths)
    except StoreError as error:
        if "damaged" not in error.message:
            raise
        os.unlink(paths.marker)
        open_store(paths)
        return [paths.marker]
    return []


@contextmanager
def new_staging(paths: Paths) -> Iterator[Staging]:
    """A directory of one's own on the store's file system; gone afterwards.

    Raises:
        StoreError: the store cannot be written.
    """
    open_store(paths)
    with _staging(paths) as staging:
        yield staging


@contextmanager
def new_staging_directory(paths: Paths) -> Iterator[str]:
    """As `new_staging`, for those who need the path only."""
    with new_staging(paths) as staging:
        yield staging.path


@contextmanager
def _staging(paths: Paths) -> Iterator[Staging]:
    path = os.path.join(paths.staging, os.urandom(8).hex())
    descriptor = -1
    try:
        with storing("write", paths.staging), deferred_interrupts():
            os.makedirs(paths.staging, mode=0o700, exist_ok=True)
            descriptor = acquire(path + _LOCK)
            os.mkdir(path, 0o700)
        yield Staging(path, descriptor)
    finally:
        if descriptor >= 0:
            with deferred_interrupts():
                _discard(path, descriptor)


def _discard(path: str, descriptor: int) -> None:
    try:
        with storing("clean up", path), suppress(FileNotFoundError):
            remove_tree(path)
            os.unlink(path + _LOCK)
    finally:
        os.close(descriptor)


def sweep(paths: Paths, *, thorough: bool = False, remove: bool = True) -> list[str]:
    """Removes what dead processes left: staging directories, half-made environments, and versions without a record.

    Args:
        paths: of the store.
        thorough: look through all versions, and not only at those that a staging note names.
        remove: off: only look.

    Returns:
        list[str]: what was removed, or would be.

    Raises:
        StoreError: the store cannot be written, or a newer agenthub wrote it.
    """
    with storing("clean up", paths.home):
        removed = _mend_marker(paths) if thorough and remove else []
        check_marker(paths)
        names = set(_names(paths.staging))
        for name in sorted(names):
            path = os.path.join(paths.staging, name)
            if name.endswith(_LOCK):
                removed += _sweep_abandoned(paths, path, remove)
            elif name + _LOCK not in names and not os.path.lexists(path + _LOCK):
                if remove:
                    remove_tree(path)
                removed.append(path)
        for name in _names(paths.workshop):
            if name.endswith(_LOCK):
                removed += _sweep_bench(os.path.join(paths.workshop, name), remove)
        if thorough:
            for version_dir in _all_versions(paths):
                removed += _remove_incomplete(version_dir, remove)
    return removed


def _sweep_abandoned(paths: Paths, lock: str, remove: bool) -> list[str]:
    descriptor = acquire_abandoned(lock)
    if descriptor is None:
        return []
    try:
        noted = os.fsdecode(os.pread(descriptor, 8192, 0))
        removed = []
        if noted.startswith(paths.versions + os.sep) and os.path.normpath(noted) == noted:
            removed = _remove_unfinished(paths, noted, remove)
        path = lock.removesuffix(_LOCK)
        if os.path.lexists(path):
            removed.append(path)
        if remove:
            remove_tree(path)
            os.unlink(lock)
        return removed
    finally:
        os.close(descriptor)


def _sweep_bench(lock: str, remove: bool) -> list[str]:
    """Removes a half-made environment; its lock stays, since the bench is used again."""
    path = lock.removesuffix(_LOCK)
    if not os.path.lexists(path):
        return []
    descriptor = acquire_abandoned(lock)
    if descriptor is None:
        return []
    try:
        if remove:
            remove_tree(path)
        return [path]
    finally:
        os.close(descriptor)


def _remove_unfinished(paths: Paths, version_dir: str, remove: bool) -> list[str]:
    """Removes a version whose maker died before any link named it, be it complete or not."""
    owner, name = version_dir.split(os.sep)[-3:-1]
    link = os.path.join(paths.agents, owner, name)
    if not os.path.isdir(version_dir) or os.path.realpath(link) == os.path.realpath(version_dir):
        return []
    if version_dir in referenced_versions(paths):
        return []
    return _remove_unused(version_dir, remove)


def _remove_incomplete(version_dir: str, remove: bool) -> list[str]:
    if not os.path.isdir(version_dir) or os.path.lexists(os.path.join(version_dir, RECORD)):
        return []
    return _remove_unused(version_dir, remove, complete=False)


def _remove_unused(version_dir: str, remove: bool, *, complete: bool = True) -> list[str]:
    """Removes a version that nobody holds; with `complete` off, only while it has no record."""
    unused = claim_unused(version_dir)
    if unused is None:
        return []
    with unused:
        if not complete and os.path.lexists(os.path.join(version_dir, RECORD)):
            return []
        if not remove:
            return [version_dir]
        remove_tree(version_dir)
    for parent in (os.path.dirname(version_dir), os.path.dirname(os.path.dirname(version_dir))):
        with suppress(OSError):  # not empty
            os.rmdir(parent)
    return [version_dir]


def _all_versions(paths: Paths) -> Iterator[str]:
    for owner in _names(paths.versions):
        for name in _names(os.path.join(paths.versions, owner)):
            folder = os.path.join(paths.versions, owner, name)
            yield from (os.path.join(folder, version) for version in _names(folder))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
