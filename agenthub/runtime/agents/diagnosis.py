"""What is right and wrong with this machine and with everything installed; and mending what can be mended."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple

from agenthub.config import format_size
from agenthub.errors import AgentRuntimeError
from agenthub.runtime.agents.installer import AgentInstaller
from agenthub.runtime.runs.locator import locate_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agenthub.runtime.agent_runtime import AgentRuntime

LOW_DISK = 1024**3  # bytes; an environment with a data library takes a few hundred MB


class Check(NamedTuple):
    """One thing that was looked at.

    `state` is `"ok"`, `"warning"` or `"error"`; `remedy` is what would change it.
    """

    topic: str
    state: str
    message: str
    remedy: str = ""


def examine_machine(
    runtime: AgentRuntime, *, fix: bool = False, on_progress: Callable[[str], None] | None = None
) -> list[Check]:
    """Looks at tools, interpreters, store, disk, every agent's environment, and what can be enforced here.

    Args:
        runtime: whose settings and store are meant.
        fix: also mends: sweeps what dead processes left, and builds broken environments again.
        on_progress: called with a line of what is being done.
    """
    say = on_progress or (lambda line: None)
    checks = [
        *_tools(runtime),
        *_store(runtime, fix),
        *_agents(runtime, fix, say),
        *_history(runtime, fix),
        _disk(runtime),
        *_isolation(runtime),
    ]
    order = {"error": 0, "warning": 1, "ok": 2}
    return sorted(checks, key=lambda check: order[check.state])


def _tools(runtime: AgentRuntime) -> Iterator[Check]:
    from agenthub.runtime.environments.interpreters import available_interpreters
    from agenthub.runtime.environments.tools import find_uv, run_tool, tool_environment

    if runtime.environment_manager.use_uv:
        try:
            uv = find_uv()
            grace = runtime.runtime_config.subprocess_timeout
            version = run_tool([uv, "--version"], cwd="/", env=tool_environment(), timeout=grace).lines
            yield Check("uv", "ok", f"{version[0] if version else 'uv'}, {uv}")
        except AgentRuntimeError as error:
            yield Check("uv", "error", error.message, error.suggestion or "")
    else:
        yield Check("uv", "warning", "turned off: virtualenv and pip are used", "agenthub config unset use_uv")
    try:
        found = available_interpreters()
        versions = ", ".join(dict.fromkeys(interpreter.version for interpreter in found))
        state = "ok" if found else "error"
        yield Check("python", state, versions or "no interpreter was found", "" if found else "install Python ≥ 3.11")
    except AgentRuntimeError as error:
        yield Check("python", "error", error.message, error.suggestion or "")
    if shutil.which("git") is None:
        yield Check("git", "warning", "not installed: agents cannot be installed from git", "install git")
    else:
        yield Check("git", "ok", "installed")


def _store(runtime: AgentRuntime, fix: bool) -> Iterator[Check]:
    from agenthub.config import scratch_base
    from agenthub.runtime.processes.scratch import sweep

    home = runtime.settings.paths.home
    if os.path.lexists(home) and not os.path.isdir(home):
        yield Check(
            "store", "error", f"{home} is not a directory", "move it away, or set AGENTHUB_HOME to another path"
        )
        return
    if not os.path.isdir(home):
        yield Check("store", "ok", f"{home}: empty")
        return
    if not os.access(home, os.W_OK):
        yield Check(
            "store", "warning", f"{home} cannot be written: agents run, and none can be installed", f"chmod u+w {home}"
        )
        return
    try:
        if fix:
            swept = runtime.store.sweep(thorough=True) + sweep(scratch_base())
            if swept:
                yield Check("store", "ok", f"removed {len(swept)} leftovers of processes that were killed")
        runtime.store.list_agents()
        yield Check("store", "ok", home)
    except AgentRuntimeError as error:
        yield Check("store", "error", error.message, error.suggestion or "")


def _agents(runtime: AgentRuntime, fix: bool, say: Callable[[str], None]) -> Iterator[Check]:
    installer = AgentInstaller(runtime)
    try:
        entries = runtime.store.list_agents()
    except AgentRuntimeError:
        return  # the store's own check says so
    healthy = 0
    for entry in entries:
        label = f"{entry.owner}/{entry.name}"
        say(f"checking {label}")
        try:
            agent = locate_directory(runtime.store.current_version_dir(entry.owner, entry.name), runtime.store)
            problems = installer.problems(agent, deep=True)
            if problems and fix and not entry.project:
                say(f"rebuilding {label}")
                installer.repair(agent, say)
                problems = installer.problems(agent, deep=True)
                if not problems:
                    yield Check(label, "ok", "its environment was rebuilt")
        except AgentRuntimeError as error:
            yield Check(label, "error", error.message, error.suggestion or "install it again, or uninstall it")
            continue
        if problems:
            yield Check(
                label,
                "error",
                f"its environment is broken: {'; '.join(problems[:3])}",
                "agenthub sync" if entry.project else "agenthub doctor --fix",
            )
        else:
            healthy += 1
    yield Check(
        "agents", "ok" if healthy == len(entries) else "warning", f"{len(entries)} installed, {healthy} healthy"
    )


def _history(runtime: AgentRuntime, fix: bool) -> Iterator[Check]:
    """Where it cannot be read, runs go on all the same."""
    from agenthub.observability.history import History
    from agenthub.observability.retention import forget

    settings = runtime.settings
    directory, said = settings.paths.history, list[str]()
    try:
        with History(directory, said.append) as history:
            history.refresh()
        if fix:
            forget(directory, settings["history_age"], settings["history_size"])
    except AgentRuntimeError as error:
        yield Check("history", "warning", error.message, error.suggestion or "")
        return
    yield from (Check("history", "warning", sentence) for sentence in said)
    if not said and os.path.isdir(directory):
        yield Check("history", "ok", directory)


def _disk(runtime: AgentRuntime) -> Check:
    place = runtime.settings.paths.home
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free
    if free < LOW_DISK:
        return Check(
            "disk", "warning", f"only {format_size(free)} free at {place}", "agenthub cache clean; uv cache prune"
        )
    return Check("disk", "ok", f"{format_size(free)} free")


def _isolation(runtime: AgentRuntime) -> Iterator[Check]:
    """What a run is held to on this machine, guarantee by guarantee."""
    from agenthub.runtime.runs.explanation import all_guarantees
    from agenthub.runtime.sandbox.tiers import probe_tiers

    for guarantee in all_guarantees(probe_tiers()):
        yield Check(f"isolation: {guarantee.name}", guarantee.state, guarantee.message, guarantee.remedy)
    level = runtime.settings.lookup("sandbox")
    if level.value == "off":
        yield Check(
            "isolation: setting",
            "warning",
            f"it is turned off ({level.source})",
            "agenthub config unset sandbox",
        )
