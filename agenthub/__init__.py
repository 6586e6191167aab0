"""agenthub: the package manager and runner for AI agents.

    import agenthub

    agent = agenthub.load_agent("data-analyst")
    rows = agent.query(file="sales.csv", sql="select region, sum(amount) from data group by 1")

Importing this costs next to nothing; each name is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.agent import Agent, FileResult, load_agent
    from agenthub.config import EnvironmentConfig, RuntimeConfig, Settings
    from agenthub.errors import (
        AgentNotFoundError,
        AgentRuntimeError,
        CpuLimitError,
        DiskLimitError,
        EnvironmentError,
        ExecutionError,
        FileSizeLimitError,
        InstallError,
        InternalError,
        InterruptedError,
        InvalidInputError,
        InvalidManifestError,
        MemoryLimitError,
        MethodNotFoundError,
        OpenFilesLimitError,
        OutputLimitError,
        PermissionDeniedError,
        ProcessLimitError,
        TimeoutError,
        UnreachableError,
    )
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.environment_manager import EnvironmentManager
    from agenthub.runtime.process_manager import ProcessManager

__version__ = "0.1.0"

_HOMES = {
    "agenthub.agent": ("Agent", "FileResult", "load_agent"),
    "agenthub.config": ("EnvironmentConfig", "RuntimeConfig", "Settings"),
    "agenthub.errors": (
        "AgentNotFoundError",
        "AgentRuntimeError",
        "CpuLimitError",
        "DiskLimitError",
        "EnvironmentError",
        "ExecutionError",
        "FileSizeLimitError",
        "InstallError",
        "InternalError",
        "InterruptedError",
        "InvalidInputError",
        "InvalidManifestError",
        "MemoryLimitError",
        "MethodNotFoundError",
        "OpenFilesLimitError",
        "OutputLimitError",
        "PermissionDeniedError",
        "ProcessLimitError",
        "TimeoutError",
        "UnreachableError",
    ),
    "agenthub.runtime.agent_runtime": ("AgentRuntime",),
    "agenthub.runtime.environment_manager": ("EnvironmentManager",),
    "agenthub.runtime.process_manager": ("ProcessManager",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Agent",
    "AgentNotFoundError",
    "AgentRuntime",
    "AgentRuntimeError",
    "CpuLimitError",
    "DiskLimitError",
    "EnvironmentConfig",
    "EnvironmentError",
    "EnvironmentManager",
    "ExecutionError",
    "FileResult",
    "FileSizeLimitError",
    "InstallError",
    "InternalError",
    "InterruptedError",
    "InvalidInputError",
    "InvalidManifestError",
    "MemoryLimitError",
    "MethodNotFoundError",
    "OpenFilesLimitError",
    "OutputLimitError",
    "PermissionDeniedError",
    "ProcessLimitError",
    "ProcessManager",
    "RuntimeConfig",
    "Settings",
    "TimeoutError",
    "UnreachableError",
    "__version__",
    "load_agent",
]


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        import importlib

        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'agenthub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
