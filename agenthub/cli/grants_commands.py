"""`agenthub grant` and `revoke`: what an installed agent may do, changed by its user for good."""

from __future__ import annotations

import argparse

from agenthub.config import Settings
from agenthub.errors import InvalidInputError
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.cli.output import Output
    from agenthub.manifest import AgentManifest

_KINDS = {
    "network": "hosts that it may reach, each with a port where that is neither 80 nor 443; any",
    "read": "files and directories that it may read",
    "write": "files and directories that it may read and write",
    "run": "installed programs that it may start; any",
    "environment": "environment variables of yours that it sees",
    "secret": "secrets that you keep (agenthub secret) and its manifest names",
    "sandbox": "tiers below what it demands that you accept: landlock, rlimits; off: none at all",
}
SANDBOXES = ("landlock", "rlimits", "off")


def configure_grant(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "kinds:\n" + "\n".join(f"  {kind:<12} {text}" for kind, text in _KINDS.items())
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("kind", choices=tuple(_KINDS), metavar="KIND", help=", ".join(_KINDS))
    parser.add_argument("values", nargs="+", metavar="VALUE", help="hosts, paths, programs or names; any: all")


configure_revoke = configure_grant


def grant(arguments: argparse.Namespace, output: Output) -> int:
    """Lets an agent do more from now on."""
    return _change(arguments, output, add=True)


def revoke(arguments: argparse.Namespace, output: Output) -> int:
    """Takes from an agent what was granted, or what its manifest asks for."""
    return _change(arguments, output, add=False)


def _change(arguments: argparse.Namespace, output: Output, *, add: bool) -> int:
    from agenthub.manifest import load_manifest
    from agenthub.runtime.runs.locator import working_directory
    from agenthub.runtime.runs.permissions import check_item, effective_permissions
    from agenthub.runtime.runs.plan import stored_changes

    kind = arguments.kind
    values = [_checked(kind, value, working_directory(), check_item) for value in arguments.values]
    settings = Settings()
    store = Store.here(settings.paths)
    owner, name = store.resolve(arguments.agent)
    manifest = load_manifest(store.current_version_dir(owner, name))
    with store.agent_lock(owner, name):
        grants = store.read_grants(owner, name)
        change = _add if add else _take
        change(grants, "secrets" if kind == "secret" else kind, values, manifest)
        allowed = effective_permissions(manifest, (stored_changes(grants),))  # refuses what cannot be held
        store.write_grants(owner, name, grants)
    label = f"{owner}/{name}"
    if kind == "sandbox":
        output.note(f"✓ {label} runs without asking in: {', '.join(grants['sandbox']) or 'what it demands'}")
    elif kind == "secret":
        output.note(f"✓ {label} gets, of your secrets: {', '.join(grants['secrets']) or 'none'}")
        if add:
            _warn_of_useless(values, manifest, settings, output)
    else:
        output.note(f"✓ {label} may now: {_sentence(kind, getattr(allowed, kind))}")
    return 0


def _checked(kind: str, value: str, directory: str, check_item: Callable[[str, str, str], str]) -> str:
    if kind == "sandbox":
        if value not in SANDBOXES:
            raise InvalidInputError(f"{value!r} is not one of {', '.join(SANDBOXES)}")
        return value
    if kind == "secret":
        checked = check_item("environment", value, directory)
        if checked == "*":
            raise InvalidInputError("secrets are granted one by one, by their names")
        return checked
    return check_item(kind, value, directory)


def _add(grants: dict[str, list[str]], key: str, values: list[str], manifest: AgentManifest) -> None:
    denied = f"denied_{key}"
    if denied in grants and "*" in values:
        grants[denied] = []
    elif denied in grants:
        grants[denied] = [value for value in grants[denied] if value not in values]
    grants[key] = sorted({*grants[key], *values})


def _take(grants: dict[str, list[str]], key: str, values: list[str], manifest: AgentManifest) -> None:
    """Takes what was granted; what the manifest asks for is denied from now on."""
    from agenthub.runtime.runs.permissions import asked_permissions

    grants[key] = [] if "*" in values else [value for value in grants[key] if value not in values]
    denied = f"denied_{key}"
    if denied in grants:
        asked = getattr(asked_permissions(manifest), key)
        grants[denied] = sorted({*grants[denied], *(value for value in values if value == "*" or asked)})


def _sentence(kind: str, items: tuple[str, ...]) -> str:
    verb = {"network": "reach", "read": "read", "write": "write", "run": "start", "environment": "see"}[kind]
    what = ", ".join("any" if item == "*" else item for item in items) or "nothing"
    return f"{verb} {what}" + (" beside its own" if kind in ("read", "write", "run") else "")


def _warn_of_useless(names: list[str], manifest: AgentManifest, settings: Settings, output: Output) -> None:
    """A grant of what an agent does not declare, or of what is not kept, gives nothing."""
    from agenthub.runtime.secrets.store import SecretStore

    declared = {variable.name for variable in manifest.environment}
    kept = SecretStore(settings.paths).names()
    for name in names:
        if name not in declared:
            output.warning(f"{manifest.name} does not declare {name} in its manifest, and will not be given it")
        elif name not in kept:
            output.warning(f"there is no secret {name} yet: agenthub secret set {name}")
