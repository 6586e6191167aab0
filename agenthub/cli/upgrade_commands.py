"""`agenthub upgrade` and `outdated`: newer versions, and what they would change."""

from __future__ import annotations

import argparse
from typing import Any

from agenthub.cli.output import printable
from agenthub.config import Settings
from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InvalidInputError
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output
    from agenthub.cli.progress import Progress
    from agenthub.runtime.agents.changes import Changed, Changes
    from agenthub.runtime.agents.installer import InstallOptions, Plan
    from agenthub.runtime.agents.upgrades import Upgraded, Upgrader

_SHOWN = 12  # of one kind of change; the others are counted


class _DryRun(Exception):
    """Unwinds an upgrade after what it would change was shown."""


def configure_outdated(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agents", nargs="*", metavar="AGENT", help="these alone; without: all")
    parser.add_argument("--index", metavar="URL", help="ask this index first")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def outdated(arguments: argparse.Namespace, output: Output) -> int:
    """The agents of which there is a newer version."""
    settings = Settings({"index": arguments.index})
    upgrader = _upgrader(settings)
    agents = _chosen(upgrader.store, arguments.agents)
    with output.progress("looking for newer versions"):
        candidates = upgrader.candidates(agents)
    found = [one for one in candidates if one.available or one.latest]
    problems = [one for one in candidates if one.problem]
    if arguments.json:
        output.json({"agents": [one._asdict() for one in found], "problems": [one._asdict() for one in problems]})
        return 0
    for one in found:
        beyond = f"  (newest: {one.latest})" if one.latest and one.latest != one.available else ""
        pinned = "  pinned" if one.pinned else ""
        available = one.available or "none that was asked for"
        output.result(f"{one.owner}/{one.name}  {one.version} → {available}{beyond}{pinned}")
    for one in problems:
        output.warning(f"{one.owner}/{one.name}: {printable(one.problem)}")
    if not found and not problems:
        output.note("everything is up to date")
    return 0


def configure_upgrade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "agents", nargs="*", metavar="AGENT[@VERSION]", help="a version or a range is kept for later upgrades as well"
    )
    parser.add_argument("--all", action="store_true", help="all that are not pinned")
    parser.add_argument("-y", "--yes", action="store_true", help="consent to versions that ask for nothing more")
    parser.add_argument("--force", action="store_true", help="with --yes: consent to those that ask for more, too")
    parser.add_argument("--python", metavar="VERSION", help="use this Python: a version, a range or a path")
    parser.add_argument("--index", metavar="URL", help="ask this index first")
    parser.add_argument("--offline", action="store_true", help="use nothing but caches")
    parser.add_argument("--allow-commands", action="store_true", help="consent to installation commands")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and stop")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def upgrade(arguments: argparse.Namespace, output: Output) -> int:
    """Takes what agents' sources have now; shows what changes, and asks."""
    if bool(arguments.agents) == arguments.all:
        raise InvalidInputError("upgrade takes AGENTs, or --all", suggestion="agenthub outdated shows what there is")
    settings = Settings({"offline": arguments.offline or None, "index": arguments.index})
    upgrader = _upgrader(settings)
    reports, failures = [], []
    for owner, name, wanted in _wanted(upgrader.store, arguments.agents):
        if arguments.all and upgrader.store.read_state(owner, name).pinned:
            output.note(f"{owner}/{name} is pinned, and stays as it is")
            reports.append({"owner": owner, "name": name, "changed": False, "pinned": True})
            continue
        try:
            reports.append(_upgrade_one(upgrader, owner, name, wanted, arguments, output))
        except AgentRuntimeError as error:
            if len(arguments.agents) == 1 or error.exit_code == 130:  # Ctrl-C
                raise
            failures.append(error)
            reports.append({"owner": owner, "name": name, "changed": False, **error.to_dict()})
    if arguments.json:
        output.json({"agents": reports})
        return failures[0].exit_code if failures else 0
    for failure in failures[1:]:
        output.warning(printable(failure.message))
    if failures:
        raise failures[0]
    return 0


def _upgrade_one(
    upgrader: Upgrader, owner: str, name: str, wanted: str | None, arguments: argparse.Namespace, output: Output
) -> dict[str, Any]:
    report: dict[str, Any] = {"owner": owner, "name": name, "pinned": False}
    with output.progress(f"upgrading {owner}/{name}") as progress:

        def consent(plan: Plan, changes: Changes) -> None:
            report.update(changes=changes.to_json(), version=changes.before)
            _ask(plan, changes, arguments, output, progress)

        try:
            done = upgrader.upgrade(owner, name, _options(arguments, progress), consent, wanted)
        except _DryRun:
            return {**report, "changed": False, "dry_run": True}
    return report | _finished(done, output)


def install_version(arguments: argparse.Namespace, output: Output, missing: AgentNotFoundError) -> dict[str, Any]:
    """For `use AGENT@VERSION` where that is not installed: takes it from the agent's source, or from an index.

    Args:
        arguments: of `use`.
        output: where to ask.
        missing: raised where there is no such agent to be had either.
    """
    from agenthub.cli.consent import ask_to_install
    from agenthub.runtime.agents.installer import AgentInstaller

    agent, _, wanted = arguments.agent.partition("@")
    upgrader = _upgrader(Settings({"offline": arguments.offline or None}))
    installer: AgentInstaller = upgrader.installer
    arguments = argparse.Namespace(**{**vars(arguments), "dry_run": False, "python": None, "allow_commands": False})
    with output.progress(f"installing {arguments.agent}") as progress:
        options = _options(arguments, progress)._replace(note_wanted=False)
        try:
            owner, name = installer.store.resolve(agent)
        except AgentNotFoundError:
            if "/" not in agent:
                raise missing from None

            def consent(plan: Plan) -> None:
                with progress.paused():
                    ask_to_install(plan, installer.runtime, output, yes=arguments.yes, force=True)

            installed = installer.install(f"{agent}@{wanted}", options._replace(consent=consent))
            record = installed.record
            output.note(f"✓ {record.owner}/{record.name} {record.version} was installed, and is in use")
            return _facts(record, "", installed.directory, changed=True)
        if installer.store.read_record(owner, name).source.get("kind") not in ("index", "git"):
            raise missing
        output.note(f"{owner}/{name} {wanted} is not installed: it is taken from where the agent comes from")

        def ask(plan: Plan, changes: Changes) -> None:
            _ask(plan, changes, arguments, output, progress)

        before = installer.store.read_record(owner, name).version
        done = upgrader.upgrade(owner, name, options, ask, wanted)
    _finished(done, output)
    return _facts(done.record, before, done.directory, changed=done.changed)


def _facts(record: Any, before: str, directory: str, *, changed: bool) -> dict[str, Any]:
    facts = {"owner": record.owner, "name": record.name, "version": record.version, "before": before}
    return {**facts, "changed": changed, "path": directory, "unmet": []}


def _ask(plan: Plan, changes: Changes, arguments: argparse.Namespace, output: Output, progress: Progress) -> None:
    """Shows what changes, and asks unless the options answer."""
    from agenthub.cli.consent import more_than_before, required_lines
    from agenthub.runtime.agent_runtime import AgentRuntime

    for line in change_lines(plan, changes):
        output.note(line)
    if plan.required:
        for line in required_lines(plan, AgentRuntime()):
            output.note(line)
    # An agent that comes along for the first time has all that it asks for in addition.
    more = bool(changes.more) or any(each.current is None or more_than_before(each) for each in plan.required)
    if arguments.dry_run:
        raise _DryRun
    label = f"{plan.owner}/{plan.name}"
    if arguments.yes and (arguments.force or not more):
        return
    with progress.paused():
        if more:
            output.confirm(f"{label} {printable(changes.after)} asks for more. Upgrade it?", "--force --yes")
        else:
            output.confirm(f"Upgrade {label} to {printable(changes.after)}?", "--yes")


def change_lines(plan: Plan, changes: Changes) -> list[str]:
    """What changes, a kind on a line."""
    commits = f" ({changes.commits[0]} → {changes.commits[1]})" if changes.commits else ""
    lines = [f"{plan.owner}/{plan.name} {changes.before} → {changes.after}{commits}"]
    packages = "packages" if changes.packages_known else "declares"
    lines += _line(packages, changes.packages)
    if not changes.packages_known and changes.packages:
        lines.append("                 which packages that makes is known when it was built")
    lines += [f"  asks for more  it may now also {phrase}" for phrase in changes.more]
    lines += [f"  no longer      it may {phrase}" for phrase in changes.less]
    lines += _line("variables", changes.variables)
    lines += _line("needs agents", changes.requires)
    lines += _line("methods", changes.methods)
    lines += _line("Python", [changes.python] if changes.python else [])
    lines += [f"  note           {note}" for note in plan.fetched.notes]
    if len(lines) == 1:
        lines.append("  code           changes, and nothing else that is declared")
    return [printable(line) for line in lines]


def _line(what: str, changed: list[Changed]) -> list[str]:
    parts = [_part(one) for one in changed[:_SHOWN]]
    if len(changed) > _SHOWN:
        parts.append(f"and {len(changed) - _SHOWN} more")
    return [f"  {what:<14} {', '.join(parts)}"] if parts else []


def _part(one: Changed) -> str:
    if one.before is None:
        return f"+ {one.name}" + (f" {one.after}" if one.after not in ("", "declared") else "")
    if one.after is None:
        return f"- {one.name}" + (f" {one.before}" if one.before not in ("", "declared") else "")
    return f"{one.name} {one.before or 'any'} → {one.after or 'any'}"


def _finished(done: Upgraded, output: Output) -> dict[str, Any]:
    label = f"{done.owner}/{done.name}"
    if done.changed:
        before = f" (was {done.changes.before})" if done.changes else ""
        note = f"✓ {label} {done.record.version}{before}        agenthub rollback {done.name} goes back"
        output.note(printable(note))
    else:
        output.detail(f"{label} {printable(done.record.version)} is up to date")
    for warning in done.record.warnings if done.changed else ():
        output.detail(warning)
    return {"version": done.record.version, "changed": done.changed, "path": done.directory}


def _options(arguments: argparse.Namespace, progress: Progress) -> InstallOptions:
    from agenthub.runtime.agents.installer import InstallOptions

    return InstallOptions(
        python=arguments.python,
        allow_commands=arguments.allow_commands,
        alone=arguments.force,
        on_progress=progress.update,
    )


def _upgrader(settings: Settings) -> Upgrader:
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.installer import AgentInstaller
    from agenthub.runtime.agents.upgrades import Upgrader

    return Upgrader(AgentInstaller(AgentRuntime(settings)))


def _chosen(store: Store, agents: list[str]) -> list[tuple[str, str]]:
    if agents:
        return list(dict.fromkeys(store.resolve(agent) for agent in agents))
    return [(entry.owner, entry.name) for entry in store.list_agents()]


def _wanted(store: Store, agents: list[str]) -> list[tuple[str, str, str | None]]:
    """Owner, name and version of each that is named, or of all; all are found, or none is upgraded."""
    if not agents:
        return [(owner, name, None) for owner, name in _chosen(store, [])]
    words = (agent.partition("@") for agent in agents)
    return [(*store.resolve(agent), wanted if at else None) for agent, at, wanted in words]
