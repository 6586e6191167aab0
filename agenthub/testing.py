"""For tests of programs that embed agenthub, and of agents: doubles, throw-away agents, and an interface check."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import textwrap
from typing import Any

from agenthub.errors import InvalidInputError
from agenthub.manifest import MANIFEST_NAMES
from agenthub.runtime.agent_runtime import AgentRuntime
from agenthub.runtime.environment_manager import EnvironmentManager
from agenthub.runtime.process_manager import ProcessManager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "MockEnvironmentManager",
    "MockProcessManager",
    "cleanup_test_agent",
    "create_test_agent",
    "validate_runtime_interface",
]


class MockProcessManager(ProcessManager):
    """Starts nothing: answers by `respond`, and remembers its calls.

    Args:
        respond: called with method and parameters; returns a result or raises an `AgentRuntimeError`, which becomes the
            failure of the run. None: a sentence that names both.
    """

    def __init__(self, respond: Callable[[str, Mapping[str, Any]], Any] | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self._respond = respond or (lambda method, parameters: f"Mock result for {method} with {parameters}")

    def execute_agent(self, agent_path: str, method: str, parameters: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """The envelope's core, as the real one returns it."""
        from agenthub.errors import AgentRuntimeError

        self.calls.append((agent_path, method, dict(parameters)))
        core = {"execution_time": 0.0, "memory_usage": "0MB"}
        try:
            return {"result": self._respond(method, dict(parameters)), **core}
        except AgentRuntimeError as error:
            return {**error.to_dict(), **core}


class MockEnvironmentManager(EnvironmentManager):
    """Makes nothing: every agent has an environment, at a path that names it."""

    def create_environment(self, agent_path: str) -> str:
        """A path; nothing is there."""
        return f"/tmp/mock_venv_{hash(agent_path)}"  # noqa: S108 - a name, never a file

    def install_dependencies(self, venv_path: str, requirements: list[str]) -> None:
        """Does nothing."""

    def get_python_executable(self, venv_path: str) -> str:
        """Where the interpreter would be."""
        return os.path.join(venv_path, "bin", "python")

    def check(self, venv_path: str, *_: Any, **__: Any) -> list[str]:
        """Finds nothing wrong."""
        return []


def create_test_agent(agent_path: str | os.PathLike[str], manifest: Mapping[str, Any], agent_code: str) -> str:
    """Writes an agent: `agent.yaml` from `manifest` and `agent.py` from `agent_code`. Returns its directory.

    What every manifest needs (`name`, `version`, `description`, `author`) is filled in where it is left out.
    """
    directory = os.path.abspath(os.path.expanduser(os.fspath(agent_path)))
    os.makedirs(directory, exist_ok=True)
    name = os.path.basename(directory).lower()
    identity = {"name": name, "version": "1.0.0", "description": "an agent for tests", "author": "tests"}
    with open(os.path.join(directory, MANIFEST_NAMES[0]), "w", encoding="utf-8") as file:
        json.dump({**identity, **manifest}, file, indent=2)  # JSON is YAML
    with open(os.path.join(directory, "agent.py"), "w", encoding="utf-8") as file:
        file.write(textwrap.dedent(agent_code).strip("\n") + "\n")
    return directory


def cleanup_test_agent(agent_path: str | os.PathLike[str]) -> None:
    """Removes what `create_test_agent` made.

    Raises:
        InvalidInputError: the directory holds no agent; nothing is removed.
    """
    directory = os.path.abspath(os.path.expanduser(os.fspath(agent_path)))
    if not os.path.isdir(directory):
        return
    if not any(os.path.isfile(os.path.join(directory, name)) for name in MANIFEST_NAMES):
        raise InvalidInputError(f"{directory} holds no agent.yaml: not removed")
    shutil.rmtree(directory)


# What the interface document fixes: positional parameters by method.
_INTERFACE = {
    "": {
        "load_agent_manifest": ("agent_path",),
        "execute_agent": ("agent_path", "method", "parameters"),
        "validate_method": ("agent_path", "method"),
        "get_agent_info": ("agent_path",),
    },
    "process_manager": {
        "execute_agent": ("agent_path", "method", "parameters"),
        "cleanup_processes": (),
        "is_process_running": ("process_id",),
    },
    "environment_manager": {
        "create_environment": ("agent_path",),
        "install_dependencies": ("venv_path", "requirements"),
        "get_python_executable": ("venv_path",),
        "activate_environment": ("venv_path",),
    },
}


def validate_runtime_interface(runtime: AgentRuntime) -> None:
    """Checks that a runtime and its two managers have the interface that callers rely on.

    Raises:
        TypeError: one lacks a method, or a method cannot be called as documented; says all that is wrong.
    """
    problems = []
    for attribute, methods in _INTERFACE.items():
        subject = getattr(runtime, attribute, None) if attribute else runtime
        for name, parameters in methods.items():
            label = ".".join(filter(None, (type(runtime).__name__, attribute, name)))
            method = getattr(subject, name, None)
            if not callable(method):
                problems.append(f"{label} is missing")
                continue
            try:
                inspect.signature(method).bind(*parameters)
                inspect.signature(method).bind(**dict.fromkeys(parameters))
            except TypeError as error:
                problems.append(f"{label}({', '.join(parameters)}): {error}")
    if problems:
        raise TypeError("; ".join(problems))
