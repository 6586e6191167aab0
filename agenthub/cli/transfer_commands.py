"""`agenthub bundle`, `export` and `import`, and `install` of a bundle."""

from __future__ import annotations

import argparse
from contextlib import ExitStack, suppress

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
    from agenthub.runtime.agents.installer import Installed, InstallOptions, Plan
    from agenthub.transfer.bundles import Bundled
    from agenthub.transfer.entries import AgentEntry
    from agenthub.transfer.importing import Import
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
    more, replaced = show_agents(plans, runtime, output)
    if dry or (yes and (force or not replaced)):
        return
    what = f"{plans[0].owner}/{plans[0].name}" if len(plans) == 1 else f"these {len(plans)} agents"
    output.confirm(f"Install {what}?", "--force --yes" if replaced or more else "--yes")


def show_agents(plans: Sequence[Plan], runtime: AgentRuntime, output: Output) -> tuple[bool, bool]:
    """Shows agents that would be installed; whether one asks for more than it did, and whether one replaces another."""
    from agenthub.cli.consent import describe, inherited, more_than_before, plain

    more = replaces = False
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
        if plan.current is not None and plan.current.digest != plan.fetched.digest:
            replaces = True
            output.note(f"  replaces       {plain(plan.current.version)}")
    return more, replaces


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
    supply = BundleSupply(runtime, opened, built=arguments.force and arguments.yes)
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


# export and import ---------------------------------------------------------------------------------------------------


def configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the file to write; nobody but you may read it")
    parser.add_argument("--wheels", action="store_true", help="with the packages of agents, for a machine as this one")
    parser.add_argument("--history", action="store_true", help="with what was run: inputs and results as well")
    parser.add_argument(
        "--allow-file", action="append", default=[], metavar="PATH", help="a file of an agent that looks like a secret"
    )
    parser.add_argument("--offline", action="store_true", help="use nothing but caches")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def export(arguments: argparse.Namespace, output: Output) -> int:
    """Writes agents, grants, settings, indexes and keys to one file; of secrets the names."""
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.transfer.exporting import export_setup

    runtime = AgentRuntime(Settings({"offline": arguments.offline or None}))
    with output.progress("exporting") as progress:
        done = export_setup(
            runtime,
            arguments.file,
            arguments.allow_file,
            progress.update,
            wheels=arguments.wheels,
            history=arguments.history,
        )
    for problem in done.problems:
        output.warning(printable(problem))
    if arguments.json:
        agents = [{key: getattr(one, key) for key in ("owner", "name", "version", "digest")} for one in done.agents]
        output.json(
            {
                "path": done.path,
                "digest": done.written.digest,
                "bytes": done.written.size,
                "agents": agents,
                "settings": done.setup.settings,
                "indexes": [source.name for source in done.setup.indexes],
                "secrets": list(done.setup.secrets),
                "runs": done.runs,
                "problems": done.problems,
            }
        )
        return 0
    count = len(done.agents)
    parts = [f"{count} agent{'s' * (count != 1)}", f"{len(done.setup.indexes)} indexes"]
    parts += [f"{done.runs} runs"] if done.runs is not None else []
    output.note(f"✓ {printable(done.path)}: {', '.join(parts)}, {format_size(done.written.size)}")
    if done.setup.secrets:
        output.note(f"  of your secrets the names alone: {', '.join(done.setup.secrets)}")
    return 0


def configure_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what agenthub export wrote")
    parser.add_argument("-y", "--yes", action="store_true", help="consent to what lets no agent do more")
    parser.add_argument("--force", action="store_true", help="with --yes: also to grants, and to settings that loosen")
    parser.add_argument("--no-grants", action="store_true", help="leave out grants, and settings that loosen")
    parser.add_argument("--dry-run", action="store_true", help="show what would be added, and stop")
    parser.add_argument("--offline", action="store_true", help="use nothing but caches, and what is in the file")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def import_(arguments: argparse.Namespace, output: Output) -> int:
    """Adds what is in an exported file, and not here; what is here stays."""
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.installer import AgentInstaller
    from agenthub.transfer.importing import do_import, opened_setup, plan_import

    settings = Settings({"offline": arguments.offline or None})
    runtime = AgentRuntime(settings)
    done: list[tuple[AgentEntry, Installed]] = []
    with (
        output.progress(f"importing {arguments.file}") as progress,
        opened_setup(runtime, arguments.file) as (opened, setup),
        suppress(_DryRun),
    ):
        plan = plan_import(settings, opened, setup, grants=not arguments.no_grants)

        def consent(plans: Sequence[Plan]) -> None:
            with progress.paused():
                _ask_to_import(plan, plans, runtime, arguments, output)
            if arguments.dry_run:
                raise _DryRun

        done += do_import(AgentInstaller(runtime), opened, plan, consent, progress.update)
    changed = [
        {"name": entry.label, "version": one.record.version, "path": one.directory}
        for entry, one in done
        if one.changed
    ]
    if arguments.json:
        output.json({"steps": [step._asdict() for step in plan.steps], "agents": changed, "dry_run": arguments.dry_run})
    elif not arguments.dry_run:
        for agent in changed:
            output.note(f"✓ {agent['name']} {printable(str(agent['version']))}")
        added = sum(step.action == "add" for step in plan.steps)
        output.note(f"✓ imported {added} thing{'s' * (added != 1)}" if added else "nothing is new")
    return 0


def _ask_to_import(
    plan: Import, plans: Sequence[Plan], runtime: AgentRuntime, arguments: argparse.Namespace, output: Output
) -> None:
    """Shows what would be added and what stays, and asks unless the options answer.

    Raises:
        PermissionDeniedError: refused, or nobody could be asked.
    """
    show_agents(plans, runtime, output)
    for step in plan.steps:
        if step.action == "add" and step.kind != "agent":
            output.note(printable(f"  {'allows' if step.widens else 'adds':<8} {step.kind} {step.name}: {step.text}"))
        elif step.action == "add" and step.name not in [f"{one.owner}/{one.name}" for one in plans]:
            output.note(printable(f"  {'adds':<8} {step.kind} {step.name}: {step.text}"))
    for step in plan.steps:
        if step.action != "add":
            output.note(printable(f"  {'stays':<8} {step.kind} {step.name}: {step.text}"))
    if arguments.dry_run or not any(step.action == "add" for step in plan.steps):
        return
    if not arguments.yes or (plan.widens and not arguments.force):
        more = ", and let agents do more than they may here" if plan.widens else ""
        flag = "--force --yes, or --no-grants --yes without that," if plan.widens else "--yes"
        output.confirm(f"Import this{more}?", flag)
