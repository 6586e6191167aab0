"""What an installation makes in a version's directory: its environment, and the record of it all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any

from agenthub import __version__
from agenthub.config import VENV
from agenthub.errors import InstallError, InvalidManifestError, PermissionDeniedError
from agenthub.manifest import AgentManifest
from agenthub.packages.files import remove_tree, storing
from agenthub.packages.record import InstallRecord, environment_digest, now
from agenthub.runtime.agent_runtime import needs_python
from agenthub.runtime.runs.locator import LocatedAgent
from agenthub.runtime.runs.variables import undeclared_hints
from agenthub.trust.contents import write_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agenthub.runtime.agents.installer import InstallOptions, Plan
    from agenthub.runtime.environment_manager import Environment, EnvironmentManager


def build_version(environments: EnvironmentManager, plan: Plan, place: str, options: InstallOptions) -> InstallRecord:
    """Makes what an agent needs in its version directory, and returns the record that makes it complete.

    Raises:
        EnvironmentError: its environment cannot be made.
        PermissionDeniedError: it can only be made by its own commands, which are not allowed.
    """
    manifest = plan.manifest
    located = LocatedAgent(place, plan.owner, plan.name, manifest, None)
    warnings: list[str] = []
    environment: Environment | None = None
    if needs_python(located) or plan.dependencies != "none":
        run_commands = plan.dependencies == "none" and bool(manifest.commands)
        if run_commands and not options.allow_commands:
            raise PermissionDeniedError(
                f"{manifest.name} can only be installed by its own commands: {'; '.join(manifest.commands)}",
                suggestion="--allow-commands consents to running them",
            )
        with without_leftovers(place):
            environment = environments.build(
                place,
                manifest,
                python=plan.python or options.python,
                on_progress=options.on_progress,
                extra=() if plan.pins else (*options.extra, *(("pip",) if run_commands else ())),
                pins=plan.pins,
            )
        if run_commands:
            _run_commands(manifest, place, environment, options.on_progress)
        elif manifest.commands:
            warnings.append(f"its installation commands were not run: {plan.dependencies} describes the environment")
    files = write_list(place, environments.config.venv_location)
    if environment is not None and options.compile_bytecode:
        environments.add_bytecode(environment.path, place, options.on_progress, wait=True)
    hints = undeclared_hints(manifest, place, _package_names(environment))
    return _record(plan, options, environment, warnings, hints)._replace(environment_files=files)


@contextmanager
def without_leftovers(place: str) -> Iterator[None]:
    """Removes what builds of an agent's own project leave in its directory, which stays what was fetched."""
    before = {*os.listdir(place), VENV}
    yield
    for name in os.listdir(place):
        if name not in before:
            with storing("clean up", place):
                remove_tree(os.path.join(place, name))


def _record(
    plan: Plan, options: InstallOptions, environment: Environment | None, warnings: list[str], hints: list[str]
) -> InstallRecord:
    record = InstallRecord(
        owner=plan.owner,
        name=plan.name,
        version=plan.manifest.version,
        source=plan.fetched.source,
        digest=plan.fetched.digest,
        installed_at=now(),
        tool_version=__version__,
        interpreter=None,
        dependencies=[],
        environment="none",
        size={"code": plan.fetched.bytes, "environment": 0},
        manifest=plan.manifest.to_compiled(),
        warnings=warnings,
        hints=hints,
        requested=requested(options),
    )
    return record._replace(**environment_fields(record, environment)) if environment else record


def requested(options: InstallOptions) -> dict[str, Any]:
    """What the user asks for besides the agent, as a record keeps it."""
    asked = {"python": options.python, "with": list(options.extra)}
    return {key: value for key, value in asked.items() if value}


def environment_fields(record: InstallRecord, environment: Environment) -> dict[str, Any]:
    """What a record says of an environment."""
    interpreter = {"path": environment.python, "version": environment.version}
    dependencies = [{"name": name, "version": version} for name, version in environment.dependencies]
    return {
        "interpreter": interpreter,
        "dependencies": dependencies,
        "environment_digest": environment_digest(record.digest, interpreter, dependencies),
        "environment": environment.kind,
        "size": {**record.size, "environment": environment.size},
    }


def _package_names(environment: Environment | None) -> list[str]:
    return [name for name, _ in environment.dependencies] if environment else []


def _run_commands(
    manifest: AgentManifest, place: str, environment: Environment, on_progress: Callable[[str], None] | None
) -> None:
    """Runs a manifest's installation commands: without a shell, in its environment; the first failure ends it."""
    import shlex

    from agenthub.runtime.environments.tools import run_tool, tool_environment

    path = os.pathsep.join((os.path.join(environment.path, "bin"), os.environ.get("PATH") or os.defpath))
    # A `pip` that is not the environment's must not install into the user's Python.
    env = {**tool_environment(environment.path), "PATH": path, "PIP_REQUIRE_VIRTUALENV": "1"}
    for command in manifest.commands:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise InvalidManifestError(f"{manifest.name}: installation command {command!r}: {error}") from None
        finished = run_tool(words, cwd=place, env=env, on_line=on_progress)
        if finished.code != 0:
            raise InstallError(
                f"{manifest.name}: its installation command failed with status {finished.code}: {command}",
                details=finished.lines[-20:],
            )
