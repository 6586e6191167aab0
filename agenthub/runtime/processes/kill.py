"""The end of a whole process tree: no member is left, and what we adopted is reaped."""

from __future__ import annotations

import os
import signal
import time

from agenthub.runtime.processes.process_tree import is_alive, send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.runtime.processes.cgroups import Cgroup
    from agenthub.runtime.processes.process_tree import Member, ProcessTree

KILL_TIMEOUT = 5.0
_STOP_ROUNDS = 8
_QUIET_SCANS = 2
_PAUSE = 0.0005


class Reaped:
    """What the orphans used that were reaped: `cpu` seconds, and `peak`, the bytes of the largest."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.peak = 0


def kill_tree(tree: ProcessTree, root: int, cgroup: Cgroup | None, reaped: Reaped) -> bool:
    """Kills every member of a run but leaves `root`, the supervisor's own child, unreaped.

    Members are stopped before they are killed, so that they cannot fork away from the sweep; the sweep is repeated
    until it finds nobody.

    Returns:
        Whether nobody is left; False after `KILL_TIMEOUT` (a process stuck in the kernel, or one that forks faster).
    """
    deadline = time.monotonic() + KILL_TIMEOUT
    quiet = 0
    while quiet < _QUIET_SCANS:
        living, dead = _scan(tree, root, cgroup, reaped)
        if not living and not dead:
            quiet += 1
            continue
        quiet = 0
        if living:
            if cgroup is not None:
                cgroup.kill()
            _stop(tree, root, cgroup, living, reaped)
            for pid in living:
                send_signal(pid, signal.SIGKILL)
            time.sleep(_PAUSE)
        if time.monotonic() > deadline:
            return False
    return True


def _stop(tree: ProcessTree, root: int, cgroup: Cgroup | None, living: set[int], reaped: Reaped) -> None:
    """Stops `living`, and adds whoever they had started meanwhile."""
    fresh = set(living)
    for _ in range(_STOP_ROUNDS):
        for pid in fresh:
            send_signal(pid, signal.SIGSTOP)
        fresh = _scan(tree, root, cgroup, reaped)[0] - living
        if not fresh:
            return
        living |= fresh


def _scan(tree: ProcessTree, root: int, cgroup: Cgroup | None, reaped: Reaped) -> tuple[set[int], int]:
    """Who lives, and how many were found dead and reaped: a chain of forks shows itself by its dead."""
    living = set(filter(is_alive, cgroup.members())) if cgroup is not None else set()
    dead = 0
    for member in tree.scan(hidden=True):
        if not member.zombie:
            living.add(member.pid)
        elif member.pid != root:
            dead += reap_orphan(member, reaped)
    return living, dead


def reap_orphan(member: Member, reaped: Reaped) -> bool:
    """Reaps a member that ended as our adopted child; says whether it was one."""
    if member.parent != os.getpid():
        return False
    try:
        pid, _, usage = os.wait4(member.pid, os.WNOHANG)
    except ChildProcessError:  # another thread of this program was faster
        return False
    if pid != 0:
        reaped.cpu += usage.ru_utime + usage.ru_stime
        reaped.peak = max(reaped.peak, usage.ru_maxrss * 1024)
    return pid != 0
