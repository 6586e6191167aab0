"""`agenthub secret`: keeps API keys, which agents are then granted by name."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from agenthub.cli.parsers import Parser, add_common_options
from agenthub.config import Settings
from agenthub.errors import InvalidInputError
from agenthub.runtime.processes.masking import SHORTEST
from agenthub.runtime.secrets.store import LARGEST, SecretStore, check_secret_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.cli.output import Output


class _Unrepeating(Parser):
    """A parser that does not repeat words which it does not know: one may be a value."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise _value_refused()
        return found, unknown


def configure_secret(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="set|list|remove", parser_class=_Unrepeating)
    setting = actions.add_parser("set", help="keep a value, which is asked for or piped in")
    setting.add_argument("names", nargs="+", metavar="NAME", help="like an environment variable: OPENAI_API_KEY")
    setting.add_argument("--file", action="store_true", help="use the encrypted file, not the keyring")
    listing = actions.add_parser("list", help="names, where they are kept, and which agents were granted them")
    listing.add_argument("--json", action="store_true", help="print a JSON document")
    removing = actions.add_parser("remove", help="forget secrets")
    removing.add_argument("names", nargs="+", metavar="NAME")
    for action in (setting, listing, removing):
        add_common_options(action)


def secret(arguments: argparse.Namespace, output: Output) -> int:
    """Keeps, lists or removes secrets. Values come from a hidden prompt or standard input, and are never printed."""
    settings = Settings()
    store = SecretStore(settings.paths, passphrase_prompt(output))
    if arguments.action == "list":
        _list(settings, store, arguments.json, output)
        return 0
    if arguments.action == "remove":
        store.remove(arguments.names)
        output.note(
            f"✓ removed {', '.join(arguments.names)}; grants of it stay until agenthub revoke AGENT secret NAME"
        )
        return 0
    _set(store, arguments.names, arguments.file, output)
    return 0


def passphrase_prompt(output: Output) -> Callable[[bool], str] | None:
    """What asks for the passphrase of the secrets; None where nobody can be asked."""
    if not output.interactive:
        return None

    def ask(new: bool) -> str:
        if not new:
            return _hidden("Passphrase of your secrets: ")
        first = _hidden("New passphrase for your secrets (empty: a key file instead): ")
        if first and _hidden("Again: ") != first:
            raise InvalidInputError("the two passphrases differ; nothing was kept")
        return first

    return ask


def _set(store: SecretStore, names: list[str], in_file: bool, output: Output) -> None:
    name, separator, _ = names[0].partition("=")
    if separator or len(names) > 1:
        raise _value_refused()
    check_secret_name(name)
    value = _read_value(name)
    where = store.set(name, value, in_file=in_file)
    output.note(f"✓ {name} is kept {where}")
    if len(value) < SHORTEST:
        output.warning(f"{name} has less than {SHORTEST} characters: too short to be masked in what agents print")


def _value_refused() -> InvalidInputError:
    return InvalidInputError(
        "secret set takes no value on the command line: other users see it in ps, and the shell writes it down",
        suggestion="give the name alone: it asks, or takes what is piped in. Replace a key that was typed here",
    )


def _read_value(name: str) -> str:
    if sys.stdin.isatty():
        value = _hidden(f"Value of {name}: ")
    else:
        try:
            value = sys.stdin.buffer.read(LARGEST + 3).decode()
        except UnicodeDecodeError:
            raise InvalidInputError(f"the value of {name} is not text in UTF-8") from None
        value = value.removesuffix("\r\n") if value.endswith("\r\n") else value.removesuffix("\n")
    if not value:
        raise InvalidInputError(f"{name} was given no value")
    return value


def _hidden(prompt: str) -> str:
    from getpass import getpass

    try:
        return getpass(prompt, sys.stderr)
    except EOFError:
        raise InvalidInputError("nothing was entered") from None


def _list(settings: Settings, store: SecretStore, as_json: bool, output: Output) -> None:
    from agenthub.packages.index import agent_names
    from agenthub.packages.store import Store

    granted: dict[str, list[str]] = {}
    for owner, agent in agent_names(settings.paths):
        for name in Store(settings.paths).read_grants(owner, agent)["secrets"]:
            granted.setdefault(name, []).append(f"{owner}/{agent}")
    kept = store.names()
    if as_json:
        rows = [{"name": name, "kept": where, "agents": granted.get(name, [])} for name, where in kept.items()]
        output.json({"secrets": rows})
        return
    if not kept:
        output.note("no secrets are kept. agenthub secret set NAME keeps one")
        return
    width = max(map(len, kept))
    for name, where in kept.items():
        agents = ", ".join(granted.get(name, ())) or "no agent: agenthub grant AGENT secret " + name
        output.result(f"{name:<{width}}  {where:<7}  {agents}")
