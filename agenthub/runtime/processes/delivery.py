"""Calls those who listen to a run, from a thread of its own: a slow one holds up neither a deadline nor a limit.

What waits to be delivered is bounded by whoever feeds it: he reads no more from the agent while `is_behind` holds, and
the agent then waits for its reader as in any pipeline.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from contextlib import suppress

from agenthub.config import out_of_the_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

MOST_WAITING = 256 * 1024
"""Bytes that may be read from an agent while what came of earlier ones has not been delivered."""


class Delivery:
    """One run's calls to its listeners: one at a time, in order. Costs nothing until the first of them.

    Attributes:
        failure: what a listener raised; nothing is delivered after it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._busy = False
        self._closed = False
        self._wanted = False  # somebody is to be woken once all is delivered
        self._unhandled = 0
        self._reader = self._writer = -1
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def through(self, listener: Callable[..., None] | None) -> Callable[..., None] | None:
        """`listener`, called from the thread; whoever calls what this returns does not wait."""
        if listener is None:
            return None
        return lambda *arguments: self._put(listener, arguments)

    def fileno(self) -> int:
        """A descriptor that becomes readable when `is_behind` or `failure` changes; -1 before the first call."""
        return self._reader

    def is_behind(self, received: int, most: int = MOST_WAITING) -> bool:
        """Whether to read no more from the agent for now; `fileno` tells when to ask again.

        Args:
            received: bytes that were read from it since the last time that this was asked.
            most: how many may be read ahead of the listeners.
        """
        if self._reader < 0:
            return False
        with suppress(BlockingIOError):
            os.read(self._reader, 64)
        with self._changed:
            if not self._busy and not self._waiting:
                self._unhandled = 0
            self._unhandled += received
            self._wanted = self._unhandled > most
            return self._wanted and (self._busy or bool(self._waiting))

    def finish(self, impatience: Iterable[int] = (), patience: float | None = None, *, hurried: bool = False) -> None:
        """Waits until all is delivered; raises what a listener raised.

        Args:
            impatience: descriptors; once one of them is readable, the wait is over after `patience`.
            patience: seconds; None: for ever.
            hurried: it is over after `patience` in any case.
        """
        if self._reader < 0:
            return
        poller = select.poll()
        for descriptor in (self._reader, *(() if hurried else impatience)):
            poller.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + patience if hurried and patience is not None else None
        while self.failure is None and self.is_behind(0, -1):
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if left == 0.0:
                return
            woken = [descriptor for descriptor, _ in poller.poll(left) if descriptor != self._reader]
            if woken and patience is not None and deadline is None:
                deadline = time.monotonic() + patience
            for descriptor in woken:
                poller.unregister(descriptor)
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Delivers no more; a call that is under way is not waited for."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
            for descriptor in (self._reader, self._writer):
                if descriptor >= 0:
                    os.close(descriptor)
            self._reader = self._writer = -1
            leaving = None if self._busy else self._thread
        if leaving is not None and leaving is not threading.current_thread():
            leaving.join()  # it calls nobody, and ends at once

    def _put(self, listener: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        with self._changed:
            if self._closed:
                return
            self._waiting.append((listener, arguments))
            if self._reader < 0:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        self._reader, self._writer = map(out_of_the_way, os.pipe())
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(target=self._deliver, name="agenthub delivery", daemon=True)
        self._thread.start()

    def _deliver(self) -> None:
        while (call := self._next()) is not None:
            listener, arguments = call
            try:
                listener(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised again where the run is driven
                with self._changed:
                    self.failure = error
                    self._closed = True
                    self._waiting.clear()
                    self._busy = False
                    self._wake()
                return

    def _next(self) -> tuple[Callable[..., None], tuple[Any, ...]] | None:
        with self._changed:
            self._busy = False
            if not self._waiting and self._wanted:
                self._wanted = False
                self._wake()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            self._busy = True
            return self._waiting.popleft()

    def _wake(self) -> None:
        if self._writer >= 0:
            with suppress(BlockingIOError):
                os.write(self._writer, b"!")
