"""An environment is built beside its place, so that the place holds a complete one or what it held before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil

from agenthub.errors import AgentRuntimeError, EnvironmentError
from agenthub.interrupts import deferred_interrupts
from agenthub.runtime.environments.state import looks_like_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


_BENCHES = 8


@contextlib.contextmanager
def replacing(venv: str, base: str, *, workshop: str | None = None, keep_failed: bool = False) -> Iterator[str]:
    """A path to build at; moved to `venv` when the block succeeds, removed when it fails.

    Args:
        venv: the final place; an environment there is replaced, anything else is not touched.
        base: the interpreter it is made from.
        workshop: a directory to build in, where it is on the same file system; None: beside `venv`.
        keep_failed: leave a failed build where it is, for looking at.

    Raises:
        EnvironmentError: something that is not an environment is in its place, or the disk refuses.
    """
    _refuse_other(venv)
    old = f"{venv}.{os.getpid()}.old"
    _sweep(venv)
    try:
        with _bench(venv, base, workshop) as partial:
            remove(partial)
            try:
                yield partial
                _exchange(partial, venv, old)
            finally:
                if not keep_failed:
                    with deferred_interrupts():
                        remove(partial)
    except OSError as error:
        if isinstance(error, AgentRuntimeError):  # some of ours are OSErrors as well
            raise
        raise EnvironmentError(f"cannot make the environment {venv}: {error.strerror or error}") from None
    finally:
        remove(old)


@contextlib.contextmanager
def _bench(venv: str, base: str, workshop: str | None) -> Iterator[str]:
    """Where to build. A path that recurs, held by a lock, spares uv from starting the environment's interpreter.

    uv asks each interpreter it meets for its paths, and remembers the answer by the path it was started by: at a path
    that is new each time it asks each time, some 40 ms.
    """
    if workshop:
        os.makedirs(workshop, mode=0o700, exist_ok=True)
        if os.stat(workshop).st_dev == os.stat(os.path.dirname(venv)).st_dev:
            for number in range(_BENCHES):
                # The base is in the name, so that what uv remembers of one is never taken for another.
                bench = os.path.join(workshop, f"{number}{base.replace(os.sep, '+')[-200:]}")
                lock = os.open(f"{bench}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                os.set_inheritable(lock, True)  # a tool that outlives us by an instant holds it that long
                try:
                    if _taken(lock):
                        continue
                    yield bench
                    return
                finally:
                    os.close(lock)
    yield f"{venv}.{os.getpid()}.partial"


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _exchange(partial: str, venv: str, old: str) -> None:
    if os.path.lexists(venv):
        os.rename(venv, old)
    try:
        os.rename(partial, venv)
    except OSError:
        if os.path.lexists(old):
            os.rename(old, venv)
        raise


def _refuse_other(venv: str) -> None:
    if not os.path.lexists(venv) or looks_like_environment(venv):
        return
    if os.path.isdir(venv) and not os.listdir(venv):
        return
    raise EnvironmentError(
        f"{venv} exists and is not an environment", suggestion="move it away, or set venv_location to another name"
    )


def _sweep(venv: str) -> None:
    """Remove what a killed build of the same environment left."""
    for path in abandoned(venv):
        remove(path)


def abandoned(venv: str) -> list[str]:
    """What builds of an environment left beside it that were killed, or that failed and were kept to be looked at."""
    folder, name = os.path.split(venv)
    found = (
        (re.fullmatch(re.escape(name) + r"\.(\d+)\.(?:partial|old)", entry), entry) for entry in os.listdir(folder)
    )
    return [os.path.join(folder, entry) for match, entry in found if match and not is_running(int(match[1]))]


def is_running(pid: int) -> bool:
    if pid == os.getpid():  # a failed build that was kept, or an earlier process of the same number
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        pass
    return True


def remove(path: str) -> None:
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.lexists(path):
        shutil.rmtree(path, ignore_errors=True)
