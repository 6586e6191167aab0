"""The method contract, through real processes."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest
from processes_support import make_agent, run_method

from agenthub.errors import (
    AgentNotFoundError,
    EnvironmentError,
    ExecutionError,
    InvalidInputError,
    InvalidManifestError,
    MethodNotFoundError,
)
from agenthub.runtime.process_manager import ProcessManager
from agenthub.runtime.processes.limits import Limits


def agent(*lines, before=""):
    body = "\n".join(textwrap.indent(textwrap.dedent(line).strip("\n"), "    ") for line in lines)
    return f"import os, sys\n{before}\nclass Agent:\n{body}\n"


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("def go(self, x, y=2): return [x, y]", [{"a": None}, 2]),
        ("async def go(self, x): return (x, 1)", [{"a": None}, 1]),
        ("def go(self, x):\n    yield x\n    yield 2", [{"a": None}, 2]),
        ("async def go(self, x):\n    yield 1\n    yield x", [1, {"a": None}]),
        ("def go(self, x):\n    return\n    yield", []),
        ("@staticmethod\ndef go(x): return 'é\\u2028'", "é\u2028"),
    ],
)
def test_values_in_and_out(tmp_path, method, result):
    chunks = []
    code = agent(method)
    assert run_method(tmp_path, code, {"x": {"a": None}})["result"] == result
    answer = run_method(tmp_path, code, {"x": {"a": None}}, on_chunk=chunks.append)
    if "yield" in method:
        assert (answer["result"], answer["chunks"], chunks) == (None, len(result), result)
    else:
        assert (answer["result"], chunks) == (result, [])
        assert "chunks" not in answer


def test_a_module_is_an_entry_too(tmp_path):
    assert run_method(tmp_path, "def go(x): return x + 1", {"x": 1}, entrypoint="agent")["result"] == 2


def test_prints_never_reach_the_protocol(tmp_path):
    lines = []
    code = agent(
        """
        def go(self):
            print("printed")
            os.write(1, b"written\\n")
            os.system("echo child; cat; ls /proc/self/fd | wc -l")
            sys.__stdout__.write("unbuffered\\n")
            assert sys.stdin.read() == ""
            return "result"
        """,
        before="print('imported')",
    )
    answer = run_method(tmp_path, code, on_log=lambda line, level: lines.append(line))
    assert answer["result"] == "result"
    assert lines == ["imported", "printed", "written", "child", "4", "unbuffered"]
    assert answer["warnings"] == []


def test_log_and_progress(tmp_path):
    lines, steps = [], []
    code = agent(
        """
        def go(self):
            agenthub_agent.log("careful\\nnow", "warning")
            agenthub_agent.progress(0.5, "half")
            agenthub_agent.progress(None)
            agenthub_agent.log("hidden", "debug")
        """,
        before="import agenthub_agent",
    )
    answer = run_method(
        tmp_path,
        code,
        on_log=lambda line, level: lines.append((level, line)),
        on_progress=lambda fraction, message: steps.append((fraction, message)),
    )
    assert answer["result"] is None
    assert lines == [("WARNING", "careful"), ("WARNING", "now")]
    assert steps == [(0.5, "half"), (None, "")]


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("{'rows': [0, 1, {'price': float('nan')}]}", "result.rows[2].price is nan, which JSON cannot hold"),
        ("{'a b': {1}}", "result['a b'] is of type set, which JSON cannot hold"),
        ("[b'x']", "result[0] is of type bytes, which JSON cannot hold"),
        ("{'a': {1: 2}}", "result.a has the key 1; keys in JSON are Unicode text"),
        ("[float('-inf')]", "result[0] is -inf, which JSON cannot hold"),
        ("(lambda x: x.append(x) or x)([])", "result[0] contains itself"),
        ("['\\ud800']", "result[0] holds a lone surrogate, which is no Unicode text"),
        ("Scalar(1.5)", "result is of type agent.Scalar, which JSON cannot hold"),
        ("object", "result is of type type, which JSON cannot hold"),
    ],
)
def test_a_result_that_is_not_json_names_the_place(tmp_path, expression, error):
    code = agent(f"def go(self): return {expression}", before="class Scalar(float): pass")
    answer = run_method(tmp_path, code)
    assert answer["error"] == error
    assert answer["error_type"] == "ExecutionError"


def test_a_chunk_that_is_not_json_names_the_place(tmp_path):
    answer = run_method(tmp_path, agent("def go(self):\n    yield 1\n    yield {'a': set()}"))
    assert answer["error"] == "chunk[1].a is of type set, which JSON cannot hold"


def test_an_exception_is_one_line_and_its_traceback_is_log(tmp_path):
    lines = []
    code = agent("def go(self): raise ValueError('bad\\nthing \\udcff')")
    answer = run_method(tmp_path, code, on_log=lambda line, level: lines.append((level, line)))
    assert answer["error"] == "ValueError: bad thing ?"
    assert answer["exit_code"] == 1
    assert lines[0] == ("ERROR", "Traceback (most recent call last):")
    assert any("agent.py" in line for _, line in lines)
    assert not any("host.py" in line for _, line in lines)


@pytest.mark.parametrize(
    ("code", "entrypoint", "error"),
    [
        ("import no_such_package", "agent:Agent", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("", "agent:Agent", "AttributeError: module 'agent' has no attribute 'Agent'"),
        ("", "other:Agent", "ModuleNotFoundError: No module named 'other'"),
        ("class Agent: pass", "agent:Agent", "agent:Agent has no method 'go'"),
        (agent("def go(self): sys.exit(3)"), "agent:Agent", "called sys.exit(3) instead of returning a result"),
        (agent("def go(self): os._exit(0)"), "agent:Agent", "probe ended without a result: it wrote nothing"),
        (agent("def go(self): os._exit(5)"), "agent:Agent", "probe ended with exit code 5 without a result"),
        (agent("def go(self): os.abort()"), "agent:Agent", "probe died of SIGABRT (it aborted itself) without"),
        (agent("def go(self, need): pass"), "agent:Agent", "missing 1 required positional argument: 'need'"),
        ("def broken(:", "agent", "SyntaxError: "),
    ],
)
def test_what_can_go_wrong_in_an_agent(tmp_path, code, entrypoint, error):
    answer = run_method(tmp_path, code, entrypoint=entrypoint)
    assert error in answer["error"]
    assert answer["error_type"] == "ExecutionError"
    assert "\n" not in answer["error"]


def test_garbage_on_the_protocol_is_named(tmp_path):
    code = agent(
        """
        def go(self):
            for descriptor in range(3, 9):
                try:
                    os.write(descriptor, b"garbage\\n")
                except OSError:
                    pass
        """
    )
    answer = run_method(tmp_path, code)
    assert answer["error"] == "probe: wrote something that is not the protocol: 'garbage'"
    assert answer["error_type"] == "ExecutionError"


def test_a_fork_that_returns_does_not_answer(tmp_path):
    answer = run_method(
        tmp_path, agent("def go(self):\n    pid = os.fork()\n    pid and os.waitpid(pid, 0)\n    return pid > 0")
    )
    assert answer["result"] is True
    assert answer["warnings"] == []


def test_threads_that_go_on_do_not_hold_the_run(tmp_path):
    code = agent(
        "def go(self):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    return 1",
        before="import threading, time",
    )
    answer = run_method(tmp_path, code)
    assert answer["result"] == 1
    assert answer["execution_time"] < 10


def test_whoever_has_answered_is_given_grace_and_then_ended(tmp_path):
    code = agent("def go(self):\n    atexit.register(time.sleep, 60)\n    return 1", before="import atexit, time")
    answer = run_method(tmp_path, code, limits=Limits(timeout=30, grace=0.3))
    assert answer["result"] == 1
    assert answer["warnings"] == ["gave a result, but did not end by itself (SIGKILL)"]


def test_exit_handlers_run(tmp_path):
    lines = []
    code = agent("def go(self):\n    atexit.register(print, 'left')\n    return 1", before="import atexit")
    assert run_method(tmp_path, code, on_log=lambda line, level: lines.append(line))["result"] == 1
    assert lines == ["left"]


def test_the_directory_is_first_on_the_path_and_scratch_is_the_working_directory(tmp_path):
    answer = run_method(
        tmp_path, agent("def go(self): return [sys.path[0], os.getcwd(), os.environ['HOME'], sys.argv]")
    )
    path, directory, home, argv = answer["result"]
    assert path == str(tmp_path / "agent")
    assert directory == home
    assert argv == ["agent:Agent"]
    assert not os.path.exists(home)


def test_64_mib_both_ways(tmp_path):
    size = 64 << 20
    answer = run_method(
        tmp_path, agent("def go(self, x): return x"), {"x": "é" * (size // 2)}, limits=Limits(timeout=60)
    )
    assert len(answer["result"]) == size // 2


def test_chunks_together_are_capped(tmp_path):
    code = agent("def go(self):\n    while True: yield 'x' * 100000")
    answer = run_method(tmp_path, code, limits=Limits(timeout=30, result=1 << 20))
    assert answer["error_type"] == "OutputLimitError"


def test_describe_lists_public_callables(tmp_path):
    code = agent(
        '''
        def go(self, x: int, y="a", **rest):
            """Goes.

            Further.
            """
        def _private(self): pass
        value = 1
        '''
    )
    path = make_agent(tmp_path / "agent", code, "entrypoint: agent:Agent")
    described = ProcessManager().describe_agent(path)
    assert described.keys() == {"go"}
    assert described["go"]["description"] == "Goes."
    assert described["go"]["parameters"]["x"] == {
        "required": True,
        "kind": "positional_or_keyword",
        "annotation": "int",
    }
    assert [value["required"] for value in described["go"]["parameters"].values()] == [True, False, False]


def test_describe_raises_what_the_import_raised(tmp_path):
    path = make_agent(tmp_path / "agent", "import no_such_package", "entrypoint: agent:Agent")
    with pytest.raises(ExecutionError, match="no_such_package"):
        ProcessManager().describe_agent(path)


def test_describe_of_a_module_leaves_out_what_it_imported(tmp_path):
    code = "from os.path import join\ndef go(): pass\n"
    path = make_agent(tmp_path / "agent", code, "entrypoint: agent")
    assert ProcessManager().describe_agent(path).keys() == {"go"}


def test_what_the_caller_got_wrong_is_raised(tmp_path):
    manager = ProcessManager()
    with pytest.raises(AgentNotFoundError):
        manager.execute_agent(str(tmp_path / "missing"), "go", {})
    path = make_agent(tmp_path / "agent", "def go(): pass", "entrypoint: agent")
    with pytest.raises(MethodNotFoundError, match="Did you mean 'go'"):
        manager.execute_agent(path, "goo", {})
    with pytest.raises(ValueError, match="not JSON"):
        manager.execute_agent(path, "go", {"x": object()})
    with pytest.raises(InvalidInputError, match="not JSON"):
        manager.execute_agent(path, "go", {"x": float("nan")})
    with pytest.raises(InvalidInputError, match="mapping"):
        manager.execute_agent(path, "go", [1])
    with pytest.raises(RuntimeError, match="no such executable"):
        manager.execute_agent(path, "go", {}, python=str(tmp_path / "python"))
    script = make_agent(tmp_path / "script", "", file="other.py")
    with pytest.raises(InvalidManifestError, match=r"no agent\.py"):
        manager.execute_agent(script, "go", {})


def test_the_agents_own_environment_is_used(tmp_path):
    path = make_agent(
        tmp_path / "agent", "import os, sys\ndef go(): return [sys.prefix, os.environ['PATH']]", "entrypoint: agent"
    )
    venv = tmp_path / "agent" / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (venv / "pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    prefix, search = ProcessManager().execute_agent(path, "go", {})["result"]
    assert prefix == str(venv)
    assert search.split(os.pathsep)[0] == str(venv / "bin")


def test_a_broken_environment_cannot_start(tmp_path):
    path = make_agent(tmp_path / "agent", "def go(): pass", "entrypoint: agent")
    (tmp_path / "agent" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "agent" / "venv" / "bin" / "python").symlink_to("/no/such/python")
    with pytest.raises(EnvironmentError, match="no such executable"):
        ProcessManager().execute_agent(path, "go", {})
