"""How much disk a run takes in its scratch directory: looked at often where that is cheap, walked where it matters."""

from __future__ import annotations

import errno
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_BLOCK = 512  # bytes; the unit of `st_blocks`, whatever the file system's own is
_ENTRY = 4096  # bytes that an entry counts at least: its inode is of a table of a fixed size
_LONGEST_PAUSE = 1.0  # seconds between walks, where nothing seems to have grown
_WALK_SHARE = 10  # the pause after a walk, as a multiple of the time it took


class DiskUse:
    """Watches a directory against a cap; the peak is in `peak` (bytes).

    The file system's own count says at once that something grew, though not who wrote it; then the directory is walked.

    Args:
        directory: the run's scratch directory.
        cap: bytes; None: only `measure` is wanted.
    """

    def __init__(self, directory: str, cap: int | None) -> None:
        self._directory = directory
        self._cap = cap
        self._walked = time.monotonic()
        self._walking = 0.0
        self._taken = self._used()
        self._size = 0
        self.peak = 0

    def exceeded(self, pids: Iterable[int]) -> bool:
        """Whether the run has more on disk than it may.

        Args:
            pids: its processes; files that they hold open and have deleted count too.
        """
        if self._cap is None:
            return False
        since = time.monotonic() - self._walked
        grown = self._size + max(0, self._used() - self._taken) > self._cap
        if since < _WALK_SHARE * self._walking or not (grown or since > _LONGEST_PAUSE):
            return False
        return self.measure(pids) > self._cap

    def measure(self, pids: Iterable[int] = ()) -> int:
        """Bytes that the directory's files take now, with those that the processes hold deleted."""
        started = time.monotonic()
        self._taken = self._used()
        seen: set[tuple[int, int]] = set()
        self._size = self._below(seen) + sum(self._deleted(pid, seen) for pid in pids)
        self._walked = time.monotonic()
        self._walking = self._walked - started
        self.peak = max(self.peak, self._size)
        return self._size

    def _used(self) -> int:
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return 0
        return (found.f_blocks - found.f_bfree) * found.f_frsize + (found.f_files - found.f_ffree) * _ENTRY

    def _below(self, seen: set[tuple[int, int]]) -> int:
        total = 0
        pending = [self._directory]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        total += _size_of(entry.stat(follow_symlinks=False), seen)
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
            except OSError as error:  # removed meanwhile, or made unreadable: then its files were counted before
                if error.errno == errno.ENAMETOOLONG:  # only to hide something is it made that deep
                    total += self._cap or 0
        return total

    def _deleted(self, pid: int, seen: set[tuple[int, int]]) -> int:
        total = 0
        try:
            here = os.stat(self._directory).st_dev
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return 0
        for name in names:
            try:
                found = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0 and found.st_dev == here:
                total += _size_of(found, seen)
        return total


def _size_of(found: os.stat_result, seen: set[tuple[int, int]]) -> int:
    """Bytes of a file that was not counted yet: one with several names counts once."""
    if found.st_nlink != 1:
        if (found.st_dev, found.st_ino) in seen:
            return 0
        seen.add((found.st_dev, found.st_ino))
    return max(found.st_blocks * _BLOCK, _ENTRY)
