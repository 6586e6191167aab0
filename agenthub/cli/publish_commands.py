"""`agenthub pack`, `publish`, `yank` and `deprecate`."""

from __future__ import annotations

import argparse
import os

from agenthub.cli.output import printable
from agenthub.config import Settings, format_size, parse_size
from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output
    from agenthub.indexes.configured import IndexSource
    from agenthub.packages.pack import PackRules


def configure_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="an agent's directory")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: NAME-VERSION.agent, here")
    _add_rules(parser)
    parser.add_argument("--dry-run", action="store_true", help="list what would be packed, and stop")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def pack(arguments: argparse.Namespace, output: Output) -> int:
    """Makes one archive: the same files are the same bytes."""
    from agenthub.packages.pack import pack as pack_directory
    from agenthub.runtime.agents.publisher import archive_name, prepared

    rules = _rules(arguments)
    if not os.path.isdir(arguments.directory):
        raise InvalidInputError(f"{arguments.directory} is not a directory", suggestion="name the agent's directory")
    with prepared(arguments.directory, rules) as ready:
        packed, found = ready.packed, ready.found
        assert packed is not None
        target = arguments.output or archive_name(found)
        if os.path.isdir(target):
            target = os.path.join(target, archive_name(found))
        if not arguments.dry_run:
            packed = pack_directory(arguments.directory, target, rules)
    for path in packed.left_out:
        output.detail(f"left out: {printable(path)}")
    if arguments.json:
        document = {"name": found.name, "version": found.version, **packed._asdict()}
        output.json({**document, "path": None if arguments.dry_run else os.path.abspath(target)})
    elif arguments.dry_run:
        output.page("\n".join(map(printable, packed.files)))
    files = "1 file" if len(packed.files) == 1 else f"{len(packed.files)} files"
    mark = "would pack" if arguments.dry_run else "✓"
    output.note(f"{mark} {target}  {files} · {format_size(packed.size)} · {packed.digest[:19]}")
    return 0


def configure_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR|ARCHIVE", help="an agent's directory, or what agenthub pack made of it")
    _add_index(parser)
    parser.add_argument("--owner", required=True, metavar="OWNER", help="whose agent it is")
    parser.add_argument("--sign", metavar="KEYFILE", help="sign it with this key of ssh")
    parser.add_argument("--sigstore", metavar="FILE", help="publish this Sigstore bundle with it")
    parser.add_argument(
        "--force", action="store_true", help="although the version jumps, or the name looks like another"
    )
    _add_rules(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, and publish nothing")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def publish(arguments: argparse.Namespace, output: Output) -> int:
    """Adds a release to an index; what was published before stays as it is."""
    from agenthub.packages.names import check_name
    from agenthub.runtime.agents.publisher import give, prepared, signatures

    settings = Settings()
    source = _index(arguments, settings)
    owner = check_name(arguments.owner, "owner")
    with prepared(arguments.path, _rules(arguments)) as ready:
        label = f"{owner}/{ready.found.name} {ready.found.version}"
        report: dict[str, object] = {"owner": owner, "name": ready.found.name, "version": ready.found.version}
        report |= {
            "index": source.url,
            "digest": ready.found.digest,
            "size": ready.found.size,
            "dry_run": arguments.dry_run,
        }
        if arguments.dry_run:
            if arguments.json:
                output.json({**report, "changed": False})
            output.note(f"would publish {label} to {source.name}")
            return 0
        signed = signatures(ready, owner, arguments.sign, arguments.sigstore)

        def waiting() -> None:
            output.note("waiting for another publisher to finish")

        with output.progress(f"publishing to {source.name}"):
            done = give(source, settings, ready, owner, signed, force=arguments.force, waiting=waiting)
    if arguments.json:
        output.json({**report, "changed": done.changed, "latest": done.latest})
    if not done.changed:
        output.note(f"{label} is published already, with exactly this content")
        return 0
    latest = "" if done.latest == done.version or done.latest is None else f"; the latest is still {done.latest}"
    output.note(f"✓ {label} is published in {source.name}{printable(latest)}")
    return 0


def configure_yank(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="OWNER/NAME@VERSION")
    parser.add_argument("reason", nargs="?", metavar="REASON", help="shown to who asks for it nevertheless")
    parser.add_argument("--undo", action="store_true", help="let it be chosen again")
    _add_index(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def yank(arguments: argparse.Namespace, output: Output) -> int:
    """Says that a release is not to be chosen any more; who has it in a lock still gets it."""
    if "@" not in arguments.agent:
        raise InvalidInputError(f"yank {arguments.agent}@VERSION: one release is yanked, and not an agent")
    return _notice(arguments, output, "yanked", "may be chosen again")


def configure_deprecate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="OWNER/NAME[@VERSION]", help="without a version: all that are published")
    parser.add_argument("reason", nargs="?", metavar="REASON", help="what to use instead, and why")
    parser.add_argument("--undo", action="store_true", help="say so no more")
    _add_index(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def deprecate(arguments: argparse.Namespace, output: Output) -> int:
    """Says that another release or agent should be used; this one still may be."""
    return _notice(arguments, output, "deprecated", "is not deprecated any more")


def _notice(arguments: argparse.Namespace, output: Output, kind: str, undone: str) -> int:
    from agenthub.indexes.publish import EVERY_VERSION
    from agenthub.packages.names import check_name
    from agenthub.runtime.agents.publisher import give_notice

    settings = Settings()
    source = _index(arguments, settings)
    agent, _, version = arguments.agent.partition("@")
    owner, slash, name = agent.partition("/")
    if not slash:
        raise InvalidInputError(f"{arguments.agent!r} is not owner/name@version")
    check_name(owner, "owner")
    check_name(name)
    reason = "" if arguments.undo else (arguments.reason or "").strip()
    if not arguments.undo and not reason:
        raise InvalidInputError(
            f"say why {arguments.agent} is {kind}: those who use it will ask",
            suggestion=f'agenthub {arguments.command} {arguments.agent} "REASON"; --undo takes it back',
        )
    if arguments.undo and arguments.reason:
        raise InvalidInputError("--undo takes no reason")
    with output.progress(f"asking {source.name}"):
        versions = give_notice(source, settings, owner, name, version or EVERY_VERSION, **{kind: reason})
    if arguments.json:
        said = {"owner": owner, "name": name, "versions": versions, kind: reason or None, "index": source.url}
        output.json(said)
    for each in versions:
        output.note(printable(f"✓ {owner}/{name} {each} {undone if arguments.undo else f'is {kind}: {reason}'}"))
    return 0


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", metavar="URL", help="address, directory or name of an index (also AGENTHUB_INDEX)")
    parser.set_defaults(command=parser.prog.rpartition(" ")[2])


def _index(arguments: argparse.Namespace, settings: Settings) -> IndexSource:
    from agenthub.indexes.configured import index_url, read_indexes

    text = arguments.index or str(settings["index"])
    if not text:
        raise InvalidInputError("which index?", suggestion="name one with --index URL")
    known = {source.name for source in read_indexes(settings.paths)}
    if text not in known and "://" not in text and (os.sep in text or os.path.isdir(text)):
        text = index_url(os.path.abspath(os.path.expanduser(text)))
    return read_indexes(settings.paths, (text,))[0]


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-file",
        action="append",
        default=[],
        metavar="PATH",
        help="take this file, whatever is in it; repeatable",
    )
    parser.add_argument("--max-size", metavar="SIZE", help="of all files together (default: 50MB)")


def _rules(arguments: argparse.Namespace) -> PackRules:
    from agenthub.packages.pack import MAX_SIZE, PackRules

    try:
        size = parse_size(arguments.max_size) if arguments.max_size else MAX_SIZE
    except ValueError as error:
        raise InvalidInputError(f"--max-size: {error}") from None
    return PackRules(frozenset(os.path.normpath(path) for path in arguments.allow_file), size)
