"""What readers make of the journal: every run once, in order, whatever is killed, damaged, locked or newer."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from agenthub.errors import InvalidInputError, StoreError
from agenthub.observability import history as history_module
from agenthub.observability import intake, retention
from agenthub.observability import journal as journal_module
from agenthub.observability.database import database_path
from agenthub.observability.history import Filter, History
from agenthub.observability.liveness import this_process
from agenthub.observability.recorder import Recorder, is_due, sweep_sometimes

DAY = 86400.0


class Place:
    """A history, and what its readers were told."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.database = database_path(self.directory)
        self.recorder = Recorder(self.directory)
        self.journal = self.recorder.journal
        self.said = []

    def record(
        self, run_id, *, agent="local/probe", method="go", error=None, at=None, end=True, supervisor=None, **more
    ):
        owner, _, name = agent.rpartition("/")
        start = {"owner": owner, "agent": name, "method": method, "at": at or time.time(), "inputs": {"value": {}}}
        start |= {"supervisor": supervisor or this_process(), "version": "1.0", **more}
        self.journal.append({"run": run_id, "start": start})
        if end:
            self.end(run_id, at=at, error=error)

    def end(self, run_id, *, at=None, error=None):
        outcome = (
            {"error": error, "error_type": "ExecutionError", "exit_code": 1} if error else {"result": {"value": 1}}
        )
        self.journal.append({"run": run_id, "end": {"at": at or time.time(), "exit_code": 0, **outcome}})

    def history(self):
        return History(self.directory, self.said.append)

    def ids(self, limit=-1, **wanted):
        with self.history() as history:
            return [record.run_id for record in history.runs(Filter(**wanted), limit)]

    def statuses(self):
        with self.history() as history:
            return {record.run_id: record.status for record in history.runs(Filter(), -1)}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "history")


@pytest.fixture
def dead():
    """A process that is no more."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    _, _, boot = this_process()
    return (process.pid, 1, boot)


def test_the_newest_come_first_and_each_knows_all(place):
    place.record("a1", environment="blake2b:00", isolation="landlock")
    place.record("b2", error="failed so")
    with place.history() as history:
        second, first = history.runs(Filter(), 10)
    assert (first.run_id, first.status, first.result) == ("a1", "ok", {"value": 1})
    assert (first.environment, first.isolation, first.exit_code) == ("blake2b:00", "landlock", 0)
    assert (second.status, second.error, second.error_type, second.exit_code) == (
        "failed",
        "failed so",
        "ExecutionError",
        1,
    )
    assert place.said == []


def test_an_empty_history_is_empty_and_stays_unmade(place):
    assert place.ids() == []
    with pytest.raises(InvalidInputError, match="no run 'a'"), place.history() as history:
        history.find("a")
    assert not os.path.exists(place.directory)


def test_the_order_is_that_of_the_starts_also_when_the_clock_is_set_back(place):
    now = time.time()
    for number, at in enumerate([now, now - 5 * DAY, now - DAY, now + DAY, now]):
        place.record(f"a{number}", at=at)
    assert place.ids() == ["a4", "a3", "a2", "a1", "a0"]
    assert place.ids(since=now - 2 * DAY) == ["a4", "a3", "a2", "a0"]
    assert place.ids(since=now - 2 * DAY, limit=2) == ["a4", "a3"]


@pytest.mark.parametrize("few", [2, 2000])
def test_since_finds_the_same_by_either_way(place, monkeypatch, few):
    monkeypatch.setattr(history_module, "_FEW", few)
    now = time.time()
    for number in range(10):
        place.record(f"a{number}", at=now - number % 3 * DAY)
    assert place.ids(since=now - DAY / 2) == ["a9", "a6", "a3", "a0"]
    assert place.ids(since=now - DAY / 2, limit=2, agent="probe") == ["a9", "a6"]


def test_filters(place):
    place.record("a1", agent="local/one", method="go")
    place.record("a2", agent="acme/one", method="stop", error="no")
    place.record("a3", agent="two")
    place.record("a4", agent="local/one", end=False)
    assert place.ids(agent="one") == ["a4", "a2", "a1"]
    assert place.ids(agent="acme/one") == ["a2"]
    assert place.ids(method="go") == ["a4", "a3", "a1"]
    assert place.ids(status="failed") == ["a2"]
    assert place.ids(status="running", agent="one") == ["a4"]
    assert place.ids(limit=2) == ["a4", "a3"]


def test_a_run_is_found_by_the_beginning_of_its_id(place):
    for run_id in ("abc1", "abd2", "abd", "f0"):
        place.record(run_id)
    with place.history() as history:
        assert history.find("f").run_id == "f0"
        assert history.find("abd").run_id == "abd"  # which is also the beginning of another
        with pytest.raises(InvalidInputError, match="several runs begin with 'ab'") as error:
            history.find("ab")
        assert "abc1, abd, abd2" in error.value.suggestion
        with pytest.raises(InvalidInputError, match="there is no run 'a%'"):
            history.find("a%")


def test_a_run_whose_supervisor_died_is_lost_and_one_that_lives_is_running(place, dead):
    place.record("a1", end=False)
    place.record("a2", end=False, supervisor=dead)
    place.record("a3", end=False, supervisor=(1, 2, "an earlier boot"))
    assert place.statuses() == {"a1": "running", "a2": "lost", "a3": "lost"}
    place.end("a3")  # it was on another machine, and ended well
    assert place.statuses()["a3"] == "ok"


def test_an_end_that_is_written_while_readers_look_is_not_lost(place, dead, monkeypatch):
    """It wrote its end, and then died, between a reader's look at the journal and its look at the process."""
    place.record("a1", end=False, supervisor=dead)
    looked = history_module.is_alive
    monkeypatch.setattr(history_module, "is_alive", lambda one: (place.end("a1"), looked(one))[1])
    assert place.statuses() == {"a1": "ok"}


# intake ------------------------------------------------------------------------------------------------------------


def test_pieces_and_segments_are_taken_in_wholly(place, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT", 4000)
    monkeypatch.setattr(intake, "_PIECE", 700)
    for number in range(40):
        place.record(f"a{number:02d}", directory="x" * (number * 37 % 900))
    assert len(place.journal.segments()) > 3
    assert place.ids() == [f"a{number:02d}" for number in reversed(range(40))]


def test_nothing_is_taken_in_twice(place):
    for number in range(3):
        place.record(f"a{number}")
        assert len(place.ids()) == number + 1
    connection = sqlite3.connect(place.database)
    assert connection.execute("SELECT count(*), max(seq) FROM runs").fetchone() == (3, 3)
    connection.close()


def test_lines_that_are_none_are_counted_and_left_out(place):
    place.record("a1")
    with open(place.journal.segments()[0], "ab") as file:
        file.write(b'\n{"run":"cut sh\n[]\n{"format":1,"run":"a","start":{}}\n{"format":1,"run":{},"start":5}\n')
        file.write(b'{"format":1,"run":"a","start":{"at":{},"inputs":{},"supervisor":[1,2,3]}}\n')
        file.write(b'{"format":1,"run":"a","end":{"at":1,"exit_code":' + b"9" * 30 + b"}}\n\xff\xfe\n")
    place.record("a2", error="half a character: \ud800")
    assert place.ids() == ["a2", "a1"]
    assert place.said == ["the history's journal has 7 lines that are cut short or no JSON; they are left out"]
    place.said.clear()
    assert place.ids() == ["a2", "a1"]
    assert place.said == []


def test_a_line_that_is_still_being_written_waits(place):
    place.record("a1")
    (segment,) = place.journal.segments()
    with open(segment, "rb") as file:
        whole = file.read()
    with open(segment, "wb") as file:
        file.write(whole[: len(whole) // 2])
        file.flush()
        assert place.statuses() in ({}, {"a1": "running"})
        file.write(whole[len(whole) // 2 :])
    assert place.statuses() == {"a1": "ok"}


def test_a_journal_that_was_removed_begins_anew(place):
    place.record("a1")
    place.record("a2")
    assert place.ids() == ["a2", "a1"]
    held = open(place.journal.segments()[0])  # noqa: SIM115 - else its inode may be given to the next
    shutil.rmtree(place.journal.directory)
    place.record("a3")
    assert place.ids() == ["a3", "a2", "a1"]
    held.close()


_TAKER = """
import sys
from agenthub.observability import intake
from agenthub.observability.history import Filter, History
intake._PIECE = 2000
while True:
    with History(sys.argv[1], print) as history: history.refresh()
"""
_WRITER = """
import sys
from agenthub.observability import journal
journal.SEGMENT = 30000
one = journal.Journal(sys.argv[1] + "/journal")
number = 0
while True:
    run = f"{sys.argv[2]}-{number:06d}"
    start = {"owner": "", "agent": "a", "method": "m", "at": 1.0, "inputs": {}, "supervisor": [1, 2, "x"]}
    start["text"] = "x" * 999
    one.append({"run": run, "start": start})
    one.append({"run": run, "end": {"at": 2.0, "exit_code": 0, "result": {}}})
    print(run, flush=True)
    number += 1
"""


@pytest.mark.slow
def test_kills_at_any_moment_lose_and_double_nothing(place, tmp_path):
    """Writers and readers are killed at random; each run that was written is there once, with its end."""
    chance, written, said = random.Random(7), [], []
    for round_ in range(6):
        commands = [[_TAKER], [_TAKER], [_WRITER, f"w{round_}"], [_WRITER, f"v{round_}"]]
        outputs = [tmp_path / f"output-{round_}-{number}" for number in range(4)]
        processes = []
        for (code, *more), output in zip(commands, outputs, strict=True):
            with open(output, "wb") as file:
                command = [sys.executable, "-c", code, place.directory, *more]
                processes.append(subprocess.Popen(command, stdout=file, stderr=file))
        while not (outputs[2].stat().st_size and outputs[3].stat().st_size):
            assert all(process.poll() is None for process in processes)
        time.sleep(chance.uniform(0.05, 0.2))  # the moment is the subject
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        said += [output.read_text() for output in outputs[:2]]
        written += [line for output in outputs[2:] for line in output.read_text().split("\n")[:-1]]
    # A line is cut short where its writer was killed in the middle of the write.
    assert all(line.startswith("the history's journal has") for text in said for line in text.splitlines()), said
    assert all(len(line) == len("w0-000000") for line in written)
    statuses = place.statuses()
    assert set(written) <= set(statuses)
    assert {statuses[run] for run in written} == {"ok"}
    assert len(statuses) <= len(written) + 2 * 6 * 2
    for kind in ("v", "w"):  # and in the order of each writer
        for round_ in range(6):
            mine = [run for run in place.ids() if run.startswith(f"{kind}{round_}")]
            assert mine == sorted(mine, reverse=True)


def test_many_read_at_once_the_first_time(place):
    for number in range(300):
        place.record(f"a{number}")
    code = (
        "import sys\nfrom agenthub.observability.history import Filter, History\n"
        "with History(sys.argv[1], print) as history: print(len(history.runs(Filter(), -1)))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, place.directory], stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["300\n"] * 5


# faults ------------------------------------------------------------------------------------------------------------


def damage_header(path):
    with open(path, "r+b") as file:
        file.write(b"garbage " * 4)


def damage_pages(path):
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def empty_it(path):
    os.truncate(path, 0)


def cut_it(path):
    os.truncate(path, os.path.getsize(path) // 2 + 100)


def drop_table(path):
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE runs")
    connection.close()


@pytest.mark.parametrize("damage", [damage_header, damage_pages, cut_it, drop_table])
def test_a_damaged_database_is_set_aside_and_made_again(place, damage):
    for number in range(200):
        place.record(f"a{number}")
    assert len(place.ids()) == 200
    damage(place.database)
    place.record("b0")
    assert len(place.ids()) == 201
    (sentence,) = place.said
    assert "was damaged" in sentence
    assert f"{place.database}.damaged-1" in sentence
    assert os.path.exists(f"{place.database}.damaged-1")
    damage(place.database)
    assert len(place.ids()) == 201
    assert os.path.exists(f"{place.database}.damaged-2")
    os.utime(f"{place.database}.damaged-1", (1, 1))
    retention.forget(place.directory, DAY, 1 << 30)
    assert not os.path.exists(f"{place.database}.damaged-1")
    assert os.path.exists(f"{place.database}.damaged-2")


def test_an_emptied_database_is_filled_again(place):
    place.record("a1")
    place.ids()
    empty_it(place.database)
    assert place.ids() == ["a1"]


def test_a_newer_database_is_refused_and_recording_goes_on(place):
    place.record("a1")
    place.ids()
    connection = sqlite3.connect(place.database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="newer agenthub"):
        place.ids()
    recording = place.recorder.begin("b2", {"owner": "", "agent": "a", "method": "m"}, {})
    assert recording.finish({"result": 1}) == {"result": 1}
    connection = sqlite3.connect(place.database)
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert place.ids() == ["b2", "a1"]


def test_a_newer_line_is_refused(place):
    place.record("a1")
    with open(place.journal.segments()[0], "ab") as file:
        file.write(b'{"format":99,"run":"b","something":"else"}\n')
    with pytest.raises(StoreError, match="newer agenthub"):
        place.ids()


def test_a_locked_database_is_read_as_it_is(place, monkeypatch):
    monkeypatch.setattr("agenthub.observability.database._PATIENCE", 0.05)
    place.record("a1")
    place.ids()
    place.record("a2")
    holder = sqlite3.connect(place.database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert place.ids() == ["a1"]
    assert place.said == ["the history cannot be brought up to date: database is locked"]
    holder.close()
    assert place.ids() == ["a2", "a1"]


def test_a_directory_in_place_of_the_database(place):
    place.record("a1")
    os.mkdir(place.database)
    with pytest.raises(StoreError, match="history"):
        place.ids()


# retention ---------------------------------------------------------------------------------------------------------


def test_what_is_old_is_forgotten(place, dead, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT", 2000)
    now = time.time()
    for number in range(10):
        place.record(f"a{number}", at=now - 40 * DAY)
    place.record("running", at=now - 40 * DAY, end=False)
    place.record("new")
    place.ids()
    for path in place.journal.segments():
        os.utime(path, (now - 40 * DAY, now - 40 * DAY))
    os.mkdir(os.path.join(place.directory, "logs"))
    for name, age in (("a1.log", 40), ("new.log", 0)):
        with open(os.path.join(place.directory, "logs", name), "w"):
            pass
        os.utime(os.path.join(place.directory, "logs", name), (now - age * DAY,) * 2)
    retention.forget(place.directory, 30 * DAY, 1 << 30)
    assert place.ids() == ["new", "running"]
    assert len(place.journal.segments()) == 1
    assert os.listdir(os.path.join(place.directory, "logs")) == ["new.log"]
    place.record("newer")
    assert place.ids() == ["newer", "new", "running"]


def test_what_there_is_no_room_for_is_forgotten_oldest_first(place, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT", 50_000)
    for number in range(600):
        place.record(f"a{number:03d}", directory="x" * 1000)
    place.ids()
    before = os.path.getsize(place.database)
    retention.forget(place.directory, 30 * DAY, 400_000)
    left = place.ids()
    assert 50 < len(left) < 400
    assert left == [f"a{number:03d}" for number in reversed(range(600 - len(left), 600))]
    assert os.path.getsize(place.database) < before / 2
    assert sum(map(os.path.getsize, place.journal.segments())) < 100_000 + 60_000


def test_a_segment_that_was_not_taken_in_is_kept(place, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT", 500)
    monkeypatch.setattr(History, "refresh", lambda self: None)
    for number in range(10):
        place.record(f"a{number}", at=1.0)
    retention.forget(place.directory, 1.0, 0)
    monkeypatch.undo()
    assert len(place.ids()) == 10


def test_a_sweep_is_due_once_an_hour_and_never_the_first_time(place):
    place.record("a1")
    assert not is_due(place.directory)
    assert not is_due(place.directory)
    stamp = os.path.join(place.directory, ".swept")
    for age in (-7200, 7200):  # a clock that was set back is no reason to wait for ever
        os.utime(stamp, (time.time() - age,) * 2)
        assert is_due(place.directory)
        assert not is_due(place.directory)


def test_the_sweep_runs_by_itself(tmp_path):
    place = Place(tmp_path / "home" / "history")
    place.record("a1", at=1.0)
    sweep_sometimes(place.directory)
    assert not os.path.exists(place.database)
    os.utime(os.path.join(place.directory, ".swept"), (1, 1))
    sweep_sometimes(place.directory)
    deadline = time.monotonic() + 30
    while not os.path.exists(place.database) or place.statuses():
        assert time.monotonic() < deadline
        time.sleep(0.02)
