"""A small event loop: tasks are generators that say what they wait for. Cheaper to import than asyncio by 40 ms."""

from __future__ import annotations

import heapq
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Event:
    """Something that other tasks, or another thread by way of `call_soon`, will make happen once."""

    def __init__(self) -> None:
        self.happened = False
        self.waiting: list[tuple[_Task, int]] = []


class Wait(NamedTuple):
    """What a task waits for: any of some sockets, or an event, but no longer than `timeout` seconds."""

    sockets: tuple[tuple[socket.socket, int], ...]
    timeout: float
    event: Event | None = None


class _Task:
    __slots__ = ("steps", "turn", "wait")

    def __init__(self, steps: Generator[Wait, bool, None]) -> None:
        self.steps = steps
        self.turn = 0
        self.wait: Wait | None = None


class EventLoop:
    """Runs tasks and callbacks in the thread that calls `run`; only `call_soon` may be called from others."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._watched: dict[int, Callable[[], object]] = {}
        self.watch(self._wake_reader, self._drain)
        self._calls: deque[Callable[[], object]] = deque()
        self._tasks: set[_Task] = set()
        self._timers: list[tuple[float, int, int, _Task]] = []
        self._serial = 0
        self._lock = threading.Lock()
        self._open = True

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return len(self._tasks)

    def call_soon(self, call: Callable[[], object]) -> bool:
        """Has the loop's thread make a call; False once the loop has ended."""
        with self._lock:
            if not self._open:
                return False
            self._calls.append(call)
            with suppress(BlockingIOError):  # full, so that it will wake anyhow
                self._wake_writer.send(b"\0")
            return True

    def stop(self) -> None:
        """Ends `run`, from any thread."""
        self.call_soon(self._end)

    def watch(self, file: socket.socket | int, callback: Callable[[], object]) -> None:
        """Calls back whenever `file` can be read, until a call returns False."""
        self._watched[self._selector.register(file, READ, callback).fd] = callback

    def unwatch(self, file: socket.socket | int) -> None:
        """Stops watching."""
        with suppress(KeyError):
            del self._watched[self._selector.unregister(file).fd]

    def spawn(self, steps: Generator[Wait, bool, None]) -> None:
        """Starts a task now."""
        task = _Task(steps)
        self._tasks.add(task)
        self._resume(task, True)

    def notify(self, event: Event) -> None:
        """Makes an event happen."""
        event.happened = True
        waiting, event.waiting = event.waiting, []
        for task, turn in waiting:
            if task.turn == turn:
                self._resume(task, True)

    def run(self) -> None:
        """Runs until `stop`; then closes every task. An exception of a task ends it too, and is passed on."""
        try:
            while self._open:
                for key, _ in self._selector.select(self._patience()):
                    self._dispatch(key)
                self._expire()
        finally:
            self.close()

    def close(self) -> None:
        """Closes the tasks, and what the loop itself holds; for a loop that does not run."""
        with self._lock:
            self._open = False
        for task in list(self._tasks):
            task.turn += 1
            task.steps.close()
        self._tasks.clear()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _dispatch(self, key: selectors.SelectorKey) -> None:
        """Handles what was ready; an event before it in the same batch may have ended the interest in it."""
        if isinstance(key.data, _Task):
            if key.data.wait is not None and any(key.fileobj is sock for sock, _ in key.data.wait.sockets):
                self._resume(key.data, True)
            return
        callback = self._watched.get(key.fd)
        if callback is not None and callback is key.data and callback() is False:
            self.unwatch(key.fd)

    def _end(self) -> None:
        self._open = False

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            self._wake_reader.recv(4096)
        while self._calls:
            self._calls.popleft()()

    def _patience(self) -> float | None:
        while self._timers and self._timers[0][3].turn != self._timers[0][2]:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _expire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, turn, task = heapq.heappop(self._timers)
            if task.turn == turn:
                self._resume(task, False)

    def _resume(self, task: _Task, happened: bool) -> None:
        if task.wait is not None:
            for sock, _ in task.wait.sockets:
                self._selector.unregister(sock)
        task.wait = None
        task.turn += 1
        try:
            wait = task.steps.send(happened if task.turn > 1 else None)  # type: ignore[arg-type]
        except StopIteration:
            self._tasks.discard(task)
            return
        task.wait = wait
        for sock, events in wait.sockets:
            self._selector.register(sock, events, task)
        if wait.event is not None:
            wait.event.waiting.append((task, task.turn))
        self._serial += 1
        heapq.heappush(self._timers, (time.monotonic() + wait.timeout, self._serial, task.turn, task))
        if len(self._timers) > 4 * len(self._tasks) + 64:  # mostly those of waits that are over
            self._timers = [timer for timer in self._timers if timer[3].turn == timer[2]]
            heapq.heapify(self._timers)
