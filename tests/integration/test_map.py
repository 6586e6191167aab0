"""`agenthub map` and `agent.map`: rows in and results out, failures, resuming, and every way to end early."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import itertools
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

import agenthub
from agenthub.cli.map_commands import _Tally
from agenthub.config import Settings
from agenthub.runtime.batches import batch
from agenthub.runtime.batches.batch import Row, RowResult
from agenthub.runtime.batches.results import ResultsFile
from agenthub.runtime.runs.permissions import Changes
from agenthub.runtime.workers.control import list_workers, stop_worker
from tests.support import (
    COMMAND,
    assert_refused,
    in_terminal,
    install_into,
    marked,
    method,
    start,
    wait_until,
    write_agent,
)

CODE = r"""
import os, time

LOADED = os.urandom(8).hex()


def double(n):
    return 2 * n


def odd(n):
    if n % 2 == 0:
        raise ValueError(f"{n} is even")
    return n


def typed(text="none", number=7, flag=False, names=()):
    return [text, number, flag, list(names)]


def flaky(mark):
    with open(mark, "x"):
        raise OSError("the first time")


def gated(n, place):
    with open(place + "/begun", "a") as file:
        file.write(f"{n} ")
    while n in (2, 100) and not os.path.exists(place + "/open"):
        time.sleep(0.01)
    return n


def sleep(seconds):
    time.sleep(seconds)


def content(file):
    with open(file) as opened:
        return opened.read()


def loaded():
    return LOADED


def speak(n):
    print("row", n)
"""
NUMBER = {"type": "integer", "required": True}
TEXT = {"type": "string", "required": True}
METHODS = {
    "double": method(n=NUMBER),
    "odd": method(n=NUMBER),
    "typed": method(
        text="string", number={"type": "integer"}, flag="boolean", names={"type": "array", "items": {"type": "string"}}
    ),
    "flaky": method(mark=TEXT),
    "gated": method(n=NUMBER, place=TEXT),
    "sleep": method(seconds={"type": "number", "required": True}),
    "content": method(file={"type": "file", "required": True}),
    "loaded": method(),
    "speak": method(n=NUMBER),
}


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("mapped")
    return install_into(place / "home", write_agent(place / "mapper", CODE, METHODS, entrypoint="agent"))


@pytest.fixture
def here(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here, cli):
    """Maps a method of the agent over rows, as JSON lines on standard input unless `inputs` names a file."""

    def run(name, rows, *words, inputs="-"):
        text = rows if isinstance(rows, (str, bytes)) else lines_of(rows)
        return cli("map", "mapper", name, inputs, "-j", 2, *words, stdin=text)

    return run


def lines_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def numbers(count):
    return [{"n": n} for n in range(count)]


def results(text):
    return [json.loads(line) for line in text.splitlines()]


def read(path):
    return results(path.read_text())


# what goes in ------------------------------------------------------------------------------------------------------


def test_results_come_in_input_order_one_line_a_row(run):
    finished = run("double", numbers(6))
    assert finished.code == 0, finished.err
    rows = results(finished.out)
    assert [(row["index"], row["result"]) for row in rows] == [(n, 2 * n) for n in range(6)]
    assert finished.err == ""
    assert len({row["input"] for row in rows}) == len({row["run_id"] for row in rows}) == 6
    assert set(rows[0]) == {"index", "input", "run_id", "result", "execution_time"}


def test_a_file_is_read_and_blank_lines_are_none(run, here):
    (here / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\r\n  {"n": 2}')
    assert [row["result"] for row in results(run("double", "", inputs="rows.jsonl").out)] == [2, 4]


def test_nothing_in_is_nothing_out(run):
    assert run("double", "\n")[:2] == (0, b"")


def test_json_says_the_whole_envelope(run):
    (row,) = results(run("double", numbers(1), "--json").out)
    assert {"usage", "agent", "method", "exit_code", "index", "input"} <= set(row)


def test_csv_is_typed_by_the_manifest(run, here):
    text = '\ufefftext,number,flag,names\n"two\nlines, ""quoted""",3,yes,"a,b"\n\n,,,\nx,,no,c\n'
    (here / "rows.csv").write_text(text)
    finished = run("typed", "", inputs="rows.csv")
    assert finished.code == 0, finished.err
    assert [row["result"] for row in results(finished.out)] == [
        ['two\nlines, "quoted"', 3, True, ["a", "b"]],
        ["none", 7, False, []],
        ["x", 7, False, ["c"]],
    ]


def test_a_required_text_may_be_empty_in_csv(run):
    finished = run("flaky", "mark\n\n''\n\"\"\n")
    assert [row["error_type"] for row in results(finished.out)] == ["ExecutionError"] * 2


@pytest.mark.parametrize(
    ("name", "text", "words", "code", "complaints"),
    [
        ("double", '[{"n": 1}]', [], 2, ["a JSON list", "jq"]),
        ("double", "m\n1\n", [], 2, ["double has no 'm'", "parameters: n"]),
        ("double", "n,n\n1,1\n", [], 2, ["twice"]),
        ("double", b"\xff\xfe\n", [], 2, ["not UTF-8"]),
        ("double", "{broken\n", [], 2, ["its first row", "not valid JSON"]),
        ("double", '{"m": 1}\n', [], 2, ["no parameter 'm'"]),
        ("dubble", '{"n": 1}\n', [], 3, ["Did you mean 'double'"]),
        ("double", '{"n": 1}\n', ["-j", "65"], 2, ["1 to 64"]),
        ("double", '{"n": 1}\n', ["--max-failures", "0"], 2, ["1 at least"]),
        ("double", '{"n": 1}\n', ["-j", "x"], 2, ["'x' is not a number"]),
        ("double", '{"n": 1}\n', ["--resume"], 2, ["--out"]),
        ("double", '{"n": 1}\n', ["--timeout", "soon"], 2, ["a duration"]),
        ("double", '{"n": 1}\n', ["--out", "no/where"], 2, ["cannot write no/where"]),
        ("double", '{"n": 1}\n', ["--out", "/dev/full"], 2, ["cannot write /dev/full", "No space left"]),
        ("double", '{"n": 1}\n', ["--sandbox", "off"], 5, ["--yes"]),
    ],
)
def test_what_is_refused_before_anything_runs(run, name, text, words, code, complaints):
    assert_refused(run(name, text, *words), code, *complaints)


def test_a_missing_file_is_refused(run):
    assert_refused(run("double", "", inputs="nowhere.jsonl"), 2, "cannot read nowhere.jsonl")
    assert_refused(run("double", "", inputs="."), 2, "cannot read .: Is a directory")


def test_a_line_has_a_largest_size(run, monkeypatch):
    monkeypatch.setenv("AGENTHUB_RESULT", "100kB")
    assert_refused(run("typed", lines_of([{"text": "x" * 300_000}])), 2, "a line longer than the 100 kB")


def test_paths_are_relative_to_the_caller_and_read_by_their_row_alone(run, here):
    for name in ("a", "b", "c"):
        (here / name).write_text(f"in {name}")
    finished = run("content", [{"file": name} for name in ("a", "b", "missing", "c")])
    rows = results(finished.out)
    assert [row.get("result") for row in rows] == ["in a", "in b", None, "in c"]
    assert rows[2]["error_type"] == "InvalidInputError"
    assert finished.code == 1


# failures ----------------------------------------------------------------------------------------------------------


def test_failures_are_summed_up_and_make_the_exit_code_1(run):
    rows = [{"n": 1}, {"n": 2}, "nonsense", {"m": 1}, {"n": 4}, {"n": 5}]
    finished = run("odd", lines_of(rows))
    assert finished.code == 1
    found = results(finished.out)
    assert [row.get("error_type") for row in found] == [
        None,
        "ExecutionError",
        "InvalidInputError",
        "InvalidInputError",
        "ExecutionError",
        None,
    ]
    assert [row.get("exit_code") for row in found] == [None, 1, 2, 2, 1, None]
    assert "2 is even" in found[1]["error"]
    error = finished.error_lines
    assert "4 of 6 rows failed: 2 ExecutionError, 2 InvalidInputError" in error[0]
    assert "row 1: ExecutionError" in error[1]
    assert len(error) <= 4


def test_options_of_run_apply_to_each_row(run):
    finished = run("sleep", [{"seconds": 30}, {"seconds": 0}], "--timeout", "0.5")
    assert [row.get("error_type") for row in results(finished.out)] == ["TimeoutError", None]


def test_retry_runs_a_row_again_that_failed(run, here, monkeypatch):
    monkeypatch.setattr(batch, "FIRST_PAUSE", 0.01)
    rows = [{"mark": str(here / name)} for name in ("one", "two")]
    finished = run("flaky", rows, "--retry", 1, "--allow-write", here)
    assert [row["attempts"] for row in results(finished.out)] == [2, 2]
    assert "exists" in results(finished.out)[0]["error"]


def test_retry_leaves_alone_what_would_fail_again(run):
    finished = run("double", [{"n": 1}, {"n": "x"}], "--retry", 5)
    assert "attempts" not in results(finished.out)[1]


def test_max_failures_begins_no_more_rows(run):
    finished = run("odd", [{"n": 2}] * 200, "--max-failures", 2)
    assert finished.code == 1
    assert 2 <= len(results(finished.out)) < 100
    assert "no more were begun" in finished.err


def test_verbose_shows_the_rows_logs(run):
    assert "[1] row 1" in run("speak", numbers(2), "-v").err


def test_consent_is_asked_for_once(here):
    (here / "rows").write_text(lines_of(numbers(4)))
    finished = in_terminal(
        *("map", "mapper", "double", "rows", "--sandbox", "off", "--out", "out"), replies=[("Run it?", "y")]
    )
    assert finished.code == 0, finished.err
    assert finished.err.count("[y/N]") == 1
    assert len(read(here / "out")) == 4


# the results file --------------------------------------------------------------------------------------------------


def test_out_is_in_input_order_in_the_end(run, here):
    finished = run("double", numbers(8), "--out", "out")
    assert finished.stdout == b""
    assert "8 rows in" in finished.err
    assert [row["index"] for row in read(here / "out")] == list(range(8))
    assert_refused(run("double", numbers(8), "--out", "out"), 2, "out is there already", "--resume")


def test_resume_runs_what_is_missing(run, here):
    run("double", numbers(3), "--out", "out")
    earlier = read(here / "out")
    with open(here / "out", "a") as file:
        file.write('{"index": 3, "input": "blake2b:')
    assert run("double", numbers(6), "--out", "out", "--resume").code == 0
    rows = read(here / "out")
    assert [row["result"] for row in rows] == [0, 2, 4, 6, 8, 10]
    assert rows[:3] == earlier
    before = (here / "out").read_bytes()
    assert run("double", numbers(6), "--out", "out", "--resume").code == 0
    assert (here / "out").read_bytes() == before


def test_resume_counts_failures_and_resume_failed_runs_them_again(run, here):
    assert run("odd", numbers(4), "--out", "out").code == 1
    first = read(here / "out")
    finished = run("odd", numbers(5), "--out", "out", "--resume")
    assert "3 of 5 rows failed" in finished.err
    assert read(here / "out")[:4] == first
    assert run("odd", numbers(5), "--out", "out", "--resume-failed").code == 1
    again = read(here / "out")
    assert [row["index"] for row in again] == list(range(5))
    assert [new["run_id"] == old["run_id"] for new, old in zip(again, first, strict=False)] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("name", "rows"), [("double", [{"n": 0}, {"n": 7}]), ("double", numbers(1)), ("odd", numbers(2))]
)
def test_a_changed_input_is_noticed(run, here, name, rows):
    run("double", numbers(2), "--out", "out")
    before = (here / "out").read_bytes()
    finished = run(name, rows, "--out", "out", "--resume")
    assert_refused(finished, 2, "another")
    assert (here / "out").read_bytes() == before


def test_what_is_no_results_file_is_left_alone(run, here):
    (here / "out").write_text("precious\n")
    assert_refused(run("double", numbers(1), "--out", "out", "--resume"), 2, "out:1: not a line of a batch's results")
    assert_refused(run("double", numbers(1), "--out", "/dev/null", "--resume"), 2, "not a file")
    assert (here / "out").read_text() == "precious\n"


def test_one_batch_at_a_time_writes_a_file(run, here):
    with open(here / "out", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused(run("double", numbers(1), "--out", "out"), 2, "another batch is writing out")


def test_order_is_made_by_a_rename_and_keeps_mode_and_links(here):
    (here / "real").touch(mode=0o640)
    (here / "link").symlink_to("real")
    with ResultsFile("link") as file:
        for number in (2, 0, 1):
            file.append(number, json.dumps({"index": number, "input": f"blake2b:{number:032x}"}))
        file.put_in_order()
        file.append(3, json.dumps({"index": 3, "input": "blake2b:03"}))
    assert [row["index"] for row in read(here / "real")] == [0, 1, 2, 3]
    assert (here / "link").is_symlink()
    assert os.stat(here / "real").st_mode & 0o777 == 0o640
    assert sorted(os.listdir(here)) == ["home", "link", "real"] or sorted(os.listdir(here)) == ["link", "real"]


# ending early ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def gated(here, *words, rows=6, jobs=1):
    """A batch whose row 2 waits for a file; ended if the test does not."""
    (here / "rows").write_text(lines_of({"n": n, "place": str(here)} for n in range(rows)))
    process = start(
        *("map", "mapper", "gated", "rows", "-j", jobs, "--allow-write", here, "--env", f"AGENT_MARK={here}", *words)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def begun(here):
    return (here / "begun").read_text().split() if (here / "begun").exists() else []


def test_a_kill_in_the_middle_loses_no_finished_row(run, here):
    with gated(here, "--out", "out", "--unordered") as process:
        wait_until(lambda: "2" in begun(here), process)
        process.kill()
        process.wait()
    with open(here / "out", "ab") as file:
        file.write(b'{"index": 2, "inp')
    (here / "open").touch()
    finished = run("gated", "", "--out", "out", "--resume", "--allow-write", here, inputs="rows")
    assert finished.code == 0, finished.err
    assert [row["result"] for row in read(here / "out")] == list(range(6))
    assert sorted(begun(here)) == ["0", "1", "2", "2", "3", "4", "5"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_what_runs_and_keeps_what_is_finished(here, number):
    with gated(here, jobs=2) as process:
        wait_until(lambda: "5" in begun(here), process)  # rows 3 to 5 wait behind row 2
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert {row["index"] for row in results(out.decode())} >= {0, 1, 3, 4}
    assert 2 not in {row["index"] for row in results(out.decode())}
    assert b"error: interrupted after" in err
    wait_until(lambda: not marked(here), None, "nothing of it is left")


def test_an_interrupt_says_how_to_go_on(here):
    with gated(here, "--out", "out") as process:
        wait_until(lambda: "2" in begun(here), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"--resume goes on" in err
    assert [row["index"] for row in read(here / "out")] == [0, 1]


def test_a_signal_ends_the_wait_for_input(here):
    process = start("map", "mapper", "double", "-", "-j", 2, stdin=subprocess.PIPE)
    with process:
        process.stdin.write(b'{"n": 1}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"] == 2  # at once: what is there is not kept waiting
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130


def test_a_reader_that_goes_away_ends_it_quietly(here):
    (here / "rows").write_text(lines_of([{"n": 1}] * 2000))
    command = " ".join(COMMAND)
    script = f"set -o pipefail; {command} map mapper double rows -j 2 | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
    assert len(results(done.stdout.decode())) == 1


# from Python -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapper(here):
    return agenthub.load_agent("mapper")


def test_map_iterates_in_order(mapper):
    assert list(mapper.map("double", numbers(5), jobs=2)) == [0, 2, 4, 6, 8]
    assert sorted(mapper.map("double", iter(numbers(5)), jobs=2, ordered=False)) == [0, 2, 4, 6, 8]


def test_map_raises_a_rows_error_or_returns_it(mapper):
    rows = [{"n": 1}, {"n": 2}, {}, 5]
    with pytest.raises(agenthub.ExecutionError, match="2 is even"):
        list(mapper.map("odd", rows, jobs=2))
    found = list(mapper.map("odd", rows, jobs=2, return_exceptions=True))
    assert found[0] == 1
    assert [type(one) for one in found[1:]] == [
        agenthub.ExecutionError,
        agenthub.InvalidInputError,
        agenthub.InvalidInputError,
    ]


def test_map_checks_what_it_is_called_with(mapper):
    with pytest.raises(agenthub.MethodNotFoundError):
        mapper.map("dubble", [])
    with pytest.raises(agenthub.InvalidInputError, match="1 to 64"):
        mapper.map("double", [], jobs=0)


def test_what_the_source_raises_is_raised(mapper):
    def source():
        yield {"n": 1}
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(mapper.map("double", source(), jobs=2))


def test_a_failure_that_is_no_rows_own_ends_all(mapper, monkeypatch):
    execute = mapper._runtime.process_manager.execute_agent

    def broken(directory, name, arguments, **options):
        if arguments["n"] == 1:
            raise agenthub.EnvironmentError("it is gone")
        return execute(directory, name, arguments, **options)

    monkeypatch.setattr(mapper._runtime.process_manager, "execute_agent", broken)
    finished = mapper.map("double", numbers(3), jobs=1, return_exceptions=True)
    assert next(finished) == 0
    with pytest.raises(agenthub.EnvironmentError, match="it is gone"):
        next(finished)


def test_a_slow_first_row_lets_no_more_than_a_window_pass(here):
    """Rows are begun only while few enough wait; the count of those is what bounds memory."""
    pulled = []

    def source():
        for n in itertools.chain((100,), range(200, 220)):
            pulled.append(n)
            yield {"n": n, "place": str(here)}

    mapper = agenthub.load_agent("mapper")
    mapper._options = mapper._options._replace(changes=Changes({"write": [str(here)]}, {}))
    outcome = mapper.map("gated", source(), jobs=2)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(next, outcome)
        wait_until(lambda: len(begun(here)) == 8, None, "all but one of the window are through")
        assert len(pulled) == 8
        (here / "open").touch()
        assert first.result() == 100
    assert list(outcome) == list(range(200, 220))


def test_closing_the_iterator_stops_the_rows_that_run(mapper):
    finished = mapper.map("sleep", itertools.chain([{"seconds": 0}], itertools.repeat({"seconds": 60})), jobs=2)
    assert next(finished) is None
    started = time.monotonic()
    finished.close()
    assert time.monotonic() - started < 15


def test_amap_takes_both_kinds_of_iterables(mapper):
    async def source():
        for row in numbers(3):
            await asyncio.sleep(0)
            yield row

    async def main():
        both = []
        for rows in (numbers(3), source()):
            both.append([one async for one in mapper.amap("double", rows, jobs=2)])
        return both

    assert asyncio.run(main()) == [[0, 2, 4]] * 2


def test_amap_that_is_left_at_once_ends(mapper):
    async def main():
        finished = mapper.amap("sleep", itertools.repeat({"seconds": 60}), jobs=2)
        task = asyncio.create_task(anext(finished))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 20))


def test_cancelling_amap_stops_it_while_its_source_waits(mapper):
    async def source():
        yield {"n": 1}
        await asyncio.sleep(3600)

    async def main():
        got = asyncio.Event()

        async def consume():
            async for _ in mapper.amap("double", source(), jobs=2):
                got.set()

        task = asyncio.create_task(consume())
        await got.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 20))


def test_long_batches_run_in_workers_of_their_own_which_end_with_them(mapper, shared):
    paths = Settings().paths

    def workers():
        return [worker for worker in list_workers(paths) if worker.agent == "local/mapper"]

    def source():
        yield from [{}] * 5
        wait_until(workers, None, "a worker is there")
        yield from [{}] * 6

    for worker in workers():  # of batches that other tests killed
        stop_worker(worker, patience=10)
    assert not workers()
    found = list(mapper.map("loaded", source(), jobs=1))
    assert len(set(found[-4:])) == 1  # one process was forked for each
    assert len(set(found[:3])) == 3
    wait_until(lambda: not workers(), None, "they are gone")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["keeper", "loaded"])
def test_workers_that_are_killed_between_rows_cost_only_time(mapper, victim):
    paths = Settings().paths

    def workers():
        return [worker for worker in list_workers(paths) if worker.agent == "local/mapper" and not kept(worker)]

    def kept(worker):
        return worker.pid in before

    def source():
        yield from [{"n": n} for n in range(5)]
        worker = wait_until(workers, None, "a worker is there")[0]
        yield from [{"n": n} for n in range(5, 8)]
        pid = worker.pid
        while victim == "loaded" and (below := children(pid)):
            pid = below[0]
        os.kill(pid, signal.SIGKILL)
        yield from [{"n": n} for n in range(8, 20)]

    before = {worker.pid for worker in list_workers(paths)}
    assert list(mapper.map("double", source(), jobs=1)) == [2 * n for n in range(20)]
    wait_until(lambda: not workers(), None, "they are gone")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.slow
def test_a_thousand_runs_queued(mapper, cli):
    before = len(os.listdir("/proc/self/fd"))
    assert list(mapper.map("double", numbers(1000), jobs=64)) == [2 * n for n in range(1000)]
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # of the history's first reader, at most
    runs = cli.ok("runs", "--agent", "mapper", "--method", "double", "--limit", "1000", "--json").json["runs"]
    assert len(runs) == 1000
    assert {run["status"] for run in runs} == {"ok"}


# the display -------------------------------------------------------------------------------------------------------


def test_the_display_says_rate_and_time_left():
    lines = SimpleNamespace(size=4000, consumed=1000)
    tally = _Tally(lines, None)
    tally._started -= 10
    tally._shown -= 10
    tally._points = [(tally._started, 0)]
    for number in range(200):
        envelope = {"error": "e", "error_type": "TimeoutError"} if number == 0 else {"result": 1}
        tally.add(RowResult(Row(number, {}), envelope))
    assert tally.due()
    assert not tally.due()
    assert tally.text() == "200 rows · 20/s · 30 s left · 1 failed"
    assert tally.fraction == 0.25
    assert tally.verdict() == "1 of 200 rows failed: 1 TimeoutError"
