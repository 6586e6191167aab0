"""Whether nothing is there but a loaded process and what holds it: looked at often, so with a few system calls."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_TICK = os.sysconf("SC_CLK_TCK")
_MOST = 65536  # bytes of a list of children; a longer one is not the one that is expected
_READ = os.O_RDONLY | os.O_CLOEXEC


class Stillness:
    """Made at a moment when nobody else is there; says later whether that is so again, or still.

    Whoever joins a run is the child of a process of it; an orphan's new parent is above its old one. So it is enough
    to look at the children of those who may be there, from the lowest to the highest, this process last. They are
    looked at by descriptors that stay theirs when their numbers are given away.

    Args:
        pids: of those who may be there, parents before their children; all of them below this process.

    Raises:
        OSError: the kernel has no lists of children, or one of them is gone.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._watched: list[tuple[int, int]] = []  # the lists of their children, and their tasks
        self._times: list[int] = []
        self._tasks = os.open("/proc/self/task", _READ | os.O_DIRECTORY)
        self._threads: dict[str, int] = {}  # of this process
        try:
            for pid in reversed(pids):
                tasks = os.open(f"/proc/{pid}/task", _READ | os.O_DIRECTORY)
                children = os.open(f"{pid}/children", _READ, dir_fd=tasks)
                self._watched.append((children, tasks))
                self._times.append(os.open(f"/proc/{pid}/stat", _READ))
            self._expected = self._look()
        except BaseException:
            self.close()
            raise

    def holds(self) -> bool:
        """Whether nobody else is there."""
        try:
            return self._look() == self._expected
        except OSError:  # one of them is gone
            return False

    def _look(self) -> list[object]:
        seen: list[object] = []
        for children, tasks in self._watched:
            seen += os.pread(children, _MOST, 0), os.fstat(tasks).st_nlink
        return [*seen, sorted(self._own())]

    def _own(self) -> list[bytes]:
        """The children of this process, whichever of its threads has them."""
        names = os.listdir(self._tasks)
        if names != list(self._threads):
            self._forget_threads()
            for name in names:
                self._threads[name] = os.open(f"{name}/children", _READ, dir_fd=self._tasks)
        return [child for thread in self._threads.values() for child in os.pread(thread, _MOST, 0).split()]

    def cpu(self) -> float:
        """Seconds that those who may be there have used, with their children of before."""
        used = 0
        for descriptor in self._times:
            used += sum(map(int, os.pread(descriptor, 4096, 0).rpartition(b")")[2].split()[11:15]))
        return used / _TICK

    def _forget_threads(self) -> None:
        threads, self._threads = self._threads, {}
        for descriptor in threads.values():
            os.close(descriptor)

    def close(self) -> None:
        """Frees its descriptors."""
        self._forget_threads()
        watched, self._watched = self._watched, []
        times, self._times = self._times, []
        for descriptor in [*times, *(one for pair in watched for one in pair)]:
            os.close(descriptor)
        if self._tasks >= 0:
            os.close(self._tasks)
            self._tasks = -1
