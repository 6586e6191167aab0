"""The command as a process: signals, pipes that close, terminals, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support import (
    COMMAND,
    PATIENCE,
    assert_refused,
    in_terminal,
    install_into,
    invoke,
    marked,
    method,
    start,
    wait_until,
    write_agent,
)

CODE = r"""
import os, signal, sys, time


class Patient:
    def wait(self, marker, ignore=False):
        if ignore:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
        with open(marker, "a") as file:
            print("here", file=file, flush=True)
        while True:
            time.sleep(60)

    def lines(self, count):
        return "\n".join(["a line of the result"] * count)

    def slowly(self, place):
        import agenthub_agent
        part = 0
        while not os.listdir(place):
            part += 1
            agenthub_agent.progress(None, "part %d" % part)
            time.sleep(0.1)
        return "done"

    def loud(self):
        print("a \x1b]0;title\x07 line of log")
        return "\x1b[31mred\x1b[0m"
"""
METHODS = {
    "wait": method(marker={"type": "file", "access": "write", "required": True}, ignore="boolean"),
    "lines": method(count={"type": "integer", "required": True}),
    "slowly": method(place={"type": "directory", "required": True}),
    "loud": method(),
}


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("patient")
    drip = """
        import sys
        sys.stdout.write('{"result": "')
        for _ in range(300):
            sys.stdout.write("x" * 1_000_000)
        print('"}')
    """
    patient = write_agent(place / "patient", CODE, METHODS, entrypoint="agent:Patient")
    return install_into(place / "home", patient, write_agent(place / "dripper", drip))


@pytest.fixture
def environment(shared):
    return {**os.environ, "AGENTHUB_HOME": shared}


SANDBOXES = [["--sandbox", "auto"], ["--sandbox", "off", "--yes"]]


@pytest.fixture
def waiting(environment, tmp_path):
    """Starts a run that waits with a child; returns once both are there. None of their processes may be left."""
    marker = tmp_path / "marker"

    def begin(*words, options=()):
        mark = ("--env", f"AGENT_MARK={tmp_path}")
        process = start("run", *mark, *options, "patient", "wait", "--marker", marker, *words, env=environment)
        wait_until(lambda: marker.exists() and marker.read_text().count("here") == 2, process)
        assert len(marked(tmp_path)) >= 2
        return process

    yield begin
    for pid in marked(tmp_path):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [[], ["--ignore"]])
@pytest.mark.parametrize("options", SANDBOXES)
def test_a_signal_stops_the_whole_tree_and_then_the_command(waiting, tmp_path, number, words, options):
    process = waiting(*words, options=options)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == b""
    assert "patient was stopped" in err.decode()
    assert len(err.splitlines()) <= 4
    assert marked(tmp_path) == []


def test_a_signal_has_an_envelope(waiting):
    process = waiting(options=["--json"])
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    envelope = json.loads(out)
    assert (envelope["error_type"], envelope["exit_code"]) == ("InterruptedError", 130)


@pytest.mark.parametrize("options", SANDBOXES)
def test_the_agent_does_not_survive_the_commands_own_death(waiting, tmp_path, options):
    process = waiting(options=options)
    process.kill()
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: not marked(tmp_path), None, "the agent ends")


def test_ctrl_c_during_an_installation_leaves_nothing(tmp_path):
    home = tmp_path / "home"
    code = f"import time; open('{tmp_path}/begun', 'w'); time.sleep(60)"
    slow = write_agent(
        tmp_path / "slow",
        "",
        installation={"commands": [f'{sys.executable} -c "{code}"']},
    )
    process = start("install", "--yes", "--allow-commands", slow, env={**os.environ, "AGENTHUB_HOME": str(home)})
    wait_until(lambda: (tmp_path / "begun").exists(), process, "the command starts")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "Traceback" not in err.decode()
    listed = invoke("list", "--json", env={**os.environ, "AGENTHUB_HOME": str(home)})
    assert listed.json["agents"] == []
    assert os.listdir(home / "staging") == []


def test_a_reader_that_goes_away_is_no_error(environment):
    process = start("run", "patient", "lines", "--count", "200000", env=environment)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE) in (0, 141)
    assert err == b""


@pytest.mark.parametrize("words", [["list"], ["info", "patient"], ["run", "patient", "lines", "--count", "1"]])
def test_stdout_that_is_closed(environment, words):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *words], env=environment, capture_output=True, timeout=PATIENCE
    )
    assert b"Traceback" not in done.stderr


def test_stdout_that_is_full(environment):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "list"], env=environment, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode not in (0, 125)
    assert b"Traceback" not in done.stderr
    assert b"No space left" in done.stderr


def test_a_locale_without_unicode(environment):
    plain = {**environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = invoke("run", "patient", "lines", "--count", "1", env=plain)
    assert (done.code, done.out) == (0, "a line of the result\n")
    assert invoke("info", "patient", env=plain).code == 0
    done = invoke("run", "patient", "nope", env=plain)
    assert done.code == 3
    assert b"Traceback" not in done.stderr


def test_a_working_directory_that_was_removed(environment, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, str(gone), *COMMAND, "run", "patient", "lines", "--count", "1"],
        env=environment,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, b"a line of the result\n"), done.stderr


# terminals ---------------------------------------------------------------------------------------------------------


def test_whoever_pipes_sees_no_colour_and_no_spinner(environment):
    for words in (["list"], ["info", "patient"], ["config"], ["run", "patient", "nope"]):
        done = invoke(*words, env=environment)
        assert b"\x1b" not in done.stdout + done.stderr


def test_a_terminal_gets_colour_unless_it_does_not_want_any(environment):
    assert "\x1b[" in in_terminal("info", "patient", env=environment).err
    assert "\x1b[" not in in_terminal("info", "patient", env={**environment, "NO_COLOR": "1"}).err
    assert "\x1b[" not in in_terminal("info", "patient", "--color=never", env=environment).err
    assert "\x1b[" in invoke("info", "patient", env={**environment, "FORCE_COLOR": "1"}).out
    assert "\x1b[" in invoke("info", "patient", "--color", "always", env=environment).out


def test_a_spinner_shows_what_takes_over_two_seconds(environment, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    words = ("run", "patient", "slowly", "--place", place)
    began = time.monotonic()
    shown = in_terminal(*words, replies=[("part ", (place / "seen").touch)], env={**environment, "TERM": "xterm"})
    assert time.monotonic() - began > 2
    assert shown.code == 0
    assert "patient slowly" in shown.err


def test_an_agent_cannot_act_on_the_terminal(environment):
    shown = in_terminal("run", "patient", "loud", env=environment)
    assert shown.code == 0
    assert "\x1b" not in shown.err
    assert "\x07" not in shown.err
    piped = invoke("run", "patient", "loud", env=environment)
    assert piped.out == "\x1b[31mred\x1b[0m\n", "what a program reads is not changed"


def test_ci_is_never_asked(tmp_path):
    agent = write_agent(tmp_path / "hello", "def go():\n    return 1", entrypoint="agent")
    env = {**os.environ, "CI": "true"}
    shown = in_terminal("install", agent, env=env)
    assert shown.code == 5
    assert "--yes" in shown.err
    assert "[y/N]" not in shown.err


def test_lines_fit_80_columns(environment):
    for words in (["info", "patient"], ["list"]):
        lines = invoke(*words, env=environment).out.splitlines()
        texts = [line for line in lines if not line.startswith("source") and "agenthub run" not in line]
        assert max(map(len, texts)) <= 80


# what it costs -----------------------------------------------------------------------------------------------------

_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=open("/dev/zero", "rb"), capture_output=True)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_an_endless_input_is_refused_in_bounded_memory(environment):
    words = [*COMMAND, "run", "patient", "lines", "-"]
    env = {**environment, "AGENTHUB_RESULT": "8MB"}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _PEAK, *words], env=env, capture_output=True, timeout=PATIENCE)
    code, kilobytes = map(int, done.stdout.split())
    assert code == 2
    assert kilobytes < 60_000
    assert time.monotonic() - began < 10


def test_an_endless_result_is_refused_in_bounded_memory(environment):
    words = [*COMMAND, "run", "dripper", "go"]
    env = {**environment, "AGENTHUB_RESULT": "8MB"}
    done = subprocess.run([sys.executable, "-c", _PEAK, *words], env=env, capture_output=True, timeout=PATIENCE)
    code, kilobytes = map(int, done.stdout.split())
    assert code == 1
    assert kilobytes < 80_000


def test_help_and_version_are_results():
    for words in (["--help"], ["help"], ["--version"], ["install", "--help"], ["run", "--help"]):
        done = invoke(*words)
        assert done.code == 0
        assert done.out
        assert done.err == ""
    assert invoke().code == 2


def test_a_bug_of_ours_says_so_and_is_written_down(environment, tmp_path):
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import agenthub.packages.store as s\n"
        "def fail(self): raise ZeroDivisionError('on purpose')\n"
        "s.Store.list_agents = fail\n"
    )
    env = {**environment, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}", "AGENTHUB_HOME": str(tmp_path / "home")}
    done = invoke("list", env=env)
    assert_refused(done, 125, "agenthub itself failed", "ZeroDivisionError: on purpose", "report")
    [log] = os.listdir(tmp_path / "home" / "logs")
    assert "Traceback" in (tmp_path / "home" / "logs" / log).read_text()
    assert "Traceback" in invoke("list", "-v", env=env).err
