"""The workers of a batch: started once it is long enough for them, ended with it."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import contextmanager, suppress

from agenthub.errors import AgentRuntimeError
from agenthub.runtime.workers.client import Line
from agenthub.runtime.workers.control import can_be_warm, list_workers, start_worker, stop_worker, worker_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.batches.plan import BatchPlan

_IDLE = 60.0  # seconds after which they end by themselves, should nobody be left to end them
_ROWS_EACH = 2  # that a worker has to save, to be worth its start
_PATIENCE = 0.1  # seconds to wait for a worker; a cold start takes about as long
_LAST_START = 2.0  # seconds that one which is being started at the end is waited for


class BatchWorkers:
    """Starts workers for a batch in the background, and shares them out.

    Args:
        runtime: whose settings say where workers are.
        plan: what every row may do.
        jobs: rows at a time.
    """

    def __init__(self, runtime: AgentRuntime, plan: BatchPlan, jobs: int) -> None:
        self._paths = runtime.settings.paths
        self._plan = plan
        possible = plan.python is not None and not can_be_warm(plan.agent)
        self._wanted = min(jobs, len(os.sched_getaffinity(0)) + 1) if possible else 0
        self._lock = threading.Lock()
        self._rows = 0
        self._free: queue.SimpleQueue[Line] = queue.SimpleQueue()  # to workers that serve no row now
        self._numbers: set[int] = set()
        self._starter: threading.Thread | None = None
        self._ended = False

    @contextmanager
    def turn(self) -> Iterator[Line | None]:
        """A row's time with a worker; None where there is none soon."""
        if self._starter is None and self._wanted:
            self._count()
        line = None
        if self._numbers:
            with suppress(queue.Empty):
                line = self._free.get(timeout=_PATIENCE)
        try:
            yield line
        finally:
            if line is not None:
                self._free.put(line)

    def _count(self) -> None:
        with self._lock:
            self._rows += 1
            if self._rows > _ROWS_EACH * self._wanted and self._starter is None:
                self._starter = threading.Thread(target=self._start, daemon=True)
                self._starter.start()

    def _start(self) -> None:
        """One after the other: the first serves rows while the second loads. Where one fails, the rest would too."""
        number = self._first_number()
        with suppress(AgentRuntimeError, OSError):
            while len(self._numbers) < self._wanted and not self._ended:
                assert self._plan.python is not None
                plan, python = self._plan.shared, self._plan.python
                start_worker(self._paths, plan, python, number=number, idle=_IDLE, lasting=False)
                self._numbers.add(number)
                self._free.put(Line(worker_directory(self._paths, plan.agent), f"{number}.sock"))
                number += 1
        if self._ended:  # nobody waited for the last one
            self._stop_started()

    def _first_number(self) -> int:
        """Behind those of workers that are there, or that are just ending."""
        try:
            names = os.listdir(worker_directory(self._paths, self._plan.agent))
        except OSError:
            return 0
        numbers = [int(stem) for stem, _, _ in (name.partition(".") for name in names) if stem.isdigit()]
        return max(numbers, default=-1) + 1

    def stop(self) -> None:
        """Ends those that were started."""
        self._ended = True
        with suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()
        if self._starter is None:
            return
        self._starter.join(_LAST_START)
        self._stop_started()

    def _stop_started(self) -> None:
        for worker in list_workers(self._paths):
            if worker.agent == self._plan.agent.label and worker.number in self._numbers:
                stop_worker(worker)
