"""`agenthub install` and `uninstall`."""

from __future__ import annotations

import argparse
import os
import time

from agenthub.config import Settings
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output
    from agenthub.runtime.agents.installer import AgentInstaller, Plan


def configure_install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "specs",
        nargs="+",
        metavar="SPEC",
        help="OWNER/NAME[@VERSION], ./DIR, FILE.zip, FILE.agentbundle, git+URL[@REF]",
    )
    parser.add_argument("--as", dest="identity", metavar="OWNER/NAME", help="install under another name")
    parser.add_argument("-y", "--yes", action="store_true", help="consent to code that was never seen here")
    parser.add_argument("--force", action="store_true", help="replace other content, or make it anew")
    parser.add_argument("--python", metavar="VERSION", help="use this Python: a version, a range or a path")
    parser.add_argument(
        "--with", dest="extra", action="append", default=[], metavar="REQUIREMENT", help="and install this"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="let it see this variable of yours")
    parser.add_argument("--index", metavar="URL", help="ask this index, by address or name, before the others")
    parser.add_argument("--offline", action="store_true", help="use nothing but caches")
    parser.add_argument("--allow-commands", action="store_true", help="consent to its installation commands")
    parser.add_argument("--compile-bytecode", action="store_true", help="now, and not at the first run: for images")
    parser.add_argument("--dry-run", action="store_true", help="show what would be installed, and stop")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


class _DryRun(Exception):
    """Unwinds an installation after its plan was shown."""


def install(arguments: argparse.Namespace, output: Output) -> int:
    """Installs agents, one after another."""
    from agenthub.errors import InvalidInputError
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.installer import AgentInstaller

    if arguments.identity and len(arguments.specs) > 1:
        raise InvalidInputError("--as names one agent, and there are several SPECs")
    for name in arguments.env:
        if not name.isidentifier():
            raise InvalidInputError(f"--env {name!r}: install takes the name of a variable; its value is never stored")
    runtime = AgentRuntime(Settings({"offline": arguments.offline or None, "index": arguments.index}))
    installer = AgentInstaller(runtime)
    reports: list[dict[str, object]] = []
    for text in arguments.specs:
        if text.endswith(".agentbundle"):
            from agenthub.cli.transfer_commands import install_bundle

            reports += install_bundle(text, arguments, output)
        else:
            reports.append(_install_one(installer, text, arguments, output))
    if arguments.json:
        output.json({"agents": reports})
    return 0


def _install_one(
    installer: AgentInstaller, text: str, arguments: argparse.Namespace, output: Output
) -> dict[str, object]:
    from agenthub.runtime.agents.installer import InstallOptions

    started = time.monotonic()
    report: dict[str, object] = {"spec": text}
    with output.progress(f"installing {text}") as progress:

        def consent(plan: Plan) -> None:
            nonlocal started
            report.update(owner=plan.owner, name=plan.name, version=plan.manifest.version, digest=plan.fetched.digest)
            if arguments.yes and output.quiet and plan.current is None and not arguments.dry_run:
                return  # nothing to ask, and nobody to tell
            from agenthub.cli.consent import ask_to_install, describe, more_than_before

            if arguments.dry_run:
                for line in describe(plan.manifest, plan.spec.text, installer.runtime):
                    output.note(line)
                for phrase in more_than_before(plan):
                    output.note(f"  asks for more  it may now also {phrase}")
                raise _DryRun
            asked = time.monotonic()
            with progress.paused():
                ask_to_install(plan, installer.runtime, output, yes=arguments.yes, force=arguments.force)
            started += time.monotonic() - asked

        options = InstallOptions(
            identity=arguments.identity,
            python=arguments.python,
            extra=tuple(arguments.extra),
            force=arguments.force,
            alone=arguments.force,
            allow_commands=arguments.allow_commands,
            compile_bytecode=arguments.compile_bytecode,
            consent=consent,
            on_progress=progress.update,
        )
        try:
            installed = installer.install(text, options)
        except _DryRun:
            return {**report, "changed": False, "dry_run": True}
    record = installed.record
    _remember_variables(installer.store, record.owner, record.name, arguments.env)
    for warning in record.warnings if installed.changed else ():
        output.detail(warning)
    label = f"{record.owner}/{record.name}"
    if installed.changed:
        seconds = time.monotonic() - started
        output.note(f"✓ {label} {record.version} in {seconds:.1f} s        next: agenthub info {record.name}")
    else:
        output.detail(f"{label} {record.version} is installed already")
    return {
        **report,
        "owner": record.owner,
        "name": record.name,
        "version": record.version,
        "digest": record.digest,
        "changed": installed.changed,
        "path": installed.directory,
    }


def _remember_variables(store: Store, owner: str, name: str, variables: list[str]) -> None:
    if variables:
        with store.agent_lock(owner, name):
            grants = store.read_grants(owner, name)
            grants["environment"] = sorted({*grants["environment"], *variables})
            store.write_grants(owner, name, grants)


def configure_uninstall(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agents", nargs="+", metavar="AGENT")
    parser.add_argument("--force", action="store_true", help="although a run is in progress")
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and stop")
    parser.add_argument("-y", "--yes", action="store_true", help="accepted for scripts; uninstall never asks")


def uninstall(arguments: argparse.Namespace, output: Output) -> int:
    """Removes exactly what installing made."""
    paths = Settings().paths
    store = Store(paths)
    found = [store.resolve(agent) for agent in arguments.agents]  # all or none
    if not arguments.force:
        from agenthub.runtime.agents.needs import check_not_needed

        check_not_needed(store, found)
    for owner, name in dict.fromkeys(found):
        if arguments.dry_run:
            output.note(f"would remove {owner}/{name}: {store.agent_dir(owner, name)}")
            continue
        store.uninstall(
            owner, name, force=arguments.force, waiting=lambda: output.note("waiting for another agenthub to finish")
        )
        if os.path.isdir(paths.workers):
            from agenthub.cli.warm_commands import stop_workers
            from agenthub.packages.files import remove_tree

            stop_workers(f"{owner}/{name}", paths)
            remove_tree(os.path.join(paths.workers, owner, name))
        output.note(f"✓ removed {owner}/{name}")
    return 0
