"""A virtual environment for each agent, made by uv or by virtualenv and pip.

A run imports this module and needs little of it; what makes environments is imported where it is used.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from agenthub.config import MB, EnvironmentConfig, RuntimeConfig
from agenthub.errors import AgentNotFoundError, EnvironmentError
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agenthub.manifest import AgentManifest
    from agenthub.runtime.environments.builders import Builder
    from agenthub.runtime.environments.dependencies import Dependencies
    from agenthub.runtime.environments.interpreters import Interpreter
    from agenthub.runtime.environments.pinned import Pins

    Progress = Callable[[str], None] | None

REPAIR = "agenthub doctor --fix"


PENDING_BYTECODE = "bytecode-pending"  # in an environment that has none yet


class Environment(NamedTuple):
    """An environment that was built.

    path: its directory; it may be moved, scripts in its `bin` included.
    python: the base interpreter it was made from.
    version: that interpreter's version, `"3.11.7"`.
    dependencies: name and version of each installed distribution, sorted; what virtualenv seeds is not among them.
    size: bytes of its files but for bytecode; files that uv shares with its cache count in full.
    kind: where the dependencies came from, see `Dependencies.kind`.
    seconds: how long building took.
    """

    path: str
    python: str
    version: str
    dependencies: list[tuple[str, str]]
    size: int
    kind: str
    seconds: float


class EnvironmentManager:
    """Makes, describes and checks the virtual environments of agents.

    Args:
        config: the environments' settings.
        runtime_config: says whether uv is used; without it, virtualenv and pip do the same work more slowly, and a
            `uv.lock` holds as constraints only (see `build`).
        offline: use nothing but caches.
        workshop: a directory, on the agents' file system, in which environments are built before they are moved to
            their place; that is faster than building beside it (see `environments/replacing.py`). Beside it, in
            `bytecode`, is kept what was compiled for them (see `add_bytecode`); None: nothing is compiled. Both may be
            removed while nothing is being built.
    """

    def __init__(
        self,
        config: EnvironmentConfig | None = None,
        runtime_config: RuntimeConfig | None = None,
        offline: bool = False,
        workshop: str | None = None,
    ) -> None:
        self.config = config or EnvironmentConfig()
        self.use_uv = (runtime_config or RuntimeConfig()).use_uv
        self.offline = offline
        self.workshop = workshop

    def create_environment(self, agent_path: str) -> str:
        """The agent's environment; made, without dependencies, where there is none or a broken one.

        Args:
            agent_path: the agent's directory.

        Returns:
            The path of the environment.

        Raises:
            AgentNotFoundError: there is no such directory.
            EnvironmentError: it cannot be made, or something else is in its place.
        """
        agent_dir = os.path.abspath(os.path.expanduser(agent_path))
        if not os.path.isdir(agent_dir):
            raise AgentNotFoundError(f"there is no agent directory {agent_dir}")
        venv = os.path.join(agent_dir, self.config.venv_location)
        if os.path.isdir(venv) and not self.check(venv):
            return venv
        from agenthub.manifest import MANIFEST_NAMES, load_manifest
        from agenthub.runtime.environments.replacing import replacing

        described = any(os.path.isfile(os.path.join(agent_dir, name)) for name in MANIFEST_NAMES)
        manifest = load_manifest(agent_dir) if described else None
        interpreter = self._interpreter(agent_dir, manifest, self.dependency_source(agent_dir, manifest), None)
        with replacing(
            venv, interpreter.path, workshop=self.workshop, keep_failed=not self.config.auto_cleanup
        ) as partial:
            self._builder(_name(agent_dir, manifest)).create(partial, interpreter.path, None)
        return venv

    def install_dependencies(self, venv_path: str, requirements: list[str]) -> None:
        """Install requirements into an environment.

        Args:
            venv_path: the environment.
            requirements: requirement strings; relative paths (`./wheels/x.whl`) are relative to the agent's directory.

        Raises:
            EnvironmentError: one of them cannot be installed; names it and the reason.
        """
        from agenthub.runtime.environments.state import BYTECODE, directory_size

        venv = os.path.abspath(os.path.expanduser(venv_path))
        self.get_python_executable(venv)
        if requirements:
            agent_dir = os.path.dirname(venv)
            self._builder(os.path.basename(agent_dir)).install(venv, agent_dir, requirements, None)
            self._check_size(os.path.basename(agent_dir), directory_size(venv, without=BYTECODE))
            self._await_bytecode(venv)

    def get_python_executable(self, venv_path: str) -> str:
        """The path of an environment's interpreter.

        Raises:
            EnvironmentError: it is not there, or its base interpreter is gone.
        """
        python = os.path.join(os.path.expanduser(venv_path), "bin", "python")
        if not os.access(python, os.X_OK):
            problem = "; ".join(self.check(venv_path)) or "its interpreter is missing"
            raise EnvironmentError(f"the environment {venv_path} is broken: {problem}", suggestion=REPAIR)
        return python

    def activate_environment(self, venv_path: str) -> dict[str, str]:
        """The variables of an activated environment: `VIRTUAL_ENV`, and `PATH` with its `bin` first.

        `PYTHONHOME` is not among them, and must not be set beside them.
        """
        venv = os.path.abspath(os.path.expanduser(venv_path))
        path = os.environ.get("PATH") or os.defpath
        return {"VIRTUAL_ENV": venv, "PATH": os.pathsep.join((os.path.join(venv, "bin"), path))}

    def dependency_source(self, agent_dir: str, manifest: AgentManifest | None) -> Dependencies:
        """Where the agent's dependencies are declared; see `dependencies.dependency_source`.

        Raises:
            InvalidManifestError: the manifest names a file that is not there.
        """
        from agenthub.runtime.environments.dependencies import dependency_source

        return dependency_source(agent_dir, manifest)

    def build(
        self,
        agent_dir: str,
        manifest: AgentManifest | None,
        *,
        venv_path: str | None = None,
        python: str | None = None,
        on_progress: Progress = None,
        extra: Sequence[str] = (),
        pins: Pins | None = None,
    ) -> Environment:
        """Build the agent's environment with its dependencies; one that is there is replaced when all has succeeded.

        From `uv.lock` exactly the locked set is installed. Without uv, the project's dependencies are installed by pip
        with the lock's versions as constraints, for packages that are locked in one version only.

        Args:
            agent_dir: the agent's directory; relative paths in its requirements are relative to it.
            manifest: its manifest.
            venv_path: where to build; None: `venv` (see `EnvironmentConfig.venv_location`) in the agent's directory.
            python: interpreter to use instead of what manifest and project ask for: range, version or path.
            on_progress: called with each line of the tools' output; an exception of it stops them.
            extra: further requirements.
            pins: what to install, each file with its hash, in place of what the agent declares.

        Raises:
            InvalidManifestError: the dependencies are declared in a file that is not there or cannot be read.
            EnvironmentError: no interpreter fits, a dependency cannot be installed, or the result is over
                `max_venv_size`. Nothing is left behind, and an environment that was there stays.
        """
        from agenthub.runtime.environments.replacing import replacing
        from agenthub.runtime.environments.state import BYTECODE, directory_size, distributions

        started = time.monotonic()
        agent_dir = os.path.abspath(os.path.expanduser(agent_dir))
        venv = os.path.abspath(venv_path or os.path.join(agent_dir, self.config.venv_location))
        who = _name(agent_dir, manifest)
        source = self.dependency_source(agent_dir, manifest)
        interpreter = self._interpreter(agent_dir, manifest, source, python)
        builder = self._builder(who)
        with replacing(
            venv, interpreter.path, workshop=self.workshop, keep_failed=not self.config.auto_cleanup
        ) as partial:
            builder.create(partial, interpreter.path, on_progress)
            seeded = set(distributions(partial))
            if pins is None:
                builder.install_source(partial, agent_dir, manifest, source, interpreter.path, on_progress)
            else:
                from agenthub.runtime.environments.pinned import install_pins

                install_pins(builder, partial, agent_dir, manifest, source, interpreter.path, pins, on_progress)
            if extra:
                builder.install(partial, agent_dir, extra, on_progress)
            installed = [found for found in distributions(partial) if found not in seeded]
            size = directory_size(partial, without=BYTECODE)
            self._check_size(who, size)
            self._await_bytecode(partial)
        return Environment(
            venv,
            interpreter.path,
            interpreter.version,
            installed,
            size,
            source.kind if pins is None else pins.kind,
            time.monotonic() - started,
        )

    def add_bytecode(
        self, venv_path: str, agent_dir: str | None = None, on_progress: Progress = None, *, wait: bool = False
    ) -> None:
        """Gives what is installed in an environment its bytecode, if it still has none; that this fails is no error.

        An agent may not write any. To do it here, at the first run, leaves installing as fast as the tools are; costs
        one look for a file afterwards.

        Args:
            venv_path: the environment.
            agent_dir: an agent that uses it, whose own code gets bytecode as well; None: it is none of ours.
            on_progress: called with a line before anything is compiled.
            wait: for another process that is at it; else this does nothing then.
        """
        pending = os.path.join(venv_path, PENDING_BYTECODE)
        if not self.workshop or not os.path.exists(pending):
            return
        from agenthub.runtime.environments.bytecode import add_bytecode, installed_modules, own_modules

        with suppress(OSError), open(pending, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.exists(pending):
                modules = installed_modules(venv_path)
                if agent_dir is not None:
                    modules.append(own_modules(agent_dir))
                cache = os.path.join(os.path.dirname(self.workshop), "bytecode")
                add_bytecode(venv_path, modules, cache, on_progress)
                os.unlink(pending)

    def _await_bytecode(self, venv: str) -> None:
        if self.workshop:
            with open(os.path.join(venv, PENDING_BYTECODE), "w"):
                pass

    def check(self, venv_path: str, dependencies: Iterable[tuple[str, str]] = (), *, deep: bool = False) -> list[str]:
        """What is wrong with an environment, one sentence each; empty where nothing is.

        Args:
            venv_path: the environment.
            dependencies: what was installed, as in `Environment.dependencies`.
            deep: also start its interpreter and look for each installed file. Without, no process is started and the
                cost is a few system calls.
        """
        from agenthub.runtime.environments.state import problems

        return problems(os.path.abspath(os.path.expanduser(venv_path)), dependencies, deep=deep)

    def _interpreter(
        self, agent_dir: str, manifest: AgentManifest | None, source: Dependencies, python: str | None
    ) -> Interpreter:
        from agenthub.runtime.environments.dependencies import python_request
        from agenthub.runtime.environments.interpreters import find_interpreter

        request = python or python_request(agent_dir, manifest, source)
        return find_interpreter(request, preferred=self.config.python_version, who=_name(agent_dir, manifest))

    def _builder(self, who: str) -> Builder:
        from agenthub.runtime.environments.builders import PipBuilder, UvBuilder

        kind = UvBuilder if self.use_uv else PipBuilder
        return kind(who, offline=self.offline, cache=self.config.dependency_cache)

    def _check_size(self, who: str, size: int) -> None:
        """Refuse what is too large; the size is without bytecode, which nobody asked for."""
        limit = self.config.max_venv_size * MB
        if limit and size > limit:
            from agenthub.config import format_size

            raise EnvironmentError(
                f"the environment of {who} has {format_size(size)}, over the {format_size(limit)} of max_venv_size",
                suggestion="AGENTHUB_MAX_VENV_SIZE=2GB allows more, 0 allows any size",
            )


def _name(agent_dir: str, manifest: AgentManifest | None) -> str:
    return manifest.name if manifest else os.path.basename(agent_dir)
