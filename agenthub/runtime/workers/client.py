"""A run by a worker, from the side that wants it: at most once, and cold where no worker begins it.

A worker says when the run's process stands ready, hears that it is still wanted, and says that it lets go. Whatever
goes wrong before that last word costs nothing but time; afterwards the agent may have done something, and the run
fails.
"""

from __future__ import annotations

import os
import select
from contextlib import ExitStack, contextmanager, suppress

from agenthub.config import scratch_base
from agenthub.errors import ExecutionError
from agenthub.quick_json import loads
from agenthub.runtime.processes.cancellation import STOP_PIPE, StopPipe
from agenthub.runtime.processes.delivery import Delivery
from agenthub.runtime.workers.control import sockets_in, worker_directory
from agenthub.runtime.workers.orders import fingerprint_of
from agenthub.runtime.workers.wire import GO, Connection, read_message, send_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from agenthub.config import Paths
    from agenthub.runtime.runs.plan import RunOptions, RunPlan
    from agenthub.runtime.sandbox.refusals import Refusal

    Outcome = tuple[dict[str, Any], tuple[Refusal, ...]]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")  # as `protocol` has them, which costs time to import
_READY_TIMEOUT = 5.0  # seconds; a fork takes one thousandth of one
_IMPATIENCE = 0.5  # seconds that a listener of a run that was cancelled is waited for


def run_warm(
    paths: Paths,
    plan: RunPlan,
    python: str,
    options: RunOptions,
    run_id: str,
    current: Callable[[], str | None],
    log_level: str = "DEBUG",
) -> Outcome | None:
    """The outcome of a run by a worker, and what it was refused; None where it has to be cold.

    Args:
        paths: where workers are.
        plan: the run.
        python: the interpreter of its environment.
        options: who hears of it.
        run_id: its name.
        current: the fingerprint of what a worker of this agent would be given now; asked where one was given something
            else than this run needs, so that one that is out of date ends. None: that is not known.
        log_level: the lowest level of log lines that are passed on.
    """
    options = options._replace(on_log=_filtered(options.on_log, log_level))
    order = None
    for taken in _connections(worker_directory(paths, plan.agent), options.line):
        order = order or fingerprint_of(plan, python)
        if order is None:
            return None
        with ExitStack() as stack:
            try:
                run = _WarmRun(stack.enter_context(taken), plan, options)
                begun = run.begin(order, run_id, current)
            except OSError:
                continue
            if begun:
                return run.follow(run_id)
    return None


class Line:
    """A connection to one worker that is kept from run to run, of which there is one at a time.

    Args:
        place: the directory of the worker's socket.
        name: of the socket.
    """

    def __init__(self, place: str, name: str) -> None:
        self._place = place
        self._name = name
        self._connection: Connection | None = None

    @contextmanager
    def taken(self) -> Iterator[Connection]:
        """The connection, for one run. Raises OSError: there is none."""
        connection, self._connection = self._connection, None
        with ExitStack() as stack:
            if connection is None:
                connection = Connection(self._place, self._name).__enter__()
            stack.push(connection)
            yield connection
            if connection.reusable:
                connection.reusable = False
                self._connection = connection
                stack.pop_all()

    def close(self) -> None:
        """Ends it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.__exit__()


def _connections(place: str, line: object) -> Iterator[AbstractContextManager[Connection]]:
    """To each of an agent's workers that may be free."""
    if isinstance(line, Line):
        yield line.taken()
    for name in sockets_in(place):
        yield Connection(place, name)


class _WarmRun:
    def __init__(self, connection: Connection, plan: RunPlan, options: RunOptions) -> None:
        self._connection = connection
        self._socket = connection.socket
        self._plan = plan
        self._options = options
        self._stopped = False

    def begin(self, order: str, run_id: str, current: Callable[[], str | None]) -> bool:
        """Has the worker begin the run. False, or OSError: it has not, and will not."""
        plan, options = self._plan, self._options
        request = {
            "order": order,
            "run_id": run_id,
            "method": plan.method.name,
            "arguments": dict(plan.arguments),
            "limits": plan.limits._asdict(),
            "tool_context": options.tool_context,
            "watch_network": plan.watch_network,
            "streamed": options.on_chunk is not None,
        }
        self._socket.settimeout(_READY_TIMEOUT)
        send_message(self._socket, request)
        answer = read_message(self._socket)
        if "ready" not in answer:
            wanted = current() if answer.get("no") == "differs" else None
            if wanted is not None:
                self._connection.check(wanted)
            return False
        self._socket.settimeout(None)
        self._socket.sendall(GO)
        return True

    def follow(self, run_id: str) -> Outcome | None:
        """What becomes of it; None where the worker has ended before it let go."""
        delivery = Delivery()
        stop = StopPipe(os.path.join(scratch_base(), run_id + STOP_PIPE))
        try:
            with stop:
                told = self._events(delivery, stop)
                if "begun" not in next(told, {}):
                    return None
                outcome = self._listen(told, delivery)
                cancellation = self._options.cancellation
                hurried = stop.cancelled or (cancellation is not None and cancellation.cancelled)
                waking = [one.fileno() for one in (cancellation, stop) if one is not None and one.fileno() >= 0]
                delivery.finish(waking, _IMPATIENCE, hurried=hurried)
            self._connection.reusable = not self._stopped
            return outcome
        finally:
            delivery.close()

    def _listen(self, told: Iterator[dict[str, Any]], delivery: Delivery) -> Outcome:
        options = self._options
        on_log, on_chunk, on_progress = (
            delivery.through(listener) for listener in (options.on_log, options.on_chunk, options.on_progress)
        )
        for event in told:
            if "outcome" in event:
                return event["outcome"], _refusals(event["refusals"])
            if "log" in event and on_log is not None:
                on_log(*event["log"])
            elif "chunk" in event and on_chunk is not None:
                on_chunk(event["chunk"])
            elif "progress" in event and on_progress is not None:
                on_progress(*event["progress"])
        return self._lost(), ()

    def _lost(self) -> dict[str, Any]:
        error = ExecutionError(
            f"the worker of {self._plan.agent.label} was killed in the middle of the run, whose effects are not known",
            suggestion="run it again if it may run twice",
        )
        return {**error.to_dict(), "warnings": []}

    def _events(self, delivery: Delivery, stop: StopPipe) -> Iterator[dict[str, Any]]:
        connection = self._socket.fileno()
        cancellation = self._options.cancellation
        stops = [one.fileno() for one in (cancellation, stop) if one is not None and one.fileno() >= 0]
        received = 0
        pending = bytearray()
        while True:
            behind, received = delivery.is_behind(received), 0
            waiting = [] if behind and not self._stopped else [connection]
            waiting += [descriptor for descriptor in (delivery.fileno(), *stops) if descriptor >= 0]
            failed = delivery.failure is not None
            ready = _readable(waiting, at_once=failed and not self._stopped)
            if not self._stopped and (failed or not ready.isdisjoint(stops)):
                self._stopped, stops = True, []
                with suppress(OSError):
                    self._socket.send(b"!")
            if connection not in ready:
                continue
            data = self._receive()
            received = len(data)
            if not data:
                return
            searched = len(pending)
            pending += data
            while (end := pending.find(b"\n", searched)) >= 0:
                yield loads(pending[:end])
                del pending[: end + 1]
                searched = 0

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except ConnectionError:
            return b""


def _filtered(on_log: Callable[[str, str], None] | None, log_level: str) -> Callable[[str, str], None] | None:
    if on_log is None:
        return None

    def filtered(line: str, level: str) -> None:
        if _LEVELS.index(level) >= _LEVELS.index(log_level):
            on_log(line, level)

    return filtered


def _readable(descriptors: Sequence[int], *, at_once: bool) -> set[int]:
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poller.poll(0 if at_once else None)}


def _refusals(told: Sequence[Sequence[Any]]) -> tuple[Refusal, ...]:
    if not told:
        return ()
    from agenthub.runtime.sandbox.refusals import Refusal

    return tuple(Refusal(*one) for one in told)
