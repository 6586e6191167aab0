"""The proxy for declared hosts: many clients, slow ones, large ones, and its end."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time

import pytest

from agenthub.runtime.sandbox import proxy as proxy_module
from agenthub.runtime.sandbox import streams
from agenthub.runtime.sandbox.proxy import AllowListProxy
from tests.integration.network_support import (
    NAME,
    PATIENCE,
    RawServer,
    Server,
    ask,
    get,
    leads_to,
    open_to,
    proxying,
    receive_all,
    serving,
    tunnel,
)

MB = 1024 * 1024


@pytest.fixture(scope="module")
def server():
    with serving(Server()) as running:
        yield running


def wait_for(condition):
    """Waits until something holds that another thread brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)


def test_fifty_connections_at_once(server):
    place = f"127.0.0.1:{server.port}"
    answers = []
    with proxying(place) as proxy:

        def work():
            for _ in range(4):
                answers.append(ask(proxy, get(f"http://{place}/")))

        threads = [threading.Thread(target=work) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 200
    assert all(answer.endswith(b"hello /") for answer in answers)


def test_a_hanging_resolver_delays_nobody_else(server):
    released = threading.Event()

    def resolver(host, port):
        released.wait(PATIENCE)
        return []

    listener = socket.create_server(("127.0.0.1", 0))
    place = f"127.0.0.1:{server.port}"
    with AllowListProxy((NAME, place), resolver=resolver) as proxy:
        proxy.port = listener.getsockname()[1]
        proxy.serve(listener)
        with open_to(proxy) as waiting:
            waiting.sendall(get(f"http://{NAME}/"))
            assert ask(proxy, get(f"http://{place}/")).endswith(b"hello /")
            released.set()
            assert b" 502 " in receive_all(waiting)


def test_a_client_that_dawdles_is_dropped(server, monkeypatch):
    monkeypatch.setattr(proxy_module, "HEAD_TIMEOUT", 0.1)
    monkeypatch.setattr(proxy_module, "IDLE_TIMEOUT", 0.1)
    place = f"127.0.0.1:{server.port}"
    with proxying(place) as proxy, open_to(proxy) as silent, open_to(proxy) as slow:
        started = time.monotonic()
        slow.sendall(b"GET http://")
        assert receive_all(silent) == receive_all(slow) == b""
        assert time.monotonic() - started < PATIENCE / 2
        assert ask(proxy, get(f"http://{place}/")).endswith(b"hello /")


def test_a_server_that_dawdles_is_a_gateway_timeout(monkeypatch):
    monkeypatch.setattr(proxy_module, "EXCHANGE_TIMEOUT", 0.1)
    with serving(RawServer(receive_all)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy, open_to(proxy) as sock:
        sock.sendall(get(f"http://127.0.0.1:{raw.port}/"))
        assert b" 504 " in receive_all(sock)


def test_an_endless_head_is_cut_off():
    with proxying(NAME) as proxy, open_to(proxy) as sock:
        sock.sendall(b"GET http://")
        with contextlib.suppress(OSError):
            for _ in range(4):
                sock.sendall(b"x" * 65536)
        assert b" 431 " in receive_all(sock)


def test_more_connections_than_it_serves_wait_their_turn(server, monkeypatch):
    monkeypatch.setattr(proxy_module, "MAX_CONNECTIONS", 4)
    place = f"127.0.0.1:{server.port}"
    with proxying(place) as proxy, contextlib.ExitStack() as stack:
        held = [stack.enter_context(open_to(proxy)) for _ in range(4)]
        for sock in held:
            sock.sendall(b"GET")
        wait_for(lambda: proxy.full)
        late = stack.enter_context(open_to(proxy))
        late.sendall(get(f"http://{place}/"))
        for sock in held:
            sock.close()
        assert receive_all(late).endswith(b"hello /")


def test_a_tunnel_moves_64_mib_in_flat_memory_against_a_slow_reader():
    size = 64 * MB

    def pour(connection):
        block = b"x" * MB
        for _ in range(size // MB):
            connection.sendall(block)

    with serving(RawServer(pour)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy:
        sock, _ = tunnel(proxy, f"127.0.0.1:{raw.port}")
        with sock:
            sock.recv(1)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            time.sleep(0.05)  # it could read all of it meanwhile, if it did not wait for us
            received = 1
            while data := sock.recv(MB):
                received += len(data)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert received == size
    assert after - before < 8 * 1024  # KiB


def test_an_echo_that_nobody_reads_stops_the_sender():
    with serving(RawServer(echo)) as raw, proxying(f"127.0.0.1:{raw.port}") as proxy:
        sock, _ = tunnel(proxy, f"127.0.0.1:{raw.port}")
        with sock:
            sock.setblocking(False)
            sent = 0
            quiet = time.monotonic()
            while time.monotonic() - quiet < 0.2:
                try:
                    sent += sock.send(b"x" * streams.BLOCK)
                    quiet = time.monotonic()
                except BlockingIOError:
                    time.sleep(0.005)
                assert sent < 64 * MB


def test_it_ends_with_connections_open_and_may_be_closed_twice(server):
    proxy = AllowListProxy([NAME], resolver=leads_to({}))
    proxy.close()
    proxy.close()
    ours, theirs = socket.socketpair()
    proxy.attach(theirs)  # too late: closed
    with ours:
        assert ours.recv(1) == b""
    before = len(os.listdir("/proc/self/fd"))
    with serving(RawServer(echo)) as raw:
        with proxying(f"127.0.0.1:{raw.port}") as proxy:
            sock, _ = tunnel(proxy, f"127.0.0.1:{raw.port}")
        with sock:
            assert receive_all(sock) == b""
        proxy.close()
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before)  # the server notices the end a moment later


def test_a_connected_socket_can_be_handed_over(server):
    place = f"127.0.0.1:{server.port}"
    with AllowListProxy([place]) as proxy:
        ours, theirs = socket.socketpair()
        proxy.attach(theirs)
        with ours:
            ours.sendall(get(f"http://{place}/"))
            assert receive_all(ours).endswith(b"hello /")
