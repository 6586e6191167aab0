"""Programs that end with us however we end: a tool that outlived its caller's kill -9 would go on writing."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress

from agenthub.interrupts import deferred_interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

# A second process notices our end as the end of its input. A signal of the kernel's own (PR_SET_PDEATHSIG) would
# reach the tool alone and not what it started, and asking for it between fork and exec may deadlock beside threads.
_GUARD = 'read -r _; kill -9 "-$0"'


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
    process: subprocess.Popen[bytes] | None = None
    try:
        with deferred_interrupts():  # else an interrupt in the middle of starting it leaves it to itself
            process = subprocess.Popen(argv, start_new_session=True, **options)
        with _guarded(process):
            yield process
    finally:
        if process is not None and process.returncode is None:
            # A leader that is dead already is a zombie until `wait`, so that the group's number is still its own.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _guarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        guard = subprocess.Popen(
            ("/bin/sh", "-c", _GUARD, str(process.pid)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:  # no process to spare: the tool matters more
        yield
        return
    try:
        yield
    finally:
        guard.kill()  # before its input ends
        guard.wait()
        assert guard.stdin is not None
        guard.stdin.close()
