"""Ending a run early: asked first, then told by SIGTERM, then killed with all that it started; cold and warm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

import pytest
from processes_support import make_agent, run_method
from streaming_support import Store, ended

import agenthub
from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.run_loop import TERM_GRACE
from agenthub.runtime.runs.plan import RunOptions
from tests.support import COMMAND, PATIENCE, marked, wait_until

HEEDING = ["polite", "closing", "asynchronous", "asynchronous_stream", "signalled"]


@pytest.fixture(scope="module", params=["cold", "warm"])
def shared(request, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp(request.param), request.param == "warm")
    yield store
    store.close()


@pytest.fixture
def store(shared, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", shared.home)
    return shared.prepare()


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("only-cold"), False)


def begun(process):
    """Waits for the agent's first word."""
    assert process.stderr.readline() == b"here\n"
    return process


# by signal, deadline, and Python -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", HEEDING)
def test_an_agent_is_asked_and_may_end_in_order(store, method):
    process = begun(store.start("streamer", method, stdout=subprocess.DEVNULL))
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert err.startswith("saved\n")
    assert "streamer was stopped" in err
    assert "Traceback" not in err


def test_a_generator_that_waits_for_its_reader_is_closed(store):
    process = begun(store.start("streamer", "closing"))
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert (code, err.splitlines()[0]) == (130, "saved")


@pytest.mark.parametrize("method", ["polite", "closing"])
def test_a_deadline_asks_as_well_and_a_late_answer_is_none(cold, method):
    done = cold.run("--timeout", "500ms", "--json", "streamer", method)
    *events, envelope = done.out.splitlines()
    assert done.code == 124
    assert json.loads(envelope)["error_type"] == "TimeoutError"
    assert "saved" in done.err + "".join(events)


@pytest.mark.parametrize("method", ["polite", "signalled"])
def test_python_cancels(store, method):
    lines = []
    with Cancellation() as cancellation:

        def listen(line, level):
            lines.append(line)
            if line == "here":
                cancellation.cancel()

        options = RunOptions(on_log=listen, cancellation=cancellation)
        envelope = agenthub.AgentRuntime().execute_agent("streamer", method, {}, options)
    assert (envelope["error_type"], envelope["exit_code"]) == ("InterruptedError", 130)
    assert lines == ["here", "saved"]


def test_closing_the_iterator_asks(store):
    lines = []
    agent = agenthub.load_agent("streamer", on_log=lambda line, level: lines.append(line))
    with agent.stream("closing") as stream:
        next(stream)
    assert lines == ["here", "saved"]


def test_the_message_may_come_before_the_agent_has_read_its_request(tmp_path):
    with Cancellation() as cancellation:
        cancellation.cancel()
        answer = run_method(tmp_path, "class Agent:\n    def go(self):\n        yield 1", cancellation=cancellation)
    assert answer["error_type"] == "InterruptedError"


def test_whoever_ignores_all_of_it_is_killed_with_its_children(cold, tmp_path):
    process = begun(cold.start("--env", f"AGENT_MARK={tmp_path}", "streamer", "deaf"))
    assert len(marked(tmp_path)) >= 2
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert TERM_GRACE <= time.monotonic() - began < PATIENCE / 3
    assert "saved" not in err
    assert marked(tmp_path) == []


def test_whoever_does_not_heed_a_message_gets_the_signal_at_once(tmp_path):
    code = """
        import signal, time
        class Agent:
            def go(self):
                signal.signal(signal.SIGTERM, lambda *_: print("term", time.monotonic()))
                print("here", time.monotonic())
                time.sleep(60)
    """
    lines = []
    answer = run_method(tmp_path, code, limits=Limits(timeout=0.4), on_log=lambda line, _: lines.append(line.split()))
    assert answer["error_type"] == "TimeoutError"
    assert [word for word, _ in lines] == ["here", "term"]
    assert answer["execution_time"] < 0.4 + 2 * TERM_GRACE + 1


def test_a_script_gets_sigterm(tmp_path):
    code = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(3)))
        print("here", flush=True)
        time.sleep(60)
    """
    path = make_agent(tmp_path / "agent", code)
    lines = []
    with Cancellation() as cancellation:

        def listen(line, level):
            lines.append(line)
            cancellation.cancel()

        options = RunOptions(on_log=listen, cancellation=cancellation)
        envelope = agenthub.AgentRuntime().execute_agent(path, "go", {}, options)
    assert envelope["error_type"] == "InterruptedError"
    assert lines == ["here", "saved"]


# a closed pipe -----------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_stops_the_agent_at_once_and_quietly(store):
    process = store.start("streamer", "once")
    assert process.stdout.read(6) == b"first\n"
    began = time.monotonic()
    process.stdout.close()
    assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert time.monotonic() - began < PATIENCE / 3, "although it writes nothing for a minute"
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("options", ["", "--json"])
def test_head_ends_an_endless_stream(cold, options):
    script = f'{" ".join(COMMAND)} run {options} streamer gigabyte | head -c 5; echo "${{PIPESTATUS[@]}}"'
    done = subprocess.run(["bash", "-c", script], env=cold.env, capture_output=True, timeout=PATIENCE)
    assert len(done.stdout.splitlines()[0]) >= 1
    assert done.stdout.splitlines()[-1].endswith(b"141 0")
    assert done.stderr == b""


def test_the_pipe_of_a_reader_is_watched_and_nothing_else(tmp_path):
    reader, writer = os.pipe()
    with Cancellation() as cancellation, open(tmp_path / "file", "w") as file:
        cancellation.watch_reader(file.fileno())
        cancellation.watch_reader(writer)
        assert not cancellation.cancelled
        os.write(writer, b"unread")
        os.close(reader)
        assert cancellation.cancelled
        assert cancellation.reader_gone
    assert cancellation.reader_gone
    os.close(writer)


# what does not count -----------------------------------------------------------------------------------------------


def test_time_in_which_a_person_is_asked_does_not_count(tmp_path):
    path = make_agent(tmp_path / "agent", "class Agent:\n    def go(self): return 1", "entrypoint: agent:Agent")
    asked = []

    def consent(sentence):
        asked.append(sentence)
        threading.Event().wait(1.1)  # a person, who thinks

    runtime = agenthub.AgentRuntime(agenthub.Settings({"timeout": "1s", "sandbox": "off"}))
    envelope = runtime.execute_agent(path, "go", {}, RunOptions(consent=consent))
    assert len(asked) == 1
    assert envelope["result"] == 1
    assert envelope["execution_time"] < 1


def test_a_stuck_reader_does_not_hold_ctrl_c(cold):
    process = cold.start("streamer", "gigabyte")
    os.read(process.stdout.fileno(), 1)
    wait_until(lambda: _is_full(process.stdout), process, "the pipe is full")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    process.stdout.close()
    assert b"streamer was stopped" in process.stderr.read()
    process.stderr.close()


def _is_full(file):
    """Whether as much waits in a pipe as fits."""
    import fcntl
    import struct
    import termios

    waiting = struct.unpack("i", fcntl.ioctl(file.fileno(), termios.FIONREAD, b"\0" * 4))[0]
    return waiting >= 65536 - 4096
