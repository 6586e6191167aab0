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

from agenthub.config import out_of_the_way
from agenthub.errors import EnvironmentError
from agenthub.runtime.remains import end_remains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_RECORD = ".run"  # beside the directory: see `remains`


def base_directory() -> str:
    """Where scratch directories are made: one private directory for each user."""
    shared = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the owner and mode of what is made there are checked
    return os.path.join(shared, f"agenthub-{os.getuid()}")


@contextlib.contextmanager
def scratch_directory(run_id: str, cleanup_interval: float = 60.0) -> Iterator[str]:
    """Makes a fresh directory for a run and removes it, whatever the run left in it.

    Raises:
        EnvironmentError: it cannot be made.
    """
    base = base_directory()
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
    with contextlib.suppress(FileNotFoundError), os.scandir(base) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and _sweep_one(entry.path)]
    return []


def _sweep_one(path: str) -> bool:
    """Removes a directory and whatever still runs in it, unless its supervisor lives; says whether it did."""
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end_remains(path + _RECORD)
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
    import shutil

    for directory, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(directory, name)
            if not os.path.islink(inner):
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)
    shutil.rmtree(path, ignore_errors=True)
