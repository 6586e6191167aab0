"""A run's scratch directory: its HOME, TMPDIR and, by the method contract, its working directory. Gone after the run.

Each one is held by a lock on the directory itself, so that what a killed supervisor left behind is told from what is in
use, and swept by a later run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time

from agenthub.config import out_of_the_way, scratch_base
from agenthub.errors import EnvironmentError
from agenthub.runtime.processes.cancellation import STOP_PIPE, is_listening
from agenthub.runtime.processes.remains import end_remains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RECORD = ".run"  # beside the directory: see `remains`


@contextlib.contextmanager
def scratch_directory(run_id: str, cleanup_interval: float = 60.0) -> Iterator[str]:
    """Makes a fresh directory for a run and removes it, whatever the run left in it.

    Raises:
        EnvironmentError: it cannot be made.
    """
    base = scratch_base()
    path = os.path.join(base, run_id)
    try:
        _make_private(base)
        _sweep_sometimes(base, cleanup_interval)
        os.mkdir(path, 0o700)
        held = out_of_the_way(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        raise EnvironmentError(
            f"cannot make a scratch directory for the run at {path}: {error.strerror}",
            suggestion="set TMPDIR to a directory that can be written and has room",
        ) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        remove_tree(path)
        os.close(held)


def _make_private(base: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(base, 0o700)
    found = os.lstat(base)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(1, "it exists and is not a private directory of yours")


def _sweep_sometimes(base: str, interval: float) -> None:
    stamp = os.path.join(base, ".swept")
    try:
        due = time.time() - os.stat(stamp).st_mtime >= interval
    except FileNotFoundError:
        due = True
    if due:
        with open(stamp, "w"):
            pass
        sweep(base)
        return
    for name in os.listdir(base):  # what may still be running does not wait
        if name.endswith(_RECORD):
            _sweep_one(os.path.join(base, name.removesuffix(_RECORD)))


def sweep(base: str) -> list[str]:
    """Ends what is left of runs whose supervisor is dead, and removes their directories; returns the paths of these."""
    swept = []
    with contextlib.suppress(FileNotFoundError), os.scandir(base) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                swept += [entry.path] if _sweep_one(entry.path) else []
            elif entry.name.endswith(STOP_PIPE) and not is_listening(entry.path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
    return swept


def _sweep_one(path: str) -> bool:
    """Removes a directory and whatever still runs in it, unless its supervisor lives; says whether it did."""
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end_remains(path + _RECORD)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + STOP_PIPE)
        remove_tree(path)
    except OSError:
        return False
    finally:
        os.close(held)
    return True


def remove_tree(path: str) -> None:
    """Removes a directory with all that an agent may have put there, unreadable directories included."""
    try:
        os.rmdir(path)  # nearly always empty, and then nothing needs importing
    except FileNotFoundError:
        return
    except OSError:
        _remove_full_tree(path)


def _remove_full_tree(path: str) -> None:
    """Neither the stack nor a path's longest length bounds the depth: what lies deeper is moved up first."""
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
        top = os.open(path, _DIRECTORY)
        try:
            _remove_content(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _remove_content(top: int) -> None:
    prefix = os.urandom(8).hex()  # which nothing in it can have
    pending = _remove_files(top)
    moved = 0
    while pending:
        name = pending.pop()
        with contextlib.suppress(OSError):
            inner = os.open(name, _DIRECTORY, dir_fd=top)
            try:
                for deeper in _remove_files(inner):
                    moved += 1
                    os.rename(deeper, f"{prefix}{moved}", src_dir_fd=inner, dst_dir_fd=top)
                    pending.append(f"{prefix}{moved}")
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _remove_files(directory: int) -> list[str]:
    """Leaves only the directories in one, which can then be opened; returns their names."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in list(entries):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                    os.chmod(entry.name, 0o700, dir_fd=directory)
                else:
                    os.unlink(entry.name, dir_fd=directory)
    return directories
