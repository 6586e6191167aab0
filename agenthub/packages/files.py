"""Files of the store: written whole or not at all, removed whole, and their errors in agenthub's words."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress

from agenthub.errors import AgentRuntimeError, StoreError
from agenthub.quick_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SCHEMA_VERSION = 1

_ATTEMPTS = 10  # to remove a directory into which a dying program still writes

_WAYS_OUT = {
    errno.ENOSPC: "free some space, or set AGENTHUB_HOME to a directory on another disk",
    errno.EDQUOT: "free some space, or set AGENTHUB_HOME to a directory on another disk",
    errno.EROFS: "set AGENTHUB_HOME to a directory that you may write",
    errno.EACCES: "set AGENTHUB_HOME to a directory that you may write",
    errno.EPERM: "set AGENTHUB_HOME to a directory that you may write",
}


@contextmanager
def storing(action: str, path: str) -> Iterator[None]:
    """Turns an `OSError` inside into a `StoreError` such as "cannot write PATH: No space left on device"."""
    try:
        yield
    except OSError as error:
        if isinstance(error, AgentRuntimeError):  # some of ours are OSErrors as well
            raise
        raise StoreError(
            f"cannot {action} {path}: {os.strerror(error.errno) if error.errno else error}",
            suggestion=_WAYS_OUT.get(error.errno or 0),
        ) from error


def read_json(path: str, way_out: str = "see: agenthub doctor") -> dict[str, Any]:
    """The JSON object in a file of the store.

    Args:
        path: the file.
        way_out: what is suggested where it is damaged.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it cannot be read, is damaged, or was written by a newer agenthub.
    """
    try:
        with open(path, "rb") as file:
            value = loads(file.read())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        raise StoreError(f"{path} is damaged: it is not JSON", suggestion=way_out) from None
    if not isinstance(value, dict) or not isinstance(value.get("schema_version"), int):
        raise StoreError(f"{path} is damaged: it has no schema_version", suggestion=way_out)
    if value["schema_version"] > SCHEMA_VERSION:
        raise StoreError(
            f"{path} was written by a newer agenthub (schema {value['schema_version']}, not {SCHEMA_VERSION})",
            suggestion="upgrade agenthub, or set AGENTHUB_HOME to another directory",
        )
    return value


def write_json(path: str, value: object, scratch: str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replaces `path` by `value` in one step.

    Args:
        path: the file.
        value: what can be JSON.
        scratch: a directory of the caller's own on the same file system.
        mode: of the file.
        durable: whether it must survive a loss of power.

    Raises:
        StoreError: it cannot be written; `path` is as it was.
    """
    temporary = os.path.join(scratch, os.path.basename(path) + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with storing("write", path):
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            fsync_directory(os.path.dirname(path))


def fsync_directory(path: str) -> None:
    """Makes renames inside `path` survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: str) -> None:
    """Makes all that was written under `path` survive a loss of power: one call, however many files there are."""
    import ctypes

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(descriptor)


def remove_tree(path: str) -> None:
    """Removes a file or a directory with all that is in it; never follows a link, and is content with what is gone."""
    try:
        _remove(os.path.basename(path), os.path.dirname(path), None)
    except FileNotFoundError:
        return


def _remove(name: str, parent: str, parent_fd: int | None) -> None:
    for _ in range(_ATTEMPTS):
        try:
            return _remove_once(name, parent, parent_fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    return _remove_once(name, parent, parent_fd)


def _remove_once(name: str, parent: str, parent_fd: int | None) -> None:
    target = os.path.join(parent, name) if parent_fd is None else name
    if not stat.S_ISDIR(os.stat(target, dir_fd=parent_fd, follow_symlinks=False).st_mode):
        os.unlink(target, dir_fd=parent_fd)
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(target, flags, dir_fd=parent_fd)
    except PermissionError:
        os.chmod(target, 0o700, dir_fd=parent_fd)
        descriptor = os.open(target, flags, dir_fd=parent_fd)
    try:
        names = os.listdir(descriptor)
        if names and not os.fstat(descriptor).st_mode & stat.S_IWUSR:
            os.fchmod(descriptor, 0o700)
        for child in names:
            try:
                _remove(child, parent, descriptor)
            except FileNotFoundError:  # somebody else removes it as well
                continue
    finally:
        os.close(descriptor)
    os.rmdir(target, dir_fd=parent_fd)


def remove_empty(*directories: str) -> None:
    """Removes those of `directories` that are empty, in this order."""
    for directory in directories:
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
