"""One method over many inputs: several runs at once, results in order or as they come, memory bounded by a window.

Threads take rows from the source, one at a time and never two at once, run them, and hand results over. Whoever
iterates is the brake: a row is begun only while less than a window of rows is under way or not yet taken.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from contextlib import contextmanager
from typing import Any, NamedTuple

from agenthub.errors import (
    AgentRuntimeError,
    ExecutionError,
    InvalidInputError,
    PermissionDeniedError,
    TimeoutError,
    error_class,
)
from agenthub.runtime.agent_runtime import find_method
from agenthub.runtime.batches.plan import BatchPlan
from agenthub.runtime.batches.workers import BatchWorkers
from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.runs.documents import refusal_envelope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.runs.locator import LocatedAgent
    from agenthub.runtime.runs.plan import RunOptions

MOST_JOBS = 64
"""Rows at a time. Each needs a dozen descriptors here, and a process may have 1,024 of them."""
FIRST_PAUSE = 0.5
"""Seconds before a row is run again; twice as long each time, up to `LONGEST_PAUSE`, and a random part less."""
LONGEST_PAUSE = 30.0
_ENDED = object()  # a thread has
_CANCELLED = object()


class Row(NamedTuple):
    """One input.

    Attributes:
        number: its place in the source, from 0.
        inputs: JSON values by parameter name.
        digest: of them, where somebody wants to know it again.
        problem: why it cannot be run; it fails with that.
    """

    number: int
    inputs: Mapping[str, Any]
    digest: str = ""
    problem: AgentRuntimeError | None = None


class RowResult(NamedTuple):
    """A row that was run to its end, `attempts` times."""

    row: Row
    envelope: dict[str, Any]
    attempts: int = 1

    @property
    def failed(self) -> bool:
        """Whether there is an error instead of a result."""
        return "error" in self.envelope


class BatchOptions(NamedTuple):
    """How rows are run.

    Attributes:
        jobs: how many at a time, at most `MOST_JOBS`.
        ordered: results in the source's order, not as they come.
        retry: how often a row is run again whose agent failed or timed out.
        window: rows under way or not yet taken; 0: four for each job.
        on_log: called with a row's number, and each line of the agent's log and its level; from any thread.
    """

    jobs: int = 8
    ordered: bool = True
    retry: int = 0
    window: int = 0
    on_log: Callable[[int, str, str], None] | None = None


class Batch:
    """A batch, to be iterated once by `results`.

    Args:
        runtime: runs the rows.
        agent: whose method it is.
        method: its name.
        options: of each run; consent is asked for once.
        batch: how rows are run.

    Raises:
        MethodNotFoundError: the agent has no such method.
        InvalidInputError: a number that cannot be.
    """

    def __init__(
        self, runtime: AgentRuntime, agent: LocatedAgent, method: str, options: RunOptions, batch: BatchOptions
    ) -> None:
        find_method(agent, method)
        if not 1 <= batch.jobs <= MOST_JOBS:
            raise InvalidInputError(f"{batch.jobs} jobs: it can be 1 to {MOST_JOBS}")
        if batch.retry < 0:
            raise InvalidInputError(f"retry {batch.retry}: it can be 0 or more")
        self._runtime = runtime
        self._agent = agent
        self._method = method
        self._options = options
        self._batch = batch
        self._slots = threading.Semaphore(batch.window or 4 * batch.jobs)
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pulling = threading.Lock()
        self._pulled = 0
        self._changed = threading.Condition()
        self._running = 0
        self._stopping = False
        self._closed = False
        self._cancellation: Cancellation | None = None

    def stop(self) -> None:
        """Begins no further row; what runs is run to its end."""
        self._stopping = True

    def cancel(self) -> None:
        """Stops the rows that run; `results` ends. From any thread."""
        self._stopping = True
        if self._cancellation is not None:
            self._cancellation.cancel()
        self._done.put(_CANCELLED)

    def results(self, rows: Iterable[Row]) -> Generator[RowResult, None, None]:
        """Runs the rows and yields what became of them; closing the iterator stops those that run.

        Where the options' cancellation is used, rows that it stopped are left out, and what was finished before comes.

        Args:
            rows: read in threads of the batch.

        Raises:
            AgentRuntimeError: a failure that is no row's own: a broken environment, a consent that was refused; and
                whatever `rows` raises.
        """
        with (
            self._runtime.held(self._agent) as agent,
            _own_cancellation(self._options.cancellation) as cancellation,
        ):
            self._cancellation = cancellation
            options = self._options._replace(cancellation=cancellation)
            self._plan = BatchPlan(self._runtime, agent, self._method, options)
            self._workers = BatchWorkers(self._runtime, self._plan, self._batch.jobs)
            self._source = iter(rows)
            threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._batch.jobs)]
            for thread in threads:
                thread.start()
            ended = False
            try:
                yield from self._in_order(self._finished(len(threads)))
                ended = True
            finally:
                self._close(cancel=not ended)

    # the consumer's side --------------------------------------------------------------------------------------

    def _finished(self, threads: int) -> Iterator[tuple[int, RowResult | None]]:
        """Each row's turn and result as they come, None for one that was stopped; until every thread has ended."""
        while threads:
            item = self._done.get()
            if item is _ENDED:
                threads -= 1
            elif item is _CANCELLED:
                return
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item

    def _in_order(self, finished: Iterator[tuple[int, RowResult | None]]) -> Iterator[RowResult]:
        due = 0
        waiting: dict[int, RowResult | None] = {}
        try:
            for turn, result in finished:
                waiting[turn] = result
                due = due if self._batch.ordered else turn
                while due in waiting:
                    self._slots.release()
                    result = waiting.pop(due)
                    due += 1
                    if result is not None:
                        yield result
        except Exception as error:  # noqa: BLE001 - raised once what is finished has been handed over
            failure: Exception | None = error
        else:
            failure = None
        yield from (result for _, result in sorted(waiting.items()) if result is not None)
        if failure is not None:
            raise failure

    def _close(self, *, cancel: bool) -> None:
        """Ends everything; a thread that still waits for the source ends when that answers."""
        with self._changed:
            self._closed = self._stopping = True
            if cancel and self._cancellation is not None:
                self._cancellation.cancel()
            self._slots.release()
            self._changed.wait_for(lambda: self._running == 0)
        self._workers.stop()

    @property
    def _cancelled(self) -> bool:
        return self._cancellation is not None and self._cancellation.cancelled

    # the threads' side ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (pulled := self._next()) is not None:
                turn, row = pulled
                try:
                    result = self._run(row)
                finally:
                    with self._changed:
                        self._running -= 1
                        self._changed.notify_all()
                self._done.put((turn, result))
        except BaseException as error:  # noqa: BLE001 - raised where somebody sees it
            self._done.put(error)
        finally:
            self._slots.release()  # so that the next thread that waits for one sees the end as well
            self._done.put(_ENDED)

    def _next(self) -> tuple[int, Row] | None:
        if self._stopping or self._cancelled:
            return None
        self._slots.acquire()
        with self._pulling:
            if self._stopping or self._cancelled:
                return None
            row = next(self._source, None)
            if row is None:
                self._stopping = True
                return None
            with self._changed:
                if self._closed:
                    return None
                self._running += 1
            turn = self._pulled
            self._pulled += 1
            return turn, row

    def _run(self, row: Row) -> RowResult | None:
        """What became of a row; None where it was stopped."""
        attempt = 1
        while True:
            envelope = self._attempt(row)
            if self._cancelled and envelope.get("error_type") == "InterruptedError":
                return None
            if attempt > self._batch.retry or not _worth_another(envelope):
                return RowResult(row, envelope, attempt)
            if not self._pause(attempt):
                return None
            attempt += 1

    def _attempt(self, row: Row) -> dict[str, Any]:
        if row.problem is not None:
            return refusal_envelope(row.problem, self._agent, self._agent.label, self._method)
        options = self._plan.options
        if self._batch.on_log is not None:
            on_log, number = self._batch.on_log, row.number
            options = options._replace(on_log=lambda line, level: on_log(number, line, level))
        try:
            plan, shared = self._plan.of_row(row.inputs)
            if not shared:
                return self._runtime.carry_out(plan, row.inputs, options)
            with self._workers.turn() as line:
                return self._runtime.carry_out(plan, row.inputs, options._replace(line=line))
        except (InvalidInputError, PermissionDeniedError) as error:  # this row's own; others are everybody's
            return refusal_envelope(error, self._agent, self._agent.label, self._method)

    def _pause(self, attempt: int) -> bool:
        """Waits before another attempt; False where the batch is cancelled meanwhile."""
        pause: float = min(FIRST_PAUSE * 2 ** min(attempt - 1, 16), LONGEST_PAUSE)
        pause *= 1 - os.urandom(1)[0] / 512
        assert self._cancellation is not None
        return not select.select([self._cancellation.fileno()], [], [], pause)[0]


def numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Inputs as rows."""
    for number, inputs in enumerate(rows):
        try:
            yield Row(number, dict(inputs))
        except (TypeError, ValueError):
            problem = InvalidInputError(f"row {number} is not a mapping of parameters")
            yield Row(number, {}, problem=problem)


@contextmanager
def _own_cancellation(given: Cancellation | None) -> Iterator[Cancellation]:
    if given is not None:
        yield given
        return
    with Cancellation() as own:
        yield own


def _worth_another(envelope: Mapping[str, Any]) -> bool:
    """Whether the agent failed or timed out; what hit a cap or was refused would do so again."""
    return "error" in envelope and error_class(envelope["error_type"]) in (ExecutionError, TimeoutError)
