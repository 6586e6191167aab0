"""Parsers of a command's words, by argparse."""

from __future__ import annotations

import argparse
import os

from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal. Where argparse has to find that out, each start imports `shutil`, for 3 ms."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns
        except (ValueError, OSError):
            columns = 80
        super().__init__(prog, width=columns - 2)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are errors like any other."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Formatter, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(message, suggestion=f"see: {self.prog} --help")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    group = parser.add_argument_group("everywhere")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing but results and errors")
    group.add_argument("-v", "--verbose", action="store_true", help="print details, and tracebacks of errors")
    group.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: auto")
    group.add_argument("--no-progress", action="store_true", help="no progress display")
