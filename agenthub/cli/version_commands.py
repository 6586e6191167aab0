"""`agenthub use`, `rollback`, `pin` and `unpin`: which version of an agent is the one that runs."""

from __future__ import annotations

import argparse

from agenthub.cli.output import printable
from agenthub.config import Settings
from agenthub.errors import AgentNotFoundError, InvalidInputError
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.cli.output import Output
    from agenthub.packages.versions import InstalledVersion
    from agenthub.runtime.agents.versions import Switched


def configure_use(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="AGENT[@VERSION]", help="without a version: list those that are installed")
    parser.add_argument("-y", "--yes", action="store_true", help="consent to code that was never seen here")
    parser.add_argument("--force", action="store_true", help="consent to a version that asks for more")
    parser.add_argument("--rebuild", action="store_true", help="make that version's environment anew first")
    parser.add_argument("--offline", action="store_true", help="use nothing but caches")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def use(arguments: argparse.Namespace, output: Output) -> int:
    """Makes another version the current one; one that is not installed is taken from an index."""
    from agenthub.runtime.agents import versions

    agent, at, wanted = arguments.agent.partition("@")
    store = Store(Settings().paths)
    if not at:
        _list(store, *store.resolve(agent), arguments, output)
        return 0
    try:
        owner, name = store.resolve(agent)
        prepare = _rebuild(output) if arguments.rebuild else None
        switched = versions.use(store, owner, name, wanted, prepare)
    except AgentNotFoundError as error:
        from agenthub.cli.upgrade_commands import install_version

        report = install_version(arguments, output, error)
        if arguments.json:
            output.json(report)
        return 0
    _report(switched, arguments, output, "is in use")
    return 0


def configure_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("--rebuild", action="store_true", help="make that version's environment anew first")
    parser.add_argument("--dry-run", action="store_true", help="say which version it would be, and stop")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def rollback(arguments: argparse.Namespace, output: Output) -> int:
    """Goes back to the version that was current before, at once; and the next time back again."""
    from agenthub.runtime.agents import versions

    store = Store(Settings().paths)
    owner, name = store.resolve(arguments.agent)
    if arguments.dry_run:
        earlier = versions.earlier_version(store, owner, name)
        current = next((each.record.version for each in store.versions(owner, name) if each.current), "")
        output.note(f"would go back from {owner}/{name} {current} to {earlier.record.version}")
        if arguments.json:
            output.json(_document(owner, name, current, earlier, changed=False))
        return 0
    switched = versions.rollback(store, owner, name, _rebuild(output) if arguments.rebuild else None)
    _report(switched, arguments, output, "is back")
    return 0


def configure_pin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agents", nargs="+", metavar="AGENT")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


configure_unpin = configure_pin


def pin(arguments: argparse.Namespace, output: Output) -> int:
    """Has upgrades leave agents alone."""
    return _pin(arguments, output, pinned=True)


def unpin(arguments: argparse.Namespace, output: Output) -> int:
    """Lets upgrades have agents again."""
    return _pin(arguments, output, pinned=False)


def _pin(arguments: argparse.Namespace, output: Output, *, pinned: bool) -> int:
    from agenthub.runtime.agents import versions

    store = Store(Settings().paths)
    for agent in arguments.agents:
        if "@" in agent:
            raise InvalidInputError(f"{agent}: an agent is pinned to the version that it is", suggestion="agenthub use")
    reports = []
    for owner, name in [store.resolve(agent) for agent in arguments.agents]:  # all or none
        changed = versions.pin(store, owner, name, pinned)
        version = store.read_record(owner, name).version
        said = f"stays at {version}, until agenthub unpin {name}" if pinned else "is upgraded again"
        (output.note if changed else output.detail)(f"✓ {owner}/{name} {said}")
        reports.append({"owner": owner, "name": name, "version": version, "pinned": pinned, "changed": changed})
    if arguments.json:
        output.json({"agents": reports})
    return 0


def _rebuild(output: Output) -> Callable[[InstalledVersion], None]:
    def prepare(version: InstalledVersion) -> None:
        from agenthub.runtime.agent_runtime import AgentRuntime
        from agenthub.runtime.agents.installer import AgentInstaller
        from agenthub.runtime.runs.locator import locate_directory

        installer = AgentInstaller(AgentRuntime())
        with output.progress(f"making the environment of {version.record.name} {version.record.version}") as progress:
            installer.repair(locate_directory(version.directory, installer.store), progress.update)

    return prepare


def _report(switched: Switched, arguments: argparse.Namespace, output: Output, what: str) -> None:
    label = f"{switched.owner}/{switched.name}"
    version = printable(switched.record.version)
    if Store.here(Settings().paths).is_projects(switched.owner, switched.name):
        output.note(f"note: this project has a {label} of its own: agents.lock says which")
    for sentence in switched.unmet:
        output.warning(printable(sentence))
    if switched.changed:
        was = f" (was {printable(switched.before)})" if switched.before else ""
        output.note(f"✓ {label} {version} {what}{was}        next: agenthub pin {switched.name} keeps it")
    else:
        output.detail(f"{label} {version} is in use already")
    if arguments.json:
        output.json(
            {
                "owner": switched.owner,
                "name": switched.name,
                "version": switched.record.version,
                "before": switched.before,
                "changed": switched.changed,
                "path": switched.directory,
                "unmet": switched.unmet,
            }
        )


def _list(store: Store, owner: str, name: str, arguments: argparse.Namespace, output: Output) -> None:
    found = store.versions(owner, name)
    state = store.read_state(owner, name)
    if arguments.json:
        rows = [
            {
                "version": each.record.version,
                "current": each.current,
                "installed_at": each.record.installed_at,
                "digest": each.record.digest,
                "source": each.record.source,
                "path": each.directory,
                "directory": each.leaf,
            }
            for each in found
        ]
        document = {"owner": owner, "name": name, "pinned": state.pinned, "wanted": state.wanted, "versions": rows}
        output.json(document)
        return
    width = max((len(each.record.version) for each in found), default=0)
    for each in found:
        mark = "*" if each.current else " "
        pinned = "  pinned" if each.current and state.pinned else ""
        facts = f"{each.record.installed_at[:10]}  {each.record.source.get('kind')}  {each.leaf}{pinned}"
        output.result(f"{mark} {each.record.version:<{width}}  {facts}")


def _document(owner: str, name: str, before: str, version: InstalledVersion, *, changed: bool) -> dict[str, object]:
    return {
        "owner": owner,
        "name": name,
        "version": version.record.version,
        "before": before,
        "changed": changed,
        "path": version.directory,
        "unmet": [],
    }
