"""The parts of a host that hostile agents must leave alone, and what shows that they did not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import stat
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.hostile_agents.harness import World

_SEARCHED = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/dev", "/dev/mqueue", "/sys/fs/cgroup")
_WIDE_OPEN = 0o777
_LARGEST_HASHED = 1 << 20


class Canary:
    """A process that must stay as it is."""

    def __init__(self, world: World) -> None:
        self._process = world.start(
            ("sleep", "600"),
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "CANARY": "kept-secret-of-the-canary"},
        )
        self.pid = self._process.pid
        while not self._running_sleep():
            assert self._process.poll() is None, "the canary cannot be started"
        self._before = self._state()

    def changes(self) -> list[str]:
        """What is different from its start."""
        if self._process.poll() is not None:
            return [f"ended with {self._process.returncode}"]
        after = self._state()
        return [f"{name} was {was}, is {after[name]}" for name, was in self._before.items() if after[name] != was]

    def wait(self) -> None:
        """Waits for its end."""
        self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _running_sleep(self) -> bool:
        with open(f"/proc/{self.pid}/comm") as file:
            return file.read() == "sleep\n"

    def _state(self) -> dict[str, object]:
        with open(f"/proc/{self.pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
        with open(f"/proc/{self.pid}/oom_score_adj") as file:
            badness = file.read()
        with open(f"/proc/{self.pid}/limits") as file:
            limits = file.read()
        return {
            "state": "stopped" if state in "Tt" else "running",
            "niceness": os.getpriority(os.PRIO_PROCESS, self.pid),
            "affinity": sorted(os.sched_getaffinity(self.pid)),
            "scheduling": os.sched_getscheduler(self.pid),
            "limits": limits,
            "badness": badness,
        }


class Listeners:
    """Sockets of every kind that is in reach of a host's processes. None of them must see anything.

    Attributes:
        addresses: `tcp`, `tcp6` (0: no IPv6 here), `udp`: ports on loopback; `unix`, `datagrams`: paths of a stream
            and a datagram socket; `abstract`, `abstract_datagrams`: names without the zero byte.
        paths: all that they have in the file system.
    """

    def __init__(self, directory: str, marker: str, uid: int) -> None:
        self.addresses: dict[str, object] = {"tcp6": 0}
        self._open: dict[str, socket.socket] = {}
        self._make("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self._make("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        with contextlib.suppress(OSError):
            self._make("tcp6", socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
        self.paths = tuple(os.path.join(directory, f"{marker}-{kind}") for kind in ("stream", "datagrams"))
        self._make("unix", socket.AF_UNIX, socket.SOCK_STREAM, self.paths[0])
        self._make("datagrams", socket.AF_UNIX, socket.SOCK_DGRAM, self.paths[1])
        self._make("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{marker}-stream")
        self._make("abstract_datagrams", socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{marker}-datagrams")
        for path in self.paths:
            os.chmod(path, _WIDE_OPEN)
            if os.geteuid() == 0:
                os.chown(path, uid, uid)

    def touched(self) -> list[str]:
        """Those that were contacted."""
        numbers = {made.fileno(): name for name, made in self._open.items()}
        waiting = select.poll()
        for number in numbers:
            waiting.register(number, select.POLLIN)
        return sorted(numbers[number] for number, _ in waiting.poll(0))

    def close(self) -> None:
        for made in self._open.values():
            made.close()
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _make(self, name: str, family: int, kind: int, address: object) -> None:
        made = socket.socket(family, kind)
        try:
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen(8)
        except OSError:
            made.close()
            raise
        self._open[name] = made
        if family == socket.AF_UNIX:
            self.addresses[name] = str(address).lstrip("\0")
        else:
            self.addresses[name] = made.getsockname()[1]


def children() -> dict[int, str]:
    """The children of this process, adopted ones too, and their states."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:  # ended meanwhile
            continue
        if int(parent) == os.getpid():
            found[int(name)] = state
    return found


def marked_paths(marker: str, known: Iterable[str]) -> list[str]:
    """Paths with a marker in their names, in the places that everybody can write."""
    found = []
    for folder in _SEARCHED:
        with contextlib.suppress(OSError):
            found += [os.path.join(folder, name) for name in os.listdir(folder) if marker in name]
    return [path for path in found if path not in known]


def sysv_objects(key: int) -> list[str]:
    """Shared memory, semaphores and queues of a key."""
    found = []
    for kind in ("shm", "sem", "msg"):
        with open(f"/proc/sysvipc/{kind}") as file:
            found += [f"{kind} {line.split()[1]}" for line in file.readlines()[1:] if int(line.split()[0]) == key]
    return found


def snapshot(directory: str, without: tuple[str, ...] = ()) -> dict[str, object]:
    """Every path at and below a directory, with all that can be changed of it."""
    found: dict[str, object] = {directory: _entry(directory)}
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in without]
        for name in folders + files:
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):
                found[path] = _entry(path)
    return found


def _entry(path: str) -> object:
    state = os.lstat(path)
    common = (
        stat.filemode(state.st_mode),
        state.st_uid,
        state.st_gid,
        sorted(os.listxattr(path, follow_symlinks=False)),
    )
    if stat.S_ISLNK(state.st_mode):
        return (*common, os.readlink(path))
    if not stat.S_ISREG(state.st_mode):
        return common  # a directory's time changes with what is left out of it
    content = ""
    if state.st_size <= _LARGEST_HASHED:
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    return (*common, state.st_nlink, state.st_size, state.st_mtime_ns, content)
