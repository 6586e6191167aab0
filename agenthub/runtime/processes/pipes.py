"""The three pipes of a run: written while they are read, never waited for, bounded in what is kept."""

from __future__ import annotations

import os
import selectors

from agenthub.errors import ExecutionError
from agenthub.runtime.processes.delivery import MOST_WAITING, Delivery
from agenthub.runtime.processes.lines import LOG_LINE, LineSplitter
from agenthub.values import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO

    from agenthub.runtime.processes.lines import Log
    from agenthub.runtime.processes.protocol import Exchange

_CHUNK = 64 * 1024
_MOST_UNREAD = 1 << 20  # bytes of answers that a process may leave waiting
_HURRIED = 4 << 20  # bytes that are read ahead of a slow listener once the run is to end
_DRAIN = 16 * _CHUNK  # more than a pipe holds by default; a survivor that goes on writing is not read for ever


class Ends(Protocol):
    """This side's ends of three pipes; a `subprocess.Popen` has them too."""

    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    @property
    def stderr(self) -> IO[bytes] | None: ...


class Pipes:
    """Moves bytes between a process and its exchange.

    Args:
        process: started with three pipes, or just their ends.
        exchange: what is written to it, and what takes its stdout.
        log: takes its stderr, line by line.
        wake: descriptors that end a wait when they become readable.
        delivery: takes what the exchange and the log pass on; while it is behind, the process is not read.
    """

    def __init__(
        self,
        process: Ends,
        exchange: Exchange,
        log: Log,
        wake: Iterable[int] = (),
        delivery: Delivery | None = None,
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._files = (process.stdin, process.stdout, process.stderr)
        self._stdin, self._stdout, self._stderr = (file.fileno() for file in self._files)
        self._exchange = exchange
        self._log = log
        self._delivery = delivery or Delivery()
        self._most_waiting = MOST_WAITING
        self._asked = 0
        self._listening = False
        self._held = False
        self._open = {self._stdout, self._stderr}
        self._lines = LineSplitter(LOG_LINE)
        self._selector = selectors.DefaultSelector()
        self._outgoing: list[memoryview] = []
        self._unread = 0  # bytes that wait behind what is being written
        self._writable = True
        self.received = 0
        """Bytes of stdout and stderr so far."""
        for descriptor in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(descriptor, False)
        for descriptor in (self._stdout, self._stderr, *wake):
            self._selector.register(descriptor, selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        """Queues `data` for stdin; it is dropped once stdin is closed."""
        if self._writable and data:
            if self._outgoing:
                self._unread += len(data)
            else:
                self._selector.register(self._stdin, selectors.EVENT_WRITE)
            self._outgoing.append(memoryview(data))
            self._write()

    @property
    def charged(self) -> int:
        """Bytes so far that count against a cap: all but what a listener was given of a stream."""
        return self.received - self._exchange.handed

    def hurry(self, heard: Iterable[int] = ()) -> None:
        """The run is to end: reads on, so that a process that waits for its reader can hear of it.

        Args:
            heard: descriptors that need not end a wait any more.
        """
        self._most_waiting = _HURRIED
        for descriptor in heard:
            self._selector.unregister(descriptor)

    def close_stdin(self) -> None:
        """Gives the process EOF, at once."""
        if self._writable:
            self._writable = False
            if self._outgoing:
                self._selector.unregister(self._stdin)
                self._outgoing.clear()
                self._unread = 0
            self._files[0].close()

    def wait(self, timeout: float | None) -> None:
        """Waits for something to happen, and moves what can be moved.

        Raises:
            AgentRuntimeError: the exchange refused what the agent wrote, or the agent does not read what it asked for.
        """
        self._hold_back()
        if self._delivery.failure is not None and self._most_waiting == MOST_WAITING:
            timeout = 0.0  # whoever drives this run does not know yet
        for key, _ in self._selector.select(timeout):
            if key.fd == self._stdin:
                self._write()
            elif key.fd in self._open and not self._read(key.fd):
                self._open.discard(key.fd)
                self._selector.unregister(key.fd)

    def _hold_back(self) -> None:
        """Leaves its output where it is, so that the process waits, while listeners are behind."""
        if self._delivery.fileno() < 0:
            return
        if not self._listening:
            self._listening = True
            self._selector.register(self._delivery.fileno(), selectors.EVENT_READ)
        held = self._delivery.is_behind(self.received - self._asked, self._most_waiting)
        self._asked = self.received
        if held != self._held:
            self._held = held
            for descriptor in self._open:
                if held:
                    self._selector.unregister(descriptor)
                else:
                    self._selector.register(descriptor, selectors.EVENT_READ)

    def drain(self) -> None:
        """Takes what is left in the pipes of a process that has ended, and tells the exchange that this was all.

        Raises:
            AgentRuntimeError: the exchange refused it.
        """
        for descriptor in (self._stderr, self._stdout):
            if descriptor in self._open:
                end = self.received + _DRAIN
                while self.received < end and self._read(descriptor):
                    pass
        if self._lines.pending:
            self._log.write(self._lines.finish())
        self._exchange.finish()

    def close(self) -> None:
        """Closes everything."""
        self.close_stdin()
        self._selector.close()
        for file in self._files:
            file.close()

    def _write(self) -> None:
        try:
            written = os.write(self._stdin, self._outgoing[0])
        except BlockingIOError:
            return
        except BrokenPipeError:  # it never read, or stopped reading: its own affair
            self.close_stdin()
            return
        rest = self._outgoing[0][written:]
        if rest:
            self._outgoing[0] = rest
            return
        self._outgoing.pop(0)
        if self._outgoing:
            self._unread -= len(self._outgoing[0])
        else:
            self._selector.unregister(self._stdin)
            if not self._exchange.interactive:
                self.close_stdin()

    def _read(self, descriptor: int) -> bool:
        """Takes one chunk; False at the end of the stream, or where it is empty for now."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        self.received += len(data)
        if descriptor == self._stdout:
            self.send(self._exchange.feed(data) if data else b"")
            if self._unread > _MOST_UNREAD:
                raise ExecutionError("asks more and more, and does not read the answers")
        else:
            for line in self._lines.feed(data):
                self._log.write(line)
        return bool(data)
