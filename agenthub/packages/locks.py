"""Locks between processes, by flock(2): the kernel lets go of them however their holder dies."""

from __future__ import annotations

import fcntl
import os
import time

from agenthub.config import IN_USE, out_of_the_way
from agenthub.errors import AgentNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 1.0
"""Seconds of waiting after which the user is told."""
_POLL = 0.02


class Hold:
    """Keeps an installed version from being removed, until it is closed. Nothing is held where nothing can be."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @property
    def held(self) -> bool:
        """Whether there really is a lock (none in a plain directory, nor where the file system has no locks)."""
        return self._descriptor is not None

    def close(self) -> None:
        """Lets go; may be called more than once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(version_dir: str) -> Hold:
    """Marks a version as in use, for as long as the result is open or this process lives.

    Raises:
        AgentNotFoundError: the version was being removed at this moment.
    """
    path = os.path.join(version_dir, IN_USE)
    try:
        descriptor = out_of_the_way(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return Hold(None)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # who removes holds it for an instant only
    except OSError:
        os.close(descriptor)
        return Hold(None)
    if not _is_at(descriptor, path):
        os.close(descriptor)
        raise AgentNotFoundError(f"{version_dir} was removed a moment ago")
    return Hold(descriptor)


def claim_unused(version_dir: str) -> Hold | None:
    """The exclusive right to remove a version, or None while anybody uses it."""
    path = os.path.join(version_dir, IN_USE)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Hold(None)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Hold(descriptor)


def acquire(path: str, waiting: Callable[[], None] | None = None) -> int:
    """Locks the file at `path`, which is made if need be, and returns its descriptor: closing it unlocks.

    Args:
        path: the lock file, in an existing directory.
        waiting: called once when the lock is not to be had within `PATIENCE`.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if not _lock_patiently(descriptor, waiting):
                waiting = None
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):  # else its last holder removed it: take the new one
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def acquire_abandoned(path: str) -> int | None:
    """As `acquire`, but only an existing lock file that no living process holds; None otherwise."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    if _try(descriptor) and _is_at(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def _lock_patiently(descriptor: int, waiting: Callable[[], None] | None) -> bool:
    if _try(descriptor):
        return True
    if waiting is None:
        return False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        if _try(descriptor):
            return True
    waiting()
    return False


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
