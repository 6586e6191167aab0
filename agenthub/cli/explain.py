"""What `agenthub run --explain` prints."""

from __future__ import annotations

import textwrap
from typing import Any

from agenthub.cli.inspect_commands import limits_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output

_WIDTH = 80
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow")}


def render_explanation(explained: dict[str, Any], output: Output) -> list[str]:
    """The page, as lines."""
    sandbox, network, agent = explained["sandbox"], explained["network"], explained["agent"]
    held = sandbox["tier"] + (f": {sandbox['reason']}" if sandbox["reason"] else "")
    reach = {"none": "nothing", "any": "everything", "hosts": ", ".join(network["hosts"]) + ", and nothing else"}
    programs = "any that is installed" if explained["run"] is None else ", ".join(["its own", *explained["run"]])
    secrets = set(explained["secrets"])
    names = [f"{name} (secret)" if name in secrets else name for name in explained["variables"]]
    lines = [output.style(f"{agent['name']} {agent['version']} {explained['method']}: not run", "bold")]
    for name, text in (
        ("sandbox", held),
        ("needs", "your consent: it would run " + sandbox["weakness"] if sandbox["weakness"] else ""),
        ("reads", ", ".join(["system libraries", *explained["read"]])),
        ("writes", ", ".join(["a scratch directory, gone after the run", *explained["write"]])),
        ("reaches", reach[network["kind"]]),
        ("starts", programs),
        ("sees", ", ".join(names) or "none of your environment variables"),
        ("limits", limits_text(explained["limits"])),
    ):
        if text:
            lines += _wrapped(f"{name:<9}", text)
    for guarantee in explained["guarantees"]:
        mark, style = _MARKS[guarantee["state"]]
        text = f"{guarantee['name']}: {guarantee['message']}"
        lines += [f"{output.style(mark, style)} {line.strip()}" for line in [text]]
        if guarantee["remedy"]:
            lines.append(f"    → {guarantee['remedy']}")
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
        break_long_words=False,
    )
