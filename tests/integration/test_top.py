"""`agenthub top`: what goes on now, once for a pipe, live for a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess

import pytest

from tests.support import COMMAND, PATIENCE, _next, invoke, method, start, wait_until, write_agent

WAITS = """
import time
def go(place):
    open(place + "/up", "w").close()
    while True:
        time.sleep(60)
def fail():
    raise ValueError("no")
"""
PLACE = {"type": "directory", "access": "write", "required": True}


@pytest.fixture
def busy(cli, tmp_path):
    """One run goes on, one has failed, and the agent is loaded besides."""
    source = write_agent(
        tmp_path / "waiter",
        WAITS,
        {"go": method(place=PLACE), "fail": method()},
        entrypoint="agent",
        limits={"timeout": 60},
    )
    cli.ok("install", "--yes", source)
    place = tmp_path / "place"
    place.mkdir()
    assert invoke("run", "waiter", "fail").code == 1
    process = start("run", "waiter", "go", "--place", place)
    try:
        wait_until(lambda: (place / "up").exists(), process)
        assert invoke("warm", "waiter", "--idle", "60s").code == 0
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        for worker in invoke("ps", "--json").json["workers"]:
            os.kill(worker["pid"], signal.SIGTERM)
        wait_until(lambda: not invoke("ps", "--json").json["workers"], None, "no worker is left")


def test_a_look_as_json(busy):
    seen = invoke("top", "--json").json
    (running,), (worker,), (failed,) = seen["running"], seen["workers"], seen["recent"]
    assert (running["agent"], running["method"]) == ("local/waiter", "go")
    assert running["memory"] > 1_000_000
    assert 0 < running["seconds"] < 60
    assert (worker["agent"], worker["busy"]) == ("local/waiter", False)
    assert (failed["status"], failed["error"]) == ("failed", "ValueError: no")
    assert (seen["minute"]["runs"], seen["minute"]["failed"]) == (2, 1)


def test_a_look_in_a_pipe_is_plain_and_narrow(busy):
    looked = invoke("top")
    assert looked.code == 0
    assert looked.out.startswith("1 running · 1 loaded · in the last minute 2 runs (0.0/s), 1 failed\n")
    assert [line for line in looked.out.splitlines() if line.isupper()] == ["RUNNING", "LOADED", "RECENT"]
    assert max(map(len, looked.out.splitlines())) <= 80
    assert "\x1b" not in looked.out


def test_nothing_goes_on(cli):
    assert invoke("top").out == "0 running · 0 loaded · in the last minute 0 runs (0.0/s), 0 failed\n"
    assert invoke("top", "--interval", "soon").code == 2


def test_live_until_it_is_interrupted(busy):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "top", "--interval", "100ms"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    try:
        seen = b""
        while seen.count(b"RUNNING") < 3:  # it is drawn again and again
            seen += _next(controller, wait_until_time())
        process.send_signal(signal.SIGINT)
        while _next(controller, wait_until_time()):
            pass
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert b"local/waiter go" in seen


def wait_until_time():
    import time

    return time.monotonic() + PATIENCE
