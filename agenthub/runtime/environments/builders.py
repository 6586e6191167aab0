"""The two ways to make an environment: uv, and virtualenv with pip."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Protocol

from agenthub.errors import EnvironmentError
from agenthub.runtime.environments.dependencies import (
    LOCK,
    PROJECT,
    REQUIREMENTS,
    Dependencies,
    locked_constraints,
    needs_project,
    project_name,
    read_project,
)
from agenthub.runtime.environments.failures import failed_installation, reason_lines
from agenthub.runtime.environments.state import python_path
from agenthub.runtime.environments.tools import find_uv, run_tool, tool_environment, uv_config_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agenthub.manifest import AgentManifest

    Progress = Callable[[str], None] | None


class Builder(Protocol):
    """Makes an environment and fills it. All raise EnvironmentError, naming the agent."""

    def create(self, venv: str, python: str, on_progress: Progress) -> None:
        """Make an empty, movable environment from a base interpreter."""

    def install(self, venv: str, agent_dir: str, requirements: Sequence[str], on_progress: Progress) -> None:
        """Install requirement strings."""

    def install_source(
        self,
        venv: str,
        agent_dir: str,
        manifest: AgentManifest | None,
        source: Dependencies,
        python: str,
        on_progress: Progress,
    ) -> None:
        """Install what the agent declares, and its own project where its entry point needs that."""

    def install_pins(
        self, venv: str, agent_dir: str, pins: str | None, own_project: bool, on_progress: Progress
    ) -> None:
        """Install what the requirements file `pins` fixes by hashes and nothing else; then the agent's own project."""

    def install_wheels(self, venv: str, wheels: str, cache: str, pins: str, on_progress: Progress) -> None:
        """Install what `pins` fixes by hashes from the wheels in a directory, without looking anywhere else."""


def check_requirements(who: str, requirements: Sequence[str]) -> list[str]:
    """Requirements ready for a command line; a leading dash would be an option, even after `--` in a file."""
    for requirement in requirements:
        if requirement.lstrip().startswith("-") or not requirement.strip() or "\n" in requirement:
            raise EnvironmentError(
                f"cannot install '{requirement}' for {who}: it is not written as a requirement",
                suggestion="write for example requests>=2.31; options belong into a requirements.txt",
            )
    return list(requirements)


class UvBuilder:
    """Environments by uv: two processes, of which the second is left out where nothing is to be installed."""

    def __init__(self, who: str, *, offline: bool, cache: bool) -> None:
        self._who = who
        self._uv = find_uv()
        self._common = [*uv_config_options()]
        if offline:
            self._common.append("--offline")
        if not cache:
            self._common.append("--no-cache")

    def create(self, venv: str, python: str, on_progress: Progress) -> None:
        # Movable, since installing renames what it built; its prompt would be the temporary name.
        command = ["venv", "--quiet", "--no-project", "--relocatable", "--prompt", self._who, "--python", python, venv]
        finished = self._run(command, venv, os.path.dirname(venv), on_progress)
        if finished:
            raise EnvironmentError(
                f"cannot make the environment of {self._who} from {python}", details=reason_lines(finished)
            )

    def install(self, venv: str, agent_dir: str, requirements: Sequence[str], on_progress: Progress) -> None:
        self._pip(venv, agent_dir, ["--", *check_requirements(self._who, requirements)], requirements, on_progress)

    def install_source(
        self,
        venv: str,
        agent_dir: str,
        manifest: AgentManifest | None,
        source: Dependencies,
        python: str,
        on_progress: Progress,
    ) -> None:
        project = needs_project(agent_dir, manifest)
        if source.kind == LOCK:
            self._sync(venv, agent_dir, python, project, on_progress)
            return
        arguments: list[str] = []
        if project and project_name(agent_dir):
            # uv reuses a build of the same directory while its project file is unchanged; its code may have changed.
            arguments += ["--refresh-package", project_name(agent_dir)]
        if source.kind == REQUIREMENTS or (source.kind == PROJECT and not project):
            arguments += ["--requirements", source.kind]
        own = ["."] if project else []
        requirements = check_requirements(self._who, source.requirements)
        if own or requirements:
            arguments += ["--", *requirements, *own]
        if arguments:
            self._pip(venv, agent_dir, arguments, requirements, on_progress)

    def install_pins(
        self, venv: str, agent_dir: str, pins: str | None, own_project: bool, on_progress: Progress
    ) -> None:
        if pins is not None:
            self._pip(venv, agent_dir, ["--require-hashes", "--requirements", pins], (), on_progress)
        if own_project:
            arguments = ["--no-deps", "--refresh-package", project_name(agent_dir), "--", "."]
            self._pip(venv, agent_dir, arguments, (), on_progress)

    def install_wheels(self, venv: str, wheels: str, cache: str, pins: str, on_progress: Progress) -> None:
        # A cache of its own: the directory is a passing one, and would leave what nobody finds again in the user's.
        offline = [] if "--offline" in self._common else ["--offline"]
        arguments = [*offline, "--no-index", "--no-build", "--find-links", wheels, "--cache-dir", cache]
        arguments += ["--no-deps", "--require-hashes", "--requirements", pins]
        self._pip(venv, wheels, arguments, (), on_progress)

    def _sync(self, venv: str, agent_dir: str, python: str, project: bool, on_progress: Progress) -> None:
        # `--python`: else a `.python-version` file of the agent would have the environment made anew. `--no-editable`:
        # a link to where the agent was built would dangle once it is installed.
        command = [
            "sync",
            "--frozen",
            "--no-default-groups",
            "--no-editable",
            "--project",
            agent_dir,
            "--python",
            python,
        ]
        command += ["--reinstall-package", project_name(agent_dir)] if project else ["--no-install-project"]
        failed = self._run(command, venv, agent_dir, on_progress)
        if failed:
            raise failed_installation(self._who, "uv", failed)

    def _pip(
        self, venv: str, agent_dir: str, arguments: list[str], requirements: Sequence[str], on_progress: Progress
    ) -> None:
        failed = self._run(["pip", "install", *arguments], venv, agent_dir, on_progress)
        if failed:
            raise failed_installation(self._who, "uv", failed, requirements)

    def _run(self, command: list[str], venv: str, cwd: str, on_progress: Progress) -> list[str]:
        """Run uv; its output where it failed, else nothing."""
        size = 2 if command[0] == "pip" else 1
        argv = [self._uv, *command[:size], *self._common, *command[size:]]
        finished = run_tool(argv, cwd=cwd, env=tool_environment(venv), on_line=on_progress)
        if not finished.code:
            return []
        return finished.lines or [f"error: uv ended with status {finished.code}"]


class PipBuilder:
    """Environments by virtualenv, filled by the pip that it puts into them from a wheel of its own.

    `[tool.uv]` is not understood: sources and indexes that only uv knows are an error of pip's here. Offline, pip
    takes what `PIP_FIND_LINKS` names: it has no way to install from its cache alone.
    """

    def __init__(self, who: str, *, offline: bool, cache: bool) -> None:
        self._who = who
        self._options = (["--no-index"] if offline else []) + ([] if cache else ["--no-cache-dir"])

    def create(self, venv: str, python: str, on_progress: Progress) -> None:
        if importlib.util.find_spec("virtualenv") is None:
            raise EnvironmentError(
                "virtualenv, which makes environments without uv, is missing from agenthub's own installation",
                suggestion=f"{sys.executable} -m pip install virtualenv   (or AGENTHUB_USE_UV=true)",
            )
        # No activation scripts: they hold the path, and an environment may be moved.
        options = [
            "--no-download",
            "--no-periodic-update",
            "--no-setuptools",
            "--activators",
            "",
            "--prompt",
            self._who,
        ]
        argv = [sys.executable, "-I", "-m", "virtualenv", *options, "--python", python, venv]
        finished = run_tool(argv, cwd=os.path.dirname(venv), env=tool_environment(), on_line=on_progress)
        if finished.code:
            raise EnvironmentError(
                f"cannot make the environment of {self._who} from {python}", details=finished.lines[-5:]
            )

    def install(self, venv: str, agent_dir: str, requirements: Sequence[str], on_progress: Progress) -> None:
        self._pip(venv, agent_dir, ["--", *check_requirements(self._who, requirements)], requirements, on_progress)

    def install_source(
        self,
        venv: str,
        agent_dir: str,
        manifest: AgentManifest | None,
        source: Dependencies,
        python: str,
        on_progress: Progress,
    ) -> None:
        arguments: list[str] = []
        requirements = check_requirements(self._who, source.requirements)
        project = needs_project(agent_dir, manifest)
        if source.kind in (LOCK, PROJECT) and not project:
            declared = read_project(agent_dir).get("project", {})
            # What a build backend computes is known by building only.
            project = "dependencies" in declared.get("dynamic", ())
            requirements = check_requirements(self._who, declared.get("dependencies", ()))
        if source.kind == LOCK:
            constraints = os.path.join(venv, "constraints.txt")
            with open(constraints, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in locked_constraints(agent_dir))
            arguments += ["--constraint", constraints]
        if source.kind == REQUIREMENTS:
            arguments += ["--requirement", REQUIREMENTS]
        own = ["."] if project else []
        if own or requirements or source.kind == REQUIREMENTS:
            self._pip(venv, agent_dir, [*arguments, "--", *requirements, *own], requirements, on_progress)
        if source.kind == LOCK:
            os.unlink(constraints)

    def install_pins(
        self, venv: str, agent_dir: str, pins: str | None, own_project: bool, on_progress: Progress
    ) -> None:
        if pins is not None:
            self._pip(venv, agent_dir, ["--require-hashes", "--requirement", pins], (), on_progress)
        if own_project:
            self._pip(venv, agent_dir, ["--no-deps", "--", "."], (), on_progress)

    def install_wheels(self, venv: str, wheels: str, cache: str, pins: str, on_progress: Progress) -> None:
        arguments = ["--no-index", "--only-binary", ":all:", "--find-links", wheels, "--no-cache-dir"]
        arguments += ["--no-deps", "--require-hashes", "--requirement", pins]
        self._pip(venv, wheels, arguments, (), on_progress)

    def _pip(
        self, venv: str, agent_dir: str, arguments: list[str], requirements: Sequence[str], on_progress: Progress
    ) -> None:
        argv = [python_path(venv), "-I", "-m", "pip", "--no-input", "install", *self._options, *arguments]
        finished = run_tool(argv, cwd=agent_dir, env=tool_environment(venv), on_line=on_progress)
        if finished.code:
            raise failed_installation(self._who, "pip", finished.lines, requirements)
        _make_scripts_movable(venv)


# What uv writes into movable environments: the shell starts the interpreter beside the script.
_MOVABLE = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""


def _make_scripts_movable(venv: str) -> None:
    folder = os.path.join(venv, "bin")
    python = os.fsencode(python_path(venv))
    # pip's two forms: directly, and by the shell where the path is too long for the kernel.
    headers = (b"#!%s\n" % python, b"#!/bin/sh\n'''exec' %s \"$0\" \"$@\"\n' '''\n" % python)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "r+b") as file:
            content = file.read()
            header = next(filter(content.startswith, headers), None)
            if header:
                file.seek(0)
                file.write(_MOVABLE + content[len(header) :])
                file.truncate()
