"""agenthub from Python: the interface document's examples, `load_agent`, the errors, and the test doubles."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import threading

import pytest

import agenthub
from agenthub import errors
from agenthub.config import Settings
from agenthub.runtime.runs.plan import RunOptions
from agenthub.testing import cleanup_test_agent, create_test_agent
from tests.support import install_into, method, tree, write_agent

CODER = r"""
import json, sys
request = json.loads(sys.argv[1])
method, parameters = request["method"], request["parameters"]
if method == "generate_code":
    print(json.dumps({"result": "print(%r)" % parameters["prompt"]}))
else:
    print(json.dumps({"error": "Unknown method: " + method}))
    sys.exit(1)
"""


@pytest.fixture(scope="session")
def coding_home(tmp_path_factory):
    """A home directory with agentplug/coding-agent, as the interface document has it."""
    home = tmp_path_factory.mktemp("user")
    methods = {
        "generate_code": method(prompt={"type": "string", "required": True}),
        "explain_code": method(code="string"),
    }
    agent = write_agent(home / "src" / "coding-agent", CODER, methods)
    install_into(home / ".agenthub", agent, "--as", "agentplug/coding-agent")
    return home


@pytest.fixture
def at_home(coding_home, monkeypatch):
    monkeypatch.setenv("HOME", str(coding_home))
    monkeypatch.delenv("AGENTHUB_HOME")


# the interface document's examples, word for word ------------------------------------------------------------------


def test_the_process_managers_example(at_home, capsys):
    from agenthub.runtime.process_manager import ProcessManager

    # Create process manager
    pm = ProcessManager()

    # Execute agent method
    result = pm.execute_agent(
        agent_path="~/.agenthub/agents/agentplug/coding-agent",
        method="generate_code",
        parameters={"prompt": "Create a hello world function"},
    )

    if "result" in result:
        print(f"Generated code: {result['result']}")
    else:
        print(f"Error: {result['error']}")

    # Cleanup
    pm.cleanup_processes()

    assert capsys.readouterr().out == "Generated code: print('Create a hello world function')\n"
    assert pm.is_process_running(os.getpid()) is True
    assert pm.is_process_running(2**22 + 1) is False
    assert isinstance(result["execution_time"], float)
    assert result["memory_usage"].endswith("MB")


def test_the_environment_managers_example(tmp_path, monkeypatch):
    from agenthub.runtime.environment_manager import EnvironmentManager

    monkeypatch.setenv("HOME", str(tmp_path))
    write_agent(tmp_path / ".agenthub" / "agents" / "agentplug" / "coding-agent", CODER)

    # Create environment manager
    em = EnvironmentManager()

    # Create virtual environment
    venv_path = em.create_environment("~/.agenthub/agents/agentplug/coding-agent")
    assert os.path.samefile(venv_path, tmp_path / ".agenthub/agents/agentplug/coding-agent/venv")
    assert em.create_environment("~/.agenthub/agents/agentplug/coding-agent") == venv_path

    # Install dependencies (smaller ones than the document's)
    em.install_dependencies(venv_path, ["six>=1.16", "idna>=3"])

    # Get Python executable
    python_path = em.get_python_executable(venv_path)
    assert python_path == os.path.join(venv_path, "bin", "python")

    # Get environment variables
    env_vars = em.activate_environment(venv_path)
    done = subprocess.run(
        ["python", "-c", "import sys, six, idna; print(sys.prefix)"], env=env_vars, capture_output=True
    )
    assert os.path.samefile(done.stdout.decode().strip(), venv_path)
    assert env_vars["VIRTUAL_ENV"] == venv_path


def test_the_agent_runtimes_example(at_home, capsys):
    from agenthub.runtime.agent_runtime import AgentRuntime

    # Create agent runtime
    ar = AgentRuntime()

    # Load agent manifest
    manifest = ar.load_agent_manifest("~/.agenthub/agents/agentplug/coding-agent")
    assert set(manifest["interface"]["methods"]) == {"generate_code", "explain_code"}

    # Validate method
    if ar.validate_method("~/.agenthub/agents/agentplug/coding-agent", "generate_code"):
        # Execute agent method
        result = ar.execute_agent(
            agent_path="~/.agenthub/agents/agentplug/coding-agent",
            method="generate_code",
            parameters={"prompt": "Create a neural network class"},
        )

        if "result" in result:
            print(f"Generated code: {result['result']}")
        else:
            print(f"Execution error: {result['error']}")

    # Get agent info
    info = ar.get_agent_info("~/.agenthub/agents/agentplug/coding-agent")
    print(f"Agent: {info['name']}, Version: {info['version']}")

    assert capsys.readouterr().out.splitlines() == [
        "Generated code: print('Create a neural network class')",
        "Agent: coding-agent, Version: 1.0.0",
    ]
    assert ar.validate_method("agentplug/coding-agent", "nonexistent_method") is False
    assert {"interface", "methods", "author", "limits"} <= set(info)


def test_the_configurations_have_the_documents_defaults():
    runtime = vars(agenthub.RuntimeConfig())
    assert runtime == {
        "max_execution_time": 30,
        "max_memory_usage": 1024,
        "subprocess_timeout": 5,
        "cleanup_interval": 60,
        "log_level": "INFO",
        "use_uv": True,
    }
    environment = vars(agenthub.EnvironmentConfig())
    assert environment == {
        "python_version": "3.12",
        "venv_location": "venv",
        "dependency_cache": True,
        "auto_cleanup": True,
        "max_venv_size": 500,
    }


# errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("AgentNotFoundError", (FileNotFoundError, ValueError)),
        ("InvalidManifestError", (ValueError,)),
        ("MethodNotFoundError", (ValueError,)),
        ("InvalidInputError", (ValueError,)),
        ("ExecutionError", (RuntimeError,)),
        ("EnvironmentError", (RuntimeError,)),
        ("InstallError", (RuntimeError,)),
        ("TimeoutError", (builtins.TimeoutError, RuntimeError)),
        ("InterruptedError", (builtins.InterruptedError,)),
        ("PermissionDeniedError", (PermissionError,)),
        ("MemoryLimitError", (RuntimeError,)),
    ],
)
def test_errors_are_also_what_the_document_says(name, bases):
    error = getattr(agenthub, name)
    assert issubclass(error, (agenthub.AgentRuntimeError, *bases))
    for base in bases:
        assert issubclass(error, base)
    assert str(error("the message", suggestion="s")) == "the message"


@pytest.mark.parametrize(
    ("call", "kinds"),
    [
        (lambda ar, agent: ar.load_agent_manifest("/nowhere"), (FileNotFoundError, agenthub.AgentNotFoundError)),
        (lambda ar, agent: ar.load_agent_manifest("nobody"), (FileNotFoundError, agenthub.AgentNotFoundError)),
        (lambda ar, agent: ar.load_agent_manifest(os.path.dirname(agent)), (ValueError, agenthub.InvalidManifestError)),
        (lambda ar, agent: ar.execute_agent(agent, "nope", {}), (ValueError, agenthub.MethodNotFoundError)),
        (lambda ar, agent: ar.execute_agent(agent, "add", {}), (ValueError, agenthub.InvalidInputError)),
        (lambda ar, agent: ar.execute_agent(agent, "add", {"a": "x"}), (ValueError, agenthub.InvalidInputError)),
        (lambda ar, agent: ar.execute_agent(agent, "add", {"a": {1}}), (ValueError, agenthub.InvalidInputError)),
        (lambda ar, agent: ar.execute_agent("/nowhere", "add", {}), (ValueError, agenthub.AgentNotFoundError)),
        (lambda ar, agent: ar.process_manager.execute_agent("/nowhere", "x", {}), (ValueError,)),
        (lambda ar, agent: ar.process_manager.execute_agent(agent, "nope", {}), (ValueError,)),
        (lambda ar, agent: ar.environment_manager.get_python_executable("/nowhere"), (RuntimeError,)),
        (lambda ar, agent: ar.environment_manager.install_dependencies("/nowhere", ["six"]), (RuntimeError,)),
    ],
)
def test_what_each_door_raises(call, kinds, calculator):
    with pytest.raises(agenthub.AgentRuntimeError) as raised:
        call(agenthub.AgentRuntime(), calculator)
    for kind in kinds:
        assert isinstance(raised.value, kind)


@pytest.fixture(scope="session")
def calculator(tmp_path_factory):
    """An agent that is not installed."""
    return write_agent(
        tmp_path_factory.mktemp("agents") / "calculator",
        """
        import os, time

        class Calculator:
            def add(self, a, b=1):
                print("adding")
                return a + b
            def fail(self):
                raise ValueError("no such number")
            def sleep(self):
                time.sleep(60)
            def plot(self):
                with open("plot.svg", "w") as file:
                    file.write("<svg/>")
                return "plot.svg"
            def count(self):
                import agenthub_agent
                for number in range(3):
                    agenthub_agent.progress(number / 3, "step %d" % number)
                    yield number
            def variable(self):
                return os.environ.get("CALCULATOR")
        """,
        {
            "add": method(a={"type": "integer", "required": True}, b={"type": "integer", "default": 2}),
            "fail": method("fails in any case"),
            "sleep": method(),
            "plot": {**method(), "returns": {"type": "file", "media_type": "image/svg+xml"}},
            "count": method(),
            "variable": method(),
            "two-words": method(),
        },
        entrypoint="agent:Calculator",
    )


# load_agent --------------------------------------------------------------------------------------------------------


def test_an_agent_is_an_object_with_its_methods(calculator):
    agent = agenthub.load_agent(calculator)
    assert agent.add(a=1) == 3
    assert agent.add(a=1, b=5) == 6
    assert agent.call("add", a=1) == 3
    assert agent.fail.__doc__ == "fails in any case"
    assert {"add", "fail", "plot"} <= set(dir(agent))
    assert "calculator" in repr(agent)
    assert agent.manifest.version == "1.0.0"
    assert not hasattr(agent, "_private")


def test_the_face_of_an_installed_agent(at_home):
    assert agenthub.load_agent("coding-agent").generate_code(prompt="hi") == "print('hi')"
    assert agenthub.load_agent("agentplug/coding-agent").generate_code(prompt="hi") == "print('hi')"


def test_failures_are_raised(calculator):
    agent = agenthub.load_agent(calculator, timeout=0.3)
    with pytest.raises(agenthub.ExecutionError, match="no such number"):
        agent.fail()
    with pytest.raises(agenthub.MethodNotFoundError, match="Did you mean 'add'"):
        agent.ad(a=1)
    with pytest.raises(agenthub.InvalidInputError, match="'a'"):
        agent.add()
    with pytest.raises(builtins.TimeoutError):
        agent.sleep()
    with pytest.raises(agenthub.AgentNotFoundError):
        agenthub.load_agent("nobody/nothing")


def test_a_file_comes_as_its_bytes(calculator, tmp_path, monkeypatch):
    plot = agenthub.load_agent(calculator).plot()
    assert (plot.name, plot.media_type, plot.data) == ("plot.svg", "image/svg+xml", b"<svg/>")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert plot.save() == "plot.svg"
    assert plot.save(tmp_path / "here" / "other.svg") == str(tmp_path / "here" / "other.svg")
    assert tree(tmp_path / "here") == {"plot.svg": b"<svg/>", "other.svg": b"<svg/>"}


def test_logs_progress_and_variables(calculator):
    lines, steps = [], []
    agent = agenthub.load_agent(
        calculator,
        env=["CALCULATOR=yes"],
        on_log=lambda line, level: lines.append((line, level)),
        on_progress=lambda fraction, message: steps.append((fraction, message)),
    )
    agent.add(a=1)
    assert ("adding", "INFO") in lines
    assert agent.count() == [0, 1, 2]
    assert [message for _, message in steps] == ["step 0", "step 1", "step 2"]
    assert agent.variable() == "yes"


def test_chunks_come_one_by_one(calculator):
    chunks = []
    runtime = agenthub.AgentRuntime()
    envelope = runtime.execute_agent(calculator, "count", {}, RunOptions(on_chunk=chunks.append))
    assert (chunks, envelope["result"], envelope["chunks"]) == ([0, 1, 2], None, 3)


def test_a_run_is_cancelled_from_another_thread(calculator):
    from agenthub.runtime.processes.cancellation import Cancellation

    with Cancellation() as cancellation:
        timer = threading.Timer(0.3, cancellation.cancel)
        timer.start()
        envelope = agenthub.AgentRuntime().execute_agent(calculator, "sleep", {}, RunOptions(cancellation=cancellation))
        timer.join()
    assert (envelope["error_type"], envelope["exit_code"]) == ("InterruptedError", 130)


def test_runs_go_on_side_by_side(calculator):
    agent = agenthub.load_agent(calculator)
    results = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: agent.add(a=n)})) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n + 2 for n in range(6)}


def test_settings_of_the_caller(calculator):
    runtime = agenthub.AgentRuntime(Settings({"timeout": "0.3"}))
    assert runtime.execute_agent(calculator, "sleep", {})["exit_code"] == 124


# importing ---------------------------------------------------------------------------------------------------------


def test_all_is_true():
    assert sorted(agenthub.__all__) == agenthub.__all__
    for name in agenthub.__all__:
        assert getattr(agenthub, name) is not None
    assert set(agenthub.__all__) <= set(dir(agenthub))
    with pytest.raises(AttributeError):
        agenthub.nothing_of_the_kind  # noqa: B018
    public = {name for name in vars(errors) if name.endswith("Error") and not name.startswith("_")}
    assert public - set(agenthub.__all__) <= {"StoreError"}


def test_importing_agenthub_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import agenthub; "
        "print(sorted(set(sys.modules) - before - {'agenthub', '__future__'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_of_builtins_are_not_hidden_by_a_star():
    code = "from agenthub import *; print(TimeoutError.__module__, load_agent.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["agenthub.errors", "load_agent"]


# throw-away agents -------------------------------------------------------------------------------------------------


def test_a_test_agent_is_made_and_removed(tmp_path):
    directory = create_test_agent(
        tmp_path / "Throwaway",
        {"interface": {"methods": {"go": {"description": "goes"}}}, "entrypoint": "agent"},
        """
        def go():
            if True:
                return "went"
        """,
    )
    assert agenthub.load_agent(directory).go() == "went"
    cleanup_test_agent(directory)
    assert not os.path.exists(directory)
    cleanup_test_agent(directory)


def test_only_an_agent_is_removed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with pytest.raises(agenthub.InvalidInputError):
        cleanup_test_agent(tmp_path / "precious")
    assert (tmp_path / "precious" / "file").exists()


def test_an_input_over_the_cap_is_refused_from_python_too(tmp_path, monkeypatch):
    """The command line bounds what it reads; a value that a program hands over has the same cap."""
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGENTHUB_RESULT", "1MB")
    directory = agenthub.testing.create_test_agent(
        tmp_path / "taker",
        {
            "entrypoint": "agent",
            "interface": {"methods": {"go": {"description": "d", "parameters": {"text": {"type": "string"}}}}},
        },
        "def go(text):\n    return len(text)",
    )
    taker = agenthub.load_agent(directory)
    assert taker.go(text="x" * 1000) == 1000
    with pytest.raises(agenthub.InvalidInputError, match="more than 1 MB"):
        taker.go(text="x" * (3 << 20))
