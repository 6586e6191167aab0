"""The two files of a project: read with a bound, written in one step."""

from __future__ import annotations

import os
from contextlib import suppress

from agenthub.errors import InvalidInputError

LARGEST = 128 * 1024 * 1024


def read_bytes(path: str) -> bytes:
    """What is in a file of a project; b"" where there is none.

    Raises:
        InvalidInputError: it cannot be read, or is larger than any such file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise InvalidInputError(f"{path} is larger than {LARGEST // 1024**2} MB")
    return data


def write_text(path: str, text: str) -> None:
    """Replaces a file of a project in one step, and leaves it alone where it has this text.

    Raises:
        InvalidInputError: it cannot be written; it is as it was.
    """
    data = text.encode()
    if data == read_bytes(path):
        return
    path = os.path.realpath(path)  # a link stays one
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
