"""The proxy for declared hosts: what it passes on."""

from __future__ import annotations

import os
import socket

import pytest

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


def test_a_declared_address_is_reached_by_a_plain_request(server):
    seen = []
    with proxying(f"127.0.0.1:{server.port}", on_request=lambda *place: seen.append(place)) as proxy:
        answer = ask(proxy, get(f"http://127.0.0.1:{server.port}/path?q=1"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"hello /path?q=1")
    assert seen == [("127.0.0.1", server.port)]
    assert proxy.refusals == ()


@pytest.mark.parametrize("spelling", [NAME, NAME.upper(), NAME + "."])
def test_a_declared_name_is_resolved_by_the_proxy(server, spelling):
    places = (f"{NAME}:{server.port}", f"127.0.0.1:{server.port}")
    with proxying(*places, names={NAME: "127.0.0.1"}) as proxy:
        assert ask(proxy, get(f"http://{spelling}:{server.port}/x")).endswith(b"hello /x")
    assert server.requests[-1][2]["Host"] == f"{NAME}:{server.port}"


def test_localhost_may_be_declared(server):
    with proxying(f"localhost:{server.port}") as proxy:
        assert ask(proxy, get(f"http://localhost:{server.port}/")).endswith(b"hello /")
        assert b" 403 " in ask(proxy, get(f"http://127.0.0.1:{server.port}/"))


def test_a_kept_connection_serves_requests_one_after_the_other(server):
    place = f"127.0.0.1:{server.port}"
    with proxying(place) as proxy, open_to(proxy) as sock:
        for number in range(3):
            sock.sendall(f"GET http://{place}/{number} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(f"hello /{number}".encode()):
                answer += sock.recv(65536)
            assert b"Connection: keep-alive" in answer


def test_pipelined_requests_are_answered_in_order_and_each_is_checked(server):
    place = f"127.0.0.1:{server.port}"
    one = f"GET http://{place}/one HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
    two = b"GET http://evil.example.com/ HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"
    with proxying(place) as proxy:
        answer = ask(proxy, one + two + one)
    assert answer.index(b"hello /one") < answer.index(b" 403 ")
    assert answer.count(b"hello /one") == 1
    assert [(refusal.host, refusal.port) for refusal in proxy.refusals] == [("evil.example.com", 80)]


@pytest.mark.parametrize(
    ("path", "body"), [("/chunks", b"3\r\ntwo,"), ("/until-close", b"old"), ("/big?size=300000", b"x" * 300000)]
)
def test_every_kind_of_answer_is_passed_on(server, path, body):
    place = f"127.0.0.1:{server.port}"
    with proxying(place) as proxy:
        answer = ask(proxy, get(f"http://{place}{path}"))
    assert body.replace(b"3\r\n", b"4\r\n") in answer


def test_a_head_request_has_no_body(server):
    place = f"127.0.0.1:{server.port}"
    with proxying(place) as proxy:
        answer = ask(proxy, get(f"http://{place}/").replace(b"GET", b"HEAD", 1))
    assert b"Content-Length: 7" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_request_bodies_are_streamed(server, coding):
    place = f"127.0.0.1:{server.port}"
    body = os.urandom(300_000)
    head = f"POST http://{place}/echo HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n"
    if coding == "length":
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    else:
        pieces = [body[at : at + 70_001] for at in range(0, len(body), 70_001)]
        sent = b"".join(b"%X;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        request = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + sent.replace(b";a=b", b"")
    with proxying(place) as proxy:
        assert ask(proxy, request).endswith(body)


def test_expect_continue_reaches_the_server_and_back(server):
    place = f"127.0.0.1:{server.port}"
    with proxying(place) as proxy, open_to(proxy) as sock:
        head = f"POST http://{place}/echo HTTP/1.1\r\nHost: {place}\r\nContent-Length: 4\r\nConnection: close\r\n"
        sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        assert receive_all(sock).endswith(b"body")


def test_an_answer_that_comes_before_the_body_is_not_lost():
    def refuse(connection):
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too large\r\nContent-Length: 3\r\n\r\nbig")
        connection.shutdown(socket.SHUT_WR)
        receive_all(connection)

    with serving(RawServer(refuse)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy, open_to(proxy) as sock:
        place = f"127.0.0.1:{raw.port}"
        sock.sendall(f"POST http://{place}/ HTTP/1.1\r\nHost: {place}\r\nContent-Length: 1000000\r\n\r\nx".encode())
        assert receive_all(sock).endswith(b"big")


def test_what_concerns_the_proxy_does_not_reach_the_server(server):
    place = f"127.0.0.1:{server.port}"
    headers = ("Proxy-Authorization: Basic c2VjcmV0", "Proxy-Connection: x", "Upgrade: websocket", "X-Mine: kept")
    with proxying(place) as proxy:
        ask(proxy, get(f"http://{place}/", None, *headers))
    sent = server.requests[-1][2]
    assert sent["X-Mine"] == "kept"
    assert {"Proxy-Authorization", "Proxy-Connection", "Upgrade"}.isdisjoint(sent)


def test_a_tunnel_carries_both_directions_and_half_closes():
    def reverse(connection):
        connection.sendall(receive_all(connection)[::-1])

    with serving(RawServer(reverse)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy:
        sock, line = tunnel(proxy, f"127.0.0.1:{raw.port}")
        with sock:
            assert " 200 " in line
            sock.sendall(b"abc")
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"cba"
