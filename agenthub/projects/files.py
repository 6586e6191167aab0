"""The two files of a project: read with a bound, written in one step."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import BufferedReader

LARGEST = 128 * 1024 * 1024
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def read_bytes(path: str) -> bytes:
    """What is in a file of a project; b"" where there is none.

    Raises:
        InvalidInputError: it cannot be read, or is larger than any such file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise InvalidInputError(f"{path} is larger than {LARGEST // 1024**2} MB")
    return data


def open_regular(path: str) -> BufferedReader:
    """A file that ends, open for reading: no pipe that nobody writes to, and no device.

    Raises:
        OSError: it is not there, or is something else.
    """
    descriptor = os.open(path, _OPEN)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file", path)
    return open(descriptor, "rb")


def write_text(path: str, text: str) -> None:
    """Replaces a file of a project in one step, and leaves it alone where it has this text.

    Raises:
        InvalidInputError: it cannot be written, or is a link out of its directory; it is as it was.
    """
    data = text.encode()
    if data == read_bytes(path):
        return
    directory = os.path.realpath(os.path.dirname(path))
    target = os.path.realpath(path)  # a link stays one
    if os.path.commonpath((directory, target)) != directory:
        # A repository may come with it, and would have us write over a file of whoever cloned it.
        raise InvalidInputError(
            f"{path} is a link to {target}, outside of the project, and is not written through",
            suggestion="put a file in the place of the link",
        )
    path = target
    fresh = f"{path}.{os.getpid()}.new"
    try:
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o666
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(fresh)
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
