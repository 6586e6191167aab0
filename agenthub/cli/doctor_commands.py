"""`agenthub doctor`."""

from __future__ import annotations

import argparse

from agenthub.cli.output import printable
from agenthub.errors import EnvironmentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


def configure_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fix", action="store_true", help="rebuild what is broken, remove what was left behind")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def doctor(arguments: argparse.Namespace, output: Output) -> int:
    """Looks at this machine and at everything installed; 0 where nothing is wrong."""
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.diagnosis import examine_machine

    with output.progress("examining") as progress:
        checks = examine_machine(AgentRuntime(), fix=arguments.fix, on_progress=progress.update)
    wrong = any(check.state == "error" for check in checks)
    if arguments.json:
        output.json({"healthy": not wrong, "checks": [check._asdict() for check in checks]})
    else:
        for check in checks:
            mark, style = _MARKS[check.state]
            output.page(f"{output.style(mark, style)} {printable(check.topic)}: {printable(check.message)}")
            if check.remedy:
                output.page(f"    → {printable(check.remedy)}")
    return EnvironmentError.exit_code if wrong else 0
