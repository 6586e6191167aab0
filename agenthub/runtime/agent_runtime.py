"""The façade of a run: joins manifest, store, environment and process; owns no mechanism of its own."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import Any

from agenthub.config import EnvironmentConfig, RuntimeConfig, Settings
from agenthub.errors import AgentNotFoundError, EnvironmentError, MethodNotFoundError, nearest
from agenthub.packages.locks import hold
from agenthub.packages.store import Store
from agenthub.runtime.agent_documents import manifest_document, run_envelope
from agenthub.runtime.agent_locator import LocatedAgent, is_path, locate, locate_directory
from agenthub.runtime.environment_manager import EnvironmentManager
from agenthub.runtime.file_results import collect_file, returns_file
from agenthub.runtime.limits import Limits, merge_limits
from agenthub.runtime.permissions import effective_permissions
from agenthub.runtime.process_manager import ProcessManager
from agenthub.runtime.run_confinement import explain_refusals, held, refusal_lines
from agenthub.runtime.run_plan import RunOptions, RunPlan, make_policy, plan_run, tiers_here
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.policy import RLIMITS
from agenthub.runtime.scratch import scratch_directory
from agenthub.runtime.variables import WITHHELD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agenthub.manifest import Method


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
            plan = self.plan(agent, method_name, parameters, options)
            plan.require_consent(options.consent)
            return self._carry_out(plan, options)

    def plan(
        self, agent: LocatedAgent, method_name: str, parameters: Mapping[str, Any], options: RunOptions
    ) -> RunPlan:
        """What a run would be held to; raises whatever would be refused before it starts."""
        method = find_method(agent, method_name)
        limits = self.limits(agent, method)
        return plan_run(agent, method, parameters, options, store=self.store, settings=self.settings, limits=limits)

    def _carry_out(self, plan: RunPlan, options: RunOptions) -> dict[str, Any]:
        agent, method, masker = plan.agent, plan.method, plan.masker()
        if masker is not None:
            options = options._replace(
                on_log=masker.lines(options.on_log),
                on_chunk=masker.chunks(options.on_chunk),
                on_progress=masker.progress(options.on_progress),
            )
        python = self._python(agent)
        run_id = os.urandom(6).hex()
        with scratch_directory(run_id, self.runtime_config.cleanup_interval) as scratch, held(plan, scratch) as holder:
            outcome = self.process_manager.execute_agent(
                agent.directory,
                method.name,
                dict(plan.arguments),
                manifest=agent.manifest,
                python=python,
                env={**holder.variables, **plan.variables},
                limits=plan.limits,
                scratch=scratch,
                on_log=options.on_log,
                on_chunk=options.on_chunk,
                on_progress=options.on_progress,
                cancellation=options.cancellation,
                tool_context=options.tool_context,
                run_id=run_id,
                confinement=holder.confinement,
                watch_network=plan.network.kind == "none" and plan.tier != RLIMITS,
            )
            if "result" in outcome and returns_file(method):
                outcome = _with_file(outcome, method, scratch, plan.limits.result)
            refusals = holder.refusals
        for line in refusal_lines(refusals):
            if options.on_log is not None:
                options.on_log(line, "WARNING")
        if outcome.get("error_type") == "ExecutionError":
            outcome = self._explained(agent, outcome)
        outcome = explain_refusals(plan, outcome, refusals)
        if masker is not None:
            outcome = masker.outcome(outcome)
        return run_envelope(agent, method, run_id, outcome)

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
        permissions = effective_permissions(agent.manifest, ())
        names = permissions.environment
        tiers = tiers_here(self.settings.paths)
        python = self._python(agent)
        with scratch_directory(os.urandom(6).hex(), self.runtime_config.cleanup_interval) as scratch:
            policy = make_policy(agent, permissions, scratch, self.settings["sandbox"])
            return self.process_manager.describe_agent(
                agent.directory,
                manifest=agent.manifest,
                python=python,
                env={name: os.environ[name] for name in names if name in os.environ and name not in WITHHELD},
                scratch=scratch,
                confinement=confine(policy, tiers),
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


def _with_file(outcome: dict[str, Any], method: Method, scratch: str, limit: int) -> dict[str, Any]:
    from agenthub.errors import ExecutionError

    try:
        return {**outcome, "result": collect_file(method, outcome["result"], scratch, limit)}
    except ExecutionError as error:
        return {**{key: value for key, value in outcome.items() if key != "result"}, **error.to_dict()}
