"""Stopping a run: from another thread, from a signal handler, or from another process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from agenthub.config import out_of_the_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from collections.abc import Iterator

STOP_PIPE = ".stop"
"""What the pipe beside a run's scratch directory is called, after that directory's name."""


class Cancellation:
    """A flag that wakes whoever selects on it; set once, from any thread or signal handler.

    One object may cancel many runs. `close` frees its descriptors once no run uses it.
    """

    def __init__(self) -> None:
        self._reader, self._writer = map(out_of_the_way, os.pipe())
        os.set_blocking(self._writer, False)
        self._asked = False
        self._both: select.epoll | None = None
        self._output = -1
        self._unread = False

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked, or nobody reads what `watch_reader` watches."""
        return self._asked or self.reader_gone

    def cancel(self) -> None:
        """Asks every run that was given this object to stop, now and later."""
        if not self._asked:
            self._asked = True
            if self._writer >= 0:
                os.write(self._writer, b"!")  # never read, so that the descriptor stays readable for all

    def watch_reader(self, output: int) -> None:
        """Cancels as well once nobody reads the pipe `output` any more; does nothing where it is no pipe.

        Elsewhere than on Linux only the next write tells.
        """
        import select

        writes_only = fcntl.fcntl(output, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        if not (hasattr(select, "epoll") and writes_only and stat.S_ISFIFO(os.fstat(output).st_mode)):
            return
        made = select.epoll()
        self._both = select.epoll.fromfd(fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, 32))
        made.close()
        self._both.register(self._reader, select.EPOLLIN)
        self._both.register(output, 0)  # errors are always told
        self._output = output

    @property
    def reader_gone(self) -> bool:
        """Whether nobody reads what `watch_reader` watches."""
        if self._both is not None and not self._unread:
            self._unread = any(found == self._output for found, _ in self._both.poll(0))
        return self._unread

    def fileno(self) -> int:
        """A descriptor that is readable once the run is to stop."""
        return self._both.fileno() if self._both is not None else self._reader

    def close(self) -> None:
        """Frees the descriptors; `cancel` is harmless afterwards."""
        if self._both is not None:
            self._unread = self.reader_gone
            self._both.close()
            self._both = None
        reader, self._reader = self._reader, -1
        writer, self._writer = self._writer, -1
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StopPipe:
    """A named pipe by which another process of the same user cancels a run; see `request_stop`.

    A context, at whose end the pipe is removed. Where none can be made, it is false, and nobody can stop the run so.

    Args:
        path: where it is made; empty: nowhere.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stopped = False
        self._reader = -1
        try:
            os.mkfifo(path, 0o600)
        except OSError:
            self._path = ""
            return
        with contextlib.suppress(OSError):
            # Open for writing too: else it would be readable for ever once somebody looked whether it is there.
            self._reader = out_of_the_way(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        if not self._stopped and self._reader >= 0:
            with contextlib.suppress(BlockingIOError):
                self._stopped = bool(os.read(self._reader, 1))
        return self._stopped

    def fileno(self) -> int:
        """A descriptor that becomes readable when somebody asks; -1 where there is no pipe."""
        return self._reader

    def __bool__(self) -> bool:
        return self._reader >= 0

    def __enter__(self) -> StopPipe:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def request_stop(path: str) -> bool:
    """Asks the run of a stop pipe to end; False where no run listens any more.

    Raises:
        OSError: it may not be written.
    """
    with _stop_pipe(path) as descriptor:
        if descriptor >= 0:
            with contextlib.suppress(BlockingIOError):  # full: it was asked often enough
                os.write(descriptor, b"!")
        return descriptor >= 0


def is_listening(path: str) -> bool:
    """Whether a run listens at a stop pipe."""
    try:
        with _stop_pipe(path) as descriptor:
            return descriptor >= 0
    except OSError:
        return False


@contextlib.contextmanager
def _stop_pipe(path: str) -> Iterator[int]:
    """Its descriptor for writing; -1 where nobody reads."""
    descriptor = -1
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENOTDIR):
                raise
        yield descriptor if descriptor >= 0 and stat.S_ISFIFO(os.fstat(descriptor).st_mode) else -1
    finally:
        if descriptor >= 0:
            os.close(descriptor)
