"""The command tree, and the one place where errors become text and exit codes.

Only the module of the command at hand is imported: a shell loop that calls `agenthub run` a thousand times pays for
nothing else.
"""

from __future__ import annotations

import os
import sys

from agenthub.cli.output import Output, discard_stdout, open_missing_streams
from agenthub.errors import AgentRuntimeError, InternalError, InterruptedError, InvalidInputError, nearest
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any


class Command(NamedTuple):
    """`module` holds `configure_<name>(parser)` and `<name>(arguments, output) -> exit code`."""

    module: str
    summary: str


COMMANDS = {
    "install": Command("install", "install agents from an index, a directory, an archive or git"),
    "run": Command("run", "run a method of an agent"),
    "map": Command("map", "run a method over many inputs: JSON lines or CSV"),
    "search": Command("search", "find agents in the indexes"),
    "index": Command("index", "say which indexes are asked, and make one"),
    "info": Command("inspect", "show what an agent is, may do and offers"),
    "list": Command("inspect", "list the installed agents"),
    "uninstall": Command("install", "remove agents"),
    "outdated": Command("upgrade", "list the agents of which there is a newer version"),
    "upgrade": Command("upgrade", "show what newer versions of agents change, and install them"),
    "rollback": Command("version", "go back to the version that an agent was before, at once"),
    "use": Command("version", "make another version of an agent the current one"),
    "pin": Command("version", "have upgrades leave agents alone"),
    "unpin": Command("version", "let upgrades have agents again"),
    "bundle": Command("transfer", "make one file of agents and their packages, for machines without a network"),
    "export": Command("transfer", "write agents, grants, settings, indexes and keys to one file"),
    "import": Command("transfer", "add what was exported on another machine"),
    "add": Command("project", "add agents to the project that this directory is"),
    "remove": Command("project", "take agents from the project"),
    "lock": Command("project", "fix the project's agents, their packages and hashes in agents.lock"),
    "sync": Command("project", "make this machine as agents.lock says"),
    "init": Command("author", "write a small agent to start from"),
    "validate": Command("author", "check an agent's manifest, code and environment"),
    "pack": Command("publish", "make one archive of an agent, the same bytes everywhere"),
    "publish": Command("publish", "add a release of an agent to an index"),
    "yank": Command("publish", "say that a published release is not to be chosen any more"),
    "deprecate": Command("publish", "say that another release or agent should be used"),
    "trust": Command("trust", "say whose keys sign the releases of an owner"),
    "verify": Command("trust", "prove that what is installed is what was installed"),
    "audit": Command("trust", "list what is known against the packages of agents"),
    "grant": Command("grants", "let an agent do more than it may: hosts, files, programs, variables, secrets"),
    "revoke": Command("grants", "take from an agent what it may do"),
    "secret": Command("secret", "keep API keys in the keyring"),
    "runs": Command("history", "show what was run, and how it went"),
    "logs": Command("history", "print the log of a run"),
    "rerun": Command("history", "run the same version with the same inputs again"),
    "stop": Command("history", "end a run that is going on, or an agent's workers"),
    "warm": Command("warm", "keep an agent loaded, so that its runs start at once"),
    "top": Command("top", "watch runs, loaded agents, memory and rates"),
    "ps": Command("warm", "list the agents that are kept loaded"),
    "doctor": Command("doctor", "check this machine and everything installed"),
    "dir": Command("inspect", "print where an agent, or everything, is on disk"),
    "cache": Command("maintenance", "show or clean the cache"),
    "gc": Command("maintenance", "remove versions and leftovers that nobody refers to"),
    "config": Command("maintenance", "show every setting and where its value comes from"),
    "completion": Command("completion", "print a shell's completion script"),
    "complete": Command("completion", ""),
}
ALIASES = {"ls": "list", "update": "upgrade", "rm": "uninstall"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; prints, and never raises but for SystemExit after `--help`."""
    words = list(sys.argv[1:] if argv is None else argv)
    open_missing_streams()
    output = Output(words)
    try:
        with output.termination_as_interrupt():
            return _dispatch(words, output)
    except AgentRuntimeError as error:
        return output.failure(error)
    except KeyboardInterrupt:
        return output.failure(InterruptedError("interrupted"))
    except BrokenPipeError:
        discard_stdout()  # whoever read our output has gone
        return 0
    except Exception as error:  # noqa: BLE001 - a bug of ours: said so, with a log, never a traceback
        if isinstance(error, FileNotFoundError) and not _here():
            return output.failure(InvalidInputError("the working directory was removed", suggestion="cd to another"))
        return output.failure(_internal_error(error, words, output.verbose))
    finally:
        output.close()


def _dispatch(words: list[str], output: Output) -> int:
    leading = 0
    while leading < len(words) and words[leading] in ("-q", "-v", "--quiet", "--verbose", "--no-progress"):
        leading += 1
    if leading == len(words) or words[leading] in ("-h", "--help", "help"):
        print(_help_text())
        return 0 if leading < len(words) else 2
    if words[leading] in ("-V", "--version", "version"):
        from agenthub import __version__

        print(f"agenthub {__version__}")
        return 0
    name = ALIASES.get(words[leading], words[leading])
    if name not in COMMANDS:
        near = nearest(name, [*COMMANDS, *ALIASES])
        raise InvalidInputError(
            f"there is no command '{words[leading]}'" + (f". Did you mean '{near}'?" if near else ""),
            suggestion="see: agenthub --help",
        )
    configure, command = functions(name)
    rest = words[:leading] + words[leading + 1 :]
    if name in ("run", "complete"):  # their words are an agent's or a shell's, and parsed with those at hand
        return command(rest, output)
    from agenthub.cli.parsers import Parser, add_common_options

    parser = Parser(prog=f"agenthub {name}", description=COMMANDS[name].summary)
    add_common_options(parser)
    configure(parser)
    return command(parser.parse_args(rest), output)


def functions(name: str) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[[Any, Output], int]]:
    """What a command adds to its parser, and what runs it."""
    # As `importlib` would, the import of which takes a start half a millisecond.
    module = __import__(f"agenthub.cli.{COMMANDS[name].module}_commands", fromlist=[name])
    # Not to hide what Python itself calls so.
    function = name + "_" if name in ("list", "dir", "map", "import") else name
    return getattr(module, f"configure_{name}"), getattr(module, function)


def _help_text() -> str:
    lines = ["usage: agenthub COMMAND …", "", "The package manager and runner for AI agents.", "", "commands:"]
    lines += [f"  {name:<12} {command.summary}" for name, command in COMMANDS.items() if command.summary]
    return "\n".join([*lines, "", "agenthub COMMAND --help says more · agenthub --version"])


def _here() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _internal_error(error: Exception, words: list[str], verbose: bool) -> InternalError:
    import traceback

    from agenthub.config import Paths

    report = f"agenthub {' '.join(words[:2])}\n" + "".join(traceback.format_exception(error))
    path: str | None = os.path.join(Paths().logs, f"internal-error-{os.getpid()}.log")
    try:
        os.makedirs(os.path.dirname(str(path)), exist_ok=True)
        with open(str(path), "w", encoding="utf-8") as file:
            file.write(report)
    except OSError:
        path = None
    return InternalError(
        f"agenthub itself failed: {type(error).__name__}: {error}",
        suggestion=f"this is a bug; please report it with {path}" if path else "this is a bug; -v shows where",
        details=report.splitlines() if verbose else (),
    )
