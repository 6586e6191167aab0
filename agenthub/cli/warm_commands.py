"""`agenthub warm` and `ps`: agents that are kept loaded."""

from __future__ import annotations

import argparse
import os
import time

from agenthub.cli.output import printable
from agenthub.config import Settings, format_size, parse_duration
from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output
    from agenthub.config import Paths
    from agenthub.runtime.workers.control import WorkerInfo

_MOST = 64
_PATIENCE = 10.0  # seconds for a worker to end, with what it serves


def configure_warm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("--idle", metavar="TIME", default="15min", help="end it after so long without a run")
    parser.add_argument("-n", "--number", type=int, default=1, help="how many, for so many runs at once")
    parser.add_argument("-y", "--yes", action="store_true", help="consent to a weaker sandbox")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def warm(arguments: argparse.Namespace, output: Output) -> int:
    """Loads an agent, and keeps it loaded for the runs to come."""
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.runs.plan import RunOptions
    from agenthub.runtime.workers.control import can_be_warm, start_worker

    try:
        idle = parse_duration(arguments.idle)
    except ValueError as error:
        raise InvalidInputError(f"--idle: {error}") from None
    if not 1 <= arguments.number <= _MOST:
        raise InvalidInputError(f"-n {arguments.number}: from 1 to {_MOST}")
    runtime = AgentRuntime()
    agent = runtime.locate(arguments.agent)
    if reason := can_be_warm(agent):
        raise InvalidInputError(f"{agent.label} cannot be kept loaded: {reason}")
    if agent.wanted and runtime.locate(agent.label).directory != agent.directory:
        raise InvalidInputError(
            f"{agent.label} {agent.manifest.version} is not the version that is in use, which alone is kept loaded",
            suggestion=f"agenthub use {arguments.agent}, then again",
        )
    started = time.monotonic()
    with output.progress(f"loading {agent.label}") as progress:

        def consent(sentence: str) -> None:
            if not arguments.yes:
                with progress.paused():
                    output.confirm(f"{sentence}. Load it?", "--yes")

        def ask_passphrase(new: bool) -> str:
            from agenthub.cli.secret_commands import passphrase_prompt

            ask = passphrase_prompt(output)
            with progress.paused():
                return ask(new) if ask is not None else ""

        options = RunOptions(
            consent=consent, ask_passphrase=ask_passphrase, on_progress=lambda _, said: progress.update(said)
        )
        plan, python = runtime.worker_plan(agent, options)
        assert python is not None
        for number in range(arguments.number):
            start_worker(runtime.settings.paths, plan, python, number=number, idle=idle)
    seconds = time.monotonic() - started
    if arguments.json:
        label = {"agent": agent.label, "version": agent.manifest.version}
        output.json({**label, "workers": arguments.number, "idle": idle})
        return 0
    several = f" {arguments.number} times" if arguments.number > 1 else ""
    output.note(
        f"✓ {agent.label} {agent.manifest.version} is loaded{several} in {seconds:.1f} s, for {idle / 60:g} min idle"
    )
    return 0


def configure_ps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def ps(arguments: argparse.Namespace, output: Output) -> int:
    """The agents that are kept loaded."""
    from agenthub.runtime.workers.control import list_workers

    workers = list_workers(Settings().paths)
    if arguments.json:
        output.json({"workers": [worker._asdict() for worker in workers]})
        return 0
    if not workers:
        output.note("no agent is kept loaded        next: agenthub warm AGENT")
        return 0
    names = max(len(_label(worker)) for worker in workers)
    for worker in workers:
        state = "busy" if worker.busy else "idle"
        age = _age(time.time() - worker.started)
        facts = (
            f"{worker.version:<9} {state}  {format_size(worker.memory):>8}  {age:>6}  {worker.runs} runs  {worker.tier}"
        )
        output.result(f"{printable(_label(worker)):<{names}}  {facts}")
    return 0


def stop_workers(agent: str, paths: Paths) -> int:
    """Ends the workers of an agent that is called so; returns how many there were."""
    from agenthub.runtime.runs.locator import is_path
    from agenthub.runtime.workers.control import list_workers, stop_worker

    called = os.path.realpath(os.path.expanduser(agent)) if is_path(agent) else agent
    found = [worker for worker in list_workers(paths) if called in (worker.agent, worker.agent.partition("/")[2])]
    for worker in found:
        stop_worker(worker, patience=_PATIENCE)
    return len(found)


def _label(worker: WorkerInfo) -> str:
    return f"{worker.agent}#{worker.number}" if worker.number else worker.agent


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
