"""`agenthub grant` and `revoke`: which environment variables of the user an agent sees without declaring them."""

from __future__ import annotations

import argparse
import re

from agenthub.config import Settings
from agenthub.errors import InvalidInputError
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output


def configure_grant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("kind", choices=("environment",), metavar="environment")
    parser.add_argument("names", nargs="+", metavar="NAME", help="variables of yours, passed on where they are set")


configure_revoke = configure_grant


def grant(arguments: argparse.Namespace, output: Output) -> int:
    """Lets an agent see variables from now on."""
    return _change(arguments, output, add=True)


def revoke(arguments: argparse.Namespace, output: Output) -> int:
    """Takes variables back."""
    return _change(arguments, output, add=False)


def _change(arguments: argparse.Namespace, output: Output, *, add: bool) -> int:
    for name in arguments.names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InvalidInputError(f"{name!r} is not the name of an environment variable")
    store = Store(Settings().paths)
    owner, name = store.resolve(arguments.agent)
    with store.agent_lock(owner, name):
        grants = store.read_grants(owner, name)
        kept = [known for known in grants["environment"] if known not in arguments.names]
        grants["environment"] = sorted([*kept, *arguments.names]) if add else kept
        store.write_grants(owner, name, grants)
    shown = ", ".join(grants["environment"]) or "none"
    output.note(f"✓ {owner}/{name} sees, beside what it declares: {shown}")
    return 0
