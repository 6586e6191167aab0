"""`agenthub search WORDS`."""

from __future__ import annotations

import argparse

from agenthub.cli.output import printable
from agenthub.config import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output
    from agenthub.indexes.search import Hit


def configure_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="WORD", help="all of them are found in what is shown")
    parser.add_argument("--index", metavar="URL", help="an index, by address or name, that is searched as well")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="show at most N; 0: all (default: 20)")
    parser.add_argument("--offline", action="store_true", help="use nothing but the cache")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def search(arguments: argparse.Namespace, output: Output) -> int:
    """Shows the agents of all indexes that have all the words, the best first."""
    from agenthub.errors import InvalidInputError
    from agenthub.indexes.client import IndexClient
    from agenthub.indexes.search import search as find

    client = IndexClient(Settings({"offline": arguments.offline or None, "index": arguments.index}))
    if not client.indexes:
        raise InvalidInputError("there is no index to search", suggestion="agenthub index add NAME URL, or --index URL")
    with output.progress("asking the indexes"):
        found = find(client, arguments.words)
    hits = found.hits[: arguments.limit] if arguments.limit > 0 else found.hits
    for problem in found.problems:
        output.warning(printable(problem))
    if arguments.json:
        output.json({"agents": [_document(hit) for hit in hits], "found": len(found.hits)})
        return 0
    width = max((len(f"{hit.owner}/{hit.name}") for hit in hits), default=0)
    for hit in hits:
        output.page(_line(hit, width, output))
    if len(hits) < len(found.hits):
        output.note(f"and {len(found.hits) - len(hits)} more: --limit 0 shows them")
    if not hits:
        output.note("nothing was found")
    return 0


def _line(hit: Hit, width: int, output: Output) -> str:
    label = output.style(f"{hit.owner + '/' + hit.name:<{width}}", "bold")
    text = hit.description if hit.deprecated is None else f"[deprecated: {hit.deprecated}] {hit.description}"
    return f"{label}  " + printable(f"{hit.version:<8} {' '.join(text.split())[:200]}")


def _document(hit: Hit) -> dict[str, object]:
    values = hit._asdict()
    values["index"] = values.pop("source")
    return {**values, "methods": list(hit.methods), "tags": list(hit.tags)}
