"""Values as an agent yields them: on the command line, in Python, and past readers that are slow or stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading

import pytest
from processes_support import run_method
from streaming_support import Store, ended

import agenthub
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.process_tree import is_alive
from agenthub.runtime.runs.plan import RunOptions
from tests.support import PATIENCE, in_terminal, wait_until

ENDLESS = """
import os

class Agent:
    def go(self):
        yield os.getpid()
        while True:
            yield "x" * 65536
"""
HUNGRY = """
import os

class Agent:
    def go(self):
        yield os.getpid()
        eaten = []
        while True:
            eaten.append(b"x" * (1 << 20))
"""


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


# the command -------------------------------------------------------------------------------------------------------


def test_a_text_is_there_before_the_next_one(store):
    process = store.start("streamer", "words")
    assert process.stdout.read(4) == b"one "
    assert [worker["busy"] for worker in store.workers] == ([True] if store.warm else [])
    process.send_signal(signal.SIGINT)
    assert ended(process)[:2] == (130, "")


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["rows", "--count", "3"], '{"row": 0}\n{"row": 1}\n{"row": 2}\n'),
        (["mixed"], 'text\n[1, "é"]\na line\nend\n'),
        (["later"], "0\n1\n2\n"),
        (["nothing"], ""),
        (["plain"], '{"one": "value"}\n'),
        (["listed"], '["a", 1]\n'),
    ],
)
def test_texts_go_on_and_other_values_are_lines(store, words, out):
    done = store.run("streamer", *words)
    assert (done.code, done.out, done.err) == (0, out, "")


def test_what_was_said_before_a_failure_stays(store):
    done = store.run("streamer", "fails")
    assert (done.code, done.out) == (1, "half a \n")
    assert "no more" in done.err


def test_json_is_a_line_for_each_event_and_the_envelope_last(store):
    done = store.run("--json", "streamer", "told")
    *events, envelope = map(json.loads, done.out.splitlines())
    assert events == [
        {"event": "log", "message": "a line of log", "level": "INFO"},
        {"event": "progress", "fraction": 0.4, "message": "reading"},
        {"event": "chunk", "value": "x"},
    ]
    assert (envelope["result"], envelope["chunks"], envelope["exit_code"]) == (None, 1, 0)
    assert done.err == ""
    quiet = store.run("-q", "--json", "streamer", "told").out.splitlines()
    assert [json.loads(line).get("event") for line in quiet] == ["chunk", None]


def test_json_says_how_far_a_failure_came(cold):
    *events, envelope = map(json.loads, cold.run("--json", "streamer", "fails").out.splitlines())
    assert [event["value"] for event in events if event["event"] == "chunk"] == ["half a "]
    assert (envelope["chunks"], envelope["exit_code"]) == (1, 1)
    assert "result" not in envelope


def test_a_method_that_does_not_say_that_it_streams_gives_a_list(cold):
    envelope = cold.run("--json", "streamer", "listed").json
    assert envelope["result"] == ["a", 1]
    assert "chunks" not in envelope


def test_progress_is_a_bar_at_once_on_a_terminal(cold, tmp_path):
    words = ("run", "streamer", "shown", "--place", tmp_path)
    env = {**cold.env, "TERM": "xterm"}
    shown = in_terminal(*words, replies=[("40%", (tmp_path / "seen").touch)], env=env)
    assert shown.code == 0
    assert "streamer shown  ━━━━━━━━━───────────────  40%" in shown.err
    assert "\x1b[31m" not in shown.err
    assert shown.err.splitlines()[-1].endswith("done")


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {"TERM": "xterm", "words": "--no-progress"}])
def test_no_bar_where_it_is_not_wanted(cold, tmp_path, more):
    (tmp_path / "seen").touch()
    options = [more.pop("words")] if "words" in more else []
    shown = in_terminal(*options, "run", "streamer", "shown", "--place", tmp_path, env={**cold.env, **more})
    assert (shown.code, shown.err) == (0, "done\n")


def test_text_that_is_written_to_a_terminal_is_made_harmless(tmp_path):
    streamer = tmp_path / "agent"
    run_method(streamer, "class Agent:\n    def go(self):\n        yield 'a\\x1b]0;title\\x07'\n        yield 'b'")
    manifest = streamer / "agent" / "agent.yaml"
    manifest.write_text(manifest.read_text() + "      stream: true\n")
    shown = in_terminal("run", "--yes", streamer / "agent", "go")
    assert (shown.code, shown.err.splitlines()[-1]) == (0, "a\ufffd]0;title\ufffdb")


# readers that are slow, or stop ------------------------------------------------------------------------------------


def test_a_reader_that_stops_holds_the_agent_and_not_its_deadline(store):
    process = store.start("--timeout", "1s", "--json", "streamer", "gigabyte")
    assert os.read(process.stdout.fileno(), 1) == b"{"
    keeper = store.workers[0]["pid"] if store.warm else process.pid
    wait_until(lambda: not _children_of(keeper), process, "its deadline ends the agent")
    with open(f"/proc/{process.pid}/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    code, out, _ = ended(process)
    envelope = json.loads(out.splitlines()[-1])
    assert (code, envelope["error_type"]) == (124, "TimeoutError")
    assert envelope["execution_time"] < 5
    assert envelope["usage"]["output"] < 3_000_000, "of 1 GB"
    assert len(out) < 6_000_000
    assert peak < 60_000


def _children_of(pid):
    """A process's living children."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += filter(is_alive, map(int, file.read().split()))
    return found


class Stuck:
    """A listener that does not come back until the agent's process, whose number it is given first, has ended."""

    def __init__(self):
        self.heard = 0

    def __call__(self, value):
        self.heard += 1
        if self.heard == 1:
            wait_until(lambda: not is_alive(value), None, "the agent ends")


def test_a_listener_that_is_stuck_delays_neither_deadline_nor_cap(tmp_path):
    stuck = Stuck()
    answer = run_method(tmp_path, ENDLESS, on_chunk=stuck, limits=Limits(timeout=0.5, grace=0.1))
    assert answer["error_type"] == "TimeoutError"
    assert answer["usage"]["output"] < 3_000_000
    assert 0 < stuck.heard < 50
    answer = run_method(tmp_path / "hungry", HUNGRY, on_chunk=Stuck(), limits=Limits(timeout=30, memory=200 << 20))
    assert answer["error_type"] == "MemoryLimitError"


def test_a_stream_that_is_listened_to_is_as_long_as_it_likes(tmp_path):
    code = "class Agent:\n    def go(self):\n        for _ in range(400):\n            yield 'x' * 10_000"
    sizes = []
    limits = Limits(timeout=30, output=1_000_000, result=1_000_000)
    answer = run_method(tmp_path, code, on_chunk=lambda chunk: sizes.append(len(chunk)), limits=limits)
    assert (answer["chunks"], sum(sizes)) == (400, 4_000_000)
    answer = run_method(tmp_path, code, limits=limits)
    assert answer["error_type"] == "OutputLimitError", "where it is collected, it counts"


def test_what_a_listener_raises_stops_the_run_and_is_raised(tmp_path):
    seen = []

    def listen(value):
        seen.append(value)
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run_method(tmp_path, ENDLESS, on_chunk=listen, limits=Limits(timeout=30))
    [pid] = seen
    assert not is_alive(pid)


def test_what_a_listener_raises_ends_a_warm_run_once(store):
    seen = []

    def listen(value):
        seen.append(value)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        agenthub.AgentRuntime().execute_agent("streamer", "rows", {"count": 3}, RunOptions(on_chunk=listen))
    assert seen == [{"row": 0}]


# Python ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(store):
    return agenthub.load_agent("streamer", timeout="30s")


def test_python_iterates(agent):
    assert list(agent.stream("rows", count=2)) == [{"row": 0}, {"row": 1}]
    assert list(agent.stream("nothing")) == []
    assert list(agent.stream("plain")) == [{"one": "value"}], "what does not stream is its one value"
    assert list(agent.stream("listed")) == ["a", 1]


def test_python_raises_at_the_end_what_went_wrong(agent):
    stream = agent.stream("fails")
    assert next(stream) == "half a "
    with pytest.raises(agenthub.ExecutionError, match="no more"):
        next(stream)
    assert list(stream) == []
    with pytest.raises(agenthub.MethodNotFoundError):
        agent.stream("fail")
    with pytest.raises(agenthub.InvalidInputError):
        list(agent.stream("rows"))


def _close(stream):
    stream.close()


def _leave(stream):
    with stream:
        pass


@pytest.mark.parametrize("stop", [_close, _leave, None])
def test_python_stops_a_run_by_leaving_it(tmp_path, stop):
    run_method(tmp_path, "class Agent:\n    def go(self): pass")
    (tmp_path / "agent" / "agent.py").write_text(ENDLESS)
    stream = agenthub.load_agent(str(tmp_path / "agent")).stream("go")
    threads = threading.active_count()
    next(stream)
    assert threading.active_count() > threads
    if stop is not None:
        stop(stream)
        assert list(stream) == []
    del stream
    wait_until(lambda: threading.active_count() == threads, None, "no thread is left")
    assert _children_of(os.getpid()) == []


def test_asyncio_iterates(agent):
    async def main():
        found = [row async for row in agent.astream("rows", count=3)]
        with pytest.raises(agenthub.ExecutionError, match="no more"):
            [chunk async for chunk in agent.astream("fails")]
        async with agent.astream("closing") as stream:
            assert await anext(stream) == "x" * 1000
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        return found, await asyncio.gather(*(_all(agent, count) for count in (1, 2)))

    found, both = asyncio.run(main())
    assert found == [{"row": 0}, {"row": 1}, {"row": 2}]
    assert [len(rows) for rows in both] == [1, 2]


async def _all(agent, count):
    return [row async for row in agent.astream("rows", count=count)]


def test_cancelling_an_asyncio_task_stops_the_run(agent):
    async def main():
        begun = asyncio.Event()

        async def read():
            async for _ in agent.astream("words"):
                begun.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = threading.active_count()
    asyncio.run(main())
    wait_until(lambda: threading.active_count() <= before, None, "the run's threads end")
