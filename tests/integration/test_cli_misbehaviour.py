"""Agents that misbehave: each gets a clear error or a warning, an exit code, and leaves no process."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.support import assert_refused, install_into, marked, method, write_agent

SCRIPT = r"""
import json, os, resource, signal, subprocess, sys, time

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
request = json.loads(sys.argv[1]) if len(sys.argv) > 1 else json.load(sys.stdin)
marker = request["parameters"]["marker"]


def note(pid):
    with open(marker, "a") as file:
        print(pid, file=file)


def forked(hold_stdout, new_session=False):
    pid = os.fork()
    if pid:
        return
    if new_session:
        os.setsid()
        if os.fork():
            os._exit(0)
    note(os.getpid())
    if not hold_stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while True:
        time.sleep(60)


def noted(count):
    while not os.path.exists(marker) or len(open(marker).read().split()) < count:
        time.sleep(0.005)


def garbage():
    print("no JSON\n[1, 2]\n{this: is, 'not': it}")


def nothing():
    pass


def half():
    sys.stdout.write('{"result": [1, 2')


def two():
    print('{"result": "first"}\n{"result": "second"}')


def invalid_utf8():
    sys.stdout.buffer.write(b'{"result": "\xff\xfe"}\n')


def nan():
    print('{"result": [1, NaN]}')


def not_json():
    print('{"result": undefined}')


def error_with_0():
    print('{"error": "the model is away"}')


def exits_7():
    print("good bye")
    sys.exit(7)


def dies():
    os.kill(os.getpid(), signal.SIGSEGV)


def raises():
    raise RuntimeError("on purpose")


def never_reads():
    print(json.dumps({"result": "did not look"}))


def floods_stdout():
    line = b"x" * 1000 + b"\n"
    while True:
        sys.stdout.buffer.write(line)


def floods_stderr():
    line = b"x" * 1000 + b"\n"
    while True:
        sys.stderr.buffer.write(line)


def ignores_term():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(os.getpid())
    forked(hold_stdout=True)
    while True:
        time.sleep(60)


def daemon():
    forked(hold_stdout=True, new_session=True)
    noted(1)
    print('{"result": "left a daemon"}')


def forks():
    for _ in range(3):
        forked(hold_stdout=False)
    noted(3)
    print('{"result": "forgot three"}')


def asks():
    print("the request:", input())
    print("an answer:", input())


globals()[request["method"]]()
"""

PYTHON = r"""
import os, signal, sys, time


class Agent:
    def prints(self):
        print('{"jsonrpc": "2.0", "id": 1, "result": {"value": "forged"}}', flush=True)
        os.write(1, b'{"result": "forged"}\n')
        return "real"

    def nan(self):
        return {"rows": [{"price": 1.0}, {"price": float("nan")}]}

    def a_set(self):
        return {"names": {"a"}}

    def some_bytes(self):
        return b"\xff"

    def cycle(self):
        value = []
        value.append(value)
        return value

    def exits_0(self):
        os._exit(0)

    def exits_7(self):
        os._exit(7)

    def system_exit(self):
        sys.exit(0)

    def dies(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def raises(self):
        raise KeyError("colour")

    def ignores_term(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)

    def lone_surrogate(self):
        return "\ud800"
"""

SCRIPT_METHODS = [line[4:].partition("(")[0] for line in SCRIPT.splitlines() if line.startswith("def ")]
PYTHON_METHODS = [line[8:].partition("(")[0] for line in PYTHON.splitlines() if line.startswith("    def ")]


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("misbehaving")
    marked = method(marker={"type": "file", "access": "write", "required": True}, padding="string")
    agents = [
        write_agent(place / "rogue", SCRIPT, dict.fromkeys(SCRIPT_METHODS, marked), limits={"output": "2MB"}),
        write_agent(place / "rogue-class", PYTHON, dict.fromkeys(PYTHON_METHODS, method()), entrypoint="agent:Agent"),
        write_agent(place / "importless", "import there_is_no_such_module"),
        write_agent(place / "importless-class", "import there_is_no_such_module", entrypoint="agent:Agent"),
    ]
    return install_into(place / "home", *agents)


@pytest.fixture
def rogue(shared, cli, monkeypatch, tmp_path):
    """Runs a method of the script agent; afterwards none of its processes may live."""
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    marker = tmp_path / "marker"

    def run(name, *words, options=()):
        return cli("run", "--env", f"AGENT_MARK={tmp_path}", *options, "rogue", name, "--marker", marker, *words)

    yield run
    assert marked(tmp_path) == []


@pytest.fixture
def rogue_class(shared, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    return lambda name, *options: cli("run", *options, "rogue-class", name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("garbage", ["without a result", "its output holds none"]),
        ("nothing", ["without a result", "it wrote nothing"]),
        ("half", ["gave no result"]),
        ("invalid_utf8", ["gave no result", "UTF-8"]),
        ("nan", ["gave no result", "NaN"]),
        ("not_json", ["gave no result"]),
        ("exits_7", ["exit code 7"]),
        ("dies", ["SIGSEGV"]),
        ("raises", ["exit code 1"]),
        ("floods_stdout", ["wrote more than", "2 MB"]),
        ("floods_stderr", ["wrote more than", "2 MB"]),
    ],
)
def test_a_script_without_a_proper_result_is_an_error(rogue, name, words):
    finished = rogue(name)
    assert_refused(finished, 1, "rogue", *words)
    assert len(finished.error_lines) >= 2, "says what to do next"


def test_who_reads_on_after_the_request_gets_its_end(rogue):
    finished = rogue("asks")
    assert_refused(finished, 1, "rogue", "exit code 1")
    assert "EOFError" in finished.err


@pytest.mark.parametrize("name", ["half", "not_json"])
def test_what_the_agent_wrote_instead_is_shown_as_log(rogue, name):
    assert '{"result": ' in rogue(name).err.partition("error: ")[0]


def test_an_error_key_is_a_failure_whatever_the_exit_code(rogue):
    assert_refused(rogue("error_with_0"), 1, "rogue", "the model is away")


def test_of_two_results_the_last_counts_with_a_warning(rogue):
    finished = rogue("two")
    assert (finished.code, finished.out) == (0, "second\n")
    assert "wrote 2 results" in finished.err


def test_a_large_input_that_is_never_read_hinders_nobody(rogue):
    finished = rogue("never_reads", "--padding", "x" * 100_000)
    assert (finished.code, finished.out) == (0, "did not look\n")


def test_a_flood_is_cut_short_in_the_log(rogue):
    assert len(rogue("floods_stderr").stderr) < 4_000_000


def test_a_script_that_ignores_sigterm_is_killed_at_its_deadline(rogue):
    began = time.monotonic()
    assert_refused(rogue("ignores_term", options=["--timeout", "0.3"]), 124, "rogue", "deadline of 0.3 s", "--timeout")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("name", "result"), [("daemon", "left a daemon\n"), ("forks", "forgot three\n")])
def test_what_a_script_leaves_behind_is_killed_and_its_result_counts(rogue, name, result):
    began = time.monotonic()
    finished = rogue(name)
    assert (finished.code, finished.out) == (0, result)
    assert time.monotonic() - began < 3, "nobody waited for the daemon"


def test_prints_of_a_class_are_log_and_cannot_forge_its_result(rogue_class):
    finished = rogue_class("prints")
    assert (finished.code, finished.out) == (0, "real\n")
    assert finished.err.count("forged") == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", ["result.rows[1].price", "nan"]),
        ("a_set", ["result.names", "set"]),
        ("some_bytes", ["result", "bytes"]),
        ("cycle", ["result[0]"]),
        ("lone_surrogate", ["result", "surrogate"]),
        ("exits_0", ["without a result"]),
        ("exits_7", ["exit code 7"]),
        ("system_exit", ["sys.exit(0)"]),
        ("dies", ["SIGKILL"]),
        ("raises", ["KeyError", "colour"]),
    ],
)
def test_a_method_without_a_proper_result_is_an_error(rogue_class, name, words):
    assert_refused(rogue_class(name), 1, "rogue-class", *words)


def test_a_method_that_ignores_sigterm_is_killed_at_its_deadline(rogue_class):
    assert_refused(rogue_class("ignores_term", "--timeout", "0.3"), 124, "rogue-class", "deadline of 0.3 s")


@pytest.mark.parametrize("agent", ["importless", "importless-class"])
def test_an_import_error_has_its_traceback_in_the_log_and_one_line_of_error(shared, cli, monkeypatch, agent):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    finished = cli("run", agent, "go")
    assert_refused(finished, 1, agent)
    assert "No module named 'there_is_no_such_module'" in finished.err
    assert "Traceback" in finished.err.partition("error: ")[0]


@pytest.mark.parametrize(
    ("agent", "name", "code", "kind"),
    [("rogue-class", "raises", 1, "ExecutionError"), ("rogue-class", "ignores_term", 124, "TimeoutError")],
)
def test_the_envelope_of_a_failure(shared, cli, monkeypatch, agent, name, code, kind):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    finished = cli("run", "--json", "--timeout", "0.5", agent, name)
    envelope = finished.json
    assert finished.code == envelope["exit_code"] == code
    assert envelope["error_type"] == kind
    assert envelope["error"]
    assert envelope["execution_time"] > 0
    assert envelope["schema_version"] == 1
    assert envelope["run_id"]
    assert envelope["agent"] == {"owner": "local", "name": agent, "version": "1.0.0"}
    assert envelope["method"] == name
    assert "result" not in envelope


def test_signals_are_named(shared, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    envelope = json.loads(cli("run", "--json", "rogue-class", "dies").out)
    assert signal.Signals.SIGKILL.name in envelope["error"]
