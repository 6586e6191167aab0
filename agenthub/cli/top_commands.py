"""`agenthub top`: what goes on now, in the terminal."""

from __future__ import annotations

import argparse
import time
from typing import Any

from agenthub.cli.output import printable_values
from agenthub.config import Settings, format_size, parse_duration
from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.console import RenderableType

    from agenthub.cli.output import Output

_WIDTH = 80
_COLOURS = {"ok": "green", "failed": "red", "lost": "yellow"}


def configure_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interval", metavar="TIME", default="1s", help="between two looks")
    parser.add_argument("--once", action="store_true", help="look once, and stop; so it does where nobody watches")
    parser.add_argument("--json", action="store_true", help="print a JSON document, once")


def top(arguments: argparse.Namespace, output: Output) -> int:
    """Runs, loaded agents, memory and rates; until Ctrl-C."""
    from agenthub.observability.history import History
    from agenthub.runtime.agents.overview import overview

    try:
        interval = parse_duration(arguments.interval)
    except ValueError as error:
        raise InvalidInputError(f"--interval: {error}") from None
    settings = Settings()
    with History(settings.paths.history, output.warning) as history:

        def look() -> dict[str, Any]:
            found: dict[str, Any] = printable_values(overview(settings.paths, history))
            return found

        if arguments.json:
            output.json(look())
        elif arguments.once or not output.to_terminal:
            output.page("\n".join(lines(look())))
        else:
            _watch(look, max(interval, 0.1))
    return 0


def _watch(look: Any, interval: float) -> None:
    from rich.live import Live

    try:
        with Live(render(look()), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(render(look()), refresh=True)
    except KeyboardInterrupt:  # how it is left
        return


def lines(seen: dict[str, Any]) -> list[str]:
    """The view as plain text, at most 80 columns wide."""
    minute = seen["minute"]
    found = [
        f"{len(seen['running'])} running · {len(seen['workers'])} loaded · in the last minute {minute['runs']} runs "
        f"({minute['rate']:.1f}/s), {minute['failed']} failed"
    ]
    if seen["running"]:
        found += ["", "RUNNING"]
        found += [_row(one["run_id"], one, _span(one["seconds"]), one["isolation"] or "") for one in seen["running"]]
    if seen["workers"]:
        found += ["", "LOADED"]
        for worker in seen["workers"]:
            age, state = _span(seen["time"] - worker["started"]), "busy" if worker["busy"] else "idle"
            name = f"{worker['agent']} {worker['version']}"
            found.append(
                f"{'#' + str(worker['number']):<13}{name[:33]:<34}{format_size(worker['memory']):>8} {age:>7}  {state}"
            )
    if seen["recent"]:
        found += ["", "RECENT"]
        found += [_row(one["run_id"], one, _span(one["seconds"]), one["status"]) for one in seen["recent"]]
    return [line[:_WIDTH].rstrip() for line in found]


def render(seen: dict[str, Any]) -> RenderableType:
    """The same for a terminal, with colour where it carries meaning."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis")
    for line in lines(seen):
        last = line.rpartition(" ")[2]
        heading = line.isupper() and " " not in line
        text.append(line + "\n", style="bold" if heading else _COLOURS.get(last, ""))
    return text


def _row(run_id: str, one: dict[str, Any], span: str, state: str) -> str:
    call = f"{one['agent']} {one['method']}"
    memory = format_size(one["memory"]) if one["memory"] else ""
    return f"{run_id[:12]:<13}{call[:33]:<34}{memory:>8} {span:>7}  {state}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
