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
    parser.add_argument("kind", choices=("environment", "secret"), metavar="KIND", help="environment or secret")
    parser.add_argument("names", nargs="+", metavar="NAME", help="variables that are set, or secrets that you keep")


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
    settings = Settings()
    store = Store(settings.paths)
    owner, name = store.resolve(arguments.agent)
    key = "secrets" if arguments.kind == "secret" else "environment"
    with store.agent_lock(owner, name):
        grants = store.read_grants(owner, name)
        kept = [known for known in grants[key] if known not in arguments.names]
        grants[key] = sorted([*kept, *arguments.names]) if add else kept
        store.write_grants(owner, name, grants)
    shown = ", ".join(grants[key]) or "none"
    if key == "environment":
        output.note(f"✓ {owner}/{name} sees, beside what it declares: {shown}")
        return 0
    output.note(f"✓ {owner}/{name} gets, of your secrets: {shown}")
    if add:
        _warn_of_useless(arguments.names, owner, name, settings, output)
    return 0


def _warn_of_useless(names: list[str], owner: str, agent: str, settings: Settings, output: Output) -> None:
    """A grant of what an agent does not declare, or of what is not kept, gives nothing."""
    from agenthub.manifest import load_manifest
    from agenthub.runtime.secret_store import SecretStore

    manifest = load_manifest(Store(settings.paths).current_version_dir(owner, agent))
    declared = {variable.name for variable in manifest.environment}
    kept = SecretStore(settings.paths).names()
    for name in names:
        if name not in declared:
            output.warning(f"{agent} does not declare {name} in its manifest, and will not be given it")
        elif name not in kept:
            output.warning(f"there is no secret {name} yet: agenthub secret set {name}")
