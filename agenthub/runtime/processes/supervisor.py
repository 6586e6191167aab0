"""One run in a process of its own: how it starts, and that nothing of it is left."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import suppress

from agenthub.errors import AgentRuntimeError
from agenthub.runtime.processes.cancellation import STOP_PIPE, StopPipe
from agenthub.runtime.processes.cgroups import make_cgroup
from agenthub.runtime.processes.confined import Confinement, Unconfined
from agenthub.runtime.processes.delivery import Delivery
from agenthub.runtime.processes.launch import (
    OPEN_GATE,
    Launch,
    apply_rlimits,
    check_program,
    choose_mark,
    open_doors,
    start_gated,
)
from agenthub.runtime.processes.process_tree import open_tree
from agenthub.runtime.processes.remains import remove_record, write_record
from agenthub.runtime.processes.subreaper import Subreaper
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from agenthub.runtime.processes.cancellation import Cancellation
    from agenthub.runtime.processes.cgroups import Cgroup
    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.processes.lines import Log
    from agenthub.runtime.processes.pipes import Pipes
    from agenthub.runtime.processes.process_tree import ProcessTree
    from agenthub.runtime.processes.protocol import Exchange
    from agenthub.runtime.processes.run_loop import RunLoop

__all__ = ["Completion", "Launch", "supervise"]

_RELAYED = 128  # plus the signal's number: how a relaying first process ends


class Completion(NamedTuple):
    """How a run ended.

    Attributes:
        reason: `exited`; or why it was killed: `timeout memory cpu processes disk output cancelled protocol`.
        status: exit status; None where a signal ended it, or where the embedding program reaped it first.
        signal: number of the signal that ended it, or None.
        error: what the agent broke, where the reason is `protocol`.
        wall, cpu: seconds.
        peak_memory: bytes, of the whole tree.
        output: bytes of stdout and stderr.
        log: the newest log lines.
        survivors: whether a process could not be killed.
        peak_tasks: the most processes and threads that were seen at once.
        disk: bytes in the scratch directory, the most that was seen.
        isolation: what held it: `bubblewrap`, `landlock` or `rlimits`.
    """

    reason: str
    status: int | None
    signal: int | None
    error: AgentRuntimeError | None
    wall: float
    cpu: float
    peak_memory: int
    output: int
    log: tuple[str, ...]
    survivors: bool
    peak_tasks: int
    disk: int
    isolation: str


def supervise(
    launch: Launch,
    exchange: Exchange,
    limits: Limits,
    log: Log,
    *,
    cancellations: Sequence[Cancellation] = (),
    confinement: Confinement | None = None,
    delivery: Delivery | None = None,
    cgroup_factory: Callable[[int | None, int | None], Cgroup | None] = make_cgroup,
    tree_factory: Callable[[int, str, int | None], ProcessTree] = open_tree,
) -> Completion:
    """Runs a program to its end, or to its limit, and leaves no process of it behind.

    Args:
        launch: what to run.
        exchange: what to ask it; holds the answer afterwards.
        limits: its caps.
        log: takes its log.
        cancellations: any of these stops the run; so does `cancellation.request_stop`, where its scratch directory is
            kept beside a record.
        confinement: what holds it; None: rlimits alone. It is used up.
        delivery: calls the listeners of `exchange` and `log`. All is delivered when this returns, unless the run was
            cancelled and a listener does not come to an end. What a listener raises stops the run, and is raised here.
        cgroup_factory: makes the run's cgroup from a memory and a task cap; may return None.
        tree_factory: opens its process tree.

    Raises:
        EnvironmentError: it cannot be started.
        PermissionDeniedError: it cannot be held.
    """
    with Subreaper(), StopPipe(launch.scratch + STOP_PIPE if launch.record else "") as stop:
        wake: Sequence[Cancellation | StopPipe] = (*cancellations, stop) if stop else cancellations
        delivery = delivery or Delivery()
        run = _Run(launch, exchange, limits, log, wake, confinement or Unconfined(), delivery)
        try:
            run.start(cgroup_factory, tree_factory)
            run.loop()
            completion = run.conclude()
            from agenthub.runtime.processes.run_loop import TERM_GRACE

            waking = [cancellation.fileno() for cancellation in wake]
            delivery.finish(waking, TERM_GRACE, hurried=completion.reason == "cancelled")
            return completion
        finally:
            run.destroy()
            delivery.close()


class _Run:
    def __init__(
        self,
        launch: Launch,
        exchange: Exchange,
        limits: Limits,
        log: Log,
        cancellations: Sequence[Cancellation | StopPipe],
        confinement: Confinement,
        delivery: Delivery,
    ) -> None:
        self._launch = launch
        self._delivery = delivery
        self._exchange = exchange
        self._confinement = confinement
        self._limits = limits
        self._log = log
        self._cancellations = cancellations
        self._loop: RunLoop | None = None
        self._tree: ProcessTree | None = None
        self._cgroup: Cgroup | None = None
        self._pipes: Pipes | None = None
        self._pidfd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._survivors = False

    def start(
        self,
        cgroup_factory: Callable[[int | None, int | None], Cgroup | None],
        tree_factory: Callable[[int, str, int | None], ProcessTree],
    ) -> None:
        self._started = time.monotonic()
        # The kernel hands our own peak on to what we start, as a floor under its figure.
        self._inherited_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        check_program(self._launch.argv[0], self._launch.env, self._launch.cwd)
        limits = self._limits
        if limits.processes is not None:
            limits = limits._replace(processes=limits.processes + self._confinement.tasks)
        self._cgroup = cgroup_factory(limits.memory, limits.processes)
        doors = open_doors(self._cgroup.doors if self._cgroup is not None else ())
        try:
            launch = self._confinement.prepare(self._launch, self._limits, exact_memory=bool(doors))
            self._process = self._confinement.spawn(lambda: start_gated(launch, doors))
        finally:
            for door in doors:
                os.close(door)
        pid = self._pid = self._process.pid
        mark = choose_mark(pid)
        self._tree = tree_factory(pid, self._launch.run_id, mark)
        apply_rlimits(pid, limits, mark)
        if self._launch.record:
            write_record(self._launch.record, pid, mark, self._launch.run_id)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its end will be noticed
            os.write(self._process.stdin.fileno(), OPEN_GATE)
        # While the program starts, there is time to load what watches it.
        from agenthub.runtime.processes.disk_use import DiskUse
        from agenthub.runtime.processes.pipes import Pipes
        from agenthub.runtime.processes.run_loop import RunLoop
        from agenthub.runtime.processes.watch import Watch

        self._disk = DiskUse(launch.scratch, limits.disk) if launch.scratch else None
        self._watch = Watch(self._tree, pid, self._limits, self._cgroup, self._disk, self._confinement.helpers)
        wake = [cancellation.fileno() for cancellation in self._cancellations]
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(pid)
            wake.append(self._pidfd)
        self._pipes = Pipes(self._process, self._exchange, self._log, wake, self._delivery)
        self._pipes.send(self._exchange.request)
        self._loop = RunLoop(
            *(self, self._exchange, self._limits, self._pipes, self._watch, self._cancellations),
            *(self._delivery, self._started),
        )

    def loop(self) -> None:
        """Until the first process has ended, or is to be killed."""
        assert self._loop is not None
        self._loop.until_end()

    def has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # SIGCHLD is ignored here, or someone else reaped it
            return True

    def terminate(self) -> None:
        self._confinement.terminate(self._pid)  # not reaped, so that the number is still its own

    def conclude(self) -> Completion:
        """Kills what is left, takes the rest of the output, and tells how it went."""
        assert self._pipes is not None
        assert self._loop is not None
        wall = time.monotonic() - self._started
        self._watch.note_peak()
        survivors = not self._kill()
        if self._watch.oom_killed():
            self._loop.blame("memory")
        status, number, cpu, peak = self._reap()
        if self._confinement.failure is not None:
            raise self._confinement.failure
        if number == signal.SIGXCPU:
            self._loop.blame("cpu")
        self._loop.take_rest()
        return Completion(
            reason=self._loop.reason,
            status=status,
            signal=number,
            error=self._loop.error,
            wall=wall,
            cpu=max(cpu + self._watch.reaped.cpu, self._watch.cpu),
            peak_memory=max(peak, self._watch.reaped.peak, self._watch.peak),
            output=self._pipes.received,
            log=self._log.tail,
            survivors=survivors,
            peak_tasks=max(self._watch.tasks, 1),
            disk=self._disk_peak(),
            isolation=self._confinement.isolation,
        )

    def _disk_peak(self) -> int:
        if self._disk is None:
            return 0
        self._disk.measure()
        return self._disk.peak

    def _kill(self) -> bool:
        from agenthub.runtime.processes.kill import kill_tree

        assert self._tree is not None
        self._confinement.kill()
        self._survivors = not kill_tree(self._tree, self._pid, self._cgroup, self._watch.reaped)
        return not self._survivors

    def _reap(self) -> tuple[int | None, int | None, float, int]:
        """Exit status, signal, CPU seconds and peak bytes of the first process; None where nobody knows."""
        process = self._process
        assert process is not None
        try:
            # Never waits for a process that SIGKILL did not end: it is stuck in the kernel.
            pid, raw, usage = os.wait4(process.pid, os.WNOHANG)
        except ChildProcessError:
            pid = 0
        if pid == 0:
            process.returncode = 0  # else the module `subprocess` would wait for it in our stead
            return None, None, 0.0, 0
        code = process.returncode = os.waitstatus_to_exitcode(raw)
        if self._confinement.relays_exit and code > _RELAYED:
            code = _RELAYED - code
        peak = usage.ru_maxrss * 1024 if usage.ru_maxrss > self._inherited_peak else 0
        cpu = usage.ru_utime + usage.ru_stime
        return (code, None, cpu, peak) if code >= 0 else (None, -code, cpu, peak)

    def destroy(self) -> None:
        """Whatever happened: nothing of the run is left, no process, no descriptor, no cgroup."""
        process = self._process
        if process is not None and process.returncode is None:
            if self._tree is not None:
                self._kill()
                self._reap()
            else:  # still the gate, which has started nothing
                process.kill()
                process.wait()
        if self._launch.record and not self._survivors:
            remove_record(self._launch.record)
        if self._cgroup is not None:
            self._cgroup.remove()
        if self._pipes is not None:
            self._pipes.close()
        elif process is not None:
            for file in (process.stdin, process.stdout, process.stderr):
                if file is not None:
                    file.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._confinement.close()
