"""The proxy's door into a network namespace, as root and as an ordinary user, with bubblewrap around the client."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from agenthub.errors import EnvironmentError
from agenthub.runtime.sandbox.declared_network import DeclaredNetwork
from agenthub.runtime.sandbox.netns import NamespaceListener, listen_in_namespace
from agenthub.runtime.sandbox.policy import BUBBLEWRAP
from tests.integration.network_support import PATIENCE, SYSTEM_PYTHON, Sandbox, Server, serving
from tests.support import PROJECT

NOBODY = "65534"


def sandboxes_work():
    bwrap = shutil.which("bwrap")
    if bwrap is None or not os.path.exists(SYSTEM_PYTHON):
        return False
    return subprocess.run([bwrap, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not sandboxes_work(), reason="no bubblewrap, or no namespaces for it")


FETCH = """
import sys, urllib.request
print(urllib.request.urlopen(%r, timeout=10).read().decode())
"""
DIRECT = """
import socket
for family, kind, address in [
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", %d)),
    (socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 443)),
    (socket.AF_INET6, socket.SOCK_STREAM, ("2001:db8::1", 443)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53)),
]:
    try:
        sock = socket.socket(family, kind)
        sock.settimeout(2)
        sock.connect(address)
        sock.send(b"x")
        print("REACHED", address)
    except OSError as error:
        print("stopped")
"""


@pytest.mark.parametrize("options", [(), ("--unshare-user", "--uid", "65534", "--gid", "65534")])
def test_a_client_in_the_sandbox_reaches_declared_hosts_through_the_proxy_alone(options):
    with serving(Server()) as server:
        place = f"127.0.0.1:{server.port}"
        with DeclaredNetwork([place], BUBBLEWRAP, environ={}) as network:
            with Sandbox(FETCH % f"http://{place}/inside", *options, env=network.variables) as sandbox:
                network.enter_namespace(sandbox.pid)
                assert sandbox.output() == "hello /inside\n"
            assert network.refusals == ()
        direct = DeclaredNetwork([place], BUBBLEWRAP, environ={})
        with direct as network, Sandbox(DIRECT % server.port, *options, env=network.variables) as sandbox:
            network.enter_namespace(sandbox.pid)
            assert sandbox.output() == "stopped\n" * 4


def test_the_port_is_not_open_outside():
    with Sandbox("") as sandbox, listen_in_namespace(sandbox.pid, 39128) as listener:
        assert listener.getsockname() == ("127.0.0.1", 39128)
        assert not listener.get_inheritable()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 39128), timeout=PATIENCE)


def test_a_port_that_is_taken_is_an_error():
    with Sandbox("") as sandbox, listen_in_namespace(sandbox.pid), pytest.raises(EnvironmentError, match="in use"):
        listen_in_namespace(sandbox.pid)


def test_our_own_namespace_is_refused():
    with pytest.raises(EnvironmentError, match="no network namespace of its own"):
        listen_in_namespace(os.getpid())


def test_a_process_that_has_gone_is_an_error():
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(EnvironmentError, match="cannot put the proxy"):
        listen_in_namespace(gone.pid)


def test_this_process_stays_where_it_was():
    before = os.readlink("/proc/thread-self/ns/net"), os.readlink("/proc/self/ns/user")
    with Sandbox("") as sandbox:
        listen_in_namespace(sandbox.pid).close()
    assert (os.readlink("/proc/thread-self/ns/net"), os.readlink("/proc/self/ns/user")) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("agenthub")]


# As an ordinary user: a process does what root's thread does.

ORDINARY = """
import os, sys, threading, time
sys.path.insert(0, {project!r})
from tests.integration.network_support import Sandbox
from agenthub.runtime.sandbox.netns import NamespaceListener
assert os.geteuid() != 0
held = threading.Event()
if {threads}:
    threading.Thread(target=held.wait).start()
code = '''
import socket
with socket.create_connection(("127.0.0.1", 3128), timeout=10) as sock:
    print(sock.recv(10).decode())
'''
with NamespaceListener() as idle:
    with NamespaceListener():  # whose helper must not keep the first one waiting
        idle.close()
with NamespaceListener() as made, Sandbox(code, *{options!r}) as sandbox:
    with made.listen(sandbox.pid) as listener:
        threading.Thread(target=lambda: listener.accept()[0].send(b"from outside"[:10])).start()
        print(sandbox.output(), end="")
held.set()
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child left")
"""


@pytest.fixture(scope="module")
def ordinary_python():
    """Runs code with the system's Python as somebody who is not root."""

    def run(code):
        words = (SYSTEM_PYTHON, "-B", "-c", code)
        if os.geteuid() == 0:
            words = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", *words)
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE * 2, cwd="/")

    tried = run(f"import sys; assert sys.version_info >= (3, 11); open({__file__!r})")
    if tried.returncode != 0:
        pytest.skip("no ordinary user with a recent Python of the system's can read this project")
    return run


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("options", [(), ("--uid", "1000")])
def test_an_ordinary_user_can_do_it_too(threads, options, ordinary_python):
    done = ordinary_python(ORDINARY.format(project=PROJECT, threads=threads, options=options))
    assert done.stdout == "from outsi\nno child left\n", done.stderr


def test_a_helper_that_is_not_used_ends_at_once():
    started = time.monotonic()
    NamespaceListener().close()
    assert time.monotonic() - started < PATIENCE
