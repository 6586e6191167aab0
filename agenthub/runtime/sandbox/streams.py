"""Sockets as tasks of the event loop use them, and the relay between two of them, with bounded buffers."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

from agenthub.runtime.sandbox.event_loop import READ, WRITE, Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from agenthub.runtime.sandbox.http_messages import Body

BLOCK = 64 * 1024  # bytes held in each direction at most, besides the kernel's buffers
_ROUNDS = 16  # blocks moved in one go, so that others get their turn
_LINGER = 1.0  # seconds in which what a refused client still sends is thrown away, or it would not read the answer
_LINGER_BYTES = 1024 * 1024


class Stream:
    """A connected socket and what was read from it too early."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.buffer = b""

    def fill(self, timeout: float) -> Generator[Wait, bool, bool]:
        """Reads some more into the buffer; False at the end. Raises TimeoutError."""
        while True:
            try:
                data = self.socket.recv(BLOCK)
            except BlockingIOError:
                if not (yield Wait(((self.socket, READ),), timeout)):
                    raise TimeoutError from None
                continue
            self.buffer = self.buffer + data if self.buffer else data
            return data != b""

    def read_past(self, mark: bytes, limit: int, timeout: float) -> Generator[Wait, bool, bytes | None]:
        """Reads and takes away everything up to `mark`; None if the stream ends, or is too long, before it."""
        deadline = time.monotonic() + timeout
        searched = 0
        while (at := self.buffer.find(mark, searched)) < 0:
            searched = max(0, len(self.buffer) - len(mark) + 1)
            if len(self.buffer) > limit or not (yield from self.fill(max(0.0, deadline - time.monotonic()))):
                return None
        found, self.buffer = self.buffer[:at], self.buffer[at + len(mark) :]
        return found

    def send(self, data: bytes, timeout: float) -> Generator[Wait, bool, None]:
        """Sends all of `data`. Raises TimeoutError."""
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                if not (yield Wait(((self.socket, WRITE),), timeout)):
                    raise TimeoutError from None

    def finish(self) -> Generator[Wait, bool, None]:
        """Ends the sending half, and waits a little until the other side has ended too."""
        self.shut()
        deadline = time.monotonic() + _LINGER
        thrown = 0
        try:
            while thrown < _LINGER_BYTES and (yield from self.fill(max(0.0, deadline - time.monotonic()))):
                thrown += len(self.buffer)
                self.buffer = b""
        except TimeoutError:
            pass

    def shut(self) -> None:
        """Ends the sending half."""
        with suppress(OSError):  # the other side was faster
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the socket."""
        self.socket.close()


class Flow:
    """One direction of a relay."""

    def __init__(self, source: Stream, target: Stream, body: Body, half_close: bool = False) -> None:
        self.source = source
        self.target = target
        self.body = body
        self._half_close = half_close
        self._pending = memoryview(b"")
        self.broken = False  # the target takes no more, though it may still have something to say
        self._stale = False  # the buffer holds what the body cannot use before more has come
        self.wants: tuple[socket.socket, int] | None = None

    @property
    def done(self) -> bool:
        """Whether all that belongs to it has been passed on."""
        return self.broken or (self.body.done and not self._pending)

    def pump(self) -> bool:
        """Moves what can be moved now; `wants` is what it then waits for. Returns whether anything moved."""
        for turn in range(_ROUNDS):
            self.wants = None
            if self.done:
                return turn > 0
            try:
                self._step()
            except BlockingIOError:
                self.wants = (self.target.socket, WRITE) if self._pending else (self.source.socket, READ)
                return turn > 0
        self.wants = (self.target.socket, WRITE) if self._pending else (self.source.socket, READ)
        if not self._pending and self.source.buffer and not self._stale:
            self.wants = (self.target.socket, WRITE)  # there is work without reading
        return True

    def _step(self) -> None:
        if self._pending:
            try:
                self._pending = self._pending[self.target.socket.send(self._pending) :]
            except ConnectionError:
                self.broken = True
            return
        source = self.source
        if not source.buffer or self._stale:
            data = source.socket.recv(BLOCK)
            if not data:
                self.body.end()
                if self._half_close:
                    self.target.shut()
                return
            source.buffer = source.buffer + data if source.buffer else data
        passed, source.buffer = self.body.feed(source.buffer)
        self._stale = not passed
        self._pending = memoryview(passed)


def relay(flows: tuple[Flow, Flow], last: tuple[Flow, ...], idle: float) -> Generator[Wait, bool, None]:
    """Runs two flows until each of `last` is done. Raises TimeoutError after `idle` seconds without a byte."""
    while True:
        moved = False
        for flow in flows:
            moved = flow.pump() or moved
        if all(flow.done for flow in last):
            return
        wanted: dict[socket.socket, int] = {}
        for flow in flows:
            if flow.wants is not None:
                wanted[flow.wants[0]] = wanted.get(flow.wants[0], 0) | flow.wants[1]
        if not (yield Wait(tuple(wanted.items()), idle)):
            raise TimeoutError
