"""The friendly face in Python: an installed agent as an object whose methods are the agent's."""

from __future__ import annotations

import base64
import os
from typing import Any, NamedTuple

from agenthub.config import Settings
from agenthub.errors import error_class
from agenthub.runtime.agent_runtime import AgentRuntime, find_method
from agenthub.runtime.run_plan import RunOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agenthub.runtime.agent_locator import LocatedAgent


class FileResult(NamedTuple):
    """A file that an agent made."""

    name: str
    media_type: str
    data: bytes

    def save(self, path: str | os.PathLike[str] | None = None) -> str:
        """Writes the file to `path` (by default under its own name, here) and returns the path."""
        target = os.fspath(path) if path is not None else self.name
        with open(target, "wb") as file:
            file.write(self.data)
        return target


def load_agent(
    agent: str,
    *,
    timeout: float | str | None = None,
    memory: int | str | None = None,
    env: Sequence[str] = (),
    on_log: Callable[[str, str], None] | None = None,
    on_progress: Callable[[float | None, str], None] | None = None,
) -> Agent:
    """Loads an agent; its methods become methods of the object.

    Args:
        agent: `owner/name`, `name` where only one owner has it, or a path.
        timeout: deadline of each call, in seconds or as `"2min"`; None: the manifest's.
        memory: cap of each call, in bytes or as `"512MB"`; None: the manifest's.
        env: environment variables to pass, each `"NAME=value"` or `"NAME"`.
        on_log: called with each line of the agent's log and its level.
        on_progress: called with a fraction (or None) and a message.

    Raises:
        AgentNotFoundError: there is no such agent.
        InvalidManifestError: a path's manifest is missing or wrong.
    """
    runtime = AgentRuntime(Settings({"timeout": timeout, "memory": memory}))
    options = RunOptions(variables=tuple(env), on_log=on_log, on_progress=on_progress)
    return Agent(runtime, runtime.locate(agent), options)


class Agent:
    """An agent; made by `load_agent`.

    `agent.query(file="sales.csv", sql="…")` runs a method in a process of its own and returns its result. A method
    whose name is taken here, or is no identifier, is reached by `agent.call("name", …)`.
    """

    def __init__(self, runtime: AgentRuntime, located: LocatedAgent, options: RunOptions) -> None:
        self._runtime = runtime
        self._located = located
        self._options = options

    @property
    def manifest(self) -> Any:
        """The agent's `AgentManifest`."""
        return self._located.manifest

    def call(self, method: str, /, **parameters: Any) -> Any:
        """Runs a method and returns its result; a file as a `FileResult`.

        Raises:
            MethodNotFoundError: the agent has no such method.
            InvalidInputError: the parameters do not fit, or a variable that the agent needs is not set.
            EnvironmentError: its environment is broken.
            ExecutionError: the agent failed; a subclass such as `TimeoutError` where a cap was hit.
        """
        envelope = self._runtime.run(self._located, method, parameters, self._options)
        if "error" in envelope:
            raise error_class(envelope["error_type"])(envelope["error"], suggestion=envelope.get("suggestion"))
        result = envelope["result"]
        if isinstance(result, dict) and result.get("encoding") == "base64" and "file" in result:
            return FileResult(result["file"], result["media_type"], base64.b64decode(result["data"]))
        return result

    def __getattr__(self, name: str) -> Callable[..., Any]:
        methods = self._located.manifest.methods
        spelled = name if name in methods else name.replace("_", "-")
        if spelled not in methods:
            if name.startswith("_"):
                raise AttributeError(name)
            find_method(self._located, name)  # raises, naming the nearest

        def method(**parameters: Any) -> Any:
            return self.call(spelled, **parameters)

        method.__name__ = name
        method.__doc__ = methods[spelled].description
        return method

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._located.manifest.methods})

    def __repr__(self) -> str:
        return f"<agent {self._located.label} {self._located.manifest.version}>"
