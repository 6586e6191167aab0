"""What strangers send to `agenthub index serve`, and what may lie in the directory that it serves."""

from __future__ import annotations

import socket
import time

import pytest

from agenthub.indexes import server
from tests.integration.index_support import TOKEN, TestIndex
from tests.trust_support import NO_ENVIRONMENT

SECOND = b"GET /index.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TYPED = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"


@pytest.fixture
def index(tmp_path):
    made = TestIndex(tmp_path / "index")
    made.publish("acme/tool", **NO_ENVIRONMENT, code="")
    return made


def connected(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def said(url, data):
    """All that the server says to what is sent at once."""
    with connected(url) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_no_link_is_followed(index, tmp_path):
    outside = tmp_path / "outside" / "x"
    outside.mkdir(parents=True)
    (outside / "key").write_text("PRIVATE")
    (index.directory / "files" / "evil").symlink_to(outside.parent)
    (index.directory / "agents" / "evil").symlink_to(outside)
    (index.directory / "files" / "acme" / "tool" / "key").symlink_to(outside / "key")
    with index.served() as url:
        for path in ("files/evil/x/key", "agents/evil/key", "files/acme/tool/key"):
            answer = said(url, f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"PRIVATE" not in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /search.json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SECOND),
        b"GET /search.json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HEAD /search.json HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SECOND),
        b"GET /search.json HTTP/1.1\r\nHost: x\r\nContent-Length : %d\r\n\r\n" % len(SECOND),
        b"PUT /files/acme/tool/tool-2.agent HTTP/1.1\r\n" + TYPED + b"Content-Length: 0\r\nContent-Length: 9\r\n\r\n",
        b"PATCH /agents/acme/tool.json HTTP/1.1\r\n"
        + TYPED
        + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_one_request_is_not_read_as_two(index, head):
    with index.served(writable=True) as url:
        assert said(url, head + SECOND).count(b"HTTP/1.1 ") == 1


@pytest.mark.slow
def test_slow_strangers_do_not_keep_others_out(index, monkeypatch):
    """As many as there is room for, each of whom sends a byte now and then."""
    monkeypatch.setattr(server, "_TIMEOUT", 1.0)
    refused = b"PUT /files/acme/tool/tool-2.agent HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n"
    with index.served(writable=True) as url:
        strangers = [connected(url) for _ in range(server._MOST_CONNECTIONS)]
        for number, stranger in enumerate(strangers):
            stranger.sendall(refused if number % 2 else b"GET /index.json HTTP/1.1\r\nX: ")
        begun = time.monotonic()
        with connected(url) as connection:
            connection.sendall(SECOND)
            connection.settimeout(0.1)
            answer = b""
            while not answer and time.monotonic() - begun < 20:
                for stranger in strangers:
                    try:
                        stranger.sendall(b"x")
                    except OSError:
                        continue
                try:
                    answer = connection.recv(65536)
                except TimeoutError:
                    continue
        for stranger in strangers:
            stranger.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
