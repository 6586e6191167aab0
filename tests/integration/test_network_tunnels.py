"""The proxy for declared hosts: TLS in its tunnels, and the user's own proxy beyond it."""

from __future__ import annotations

import socket
import ssl

import pytest

from agenthub.errors import EnvironmentError
from agenthub.runtime.sandbox.proxy_address import proxy_variables
from agenthub.runtime.sandbox.upstream import UserProxies
from tests.integration.network_support import (
    NAME,
    PATIENCE,
    RawServer,
    Server,
    ask,
    get,
    make_certificate,
    proxying,
    receive_all,
    serving,
    tls_server,
    tunnel,
)


@pytest.fixture(scope="module")
def server():
    with serving(Server()) as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def secure_server(certificate):
    with serving(tls_server(certificate)) as running:
        yield running


def secure(sock, certificate, name):
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    sock.settimeout(PATIENCE)
    return context.wrap_socket(sock, server_hostname=name)


def secure_places(port):
    return (f"{NAME}:{port}", f"127.0.0.1:{port}")


def test_tls_for_the_declared_name_passes(secure_server, certificate):
    port = secure_server.port
    with proxying(*secure_places(port), names={NAME: "127.0.0.1"}, tls_ports=(port,)) as proxy:
        sock, _ = tunnel(proxy, f"{NAME}:{port}")
        with secure(sock, certificate, NAME.upper()) as protected:
            protected.sendall(get(f"http://{NAME}:{port}/").replace(f"http://{NAME}:{port}".encode(), b"", 1))
            assert receive_all(protected).endswith(b"hello /")


@pytest.mark.parametrize("name", ["evil.example.com", None])
def test_tls_for_another_name_is_refused(secure_server, certificate, name):
    port = secure_server.port
    with proxying(*secure_places(port), names={NAME: "127.0.0.1"}, tls_ports=(port,)) as proxy:
        sock, line = tunnel(proxy, f"{NAME}:{port}")
        assert " 200 " in line
        with sock, pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            secure(sock, certificate, name)
    assert (name or "names no server") in proxy.refusals[0].reason


def test_what_is_not_tls_is_refused_where_tls_belongs(secure_server):
    port = secure_server.port
    with proxying(*secure_places(port), names={NAME: "127.0.0.1"}, tls_ports=(port,)) as proxy:
        sock, _ = tunnel(proxy, f"{NAME}:{port}")
        with sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n")
            receive_all(sock)
    assert "ClientHello" in proxy.refusals[0].reason


def test_a_hello_in_small_pieces_is_understood(secure_server, certificate):
    port = secure_server.port
    context = ssl.create_default_context(cafile=certificate)
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(inward, outward, server_hostname=NAME).do_handshake()
    record = outward.read()
    # The same handshake message in records of 50 bytes, sent byte by byte.
    message = record[5:]
    parts = [message[at : at + 50] for at in range(0, len(message), 50)]
    data = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)
    with proxying(*secure_places(port), names={NAME: "127.0.0.1"}, tls_ports=(port,)) as proxy:
        sock, _ = tunnel(proxy, f"{NAME}:{port}")
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(data)):
                sock.send(data[at : at + 1])
            assert sock.recv(1) == b"\x16"  # the server's hello
    assert proxy.refusals == ()


# The user's own proxy


def test_the_users_proxy_is_used_and_its_password_is_not_seen_by_the_agent(server):
    heads = []

    def user_proxy(connection):
        head = connection.recv(65536)
        heads.append(head)
        target = head.split(b" ")[1].decode()
        with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2])), timeout=PATIENCE) as there:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            there.sendall(connection.recv(65536))
            while data := there.recv(65536):
                connection.sendall(data)

    with serving(RawServer(user_proxy)) as raw:
        proxies = UserProxies({"HTTPS_PROXY": "http://x", "http_proxy": f"http://me:s%40cret@127.0.0.1:{raw.port}"})
        with proxying(f"far.example.com:{server.port}", user_proxies=proxies) as proxy:
            answer = ask(proxy, get(f"http://far.example.com:{server.port}/"))
            assert b" 403 " in ask(proxy, get("http://evil.example.com/"))
    assert b"hello /" in answer
    assert b"Proxy-Authorization: Basic bWU6c0BjcmV0" in heads[0]
    assert len(heads) == 1
    assert b"bWU6" not in answer


def test_the_users_exceptions_and_schemes():
    proxies = UserProxies({"all_proxy": "proxy.corp:3128", "NO_PROXY": "direct.com, .inside.com"})
    assert proxies.choose("api.example.com", True) == ("proxy.corp", 3128, None)
    assert proxies.choose("direct.com", True) is None
    assert proxies.choose("a.direct.com", True) is None
    assert proxies.choose("a.inside.com", False) is None
    assert proxies.choose("notdirect.com", True) is not None
    assert UserProxies({"all_proxy": "http://p:1", "no_proxy": "*"}).choose("a.com", True) is None
    assert UserProxies({"HTTP_PROXY": "http://p:1"}).choose("a.com", False) is None
    with pytest.raises(EnvironmentError, match="socks5"):
        UserProxies({"HTTPS_PROXY": "socks5://127.0.0.1:1080"})


def test_the_users_proxy_is_not_used_to_get_inside():
    reached = []
    with serving(RawServer(reached.append)) as raw:
        proxies = UserProxies({"http_proxy": f"http://127.0.0.1:{raw.port}"})
        with proxying(NAME, names={NAME: "10.0.0.1"}, user_proxies=proxies) as proxy:
            assert b" 403 " in ask(proxy, get(f"http://{NAME}/"))
    assert reached == []


def test_variables_point_at_the_proxy_and_allow_no_way_around():
    variables = proxy_variables(1234)
    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == variables["ALL_PROXY"] == "http://127.0.0.1:1234"
    assert variables["NO_PROXY"] == variables["no_proxy"] == ""
