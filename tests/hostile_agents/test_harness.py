"""The harness sees damage: else no attack here would prove anything."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest

from tests.hostile_agents.harness import RLIMITS

pytestmark = pytest.mark.slow
MADE, SHARED_MEMORY_OF_MINE = 0o1000, 0o600


@pytest.fixture
def open_host(host):
    if host.tier != RLIMITS:
        pytest.skip("confined")
    host.forgive()
    return host


@pytest.mark.parametrize(
    ("area", "method", "seen"),
    [
        ("files", "change_mode", "changed: "),
        ("files", "change_times", "changed: "),
        ("files", "delete", "changed: "),
        ("files", "write_code", "changed: "),
        ("files", "write_grant", "changed: "),
        ("files", "write_host_temporary", "left outside: /tmp/"),
        ("files", "write_shared_memory", "left outside: /dev/shm/"),
        ("files", "replace_scratch", "left in the place for scratch directories: "),
        ("network", "tcp", "listener: tcp was contacted"),
        ("network", "udp", "listener: udp was contacted"),
        ("network", "unix_stream", "listener: unix was contacted"),
        ("network", "abstract_datagram", "listener: abstract_datagrams was contacted"),
    ],
)
def test_what_an_agent_does_is_seen(open_host, area, method, seen):
    open_host.run(area, method)
    assert [line for line in open_host.damage() if line.startswith(seen)]


def test_what_survives_is_seen_however_it_hides(open_host):
    command = "(env -i setsid sleep 60 >/dev/null 2>&1 &)"
    open_host.world.start(("sh", "-c", command)).wait()
    (survivor,) = open_host.survivors()
    with open(f"/proc/{survivor}/comm") as file:
        assert file.read() == "sleep\n"


def test_what_happens_to_another_process_is_seen(open_host):
    os.kill(open_host.canary.pid, signal.SIGSTOP)
    os.setpriority(os.PRIO_PROCESS, open_host.canary.pid, 5)
    assert {line.split()[1] for line in open_host.damage()} == {"state", "niceness"}
    os.kill(open_host.canary.pid, signal.SIGKILL)
    open_host.canary.wait()
    assert open_host.damage() == ["canary: ended with -9"]


def test_shared_memory_is_seen(open_host):
    libc = ctypes.CDLL(None)
    segment = libc.shmget(open_host.key, 4096, MADE | SHARED_MEMORY_OF_MINE)
    try:
        assert open_host.damage() == [f"left: shm {segment}"]
    finally:
        libc.shmctl(segment, 0, None)
