"""The process tree where there is no /proc: the same interface over psutil."""

from __future__ import annotations

import psutil

from agenthub.runtime.processes.process_tree import Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class PsutilTree:
    """Descendants, former descendants, and, once the first process has ended, whoever carries the run's id.

    An orphan belongs to init here, so one that left unseen and cleared its environment is not found.
    """

    def __init__(self, root: int, run_id: str) -> None:
        self._root = root
        self._run_id = run_id
        self._seen: dict[tuple[int, float], psutil.Process] = {}

    def scan(self, *, hidden: bool = False) -> list[Member]:
        found = list(self._seen.values())
        try:
            root = psutil.Process(self._root)
            found += [root, *root.children(recursive=True)]
            if root.status() == psutil.STATUS_ZOMBIE:
                found += self._tagged()
        except psutil.Error:
            found += self._tagged()
        for process in list(self._seen.values()):
            try:
                found += process.children(recursive=True)
            except psutil.Error:
                continue
        members = {}
        self._seen = {}
        for process in found:
            member = _member(process)
            if member is not None:
                members[member.pid] = member
                self._seen[member[:2]] = process
        return list(members.values())

    def memory(self, members: Sequence[Member]) -> int:
        return sum(member.rss for member in members)

    def _tagged(self) -> list[psutil.Process]:
        tagged = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AGENTHUB_RUN_ID") == self._run_id:
                    tagged.append(process)
            except (psutil.Error, OSError):
                continue
        return tagged


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _member(process: psutil.Process) -> Member | None:
    try:
        with process.oneshot():
            zombie = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            times = process.cpu_times()
            return Member(
                pid=process.pid,
                start=process.create_time(),
                parent=process.ppid(),
                zombie=zombie,
                rss=0 if zombie else process.memory_info().rss,
                cpu=times.user + times.system,
                tasks=1 if zombie else process.num_threads(),
            )
    except psutil.Error:
        return None
