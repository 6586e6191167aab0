"""Each guarantee of each tier, tried by an agent that wants out; without confinement the same attempt succeeds."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading

import pytest
from sandbox_support import BUBBLEWRAP, LANDLOCK, RLIMITS, TIERS, USERS, Place

_PROBE = r"""
import ctypes, errno, json, os, socket, struct, sys
descriptors = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]
order = json.loads(sys.argv[1])["parameters"]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
outside, canary, supervisor = order["outside"], order["canary"], order["supervisor"]

def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def read(path):
    with open(path, "rb") as file: return file.read(16)

def write(path, text="changed", mode="w"):
    with open(path, mode) as file: file.write(text)

def connect(family, kind, address):
    with socket.socket(family, kind) as made:
        made.settimeout(5)
        made.connect(address)

def queue():
    name = b"agenthub-%d\0" % os.getpid()
    os.close(call(240, name, 0o100 | 2, 0o600, 0))
    call(241, name)

def home():
    # Where the interpreter lies below it, the way there exists.
    if len(os.listdir(order["home"])) < order["at_home"]: raise FileNotFoundError(errno.ENOENT, "hidden")

def child():
    pid = os.fork()
    if pid == 0:
        try: os.kill(canary, 0)
        except OSError as error: os._exit(error.errno)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status: raise OSError(status, "refused")

def copied():
    import shutil, stat
    write("source"); os.chmod("source", 0o600)
    shutil.copy2("source", "target")
    assert read("target") == b"changed"

def scratch():
    os.chdir(os.environ["HOME"])
    import sqlite3, tempfile, threading
    with sqlite3.connect("db") as base: base.execute("create table t (x)")
    with tempfile.NamedTemporaryFile() as file: file.write(b"x")
    os.mkdir("d"); write("d/one"); os.rename("d/one", "two"); os.link("two", "three"); os.symlink("two", "four")
    thread = threading.Thread(target=os.getpid); thread.start(); thread.join()

def python():
    import subprocess
    assert subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True).stdout == b"7\n"

def pair():
    left, right = socket.socketpair(); left.close(); right.close()

def datagram(kind):
    # Neither creates a socket by a call that is filtered, nor connects one.
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    left.sendto(b"x", outside + "/datagrams")

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name): return line.split()[1]

def handle():
    room = ctypes.create_string_buffer(struct.pack("Ii128x", 128, 0))
    call(303, -100, outside.encode() + b"/secret\0", room, ctypes.byref(ctypes.c_int()), 0)

NEWUSER, NEWNET = 0x10000000, 0x40000000
attempts = {
    "scratch": scratch,
    "copy": copied,
    "python": python,
    "pair": pair,
    "read": lambda: read(outside + "/secret"),
    "read by link": lambda: (os.symlink(outside + "/secret", "way"), read("way")),
    "read by hard link": lambda: (os.link(outside + "/secret", "hard"), read("hard")),
    "list": lambda: os.listdir(outside),
    "list home": home,
    "write": lambda: write(outside + "/secret"),
    "append": lambda: write(outside + "/secret", "more", "a"),
    "create": lambda: write(outside + "/new"),
    "make directory": lambda: os.mkdir(outside + "/directory"),
    "delete": lambda: os.unlink(outside + "/victim"),
    "rename": lambda: os.rename(outside + "/moved", outside + "/renamed"),
    "take": lambda: os.rename(outside + "/moved", "taken"),
    "truncate": lambda: os.truncate(outside + "/secret", 1),
    "chmod": lambda: os.chmod(outside + "/secret", 0o777),
    "utime": lambda: os.utime(outside + "/secret", (1, 1)),
    "xattr": lambda: os.setxattr(outside + "/secret", "user.mark", b"1"),
    "own code": lambda: write("agent.py" if os.path.exists("agent.py") else order["agent"] + "/agent.py"),
    "own code's mode": lambda: os.chmod(order["agent"] + "/agent.py", 0o777),
    "watch": lambda: call(254, libc.inotify_init(), outside.encode() + b"\0", 2),
    "tcp": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", order["port"])),
    "tcp of version 6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close(),
    "unix socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, outside + "/socket"),
    "datagram by a pair": lambda: datagram(socket.SOCK_DGRAM),
    "datagram by a raw pair": lambda: datagram(socket.SOCK_RAW),
    "abstract socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + order["abstract"]),
    "signal": lambda: os.kill(canary, 0),
    "signal by a child": child,
    "signal to the supervisor": lambda: os.kill(supervisor, 0),
    "environment of the supervisor": lambda: read(f"/proc/{supervisor}/environ"),
    "memory of another": lambda: read(f"/proc/{canary}/maps"),
    "memory of the first": lambda: os.close(os.open("/proc/1/mem", os.O_RDWR)),
    "trace": lambda: call(101, 16, canary, 0, 0),
    "limits of another": lambda: call(302, canary, 7, 0, ctypes.create_string_buffer(16)),
    "priority of another": lambda: os.setpriority(os.PRIO_PROCESS, canary, 19),
    "priority of all": lambda: os.setpriority(os.PRIO_USER, os.getuid(), os.getpriority(os.PRIO_PROCESS, 0)),
    "affinity of another": lambda: os.sched_setaffinity(canary, os.sched_getaffinity(0)),
    "descriptor of another": lambda: call(438, os.pidfd_open(canary), 0, 0),
    "user namespace": lambda: call(272, NEWUSER),
    "user namespace by clone": lambda: os.waitpid(call(56, NEWUSER | 17, 0, 0, 0, 0) or os._exit(0), 0),
    "key ring": lambda: call(250, 0, -3, 0),
    "bpf": lambda: call(321, 0, 0, 0),
    "io_uring": lambda: call(425, 1, ctypes.create_string_buffer(120)),
    "userfaultfd": lambda: call(323, 1),
    "handle": handle,
    "personality": lambda: call(135, 0x0040000),
    "terminal input": lambda: call(16, 0, 0x5412, b"x"),
    "lease": lambda: call(72, os.open(order["agent"] + "/agent.py", os.O_RDONLY), 1024, 0),
    "shared memory": lambda: call(30, call(29, order["key"], 0, 0), 0, 0),
    "message queue": queue,
    "kernel settings": lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)),
    "magic key": lambda: os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY)),
    "memory that is a file": lambda: os.close(os.memfd_create("x")),
    "newer call": lambda: call(500),
    "x32": lambda: call((1 << 30) + 39),
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error))
    except BaseException as error:
        found[name] = repr(error)
shared = f"/dev/shm/agenthub-test-{os.getpid()}"
try:
    write(shared)
    found["file in shared memory"] = "done"
except OSError as error:
    found["file in shared memory"] = errno.errorcode[error.errno]
found["descriptors"] = descriptors
found["pid"] = os.getpid()
found["shared file"] = shared
try:
    found["capabilities"] = status("CapEff")
    found["privileges"] = status("NoNewPrivs")
except OSError as error:
    found["capabilities"] = errno.errorcode[error.errno]
print(json.dumps({"result": found}))
"""
REFUSED = {"EPERM", "EACCES", "ENOENT", "EROFS", "ESRCH", "ENOSYS", "EAFNOSUPPORT", "EXDEV", "ENOTSUP", "ECONNREFUSED"}

HONEST = ("scratch", "copy", "python", "pair")
CLOSED_ON_BOTH = (
    "read",
    "read by link",
    "read by hard link",
    "list",
    "list home",
    "write",
    "append",
    "create",
    "make directory",
    "delete",
    "rename",
    "take",
    "truncate",
    "xattr",
    "own code",
    "watch",
    "tcp",
    "tcp of version 6",
    "udp",
    "listen",
    "netlink",
    "vsock",
    "unix socket",
    "datagram by a pair",
    "datagram by a raw pair",
    "abstract socket",
    "signal",
    "signal by a child",
    "signal to the supervisor",
    "environment of the supervisor",
    "memory of another",
    "memory of the first",
    "trace",
    "limits of another",
    "priority of another",
    "affinity of another",
    "descriptor of another",
    "user namespace",
    "user namespace by clone",
    "key ring",
    "bpf",
    "io_uring",
    "userfaultfd",
    "handle",
    "personality",
    "terminal input",
    "lease",
    "shared memory",
    "kernel settings",
    "magic key",
    "memory that is a file",
    "newer call",
    "x32",
)
# What an unconfined agent of this user can do: else a refusal would prove nothing.
POSSIBLE = (
    "read",
    "read by link",
    "list",
    "write",
    "create",
    "delete",
    "chmod",
    "utime",
    "own code",
    "watch",
    "tcp",
    "udp",
    "listen",
    "netlink",
    "unix socket",
    "datagram by a pair",
    "datagram by a raw pair",
    "abstract socket",
    "signal",
    "signal by a child",
    "signal to the supervisor",
    "environment of the supervisor",
    "memory of another",
    "limits of another",
    "priority of another",
    "affinity of another",
    "user namespace",
    "lease",
    "shared memory",
    "message queue",
    "memory that is a file",
    "file in shared memory",
)


class World:
    """What an agent must not reach, and what it did about it."""

    def __init__(self, place: Place, tier: str) -> None:
        self.tier = tier
        self.place = place
        self.outside = place.directory("outside")
        for name in ("secret", "victim", "moved"):
            place.write(f"outside/{name}", "untouched", 0o600)
            os.utime(f"{self.outside}/{name}", (10**9, 10**9))
        self.canary = place.start(("sleep", "300"), stdin=subprocess.DEVNULL)
        self.key = int.from_bytes(os.urandom(3), "big") + 1
        self.abstract = f"agenthub-test-{os.urandom(8).hex()}"
        made = f"import ctypes; print(ctypes.CDLL(None).shmget({self.key}, 4096, 0o1600))"
        made = place.start((place.python, "-c", made), stdout=subprocess.PIPE).communicate()[0]
        self.segment = int(made)
        self.listeners = [
            _listener(socket.AF_INET, ("127.0.0.1", 0)),
            _listener(socket.AF_UNIX, f"{self.outside}/socket"),
            _listener(socket.AF_UNIX, f"\0{self.abstract}"),
        ]
        place.own(f"{self.outside}/socket")
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagrams.bind(f"{self.outside}/datagrams")
        os.chmod(f"{self.outside}/datagrams", 0o777)
        self.niceness = os.getpriority(os.PRIO_PROCESS, self.canary.pid)

    def attack(self) -> dict[str, object]:
        home = os.path.expanduser("~") if self.place.uid == os.getuid() else self.place.path
        parameters = {
            "outside": self.outside,
            "home": home,
            "at_home": len(os.listdir(home)),
            "canary": self.canary.pid,
            "port": self.listeners[0].getsockname()[1],
            "abstract": self.abstract,
            "key": self.key,
            "agent": self.place.agent,
        }
        answer = self.place.run(_PROBE, self.tier, parameters=parameters, policy={"programs": []})
        assert "result" in answer, answer
        assert answer["completion"]["isolation"] == self.tier
        return answer["result"]

    def close(self) -> None:
        self.canary.kill()
        self.canary.wait()
        subprocess.run(["ipcrm", "-m", str(self.segment)], check=True)
        for listener in (*self.listeners, self.datagrams):
            listener.close()
        self.place.remove()


def _listener(family: int, address: object) -> socket.socket:
    made = socket.socket(family)
    made.bind(address)
    made.listen()
    if family == socket.AF_UNIX and not str(address).startswith("\0"):
        os.chmod(address, 0o777)
    thread = threading.Thread(target=_accept, args=(made,), daemon=True)
    thread.start()
    return made


def _accept(listener: socket.socket) -> None:
    try:
        while True:
            listener.accept()[0].close()
    except OSError:
        return


@pytest.fixture(scope="module", params=[(tier, user) for tier in TIERS for user in USERS], ids="-".join)
def attacked(request):
    tier, user = request.param
    world = World(Place(user), tier)
    try:
        yield world, world.attack()
    finally:
        world.close()


@pytest.mark.parametrize("name", HONEST)
def test_honest_work_is_possible(attacked, name):
    assert attacked[1][name] == "done"


@pytest.mark.parametrize("name", CLOSED_ON_BOTH)
def test_attempt_is_refused(attacked, name):
    world, found = attacked
    if world.tier == RLIMITS:
        pytest.skip("nothing is promised")
    assert found[name] in REFUSED


@pytest.mark.parametrize("name", POSSIBLE)
def test_the_same_attempt_succeeds_without_confinement(attacked, name):
    world, found = attacked
    if world.tier != RLIMITS:
        pytest.skip("confined")
    assert found[name] == "done"


def test_host_is_unchanged(attacked):
    world, found = attacked
    if world.tier == RLIMITS:
        pytest.skip("nothing is promised")
    assert sorted(os.listdir(world.outside)) == ["datagrams", "moved", "secret", "socket", "victim"]
    for name in ("moved", "secret", "victim"):
        path = f"{world.outside}/{name}"
        with open(path) as file:
            assert file.read() == "untouched"
        state = os.stat(path)
        assert stat.S_IMODE(state.st_mode) == 0o600
        assert state.st_mtime == 10**9
        assert os.listxattr(path) == []
    assert stat.S_IMODE(os.stat(f"{world.place.agent}/agent.py").st_mode) == 0o644
    assert world.canary.poll() is None
    assert os.getpriority(os.PRIO_PROCESS, world.canary.pid) == world.niceness
    assert not os.path.exists(found["shared file"])


def test_metadata_outside(attacked):
    """Bubblewrap says that there is nothing; the filter of the other tier pretends."""
    world, found = attacked
    expected = {BUBBLEWRAP: "ENOENT", LANDLOCK: "done", RLIMITS: "done"}
    assert {found["chmod"], found["utime"]} == {expected[world.tier]}


def test_shared_memory_of_its_own_or_none(attacked):
    world, found = attacked
    assert found["message queue"] == {BUBBLEWRAP: "done", LANDLOCK: "ENOSYS", RLIMITS: "done"}[world.tier]
    assert found["file in shared memory"] == {BUBBLEWRAP: "done", LANDLOCK: "EACCES", RLIMITS: "done"}[world.tier]


def test_only_three_descriptors(attacked):
    assert attacked[1]["descriptors"] == [0, 1, 2]


def test_no_capability_and_no_new_privileges(attacked):
    world, found = attacked
    if world.tier == BUBBLEWRAP:
        assert (int(found["capabilities"], 16), found["privileges"]) == (0, "1")
        assert found["pid"] < 100
    elif world.tier == LANDLOCK:
        assert found["capabilities"] == "EACCES"  # its own entry in /proc cannot be granted without all others
