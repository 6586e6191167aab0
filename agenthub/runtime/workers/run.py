"""One run of a loaded agent: the pipes of a fork, its deadline, what it takes, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, NamedTuple, Protocol

from agenthub.errors import AgentRuntimeError
from agenthub.runtime.processes.delivery import Delivery
from agenthub.runtime.processes.disk_use import DiskUse
from agenthub.runtime.processes.kill import Reaped, kill_tree
from agenthub.runtime.processes.pipes import Pipes
from agenthub.runtime.processes.process_tree import send_signal
from agenthub.runtime.processes.run_loop import EXITED, RunLoop
from agenthub.runtime.processes.supervisor import Completion
from agenthub.runtime.processes.watch import POLL, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from io import FileIO

    from agenthub.runtime.processes.cgroups import Cgroup
    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.processes.lines import Log
    from agenthub.runtime.processes.process_tree import Member, ProcessTree
    from agenthub.runtime.processes.protocol import Exchange

_FORK_TIMEOUT = 5.0
_CPUS = os.cpu_count() or 1


class NotBegunError(AgentRuntimeError):
    """The run was not begun, and will not be: it can be cold."""


class WarmRequest(NamedTuple):
    """One run: a method, its arguments, and the caps that may differ from run to run."""

    run_id: str
    method: str
    arguments: Mapping[str, Any]
    limits: Limits
    tool_context: Mapping[str, Any] | None = None
    watch_network: bool = False


class _Ends(NamedTuple):
    """This side's ends of a run's pipes, as `Pipes` takes them."""

    stdin: FileIO
    stdout: FileIO
    stderr: FileIO


class _Readable(NamedTuple):
    """Asks for the end of a run once a descriptor is readable."""

    descriptor: int

    @property
    def cancelled(self) -> bool:
        return bool(select.select([self.descriptor], [], [], 0)[0])

    def fileno(self) -> int:
        return self.descriptor


class Loaded(Protocol):
    """What a run needs of the worker that it is forked from.

    Attributes:
        alive: false once it cannot be trusted with another run.
        control: the socket to the loaded process.
        tree, cgroup: all of its processes.
        root: pid of the first of them.
        base: the directory of all that runs may write.
        kept_bytes: what it takes on disk where runs have written nothing.
        isolation: what holds it.
        modules: what runs were seen to load.
        reaped: what its ended processes used.
    """

    alive: bool
    control: socket.socket
    tree: ProcessTree
    cgroup: Cgroup | None
    root: int
    base: str
    kept_bytes: int
    isolation: str
    modules: tuple[str, ...]
    reaped: Reaped

    def others(self) -> Collection[int]:
        """The pids that are no run's: the loaded process, and what holds it."""

    def word(self) -> dict[str, Any]:
        """What the loaded process has said; empty where that is nothing sensible."""

    def is_quiet(self) -> bool:
        """Whether nothing is there but the loaded process, which says and does nothing."""

    def is_alone(self) -> bool:
        """Whether nobody but the loaded process is there for certain; False where that takes a closer look."""

    def cpu(self) -> float | None:
        """Seconds that all of it has used so far; None where that takes a closer look."""

    def note_begin(self) -> None:
        """A run begins: what it writes from now on shows."""

    def wrote_nothing(self) -> bool:
        """Whether a run that has ended left no trace where it may write; False where that takes a closer look."""


class _OfTheRun:
    """A worker's process tree without the worker itself, as `kill_tree` takes one."""

    def __init__(self, worker: Loaded) -> None:
        self._worker = worker

    def scan(self, *, hidden: bool = False) -> list[Member]:
        others = self._worker.others()
        return [member for member in self._worker.tree.scan(hidden=hidden) if member.pid not in others]

    def memory(self, members: Sequence[Member]) -> int:
        return self._worker.tree.memory(members)


class WarmRun:
    """Made for one run; `begin`, `let_go`, `loop`, `conclude`, and `close` in any case.

    Args:
        worker: the loaded agent; its `alive` is taken where it has to end.
        request: the run.
        exchange: what is asked.
        log: takes its log.
        argument: what a script gets besides.
        stops: descriptors that become readable when the run is to be stopped.
        delivery: calls the listeners of `exchange` and `log`.
    """

    def __init__(
        self,
        worker: Loaded,
        request: WarmRequest,
        exchange: Exchange,
        log: Log,
        argument: str | None,
        stops: Sequence[int],
        delivery: Delivery,
    ) -> None:
        self._worker = worker
        self._tree = worker.tree
        self._control = worker.control
        self._request = request
        self._limits = request.limits
        self._exchange = exchange
        self._log = log
        self._argument = argument
        self._stops = stops
        self._gate = -1
        self._delivery = delivery
        self._answer: dict[str, Any] | None = None
        self._ends: _Ends | None = None
        self._pipes: Pipes | None = None
        self._loop: RunLoop | None = None

    def begin(self) -> None:
        """Has a process forked that waits at its gate.

        Raises:
            NotBegunError: there is none.
        """
        if not self._worker.is_quiet():
            self._worker.alive = False
            raise NotBegunError("the worker is not as it was")
        (child_in, stdin), (stdout, child_out), (stderr, child_err), (gate, self._gate) = (os.pipe() for _ in range(4))
        self._ends = _Ends(os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0), os.fdopen(stderr, "rb", 0))
        theirs = (child_in, child_out, child_err, gate)
        argument = self._argument or ""
        order = {"run_id": self._request.run_id, "cpu": self._limits.cpu, "argued": self._argument is not None}
        try:
            socket.send_fds(self._control, [json.dumps(order).encode(), b"\n", argument.encode()], theirs)
        except OSError as error:
            self._worker.alive = False
            raise NotBegunError(f"the worker does not listen: {error.strerror}") from None
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        if self._next_word().get("forked") is not True:
            self._worker.alive = False
            raise NotBegunError("the worker did not fork")

    def let_go(self) -> None:
        """Opens the gate: what happens from now on has happened."""
        self._worker.note_begin()
        self._started = time.monotonic()
        cap, kept = self._limits.disk, self._worker.kept_bytes
        self._disk = DiskUse(self._worker.base, None if cap is None else cap + kept)
        # The loaded process is not the run's: it counts neither as memory nor as time.
        self._watch = Watch(self._tree, 0, self._limits, self._worker.cgroup, self._disk, self._worker.others)
        self._watch.forget_cpu(self._worker.cpu())
        self._watch.due = self._started + POLL  # a fork that has only begun has taken nothing
        assert self._ends is not None
        self._pipes = Pipes(
            self._ends, self._exchange, self._log, (self._control.fileno(), *self._stops), self._delivery
        )
        with contextlib.suppress(BrokenPipeError):  # killed already
            os.write(self._gate, b"!")
        self._pipes.send(self._exchange.request)
        self._loop = RunLoop(
            *(self, self._exchange, self._limits, self._pipes, self._watch, [_Readable(stop) for stop in self._stops]),
            *(self._delivery, self._started),
        )

    def take_back(self) -> None:
        """Ends a process that is still at its gate: it has done nothing."""
        os.close(self._gate)
        self._gate = -1
        if "status" not in self._next_word():
            self._worker.alive = False

    def _next_word(self) -> dict[str, Any]:
        """What the loaded process says next; empty where that takes too long."""
        return self._worker.word() if select.select([self._control], [], [], _FORK_TIMEOUT)[0] else {}

    def loop(self) -> None:
        """Until the worker says that the run has ended, or until it is to be killed."""
        assert self._loop is not None
        self._loop.until_end()

    def has_ended(self) -> bool:
        if self._answer is None and select.select([self._control], [], [], 0)[0]:
            answer = self._worker.word()
            if "status" in answer:
                self._answer = answer
            else:  # it has gone, or talks nonsense
                self._worker.alive = False
        return self._answer is not None or not self._worker.alive

    def terminate(self) -> None:
        others = self._worker.others()
        for member in self._tree.scan():
            if member.pid not in others and not member.zombie:
                send_signal(member.pid, signal.SIGTERM)

    def conclude(self) -> Completion:
        """Sees that nothing of the run is left, takes the rest of its output, and tells how it went."""
        assert self._pipes is not None
        assert self._loop is not None
        wall = time.monotonic() - self._started
        loop, answer = self._loop, self._answer
        answered = self._exchange.interactive and self._exchange.reply is not None
        if self._watch.oom_killed():
            loop.blame("memory")
        survivors = False
        if answer is None or loop.reason != EXITED or not self._swept():
            self._worker.alive = False
            survivors = not kill_tree(self._tree, self._worker.root, self._worker.cgroup, self._worker.reaped)
        code = _exit_code(answer)
        if code == -signal.SIGXCPU:
            loop.blame("cpu")
        loop.take_rest()
        if answer is not None:
            known = set(self._worker.modules)
            self._worker.modules += tuple(name for name in _modules(answer) if name not in known)
        return Completion(
            reason=loop.reason,
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None if code is not None or answered else signal.SIGKILL,
            error=loop.error,
            wall=wall,
            cpu=max(self._watch.cpu, _number(answer, "cpu", wall * _CPUS)),
            peak_memory=max(self._watch.peak, int(_number(answer, "peak", self._limits.memory or 1 << 40))),
            output=self._pipes.received,
            log=self._log.tail,
            survivors=survivors,
            peak_tasks=max(self._watch.tasks, 1),
            disk=self._disk_peak(),
            isolation=self._worker.isolation,
        )

    def _disk_peak(self) -> int:
        if self._disk.peak or not self._worker.wrote_nothing():
            self._disk.measure()
        return max(0, self._disk.peak - self._worker.kept_bytes)

    def _swept(self) -> bool:
        """Kills whatever of the run is left beside the worker; False if something stays."""
        worker = self._worker
        return worker.is_alone() or kill_tree(_OfTheRun(worker), worker.root, None, worker.reaped)

    def close(self) -> None:
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
        if self._pipes is not None:
            self._pipes.close()
        elif self._ends is not None:
            for file in self._ends:
                file.close()


def _modules(answer: Mapping[str, Any]) -> list[str]:
    names = answer.get("modules")
    if not isinstance(names, list):
        return []
    return [name for name in names[:4000] if isinstance(name, str) and name.replace(".", "_").isidentifier()]


def _number(answer: Mapping[str, Any] | None, key: str, most: float) -> float:
    """What the loaded process says of a run, where that can be."""
    value = (answer or {}).get(key)
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= most else 0.0


def _exit_code(answer: Mapping[str, Any] | None) -> int | None:
    status = (answer or {}).get("status")
    if not isinstance(status, int) or not 0 <= status < 1 << 16:
        return None
    try:
        return os.waitstatus_to_exitcode(status)
    except ValueError:
        return None
