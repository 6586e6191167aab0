"""The proxy for declared hosts: what it refuses, and what it says then."""

from __future__ import annotations

import socket
import time

import pytest

from agenthub.errors import InvalidInputError
from agenthub.runtime.sandbox import upstream
from agenthub.runtime.sandbox.proxy import AllowListProxy
from tests.integration.network_support import (
    NAME,
    RawServer,
    Server,
    ask,
    get,
    open_to,
    proxying,
    receive_all,
    serving,
    tunnel,
)


@pytest.fixture(scope="module")
def server():
    with serving(Server()) as running:
        yield running


TRICKS = [
    "http://user@{good}/",
    "http://{good}@evil.example.com/",
    "http://evil.example.com#{good}/",
    "http://evil.example.com?{good}/",
    "http://evil.example.com\\{good}/",
    "http://{name}.evil.example.com:{port}/",
    "http://api%2eexample.com:{port}/",
    "http://{name}%00.evil.example.com:{port}/",
    "http://{name}:{port}:80/",
    "http://2130706433:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "http://0.0.0.0:{port}/",
    "http://127.0.0.2:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://xn--pi-7ja.example.com:{port}/",
    "http://{name}/",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_lookalikes_and_other_spellings_are_refused(server, trick):
    url = trick.format(good=f"{NAME}:{server.port}", name=NAME, port=server.port)
    before = len(server.requests)
    names = dict.fromkeys((NAME, f"{NAME}.evil.example.com", "evil.example.com"), "127.0.0.1")
    with proxying(f"{NAME}:{server.port}", f"127.0.0.1:{server.port}", names=names) as proxy:
        answer = ask(proxy, get(url, url[7:].split("/")[0]))
        assert b" 403 Forbidden by agenthub" in answer.split(b"\r\n")[0]
    assert len(server.requests) == before
    assert len(proxy.refusals) == 1


@pytest.mark.parametrize("place", ["evil.example.com:443", "10.0.0.1:80", "localhost:22", "[::1]:443"])
def test_a_tunnel_elsewhere_is_refused_and_says_how_to_allow_it(place):
    noted = []
    with proxying(NAME, on_refusal=noted.append) as proxy:
        for _ in range(3):
            sock, line = tunnel(proxy, place)
            with sock:
                assert f" 403 Forbidden by agenthub: {place.strip('[]').replace(']', '')} (not declared)" in line
                body = receive_all(sock).decode()
    (refusal,) = proxy.refusals
    assert refusal.times == 3
    assert len(noted) == 1
    assert f"--allow-network {refusal.declare}" in body
    AllowListProxy([refusal.declare]).close()  # what is suggested can be declared


def test_a_redirect_to_another_host_is_refused_at_the_second_request(server):
    place = f"127.0.0.1:{server.port}"
    with proxying(place) as proxy, open_to(proxy) as sock:
        url = f"http://{place}/redirect?to=http://evil.example.com/"
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        assert b"302 Found" in sock.recv(65536)
        sock.sendall(get("http://evil.example.com/"))
        assert b" 403 " in receive_all(sock)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "0.0.0.0", "::1", "fd00::1", "fe80::1"],
)
def test_a_name_that_leads_to_an_address_inside_is_refused(address):
    with proxying(NAME, names={NAME: ["192.0.43.8", address]}) as proxy:
        answer = ask(proxy, get(f"http://{NAME}/"))
    assert b" 403 " in answer
    assert address.encode() in answer
    assert "its address" in proxy.refusals[0].reason


def test_a_name_that_leads_to_an_address_of_this_machine_is_refused(monkeypatch):
    monkeypatch.setattr(upstream, "refusal_of_address", lambda _: None)
    with proxying(NAME, names={NAME: "127.0.0.1"}) as proxy:
        assert b"this machine's own" in ask(proxy, get(f"http://{NAME}/"))


def test_a_name_that_changes_its_address_is_checked_again(server, monkeypatch):
    """The first answer is declared; the second, after its time, is not."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    asked = []

    def resolver(host, port):
        asked.append(host)
        return answers[min(len(asked), 2) - 1]

    listener = socket.create_server(("127.0.0.1", 0))
    places = (f"{NAME}:{server.port}", f"127.0.0.1:{server.port}")
    with AllowListProxy(places, resolver=resolver) as proxy:
        proxy.port = listener.getsockname()[1]
        proxy.serve(listener)
        request = get(f"http://{NAME}:{server.port}/")
        assert b" 200 " in ask(proxy, request)
        assert b" 200 " in ask(proxy, request)
        assert len(asked) == 1  # checked and connected to: one and the same answer
        monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + upstream.ANSWER_LIFETIME)
        assert b" 403 " in ask(proxy, request)


SMUGGLED = [
    "GET http://{p}/ HTTP/1.1\r\nHost: evil.example.com\r\n\r\n",
    "GET http://{p}/ HTTP/1.1\r\nHost: {p}\r\nHost: {p}\r\n\r\n",
    "GET http://{p}/ HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: {p}\r\n\r\n",
    "GET https://{p}/ HTTP/1.1\r\nHost: {p}\r\n\r\n",
    "GET ftp://{p}/ HTTP/1.1\r\nHost: {p}\r\n\r\n",
    "GET http://{p}/ HTTP/2.0\r\nHost: {p}\r\n\r\n",
    "GET http://{p}/ HTTP/1.1\nHost: {p}\n\n\r\n\r\n",
    "GET http://{p}/ HTTP/1.1\r\nHost: {p}\r\n folded: x\r\n\r\n",
    "GET http://{p}/ HTTP/1.1\r\nHost: {p}\r\nX : y\r\n\r\n",
    "GET http://{p}/ HTTP/1.1\r\nHost: {p}\r\nX: a\rb\r\n\r\n",
    "GET http://{p}/ HTTP/1.1\r\nHost: {p}\r\nX: a\0b\r\n\r\n",
    "GET http://{p}/ a HTTP/1.1\r\nHost: {p}\r\n\r\n",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nContent-Length: 1, 1\r\n\r\na",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nContent-Length: +1\r\n\r\na",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nContent-Length: -1\r\n\r\na",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST http://{p}/ HTTP/1.0\r\nHost: {p}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST http://{p}/ HTTP/1.1\r\nHost: {p}\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\na",
    "CONNECT {p}/ HTTP/1.1\r\n\r\n",
    "CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n",
    "CONNECT {p} HTTP/1.1\r\nHost: evil.example.com:443\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\r\n\r\n",
]


@pytest.mark.parametrize("request_text", SMUGGLED)
def test_ambiguous_and_malformed_requests_never_reach_the_server(request_text):
    reached = []
    with serving(RawServer(reached.append)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy:
        answer = ask(proxy, request_text.format(p=f"127.0.0.1:{raw.port}").encode("latin-1"))
    assert answer.split(b" ")[1] in (b"400", b"403")
    assert reached == []


@pytest.mark.parametrize(
    "body", [b"1\nx\r\n0\r\n\r\n", b"1\r\nxyz0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b"1 \r\x0b\nx\r\n", b"-1\r\n\r\n"]
)
def test_a_malformed_chunk_ends_the_connection(server, body):
    place = f"127.0.0.1:{server.port}"
    before = len(server.requests)
    head = f"POST http://{place}/ HTTP/1.1\r\nHost: {place}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with proxying(place) as proxy:
        assert b" 200 " not in ask(proxy, head + body)
    assert len(server.requests) == before


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", b"502"),
        (b"SSH-2.0-x\r\n\r\n", b"502"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"502"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"502"),
        (b"", b"502"),
    ],
)
def test_a_server_that_answers_nonsense_is_a_bad_gateway(answer, status):
    def work(connection):
        connection.recv(65536)
        connection.sendall(answer)

    with serving(RawServer(work)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy:
        assert ask(proxy, get(f"http://127.0.0.1:{raw.port}/")).split(b" ")[1] == status


def test_an_answer_that_breaks_off_is_not_filled_up():
    def work(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with serving(RawServer(work)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy:
        assert ask(proxy, get(f"http://127.0.0.1:{raw.port}/")).endswith(b"\r\n\r\nhalf")


def test_hosts_that_cannot_be_reached_are_no_refusals():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with proxying(f"127.0.0.1:{port}", NAME) as proxy:
        assert b"Connection refused" in ask(proxy, get(f"http://127.0.0.1:{port}/"))
        answer = ask(proxy, get(f"http://{NAME}/"))
    assert b" 502 " in answer
    assert b"Name or service not known" in answer
    assert proxy.refusals == ()


def test_the_next_address_is_tried(server):
    places = (f"{NAME}:{server.port}", f"127.0.0.1:{server.port}", f"127.0.0.9:{server.port}")
    with proxying(*places, names={NAME: ["127.0.0.9", "127.0.0.1"]}) as proxy:
        assert ask(proxy, get(f"http://{NAME}:{server.port}/")).endswith(b"hello /")


def test_refusals_are_bounded_and_printable():
    with proxying(NAME) as proxy:
        for number in range(300):
            ask(proxy, get(f"http://h{number}.example.com/"))
        ask(proxy, b"CONNECT \x1b[31m:443 HTTP/1.1\r\n\r\n")
    assert len(proxy.refusals) == 257
    assert proxy.refusals[-1].host == "others"
    assert sum(refusal.times for refusal in proxy.refusals) == 300


def test_malformed_rules_are_refused():
    with pytest.raises(InvalidInputError):
        AllowListProxy(["https://api.example.com"])
