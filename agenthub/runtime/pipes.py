"""The three pipes of a run: written while they are read, never waited for, bounded in what is kept."""

from __future__ import annotations

import os
import selectors

from agenthub.runtime.lines import LOG_LINE, LineSplitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable

    from agenthub.runtime.lines import Log
    from agenthub.runtime.protocol import Exchange

_CHUNK = 64 * 1024
_DRAIN = 16 * _CHUNK  # more than a pipe holds by default; a survivor that goes on writing is not read for ever


class Pipes:
    """Moves bytes between a process and its exchange.

    Args:
        process: started with three pipes.
        exchange: what is written to it, and what takes its stdout.
        log: takes its stderr, line by line.
        wake: descriptors that end a wait when they become readable.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], exchange: Exchange, log: Log, wake: Iterable[int] = ()
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._files = (process.stdin, process.stdout, process.stderr)
        self._stdin, self._stdout, self._stderr = (file.fileno() for file in self._files)
        self._exchange = exchange
        self._log = log
        self._lines = LineSplitter(LOG_LINE)
        self._selector = selectors.DefaultSelector()
        self._outgoing = memoryview(b"")
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
            if not self._outgoing:
                self._outgoing = memoryview(data)
                self._selector.register(self._stdin, selectors.EVENT_WRITE)
            else:
                self._outgoing = memoryview(bytes(self._outgoing) + data)
            self._write()

    def close_stdin(self) -> None:
        """Gives the process EOF, at once."""
        if self._writable:
            self._writable = False
            if self._outgoing:
                self._selector.unregister(self._stdin)
                self._outgoing = memoryview(b"")
            self._files[0].close()

    def wait(self, timeout: float | None) -> None:
        """Waits for something to happen, and moves what can be moved.

        Raises:
            AgentRuntimeError: the exchange refused what the agent wrote.
        """
        for key, _ in self._selector.select(timeout):
            if key.fd == self._stdin:
                self._write()
            elif key.fd in (self._stdout, self._stderr) and not self._read(key.fd):
                self._selector.unregister(key.fd)

    def drain(self) -> None:
        """Takes what is left in the pipes of a process that has ended, and tells the exchange that this was all.

        Raises:
            AgentRuntimeError: the exchange refused it.
        """
        for descriptor in (self._stderr, self._stdout):
            if descriptor in self._selector.get_map():
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
            written = os.write(self._stdin, self._outgoing)
        except BlockingIOError:
            return
        except BrokenPipeError:  # it never read, or stopped reading: its own affair
            self.close_stdin()
            return
        self._outgoing = self._outgoing[written:]
        if not self._outgoing:
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
        else:
            for line in self._lines.feed(data):
                self._log.write(line)
        return bool(data)
