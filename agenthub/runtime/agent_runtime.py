"""The façade of a run: joins manifest, store, environment and process; owns no mechanism of its own."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from agenthub.config import EnvironmentConfig, RuntimeConfig, Settings
from agenthub.errors import AgentNotFoundError, AgentRuntimeError, EnvironmentError, MethodNotFoundError, nearest
from agenthub.manifest.inputs import check_inputs
from agenthub.packages.locks import hold
from agenthub.packages.store import Store
from agenthub.runtime.agent_locator import LocatedAgent, is_path, locate, locate_directory, working_directory
from agenthub.runtime.environment_manager import EnvironmentManager
from agenthub.runtime.file_results import collect_file, returns_file
from agenthub.runtime.limits import Limits, merge_limits
from agenthub.runtime.process_manager import ProcessManager
from agenthub.runtime.scratch import scratch_directory
from agenthub.runtime.variables import WITHHELD, run_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from agenthub.manifest import Method
    from agenthub.runtime.cancellation import Cancellation
    from agenthub.runtime.masking import Masker

SCHEMA_VERSION = 1


class RunOptions(NamedTuple):
    """What a caller may say of one run.

    Attributes:
        directory: what relative paths in inputs are relative to; None: the working directory.
        variables: environment variables to pass, each `NAME=value` or `NAME`.
        tool_context: tools that the agent may know of, as the script contract has it.
        on_log: called with each line of the agent's log and its level.
        on_chunk: called with each piece of a streamed result.
        on_progress: called with a fraction (or None) and a message.
        cancellation: stops the run from another thread or a signal handler.
        ask_passphrase: asks for what opens the user's secrets, where that is needed; None: nobody can be asked.
    """

    directory: str | None = None
    variables: Sequence[str] = ()
    tool_context: Mapping[str, Any] | None = None
    on_log: Callable[[str, str], None] | None = None
    on_chunk: Callable[[Any], None] | None = None
    on_progress: Callable[[float | None, str], None] | None = None
    cancellation: Cancellation | None = None
    ask_passphrase: Callable[[bool], str] | None = None


class AgentRuntime:
    """Runs methods of agents, each in a process of its own.

    Args:
        settings: timeouts, caps and where the store is; None: as environment and files say.
        process_manager: another implementation, as tests use.
        environment_manager: another implementation, as tests use.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        process_manager: ProcessManager | None = None,
        environment_manager: EnvironmentManager | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.store = Store(self.settings.paths)
        self.runtime_config = RuntimeConfig.from_settings(self.settings)
        self.process_manager = process_manager or ProcessManager(self.runtime_config)
        self.environment_manager = environment_manager or EnvironmentManager(
            EnvironmentConfig.from_settings(self.settings),
            self.runtime_config,
            offline=self.settings["offline"],
            workshop=self.settings.paths.workshop,
        )

    # the interface document's four methods -----------------------------------------------------------------

    def load_agent_manifest(self, agent_path: str) -> dict[str, Any]:
        """The manifest of an agent, checked, as JSON.

        Raises:
            AgentNotFoundError: there is no such agent (also a FileNotFoundError).
            InvalidManifestError: its manifest is missing or wrong (also a ValueError).
        """
        return manifest_document(self.locate(agent_path))

    def execute_agent(
        self, agent_path: str, method: str, parameters: Mapping[str, Any], options: RunOptions | None = None
    ) -> dict[str, Any]:
        """Runs one method and returns its result envelope (`docs/reference/envelope.md`).

        An agent that fails, takes too long or too much is a result with `error` and `error_type`.

        Args:
            agent_path: the agent's directory, or its name.
            method: a method of its manifest.
            parameters: JSON values by parameter name.
            options: what else the caller has to say.

        Raises:
            AgentNotFoundError: there is no such agent.
            InvalidManifestError: its manifest is missing or wrong.
            MethodNotFoundError: it has no such method (also a ValueError).
            InvalidInputError: the parameters do not fit, or a variable that it needs is not set (also a ValueError).
            EnvironmentError: its environment is broken, or the process cannot be started (also a RuntimeError).
        """
        return self.run(self.locate(agent_path), method, parameters, options or RunOptions())

    def validate_method(self, agent_path: str, method: str) -> bool:
        """Whether an agent's manifest has a method.

        Raises:
            AgentNotFoundError: there is no such agent.
            InvalidManifestError: its manifest is missing or wrong.
        """
        return method in self.locate(agent_path).manifest.methods

    def get_agent_info(self, agent_path: str) -> dict[str, Any]:
        """What `agenthub info --json` shows: identity, methods, source, environment, limits, permissions.

        Raises:
            AgentNotFoundError: there is no such agent.
            InvalidManifestError: its manifest is missing or wrong.
        """
        from agenthub.runtime.agent_info import describe_agent

        return describe_agent(self, self.locate(agent_path))

    # what they are made of ----------------------------------------------------------------------------------

    def locate(self, agent: str) -> LocatedAgent:
        """The agent called `agent`: `owner/name`, `name`, or a path.

        Raises:
            AgentNotFoundError: there is none.
            InvalidManifestError: a path's manifest is missing or wrong.
        """
        if not is_path(agent) and os.path.isabs(os.path.expanduser(agent)):
            return locate_directory(os.path.expanduser(agent))
        return locate(self.store, agent)

    def run(
        self, agent: LocatedAgent, method_name: str, parameters: Mapping[str, Any], options: RunOptions
    ) -> dict[str, Any]:
        """`execute_agent` for an agent that was located already."""
        with self._held(agent) as agent:
            return self._run(agent, find_method(agent, method_name), parameters, options)

    def _run(
        self, agent: LocatedAgent, method: Method, parameters: Mapping[str, Any], options: RunOptions
    ) -> dict[str, Any]:
        arguments = check_inputs(method, parameters, options.directory or working_directory())
        grants = self._grants(agent)
        secrets = self._secrets(agent, grants.get("secrets", ()), options)
        environ = {**os.environ, **secrets}
        variables = run_variables(agent.manifest, options.variables, grants.get("environment", ()), environ)
        masker = self._masker(agent, variables, secrets)
        if masker is not None:
            options = options._replace(
                on_log=masker.lines(options.on_log),
                on_chunk=masker.chunks(options.on_chunk),
                on_progress=masker.progress(options.on_progress),
            )
        limits = self.limits(agent, method)
        run_id = os.urandom(6).hex()
        with scratch_directory(run_id, self.runtime_config.cleanup_interval) as scratch:
            outcome = self.process_manager.execute_agent(
                agent.directory,
                method.name,
                arguments,
                manifest=agent.manifest,
                python=self._python(agent),
                env=variables,
                limits=limits,
                scratch=scratch,
                on_log=options.on_log,
                on_chunk=options.on_chunk,
                on_progress=options.on_progress,
                cancellation=options.cancellation,
                tool_context=options.tool_context,
                run_id=run_id,
            )
            if "result" in outcome and returns_file(method):
                outcome = _with_file(outcome, method, scratch, limits.result)
        if outcome.get("error_type") == "ExecutionError":
            outcome = self._explained(agent, outcome)
        if masker is not None:
            outcome = masker.outcome(outcome)
        return _envelope(agent, method, run_id, outcome)

    @contextmanager
    def _held(self, agent: LocatedAgent) -> Iterator[LocatedAgent]:
        """Keeps an installed version from being removed; takes the newer one where it was removed just now."""
        held = None
        with suppress(AgentNotFoundError):
            held = hold(agent.directory)
        if (held is None or not held.held) and agent.record is not None and not os.path.isdir(agent.directory):
            place, held = self.store.hold_current(agent.owner, agent.name)
            agent = locate_directory(place)
        try:
            yield agent
        finally:
            if held is not None:
                held.close()

    def describe_code(self, agent: LocatedAgent) -> dict[str, Any]:
        """The public callables of an agent's entry point, imported in a process of its own.

        Raises:
            AgentRuntimeError: it cannot be imported, or its environment cannot be made.
        """
        return self.process_manager.describe_agent(
            agent.directory, manifest=agent.manifest, python=self._python(agent), env=self._declared_variables(agent)
        )

    def limits(self, agent: LocatedAgent, method: Method) -> Limits:
        """The caps of a run: what the user said, else the method's or the manifest's, else the default."""
        limits = merge_limits(Limits.from_config(self.runtime_config), agent.manifest.limits)
        if method.timeout is not None:
            limits = limits._replace(timeout=method.timeout)
        limits = limits._replace(result=self.settings["result"])
        if self.settings.is_set("output") or "output" not in agent.manifest.limits:
            limits = limits._replace(output=self.settings["output"])
        if self.settings.is_set("timeout"):
            limits = limits._replace(timeout=self.settings["timeout"] or None)
        if self.settings.is_set("memory"):
            limits = limits._replace(memory=self.settings["memory"] or None)
        return limits

    @staticmethod
    def _declared_variables(agent: LocatedAgent) -> dict[str, str]:
        names = [variable.name for variable in agent.manifest.environment]
        return {name: os.environ[name] for name in names if name in os.environ and name not in WITHHELD}

    def _grants(self, agent: LocatedAgent) -> dict[str, list[str]]:
        return self.store.read_grants(agent.owner, agent.name) if agent.owner else {}

    def _secrets(self, agent: LocatedAgent, granted: Sequence[str], options: RunOptions) -> Mapping[str, str]:
        """What the user keeps for this agent and did not set for this run."""
        if not agent.manifest.environment:
            return {}
        from agenthub.runtime.secrets import secrets_for_run

        return secrets_for_run(
            agent.manifest,
            agent.label,
            granted=granted,
            passed=options.variables,
            environ=os.environ,
            paths=self.settings.paths,
            ask=options.ask_passphrase,
        )

    @staticmethod
    def _masker(agent: LocatedAgent, variables: Mapping[str, str], secrets: Mapping[str, str]) -> Masker | None:
        if not agent.manifest.environment:
            return None
        from agenthub.runtime.secrets import masker_for

        return masker_for(agent.manifest, variables, secrets)

    def _python(self, agent: LocatedAgent) -> str | None:
        """The interpreter of the agent's environment; None for an agent in another language that has none."""
        if not needs_python(agent):
            return None
        venv = os.path.join(agent.directory, self.environment_manager.config.venv_location)
        if agent.record is None and not os.path.exists(venv):
            from agenthub.runtime.cached_environments import cached_environment

            return cached_environment(self, agent)
        try:
            return self.environment_manager.get_python_executable(venv)
        except EnvironmentError as error:
            raise self._broken(agent, error.message.partition(" is broken: ")[2] or error.message) from None

    def _broken(self, agent: LocatedAgent, problem: str) -> EnvironmentError:
        return EnvironmentError(
            f"the environment of {agent.label} is broken: {problem}",
            suggestion="agenthub doctor --fix rebuilds it" if agent.record else "remove its folder, and run again",
        )

    def _explained(self, agent: LocatedAgent, outcome: dict[str, Any]) -> dict[str, Any]:
        """A failure that the environment explains is said to be the environment's."""
        if agent.record is None or not needs_python(agent) or not os.path.isdir(agent.directory):
            return outcome
        venv = os.path.join(agent.directory, self.environment_manager.config.venv_location)
        expected = [(package["name"], package["version"]) for package in agent.record.dependencies]
        problems = self.environment_manager.check(venv, expected)
        if not problems:
            return outcome
        return {**outcome, **self._broken(agent, problems[0]).to_dict()}


def needs_python(agent: LocatedAgent) -> bool:
    """Whether an agent runs in an environment of its own: all but plain programs that declare no dependencies."""
    manifest = agent.manifest
    if manifest.entrypoint.kind != "command" or manifest.dependencies:
        return True
    return os.path.basename(manifest.entrypoint.argv[0]).startswith("python")


def find_method(agent: LocatedAgent, name: str) -> Method:
    """A method of an agent.

    Raises:
        MethodNotFoundError: it has none of that name; says which it has.
    """
    methods = agent.manifest.methods
    if name in methods:
        return methods[name]
    near = nearest(name, methods)
    raise MethodNotFoundError(
        f"{agent.manifest.name} has no method '{name}'" + (f". Did you mean '{near}'?" if near else ""),
        suggestion=f"methods: {', '.join(methods)}        see: agenthub info {agent.call_name}",
    )


def manifest_document(agent: LocatedAgent) -> dict[str, Any]:
    """A manifest as JSON, in the shape of `agent.yaml` with what was left out filled in."""
    manifest = agent.manifest
    document = manifest._asdict()
    del document["methods"], document["extra"], document["commands"]
    document["entrypoint"] = manifest.entrypoint._asdict()
    document["environment"] = [variable._asdict() for variable in manifest.environment]
    document["interface"] = {
        "methods": {
            name: {
                "description": method.description,
                "parameters": {key: _parameter_document(value) for key, value in method.parameters.items()},
                "returns": method.returns,
                "timeout": method.timeout,
                "stream": method.stream,
            }
            for name, method in manifest.methods.items()
        }
    }
    if manifest.commands:
        document["installation"] = {"commands": list(manifest.commands)}
    return {**manifest.extra, **document}


def _parameter_document(parameter: Any) -> dict[str, Any]:
    document = {**parameter.schema, "description": parameter.description, "required": parameter.required}
    if parameter.kind != "value":
        document.update(type=parameter.kind, access=parameter.access)
    if parameter.has_default:
        document["default"] = parameter.default
    return document


def refusal_envelope(
    error: AgentRuntimeError, agent: LocatedAgent | None, name: str, method: str | None
) -> dict[str, Any]:
    """The envelope of a call that was refused before anything ran; `name` and `method` are what the caller wrote."""
    identity: dict[str, Any] = {"name": name, "version": None}
    if agent is not None:
        identity = _identity(agent)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": None,
        "agent": identity,
        "method": method,
        **error.to_dict(),
        "execution_time": 0.0,
    }


def _with_file(outcome: dict[str, Any], method: Method, scratch: str, limit: int) -> dict[str, Any]:
    from agenthub.errors import ExecutionError

    try:
        return {**outcome, "result": collect_file(method, outcome["result"], scratch, limit)}
    except ExecutionError as error:
        return {**{key: value for key, value in outcome.items() if key != "result"}, **error.to_dict()}


def _envelope(agent: LocatedAgent, method: Method, run_id: str, outcome: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "agent": _identity(agent),
        "method": method.name,
        "exit_code": 0,
        **outcome,
    }


def _identity(agent: LocatedAgent) -> dict[str, Any]:
    identity = {"name": agent.manifest.name, "version": agent.manifest.version}
    return {**identity, "owner": agent.owner} if agent.owner else identity
