"""Where a worker is reached: its socket, its locks and its note, in a directory that is the user's alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from agenthub.errors import AgentRuntimeError, EnvironmentError
from agenthub.quick_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class ThereAlreadyError(AgentRuntimeError):
    """Another process keeps the worker of this number."""


class Post:
    """A number among an agent's workers, and a socket. A context; at its end all is removed.

    Args:
        place: the directory.
        number: of the worker.
        wait: for another process that has the number and is still loading, which may fail.

    Raises:
        ThereAlreadyError: another process has the number.
        EnvironmentError: the directory cannot be made or written.
    """

    def __init__(self, place: str, number: int, *, wait: bool) -> None:
        self._place = place
        self._name = str(number)
        self._owner = self._loading = self._lock = self._folder = -1
        import socket  # who only looks for a worker does without

        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Held while the agent is loaded: whoever waits for it hears at once when that succeeds, fails or is killed.
            self._loading = self._take("loading", wait=wait)
            # Says whose number this is, until the end. Without a note it is one that is about to end.
            self._owner = self._take("owner", wait=wait and not os.path.exists(self._path("json")))
        except BaseException as error:
            self.listener.close()
            self._let_go_of(self._loading)
            if not isinstance(error, OSError):
                raise
            raise EnvironmentError(f"cannot keep an agent loaded in {place}: {error.strerror}") from None

    def _take(self, kind: str, *, wait: bool) -> int:
        """A lock on a file. Raises ThereAlreadyError: another process has it."""
        how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        while True:
            os.makedirs(self._place, mode=0o700, exist_ok=True)
            os.chmod(self._place, 0o700)
            try:
                lock = os.open(self._path(kind), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # whoever was there removes the directory
                continue
            try:
                fcntl.flock(lock, how)
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(self._path(kind)).st_ino == os.fstat(lock).st_ino:
                        return lock
            except BlockingIOError:
                os.close(lock)
                raise ThereAlreadyError(f"worker {self._name} is there already") from None
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)  # removed by whoever had it

    def _let_go_of(self, *locks: int) -> None:
        for lock in locks:
            if lock >= 0:
                os.close(lock)

    def __enter__(self) -> Post:
        for kind in ("sock", "json"):  # of one that was killed
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(kind))
        self._folder = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return self

    def open(self) -> None:
        """Listens from now on."""
        # By the descriptor: a path may be longer than the 107 bytes of an address. Under its name once it is complete.
        self.listener.bind(f"/proc/self/fd/{self._folder}/{self._name}.new")
        os.chmod(self._path("new"), 0o600)
        self.listener.listen(8)
        os.rename(self._path("new"), self._path("sock"))
        loading, self._loading = self._loading, -1
        self._let_go_of(loading)

    def hide(self) -> None:
        """Is not found any more."""
        for kind in ("sock", "json"):
            with contextlib.suppress(OSError):
                os.unlink(self._path(kind))

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Cannot be found meanwhile; nobody waits for it."""
        with contextlib.suppress(OSError):
            os.rename(self._path("sock"), self._path("away"))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.rename(self._path("away"), self._path("sock"))

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        if self.is_ours():
            for kind in ("new", "away", "sock", "json", "lock", "loading", "owner"):
                with contextlib.suppress(OSError):
                    os.unlink(self._path(kind))
            with contextlib.suppress(OSError):
                os.rmdir(self._place)
        self._let_go_of(self._folder, self._lock, self._owner, self._loading)

    def is_ours(self) -> bool:
        """Whether what lies there was not removed or replaced."""
        try:
            return os.stat(self._path("owner")).st_ino == os.fstat(self._owner).st_ino
        except OSError:
            return False

    def note(self, known: dict[str, Any]) -> None:
        """Says in a file what others may want to know."""
        with contextlib.suppress(OSError):
            partial = self._path("note")
            with open(partial, "w", encoding="utf-8") as file:
                file.write(dumps(known))
            os.replace(partial, self._path("json"))

    def touch(self, idle: float = 0.0) -> None:
        """Tells the other workers of this user since when this one has been idle, in seconds."""
        with contextlib.suppress(OSError):
            os.utime(self._owner, (0, time.time() - idle))

    def is_least_used(self) -> bool:
        """Whether no other worker of this user has been idle for longer."""
        mine = os.fstat(self._owner).st_mtime
        root = os.path.dirname(os.path.dirname(self._place))
        for folder, _, files in os.walk(root):
            for name in files:
                if name.endswith(".owner"):
                    path = os.path.join(folder, name)
                    with contextlib.suppress(OSError):
                        if os.stat(path).st_mtime < mine and is_held(path):
                            return False
        return True

    def _path(self, kind: str) -> str:
        return os.path.join(self._place, f"{self._name}.{kind}")


def is_held(lock: str) -> bool:
    """Whether somebody holds a lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
