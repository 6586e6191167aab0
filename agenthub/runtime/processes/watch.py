"""What a run's process tree uses while it runs, and when that is too much."""

from __future__ import annotations

import time

from agenthub.runtime.processes.kill import Reaped, reap_orphan
from agenthub.runtime.processes.process_tree import peak_rss

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agenthub.runtime.processes.cgroups import Cgroup
    from agenthub.runtime.processes.disk_use import DiskUse
    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.processes.process_tree import Member, ProcessTree

POLL = 0.01  # seconds: 1 GiB touched as fast as possible overshoots a cap by some 15 MiB then
POLL_WITH_CGROUP = 0.05  # the kernel holds the cap
_YOUTH = 0.2  # seconds in which a run is always looked at often, or a short one's peak would be the shell's
_SCAN_SHARE = 10  # the pause after looking, as a multiple of the time it took
_DOUBTS = 3  # so many times in a row a doubtful figure is let pass
_CONFIRM_SHARE = 4  # the same after measuring exactly what seems to be over the cap


class Watch:
    """Polls a tree against its caps; the peak is in `peak` (bytes) and `tasks`, the CPU time in `cpu` (seconds).

    Args:
        tree: whom to look at.
        root: pid of the first process.
        limits: `memory`, `cpu` and `processes` count here.
        cgroup: the one that the run is to enter, if any; it holds the memory cap then, and polls are fewer.
        disk: the run's scratch directory, if that counts.
        helpers: tells which members are not the agent's and count for nothing.
    """

    def __init__(
        self,
        tree: ProcessTree,
        root: int,
        limits: Limits,
        cgroup: Cgroup | None,
        disk: DiskUse | None = None,
        helpers: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._tree = tree
        self._root = root
        self._limits = limits
        self._cgroup = cgroup
        self._disk = disk
        self._helpers = helpers
        self._suspicious = False
        self._doubts = 0
        self._cpu_before = 0.0
        self._measured = 0.0  # when
        self._measuring = 0.0  # how long it took
        self.reaped = Reaped()
        self._young_until = time.monotonic() + _YOUTH
        self.peak = 0
        self.cpu = 0.0
        self.tasks = 0
        self.due = 0.0
        """When the next poll is to be made, on the monotonic clock."""

    def poll(self) -> str | None:
        """Looks once; returns the reason to end the run (`memory cpu processes disk`), or None."""
        started = time.monotonic()
        members = self._tree.scan()
        for member in members:
            if member.zombie and member.pid != self._root:
                reap_orphan(member, self.reaped)
        # Whoever reaps orphans has used what they used, helpers too.
        used = self.reaped.cpu + sum(member.cpu for member in members)
        self.cpu = max(self.cpu, used - self._cpu_before)
        helpers = self._helpers()
        members = [member for member in members if member.pid not in helpers]
        inside = self._cgroup is not None and self._cgroup.members()
        relaxed = inside and started > self._young_until
        pause = max(POLL_WITH_CGROUP if relaxed else POLL, _SCAN_SHARE * (time.monotonic() - started))
        before = self._measured
        reason = self._judge(members)
        if self._measured != before and self._suspicious:
            pause = max(pause, _CONFIRM_SHARE * self._measuring)
        self.due = time.monotonic() + pause
        return reason

    def forget_cpu(self, used: float | None) -> None:
        """Counts CPU time from now on: what is there already used its own before the run.

        Args:
            used: seconds of that, where they are known.
        """
        self._cpu_before = sum(member.cpu for member in self._tree.scan()) if used is None else used

    def note_peak(self) -> None:
        """Notes the first process's own peak, which the kernel keeps exactly, while it is there to be asked."""
        self.peak = max(self.peak, peak_rss(self._root))

    def oom_killed(self) -> bool:
        """Whether the kernel killed a process of the run for its memory cap."""
        killed = self._cgroup is not None and self._cgroup.oom_killed()
        if killed:  # which no poll can have seen
            self.peak = max(self.peak, self._limits.memory or 0)
        return killed

    def _judge(self, members: Sequence[Member]) -> str | None:
        limits = self._limits
        if self._memory_exceeded(members) or self.oom_killed():
            return "memory"
        if limits.cpu is not None and self.cpu > limits.cpu:
            return "cpu"
        tasks = sum(member.tasks for member in members if not member.zombie)
        self.tasks = max(self.tasks, tasks)
        if limits.processes is not None and tasks > limits.processes:
            return "processes"
        if self._disk is not None and self._disk.exceeded(member.pid for member in members):
            return "disk"
        return None

    def _memory_exceeded(self, members: Sequence[Member]) -> bool:
        """Forks share pages, so that the sum of what is resident is only a first, cheap suspicion."""
        memory = sum(member.rss for member in members)
        cap = self._limits.memory
        self._suspicious = cap is not None and memory > cap
        if self._suspicious or (memory > self.peak and len(members) > 1):
            # To know the peak of several processes is worth a tenth of the time; to kill rightly is worth more.
            if not self._suspicious and time.monotonic() < self._measured + _SCAN_SHARE * self._measuring:
                return False
            started = time.monotonic()
            memory = min(memory, self._tree.memory(members))
            self._measured = time.monotonic()
            self._measuring = self._measured - started
        if cap is None or memory <= cap:
            self.peak = max(self.peak, memory)
            self._doubts = 0
            return False
        if self._doubts < _DOUBTS and self._somebody_left(members):
            self._doubts += 1
            return False
        self.peak = max(self.peak, memory)
        return True

    def _somebody_left(self, members: Sequence[Member]) -> bool:
        """Whether a member ended while all were measured: its share then counted twice, as its own and its heirs'."""
        now = {member.pid for member in self._tree.scan() if not member.zombie}
        return any(member.pid not in now for member in members if not member.zombie)
