"""Programs that end with us however we end: a tool that outlived its caller's kill -9 would go on writing."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress

from agenthub.errors import InterruptedError
from agenthub.interrupts import deferred_interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

# A second process notices our end as the end of its input. A signal of the kernel's own (PR_SET_PDEATHSIG) would
# reach the tool alone and not what it started, and asking for it between fork and exec may deadlock beside threads.
_GUARD = 'read -r group; read -r _; [ -z "$group" ] || kill -9 "-$group"'


_stopping = threading.Event()


@contextmanager
def stop_tools() -> Iterator[None]:
    """While the context lasts, whoever waits for a tool in another thread ends it, and has an InterruptedError."""
    _stopping.set()
    try:
        yield
    finally:
        _stopping.clear()


def check_stopping() -> None:
    """For those who wait, to be called a few times a second.

    Raises:
        InterruptedError: tools are to end.
    """
    if _stopping.is_set():
        raise InterruptedError("interrupted")


@contextmanager
def running_tool(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a program in a session of its own.

    Its process group is killed when the context ends while it has not been waited for, and when this process dies.

    Args:
        argv: program and arguments.
        options: of `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
    """
    guard: subprocess.Popen[bytes] | None = None
    process: subprocess.Popen[bytes] | None = None
    try:
        with deferred_interrupts():  # else an interrupt in the middle of starting it leaves it to itself
            guard = _start_guard()
            process = subprocess.Popen(argv, start_new_session=True, **options)
            _entrust(guard, process)
        yield process
    finally:
        with deferred_interrupts():
            _dismiss(guard)
            if process is not None and process.returncode is None:
                # A leader that is dead already is a zombie until `wait`, so that the group's number is still its own.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _start_guard() -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            ("/bin/sh", "-c", _GUARD),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
    except OSError:  # no process to spare: the tool matters more
        return None


def _entrust(guard: subprocess.Popen[bytes] | None, process: subprocess.Popen[bytes]) -> None:
    if guard is not None and guard.stdin is not None:
        with suppress(BrokenPipeError):
            guard.stdin.write(b"%d\n" % process.pid)


def _dismiss(guard: subprocess.Popen[bytes] | None) -> None:
    if guard is not None and guard.stdin is not None:
        guard.kill()  # before its input ends
        guard.wait()
        guard.stdin.close()
