"""A cgroup for one run, where one can be made: an exact memory cap, exact membership, and an OOM kill with a name."""

from __future__ import annotations

import itertools
import os
import signal
import time

from agenthub.runtime.processes.process_tree import is_alive, read_file, send_signal
from agenthub.values import NamedTuple, Protocol

_PREFIX = "agenthub-"
_REMOVE_TIMEOUT = 1.0
_PROBED_CAP = 64 * 1024 * 1024
_numbers = itertools.count()


class Cgroup(Protocol):
    """A cgroup of ours.

    Attributes:
        doors: files to which a process writes 0 to enter; its descendants then stay there.
    """

    doors: tuple[str, ...]

    def members(self) -> list[int]:
        """The pids inside."""

    def kill(self) -> None:
        """Ends all members at once where the kernel can, else keeps them from forking."""

    def oom_killed(self) -> bool:
        """Whether the kernel killed a member because of the memory cap."""

    def remove(self) -> None:
        """Removes it; it must be empty."""


class Hierarchies(NamedTuple):
    """Where cgroups of ours can be made: directories, empty where there is none."""

    memory_v1: str
    pids_v1: str
    unified: str


def cgroup_can_be_made() -> bool:
    """Whether a run gets a cgroup here: tried, not guessed."""
    cgroup = make_cgroup(_PROBED_CAP, None)
    if cgroup is None:
        return False
    cgroup.remove()
    return True


def make_cgroup(memory: int | None, processes: int | None) -> Cgroup | None:
    """A new cgroup with these caps (bytes; tasks), or None where none can be made or there is nothing to cap."""
    if memory is None:
        return None
    try:
        places = _hierarchies()
        if places.memory_v1:
            return CgroupV1(places.memory_v1, places.pids_v1, memory, processes)
        parent = _delegated_parent(places.unified)
        return CgroupV2(parent, memory, processes) if parent else None
    except OSError:  # read-only, not ours, or full: polling does it then
        return None


class CgroupV1:
    """A directory in the memory hierarchy, and one in the pids hierarchy where that can be had too."""

    def __init__(self, memory_parent: str, pids_parent: str, memory: int, processes: int | None) -> None:
        self._memory = _make_directory(memory_parent)
        self._pids = ""
        try:
            _write(self._memory, "memory.limit_in_bytes", memory)
            if os.path.exists(os.path.join(self._memory, "memory.memsw.limit_in_bytes")):
                _write(self._memory, "memory.memsw.limit_in_bytes", memory)
            if pids_parent:
                self._pids = _make_directory(pids_parent)
                if processes is not None:
                    _write(self._pids, "pids.max", processes)
        except OSError:
            self.remove()
            raise
        self.doors = tuple(f"{directory}/tasks" for directory in (self._memory, self._pids) if directory)

    def members(self) -> list[int]:
        return _pids(self._memory)

    def kill(self) -> None:
        if self._pids:
            _write(self._pids, "pids.max", 0)

    def oom_killed(self) -> bool:
        return _counter(self._memory, "memory.oom_control", "oom_kill") > 0

    def remove(self) -> None:
        for directory in filter(None, (self._memory, self._pids)):
            _remove_directory(directory)


class CgroupV2:
    """A directory below one that was delegated to us, or is root's own."""

    def __init__(self, parent: str, memory: int, processes: int | None) -> None:
        self._directory = _make_directory(parent)
        try:
            _write(self._directory, "memory.max", memory)
            for name, value in (("memory.swap.max", 0), ("memory.oom.group", 1), ("pids.max", processes)):
                if value is not None and os.path.exists(os.path.join(self._directory, name)):
                    _write(self._directory, name, value)
        except OSError:
            self.remove()
            raise
        self.doors: tuple[str, ...] = (f"{self._directory}/cgroup.procs",)

    def members(self) -> list[int]:
        return _pids(self._directory)

    def kill(self) -> None:
        if os.path.exists(os.path.join(self._directory, "cgroup.kill")):  # Linux 5.14
            _write(self._directory, "cgroup.kill", 1)

    def oom_killed(self) -> bool:
        return _counter(self._directory, "memory.events", "oom_kill") > 0

    def remove(self) -> None:
        _remove_directory(self._directory)


def _hierarchies() -> Hierarchies:
    found = {"memory": "", "pids": "", "": ""}
    mounts = _mounts()
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in found and controller in mounts:
                root, directory = mounts[controller]
                inside = path if root == "/" else path[len(root) :] if path.startswith(root) else ""
                found[controller] = directory + inside.rstrip("/")
    return Hierarchies(found["memory"], found["pids"], found[""])


def _mounts() -> dict[str, tuple[str, str]]:
    """Controller (empty: the unified hierarchy) -> the mounted part of the hierarchy, and where it is mounted."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in _lines("/proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            controllers = [""]
        elif rest.startswith("cgroup "):
            controllers = rest.split(" ")[-1].split(",")
        else:
            continue
        root, directory = fields.split(" ")[3:5]
        for controller in controllers:
            mounts.setdefault(controller, (root, directory))
    return mounts


def _delegated_parent(directory: str) -> str:
    """The nearest cgroup at or above ours whose children may have a memory cap.

    A level that caps memory itself is not left: a run would escape it.
    """
    while directory:
        if "memory" in " ".join(_lines(os.path.join(directory, "cgroup.subtree_control"))).split():
            return directory if os.access(directory, os.W_OK) else ""
        if _lines(os.path.join(directory, "memory.max")) not in ([], ["max"]):
            return ""
        directory = os.path.dirname(directory)
        if not os.path.exists(os.path.join(directory, "cgroup.procs")):
            return ""
    return ""


def _make_directory(parent: str) -> str:
    _sweep(parent)
    name = f"{_PREFIX}{_namespace()}-{os.getpid()}-{next(_numbers)}"
    directory = os.path.join(parent, name)
    os.mkdir(directory)
    return directory


def _sweep(parent: str) -> None:
    """Ends and removes what supervisors left that were killed; pids mean something in our own namespace only."""
    prefix = f"{_PREFIX}{_namespace()}-"
    for name in os.listdir(parent):
        if name.startswith(prefix):
            owner = name[len(prefix) :].split("-")[0]
            if owner.isdigit() and not is_alive(int(owner)):
                directory = os.path.join(parent, name)
                for pid in _pids(directory):
                    send_signal(pid, signal.SIGKILL)
                _remove_directory(directory)


def _namespace() -> str:
    return "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))


def _remove_directory(directory: str) -> None:
    deadline = time.monotonic() + _REMOVE_TIMEOUT
    for inner in reversed(_with_nested(directory)):
        while os.path.isdir(inner):
            try:
                os.rmdir(inner)
            except OSError:  # its last member is on its way out
                if time.monotonic() > deadline:
                    return  # a later run sweeps it
                time.sleep(0.001)


def _with_nested(directory: str) -> list[str]:
    """A cgroup and those that its members made inside, parents first."""
    found = [directory]
    for parent in found:  # grows while it is walked
        try:
            if os.stat(parent).st_nlink > 2:
                found += [entry.path for entry in os.scandir(parent) if entry.is_dir()]
        except FileNotFoundError:
            continue
    return found


def _pids(directory: str) -> list[int]:
    return [int(pid) for inner in _with_nested(directory) for pid in _lines(os.path.join(inner, "cgroup.procs"))]


def _counter(directory: str, name: str, key: str) -> int:
    for line in read_file(os.path.join(directory, name)).splitlines():
        if line.startswith(key.encode() + b" "):
            return int(line.split()[1])
    return 0


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _write(directory: str, name: str, value: int) -> None:
    with open(os.path.join(directory, name), "w", encoding="ascii") as file:
        file.write(str(value))
