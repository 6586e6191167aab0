"""What a killed supervisor leaves running, ended by a later command: found by a record, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from agenthub.runtime.processes.launch import RUN_ID_VARIABLE
from agenthub.runtime.processes.process_tree import is_alive, read_file, read_member, send_signal

_TIMEOUT = 5.0
_PAUSE = 0.001


def write_record(path: str, pid: int, mark: int | None, run_id: str) -> None:
    """Notes a run that is about to start.

    Args:
        path: the record, removed with the run's scratch directory.
        pid: the first process, which leads a session.
        mark: what `choose_mark` returned.
        run_id: what is in the run's environment.
    """
    member = read_member(pid)
    start = member.start if member is not None else 0
    text = f"{_boot()} {pid} {start:.0f} {mark or 0} {run_id}\n"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def end_remains(path: str) -> bool:
    """Ends what a record names, if anything of it is left, and removes the record.

    The supervisor must be dead. A process counts as the run's by the run's mark or id, which nothing else carries, or
    by a session that is still the recorded one.

    Returns:
        Whether nothing is left.
    """
    try:
        with open(path, encoding="utf-8") as file:
            fields = file.read().split()
    except FileNotFoundError:
        return True
    if len(fields) == 5 and fields[0] == _boot() and os.path.exists("/proc/self/stat"):
        pid, start, mark = map(int, fields[1:4])
        deadline = time.monotonic() + _TIMEOUT
        while living := _living(pid, start, mark, fields[4]):
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in living:
                    send_signal(process, number)
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
    remove_record(path)
    return True


def remove_record(path: str) -> None:
    """Forgets a run of which nothing is left."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _living(root: int, start: int, mark: int, run_id: str) -> list[int]:
    first = read_member(root)
    # A session's number is given away only after its last member; a leader with another start is a newcomer.
    session_is_ours = first is None or int(first.start) == start
    tag = f"\0{RUN_ID_VARIABLE}={run_id}\0".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        pid = int(name)
        if (
            (session_is_ours and _session(pid) == root)
            or (mark and _mark(pid) == mark)
            or tag in b"\0" + read_file(f"/proc/{name}/environ")
        ) and is_alive(pid):
            found.append(pid)
    return found


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _mark(pid: int) -> int:
    import resource

    try:
        return resource.prlimit(pid, resource.RLIMIT_RTTIME)[1]
    except OSError:
        return 0


def _boot() -> str:
    """This boot, and the namespace in which pids mean something."""
    boot = read_file("/proc/sys/kernel/random/boot_id").decode().strip() or "unknown"
    try:
        namespace = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    except OSError:
        namespace = "0"
    return f"{boot}/{namespace}"
