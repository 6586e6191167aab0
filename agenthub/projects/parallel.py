"""Jobs side by side, each of which waits for a program; the first that fails ends the rest."""

from __future__ import annotations

import os
import threading
import time

from agenthub.errors import AgentRuntimeError
from agenthub.lifeline import stop_tools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    Result = TypeVar("Result")

_PATIENCE = 5.0  # seconds until we end without those that do not
MOST_AT_ONCE = 8  # as many places as there are to build environments in that uv knows


def in_parallel(
    jobs: Sequence[Callable[[], Result]], labels: Sequence[str], done: Callable[[str], None] = lambda label: None
) -> list[Result]:
    """What each job returns, in their order.

    Args:
        jobs: called from several threads. One that has begun is finished, unless we are interrupted.
        labels: what errors call each of them.
        done: called, from any thread, with the label of each that has ended well.

    Raises:
        AgentRuntimeError: of the first job that failed; it says whose it is, and which others failed.
    """
    run = _Jobs(jobs, labels, done)
    count = min(len(jobs), MOST_AT_ONCE, 2 * (os.cpu_count() or 1))
    if count <= 1:
        run.work()
    else:
        threads = [
            threading.Thread(target=run.work, name=f"agenthub project {number}", daemon=True) for number in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C arrives in this thread alone
            run.over = True
            with stop_tools():
                deadline = time.monotonic() + _PATIENCE
                for thread in threads:  # one may wait for a lock that another process has
                    thread.join(max(0.0, deadline - time.monotonic()))
            raise
    return run.results()


class _Jobs:
    def __init__(self, jobs: Sequence[Callable[[], Any]], labels: Sequence[str], done: Callable[[str], None]) -> None:
        self._jobs = jobs
        self._labels = labels
        self._done = done
        self._todo = iter(range(len(jobs)))
        self._lock = threading.Lock()
        self._results: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}
        self.over = False

    def work(self) -> None:
        while not self.over:
            with self._lock:
                number = next(self._todo, None)
            if number is None:
                return
            try:
                self._results[number] = self._jobs[number]()
                self._done(self._labels[number])
            except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for all
                self._errors[number] = error
                self.over = True

    def results(self) -> list[Any]:
        if not self._errors:
            return [self._results[number] for number in range(len(self._jobs))]
        first, *others = sorted(self._errors)
        error = self._errors[first]
        if isinstance(error, AgentRuntimeError):
            label = self._labels[first]
            if label not in error.message:
                error.message = f"{label}: {error.message}"
            if others:
                names = ", ".join(self._labels[number] for number in others)
                error.details = (*error.details, f"others failed as well: {names}")
            error.args = (error.message,)
        raise error
