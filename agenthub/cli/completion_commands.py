"""`agenthub completion`, and the hidden command that the printed scripts call."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from agenthub.cli.output import Output
    from agenthub.runtime.agent_locator import LocatedAgent

# Each hands over the words up to the cursor and gets one candidate a line; none means: complete file names.
_SCRIPTS = {
    "bash": """\
_agenthub() {
    local IFS=$'\\n'
    COMPREPLY=($(agenthub complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _agenthub agenthub
""",
    "zsh": """\
#compdef agenthub
_agenthub() {
    local -a candidates
    candidates=("${(@f)$(agenthub complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${candidates[1]}" ]]; then compadd -- "${candidates[@]}"; else _files; fi
}
compdef _agenthub agenthub
""",
    "fish": """\
function __agenthub
    agenthub complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null
end
complete -c agenthub -f -a '(__agenthub)'
complete -c agenthub -F -n 'test (count (__agenthub)) -eq 0'
""",
}
_TAKE_AGENTS = ("run", "info", "uninstall", "rm", "remove", "dir", "grant", "revoke")


def configure_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(_SCRIPTS))


def completion(arguments: argparse.Namespace, output: Output) -> int:
    """Prints a script; for bash: eval "$(agenthub completion bash)"."""
    output.result(_SCRIPTS[arguments.shell])
    return 0


def configure_complete(parser: argparse.ArgumentParser) -> None:
    """`complete` takes a command line's words as they are."""


def complete(words: list[str], output: Output) -> int:
    """Prints the candidates for the last of `words`."""
    *before, current = words or [""]
    candidates = [word for word in _candidates(before, current) if word.startswith(current)]
    if candidates:
        output.result("\n".join(candidates))
    return 0


def _candidates(before: list[str], current: str) -> Iterable[str]:
    from agenthub.cli.app import ALIASES, COMMANDS

    if not before:
        return sorted(name for name, command in COMMANDS.items() if command.summary) + sorted(ALIASES)
    command = before[0]
    if command == "run":
        return _run_candidates(before[1:], current)
    if current.startswith("-"):
        return _options(ALIASES.get(command, command))
    positional = [word for word in before[1:] if not word.startswith("-")]
    if command == "completion":
        return tuple(_SCRIPTS)
    if command in ("grant", "revoke") and len(positional) == 1:
        return ("environment",)
    if command in ("grant", "revoke") and len(positional) > 1:
        return sorted(os.environ)
    if command in _TAKE_AGENTS and (not positional or command in ("uninstall", "rm", "remove")):
        return _agents()
    return ()


def _run_candidates(before: list[str], current: str) -> Iterable[str]:
    from agenthub.cli.call_words import RUN_OPTIONS, add_run_options, split

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    add_run_options(parser)
    call = split(before, parser)
    if call.agent is None:
        return [name for names, _ in RUN_OPTIONS for name in names] if current.startswith("-") else _agents()
    agent = _located(call.agent)
    if agent is None:
        return ()
    if call.method is None:
        return agent.manifest.methods
    method = agent.manifest.methods.get(call.method)
    if method is None:
        return ()
    if current.startswith("-"):
        return [f"--{name.replace('_', '-')}" for name in method.parameters]
    name = call.rest[-1].lstrip("-").replace("-", "_") if call.rest else ""
    if name in method.parameters:
        schema = method.parameters[name].schema
        return [str(choice) for choice in schema.get("enum", ("true", "false") if schema["type"] == "boolean" else ())]
    return ()


def _agents() -> list[str]:
    from agenthub.config import Settings
    from agenthub.packages.store import Store

    entries = Store(Settings().paths).list_agents()
    names = [entry.name for entry in entries]
    return sorted([name for name in names if names.count(name) == 1] + [f"{one.owner}/{one.name}" for one in entries])


def _located(agent: str) -> LocatedAgent | None:
    from agenthub.config import Settings
    from agenthub.errors import AgentRuntimeError
    from agenthub.packages.store import Store
    from agenthub.runtime.agent_locator import locate

    try:
        return locate(Store(Settings().paths), agent)
    except AgentRuntimeError:  # somebody is in the middle of typing
        return None


def _options(command: str) -> list[str]:
    from agenthub.cli import app

    if command not in app.COMMANDS:
        return []
    parser = argparse.ArgumentParser(add_help=False)
    app.add_common_options(parser)
    app.functions(command)[0](parser)
    return [option for action in parser._actions for option in action.option_strings]
