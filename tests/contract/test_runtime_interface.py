"""The interface document's signatures: the real classes and the doubles keep them, and a broken double is noticed."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

from agenthub import AgentRuntime, EnvironmentManager, ProcessManager
from agenthub.errors import ExecutionError
from agenthub.testing import MockEnvironmentManager, MockProcessManager, validate_runtime_interface
from tests.support import method, write_agent

# Class, method, positional parameters and what it returns, as the document has them.
SIGNATURES = [
    (ProcessManager, "execute_agent", ["agent_path", "method", "parameters"], dict),
    (ProcessManager, "cleanup_processes", [], None),
    (ProcessManager, "is_process_running", ["process_id"], bool),
    (EnvironmentManager, "create_environment", ["agent_path"], str),
    (EnvironmentManager, "install_dependencies", ["venv_path", "requirements"], None),
    (EnvironmentManager, "get_python_executable", ["venv_path"], str),
    (EnvironmentManager, "activate_environment", ["venv_path"], dict),
    (AgentRuntime, "load_agent_manifest", ["agent_path"], dict),
    (AgentRuntime, "execute_agent", ["agent_path", "method", "parameters"], dict),
    (AgentRuntime, "validate_method", ["agent_path", "method"], bool),
    (AgentRuntime, "get_agent_info", ["agent_path"], dict),
]


@pytest.mark.parametrize(("owner", "name", "parameters", "returns"), SIGNATURES)
def test_a_signature_is_the_documents(owner, name, parameters, returns):
    signature = inspect.signature(getattr(owner, name))
    positional = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and parameter.default is inspect.Parameter.empty
    ]
    assert positional == ["self", *parameters]
    annotation = str(signature.return_annotation)
    assert annotation.startswith(returns.__name__ if returns else "None")


@pytest.mark.parametrize(
    "owner", [ProcessManager, EnvironmentManager, AgentRuntime, MockProcessManager, MockEnvironmentManager]
)
def test_each_is_made_without_arguments(owner):
    owner()


def runtime_with_doubles(respond=None):
    return AgentRuntime(process_manager=MockProcessManager(respond), environment_manager=MockEnvironmentManager())


def test_the_real_ones_pass():
    runtime = AgentRuntime()
    validate_runtime_interface(runtime)
    assert type(runtime.process_manager) is ProcessManager
    assert type(runtime.environment_manager) is EnvironmentManager


def test_the_doubles_pass_and_are_what_they_double():
    runtime = runtime_with_doubles()
    validate_runtime_interface(runtime)
    assert isinstance(runtime.process_manager, ProcessManager)
    assert isinstance(runtime.environment_manager, EnvironmentManager)


class RenamedParameter(MockProcessManager):
    def execute_agent(self, path, method, parameters):
        return {}


class OneMore(MockEnvironmentManager):
    def create_environment(self, agent_path, python):
        return ""


class Missing:
    def execute_agent(self, agent_path, method, parameters):
        return {}


@pytest.mark.parametrize(
    ("doubles", "complaint"),
    [
        ({"process_manager": RenamedParameter()}, "process_manager.execute_agent"),
        ({"environment_manager": OneMore()}, "environment_manager.create_environment"),
        ({"process_manager": Missing()}, "process_manager.cleanup_processes is missing"),
    ],
)
def test_a_broken_double_is_noticed(doubles, complaint):
    with pytest.raises(TypeError, match=complaint):
        validate_runtime_interface(AgentRuntime(**doubles))


def test_all_that_is_wrong_is_said():
    with pytest.raises(TypeError, match=r"cleanup_processes is missing.*is_process_running is missing"):
        validate_runtime_interface(AgentRuntime(process_manager=Missing()))


@pytest.fixture
def agent(tmp_path):
    write_agent(tmp_path / "doubled", "raise SystemExit('never started')", {"go": method(text="string")})
    return str(tmp_path / "doubled")


def test_the_double_answers_as_the_document_says(agent):
    runtime = runtime_with_doubles()
    envelope = runtime.execute_agent(agent, "go", {"text": "x"})
    assert envelope["result"] == "Mock result for go with {'text': 'x'}"
    assert {"execution_time", "memory_usage", "run_id", "agent", "method", "exit_code"} <= set(envelope)
    assert runtime.process_manager.calls == [(agent, "go", {"text": "x"})]
    assert MockEnvironmentManager().create_environment("x") == f"/tmp/mock_venv_{hash('x')}"


def test_the_double_answers_as_it_is_told(agent):
    def respond(method, parameters):
        if parameters["text"] == "bad":
            raise ExecutionError("as the test wants it")
        return parameters["text"].upper()

    runtime = runtime_with_doubles(respond)
    assert runtime.execute_agent(agent, "go", {"text": "x"})["result"] == "X"
    failed = runtime.execute_agent(agent, "go", {"text": "bad"})
    assert (failed["error"], failed["error_type"], failed["exit_code"]) == ("as the test wants it", "ExecutionError", 1)


def test_real_and_doubled_envelopes_have_the_same_keys(tmp_path):
    directory = write_agent(tmp_path / "real", "def go():\n    return 1", entrypoint="agent")
    real = AgentRuntime().execute_agent(directory, "go", {})
    doubled = runtime_with_doubles().execute_agent(directory, "go", {})
    assert set(doubled) <= set(real)
    assert set(real) - set(doubled) <= {"usage", "warnings"}


def test_the_doubles_need_no_pytest():
    code = "import sys, agenthub.testing; print('pytest' in sys.modules, '_pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.split() == ["False", "False"]
