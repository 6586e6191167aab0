"""The words after `agenthub run`: our options, the agent, the method, and inputs typed by the manifest.

Options before METHOD are agenthub's. After it, a parameter of the method goes before an option of the same name; `-i
name=value` says a parameter without doubt.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

from agenthub.cli.plain_words import read_plain
from agenthub.config import MB, SANDBOX_LEVELS, format_size
from agenthub.errors import InvalidInputError, nearest
from agenthub.manifest.inputs import convert_text
from agenthub.quick_json import loads
from agenthub.runtime.runs.permissions import ANY, KINDS, Changes, check_item
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from agenthub.cli.plain_words import Definition
    from agenthub.manifest import Method

    Options = SimpleNamespace | argparse.Namespace

RUN_OPTIONS: tuple[Definition, ...] = (
    (("--json",), {"action": "store_true", "help": "print the whole result envelope as JSON"}),
    (("--timeout",), {"metavar": "TIME", "help": "deadline, such as 30s or 2min; 0: none"}),
    (("--memory",), {"metavar": "SIZE", "help": "memory cap of the process tree, such as 512MB; 0: none"}),
    (("--env",), {"metavar": "NAME[=VALUE]", "action": "append", "help": "pass an environment variable"}),
    (("--env-file",), {"metavar": "FILE", "action": "append", "help": "pass the NAME=VALUE lines of a file"}),
    (("--python",), {"metavar": "VERSION", "help": "for an agent that is not installed: its Python"}),
    (("--index",), {"metavar": "URL", "help": "for an agent that is not installed: an index that is asked first"}),
    (("--offline",), {"action": "store_true", "help": "use nothing but caches"}),
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
_INPUT: Definition = (
    ("-i", "--input"),
    {"dest": "assignments", "action": "append", "metavar": "NAME=VALUE", "help": "an input, by its name"},
)


class CallWords(NamedTuple):
    """`options` are ours; `rest` is what follows METHOD."""

    options: Options
    agent: str | None
    method: str | None
    rest: list[str]


def run_options(taken: frozenset[str] = frozenset()) -> list[Definition]:
    """The options of `run`, but for the names that a method's parameters take; what is not given leaves no trace."""
    definitions: list[Definition] = []
    for names, definition in RUN_OPTIONS:
        free = tuple(name for name in names if name not in taken)
        if free:
            dest = names[-1].lstrip("-").replace("-", "_")
            definitions.append((free, {"dest": dest, **definition}))
    return definitions


def add_run_options(parser: argparse.ArgumentParser, taken: frozenset[str] = frozenset()) -> None:
    """Adds them to a parser."""
    _add(parser, run_options(taken))


def _add(to: argparse._ActionsContainer, definitions: list[Definition]) -> None:
    """Adds options to a parser or to a group of one: one that has no help is not shown."""
    from argparse import SUPPRESS

    for names, definition in definitions:
        to.add_argument(*names, **{"default": SUPPRESS, "help": SUPPRESS, **definition})


def split(words: list[str], make_parser: Callable[[], argparse.ArgumentParser]) -> CallWords:
    """Tells our options, the agent and the method from what follows the method."""
    definitions = run_options()
    valued = {
        name
        for names, definition in definitions
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
    return CallWords(_read_options(options, definitions, make_parser), agent, method, words[position:])


def _read_options(
    words: list[str], definitions: list[Definition], make_parser: Callable[[], argparse.ArgumentParser]
) -> Options:
    plain = read_plain(words, definitions)
    if plain is not None and not plain[1]:
        return SimpleNamespace(**plain[0])
    parser = make_parser()
    _add(parser, definitions)
    return parser.parse_args(words)


def parse_inputs(
    method: Method, rest: list[str], make_parser: Callable[[], argparse.ArgumentParser], limit: int
) -> tuple[dict[str, Any], Options]:
    """The inputs of a call, as JSON values by name, and the options of ours that stood among them.

    Args:
        method: whose parameters they are.
        rest: the words after METHOD.
        make_parser: makes the parser that is told of the parameters and options, where it is needed; it shows its help
            where it is asked for.
        limit: bytes that standard input or a file may have.

    Raises:
        InvalidInputError: words that are neither, or that do not convert.
    """
    found, documents = _read_inputs(method, rest, make_parser)
    inputs: dict[str, Any] = {}
    for document in documents:
        inputs.update(_document(document, limit))
    texts: dict[str, list[str]] = {}
    for name in method.parameters:
        texts[name] = getattr(found, f"parameter {name}", None) or []
    for assignment in getattr(found, "assignments", []):
        name, text = _assignment(assignment, method, limit)
        texts.setdefault(name, []).append(text)
    for name, values in texts.items():
        if values:
            inputs[name] = convert_text(method, name, values) if name in method.parameters else values[-1]
    return inputs, found


def _read_inputs(
    method: Method, rest: list[str], make_parser: Callable[[], argparse.ArgumentParser]
) -> tuple[Options, list[str]]:
    parameters = _parameter_options(method)
    taken = frozenset(name for names, _ in parameters for name in names)
    others = [*run_options(taken), (tuple(name for name in _INPUT[0] if name not in taken), _INPUT[1])]
    plain = read_plain(rest, [*parameters, *others])
    if plain is not None:
        return SimpleNamespace(**plain[0]), plain[1]
    parser = make_parser()
    _add(parser.add_argument_group(f"parameters of {method.name}"), parameters)
    _add(parser, others)
    parser.add_argument("documents", nargs="*", metavar="JSON|-")
    found, unknown = parser.parse_known_intermixed_args(rest)
    for word in unknown:
        raise _unknown_word(word, method)
    return found, found.documents


def _parameter_options(method: Method) -> list[Definition]:
    definitions: list[Definition] = []
    for name, parameter in method.parameters.items():
        flags = tuple(f"--{spelling}" for spelling in dict.fromkeys((name.replace("_", "-"), name)))
        common = {"dest": f"parameter {name}", "help": parameter.description.replace("%", "%%")}
        if parameter.schema["type"] == "boolean":
            definitions.append((flags, {**common, "action": "append", "nargs": "?", "const": "true"}))
            negated = tuple(f"--no-{flag[2:]}" for flag in flags)
            definitions.append((negated, {"dest": common["dest"], "action": "append_const", "const": "false"}))
        else:
            kind = parameter.kind if parameter.kind != "value" else str(parameter.schema["type"])
            definitions.append((flags, {**common, "action": "append", "metavar": kind.upper()}))
    return definitions


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
        value = loads(text)
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


def permission_changes(options: Options, directory: str) -> Changes:
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


def _items(options: Options, verb: str, kind: str, directory: str) -> list[str]:
    flag = "env" if kind == "environment" else kind
    return [check_item(kind, item, directory) for item in getattr(options, f"{verb}_{flag}", None) or ()]
