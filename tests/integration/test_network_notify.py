"""Declared hosts without namespaces: every connect of a restricted process is answered by this one."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from agenthub.runtime.sandbox import notify, seccomp
from agenthub.runtime.sandbox.declared_network import DeclaredNetwork
from agenthub.runtime.sandbox.policy import LANDLOCK
from tests.integration.network_support import NAME, PATIENCE, Server, leads_to, serving

pytestmark = pytest.mark.skipif(notify.missing_support() is not None, reason=str(notify.missing_support()))

FILTER = seccomp.Profile("hosts", namespaces=False, exact_memory=False, abi=7)


class Restricted:
    """A thread under the filters of the Landlock tier, which starts programs."""

    def __init__(self, network):
        self._orders = queue.SimpleQueue()
        self._answers = queue.SimpleQueue()
        self._network = network
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._take()

    def _serve(self):
        try:
            seccomp.forbid_new_privileges()
            self._network.restrict_thread()
            seccomp.install(seccomp.make_filter(FILTER))
            self._answers.put(None)
        except OSError as error:
            self._answers.put(error)
        while (order := self._orders.get()) is not None:
            try:
                self._answers.put(order())
            except OSError as error:
                self._answers.put(error)

    def _take(self):
        answer = self._answers.get(timeout=PATIENCE)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def start(self, *argv, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        self._orders.put(lambda: subprocess.Popen(argv, **options))
        return self._take()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._orders.put(None)
        self._thread.join()


@pytest.fixture(scope="module")
def server():
    with serving(Server()) as running:
        yield running


@pytest.fixture
def run(server):
    """Runs Python code under the filters, with `place` as the one declared host; `run.network` tells the rest."""
    before = set(threading.enumerate())
    place = f"127.0.0.1:{server.port}"
    names = leads_to({NAME: "127.0.0.1"})
    hosts = (place, f"{NAME}:{server.port}")
    with DeclaredNetwork(hosts, LANDLOCK, environ={}, resolver=names) as network, Restricted(network) as restricted:

        def start(code):
            prelude = f"import socket, sys, os, errno\nplace = {place!r}\nport = {server.port}\n"
            program = prelude + textwrap.dedent(code)
            return restricted.start(sys.executable, "-c", program, env={**os.environ, **network.variables})

        def work(code):
            process = start(code)
            out, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, err
            return out

        work.start = start
        work.network = network
        work.restricted = restricted
        yield work
    assert not {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("agenthub")}


ERRNO = """
def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        print(errno.errorcode[error.errno])
    else:
        print("DONE")
"""


def test_ordinary_clients_reach_a_declared_host(run):
    out = run("""
        import urllib.request
        print(urllib.request.urlopen(f"http://{place}/urllib", timeout=10).read().decode())
    """)
    assert out == "hello /urllib\n"
    assert run.network.refusals == ()


@pytest.mark.parametrize("blocking", [True, False])
def test_the_socket_is_as_the_client_expects(run, blocking):
    out = run(f"""
        import fcntl, select, struct
        sock = socket.socket()
        os.set_inheritable(sock.fileno(), {blocking})
        sock.setblocking({blocking})
        number = sock.fileno()
        print(sock.connect_ex(("127.0.0.1", 3128)), sock.fileno() == number)
        print(fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK != 0, os.get_inheritable(number))
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), sock.getpeername()[0])
        print(select.select([], [sock], [], 5)[1] == [sock])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.settimeout(10)
        sock.sendall(b"GET http://%s/ HTTP/1.0\\r\\n\\r\\n" % place.encode())
        print(sock.recv(12))
    """)
    assert out.splitlines() == ["0 True", f"{not blocking} {blocking}", "0 127.0.0.1", "True", "b'HTTP/1.1 200'"]


def test_asyncio_reaches_a_declared_host_many_times_at_once(run):
    out = run("""
        import asyncio
        async def fetch(number):
            reader, writer = await asyncio.open_connection("127.0.0.1", 3128)
            writer.write(f"GET http://{place}/{number} HTTP/1.0\\r\\n\\r\\n".encode())
            answer = await reader.read()
            writer.close()
            return answer.endswith(f"hello /{number}".encode())
        async def main():
            return all(await asyncio.gather(*map(fetch, range(40))))
        print(asyncio.run(main()))
    """)
    assert out == "True\n"


def test_several_processes_and_their_children_are_served(run):
    code = """
        import subprocess, urllib.request
        if len(sys.argv) == 1:
            code = open("/proc/self/cmdline").read().split(chr(0))[2]
            children = [subprocess.Popen([sys.executable, "-c", code, "x"]) for _ in range(2)]
            for child in children: child.wait()
        sys.stdout.write(urllib.request.urlopen(f"http://{place}/", timeout=10).read().decode() + "\\n")
        sys.stdout.flush()
    """
    processes = [run.start(code) for _ in range(2)]
    assert [process.communicate(timeout=PATIENCE)[0] for process in processes] == ["hello /\n" * 3] * 2


def test_no_connect_but_to_the_proxy(run):
    out = run(
        ERRNO
        + """
for family, address in [
    (socket.AF_INET, ("127.0.0.1", port)),
    (socket.AF_INET, ("127.0.0.1", 3129)),
    (socket.AF_INET, ("127.0.0.2", 3128)),
    (socket.AF_INET, ("192.0.2.1", 443)),
    (socket.AF_INET6, ("::1", port)),
    (socket.AF_INET6, ("::ffff:127.0.0.1", 3128)),
    (socket.AF_INET6, ("2001:db8::1", 443)),
]:
    sock = socket.socket(family)
    attempt(sock.connect, address)
    sock.setblocking(False)
    attempt(sock.connect, address)
"""
    )
    expected = ["ECONNREFUSED"] * 3 + ["EACCES"] + ["ECONNREFUSED"] + ["EACCES"] * 2
    assert out.split() == [word for word in expected for _ in range(2)]
    recorded = {(refusal.host, refusal.port): refusal for refusal in run.network.refusals}
    assert recorded["192.0.2.1", 443].times == 2
    assert "past the proxy" in recorded["192.0.2.1", 443].reason
    assert ("127.0.0.1", 3128) not in recorded


def test_a_connected_socket_cannot_be_turned_elsewhere(run):
    out = run(
        ERRNO
        + """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket()
sock.connect(("127.0.0.1", 3128))
def raw(data, length=None):
    if libc.connect(sock.fileno(), data, len(data) if length is None else length):
        raise OSError(ctypes.get_errno(), "")
attempt(raw, struct.pack("=H14x", socket.AF_UNSPEC))
attempt(raw, struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + bytes((127, 0, 0, 1)) + bytes(8))
attempt(raw, b"")
attempt(raw, struct.pack("=H", socket.AF_INET) + struct.pack("!H", 3128) + bytes((127, 0, 0, 1)) + bytes(8), 4)
attempt(lambda: raw(struct.pack("=H", socket.AF_UNIX) + b"\\0/tmp/.X11-unix/X0"))
def pointer(value):
    if libc.connect(sock.fileno(), ctypes.c_void_p(value), 16):
        raise OSError(ctypes.get_errno(), "")
for value in (0, 1, 2**63, 2**64 - 1):
    attempt(pointer, value)
def descriptor(number):
    if libc.connect(number, bytes(16), 16):
        raise OSError(ctypes.get_errno(), "")
attempt(descriptor, 999)
attempt(descriptor, -1)
"""
    )
    assert "DONE" not in out
    assert out.split()[-2:] == ["EBADF", "EBADF"]


def test_every_other_way_to_send_is_closed(run, tmp_path):
    path = str(tmp_path / "target")
    target = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with target:
        target.bind(path)
        target.setblocking(False)
        out = run(
            ERRNO
            + f"path = {path!r}\n"
            + """
import ctypes
for kind in [
    (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_RAW, 1),
    (socket.AF_INET, socket.SOCK_STREAM, 262), (socket.AF_INET, socket.SOCK_STREAM, 132),
    (socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    (socket.AF_PACKET, socket.SOCK_RAW, 3), (40, socket.SOCK_STREAM), (43, socket.SOCK_STREAM), (38, 5),
]:
    attempt(socket.socket, *kind)
sock = socket.socket()
attempt(sock.bind, ("127.0.0.1", 0))
attempt(sock.listen)
attempt(sock.sendto, b"x", 0x20000000, ("127.0.0.1", port))
attempt(sock.sendmsg, [b"x"], [], 0x20000000, ("127.0.0.1", port))
libc = ctypes.CDLL(None, use_errno=True)
def sendmmsg():
    if libc.sendmmsg(sock.fileno(), None, 0, 0x20000000):
        raise OSError(ctypes.get_errno(), "")
attempt(sendmmsg)
def io_uring():
    if libc.syscall(425, 1, None) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt(io_uring)
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC):
    attempt(lambda: socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b"escaped", path))
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    left.sendto(b"inside", path)
except OSError:
    pass
left, right = socket.socketpair()
left.send(b"fine")
print(right.recv(4))
"""
        )
        assert "DONE" not in out
        assert out.split()[-1] == "b'fine'"
        with pytest.raises(BlockingIOError):
            target.recv(100)


def test_fast_open_by_option_is_a_connect_too(run):
    out = run(
        ERRNO
        + """
sock = socket.socket()
try:
    sock.setsockopt(socket.IPPROTO_TCP, 30, 1)
except OSError:
    pass
attempt(sock.connect, ("127.0.0.1", port))
attempt(sock.send, b"x")
"""
    )
    assert "DONE" not in out


def test_a_second_thread_that_changes_the_address_wins_nothing(run, server):
    """The address is ours once read: no connect ever reaches the kernel."""
    before = len(server.requests)
    out = run("""
        import ctypes, struct, threading
        libc = ctypes.CDLL(None, use_errno=True)
        good = struct.pack("=H", 2) + struct.pack("!H", 3128) + bytes((127, 0, 0, 1)) + bytes(8)
        evil = struct.pack("=H", 2) + struct.pack("!H", port) + bytes((127, 0, 0, 1)) + bytes(8)
        shared = ctypes.create_string_buffer(good, 16)
        done = False
        def flip():
            while not done:
                ctypes.memmove(shared, evil, 16)
                ctypes.memmove(shared, good, 16)
        thread = threading.Thread(target=flip)
        thread.start()
        reached = 0
        for _ in range(300):
            sock = socket.socket()
            if libc.connect(sock.fileno(), shared, 16) == 0:
                reached += sock.getpeername()[1] == port
            sock.close()
        done = True
        thread.join()
        print(reached)
    """)
    assert out == "0\n"
    assert len(server.requests) == before


def test_a_caller_that_is_killed_in_the_middle_leaves_the_proxy_at_work(run):
    for _ in range(10):
        process = run.start("""
            import threading
            def work():
                while True:
                    sock = socket.socket()
                    sock.connect_ex(("127.0.0.1", 3128))
                    sock.close()
            for _ in range(3): threading.Thread(target=work, daemon=True).start()
            print("going", flush=True)
            threading.Event().wait()
        """)
        assert process.stdout.readline() == "going\n"
        process.kill()
        process.communicate()
    assert (
        run("""
        import urllib.request
        print(urllib.request.urlopen(f"http://{place}/", timeout=10).read().decode())
    """)
        == "hello /\n"
    )


def test_nobody_can_install_a_second_listener(run):
    out = run(
        ERRNO
        + """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), 8)
program = struct.pack("@HxxxxxxQ", 1, ctypes.addressof(code))
def install(flags):
    if libc.syscall(317 if os.uname().machine == "x86_64" else 277, 1, flags, program) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt(install, 8)
"""
    )
    assert out.strip() in ("EPERM", "EBUSY")


def test_after_the_end_connect_fails(run):
    process = run.start(
        ERRNO
        + """
print("ready", flush=True)
import time
while True:
    sock = socket.socket()
    if (failure := sock.connect_ex(("127.0.0.1", 3128))) == errno.ENOSYS:
        print("ENOSYS")
        break
    sock.close()
    time.sleep(0.01)
"""
    )
    assert process.stdout.readline() == "ready\n"
    run.network.close()
    assert process.communicate(timeout=PATIENCE)[0] == "ENOSYS\n"


def test_the_descriptor_is_not_inherited(run):
    out = run("""
        for name in os.listdir("/proc/self/fd"):
            try:
                print(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:
                pass
    """)
    assert "seccomp" not in out


def test_curl_reaches_a_declared_host(run, server):
    import shutil

    if shutil.which("curl") is None:
        pytest.skip("no curl")
    for place in (f"127.0.0.1:{server.port}", f"{NAME}:{server.port}"):
        for words in ((), ("--proxytunnel",)):
            url = f"http://{place}/curl"
            process = run.restricted.start("curl", "-sS", *words, url, env={**os.environ, **run.network.variables})
            out, err = process.communicate(timeout=PATIENCE)
            assert out == "hello /curl", err


def test_without_support_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(notify, "_ADD_DESCRIPTOR", 0xC0182163)
    assert "cannot hand over descriptors" in notify.missing_support()
    monkeypatch.setattr(os, "uname", lambda: type("U", (), {"machine": "m68k"})())
    assert "m68k" in notify.missing_support()
