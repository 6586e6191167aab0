"""`agenthub runs`, `logs`, `rerun` and `stop`: every run leaves a record, and none is disturbed by that."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import threading
import time

import pytest

from agenthub.config import Settings
from agenthub.runtime.agent_runtime import AgentRuntime
from agenthub.runtime.processes.cancellation import StopPipe, is_listening, request_stop
from agenthub.runtime.runs.plan import RunOptions
from tests.integration.faults_support import tmpfs
from tests.support import COMMAND, assert_refused, install_into, invoke, method, start, wait_until, write_agent

VALUE = "sk-test-7Qe3Zr9Lw2Xc5Vb8Nm1K"
CODE = """
import os, time

def echo(text="", number=1):
    print("said", text)
    return {"text": text, "number": number}

def fail(text):
    raise ValueError(text)

def wait(place):
    print("here", flush=True)
    open(os.path.join(place, "here"), "w").close()
    while not os.path.exists(os.path.join(place, "go")):
        time.sleep(0.01)
    print("gone", flush=True)
    return "done"

def tell():
    print("the key is", os.environ["PROBE_KEY"])
    return {"key": os.environ["PROBE_KEY"]}

def chatter(lines):
    for number in range(lines):
        print("line", number)
    return lines
"""
METHODS = {
    "echo": method(text="string", number="integer"),
    "fail": method(text="string"),
    "wait": method(place={"type": "directory", "access": "write"}),
    "tell": method(),
    "chatter": method(lines="integer"),
}


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    place = tmp_path_factory.mktemp("recorded")
    secret = {"environment": {"secret": {"PROBE_KEY": "what opens it"}}}
    silent = {name: METHODS[name] for name in ("echo", "wait", "chatter", "fail")}
    probe = write_agent(place / "probe", CODE, silent, entrypoint="agent")
    keeper = write_agent(place / "keeper", CODE, METHODS, entrypoint="agent", **secret)
    return install_into(place / "home", probe, keeper)


@pytest.fixture
def home(installed, tmp_path, monkeypatch):
    """A store of the test's own, with the agents in it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return shutil.copytree(installed, tmp_path / "home", symlinks=True)


def listed(cli, *words):
    return cli.ok("runs", "--json", *words).json["runs"]


def show(cli, run):
    return cli.ok("runs", "show", "--json", run).json


class Running:
    """A run that has begun, and ends when the file `go` is in its directory."""

    def __init__(self, tmp_path, cli):
        self.place = tmp_path / f"place{time.monotonic_ns()}"
        self.place.mkdir()
        self.process = start("run", "--timeout", "60", "probe", "wait", "--place", self.place)
        wait_until((self.place / "here").exists, self.process)
        self.run_id = listed(cli, "--status", "running", "--limit", "1")[0]["run_id"]

    def finish(self):
        (self.place / "go").touch()
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def running(home, tmp_path, cli):
    begun = []

    def begin():
        begun.append(Running(tmp_path, cli))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.communicate()


# runs ----------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_record(home, cli):
    envelope = cli.ok("run", "--json", "probe", "echo", "--text", "hi").json
    (row,) = listed(cli)
    assert row["run_id"] == envelope["run_id"]
    assert row["agent"] == {"owner": "local", "name": "probe", "version": "1.0.0"}
    assert (row["method"], row["status"], row["exit_code"]) == ("echo", "ok", 0)
    assert row["execution_time"] == envelope["execution_time"]
    assert row["isolation"] == envelope["usage"]["isolation"]
    assert row["environment"].startswith("sha256:")
    assert row["started"] < row["ended"]
    shown = show(cli, row["run_id"])
    assert shown["inputs"] == {"value": {"text": "hi"}}
    assert shown["result"] == {"value": {"text": "hi", "number": 1}}
    assert shown["usage"] == envelope["usage"]
    assert shown["schema_version"] == 1
    assert {key: shown[key] for key in row} == row


def test_what_a_person_sees_has_80_columns(home, cli):
    cli.ok("run", "probe", "echo", "--text", "hi")
    assert cli("run", "probe", "fail", "--text", "it broke").code == 1
    failed, well = cli.ok("runs").out.splitlines()
    assert "failed" in failed
    assert failed.endswith("local/probe fail  ExecutionError")
    assert " ok " in well
    assert well.endswith("local/probe echo")
    assert max(map(len, (failed, well))) <= 80
    page = cli.ok("runs", "show", failed.split()[0][:6]).out
    for words in ("failed, exit code 1", "local/probe 1.0.0", '{"text": "it broke"}', "ValueError: it broke", "of CPU"):
        assert words in page


def test_filters(home, cli):
    cli.ok("run", "probe", "echo")
    cli("run", "probe", "fail", "--text", "x")
    cli.ok("run", "keeper", "echo", "--text", "a", "--env", f"PROBE_KEY={VALUE}")
    assert [row["method"] for row in listed(cli)] == ["echo", "fail", "echo"]
    assert [row["agent"]["name"] for row in listed(cli, "--method", "echo")] == ["keeper", "probe"]
    assert [row["method"] for row in listed(cli, "--agent", "local/probe", "--status", "ok")] == ["echo"]
    assert len(listed(cli, "--since", "1h")) == 3
    assert listed(cli, "--since", "0s") == []
    assert len(listed(cli, "--limit", "2")) == 2
    assert len(listed(cli, "--limit", "0")) == 3
    assert listed(cli, "--agent", "nobody") == []
    assert "no runs" in cli.ok("runs", "--agent", "nobody").err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["runs", "show"], "RUN"),
        (["runs", "show", "zz"], "there is no run 'zz'"),
        (["runs", "--since", "yesterday"], "--since"),
        (["runs", "--limit", "-1"], "--limit"),
        (["logs", "zz"], "there is no run"),
        (["logs", ""], "RUN is empty"),
        (["stop", ""], "RUN is empty"),
        (["stop", "zz"], "there is no run"),
        (["rerun", "zz"], "there is no run"),
    ],
)
def test_bad_words_are_refused(cli, words, says):
    assert_refused(cli(*words), 2, says)


def test_a_refused_call_is_no_run(home, cli):
    assert cli("run", "probe", "nothing").code == 3
    assert cli("run", "probe", "echo", "--number", "many").code == 2
    assert listed(cli) == []


def test_what_cannot_be_started_is_a_failed_run(home, cli):
    (version,) = (home / "versions" / "local" / "probe").iterdir()
    shutil.rmtree(version / "venv")
    assert cli("run", "probe", "echo").code == 4
    (row,) = listed(cli)
    assert (row["status"], row["error_type"], row["exit_code"]) == ("failed", "EnvironmentError", 4)


def test_a_run_from_python_is_recorded_too(home, cli):
    AgentRuntime().execute_agent("probe", "echo", {"text": "py"})
    (row,) = listed(cli)
    assert show(cli, row["run_id"])["inputs"] == {"value": {"text": "py"}}


def test_everything_belongs_to_the_owner_alone(home, cli):
    cli.ok("run", "probe", "echo", "--text", "hi")
    listed(cli)
    for folder, _, files in os.walk(home / "history"):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600, name


def test_following_shows_what_starts_and_what_ends(running, cli):
    cli.ok("run", "probe", "echo")
    with start("runs", "--follow", "--json") as follower:
        try:
            assert json.loads(follower.stdout.readline())["method"] == "echo"
            run = running()
            begun = json.loads(follower.stdout.readline())
            assert (begun["run_id"], begun["status"]) == (run.run_id, "running")
            run.finish()
            ended = json.loads(follower.stdout.readline())
            assert (ended["run_id"], ended["status"]) == (run.run_id, "ok")
        finally:
            follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
        assert follower.stderr.read() == b""


def test_following_heeds_the_filters(home, cli):
    cli("run", "probe", "fail", "--text", "first")
    with start("runs", "-f", "--json", "--status", "failed", "--agent", "probe") as follower:
        try:
            assert json.loads(follower.stdout.readline())["error"] == "ValueError: first"
            cli.ok("run", "probe", "echo")
            cli("run", "keeper", "fail", "--env", f"PROBE_KEY={VALUE}")
            cli("run", "probe", "fail", "--text", "second")
            assert json.loads(follower.stdout.readline())["error"] == "ValueError: second"
        finally:
            follower.kill()


def test_a_supervisor_that_was_killed_leaves_a_lost_run(running, cli, tmp_path):
    run = running()
    run.process.kill()
    run.process.wait()
    assert [row["status"] for row in listed(cli)] == ["lost"]
    assert "lost" in cli.ok("stop", run.run_id).err
    assert cli.ok("logs", run.run_id).out == "here\n"
    (base,) = tmp_path.glob("agenthub-*")
    assert list(base.glob("*.stop"))
    cli.ok("run", "probe", "echo")
    assert [path.name for path in base.iterdir()] == [".swept"]


# logs ----------------------------------------------------------------------------------------------------------------


def test_logs_are_what_the_agent_said(home, cli):
    cli.ok("run", "probe", "echo", "--text", "it")
    run = listed(cli)[0]["run_id"]
    assert cli.ok("logs", run).out == "said it\n"
    document = cli.ok("logs", "--json", run).json
    assert [(line["level"], line["text"]) for line in document["lines"]] == [("INFO", "said it")]
    assert document["run_id"] == run


def test_a_log_is_followed_while_the_run_goes_on_and_ends_with_it(running, cli):
    run = running()
    with start("logs", "-f", run.run_id[:8]) as follower:
        assert follower.stdout.readline() == b"here\n"
        assert run.process.poll() is None
        run.finish()
        assert follower.stdout.read() == b"gone\n"
        assert follower.wait(30) == 0
    assert cli.ok("logs", "-f", run.run_id).out == "here\ngone\n"


def test_a_run_that_said_nothing(home, cli):
    cli.ok("run", "probe", "chatter", "--lines", "0")
    finished = cli.ok("logs", listed(cli)[0]["run_id"])
    assert finished.out == ""
    assert "logged nothing" in finished.err


@pytest.mark.slow
def test_a_long_log_is_bounded(home, cli):
    cli.ok("-q", "run", "probe", "chatter", "--lines", "120000")
    run = listed(cli)[0]["run_id"]
    lines = cli.ok("logs", run).out.splitlines()
    assert (lines[0], lines[-1]) == ("line 0", "line 119999")
    assert 20_000 < len(lines) < 60_000
    assert (home / "history" / "logs" / f"{run}.log").stat().st_size < 1_300_000


# rerun ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_run_again(home, cli, tmp_path):
    first = cli.ok("run", "probe", "echo", "--text", "a 'quoted' text", "--number", "7")
    run = listed(cli)[0]["run_id"]
    again = cli.ok("rerun", run[:6])
    assert again.out == first.out
    assert len(listed(cli)) == 2
    envelope = cli.ok("rerun", "--json", "--timeout=5", run).json
    assert envelope["result"] == json.loads(first.out)
    assert envelope["agent"]["owner"] == "local"


def test_the_environments_digest_tells_versions_apart(home, cli, tmp_path):
    for _ in range(2):
        cli.ok("run", "probe", "echo")
    newer = write_agent(tmp_path / "newer" / "probe", CODE + "#", {"echo": METHODS["echo"]}, entrypoint="agent")
    install_into(home, "--force", newer)
    cli.ok("run", "probe", "echo")
    third, second, first = (row["environment"] for row in listed(cli))
    assert first == second != third


def test_options_of_a_rerun_are_those_of_a_run(home, cli):
    cli.ok("run", "keeper", "tell", "--env", f"PROBE_KEY={VALUE}")
    run = listed(cli)[0]["run_id"]
    assert cli("rerun", run).code == 2  # it needs its variable again: that is not kept
    assert cli.ok("rerun", "--env", f"PROBE_KEY={VALUE}", run).out == '{"key": "[PROBE_KEY]"}\n'
    assert cli.ok("rerun", "--env", f"PROBE_KEY={VALUE}", "--explain", "--json", run).json


def test_paths_stay_those_of_the_run(running, cli, tmp_path, monkeypatch):
    run = running()
    run.finish()
    monkeypatch.chdir("/")
    assert cli.ok("rerun", run.run_id).out == "done\n"


def test_another_version_is_not_the_same(home, cli, tmp_path):
    cli.ok("run", "probe", "echo")
    run = listed(cli)[0]["run_id"]
    code = CODE.replace("said", "told")
    newer = write_agent(
        tmp_path / "newer" / "probe", code, {"echo": METHODS["echo"]}, entrypoint="agent", version="2.0"
    )
    install_into(home, "--force", newer)
    assert "said" in cli.ok("rerun", run).err, "the one that was run is still there"
    cli.ok("gc", "--keep", 0)
    finished = cli("rerun", run)
    assert_refused(finished, 3, "local/probe 1.0.0", "no longer", "install it again")


def test_an_agent_that_is_not_installed_is_run_again_where_it_is(home, cli, tmp_path):
    path = write_agent(tmp_path / "loose", CODE, {"echo": METHODS["echo"]}, entrypoint="agent")
    cli.ok("run", "--yes", path, "echo", "--text", "x")
    row = listed(cli)[0]
    assert row["agent"] == {"owner": None, "name": "loose", "version": "1.0.0"}
    assert cli.ok("rerun", row["run_id"]).json == {"text": "x", "number": 1}
    write_agent(tmp_path / "loose", CODE, {"echo": METHODS["echo"]}, entrypoint="agent", version="1.1.0")
    assert_refused(cli("rerun", row["run_id"]), 3, "there is 1.1.0")


def test_what_was_not_kept_cannot_be_run_again(home, cli, monkeypatch):
    cli.ok("run", "probe", "echo", "-", stdin=json.dumps({"text": "x" * 100_000}))
    assert_refused(cli("rerun", listed(cli)[0]["run_id"]), 2, "too large")
    monkeypatch.setenv("AGENTHUB_HISTORY_VALUES", "digest")
    cli.ok("run", "probe", "echo", "--text", "x")
    assert_refused(cli("rerun", listed(cli)[0]["run_id"]), 2, "only their digest was kept")


# stop ----------------------------------------------------------------------------------------------------------------


def test_a_run_is_stopped(running, cli, tmp_path):
    run = running()
    assert f"stopped {run.run_id}" in cli.ok("stop", run.run_id[:6]).err
    _, err = run.process.communicate(timeout=30)
    assert run.process.returncode == 130
    assert "was stopped" in err.decode()
    (row,) = listed(cli)
    assert (row["status"], row["error_type"], row["exit_code"]) == ("failed", "InterruptedError", 130)
    assert cli.ok("stop", "--json", run.run_id).json["stopped"] is False
    assert [path.name for path in tmp_path.glob("agenthub-*/*")] == [".swept"]


def test_many_stop_one_run_at_once(running, cli):
    run = running()
    stopping = [start("stop", run.run_id) for _ in range(4)]
    assert [process.communicate(timeout=30) and process.returncode for process in stopping] == [0] * 4
    assert run.process.wait(30) == 130


def test_only_the_run_that_is_meant_is_stopped(running, cli):
    first, second = running(), running()
    assert cli.ok("stop", "--json", second.run_id).json == {
        "run_id": second.run_id,
        "stopped": True,
        "schema_version": 1,
    }
    assert first.finish()[:2] == (0, "done\n")


def test_a_run_inside_another_program_is_stopped_without_a_signal_to_that(home, cli, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    envelopes = []
    runtime = AgentRuntime(Settings({"timeout": "60"}))
    thread = threading.Thread(
        target=lambda: envelopes.append(runtime.execute_agent("probe", "wait", {"place": str(place)}))
    )
    thread.start()
    wait_until((place / "here").exists, None)
    done = invoke("stop", listed(cli)[0]["run_id"])
    thread.join(30)
    assert done.code == 0, done.err
    assert (envelopes[0]["error_type"], envelopes[0]["exit_code"]) == ("InterruptedError", 130)


def test_a_run_with_another_tmpdir_is_found_by_the_history(running, cli, tmp_path, monkeypatch):
    run = running()
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
    assert cli.ok("stop", "--json", run.run_id).json["stopped"] is True
    assert run.process.wait(30) == 130


def test_a_run_without_a_history_is_stopped_too(home, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HISTORY", "off")
    place = tmp_path / "place"
    place.mkdir()
    process = start("run", "--timeout", "60", "probe", "wait", "--place", place)
    wait_until((place / "here").exists, process)
    (pipe,) = tmp_path.glob("agenthub-*/*.stop")
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o600
    cli.ok("stop", pipe.stem[:5])
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not (home / "history").exists()


def test_a_stop_pipe_wakes_its_reader_and_nothing_else_does(tmp_path):
    path = str(tmp_path / "run.stop")
    assert not is_listening(path)
    assert not request_stop(path)
    with StopPipe(path) as pipe:
        assert is_listening(path)
        assert not pipe.cancelled  # looking is not asking
        assert request_stop(path)
        assert pipe.cancelled
        assert pipe.cancelled
        with StopPipe(path) as second:  # which is not its to remove
            assert not second
        assert is_listening(path)
    assert not os.path.exists(path)
    (tmp_path / "run.stop").write_text("no pipe")
    assert not request_stop(path)
    assert (tmp_path / "run.stop").read_text() == "no pipe"


# secrets and settings ------------------------------------------------------------------------------------------------


def everything(home):
    """All bytes of the history."""
    found = b""
    for folder, _, files in os.walk(home / "history"):
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                found += file.read()
    return found


def test_secrets_are_nowhere(home, cli):
    cli.ok("run", "keeper", "tell", "--env", f"PROBE_KEY={VALUE}")
    cli.ok("run", "keeper", "echo", "--text", f"Bearer {VALUE}", "--env", f"PROBE_KEY={VALUE}")
    assert cli("run", "keeper", "fail", "--text", f"no {VALUE}", "--env", f"PROBE_KEY={VALUE}").code == 1
    fail, echo, tell = (show(cli, row["run_id"]) for row in listed(cli))
    assert tell["result"] == {"value": {"key": "[PROBE_KEY]"}}
    assert tell["masked"] == ["PROBE_KEY"]
    assert "[PROBE_KEY]" in cli.ok("logs", tell["run_id"]).out
    assert echo["result"]["value"]["text"] == "Bearer [PROBE_KEY]"
    assert fail["error"] == "ValueError: no [PROBE_KEY]"
    assert_refused(cli("rerun", echo["run_id"]), 2, "secret")
    content = everything(home)
    assert VALUE.encode() not in content
    assert b"PROBE_KEY" in content


def test_inputs_with_a_secret_change_nothing_in_the_envelope(home, cli):
    words = ["run", "--json", "keeper", "chatter", '{"lines": 0}', "--env", f"PROBE_KEY={VALUE}"]
    assert "masked" not in cli.ok(*words).json


def test_digests_alone(home, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HISTORY_VALUES", "digest")
    for text in ("a telling text", "a telling text", "another"):
        cli.ok("run", "probe", "echo", "--text", text)
    rows = [show(cli, row["run_id"]) for row in listed(cli)]
    assert rows[1]["inputs"] == rows[2]["inputs"] != rows[0]["inputs"]
    assert list(rows[0]["result"]) == ["digest"]
    for path in (home / "history" / "journal").iterdir():
        assert b"telling" not in path.read_bytes()


def test_off_is_off(home, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HISTORY", "off")
    cli.ok("run", "probe", "echo")
    assert listed(cli) == []
    assert not (home / "history").exists()


def test_a_project_may_keep_less_and_not_touch_the_rest(home, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agenthub.toml").write_text('history_values = "digest"')
    cli.ok("run", "probe", "echo")
    assert "digest" in show(cli, listed(cli)[0]["run_id"])["inputs"]
    for line in ("history = false", 'history_values = "full"', "history_age = 1", 'history_size = "1MB"'):
        (tmp_path / "agenthub.toml").write_text(line)
        assert_refused(cli("run", "probe", "echo"), 2, line.partition(" ")[0])


@pytest.mark.parametrize("words", [["runs"], ["run", "probe", "echo"]])
def test_old_runs_are_forgotten_after_a_look_and_after_a_run(home, cli, monkeypatch, words):
    cli.ok("run", "probe", "echo", "--text", "first")
    (row,) = listed(cli)
    os.utime(home / "history" / ".swept", (1, 1))
    monkeypatch.setenv("AGENTHUB_HISTORY_AGE", "0s")
    cli.ok(*words)
    wait_until(lambda: row not in listed(cli), None, "it is forgotten")


# faults --------------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_the_record_and_not_the_run(home, cli, tmp_path):
    with tmpfs(tmp_path / "small", "size=1m") as small:
        os.symlink(small, home / "history")
        cli.ok("run", "probe", "echo")
        with open(small / "ballast", "wb") as ballast:
            fill(ballast)
        finished = cli.ok("run", "probe", "echo", "--text", "hi")
        assert finished.json == {"text": "hi", "number": 1}
        assert finished.err.count("warning:") == 1
        assert "No space left" in finished.err
        os.unlink(small / "ballast")
        cli.ok("run", "probe", "echo")
        assert [row["status"] for row in listed(cli)].count("ok") >= 2


def fill(file):
    try:
        while True:
            os.write(file.fileno(), b"x" * 512)
    except OSError:
        return


def test_a_home_that_cannot_be_written(home, cli, tmp_path):
    cli.ok("run", "probe", "echo", "--text", "before")
    listed(cli)
    with tmpfs(tmp_path / "place", "size=1m") as place:
        shutil.copytree(home / "history", place / "history")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        shutil.rmtree(home / "history")
        os.symlink(place / "history", home / "history")
        finished = cli.ok("run", "probe", "echo", "--text", "hi")
        assert finished.json["text"] == "hi"
        assert finished.err.count("warning:") == 1
        assert "Read-only file system" in finished.err
        looked = cli.ok("runs", "--json")
        assert len(looked.json["runs"]) == 1
        assert "cannot be brought up to date" in looked.err


def test_a_damaged_database_is_set_aside_and_nothing_is_lost(home, cli):
    cli.ok("run", "probe", "echo")
    listed(cli)
    (home / "history" / "history.db").write_bytes(b"no database at all, but some text" * 100)
    cli.ok("run", "probe", "echo")
    finished = cli.ok("runs", "--json")
    assert len(finished.json["runs"]) == 2
    assert "history.db.damaged-1" in finished.err
    assert (home / "history" / "history.db.damaged-1").read_bytes().startswith(b"no database")
    assert cli.ok("runs").err == ""


def test_a_newer_database_is_refused_by_readers_alone(home, cli):
    cli.ok("run", "probe", "echo")
    listed(cli)
    connection = sqlite3.connect(home / "history" / "history.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert cli.ok("run", "probe", "echo").err == "said \n"
    for words in (["runs"], ["logs", "ab"], ["rerun", "ab"], ["stop", "ab"]):
        assert_refused(cli(*words), 4, "newer agenthub", "upgrade")


def test_a_locked_database_does_not_hold_a_run_up(home, cli):
    cli.ok("run", "probe", "echo")
    listed(cli)
    holder = sqlite3.connect(home / "history" / "history.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert cli.ok("run", "probe", "echo").err == "said \n"
    holder.close()
    assert len(listed(cli)) == 2


def test_a_clock_that_is_set_back_does_not_change_the_order(home, cli, monkeypatch):
    real = time.time
    for number, shift in enumerate((0, -86400, 3600, -7 * 86400)):
        with monkeypatch.context() as patch:
            patch.setattr("agenthub.observability.recorder.time.time", lambda shift=shift: real() + shift)
            cli.ok("run", "probe", "echo", "--number", number)
    rows = [show(cli, row["run_id"]) for row in listed(cli)]
    assert [row["inputs"]["value"]["number"] for row in rows] == [3, 2, 1, 0]


def test_many_commands_at_once_leave_a_row_each(home, cli):
    code = "for n in 1 2 3 4 5; do " + " ".join(COMMAND) + " -q run probe echo --number $n >/dev/null || exit 1; done"
    processes = [subprocess.Popen(["sh", "-c", code]) for _ in range(4)]
    for _ in range(3):
        listed(cli)
    assert [process.wait(60) for process in processes] == [0] * 4
    rows = listed(cli, "--limit", "0")
    assert len({row["run_id"] for row in rows}) == 20
    assert {row["status"] for row in rows} == {"ok"}


def test_ids_are_completed(running, cli):
    cli.ok("run", "probe", "echo")
    run = running()
    ids = cli.ok("complete", "logs", "").out.split()
    assert len(ids) == 2
    assert cli.ok("complete", "stop", run.run_id[:3]).out.split() == [run.run_id]
    assert set(cli.ok("complete", "rerun", "").out.split()) == set(ids)
    assert cli.ok("complete", "runs", "show", run.run_id[:4]).out.split() == [run.run_id]
    assert cli.ok("complete", "runs", "--st").out.split() == ["--status"]


def test_what_listeners_hear_is_what_is_kept(home, cli):
    heard = []
    options = RunOptions(on_log=lambda line, level: heard.append(line))
    AgentRuntime().execute_agent("probe", "chatter", {"lines": 50}, options)
    assert cli.ok("logs", listed(cli)[0]["run_id"]).out.splitlines() == heard


@pytest.mark.slow
def test_doctor_looks_at_the_history(home, cli):
    def found(*words):
        checks = cli("doctor", "--json", *words).json["checks"]
        return [(check["state"], check["message"]) for check in checks if check["topic"] == "history"]

    assert found() == []
    cli.ok("run", "probe", "echo")
    assert found() == [("ok", str(home / "history"))]
    (home / "history" / "history.db").write_bytes(b"no database at all, but some text" * 100)
    ((state, message),) = found("--fix")
    assert state == "warning"
    assert "history.db.damaged-1" in message
    assert found() == [("ok", str(home / "history"))]
