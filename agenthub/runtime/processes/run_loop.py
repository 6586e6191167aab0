"""One run while it goes on: its deadline, its limits, who wants it to end, and the grace that it has then.

Whoever starts a run, in a process of its own or as a fork of one that was loaded before, knows how to hear of its end
and how to ask for it; all else is the same.
"""

from __future__ import annotations

import time

from agenthub.errors import AgentRuntimeError
from agenthub.values import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from agenthub.runtime.processes.delivery import Delivery
    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.processes.pipes import Pipes
    from agenthub.runtime.processes.protocol import Exchange
    from agenthub.runtime.processes.watch import Watch

TERM_GRACE = 0.5  # seconds between being asked to end and SIGKILL at most: whoever ignores the first wins no time
EXITED = "exited"


class Subject(Protocol):
    """What runs."""

    def has_ended(self) -> bool:
        """Whether there is nothing more to wait for."""

    def terminate(self) -> None:
        """Asks it to end, by a signal."""


class Stop(Protocol):
    """Somebody who can ask for the end of a run; `fileno` becomes readable then."""

    @property
    def cancelled(self) -> bool: ...

    def fileno(self) -> int: ...


class RunLoop:
    """Drives a run by `until_end`, then takes what it left unread by `take_rest`.

    Args:
        subject: what runs.
        exchange: what it was asked.
        limits: its caps.
        pipes: its bytes; they wake when something happens to the subject, and when a stop is asked for.
        watch: what it takes.
        stops: who can ask for its end.
        delivery: once a listener has failed nobody wants the run any more.
        started: when it began, on the monotonic clock.

    Attributes:
        reason: `exited`, or why it was to be ended; the first reason counts.
        error: what the agent broke, where the reason is `protocol`.
    """

    def __init__(
        self,
        subject: Subject,
        exchange: Exchange,
        limits: Limits,
        pipes: Pipes,
        watch: Watch,
        stops: Sequence[Stop],
        delivery: Delivery,
        started: float,
    ) -> None:
        self._subject = subject
        self._exchange = exchange
        self._limits = limits
        self._pipes = pipes
        self._watch = watch
        self._stops = stops
        self._delivery = delivery
        self._deadline = None if limits.timeout is None else started + limits.timeout
        self._terminate_at: float | None = None
        self._kill_at: float | None = None
        self._noted = 0
        self.reason = EXITED
        self.error: AgentRuntimeError | None = None

    def until_end(self) -> None:
        """Until it has ended, or is to be killed."""
        self._wait()
        while not self._subject.has_ended():
            self._check(time.monotonic())
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                return
            self._wait()

    def _wait(self) -> None:
        due = [self._watch.due]
        if self._terminate_at is not None:
            due.append(self._terminate_at)
        if self._kill_at is not None:
            due.append(self._kill_at)
        elif self._deadline is not None:
            due.append(self._deadline)
        try:
            self._pipes.wait(max(0.0, min(due) - time.monotonic()))
        except AgentRuntimeError as error:
            self.error = error
            self._stop("protocol")

    def _check(self, now: float) -> None:
        if self._pipes.received != self._noted:  # whoever speaks is often about to end
            self._noted = self._pipes.received
            self._watch.note_peak()
        if self._is_unwanted():
            self._stop("cancelled")
        if self._pipes.charged > self._limits.output:
            self._stop("output")
        if self._deadline is not None and now >= self._deadline:
            self._stop("timeout")
        if now >= self._watch.due and (reason := self._watch.poll()) is not None:
            self._stop(reason)
        if self._exchange.interactive and self._exchange.reply is not None and self._kill_at is None:
            self._watch.note_peak()
            self._pipes.close_stdin()
            self._kill_at = now + self._limits.grace  # it has answered: it may end by itself, for a while
        if self._terminate_at is not None and time.monotonic() >= self._terminate_at:
            self._terminate_at = None
            self._subject.terminate()

    def _is_unwanted(self) -> bool:
        """Whether somebody asked for its end, or nobody listens any more."""
        return self._delivery.failure is not None or any(stop.cancelled for stop in self._stops)

    def _stop(self, reason: str) -> None:
        """Who is merely late or unwanted is asked first; who takes too much is not."""
        if self.reason != EXITED:
            return
        self.reason = reason
        now, patience = time.monotonic(), 0.0
        if reason in ("timeout", "cancelled"):
            patience = min(self._limits.grace, TERM_GRACE)
            self._pipes.send(self._exchange.farewell())
            self._pipes.hurry([stop.fileno() for stop in self._stops] if reason == "cancelled" else ())
            self._terminate_at = now + patience / 2 if self._exchange.cooperative else now
        self._kill_at = now + patience

    def blame(self, reason: str) -> None:
        """Gives it a reason, unless it has one."""
        if self.reason == EXITED:
            self.reason = reason

    def take_rest(self) -> None:
        """Takes the rest of its output, once nothing of it runs any more."""
        try:
            self._pipes.drain()
        except AgentRuntimeError as error:
            if self.reason == EXITED:
                self.reason, self.error = "protocol", error
        if self._pipes.charged > self._limits.output:
            self.blame("output")
