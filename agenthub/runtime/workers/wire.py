"""What a worker and whoever wants it say to each other: lines of JSON over a socket of the user's own."""

from __future__ import annotations

import fcntl
import os

from agenthub.bare import socket
from agenthub.quick_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GO = b"+"  # after which a run is not taken back, only stopped, by any other byte
_CONNECT_TIMEOUT = 2.0
_PART = 1 << 16  # bytes; for more at once the allocator asks the kernel each time
_CHECK_TIMEOUT = 5.0
_CREDENTIALS = 12  # bytes: three numbers


class Connection:
    """A conversation with one worker, which serves nobody else meanwhile. A context.

    Raises:
        OSError: nobody is there, it is busy, or whoever is there is another user's.
    """

    def __init__(self, place: str, name: str) -> None:
        self._place = place
        self._name = name
        self._folder = self._lock = -1
        self.reusable = False
        """Whether another run may be asked for: whoever had the last one has heard all of it."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> Connection:
        try:
            self._folder = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            lock = self._name.removesuffix("sock") + "lock"
            self._lock = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.socket.settimeout(_CONNECT_TIMEOUT)
            # By the descriptor: a path may be longer than the 107 bytes of an address.
            self.socket.connect(f"/proc/self/fd/{self._folder}/{self._name}")
            if peer_of(self.socket)[1] != os.getuid():
                raise PermissionError(1, "another user listens there")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        for descriptor in (self._lock, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._folder = -1

    def check(self, order: str, idle: float | None = None) -> bool:
        """Whether the worker was started with an order; one that was not ends.

        Args:
            order: the fingerprint of what one would be started with now.
            idle: the time after which it shall end from now on.
        """
        self.socket.settimeout(_CHECK_TIMEOUT)
        send_message(self.socket, {"check": order, "idle": idle})
        return read_message(self.socket).get("fits") is True


def send_message(connection: socket.socket, message: dict[str, Any]) -> None:
    """One message as a line of JSON. Raises OSError."""
    connection.sendall(dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def read_message(connection: socket.socket, limit: int = 1 << 28) -> dict[str, Any]:
    """The next message of somebody who waits for an answer to it. Raises OSError, also where it is none."""
    data = bytearray()
    while not data.endswith(b"\n"):
        part = connection.recv(_PART)
        if not part or len(data) > limit:
            raise ConnectionError("no message")
        data += part
    try:
        message = loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ConnectionError("no message")
    return message


class Teller:
    """Sends what a run says; waits for a reader that is slow, so that the run does too."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._gone = False

    def __call__(self, event: dict[str, Any]) -> None:
        if not self._gone:
            try:
                send_message(self._connection, event)
            except OSError:  # the end of the connection stops the run
                self._gone = True


def let_go(connection: socket.socket) -> bool:
    """Asks the client whether a run that stands ready is still wanted, and tells it that it begins."""
    send_message(connection, {"ready": True})
    wanted = connection.recv(1) == GO
    connection.settimeout(None)
    if wanted:
        send_message(connection, {"begun": True})
    return wanted


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS)
    pid, uid, _ = memoryview(credentials).cast("i")
    return pid, uid
