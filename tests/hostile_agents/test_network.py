"""The network: off, declared hosts only, and what is in reach even where any host is."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, LANDLOCK, RLIMITS, Attack, each, outcome
from tests.integration.network_support import RawServer, Server, serving

NO_FAMILY, NOT_THERE, NOBODY = "EAFNOSUPPORT", "ENOENT", "ECONNREFUSED"
OFF = (
    Attack("tcp", NO_FAMILY, NO_FAMILY, daily=True),
    Attack("tcp6", NO_FAMILY, NO_FAMILY, free="done EADDRNOTAVAIL ECONNREFUSED"),
    Attack("tcp_mapped", NO_FAMILY, NO_FAMILY, free="done EADDRNOTAVAIL ENETUNREACH"),
    Attack("udp", NO_FAMILY, NO_FAMILY, daily=True),
    Attack("udp_connected", NO_FAMILY, NO_FAMILY),
    Attack("unix_stream", NOT_THERE, NO_FAMILY),
    Attack("unix_datagram", NOT_THERE, NO_FAMILY),
    Attack("unix_by_link", NOT_THERE, NO_FAMILY),
    Attack("unix_by_descriptor", NOT_THERE, NO_FAMILY, daily=True),
    Attack("abstract_stream", NOBODY, NO_FAMILY, daily=True),
    Attack("abstract_datagram", NOBODY, NO_FAMILY),
    Attack("pair_of_datagrams", NO_FAMILY, NO_FAMILY, daily=True),
    Attack("pair_of_raw", NO_FAMILY, NO_FAMILY),
    Attack("pair_of_packets", "EISCONN", "EISCONN", free="EISCONN"),
    Attack("netlink", NO_FAMILY, NO_FAMILY),
    Attack("packet", NO_FAMILY, NO_FAMILY, root=True),
    Attack("raw", NO_FAMILY, NO_FAMILY, root=True),
    Attack("vsock", NO_FAMILY, NO_FAMILY, free=""),
    Attack("other_families", NO_FAMILY, NO_FAMILY, daily=True),
    Attack("multipath", NO_FAMILY, NO_FAMILY, free="done EPROTONOSUPPORT ENOPROTOOPT"),
    Attack("sctp", NO_FAMILY, NO_FAMILY, free=""),
    Attack("fast_open", NO_FAMILY, NO_FAMILY),
    Attack("fast_open_by_option", NO_FAMILY, NO_FAMILY),
    Attack("many_messages", NO_FAMILY, NO_FAMILY, free=""),
    Attack("uring_socket", "ENOSYS", "ENOSYS", free=""),
    Attack("ask_resolver", "gaierror", "gaierror", free=""),
    Attack("ask_name_server", NO_FAMILY, NO_FAMILY),
    Attack("ask_cache_daemon", NOT_THERE, NO_FAMILY, free=""),
    Attack("host_namespace", NOT_THERE, "EACCES", free=""),
    Attack("stolen_socket", "ESRCH EPERM", "EPERM", root=True, free=""),
)
# With a declared host there are sockets: under bubblewrap of a network of its own, under Landlock for the proxy alone.
DECLARED = (
    Attack("past_the_proxy", NOBODY, NOBODY, daily=True),
    Attack("tcp", NOBODY, NOBODY),
    Attack("tcp6", f"{NOBODY} EADDRNOTAVAIL", NOBODY),
    Attack("tcp_mapped", f"{NOBODY} EADDRNOTAVAIL ENETUNREACH", f"{NOBODY} EACCES"),
    Attack("udp", "done ECONNREFUSED", NO_FAMILY),
    Attack("unix_stream", NOT_THERE, NO_FAMILY),
    Attack("abstract_stream", NOBODY, NO_FAMILY),
    Attack("pair_of_datagrams", NO_FAMILY, "EAFNOSUPPORT EPROTONOSUPPORT"),
    Attack("netlink", NO_FAMILY, NO_FAMILY),
    Attack("packet", NO_FAMILY, NO_FAMILY),
    Attack("raw", NO_FAMILY, NO_FAMILY),
    Attack("other_families", NO_FAMILY, NO_FAMILY),
    Attack("multipath", f"{NOBODY} EPROTONOSUPPORT", NO_FAMILY),
    Attack("sctp", f"{NOBODY} EPROTONOSUPPORT ESOCKTNOSUPPORT", NO_FAMILY),
    Attack("fast_open", f"{NOBODY} ENOTCONN", "EPERM"),
    Attack("fast_open_by_option", f"{NOBODY} ENOTCONN", NOBODY),
    Attack("many_messages", f"{NOBODY} ENOTCONN", "EPERM"),
    Attack("ask_resolver", "gaierror", "gaierror"),
    Attack("ask_name_server", "done ECONNREFUSED", NO_FAMILY),
    Attack("tunnel_elsewhere", "403", "403", daily=True),
    Attack("tunnel_to_metadata", "403", "403"),
    Attack("get_elsewhere", "403", "403", daily=True),
    Attack("follow_redirect", "403", "403", daily=True),
    Attack("second_request", "403", "403", daily=True),
    Attack("request_in_body", "403", "403"),
    Attack("own_proxy", NOBODY, NOBODY),
)
# Any host may be reached, and still no socket that only this machine has.
ANY = (
    Attack("unix_stream", NO_FAMILY, NO_FAMILY),
    Attack("unix_datagram", NO_FAMILY, NO_FAMILY),
    Attack("abstract_stream", NO_FAMILY, NO_FAMILY),
    Attack("abstract_datagram", NO_FAMILY, NO_FAMILY),
    Attack("pair_of_datagrams", NO_FAMILY, NO_FAMILY),
    Attack("packet", NO_FAMILY, NO_FAMILY, free=""),
    Attack("raw", NO_FAMILY, NO_FAMILY, free=""),
    Attack("vsock", NO_FAMILY, NO_FAMILY, free=""),
    Attack("ask_cache_daemon", NO_FAMILY, NO_FAMILY, free=""),
)
SPELLINGS = (
    "http://user@127.0.0.1:{good}/",
    "http://127.0.0.1:{good}@127.0.0.1:{evil}/",
    "http://127.0.0.1:{evil}#127.0.0.1:{good}/",
    "http://127.0.0.1:{evil}?127.0.0.1:{good}/",
    "http://127.0.0.1.evil.example.com:{good}/",
    "http://127.0.0.1.nip.io:{good}/",
    "http://127.0.0.1:{good}:80/",
    "http://127.0.0.1:0{good}/",
    "http://127.0.0.2:{good}/",
    "http://127.1:{good}/",
    "http://127.000.000.001:{good}/",
    "http://2130706433:{good}/",
    "http://0x7f000001:{good}/",
    "http://0177.0.0.1:{good}/",
    "http://0.0.0.0:{good}/",
    "http://localhost:{good}/",
    "http://LOCALHOST:{good}/",
    "http://localhost.:{good}/",
    "http://[::1]:{good}/",
    "http://[::ffff:127.0.0.1]:{good}/",
    "http://[64:ff9b::7f00:1]:{good}/",
    "http://[fe80::1%25lo]:{good}/",
    "http://xn--127-x31c.example.com:{good}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://127.0.0.1/",
    "http://127.0.0.1:{evil}/",
)


class _TlsPort(RawServer):
    """At the one port where a tunnel has to be of TLS."""

    def __init__(self, work):
        self.work = work
        socketserver.ThreadingTCPServer.__init__(self, ("127.0.0.1", 443), None)


@pytest.fixture
def declared(host):
    """A host of which one server is declared: the port in the fact `good`, the flags in `flags`."""
    if host.tier == RLIMITS:
        pytest.skip("hosts cannot be told apart here")
    with serving(Server()) as server:
        host.facts["good"] = server.port
        host.server = server
        host.flags = ("--allow-network", f"127.0.0.1:{server.port}")
        yield host


@each(OFF)
def test_no_network(host, attack):
    host.attack("network", attack)


@each(DECLARED)
def test_nothing_but_the_declared_host(declared, attack):
    declared.attack("network", attack, *declared.flags)
    if attack.method == "past_the_proxy":
        assert declared.server.requests == []


def test_a_declared_host_is_reached(declared):
    """Else the refusals would prove nothing."""
    declared.facts["url"] = f"http://127.0.0.1:{declared.server.port}/greeting"
    assert declared.run("network", "fetch", None, *declared.flags)["result"] == "hello /greeting"


def test_no_other_spelling_of_a_declared_host(declared):
    ports = {"good": declared.server.port, "evil": declared.facts["tcp"]}
    declared.facts["spellings"] = [spelling.format(**ports) for spelling in SPELLINGS]
    found = declared.run("network", "lookalikes", None, *declared.flags)["result"]
    assert len(found) == 2 * len(SPELLINGS)
    assert {request: answer for request, answer in found.items() if answer not in ([400], [403])} == {}
    assert declared.server.requests == []


def test_no_request_of_two_meanings(declared):
    found = declared.run("network", "smuggle", None, *declared.flags)["result"]
    assert {name: answer for name, answer in found.items() if answer not in ([400], [403])} == {}
    assert declared.server.requests == []


@pytest.mark.slow
def test_a_socket_in_a_directory_that_may_be_read(host):
    """What is not stopped: bubblewrap grants it with the directory, for a read-only mount does not stop it."""
    place = host.world.directory("work/given")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{place}/socket")
        os.chmod(f"{place}/socket", 0o777)
        server.listen()
        found = outcome(host.run("network", "unix_given", {"place": place}))
    assert found == {BUBBLEWRAP: "done", LANDLOCK: NO_FAMILY, RLIMITS: "done"}[host.tier]


@each(ANY)
def test_what_only_this_machine_has_is_no_host(host, attack):
    host.attack("network", attack, "--allow-network", "any")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--allow-network", "127.0.0.1:9")], ids=["off", "declared"])
@pytest.mark.parametrize("method", ["serve", "serve_abstract"])
def test_nobody_can_come_in(host, method, flags):
    """A process of the host tries all the time, as a helper of the agent's would."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host.facts["inbound"] = probe.getsockname()[1]
    host.facts["inbound_name"] = f"{host.marker}-inbound"
    places = {
        "serve": (socket.AF_INET, ("127.0.0.1", host.facts["inbound"])),
        "serve_abstract": (socket.AF_UNIX, f"\0{host.facts['inbound_name']}"),
    }
    family, address = places[method]
    done, reached = threading.Event(), []

    def knock():
        while not done.wait(0.01):
            with socket.socket(family) as sock, contextlib.suppress(OSError):
                sock.connect(address)
                reached.append(1)
                return

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        found = outcome(host.run("network", method, None, *(flags if host.tier != RLIMITS else ())))
    finally:
        done.set()
        thread.join()
    if host.tier == RLIMITS:
        assert (found, reached) == ("done", [1])
        return
    assert reached == []
    assert found in {BUBBLEWRAP: ("ETIMEDOUT", NO_FAMILY), LANDLOCK: ("EPERM", NO_FAMILY)}[host.tier]


@pytest.mark.parametrize("method", ["other_name_in_tunnel", "nothing_of_tls_in_tunnel"])
def test_a_tunnel_to_a_name_is_for_that_name(host, method):
    """A server that is shared by several sites would serve another one."""
    if host.tier == RLIMITS:
        pytest.skip("hosts cannot be told apart here")
    heard = []

    def answer(sock):
        heard.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nanother site")

    try:
        server = _TlsPort(answer)
    except OSError as error:
        pytest.skip(f"no port 443 for this test: {error.strerror}")
    with serving(server):
        host.facts["named"] = "localhost:443"
        envelope = host.run("network", method, None, "--allow-network", "localhost:443")
    assert outcome(envelope) == "EPROTO"
    assert [data for data in heard if data] == []


@pytest.mark.parametrize("flags", [(), ("--allow-network", "127.0.0.1:9")], ids=["off", "declared"])
def test_a_refusal_says_how_to_allow_it(host, flags):
    if host.tier == RLIMITS:
        pytest.skip("nothing is refused")
    host.facts["url"] = f"http://127.0.0.1:{host.facts['tcp']}/"
    envelope = host.run("network", "fetch", None, *flags)
    if not flags:
        assert envelope["error_type"] in ("PermissionDeniedError", "ExecutionError")
        assert "--allow-network" in envelope["suggestion"]
        return
    assert (envelope["error_type"], envelope["exit_code"]) == ("PermissionDeniedError", 5)
    assert f"--allow-network 127.0.0.1:{host.facts['tcp']}" in envelope["suggestion"]
    assert f"127.0.0.1:{host.facts['tcp']}" in host.log
