"""Whether the process that recorded a run is still there, also after its number was given to another one."""

from __future__ import annotations

import os

# A process: its number; when it was started, in the kernel's ticks since boot, 0 where that is not known; this boot of
# this machine, with the namespace in which the number means something. A named tuple would cost each run 1 ms.
Supervisor = tuple[int, int, str]

_known: Supervisor = (0, 0, "")


def this_process() -> Supervisor:
    """This process; looked up once."""
    global _known
    known, pid = _known, os.getpid()
    if known[0] != pid:  # the first time, or in a child
        known = _known = (pid, _start(pid)[0], _boot())
    return known


def is_alive(supervisor: Supervisor) -> bool:
    """Whether it still runs; one on another machine, or in a container that is out of sight, counts as gone."""
    pid, started, boot = supervisor
    if boot != this_process()[2]:
        return False
    if not started:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True
    found, state = _start(pid)
    return found == started and state not in "ZX"


def _start(pid: int) -> tuple[int, str]:
    """Start and state of a process; 0 where it is not there."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()  # a program's name may hold anything
        return int(fields[19]), fields[0].decode()
    except (OSError, IndexError, ValueError):
        return 0, "X"


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            boot = file.read().decode().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')[5:-1]}"
    except OSError:
        return "unknown"
