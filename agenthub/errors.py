"""The one tree of errors: what happened, to which agent, and what to do next.

Infrastructure that fails is raised; an agent that fails is a result (see `runtime.agent_runtime`), which carries the
same `error_type` and `exit_code`. Front ends render these and nothing else; foreign exceptions are translated where
they enter.
"""

from __future__ import annotations

import builtins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any


class AgentRuntimeError(Exception):
    """Base of every error that agenthub raises on purpose.

    Args:
        message: one sentence naming the thing and the cause.
        suggestion: what the reader can do next; shown on a line of its own.
        details: further lines (a tool's reason, an agent's log) shown below the message.
    """

    exit_code = 1
    http_status = 500

    def __init__(self, message: str, *, suggestion: str | None = None, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion
        self.details = tuple(details)

    def __str__(self) -> str:
        return self.message

    @property
    def error_type(self) -> str:
        """The name of the class, as it stands in result envelopes."""
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        """The failure half of a result envelope."""
        failure: dict[str, Any] = {"error": self.message, "error_type": self.error_type, "exit_code": self.exit_code}
        if self.suggestion:
            failure["suggestion"] = self.suggestion
        return failure


class InvalidInputError(AgentRuntimeError, ValueError):
    """Bad usage, or an input that does not fit the method's parameters."""

    exit_code = 2
    http_status = 400


class AgentNotFoundError(AgentRuntimeError, FileNotFoundError, ValueError):
    """No such agent, or no such agent directory."""

    exit_code = 3
    http_status = 404


class MethodNotFoundError(AgentRuntimeError, ValueError):
    """The agent has no such method."""

    exit_code = 3
    http_status = 404


class InvalidManifestError(AgentRuntimeError, ValueError):
    """The agent's manifest is missing or wrong."""

    exit_code = 3
    http_status = 422


class EnvironmentError(AgentRuntimeError, RuntimeError):
    """The agent's virtual environment cannot be made, or is broken."""

    exit_code = 4


class InstallError(AgentRuntimeError, RuntimeError):
    """Fetching, unpacking or storing an agent failed; nothing was changed."""

    exit_code = 4


class StoreError(InstallError):
    """The store under AGENTHUB_HOME cannot be read or written."""


class UnreachableError(InstallError):
    """What had to be asked cannot be: nothing is known then, and nothing may be concluded."""


class PermissionDeniedError(AgentRuntimeError, PermissionError):
    """Refused: a consent, a permission or a policy is missing."""

    exit_code = 5
    http_status = 403


class ExecutionError(AgentRuntimeError, RuntimeError):
    """The agent ran and failed."""

    exit_code = 1
    http_status = 502


class OutputLimitError(ExecutionError):
    """The agent wrote more than it may, and was killed."""


class CpuLimitError(ExecutionError):
    """The agent's process tree used more CPU time than it may, and was killed."""


class ProcessLimitError(ExecutionError):
    """The agent had, or wanted, more processes and threads than it may."""


class OpenFilesLimitError(ExecutionError):
    """The agent wanted more open files than it may have."""


class FileSizeLimitError(ExecutionError):
    """The agent wrote a file that is larger than it may be."""


class DiskLimitError(ExecutionError):
    """The agent put more into its working directory than it may, and was killed."""


class TimeoutError(ExecutionError, builtins.TimeoutError):
    """The agent was still running at its deadline, and was killed."""

    exit_code = 124
    http_status = 504


class MemoryLimitError(ExecutionError):
    """The agent's process tree reached its memory cap, and was killed."""

    exit_code = 137


class InterruptedError(ExecutionError, builtins.InterruptedError):
    """The run was cancelled: Ctrl-C, SIGTERM or `cancel()`."""

    exit_code = 130
    http_status = 499


class InternalError(AgentRuntimeError):
    """A bug of agenthub's own."""

    exit_code = 125


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The member of `known` that `word` most likely meant, or None."""
    from difflib import get_close_matches

    matches = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def error_class(error_type: str) -> type[AgentRuntimeError]:
    """The class that an envelope's `error_type` names; `ExecutionError` for one that an agent made up."""
    found = globals().get(error_type)
    if isinstance(found, type) and issubclass(found, AgentRuntimeError):
        return found
    return ExecutionError
