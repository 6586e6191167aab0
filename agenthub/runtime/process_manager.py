"""ProcessManager: one call of one method in a process tree of its own."""

from __future__ import annotations

import os
import sys
import threading
import time

from agenthub.config import MB, VENV, RuntimeConfig, format_size
from agenthub.errors import (
    AgentNotFoundError,
    AgentRuntimeError,
    InvalidInputError,
    InvalidManifestError,
    MethodNotFoundError,
    nearest,
)
from agenthub.manifest import load_manifest
from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.processes.delivery import Delivery
from agenthub.runtime.processes.limits import Limits, merge_limits
from agenthub.runtime.processes.lines import Log
from agenthub.runtime.processes.protocol import LEVELS, RpcExchange, ScriptExchange
from agenthub.runtime.processes.run_environment import run_environment
from agenthub.runtime.processes.scratch import scratch_directory
from agenthub.runtime.processes.supervisor import Completion, Launch, supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from agenthub.manifest import AgentManifest, Method
    from agenthub.runtime.processes.confined import Confinement

_HOST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "agent_side", "host.py")
_CLEANUP_TIMEOUT = 10.0


class ProcessManager:
    """Runs agents' methods, each in a process tree that ends with the call.

    One manager may be used from several threads at once.

    Args:
        config: default caps, and the lowest level of log lines that are passed on.
    """

    def __init__(self, config: RuntimeConfig | None = None) -> None:
        self.config = config or RuntimeConfig()
        self._changed = threading.Condition(threading.RLock())  # may be taken again in a signal handler
        self._running: dict[Cancellation, int] = {}

    def execute_agent(
        self,
        agent_path: str,
        method: str,
        parameters: dict[str, Any],
        *,
        manifest: AgentManifest | None = None,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        scratch: str | None = None,
        on_log: Callable[[str, str], None] | None = None,
        on_chunk: Callable[[Any], None] | None = None,
        on_progress: Callable[[float | None, str], None] | None = None,
        cancellation: Cancellation | None = None,
        tool_context: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        confinement: Confinement | None = None,
        watch_network: bool = False,
    ) -> dict[str, Any]:
        """Executes a method in an isolated process tree. The first three arguments are enough.

        Args:
            agent_path: the agent's directory; `~` is expanded.
            method: a method of its manifest.
            parameters: its inputs, JSON values; they are passed on as they are.
            manifest: the agent's manifest, where the caller has it already.
            python: the interpreter; by default the one of the agent's `venv`, or, where it has none, this program's
                own, which is right only for agents that need nothing installed.
            env: variables to add to the allow-list.
            limits: caps; by default the configuration's with the manifest's, and the method's timeout, in their place.
            scratch: an empty directory as HOME and TMPDIR; by default one is made, and removed afterwards.
            on_log: called with each log line and its level (`DEBUG INFO WARNING ERROR`).
            on_chunk: called with each value that a generator yields, as it comes; the result is None then, and `chunks`
                their number.
            on_progress: called with a fraction of 1 (or None) and a message.
            cancellation: stops the run.
            tool_context: what a script is told of tools.
            run_id: a name for the run, unique among those running.
            confinement: what holds the run, made for this run alone; its policy must name the same directory and
                scratch. None: rlimits alone.
            watch_network: has an agent of the method contract say which hosts it tried to reach, where it fails.

        Returns:
            `{"result": …}` or `{"error", "error_type", "exit_code"[, "suggestion"][, "details"][, "attempts"]}`, the
            last what `watch_network` asks for, each as `"host:port"`; and in both cases
            `execution_time` (s), `memory_usage` (peak of the whole tree, as `"50MB"`), `warnings` (a list of str) and
            `usage`: `wall` and `cpu` (s), `peak_memory` and `output` (bytes), `processes` (the most
            at once, threads included), `disk` (bytes in the scratch directory), `isolation` (what held it:
            `bubblewrap`, `landlock` or `rlimits`).

        The three listeners are called from a thread of the run's own, one at a time and in order. The agent waits for
        whoever is slow; its deadline and its limits do not. What a listener raises stops the run and is raised here.

        Raises:
            AgentNotFoundError: there is no such directory (a ValueError).
            InvalidManifestError: the manifest is missing or wrong, or names a file that is missing (a ValueError).
            MethodNotFoundError: the manifest has no such method (a ValueError).
            InvalidInputError: the parameters are not JSON, or larger than `limits.result` (a ValueError).
            EnvironmentError: the process cannot be started (a RuntimeError).
        """
        directory, manifest = _open_agent(agent_path, manifest)
        declared = _find_method(manifest, method)
        if not isinstance(parameters, dict):
            raise InvalidInputError(f"parameters must be a mapping, not {type(parameters).__name__}")
        if limits is None:
            limits = self._limits(manifest, declared)
        python, venv = interpreter_of(directory, python)
        delivery = Delivery()
        log = Log(delivery.through(self._filtered(on_log)))
        on_chunk, on_progress = delivery.through(on_chunk), delivery.through(on_progress)
        kept = scratch is not None

        def run(scratch: str) -> dict[str, Any]:
            exchange, argument = exchange_of(
                manifest, method, parameters, log, limits, on_chunk, on_progress, tool_context, watch_network
            )
            size = len(exchange.request)
            if size > limits.result:
                raise InvalidInputError(
                    f"the input of {manifest.name} has {format_size(size)}, more than {format_size(limits.result)}",
                    suggestion="pass a file's path instead, or raise the setting 'result' (AGENTHUB_RESULT=…)",
                )
            argv, cwd = _program(directory, manifest, python), directory
            if manifest.entrypoint.kind == "python":
                cwd = scratch
            launch = Launch(
                argv=argv if argument is None else (*argv, argument),
                env=run_environment(os.environ, scratch, venv, env),
                cwd=cwd,
                run_id=run_id or os.urandom(8).hex(),
                needs=(_HOST,),
                scratch=scratch,
                record=f"{scratch}.run" if kept else "",
            )
            completion = self._supervise(launch, exchange, limits, log, cancellation, confinement, delivery)
            return outcome_of(manifest.name, directory, completion, exchange, limits)

        return _with_scratch(scratch, run)

    def describe_agent(
        self,
        agent_path: str,
        *,
        manifest: AgentManifest | None = None,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        scratch: str | None = None,
        confinement: Confinement | None = None,
    ) -> dict[str, Any]:
        """The public callables of an agent's entry point, which this imports in a process of its own.

        Returns:
            Name -> `description` (first line of the docstring) and `parameters`: name -> `required`, `kind` (as in
            `inspect`, lower case) and `annotation`; None where no signature is known.

        Raises:
            AgentRuntimeError: as `execute_agent`; also what would be its `error`, for example an ImportError of the
                agent's.
        """
        directory, manifest = _open_agent(agent_path, manifest)
        caps = limits or merge_limits(Limits.from_config(self.config), manifest.limits)
        python, venv = interpreter_of(directory, python)
        log = Log()
        kept = scratch is not None

        def run(scratch: str) -> dict[str, Any]:
            exchange = RpcExchange("describe", {}, log, caps.result)
            launch = Launch(
                argv=(python, _HOST, directory, manifest.entrypoint.target),
                env=run_environment(os.environ, scratch, venv, env),
                cwd=scratch,
                run_id=os.urandom(8).hex(),
                needs=(_HOST,),
                scratch=scratch,
                record=f"{scratch}.run" if kept else "",
            )
            completion = self._supervise(launch, exchange, caps, log, None, confinement)
            from agenthub.runtime.processes.outcome import result_of

            described: dict[str, Any] = result_of(manifest.name, completion, exchange, caps)
            return described

        return _with_scratch(scratch, run)

    def cleanup_processes(self) -> None:
        """Kills every run of this manager that is still going, and waits for those of other threads to end."""
        deadline = time.monotonic() + _CLEANUP_TIMEOUT
        here = threading.get_ident()
        with self._changed:
            for cancellation in self._running:
                cancellation.cancel()
            while any(thread != here for thread in self._running.values()):
                if not self._changed.wait(deadline - time.monotonic()) or time.monotonic() > deadline:
                    return

    def is_process_running(self, process_id: int) -> bool:
        """Whether a process exists and has not ended; a zombie has."""
        from agenthub.runtime.processes.process_tree import is_alive

        return is_alive(process_id)

    def _supervise(
        self,
        launch: Launch,
        exchange: ScriptExchange | RpcExchange,
        limits: Limits,
        log: Log,
        cancellation: Cancellation | None,
        confinement: Confinement | None,
        delivery: Delivery | None = None,
    ) -> Completion:
        with Cancellation() as own:
            with self._changed:
                self._running[own] = threading.get_ident()
            try:
                wanted = (own,) if cancellation is None else (own, cancellation)
                return supervise(
                    launch, exchange, limits, log, cancellations=wanted, confinement=confinement, delivery=delivery
                )
            finally:
                with self._changed:
                    del self._running[own]
                    self._changed.notify_all()

    def _limits(self, manifest: AgentManifest, method: Method) -> Limits:
        limits = merge_limits(Limits.from_config(self.config), manifest.limits)
        return limits if method.timeout is None else limits._replace(timeout=method.timeout)

    def _filtered(self, on_log: Callable[[str, str], None] | None) -> Callable[[str, str], None] | None:
        shown = LEVELS[LEVELS.index(self.config.log_level) :]
        if on_log is None or len(shown) == len(LEVELS):
            return on_log
        return lambda line, level: on_log(line, level) if level in shown else None


def _open_agent(agent_path: str, manifest: AgentManifest | None) -> tuple[str, AgentManifest]:
    directory = os.path.abspath(os.path.expanduser(agent_path))
    if not os.path.isdir(directory):
        raise AgentNotFoundError(
            f"there is no agent directory {directory}", suggestion="agenthub list shows what is installed"
        )
    return directory, manifest or load_manifest(directory)


def _find_method(manifest: AgentManifest, name: str) -> Method:
    method = manifest.methods.get(name)
    if method is None:
        close = nearest(str(name), manifest.methods)
        hint = f" Did you mean '{close}'?" if close else ""
        raise MethodNotFoundError(
            f"{manifest.name} has no method '{name}'.{hint}",
            suggestion=f"methods: {', '.join(manifest.methods)}",
        )
    return method


def interpreter_of(directory: str, python: str | None) -> tuple[str, str | None]:
    """The interpreter, and the virtual environment that it belongs to, if any."""
    own = os.path.join(directory, VENV)
    if python is None:
        python = os.path.join(own, "bin", "python") if os.path.isdir(own) else sys.executable
    root = os.path.dirname(os.path.dirname(python))
    return python, root if os.path.exists(os.path.join(root, "pyvenv.cfg")) else None


def _program(directory: str, manifest: AgentManifest, python: str) -> tuple[str, ...]:
    entry = manifest.entrypoint
    if entry.kind == "python":
        return (python, _HOST, directory, entry.target)
    if entry.kind == "command":
        program = python if entry.argv[0] in ("python", "python3") else entry.argv[0]
        return (program, *entry.argv[1:])
    if not os.path.isfile(os.path.join(directory, entry.target)):
        raise InvalidManifestError(
            f"{manifest.name} has no {entry.target}, which its entry point names",
            suggestion=f"see: agenthub validate {directory}",
        )
    return (python, entry.target)


def exchange_of(
    manifest: AgentManifest,
    method: str,
    parameters: dict[str, Any],
    log: Log,
    limits: Limits,
    on_chunk: Callable[[Any], None] | None,
    on_progress: Callable[[float | None, str], None] | None,
    tool_context: Mapping[str, Any] | None,
    watch_network: bool,
) -> tuple[ScriptExchange | RpcExchange, str | None]:
    """A call as an exchange by the agent's contract, and the argument that its program gets besides, if any.

    Raises:
        InvalidInputError: the parameters are not JSON.
    """
    if manifest.entrypoint.kind != "python":
        script = ScriptExchange(method, parameters, log, limits.result, tool_context)
        return script, script.argument
    params: dict[str, Any] = {"method": method, "parameters": parameters}
    if tool_context is not None:
        params["tool_context"] = dict(tool_context)
    if watch_network:
        params["watch_network"] = True
    return RpcExchange("run", params, log, limits.result, on_chunk, on_progress), None


def _with_scratch(scratch: str | None, run: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    if scratch is not None:
        return run(scratch)
    with scratch_directory(os.urandom(8).hex()) as made:
        return run(made)


def outcome_of(
    agent: str, directory: str, completion: Completion, exchange: ScriptExchange | RpcExchange, limits: Limits
) -> dict[str, Any]:
    """What `execute_agent` returns of a run that has ended."""
    from agenthub.runtime.processes.outcome import oddities, result_of

    envelope: dict[str, Any]
    try:
        envelope = {"result": result_of(agent, completion, exchange, limits)}
        warnings = oddities(completion, exchange)
    except AgentRuntimeError as error:
        envelope = error.to_dict()
        if error.details:
            envelope["details"] = list(error.details)
        if exchange.reply is not None and exchange.reply.failure is not None and exchange.reply.failure.attempts:
            envelope["attempts"] = list(exchange.reply.failure.attempts)
        if not os.path.isdir(directory):
            envelope["suggestion"] = f"its directory {directory} was removed during the run; install it again"
        warnings = list(exchange.warnings)
    if exchange.chunks is not None:
        envelope["chunks"] = exchange.chunks
    envelope["execution_time"] = completion.wall
    envelope["memory_usage"] = f"{completion.peak_memory / MB:.0f}MB"
    envelope["usage"] = {
        "wall": completion.wall,
        "cpu": completion.cpu,
        "peak_memory": completion.peak_memory,
        "output": completion.output,
        "processes": completion.peak_tasks,
        "disk": completion.disk,
        "isolation": completion.isolation,
    }
    envelope["warnings"] = warnings
    return envelope
