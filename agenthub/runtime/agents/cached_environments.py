"""Environments of agents that are run without being installed: kept in the cache, by what they are made from."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from weakref import WeakKeyDictionary, finalize

from agenthub.config import IN_USE
from agenthub.errors import AgentNotFoundError
from agenthub.packages.files import storing
from agenthub.packages.locks import acquire, hold
from agenthub.runtime.agents.run_cache import requested_python
from agenthub.runtime.environments.dependencies import needs_project

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.runs.locator import LocatedAgent

_held: WeakKeyDictionary[AgentRuntime, set[str]] = WeakKeyDictionary()
_SOURCES = ("uv.lock", "pyproject.toml", "requirements.txt")


def cached_environment(
    runtime: AgentRuntime, agent: LocatedAgent, on_progress: Callable[[str], None] | None = None
) -> str:
    """The interpreter of the agent's cached environment, which is built if it is not there or broken.

    Raises:
        EnvironmentError: it cannot be built.
        StoreError: the cache cannot be written.
    """
    environments = os.path.join(runtime.settings.paths.cache, "environments")
    venv = os.path.join(environments, _key(runtime, agent))
    manager = runtime.environment_manager
    if not os.path.isdir(venv) or manager.check(venv):
        with storing("write", environments):
            os.makedirs(environments, mode=0o700, exist_ok=True)
            lock = acquire(venv + ".lock")
        try:
            if not os.path.isdir(venv) or manager.check(venv):
                manager.build(
                    agent.directory,
                    agent.manifest,
                    venv_path=venv,
                    python=requested_python(runtime),
                    on_progress=on_progress,
                )
                make_holdable(venv)
        finally:
            os.close(lock)
        _keep(runtime, venv)
        from agenthub.runtime.agents.cache_limit import limit_cache

        limit_cache(runtime.settings.paths, runtime.settings["cache_size"], keep=(venv, agent.directory))
    _keep(runtime, venv)
    return manager.get_python_executable(venv)


def make_holdable(directory: str) -> None:
    """Puts the file into a directory of the cache by which runs keep it from being removed."""
    path = os.path.join(directory, IN_USE)
    with storing("write", path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _keep(runtime: AgentRuntime, venv: str) -> None:
    """Holds an environment as long as `runtime` lives, and notes that it was used now."""
    held = _held.setdefault(runtime, set())
    if venv not in held:
        with suppress(AgentNotFoundError):
            finalize(runtime, hold(venv).close)
            held.add(venv)
    with suppress(OSError):  # a cache that cannot be written is used as it is
        os.utime(os.path.join(venv, IN_USE))


def is_fetched(runtime: AgentRuntime, agent: LocatedAgent) -> bool:
    """Whether an agent's directory is ours; nothing is written into a user's."""
    return agent.directory.startswith(os.path.realpath(os.path.join(runtime.settings.paths.cache, "sources")) + os.sep)


def _key(runtime: AgentRuntime, agent: LocatedAgent) -> str:
    manifest = agent.manifest
    made_from = [
        manifest.dependencies,
        manifest.python_version,
        requested_python(runtime),
        runtime.environment_manager.use_uv,
        runtime.environment_manager.config.python_version,
    ]
    digest = hashlib.sha256(json.dumps(made_from).encode())
    for name in _SOURCES:
        try:
            with open(os.path.join(agent.directory, name), "rb") as file:
                digest.update(name.encode() + b"\0" + file.read() + b"\0")
        except OSError:
            continue
    if needs_project(agent.directory, manifest):  # its own code is installed, and changes
        from agenthub.packages.tree import tree_digest

        digest.update(tree_digest(agent.directory).encode())
    return f"{manifest.name.lower()}-{digest.hexdigest()[:16]}"
