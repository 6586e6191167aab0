"""`agenthub index …`: which indexes are asked, and what belongs to each.

One table says in which module each of its words is.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, NamedTuple

from agenthub.cli.output import printable
from agenthub.cli.parsers import Parser, add_common_options
from agenthub.config import Settings
from agenthub.errors import AgentRuntimeError, InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output


class Action(NamedTuple):
    """`module` holds `configure_index_<word>(parser)` and `index_<word>(arguments, output) -> exit code`."""

    module: str
    summary: str


ACTIONS = {
    "add": Action("index", "ask an index, behind those that are asked already"),
    "remove": Action("index", "do not ask an index any more"),
    "list": Action("index", "show the indexes in their order, and the owners that belong to each"),
    "owner": Action("index", "say which index an owner's agents come from"),
    "login": Action("index", "keep the token of a private index in the keyring"),
    "logout": Action("index", "forget the token of a private index"),
    "refresh": Action("index", "fetch the lists of agents that search reads"),
    "build": Action("index_directory", "make an index's documents anew from the archives in a directory"),
    "verify": Action("index_directory", "hold an index in a directory against itself"),
    "serve": Action("index_directory", "serve an index over HTTP, and take what is published"),
}


def configure_index(parser: argparse.ArgumentParser) -> None:
    words = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS), parser_class=Parser)
    for word, action in ACTIONS.items():
        inner = words.add_parser(word, help=action.summary, description=action.summary)
        getattr(_module(action), f"configure_index_{word}")(inner)
        add_common_options(inner)


def index(arguments: argparse.Namespace, output: Output) -> int:
    """Hands over to the word that was given."""
    action = ACTIONS[arguments.action]
    return int(getattr(_module(action), f"index_{arguments.action}")(arguments, output))


def _module(action: Action) -> Any:
    return import_module(f"agenthub.cli.{action.module}_commands")


# add, remove, owner -------------------------------------------------------------------------------------------------


def configure_index_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what you call it")
    parser.add_argument(
        "url", metavar="URL", help="https://HOST/PATH, file:///DIR, DIR, or git+https://HOST/{owner}/{name}"
    )
    parser.add_argument("--first", action="store_true", help="ask it before the others")
    parser.add_argument(
        "--owner", dest="owners", action="append", default=[], metavar="OWNER", help="this owner belongs to it alone"
    )
    parser.add_argument("--no-check", action="store_true", help="do not look whether there is an index")


def index_add(arguments: argparse.Namespace, output: Output) -> int:
    """Adds an index that can be read."""
    from agenthub.indexes.configured import IndexSource, add_index, index_url

    settings = Settings()
    if not arguments.no_check and not settings["offline"]:
        _look(settings, IndexSource(arguments.name, index_url(arguments.url)), output)
    source = add_index(settings.paths, arguments.name, arguments.url, arguments.owners, first=arguments.first)
    for owner in arguments.owners:
        _move_pin(settings, owner, source.url)
    output.note(f"✓ index {source.name}: {source.url}")
    return 0


def _look(settings: Settings, source: Any, output: Output) -> None:
    """Whether there is an index: a mistyped address is better known now than at the next installation."""
    from agenthub.indexes.documents import Reader
    from agenthub.indexes.transport import NotPublishedError, Transport

    if source.kind == "git":
        return
    with output.progress(f"asking {source.url}"):
        try:
            data = Transport.from_settings(settings).document(source, "index.json", 1 << 20)
        except NotPublishedError:
            raise InvalidInputError(
                f"there is no index at {source.url}: it has no index.json",
                suggestion="agenthub index build DIR makes one; --no-check adds it nevertheless",
            ) from None
        except AgentRuntimeError as error:
            error.suggestion = f"{error.suggestion}; --no-check adds it nevertheless" if error.suggestion else None
            raise
    Reader(source.url).document(data, 1 << 20)


def configure_index_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")


def index_remove(arguments: argparse.Namespace, output: Output) -> int:
    """Forgets indexes; where owners were first seen stays known."""
    from agenthub.indexes.configured import remove_index

    for name in arguments.names:
        source = remove_index(Settings().paths, name)
        output.note(f"✓ removed the index {source.name}")
    return 0


def configure_index_owner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("owner", metavar="OWNER")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the index; without it: where the owner belongs now")
    parser.add_argument("--forget", action="store_true", help="the owner belongs where it is seen next")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def index_owner(arguments: argparse.Namespace, output: Output) -> int:
    """Says, or shows, which index an owner belongs to; what was seen of it at another one does not count any more."""
    from agenthub.indexes.configured import map_owner

    settings = Settings()
    if arguments.forget:
        map_owner(settings.paths, arguments.owner, None)
        _move_pin(settings, arguments.owner, "")
        output.note(f"✓ {arguments.owner} belongs where it is seen next")
        return 0
    if arguments.name is None:
        return _show_owner(settings, arguments.owner, output)
    source = map_owner(settings.paths, arguments.owner, arguments.name)
    assert source is not None
    _move_pin(settings, arguments.owner, source.url, always=True)
    output.note(f"✓ {arguments.owner} belongs to {source.name}")
    return 0


def _show_owner(settings: Settings, owner: str, output: Output) -> int:
    from agenthub.indexes.configured import read_indexes
    from agenthub.indexes.owners import Owners

    mapped = next((source for source in read_indexes(settings.paths) if owner in source.owners), None)
    pin = Owners(settings.paths).pins().get(owner)
    url = mapped.url if mapped else pin.url if pin else None
    why = "as you said" if mapped else "where it was first seen" if pin else "it was never seen"
    if output.as_json:
        output.json({"owner": owner, "index": url, "mapped": mapped is not None})
    else:
        output.result(f"{owner} {url or '-'}  ({why})")
    return 0


def _move_pin(settings: Settings, owner: str, url: str, *, always: bool = False) -> None:
    from agenthub.indexes.owners import Owners

    owners = Owners(settings.paths)
    pin = owners.pins().get(owner)
    if pin is not None and (always or pin.url != url):
        owners.forget(owner)


# list ---------------------------------------------------------------------------------------------------------------


def configure_index_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def index_list(arguments: argparse.Namespace, output: Output) -> int:
    """The indexes in the order in which they are asked."""
    from agenthub.indexes.configured import configured_indexes
    from agenthub.indexes.owners import Owners

    settings = Settings()
    pins = Owners(settings.paths).pins()
    rows = []
    for source in configured_indexes(settings):
        seen = sorted(owner for owner, pin in pins.items() if pin.url == source.url and owner not in source.owners)
        owners = list(source.owners)
        rows.append({"name": source.name, "url": source.url, "kind": source.kind, "owners": owners, "seen": seen})
    if arguments.json:
        output.json({"indexes": rows})
        return 0
    for row in rows:
        output.page(printable(f"{row['name']:<12} {row['url']}"))
        for key, what in (("owners", "belong to it"), ("seen", "were first seen there")):
            if row[key]:
                output.page(output.style(printable(f"{'':<12} {', '.join(row[key])} {what}"), "dim"))
    if not rows:
        output.note("no index is configured: agenthub index add NAME URL")
    return 0


# login, logout, refresh ---------------------------------------------------------------------------------------------


def configure_index_login(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the index; its token is asked for, or piped in")


def index_login(arguments: argparse.Namespace, output: Output) -> int:
    """Keeps a token that is asked for without being shown."""
    import sys

    from agenthub.indexes.configured import find_index, read_indexes
    from agenthub.indexes.credentials import keep_token

    source = find_index(read_indexes(Settings().paths), arguments.name)
    if output.interactive:
        import getpass

        token = getpass.getpass(f"Token of {source.name}: ")
    else:
        token = sys.stdin.readline()
    if not token.strip():
        raise InvalidInputError("no token was given", suggestion=f"agenthub index login {source.name} < FILE")
    keep_token(source, token.strip())
    output.note(f"✓ the token of {source.name} is in the keyring")
    return 0


def configure_index_logout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")


def index_logout(arguments: argparse.Namespace, output: Output) -> int:
    """Forgets a token."""
    from agenthub.indexes.configured import find_index, read_indexes
    from agenthub.indexes.credentials import forget_token

    source = find_index(read_indexes(Settings().paths), arguments.name)
    known = forget_token(source)
    output.note(f"✓ forgot the token of {source.name}" if known else f"there was no token of {source.name}")
    return 0


def configure_index_refresh(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def index_refresh(arguments: argparse.Namespace, output: Output) -> int:
    """Fetches what has changed of every index's list of agents."""
    from agenthub.indexes.client import IndexClient
    from agenthub.indexes.search import summary

    client = IndexClient(Settings())
    failed = 0
    for source in client.indexes:
        with output.progress(f"asking {source.name}"):
            _, problem = summary(client, source, max_age=0.0)
        if problem:
            failed += 1
            output.warning(printable(problem))
    return 4 if failed else 0
