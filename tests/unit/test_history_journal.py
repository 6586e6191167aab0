"""The journal and the recorder: what is written of a run, by many at once, and what a run notices of that: nothing."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys

import pytest

from agenthub.errors import ExecutionError
from agenthub.observability import journal as journal_module
from agenthub.observability.journal import Journal, remove_segment
from agenthub.observability.liveness import is_alive, this_process
from agenthub.observability.log_reader import LogReader
from agenthub.observability.recorder import KEPT, Recorder, digest
from agenthub.observability.run_log import LARGEST, RunLog, log_path

FACTS = {"owner": "local", "agent": "probe", "version": "1.0", "method": "go"}


@pytest.fixture
def journal(tmp_path):
    return Journal(str(tmp_path / "history" / "journal"))


def records(journal):
    """Every line that is JSON, in order."""
    found = []
    for path in journal.segments():
        with open(path, "rb") as file:
            for line in file.read().split(b"\n"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    assert line == b"" or not line.endswith(b"}")
    return found


@pytest.fixture
def recorder(tmp_path):
    return Recorder(str(tmp_path / "history"))


def ended(recorder, inputs=None, result=1, lines=(), **options):
    """The record of a run's start and the record of its end."""
    recording = recorder.begin("ab12", FACTS, {} if inputs is None else inputs, **options)
    on_log = recording.listening(None)
    for line in lines:
        on_log(line, "INFO")
    envelope = recording.finish({"result": result, "exit_code": 0})
    assert envelope == {"result": result, "exit_code": 0}
    start, end = records(recorder.journal)[-2:]
    return start["start"], end["end"]


def test_lines_keep_their_order_and_belong_to_the_owner_alone(journal):
    for number in range(5):
        journal.append({"run": number})
    assert [record["run"] for record in records(journal)] == [0, 1, 2, 3, 4]
    (segment,) = journal.segments()
    assert stat.S_IMODE(os.stat(segment).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(journal.directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.dirname(journal.directory)).st_mode) == 0o700


def test_a_full_segment_is_followed_by_the_next_number(journal, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT", 200)
    for number in range(20):
        journal.append({"run": number})
    assert [os.path.basename(path) for path in journal.segments()][:2] == ["00000001.jsonl", "00000002.jsonl"]
    assert all(os.stat(path).st_size < 300 for path in journal.segments())
    assert [record["run"] for record in records(journal)] == list(range(20))


def test_what_was_cut_short_spoils_no_other_line(journal):
    journal.append({"run": 1})
    with open(journal.segments()[0], "ab") as file:
        file.write(b'\n{"run":"cut sho')
    journal.append({"run": 2})
    assert [record["run"] for record in records(journal)] == [1, 2]


def test_a_segment_is_not_removed_under_a_writer(journal):
    journal.append({"run": 1})
    (segment,) = journal.segments()
    with open(segment, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_SH)
        assert not remove_segment(segment)
    assert remove_segment(segment)
    assert journal.segments() == []


def test_a_writer_does_not_wait_for_whoever_removes_a_segment(journal):
    journal.append({"run": 1})
    (segment,) = journal.segments()
    with open(segment, "rb") as remover:
        fcntl.flock(remover, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="removed all the time"):
            journal.append({"run": 2})


def test_other_files_in_the_journal_are_left_alone(journal):
    journal.append({"run": 1})
    for name in ("notes.jsonl", "00000009.txt"):
        with open(os.path.join(journal.directory, name), "w"):
            pass
    journal.append({"run": 2})
    assert len(journal.segments()) == 1


def test_many_processes_write_at_once(journal, monkeypatch):
    """Through several segments, so that they also begin new ones at once."""
    code = (
        "import sys\nfrom agenthub.observability import journal\njournal.SEGMENT = 20000\n"
        "one = journal.Journal(sys.argv[1])\n"
        "for number in range(100): one.append({'run': sys.argv[2], 'number': number, 'text': 'x' * (number * 7 % 400)})"
    )
    command = [sys.executable, "-c", code, journal.directory]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(6)]
    assert [process.wait(60) for process in processes] == [0] * 6
    found = records(journal)
    assert len(journal.segments()) > 3
    for number in range(6):
        assert [one["number"] for one in found if one["run"] == str(number)] == list(range(100))
    assert len(found) == 600


# what is recorded ---------------------------------------------------------------------------------------------------


def test_a_start_says_who_and_what(recorder):
    start, end = ended(recorder, {"text": "hi"}, result={"a": 1})
    assert start["inputs"] == {"value": {"text": "hi"}}
    assert start["agent"] == "probe"
    assert is_alive(tuple(start["supervisor"]))
    assert end["result"] == {"value": {"a": 1}}
    assert end["exit_code"] == 0
    assert end["at"] >= start["at"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x" * (KEPT + 1), "too large"),
        ("\u1234" * (KEPT // 4), "too large"),  # written out it is
        ([0] * KEPT, "too large"),
        ({"a": {"b": ["x" * 1000] * 100}}, "too large"),
        ({"a": {1, 2}}, "not JSON"),
        (10**5000, "not JSON"),
    ],
    ids=["text", "escapes", "list", "nested", "set", "number"],
)
def test_what_is_not_kept_says_why(recorder, value, reason):
    start, end = ended(recorder, {"value": value}, result=value)
    assert start["inputs"] == end["result"] == {"lost": reason}


def test_what_is_nested_too_deep(recorder):
    value = []
    for _ in range(100_000):
        value = [value]
    recording = recorder.begin("ab12", FACTS, {"value": value})
    recording.finish({"result": 1})
    start, _ = records(recorder.journal)
    assert "lost" in start["start"]["inputs"]
    while value:  # in pieces: the interpreter would take it down recursively
        value = value[0]


def test_what_is_just_small_enough_is_kept(recorder):
    start, _ = ended(recorder, {"text": "x" * (KEPT - 100)})
    assert len(start["inputs"]["value"]["text"]) == KEPT - 100


def test_digests_tell_values_apart_and_not_orders(tmp_path):
    recorder = Recorder(str(tmp_path / "history"), full=False)
    start, end = ended(recorder, {"a": 1, "b": 2}, result="secret text")
    assert start["inputs"] == {"digest": digest({"b": 2, "a": 1})}
    assert end["result"] == {"digest": digest("secret text")}
    assert digest("secret text") != digest("secret texT")
    with open(recorder.journal.segments()[0]) as file:
        assert "secret text" not in file.read()


def test_inputs_in_which_something_was_masked_are_not_said_to_be_the_inputs(recorder):
    start, _ = ended(recorder, {"key": "[KEY]"}, hidden=True)
    assert start["inputs"]["lost"]


def test_text_that_is_no_text(recorder):
    start, end = ended(recorder, {"text": "\ud800"}, result="\udcff")
    assert (start["inputs"]["value"]["text"], end["result"]["value"]) == ("\ud800", "\udcff")


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [(ExecutionError("no KEY"), 1, "ExecutionError"), (KeyboardInterrupt(), 130, "InterruptedError")],
)
def test_what_is_raised_is_recorded_masked_and_raised(recorder, error, code, kind):
    mask = lambda text: text.replace("KEY", "[K]")  # noqa: E731
    with pytest.raises(type(error)), recorder.begin("ab12", FACTS, {}, mask=mask):
        raise error
    end = records(recorder.journal)[-1]["end"]
    assert (end["exit_code"], end["error_type"]) == (code, kind)
    assert "KEY" not in end["error"].replace("[K]", "")


def test_off_writes_nothing(tmp_path):
    recorder = Recorder(str(tmp_path / "history"), enabled=False)
    recording = recorder.begin("ab12", FACTS, {"a": 1})
    listener = print
    assert recording.listening(listener) is listener
    assert recording.listening(None) is None
    with recording:
        assert recording.finish({"result": 1}) == {"result": 1}
    assert not (tmp_path / "history").exists()


def test_where_nothing_can_be_written_there_is_one_warning(tmp_path):
    (tmp_path / "history").write_text("a file in its place")
    recorder = Recorder(str(tmp_path / "history"))
    warnings = []
    for _ in range(3):
        recording = recorder.begin("ab12", FACTS, {})
        recording.listening(None)("a line", "INFO")
        warnings += recording.finish({"result": 1, "warnings": []})["warnings"]
    assert len(warnings) == 1
    assert "not in the history" in warnings[0]


def test_a_start_that_could_not_be_written_is_told_at_the_end(tmp_path):
    (tmp_path / "history").write_text("a file in its place")
    recorder = Recorder(str(tmp_path / "history"))
    recording = recorder.begin("ab12", FACTS, {"a": 1})
    os.unlink(tmp_path / "history")
    recording.finish({"result": 1})
    (record,) = records(recorder.journal)
    assert record["start"]["inputs"] == {"value": {"a": 1}}
    assert record["end"]["result"] == {"value": 1}


# logs ---------------------------------------------------------------------------------------------------------------


def test_lines_can_be_read_while_they_come(tmp_path):
    log, reader = RunLog(str(tmp_path), "ab12"), LogReader(str(tmp_path), "ab12")
    log.write("one", "INFO")
    log.write("two\nand more", "ERROR")
    assert [(line.level, line.text) for line in reader.new_lines()] == [
        ("INFO", "one"),
        ("ERROR", "two"),
        ("ERROR", "and more"),
    ]
    assert list(reader.new_lines()) == []
    log.write("", "DEBUG")
    assert [line.text for line in reader.new_lines()] == [""]
    assert log.close() is None
    assert stat.S_IMODE(os.stat(log_path(str(tmp_path), "ab12")).st_mode) == 0o600


def test_a_half_written_line_waits_for_its_end(tmp_path):
    log, reader = RunLog(str(tmp_path), "ab12"), LogReader(str(tmp_path), "ab12")
    log.write("one", "INFO")
    with open(log_path(str(tmp_path), "ab12"), "ab") as file:
        file.write(b"1.0 INFO t")
        file.flush()
        assert [line.text for line in reader.new_lines()] == ["one"]
        file.write(b"wo\n")
    assert [line.text for line in reader.new_lines()] == ["two"]
    log.close()


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path):
    log, lines = RunLog(str(tmp_path), "ab12"), 50_000
    for number in range(lines):
        log.write(f"{number} of a line that is long enough", "INFO")
    log.close()
    size = os.path.getsize(log_path(str(tmp_path), "ab12"))
    assert LARGEST < size < LARGEST + (200 << 10)
    texts = [line.text for line in LogReader(str(tmp_path), "ab12").new_lines()]
    assert texts[0].startswith("0 of")
    assert texts[-1].startswith(f"{lines - 1} of")
    (gap,) = [number for number, text in enumerate(texts) if "left out" in text]
    left = int(texts[gap].split()[1])
    assert gap + left + (len(texts) - gap - 1) == lines


def test_a_log_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "logs").write_text("a file in its place")
    log = RunLog(str(tmp_path), "ab12")
    log.write("one", "INFO")
    assert isinstance(log.close(), OSError)


# liveness -----------------------------------------------------------------------------------------------------------


def test_a_process_that_ended_or_is_another_one_is_not_alive():
    pid, start, boot = this_process()
    assert is_alive((pid, start, boot))
    assert not is_alive((pid, start - 1, boot))
    assert not is_alive((pid, start, "another boot"))
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with open(f"/proc/{process.pid}/stat") as file:
        there = (process.pid, int(file.read().rpartition(")")[2].split()[19]), boot)
    assert is_alive(there)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(there)  # a zombie
    process.communicate()
    assert not is_alive(there)


def test_a_child_is_not_its_parent():
    here = this_process()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"same" if this_process() == here else b"other")
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == b"other"
