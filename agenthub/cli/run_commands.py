"""`agenthub run`."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from agenthub.bare import signal
from agenthub.cli.call_words import CallWords, add_run_options, parse_inputs, permission_changes, read_env_files, split
from agenthub.cli.live import Live
from agenthub.cli.output import discard_stdout, printable_values
from agenthub.config import Settings
from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InvalidInputError, error_class
from agenthub.quick_json import dumps
from agenthub.runtime.agent_runtime import AgentRuntime, find_method
from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.runs.documents import refusal_envelope
from agenthub.runtime.runs.locator import LocatedAgent, working_directory
from agenthub.runtime.runs.plan import RunOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from agenthub.cli.call_words import Options
    from agenthub.cli.output import Output
    from agenthub.manifest import Method
    from agenthub.runtime.runs.plan import RunPlan

UNREAD = 128 + signal.SIGPIPE
"""Exit code of a run that was stopped since nobody reads its result any more: what the shell says of any program."""
_SETTINGS = ("timeout", "memory", "python", "index", "offline", "sandbox")
_USAGE = "agenthub run [OPTION…] AGENT METHOD [INPUT…]"
_INPUTS = """inputs, four spellings of one JSON object, checked against the manifest:
  --name value          by the method's parameters (after METHOD)
  -i name=value         the same; -i name=@file takes a file's text
  '{"name": "value"}'   JSON
  -                     JSON on standard input"""


def configure_run(parser: argparse.ArgumentParser) -> None:
    """`run` makes its own parsers: its words depend on the agent."""


def run(words: list[str], output: Output) -> int:
    """Runs a method and prints its result."""
    if any(word in ("-h", "--help") for word in words) and len([word for word in words if word[0:1] != "-"]) < 2:
        parser = _parser(_USAGE)
        add_run_options(parser)
        parser.print_help()
        return 0
    call = split(words, lambda: _parser(_USAGE))
    if call.agent is None:
        raise InvalidInputError("run needs an AGENT and a METHOD", suggestion=f"usage: {_USAGE}")
    agent = None
    try:
        runtime = AgentRuntime(_settings(call.options))
        agent = _agent(runtime, call, output)
        return _call(agent, call, runtime.settings["result"], output)
    except AgentRuntimeError as error:
        if output.as_json:
            output.as_json = False
            output.result(dumps(refusal_envelope(error, agent, call.agent, call.method), ensure_ascii=False))
        raise


def _call(agent: LocatedAgent, call: CallWords, limit: int, output: Output) -> int:
    """Reads the rest of the words by the method's parameters, and runs it."""
    if call.method is None:
        raise InvalidInputError(
            f"run needs a METHOD of {call.agent}", suggestion=f"methods: {', '.join(agent.manifest.methods)}"
        )
    method, options = find_method(agent, call.method), call.options
    output.as_json = getattr(options, "json", False) or ("--json" in call.rest and "json" not in method.parameters)
    usage = f"agenthub run {call.agent} {method.name} [INPUT…]"
    inputs, late_options = parse_inputs(method, call.rest, lambda: _parser(usage, method.description), limit)
    for name, value in vars(late_options).items():
        if not name.startswith("parameter ") and name not in ("assignments", "documents"):
            early = getattr(options, name, None)
            setattr(options, name, [*early, *value] if isinstance(early, list) else value)
    return _run(AgentRuntime(_settings(options)), agent, method, inputs, options, output)


def _parser(usage: str, description: str | None = None) -> argparse.ArgumentParser:
    from agenthub.cli.parsers import Parser

    return Parser(
        prog="agenthub run",
        usage=usage,
        description=description.replace("%", "%%") if description else "run a method of an agent",
        epilog=_INPUTS.replace("%", "%%"),
        conflict_handler="resolve",  # a parameter may be called `help`
    )


def _settings(options: Options) -> Settings:
    flags = {name: getattr(options, name, None) for name in _SETTINGS}
    return Settings(flags)


def _agent(runtime: AgentRuntime, call: CallWords, output: Output) -> LocatedAgent:
    """The agent to run: installed, or fetched and prepared after consent."""
    from agenthub.runtime.runs.locator import is_path

    assert call.agent is not None
    if not is_path(call.agent) and not _looks_like_source(call.agent):
        return _named(runtime, call.agent, call.options, output)
    from agenthub.cli.consent import prepare_uninstalled

    return prepare_uninstalled(runtime, call.agent, call.options, output)


def _named(runtime: AgentRuntime, name: str, options: Options, output: Output) -> LocatedAgent:
    """An installed agent, else one that was run from an index before, else one that an index has."""
    owner, slash, rest = name.partition("/")
    if slash and not os.path.lexists(runtime.store.agent_dir(owner, rest.partition("@")[0])):
        cached = _from_cache(runtime, name)
        if cached is not None:
            return cached
    try:
        return runtime.locate(name)
    except AgentNotFoundError as error:
        paths = runtime.settings.paths
        if not slash or not (runtime.settings["index"] or os.path.exists(paths.indexes)):
            raise
        from agenthub.cli.consent import prepare_uninstalled

        try:
            return prepare_uninstalled(runtime, name, options, output)
        except AgentNotFoundError as nowhere:
            if (error.suggestion or "").startswith("did you mean"):
                nowhere.suggestion = error.suggestion
            raise


def _from_cache(runtime: AgentRuntime, name: str) -> LocatedAgent | None:
    if not os.path.isdir(os.path.join(runtime.settings.paths.cache, "runs")):
        return None
    from agenthub.runtime.agents.run_cache import find_cached

    return find_cached(runtime, name)


def _looks_like_source(agent: str) -> bool:
    return agent.startswith("git+") or "://" in agent or agent.endswith((".zip", ".tar.gz", ".tgz", ".agent", ".git"))


def _run(
    runtime: AgentRuntime,
    agent: LocatedAgent,
    method: Method,
    inputs: dict[str, Any],
    options: Options,
    output: Output,
) -> int:
    variables = [*read_env_files(getattr(options, "env_file", None) or []), *(getattr(options, "env", None) or [])]
    if not agent.manifest.environment and agent.record is not None and agent.record.hints:
        from agenthub.cli.consent import offer_variables

        offer_variables(runtime, agent, variables, output)
    with output.progress(f"{agent.manifest.name} {method.name}") as progress, _cancelled_by_signals() as cancellation:
        live = Live(method, output, progress)

        def ask_passphrase(new: bool) -> str:
            from agenthub.cli.secret_commands import passphrase_prompt

            ask = passphrase_prompt(output)
            with progress.paused():
                return ask(new) if ask is not None else ""

        def consent(sentence: str) -> None:
            if not getattr(options, "yes", False):
                with progress.paused():
                    output.confirm(f"{sentence}. Run it?", "--yes")

        run_options = RunOptions(
            variables=variables,
            changes=permission_changes(options, working_directory()),
            consent=consent,
            on_log=live.on_log,
            on_chunk=live.on_chunk,
            on_progress=live.on_progress,
            cancellation=cancellation,
            ask_passphrase=ask_passphrase,
        )
        if getattr(options, "explain", False):
            return explain(runtime.plan(agent, method.name, inputs, run_options), output)
        envelope = None
        with contextlib.suppress(BrokenPipeError):
            envelope = runtime.run(agent, method.name, inputs, run_options)
        stopped = cancellation.cancelled
    if envelope is None or (envelope["exit_code"] and cancellation.reader_gone):
        discard_stdout()
        return UNREAD
    if output.to_terminal or not stopped:  # whoever reads a pipe may have stopped as well
        output.end_stream()
    return _print_envelope(envelope, output, live.logged)


def explain(plan: RunPlan, output: Output) -> int:
    """Prints what would be enforced."""
    from agenthub.cli.explain import render_explanation
    from agenthub.runtime.runs.explanation import explain_plan

    explained = explain_plan(plan)
    if output.as_json:
        output.result(dumps(explained, ensure_ascii=False))
        output.as_json = False
    else:
        output.page("\n".join(render_explanation(printable_values(explained), output)))
    return 0


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[Cancellation]:
    """Ctrl-C, SIGTERM, SIGHUP and the end of whoever reads the result stop the agent's process tree.

    Then the command ends in its own time.
    """
    with Cancellation() as cancellation:
        with contextlib.suppress(OSError, ValueError):  # no standard output, or none of the system's
            cancellation.watch_reader(sys.stdout.fileno())
        if threading.current_thread() is not threading.main_thread():
            yield cancellation
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        earlier = {number: signal.getsignal(number) for number in numbers}
        try:
            for number in numbers:
                if earlier[number] is not signal.SIG_IGN:  # as under nohup
                    signal.signal(number, lambda *_: cancellation.cancel())
            yield cancellation
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def _print_envelope(envelope: dict[str, Any], output: Output, logged: bool) -> int:
    for text in envelope.get("warnings", ()):
        output.warning(text)
    if output.as_json:
        output.result(dumps(envelope, ensure_ascii=False))
        output.as_json = False
    elif "error" not in envelope and "chunks" not in envelope:  # those were printed as they came
        print_result(envelope["result"], output)
    if "error" in envelope:
        name, message = envelope["agent"]["name"], envelope["error"]
        suggestion = envelope.get("suggestion")
        if suggestion is None and logged:
            suggestion = "without -q its log is shown" if output.quiet else "its log is above"
        # An agent's own words do not say whose they are.
        message = message if name in message else f"{name}: {message}"
        output.failure(error_class(envelope["error_type"])(message, suggestion=suggestion))
    return int(envelope["exit_code"])


def print_result(result: Any, output: Output) -> None:
    """A string as text, a file as its bytes (on a terminal: into a named file), anything else as JSON."""
    if isinstance(result, dict) and result.get("encoding") == "base64" and "file" in result:
        import base64

        data = base64.b64decode(result["data"])
        if output.to_terminal:
            output.result(_saved(result["file"], data))
        else:
            output.result_bytes(data)
    elif isinstance(result, str):
        output.result(result)
    else:
        output.result(dumps(result, ensure_ascii=False))


def _saved(name: str, data: bytes) -> str:
    """Writes a file that an agent returned under its name, or the next free one, and returns that."""
    name = "".join(letter for letter in os.path.basename(name) if letter.isprintable()).lstrip(".-") or "result"
    stem, suffix = os.path.splitext(name)
    number = 1
    while True:
        candidate = name if number == 1 else f"{stem}-{number}{suffix}"
        try:
            with open(candidate, "xb") as file:
                file.write(data)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise InvalidInputError(
                f"cannot write {candidate} here: {error.strerror}", suggestion="redirect it: > FILE"
            ) from None
        else:
            return candidate
