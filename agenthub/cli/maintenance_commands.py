"""`agenthub config`, `cache` and `gc`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from agenthub.cli.output import printable
from agenthub.config import SETTINGS, Settings, check_setting_name, format_size
from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output


def configure_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("action", nargs="?", choices=("set", "unset"), help="write to, or remove from, the user file")
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("value", nargs="?", metavar="VALUE")


def config(arguments: argparse.Namespace, output: Output) -> int:
    """Every setting, its value, and where that came from; or a change of the user file."""
    if arguments.action:
        _change(arguments)
        return 0
    settings = Settings()
    found = {name: settings.lookup(name) for name in SETTINGS}
    if arguments.json:
        values = {name: {"value": value, "source": source} for name, (value, source) in found.items()}
        output.json({"settings": values, "home": settings.paths.home})
        return 0
    output.result(f"{'home':<17} {settings.paths.home}")
    for name, (value, source) in found.items():
        shown = _shown(SETTINGS[name].kind, value)
        where = printable(f"{shown:<10} {source:<24}")
        output.page(f"{name:<17} {where} {output.style(SETTINGS[name].help, 'dim')}")
    return 0


def _shown(kind: str, value: Any) -> str:
    if kind == "size":
        return format_size(value)
    if kind == "duration":
        return f"{value / 86400:g} days" if value >= 86400 else f"{value:g} s"
    return str(value).lower() if kind == "flag" else str(value)


def _change(arguments: argparse.Namespace) -> None:
    """Writes one line of the user file, and leaves its other lines as they are."""
    if not arguments.name or (arguments.action == "set") != (arguments.value is not None):
        raise InvalidInputError("config set needs NAME and VALUE, config unset NAME", suggestion="see: agenthub config")
    from agenthub.user_config import change_settings, check_setting

    if arguments.action == "set":
        check_setting(arguments.name, arguments.value, "agenthub config")
    else:
        check_setting_name(arguments.name, "agenthub config")
    change_settings(Settings().paths.user_config, {arguments.name: arguments.value})


def configure_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("dir", "size", "clean", "prune"))
    parser.add_argument("--dry-run", action="store_true", help="for prune: show what would be removed, and stop")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def cache(arguments: argparse.Namespace, output: Output) -> int:
    """Where the cache is, how large; without it, or no larger than `cache_size` says."""
    from agenthub.runtime.environments.state import directory_size

    settings = Settings()
    path = settings.paths.cache
    if arguments.action == "prune":
        return _prune(settings, arguments.dry_run, output)
    size = directory_size(path) if arguments.action != "dir" and os.path.isdir(path) else 0
    if arguments.action == "clean":
        from agenthub.runtime.agents.cache_limit import clear_cache

        used = clear_cache(settings.paths) if os.path.isdir(path) else []
        if used:
            output.note(f"in use, and stays: {', '.join(printable(entry.path) for entry in used)}")
        if os.path.isdir(path):
            size -= directory_size(path)
        output.note(f"✓ removed {format_size(size)}")
    if arguments.json:
        output.json({"path": path} if arguments.action == "dir" else {"path": path, "bytes": size})
    elif arguments.action != "clean":
        output.result(path if arguments.action == "dir" else format_size(size))
    return 0


def _prune(settings: Settings, dry_run: bool, output: Output) -> int:
    from agenthub.runtime.agents.cache_limit import limit_cache

    removed = limit_cache(settings.paths, settings["cache_size"], remove=not dry_run)
    size = sum(entry.size for entry in removed)
    if output.as_json:
        paths = [entry.path for entry in removed]
        output.json({"path": settings.paths.cache, "bytes": size, "removed": paths, "dry_run": dry_run})
        return 0
    for entry in removed if dry_run else ():
        output.result(printable(f"{entry.path}  {format_size(entry.size)}"))
    output.note(f"{'would remove' if dry_run else '✓ removed'} {format_size(size)}")
    return 0


def configure_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, metavar="N", help="superseded versions of an agent that stay; by default 2")
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and stop")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def gc(arguments: argparse.Namespace, output: Output) -> int:
    """Removes what nobody refers to: superseded versions, links of projects that are gone, what was left behind."""
    from agenthub.runtime.agents.garbage import collect

    if arguments.keep is not None and arguments.keep < 0:
        raise InvalidInputError("--keep takes a number of 0 or more")
    with output.progress("looking for what nobody refers to") as progress:
        found = collect(Settings(), keep=arguments.keep, remove=not arguments.dry_run, say=progress.update)
    size = sum(each.size for each in found if not each.in_use)
    count = sum(not each.in_use for each in found)
    if arguments.json:
        output.json({"dry_run": arguments.dry_run, "bytes": size, "found": [each._asdict() for each in found]})
        return 0
    for each in found:
        shown = printable(f"{each.kind} of {each.what}" if each.kind != "version" else f"version {each.what}")
        if each.in_use:
            output.note(f"{shown} is in use, and stays")
        elif arguments.dry_run:
            output.result(f"{shown}  {format_size(each.size)}  {printable(each.path)}")
        else:
            output.detail(f"removed {printable(each.path)}")
    if count:
        verb = "would remove" if arguments.dry_run else "✓ removed"
        output.note(f"{verb} {count} thing{'s' * (count > 1)}, {format_size(size)}")
    else:
        output.note("nothing to remove")
    return 0
