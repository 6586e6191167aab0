"""`agenthub index build`, `verify` and `serve`: an index as a directory of one's own."""

from __future__ import annotations

import argparse
import errno
import os

from agenthub.cli.output import printable
from agenthub.config import parse_size
from agenthub.errors import AgentNotFoundError, InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output
    from agenthub.indexes.directory import IndexDirectory
    from agenthub.indexes.server import IndexServer, Serving

_TOKEN = "AGENTHUB_SERVE_TOKEN"  # noqa: S105 - the name of a variable


def configure_index_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="has the archives, at files/OWNER/NAME/NAME-VERSION.agent")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def index_build(arguments: argparse.Namespace, output: Output) -> int:
    """Makes an index's documents anew from its archives."""
    from agenthub.indexes.building import build

    with output.progress("reading archives") as progress:
        built = build(_existing(arguments.directory), progress.update)
    for line in built.lost:
        output.warning(printable(f"lost: {line}"))
    if arguments.json:
        output.json(built._asdict())
    changed = _counted(len(built.changed), "document")
    output.note(f"✓ {_counted(built.agents, 'agent')}, {_counted(built.releases, 'release')}; {changed} changed")
    return 0


def configure_index_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def index_verify(arguments: argparse.Namespace, output: Output) -> int:
    """Holds an index against itself; exit code 1 where readers do not get what was published."""
    import tempfile

    from agenthub.indexes.verification import verify

    index = _existing(arguments.directory)
    with output.progress("verifying") as progress, tempfile.TemporaryDirectory(prefix="agenthub-verify-") as scratch:
        found = verify(index, scratch, progress.update)
    if arguments.json:
        problems = [problem._asdict() for problem in found.problems]
        counts = {"agents": found.agents, "releases": found.releases}
        output.json({"valid": found.valid, "problems": problems, **counts})
    else:
        for severity, path, message in found.problems:
            style = "red" if severity == "error" else "yellow"
            output.page(f"{output.style(severity, style)}: {printable(path)}: {printable(message)}")
    if not found.valid:
        wrong = sum(problem.severity == "error" for problem in found.problems)
        output.note(f"{arguments.directory} has {_counted(wrong, 'error')}")
        return 1
    output.note(f"✓ {_counted(found.agents, 'agent')}, {_counted(found.releases, 'release')}")
    return 0


def configure_index_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="an index, or an empty directory to publish to")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8642, help="default: 8642; 0: any that is free")
    parser.add_argument("--token-file", metavar="FILE", help="who may publish: lines of TOKEN NAME [OWNER,…]")
    parser.add_argument("--private", action="store_true", help="reading takes a token too")
    parser.add_argument("--max-size", default="256MB", metavar="SIZE", help="of one archive (default: 256MB)")
    parser.add_argument("--json", action="store_true", help="print a JSON document with the address")


def index_serve(arguments: argparse.Namespace, output: Output) -> int:
    """Serves an index over HTTP until Ctrl-C; with a token, takes releases too."""
    from agenthub.indexes.directory import IndexDirectory

    index = IndexDirectory(arguments.directory)
    serving = _serving(arguments, output)
    if not serving.publishers:
        _existing(arguments.directory).check_exists()
    index.check_usable()
    server = _listening(arguments, index, serving)
    with server:
        if arguments.json:
            output.json({"url": server.url, "publishers": [each.name for each in serving.publishers]})
        else:
            output.result(server.url)
        output.note("Ctrl-C ends it" + ("" if serving.publishers else "; nobody may publish: --token-file says who"))
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            output.detail("ended")
    return 0


def _serving(arguments: argparse.Namespace, output: Output) -> Serving:
    from agenthub.indexes.publishers import Publisher, check_token, read_publishers
    from agenthub.indexes.server import Serving

    publishers = read_publishers(arguments.token_file) if arguments.token_file else ()
    token = os.environ.get(_TOKEN)
    if token:
        publishers = (*publishers, Publisher(check_token(token, _TOKEN), "token"))
    if arguments.private and not publishers:
        raise InvalidInputError("--private needs tokens", suggestion=f"--token-file FILE, or the variable {_TOKEN}")
    try:
        size = parse_size(arguments.max_size)
    except ValueError as error:
        raise InvalidInputError(f"--max-size: {error}") from None
    return Serving(publishers, arguments.private, size, lambda line: output.detail(printable(line)))


def _listening(arguments: argparse.Namespace, index: IndexDirectory, serving: Serving) -> IndexServer:
    from agenthub.indexes.server import IndexServer

    try:
        if not 0 <= arguments.port <= 65535:
            raise OSError(errno.EINVAL, "there is no such port")
        return IndexServer(index, arguments.host, arguments.port, serving)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInputError(
            f"cannot listen on {arguments.host}:{arguments.port}: {reason}",
            suggestion="--port 0 takes one that is free",
        ) from None


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _existing(directory: str) -> IndexDirectory:
    from agenthub.indexes.directory import IndexDirectory

    if not os.path.isdir(directory):
        raise AgentNotFoundError(f"there is no directory {directory}")
    return IndexDirectory(directory)
