"""Who belongs to a run, and what the whole tree uses: one small interface over /proc."""

from __future__ import annotations

import _thread
import os
import weakref

from agenthub.values import NamedTuple, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


class Member(NamedTuple):
    """A process of a run.

    Attributes:
        pid, start: together they name a process for good; `start` is in the platform's own unit.
        parent: its parent's pid.
        zombie: ended, not yet reaped.
        rss: resident bytes, pages shared with others included.
        cpu: seconds used by it and by its reaped children.
        tasks: its threads.
    """

    pid: int
    start: float
    parent: int
    zombie: bool
    rss: int
    cpu: float
    tasks: int


class ProcessTree(Protocol):
    """The processes of one run."""

    def scan(self, *, hidden: bool = False) -> list[Member]:
        """Every member at this moment: the first process, all descendants, adopted orphans; zombies too.

        Args:
            hidden: with the orphans that made themselves unknown, of whichever run they are; only fit to be ended.
        """

    def memory(self, members: Sequence[Member]) -> int:
        """Bytes that the members hold together, shared pages counted once where the platform tells."""


def open_tree(root: int, run_id: str, mark: int | None) -> ProcessTree:
    """The best tree for this platform.

    Args:
        root: pid of the run's first process.
        run_id: value of `AGENTHUB_RUN_ID` in its environment.
        mark: what `choose_mark` returned.
    """
    if os.path.exists("/proc/self/stat"):
        return ProcTree(root, run_id, mark)
    from agenthub.runtime.processes.process_tree_psutil import PsutilTree

    return PsutilTree(root, run_id)


class ProcTree:
    """A tree read from Linux's /proc.

    Orphans become children of this process (see `subreaper`), among which those of the embedding program must not be
    touched. Ours are known by having been members before, by the run's mark, or by the run's id in their environment.
    """

    def __init__(self, root: int, run_id: str, mark: int | None) -> None:
        self._root = root
        self._mark = mark
        with _trees_lock:
            _trees.add(self)
        self._tag = f"\0AGENTHUB_RUN_ID={run_id}\0".encode()
        self._self = os.getpid()
        self._before: set[tuple[int, float]] = set()
        self._strangers: set[tuple[int, float]] = set()
        # Without CONFIG_PROC_CHILDREN, who is whose child is read from every process's own entry.
        self._listed = os.path.exists(f"/proc/{self._self}/task/{self._self}/children")

    def scan(self, *, hidden: bool = False) -> list[Member]:
        families = None if self._listed else _families()
        members: dict[int, Member] = {}
        pending = [self._root, *_children(self._self, families)]
        for pid in pending:  # grows while it is walked
            if pid in members:
                continue
            member = read_member(pid)
            if member is None or (
                member.parent == self._self and not self._is_ours(member) and not (hidden and self._hides(member))
            ):
                continue
            members[pid] = member
            pending.extend(_children(pid, families))
        self._before = {member[:2] for member in members.values()}
        return list(members.values())

    def memory(self, members: Sequence[Member]) -> int:
        living = [member for member in members if not member.zombie]
        measure = _exclusive if len(living) == 1 else _proportional
        return sum(measure(member.pid) or _resident(member.pid) for member in living)

    def _is_ours(self, member: Member) -> bool:
        identity = member[:2]
        if member.pid == self._root or identity in self._before:
            return True
        if identity in self._strangers:
            return False
        if self._has_mark(member.pid) or self._tag in b"\0" + read_file(f"/proc/{member.pid}/environ"):
            return True
        self._strangers.add(identity)
        return False

    def _has_mark(self, pid: int) -> bool:
        return self._mark is not None and _mark_of(pid) == self._mark

    def _hides(self, member: Member) -> bool:
        """Whether an orphan lowered the limit that marks it, which nobody can raise again.

        The embedding program's own children have the limit that it has itself; other runs' have their marks.
        """
        import resource

        mark = _mark_of(member.pid)
        if self._mark is None or mark is None:
            return False
        with _trees_lock:
            if mark in {tree._mark for tree in _trees}:
                return False
        own = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        return mark != resource.RLIM_INFINITY and (own == resource.RLIM_INFINITY or mark < own)


_trees: weakref.WeakSet[ProcTree] = weakref.WeakSet()  # of the runs that go on, in whatever thread
_trees_lock = _thread.allocate_lock()


def _mark_of(pid: int) -> int | None:
    import resource

    try:
        return resource.prlimit(pid, resource.RLIMIT_RTTIME)[1]
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended; a zombie has."""
    if pid <= 0:
        return False
    if os.path.exists("/proc/self/stat"):
        member = read_member(pid)
        return member is not None and not member.zombie
    from agenthub.runtime.processes.process_tree_psutil import is_alive as psutil_is_alive

    return psutil_is_alive(pid)


def send_signal(pid: int, number: int) -> None:
    """Sends a signal to a process that may have gone, or changed its user (a cgroup still reaches that one)."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def shares_memory(pid: int) -> bool:
    """Whether a process has writable memory that its forks would share with it."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            rights = [line.split(None, 2)[1] for line in file]
    except OSError:
        return True
    return any(right[1:2] == b"w" and right[3:4] == b"s" for right in rights)


def peak_rss(pid: int) -> int:
    """The most bytes that a living process ever had resident since its exec; 0 if it is gone."""
    status = read_file(f"/proc/{pid}/status")
    start = status.find(b"VmHWM:")
    return int(status[start + 6 :].split(None, 1)[0]) * 1024 if start >= 0 else 0


def read_file(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.read(descriptor, 65536)
        while data and len(data) % 4096 == 0 and (more := os.read(descriptor, 65536)):
            data += more
        return data
    except OSError:  # the process ended while its entry was open
        return b""
    finally:
        os.close(descriptor)


def read_member(pid: int) -> Member | None:
    data = read_file(f"/proc/{pid}/stat")
    if not data:
        return None
    fields = data[data.rindex(b")") + 2 :].split()  # the name before it may hold anything
    return Member(
        pid=pid,
        start=int(fields[19]),
        parent=int(fields[1]),
        zombie=fields[0] in (b"Z", b"X"),
        rss=int(fields[21]) * _PAGE,
        cpu=sum(map(int, fields[11:15])) / _TICK,
        tasks=int(fields[17]),
    )


def _children(pid: int, families: dict[int, list[int]] | None) -> Iterable[int]:
    if families is not None:
        return families.get(pid, ())
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ()
    return [int(child) for thread in threads for child in read_file(f"/proc/{pid}/task/{thread}/children").split()]


def _families() -> dict[int, list[int]]:
    families: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (member := read_member(int(name))) is not None:
            families.setdefault(member.parent, []).append(member.pid)
    return families


def _resident(pid: int) -> int:
    """What is left to say where the finer figures are not to be had; 0 for a process that ended meanwhile."""
    member = read_member(pid)
    return member.rss if member is not None else 0


def _exclusive(pid: int) -> int:
    """Anonymous and shared memory of one process. Mapped files do not count: they can be dropped."""
    return _sum_of(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:"))


def _proportional(pid: int) -> int:
    """The same, split among those who share it; the kernel walks all pages for that, 10 ms and more for 1 GiB."""
    return _sum_of(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))


def _sum_of(path: str, names: tuple[bytes, ...]) -> int:
    return sum(int(line.split()[1]) * 1024 for line in read_file(path).splitlines() if line.startswith(names))
