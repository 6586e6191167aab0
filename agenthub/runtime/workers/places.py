"""The places that a worker's runs may write: the same directories for all of them, and as they were for each."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from typing import NamedTuple

from agenthub.runtime.processes.scratch import remove_tree

_MOST_KEPT = 1000
_TICK = 20_000_000  # nanoseconds; twice what the kernel's clock for files may be behind
_PATH_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC if hasattr(os, "O_PATH") else 0


def places(base: str) -> tuple[str, str, str]:
    """What a worker's runs may write: HOME and TMPDIR, and what stands for /tmp and for /dev/shm."""
    return os.path.join(base, "home"), os.path.join(base, "tmp"), os.path.join(base, "shm")


def make_places(base: str) -> None:
    """Makes these directories, empty."""
    for place in places(base):
        remove_tree(place)
        os.mkdir(place, 0o700)


class _Kept(NamedTuple):
    """What was there before the first run.

    A file must not have changed since. Of a directory that what was made in it can be removed; its mode and times are
    put back.
    """

    found: os.stat_result
    attributes: tuple[str, ...]

    def is_same(self, now: os.stat_result) -> bool:
        names = ["st_dev", "st_ino", "st_size"]  # many a directory that was large once does not become small again
        if not stat.S_ISDIR(self.found.st_mode):
            names += ["st_mode", "st_uid", "st_gid", "st_nlink", "st_mtime_ns", "st_ctime_ns"]
        return all(getattr(self.found, name) == getattr(now, name) for name in names)


class Places:
    """What a worker's runs may write, brought back to what it was when the agent was loaded.

    Where the sandbox was given other directories below /tmp, it made places to mount them in there; these stay, and so
    does what the agent wrote when it was imported.

    What runs leave is hostile: a link in a directory's place must not lead us elsewhere, so everything is reached by
    descriptors.

    Raises:
        OSError: it cannot be read.
        ValueError: the agent left too much there.
    """

    def __init__(self, base: str) -> None:
        self._places = places(base)
        self._kept: dict[str, _Kept] = {}
        self._settled: dict[str, tuple[float, ...]] = {}  # what tells that nothing changed
        self._newest = 0  # change among them
        self._certain = False
        self._untouched = False
        for place in self._places:
            self._note(place)
            for folder, folders, files in os.walk(place):
                for name in folders + files:
                    self._note(os.path.join(folder, name))
        self._settle()

    def _note(self, path: str) -> None:
        if len(self._kept) >= _MOST_KEPT:
            raise ValueError("too many files")
        self._kept[path] = _Kept(os.lstat(path), tuple(sorted(os.listxattr(path, follow_symlinks=False))))

    def _settle(self) -> None:
        """Remembers how all looks now; whatever is written, made or removed from now on changes that."""
        self._settled = {path: _signature(os.lstat(path)) for path in self._kept}
        self._newest = max(int(signature[-1]) for signature in self._settled.values())

    def note_begin(self) -> None:
        """A run begins. A change in the same tick of the clock as the one before it would not show."""
        self._certain = self._newest + _TICK < time.time_ns()
        self._untouched = False

    def are_untouched(self) -> bool:
        """Whether it is certain that nothing changed since a run began, of which nothing is left."""
        if self._certain and not self._untouched:
            with suppress(OSError):
                self._untouched = all(_signature(os.lstat(path)) == one for path, one in self._settled.items())
        return self._untouched

    def make_empty(self) -> bool:
        """Removes what runs left; False if something stays, or if what was there has gone or changed."""
        try:
            root = os.open(os.path.dirname(self._places[0]), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                seen = [self._restore(root, os.path.basename(place), place) for place in self._places]
            finally:
                os.close(root)
            self._settle()
        except OSError:
            return False
        return sum(seen) == len(self._kept)

    def _restore(self, parent: int, name: str, path: str) -> int:
        """How many of those that are kept are as they were, this one and all below it. Raises OSError: one is not."""
        kept = self._kept[path]
        here = os.open(name, _PATH_ONLY, dir_fd=parent)
        try:
            now = os.fstat(here)
            same = stat.S_IFMT(kept.found.st_mode) == stat.S_IFMT(now.st_mode) and kept.found.st_ino == now.st_ino
            if not same or kept.found.st_dev != now.st_dev:
                raise OSError("something else lies there")
            if not stat.S_ISDIR(now.st_mode):
                self._check_file(parent, name, path, now)
                return 1
            if stat.S_IMODE(now.st_mode) != 0o700:
                os.chmod(f"/proc/self/fd/{here}", 0o700)
            folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        try:
            return 1 + self._restore_folder(folder, path)
        finally:
            os.close(folder)

    def _restore_folder(self, folder: int, path: str) -> int:
        seen = 0
        for name in os.listdir(folder):
            inner = os.path.join(path, name)
            if inner in self._kept:
                seen += self._restore(folder, name, inner)
            elif stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                remove_tree(f"/proc/self/fd/{folder}/{name}")
            else:
                os.unlink(name, dir_fd=folder)
        kept = self._kept[path]
        for attribute in set(os.listxattr(folder)).difference(kept.attributes):
            os.removexattr(folder, attribute)
        os.fchmod(folder, stat.S_IMODE(kept.found.st_mode))
        below = {os.path.join(path, name) for name in os.listdir(folder)}
        os.utime(folder, ns=(kept.found.st_atime_ns, kept.found.st_mtime_ns))
        if not below <= self._kept.keys() or not kept.is_same(os.fstat(folder)):
            raise OSError("it cannot be made as it was")
        return seen

    def _check_file(self, parent: int, name: str, path: str, now: os.stat_result) -> None:
        kept = self._kept[path]
        attributes = tuple(sorted(os.listxattr(f"/proc/self/fd/{parent}/{name}", follow_symlinks=False)))
        if not kept.is_same(now) or attributes != kept.attributes:
            raise OSError("it was changed")
        if now.st_atime_ns != kept.found.st_atime_ns:  # that it was read is nobody's business either
            times = (kept.found.st_atime_ns, kept.found.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            self._kept[path] = _Kept(os.stat(name, dir_fd=parent, follow_symlinks=False), attributes)


def _signature(found: os.stat_result) -> tuple[float, ...]:
    """What changes with anything that is done to a file or a directory, the time of its last change last."""
    return (*found[:7], found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
