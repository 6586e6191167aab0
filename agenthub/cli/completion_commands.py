"""`agenthub completion`, and the hidden command that the printed scripts call."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agenthub.cli.output import Output
    from agenthub.runtime.runs.locator import LocatedAgent

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
    from agenthub.errors import AgentRuntimeError

    *before, current = words or [""]
    before, current, apart = _with_version(before, current)
    try:
        found = [word for word in _candidates(before, current) if word.startswith(current)]
        candidates = [word[apart:] for word in found]
    except AgentRuntimeError:  # a line that is wrong, or a store that cannot be read
        candidates = []
    if candidates:
        output.result("\n".join(candidates))
    return 0


def _with_version(before: list[str], current: str) -> tuple[list[str], str, int]:
    """Joins what bash takes apart at an `@`; the third is how much of the last word bash has completed already."""
    if current == "@" and len(before) > 1:
        return before[:-1], before[-1] + "@", len(before[-1])
    if before[-1:] == ["@"] and len(before) > 2:
        return before[:-2], f"{before[-2]}@{current}", len(before[-2]) + 1
    return before, current, 0


def _candidates(before: list[str], current: str) -> Iterable[str]:
    from agenthub.cli.app import ALIASES, COMMANDS

    if not before:
        return sorted(name for name, command in COMMANDS.items() if command.summary) + sorted(ALIASES)
    command = before[0]
    if command == "run":
        return _run_candidates(before[1:], current)
    name = ALIASES.get(command, command)
    if name not in COMMANDS:
        return ()
    if before[:2] == ["runs", "show"] and not current.startswith("-"):
        return _runs()
    parser = _parser(name)
    if current.startswith("-"):
        return [option for action in parser._actions for option in action.option_strings]
    given = sum(not word.startswith("-") for word in before[1:])
    if name == "index" and given:
        return _of_indexes([word for word in before[1:] if not word.startswith("-")])
    places = [action for action in parser._actions if not action.option_strings]
    if not places or (given >= len(places) and places[-1].nargs not in ("+", "*")):
        return ()
    place = places[min(given, len(places) - 1)]
    if place.choices is not None:
        return [str(choice) for choice in place.choices]
    return _at(name, place.dest, [word for word in before[1:] if not word.startswith("-")], current)


def _at(name: str, place: str, words: list[str], current: str) -> Iterable[str]:
    """What may stand where a command takes an argument that is none of a few words."""
    if name == "map" and place == "method":
        agent = _located(words[0])
        return agent.manifest.methods if agent is not None else ()
    if name in ("grant", "revoke") and place == "values":
        return _grantable(words[1])
    if (name, place) in (("install", "specs"), ("add", "specs"), ("yank", "agent"), ("deprecate", "agent")):
        return _published(current)
    if "@" in current and (name, place) in (("use", "agent"), ("upgrade", "agents")):
        return _versions(current.partition("@")[0])
    return _PLACES[name, place]() if (name, place) in _PLACES else ()


def _run_candidates(before: list[str], current: str) -> Iterable[str]:
    from agenthub.cli.call_words import RUN_OPTIONS, split

    call = split(before, lambda: _parser("run"))
    if call.agent is None:
        return [name for names, _ in RUN_OPTIONS for name in names] if current.startswith("-") else _runnable(current)
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

    entries = Store.here(Settings().paths).list_agents()
    names = [entry.name for entry in entries]
    return sorted([name for name in names if names.count(name) == 1] + [f"{one.owner}/{one.name}" for one in entries])


def _runnable(current: str) -> list[str]:
    if "@" in current:
        return _versions(current.partition("@")[0])
    return [*_agents(), *(_published(current) if "/" in current else ())]


def _published(current: str) -> list[str]:
    """Agents that indexes have, as far as they were seen; nothing is asked."""
    from agenthub.config import Settings
    from agenthub.indexes.client import IndexClient
    from agenthub.indexes.search import known_agents

    return known_agents(IndexClient(Settings({"offline": True})), current) if current else []


def _wanted() -> list[str]:
    """The agents that the project at hand names."""
    from agenthub.packages.project_links import find_project
    from agenthub.projects.project_file import read_project

    directory = find_project()
    if directory is None:
        return []
    agents = read_project(directory).agents
    return sorted({name for agent in agents for name in (agent.label, agent.name)})


def _of_indexes(words: list[str]) -> list[str]:
    """What may stand after `agenthub index WORD …`."""
    from agenthub.config import Settings
    from agenthub.indexes.configured import configured_indexes
    from agenthub.indexes.owners import Owners

    settings = Settings()
    indexes = configured_indexes(settings)
    if words[0] == "owner" and len(words) == 1:
        return sorted({*Owners(settings.paths).pins(), *(owner for source in indexes for owner in source.owners)})
    if words[0] in ("remove", "login", "logout") or words[0] == "owner":
        return [source.name for source in indexes]
    return []


def _versions(agent: str) -> list[str]:
    """`agent@version` for each version that is installed."""
    from agenthub.config import Settings
    from agenthub.packages.store import Store

    store = Store(Settings().paths)
    found = store.versions(*store.resolve(agent))
    return sorted(dict.fromkeys(f"{agent}@{each.record.version}" for each in found))


def _located(agent: str) -> LocatedAgent | None:
    from agenthub.config import Settings
    from agenthub.errors import AgentRuntimeError
    from agenthub.packages.store import Store
    from agenthub.runtime.runs.locator import locate

    try:
        return locate(Store.here(Settings().paths), agent)
    except AgentRuntimeError:  # somebody is in the middle of typing
        return None


def _trust_words() -> list[str]:
    from agenthub.config import Settings
    from agenthub.trust.trusted import all_trusted

    return ["list", "remove", "statement", *all_trusted(Settings().paths)]


def _settings() -> list[str]:
    from agenthub.config import SETTINGS

    return sorted(SETTINGS)


def _grantable(kind: str) -> Iterable[str]:
    """What may stand after `grant AGENT KIND`; paths are completed by the shell."""
    from agenthub.cli.grants_commands import SANDBOXES
    from agenthub.config import Settings
    from agenthub.runtime.runs.permissions import ANY_WORD
    from agenthub.runtime.secrets.store import SecretStore

    if kind == "secret":
        return SecretStore(Settings().paths).names()
    known = {"environment": sorted(os.environ), "sandbox": SANDBOXES, "network": [ANY_WORD], "run": [ANY_WORD]}
    return known.get(kind, ())


def _runs(status: str | None = None) -> list[str]:
    from agenthub.config import Settings
    from agenthub.observability.history import Filter, History

    with History(Settings().paths.history, lambda sentence: None) as history:
        return [record.run_id for record in history.runs(Filter(status=status), 100)]


# What goes where a command takes an argument that is not one of a few words.
_PLACES: dict[tuple[str, str], Callable[[], list[str]]] = {
    **{(command, "agent"): _agents for command in ("info", "dir", "grant", "revoke", "map")},
    **{(command, "agent"): _agents for command in ("use", "rollback")},
    **{
        (command, "agents"): _agents
        for command in ("uninstall", "verify", "audit", "upgrade", "outdated", "pin", "unpin", "bundle")
    },
    ("remove", "agents"): _wanted,
    ("trust", "words"): _trust_words,
    ("config", "name"): _settings,
    **{(command, "run"): _runs for command in ("logs", "rerun")},
    ("stop", "run"): lambda: _runs("running"),
}


def _parser(command: str) -> argparse.ArgumentParser:
    from agenthub.cli.app import functions
    from agenthub.cli.parsers import Parser, add_common_options

    parser = Parser(prog="agenthub", add_help=False)
    if command != "run":  # whose own parsers are made of the agent at hand
        add_common_options(parser)
    functions(command)[0](parser)
    return parser
