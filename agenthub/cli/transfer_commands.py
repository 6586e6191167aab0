"""`agenthub bundle`, and `install` of one."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from agenthub.cli.output import printable
from agenthub.config import Settings, format_size
from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from agenthub.cli.output import Output
    from agenthub.cli.progress import Progress
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.installer import InstallOptions, Plan
    from agenthub.transfer.bundles import Bundled
    from agenthub.transfer.opening import Opened


def configure_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "agents", nargs="*", metavar="AGENT", help="which; without: what the project's lock fixes, or else all of yours"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the bundle; by default NAME-VERSION.agentbundle")
    parser.add_argument("--project", action="store_true", help="what agents.lock fixes, and nothing else")
    parser.add_argument(
        "--allow-file", action="append", default=[], metavar="PATH", help="a file of an agent that looks like a secret"
    )
    parser.add_argument("--offline", action="store_true", help="take wheels from where PIP_FIND_LINKS says, and caches")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def bundle(arguments: argparse.Namespace, output: Output) -> int:
    """Makes one file of agents and their packages, for machines without a network."""
    from agenthub.packages.project_links import find_project, require_project
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.transfer.bundles import bundle_agents, bundle_project

    if arguments.project and arguments.agents:
        raise InvalidInputError("--project bundles what agents.lock fixes; leave out the AGENTs")
    runtime = AgentRuntime(Settings({"offline": arguments.offline or None}))
    project = require_project() if arguments.project else None if arguments.agents else find_project()
    with output.progress("bundling") as progress:
        if project is not None:
            bundled = bundle_project(runtime, project, arguments.output, arguments.allow_file, progress.update)
        else:
            bundled = bundle_agents(runtime, arguments.agents, arguments.output, arguments.allow_file, progress.update)
    if arguments.json:
        output.json(_bundle_document(bundled))
        return 0
    count = len(bundled.agents)
    parts = [f"{count} agent{'s' * (count != 1)}", f"{bundled.wheels} wheel{'s' * (bundled.wheels != 1)}"]
    parts += [format_size(bundled.written.size), *([f"for {bundled.platform.label}"] if bundled.wheels else [])]
    output.note(f"✓ {printable(bundled.path)}: {', '.join(parts)}")
    output.detail(bundled.written.digest)
    return 0


def _bundle_document(bundled: Bundled) -> dict[str, Any]:
    agents = [
        {
            **{key: getattr(entry, key) for key in ("owner", "name", "version", "digest", "python")},
            "wheels": sorted(path.rpartition("/")[2] for path in entry.wheels or ()),
        }
        for entry in bundled.agents
    ]
    needed = bundled.platform
    platform = {**needed._asdict(), "libc_version": ".".join(map(str, needed.libc_version)) if needed.libc else ""}
    return {
        "path": bundled.path,
        "digest": bundled.written.digest,
        "bytes": bundled.written.size,
        "agents": agents,
        "platform": platform,
    }


# install FILE.agentbundle --------------------------------------------------------------------------------------------

_OF_SPECS = {"identity": "--as", "python": "--python", "extra": "--with", "env": "--env", "index": "--index"}


def install_bundle(path: str, arguments: argparse.Namespace, output: Output) -> list[dict[str, object]]:
    """Installs what a bundle has, without the network; returns what is reported of each agent."""
    from agenthub.packages.store import Store
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.transfer.installing import bundled_project, opened_bundle

    for name, flag in _OF_SPECS.items():
        if getattr(arguments, name):
            raise InvalidInputError(f"{flag} does not go with a bundle: it has its agents as they were installed")
    runtime = AgentRuntime(Settings({"offline": True}))
    with ExitStack() as stack:
        with output.progress(f"checking {path}"):
            opened = stack.enter_context(opened_bundle(runtime, path, Store(runtime.settings.paths)))
            project = bundled_project(opened)
        if project is not None:
            return _sync(runtime, opened, project, arguments, output)
        with output.progress(f"installing {path}") as progress:
            return _install_agents(runtime, opened, arguments, output, progress)


class _DryRun(Exception):
    """Unwinds an installation after what it would do was shown."""


def _install_agents(
    runtime: AgentRuntime, opened: Opened, arguments: argparse.Namespace, output: Output, progress: Progress
) -> list[dict[str, object]]:
    from agenthub.runtime.agents.installer import AgentInstaller
    from agenthub.transfer.installing import install_entries

    def consent(plans: Sequence[Plan]) -> None:
        with progress.paused():
            ask_for_agents(plans, runtime, output, yes=arguments.yes, force=arguments.force, dry=arguments.dry_run)
        if arguments.dry_run:
            raise _DryRun

    installer = AgentInstaller(runtime)
    try:
        done = install_entries(installer, opened, opened.entries, _options(arguments, progress), consent)
    except _DryRun:
        return [
            {"spec": opened.path, "owner": one.owner, "name": one.name, "version": one.version, "dry_run": True}
            for one in opened.entries
        ]
    reports: list[dict[str, object]] = []
    for entry, installed in done:
        record = installed.record
        if installed.changed:
            output.note(f"✓ {entry.label} {printable(record.version)}        next: agenthub info {record.name}")
        else:
            output.detail(f"{entry.label} {printable(record.version)} is installed already")
        for warning in record.warnings if installed.changed else ():
            output.detail(warning)
        facts = {key: getattr(record, key) for key in ("owner", "name", "version", "digest")}
        reports.append({"spec": opened.path, **facts, "changed": installed.changed, "path": installed.directory})
    return reports


def _options(arguments: argparse.Namespace, progress: Progress) -> InstallOptions:
    from agenthub.runtime.agents.installer import InstallOptions

    return InstallOptions(
        force=arguments.force, compile_bytecode=arguments.compile_bytecode, on_progress=progress.update
    )


def ask_for_agents(
    plans: Sequence[Plan], runtime: AgentRuntime, output: Output, *, yes: bool, force: bool, dry: bool = False
) -> None:
    """Shows agents that would be installed, and asks once for all of them unless the options answer.

    Raises:
        PermissionDeniedError: refused, or nobody could be asked.
    """
    from agenthub.cli.consent import describe, inherited, more_than_before, plain

    replaced = [plan for plan in plans if plan.current and plan.current.digest != plan.fetched.digest]
    more = False
    for plan in plans:
        source = plan.fetched.source
        came = source.get("origin") or " of ".join(filter(None, (source["location"], source.get("index"))))
        for line in describe(plan.manifest, plain(f"{plan.owner}/{plan.name}, from {came}"), runtime):
            output.note(line)
        for line in inherited(plan):
            output.note(line)
        if extra := plan.fetched.notes:
            output.note(f"  note           {plain(', '.join(extra))}")
        phrases = more_than_before(plan)
        more = more or bool(phrases)
        for phrase in phrases:
            output.note(f"  asks for more  it may now also {phrase}")
        if plan in replaced and plan.current is not None:
            output.note(f"  replaces       {plain(plan.current.version)}")
    if dry or (yes and (force or not replaced)):
        return
    what = f"{plans[0].owner}/{plans[0].name}" if len(plans) == 1 else f"these {len(plans)} agents"
    output.confirm(f"Install {what}?", "--force --yes" if replaced or more else "--yes")


def _sync(
    runtime: AgentRuntime, opened: Opened, project: str, arguments: argparse.Namespace, output: Output
) -> list[dict[str, object]]:
    """Makes this machine as the project's lock says, from the bundle."""
    from agenthub.cli.project_commands import project_manager, tell
    from agenthub.transfer.installing import BundleSupply

    if arguments.dry_run:
        raise InvalidInputError(
            "--dry-run does not go with the bundle of the project here", suggestion="agenthub sync --check looks"
        )
    arguments.offline = True
    supply = BundleSupply(runtime, opened)
    with project_manager(project, arguments, output, f"syncing from {opened.path}", supply) as manager:
        outcome = manager.sync(frozen=True)
    tell(outcome, output)
    return [
        {
            "spec": opened.path,
            "owner": one.owner,
            "name": one.name,
            "version": one.version,
            "changed": one.changed,
            "path": one.directory,
        }
        for one in outcome.synced
    ]
