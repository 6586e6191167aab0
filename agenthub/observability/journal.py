"""The history's journal: a line when a run starts and one when it ends, in numbered segments.

Whoever runs an agent only appends here, by one `write`. Readers take what is new into a database. Order is that of the
lines, and not of clocks.
"""

from __future__ import annotations

import errno
import fcntl
import os

from agenthub.quick_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
"""Of a line; readers refuse a higher one."""
SEGMENT = 8 << 20
"""Bytes after which the next segment is begun."""
_SUFFIX = ".jsonl"
_ATTEMPTS = 8  # to find a segment that is neither full nor just being removed
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Journal:
    """Segments in a directory, which is made when the first line is written.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._number = 0  # of the segment that was written last

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line, whole or not at all; many processes may do so at once.

        Raises:
            OSError: it cannot be written.
        """
        # A line that was cut short, by a full disk or a kill, is ended by the next one's line feed.
        line = b"\n" + dumps({"format": FORMAT, **record}, separators=(",", ":")).encode() + b"\n"
        number = self._number if self._number and os.path.exists(self._path(self._number)) else self._newest()
        for _ in range(_ATTEMPTS):
            descriptor = self._open(number)
            try:
                size = _hold(descriptor)
                if size is not None and size < SEGMENT:
                    self._number = number
                    if os.write(descriptor, line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return
            finally:
                os.close(descriptor)
            number = max(number + (size is not None), self._newest())
        raise OSError(errno.EAGAIN, "its segments are being removed all the time")

    def segments(self) -> list[str]:
        """The paths of the segments, the oldest first."""
        try:
            names = sorted(name for name in os.listdir(self.directory) if _is_segment(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [os.path.join(self.directory, name) for name in names]

    def _newest(self) -> int:
        segments = self.segments()
        return int(os.path.basename(segments[-1]).removesuffix(_SUFFIX)) if segments else 1

    def _path(self, number: int) -> str:
        return os.path.join(self.directory, f"{number:08d}{_SUFFIX}")

    def _open(self, number: int) -> int:
        path = self._path(number)
        try:
            return os.open(path, _APPENDING, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.directory), mode=0o700, exist_ok=True)
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            return os.open(path, _APPENDING, 0o600)


def remove_segment(path: str) -> bool:
    """Removes a segment, unless somebody writes to it at this moment; says whether it did."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_segment(name: str) -> bool:
    return name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX).isdecimal()


def _hold(descriptor: int) -> int | None:
    """The size of a segment, which cannot be removed until it is closed; None where it was just now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # never waits for whoever removes it
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    found = os.fstat(descriptor)
    return found.st_size if found.st_nlink else None
