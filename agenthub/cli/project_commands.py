"""`agenthub add`, `remove`, `lock` and `sync`: the agents of a project."""

from __future__ import annotations

import argparse
import contextlib
import os

from agenthub.cli.output import printable
from agenthub.config import Settings
from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agenthub.cli.output import Output
    from agenthub.cli.progress import Progress
    from agenthub.packages.sources import FetchIndex
    from agenthub.projects.differences import Difference
    from agenthub.projects.home import ProjectHome
    from agenthub.projects.project import Outcome, ProjectManager
    from agenthub.projects.supply import Supply
    from agenthub.projects.trees import Tree
    from agenthub.runtime.agent_runtime import AgentRuntime

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="consent to code that was never seen here")
    parser.add_argument("--offline", action="store_true", help="use nothing but caches")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def configure_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="owner/name[@RANGE], ./DIR, FILE.zip, git+URL[@REF]")
    parser.add_argument("--as", dest="identity", metavar="OWNER/NAME", help="call it so in this project")
    parser.add_argument("--index", metavar="NAME", help="take it from this index")
    parser.add_argument("--no-sync", action="store_true", help="lock it, and install nothing")
    _options(parser)


def add(arguments: argparse.Namespace, output: Output) -> int:
    """Adds agents to the project, or makes a project here."""
    from agenthub.packages.project_links import find_project

    if arguments.identity and len(arguments.specs) > 1:
        raise InvalidInputError("--as names one agent, and there are several SPECs")
    directory = find_project() or os.path.realpath(os.getcwd())
    outcomes = []
    for text in arguments.specs:
        with project_manager(directory, arguments, output, f"adding {text}") as manager:
            outcome = manager.add(text, arguments.identity, arguments.index, sync=not arguments.no_sync)
        tell(outcome, output)
        outcomes.append(outcome)
    if arguments.json:
        output.json(outcome_document(outcomes[-1], [change for outcome in outcomes for change in outcome.changes]))
    return 0


def configure_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agents", nargs="+", metavar="AGENT", help="owner/name or name, as in agents.toml")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def remove(arguments: argparse.Namespace, output: Output) -> int:
    """Takes agents from the project; what the user has installed stays."""
    with project_manager(_project(), arguments, output, "removing") as manager:
        outcome = manager.remove(arguments.agents)
    tell(outcome, output)
    if arguments.json:
        output.json(outcome_document(outcome, outcome.changes))
    return 0


def configure_lock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--upgrade",
        nargs="*",
        metavar="AGENT",
        help="choose versions, commits and packages anew; without AGENT: of all",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the lock is out of date")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and stop")
    _options(parser)


def lock(arguments: argparse.Namespace, output: Output) -> int:
    """Fixes what agents.toml asks for in agents.lock."""
    directory = _project()
    if arguments.check:
        with project_manager(directory, arguments, output, "checking") as manager:
            different, _ = manager.check()
        return _print_check(different, [], arguments, output)
    upgrade = () if arguments.upgrade is None else (arguments.upgrade or None)
    with project_manager(directory, arguments, output, "locking") as manager:
        outcome = manager.lock(upgrade, dry_run=arguments.dry_run)
    tell(outcome, output)
    if arguments.json:
        output.json({**outcome_document(outcome, outcome.changes), "dry_run": arguments.dry_run})
    elif not outcome.changes:
        output.detail("agents.lock is up to date")
    return 0


def configure_sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frozen", action="store_true", help="take the lock as it is; fail where it is out of date")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 where lock or machine is out of date"
    )
    parser.add_argument("--prune", action="store_true", help="take from the project here what the lock does not name")
    _options(parser)


def sync(arguments: argparse.Namespace, output: Output) -> int:
    """Makes this machine as the lock says."""
    from agenthub.projects.home import ProjectHome

    directory = _project()
    if arguments.check:
        with project_manager(directory, arguments, output, "checking") as manager:
            return _print_check(*manager.check(), arguments, output)
    home = ProjectHome(Settings().paths, directory)
    if _is_done(home, arguments, output):
        return 0
    with project_manager(directory, arguments, output, "syncing") as manager:
        outcome = manager.sync(frozen=arguments.frozen, prune=arguments.prune)
    tell(outcome, output)
    if arguments.json:
        output.json(outcome_document(outcome, outcome.changes))
    return 0


def _project() -> str:
    from agenthub.packages.project_links import require_project

    return require_project()


def _is_done(home: ProjectHome, arguments: argparse.Namespace, output: Output) -> bool:
    """Whether there is nothing to do: the way of most syncs, on which nothing is imported that takes time."""
    stamp = home.current_stamp()
    if stamp is None:
        return False
    labels = {label for label, *_ in stamp.agents}
    if arguments.prune and any(f"{owner}/{name}" not in labels for owner, name, _ in home.links()):
        return False
    output.detail("nothing to do")
    if arguments.json:
        agents = [_agent(label, version, directory, False) for label, version, directory, *_ in stamp.agents]
        output.json({"agents": agents, "changes": [], "pruned": []})
    return True


@contextlib.contextmanager
def project_manager(
    directory: str, arguments: argparse.Namespace, output: Output, label: str, supply: Supply | None = None
) -> Iterator[ProjectManager]:
    """The project's façade, with the person at the terminal as its listener."""
    from agenthub.projects.project import Listener, ProjectManager
    from agenthub.runtime.agent_runtime import AgentRuntime

    runtime = AgentRuntime(Settings({"offline": getattr(arguments, "offline", None) or None}))
    with output.progress(label) as progress:

        def consent(agents: Sequence[tuple[str, Tree]]) -> None:
            _ask(agents, runtime, progress, arguments, output)

        def fetcher(index: str | None) -> FetchIndex:
            from agenthub.indexes.client import IndexClient
            from agenthub.runtime.agents.from_index import index_fetcher

            return index_fetcher(runtime.settings, IndexClient(runtime.settings, (index,) if index else ()))

        def done(label: str, number: int, count: int) -> None:
            progress.update(label, number / count)

        listener = Listener(consent, progress.update, done, output.warning)
        yield ProjectManager(runtime, directory, listener, fetcher, supply)


def _ask(
    agents: Sequence[tuple[str, Tree]],
    runtime: AgentRuntime,
    progress: Progress,
    arguments: argparse.Namespace,
    output: Output,
) -> None:
    """Shows agents that were never seen here, and asks once for all of them."""
    yes = getattr(arguments, "yes", False)
    if yes and output.quiet:
        return
    from agenthub.cli.consent import describe, plain

    with progress.paused():
        for label, tree in agents:
            origin = tree.fetched.source["kind"] + (f" {tree.fetched.commit[:12]}" if tree.fetched.commit else "")
            for line in describe(tree.manifest, f"{label}, {origin}", runtime):
                output.note(line)
            for note in tree.fetched.notes:
                output.note(f"  note           {plain(note)}")
            if tree.packages:
                output.note(f"  agents.lock    {plain(', '.join(tree.packages), longest=1000)}")
        if not yes:
            what = agents[0][0] if len(agents) == 1 else f"these {len(agents)} agents"
            output.confirm(f"Install {what} for this project?", "--yes")


def tell(outcome: Outcome, output: Output) -> None:
    for change in outcome.changes:
        output.note(f"{_SIGNS[change.kind]} {printable(change.agent)} {printable(change.text)}")
    for label in outcome.pruned:
        output.note(f"✓ removed {label} from this project")
    changed = [one for one in outcome.synced if one.changed]
    if changed:
        names = ", ".join(f"{one.label} {printable(one.version)}" for one in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        output.note(f"✓ synced {names}{more}")


def outcome_document(outcome: Outcome, changes: list[Difference]) -> dict[str, object]:
    here = {one.label: one for one in outcome.synced}
    agents = [
        _agent(one.label, one.version, here[one.label].directory, here[one.label].changed)
        if one.label in here
        else {"name": one.label, "version": one.version}
        for one in outcome.lock.agents
    ]
    return {"agents": agents, "changes": [change._asdict() for change in changes], "pruned": outcome.pruned}


def _agent(label: str, version: str, directory: str, changed: bool) -> dict[str, object]:
    return {"name": label, "version": version, "path": directory, "changed": changed}


def _print_check(
    different: list[Difference], machine: list[Difference], arguments: argparse.Namespace, output: Output
) -> int:
    """What differs, as a result; exit code 1 where anything does."""
    if arguments.json:
        parts = {"lock": different, "machine": machine}
        found = {name: [one._asdict() for one in part] for name, part in parts.items()}
        output.json({"up_to_date": not (different or machine), **found})
    else:
        lines = []
        for title, part in (("agents.lock is out of date", different), ("this machine is out of date", machine)):
            if part:
                lines += [
                    title,
                    *(f"  {_SIGNS[one.kind]} {printable(f'{one.agent} {one.text}'.strip())}" for one in part),
                ]
        if lines:
            output.result("\n".join(lines))
        else:
            output.detail("everything is as agents.lock says")
    return 1 if different or machine else 0
