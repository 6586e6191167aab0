"""The words after `agenthub run`: our options, the agent, the method, and inputs typed by the manifest.

Options before METHOD are agenthub's. After it, a parameter of the method goes before an option of the same name; `-i
name=value` says a parameter without doubt.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from agenthub.config import MB, SANDBOX_LEVELS, format_size
from agenthub.errors import InvalidInputError, nearest
from agenthub.manifest.inputs import convert_text
from agenthub.runtime.runs.permissions import ANY, KINDS, Changes, check_item
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from agenthub.manifest import Method

RUN_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--json",), {"action": "store_true", "help": "print the whole result envelope as JSON"}),
    (("--timeout",), {"metavar": "TIME", "help": "deadline, such as 30s or 2min; 0: none"}),
    (("--memory",), {"metavar": "SIZE", "help": "memory cap of the process tree, such as 512MB; 0: none"}),
    (("--env",), {"metavar": "NAME[=VALUE]", "action": "append", "help": "pass an environment variable"}),
    (("--env-file",), {"metavar": "FILE", "action": "append", "help": "pass the NAME=VALUE lines of a file"}),
    (("--python",), {"metavar": "VERSION", "help": "for an agent that is not installed: its Python"}),
    (("--offline",), {"action": "store_true", "help": "make environments from caches alone"}),
    (("--sandbox",), {"choices": SANDBOX_LEVELS, "help": "default: auto, the best that is to be had here"}),
    (("--allow-network",), {"metavar": "HOST", "action": "append", "help": "let it reach HOST, or any"}),
    (("--allow-read",), {"metavar": "PATH", "action": "append", "help": "let it read a file or directory"}),
    (("--allow-write",), {"metavar": "PATH", "action": "append", "help": "let it write a file or directory"}),
    (("--allow-run",), {"metavar": "PROGRAM", "action": "append", "help": "let it start PROGRAM, or any"}),
    (("--deny-network",), {"metavar": "HOST", "action": "append", "help": "not HOST, or any, although it may"}),
    (("--deny-read",), {"metavar": "PATH", "action": "append", "help": "not PATH, or any, although it may"}),
    (("--deny-write",), {"metavar": "PATH", "action": "append", "help": "not PATH, or any, although it may"}),
    (("--deny-run",), {"metavar": "PROGRAM", "action": "append", "help": "not PROGRAM, or any, although it may"}),
    (("--deny-env",), {"metavar": "NAME", "action": "append", "help": "not the variable, or any, although it may"}),
    (("--explain",), {"action": "store_true", "help": "print what would be enforced, and stop"}),
    (("-y", "--yes"), {"action": "store_true", "help": "consent to code never seen here, and to a weaker sandbox"}),
    (("--allow-commands",), {"action": "store_true", "help": "consent to the manifest's installation commands"}),
    (("-q", "--quiet"), {"action": "store_true", "help": "print nothing but results and errors"}),
    (("-v", "--verbose"), {"action": "store_true", "help": "print details, and tracebacks of errors"}),
    (("--color",), {"choices": ("auto", "always", "never"), "help": "default: auto"}),
    (("--no-progress",), {"action": "store_true", "help": "no progress display"}),
)


class CallWords(NamedTuple):
    """`options` are ours; `rest` is what follows METHOD."""

    options: argparse.Namespace
    agent: str | None
    method: str | None
    rest: list[str]


def add_run_options(parser: argparse.ArgumentParser, taken: frozenset[str] = frozenset()) -> None:
    """Adds the options of `run`, but for the names that a method's parameters take."""
    for names, definition in RUN_OPTIONS:
        free = [name for name in names if name not in taken]
        if free:
            dest = names[-1].lstrip("-").replace("-", "_")
            parser.add_argument(*free, dest=dest, **{"default": argparse.SUPPRESS, **definition})


def split(words: list[str], parser: argparse.ArgumentParser) -> CallWords:
    """Tells our options, the agent and the method from what follows the method."""
    valued = {
        name
        for names, definition in RUN_OPTIONS
        if "action" not in definition or definition["action"] == "append"
        for name in names
    }
    options: list[str] = []
    positional: list[str] = []
    position = 0
    while position < len(words) and len(positional) < 2:
        word = words[position]
        position += 1
        if not word.startswith("-") or word == "-":
            positional.append(word)
            continue
        options.append(word)
        if word in valued and position < len(words):
            options.append(words[position])
            position += 1
    agent, method = [*positional, None, None][:2]
    return CallWords(parser.parse_args(options), agent, method, words[position:])


def parse_inputs(
    method: Method, rest: list[str], parser: argparse.ArgumentParser, limit: int
) -> tuple[dict[str, Any], argparse.Namespace]:
    """The inputs of a call, as JSON values by name, and the options of ours that stood among them.

    Args:
        method: whose parameters they are.
        rest: the words after METHOD.
        parser: takes the parameters and options; shows its help where it is asked for.
        limit: bytes that standard input or a file may have.

    Raises:
        InvalidInputError: words that are neither, or that do not convert.
    """
    taken = _add_parameters(parser, method)
    add_run_options(parser, taken)
    parser.add_argument("-i", "--input", dest="assignments", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("documents", nargs="*", metavar="JSON|-")
    found, unknown = parser.parse_known_intermixed_args(rest)
    for word in unknown:
        raise _unknown_word(word, method)
    inputs: dict[str, Any] = {}
    for document in found.documents:
        inputs.update(_document(document, limit))
    texts: dict[str, list[str]] = {}
    for name in method.parameters:
        texts[name] = getattr(found, f"parameter {name}", None) or []
    for assignment in found.assignments:
        name, text = _assignment(assignment, method, limit)
        texts.setdefault(name, []).append(text)
    for name, values in texts.items():
        if values:
            inputs[name] = convert_text(method, name, values) if name in method.parameters else values[-1]
    return inputs, found


def _add_parameters(parser: argparse.ArgumentParser, method: Method) -> frozenset[str]:
    group = parser.add_argument_group(f"parameters of {method.name}")
    taken: set[str] = set()
    for name, parameter in method.parameters.items():
        flags = [f"--{spelling}" for spelling in dict.fromkeys((name.replace("_", "-"), name))]
        dest = f"parameter {name}"
        text = parameter.description.replace("%", "%%")
        if parameter.schema["type"] == "boolean":
            group.add_argument(*flags, dest=dest, action="append", nargs="?", const="true", help=text)
            negated = [f"--no-{flag[2:]}" for flag in flags]
            group.add_argument(*negated, dest=dest, action="append_const", const="false", help=argparse.SUPPRESS)
            taken.update(negated)
        else:
            kind = parameter.kind if parameter.kind != "value" else str(parameter.schema["type"])
            group.add_argument(*flags, dest=dest, action="append", metavar=kind.upper(), help=text)
        taken.update(flags)
    return frozenset(taken)


def _unknown_word(word: str, method: Method) -> InvalidInputError:
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    near = nearest(name, method.parameters)
    known = ", ".join(method.parameters) or "none"
    return InvalidInputError(
        f"{method.name} has no parameter '{name}'" + (f". Did you mean '{near}'?" if near else ""),
        suggestion=f"parameters: {known}",
    )


def _assignment(assignment: str, method: Method, limit: int) -> tuple[str, str]:
    name, equals, text = assignment.partition("=")
    if not equals or not name:
        raise InvalidInputError(f"-i {assignment!r} is not NAME=VALUE")
    if text.startswith("@"):
        is_path = name in method.parameters and method.parameters[name].kind != "value"
        text = text[1:] if is_path else _file_text(text[1:], limit)
    return name, text


def _file_text(path: str, limit: int) -> str:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return _bounded_text(file, path, limit)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None


def _bounded_text(file: BinaryIO, where: str, limit: int) -> str:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidInputError(
            f"{where} is larger than the {format_size(limit)} that an input may have",
            suggestion="pass a file's path instead, or raise the setting 'result' (AGENTHUB_RESULT=…)",
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{where} is not UTF-8 text") from None


def _document(word: str, limit: int) -> dict[str, Any]:
    if word == "-":
        where = "standard input"
        text = _bounded_text(sys.stdin.buffer, where, limit)
    elif word.lstrip().startswith("{"):
        text, where = word, "the input"
    else:
        raise InvalidInputError(
            f"'{word}' is not an input",
            suggestion="write --name value, -i name=value, a JSON object, or - for JSON on stdin",
        )
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{where} is not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidInputError(f"{where} is nested too deep") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{where} is not a JSON object")
    return value


def read_env_files(paths: list[str]) -> list[str]:
    """The `NAME=VALUE` lines of the files that `--env-file` names; blank lines, comments and `export` are passed over.

    Raises:
        InvalidInputError: a file that cannot be read, or a line that is none of these.
    """
    assignments = []
    for path in paths:
        for number, line in enumerate(_file_text(path, MB).splitlines(), 1):
            line = line.strip().removeprefix("export ").lstrip()
            if not line or line.startswith("#"):
                continue
            name, equals, value = line.partition("=")
            if not equals or not name.strip().isidentifier():
                raise InvalidInputError(f"{path}:{number}: not NAME=VALUE")
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            assignments.append(f"{name.strip()}={value}")
    return assignments


def permission_changes(options: argparse.Namespace, directory: str) -> Changes:
    """What `--allow-…` and `--deny-…` say.

    Raises:
        InvalidInputError: an item that cannot be one, or a path to be allowed that is not there.
    """
    allow = {kind: _items(options, "allow", kind, directory) for kind in KINDS}
    deny = {kind: _items(options, "deny", kind, directory) for kind in KINDS}
    for kind in ("read", "write"):
        for path in allow[kind]:
            if path != ANY and not os.path.lexists(path):
                hint = "make it first: only what exists can be allowed" if kind == "write" else None
                raise InvalidInputError(f"--allow-{kind}: {path} does not exist", suggestion=hint)
    return Changes(allow, deny)


def _items(options: argparse.Namespace, verb: str, kind: str, directory: str) -> list[str]:
    flag = "env" if kind == "environment" else kind
    return [check_item(kind, item, directory) for item in getattr(options, f"{verb}_{flag}", None) or ()]
