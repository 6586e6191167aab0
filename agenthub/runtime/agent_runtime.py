"""The façade of a run: joins manifest, store, environment and process; owns no mechanism of its own."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from agenthub.config import EnvironmentConfig, RuntimeConfig, Settings, scratch_base
from agenthub.errors import AgentRuntimeError, EnvironmentError, MethodNotFoundError, nearest
from agenthub.observability.recorder import Recorder
from agenthub.packages.store import Store
from agenthub.runtime.environment_manager import PENDING_BYTECODE, EnvironmentManager
from agenthub.runtime.processes.limits import Limits, merge_limits
from agenthub.runtime.runs.documents import manifest_document, run_envelope
from agenthub.runtime.runs.facts import begin_recording
from agenthub.runtime.runs.locator import LocatedAgent, hold_located, is_path, locate, locate_directory
from agenthub.runtime.runs.permissions import check_paths, effective_permissions
from agenthub.runtime.runs.plan import RunOptions, RunPlan, make_policy, plan_run, plan_worker, tiers_here
from agenthub.runtime.runs.variables import WITHHELD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from agenthub.manifest import Method
    from agenthub.runtime.process_manager import ProcessManager
    from agenthub.runtime.processes.masking import Masker
    from agenthub.runtime.sandbox.refusals import Refusal

    _Outcome = tuple[dict[str, Any], tuple[Refusal, ...]]  # of a run, and the hosts that it was refused


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
        self.store = Store.here(self.settings.paths)
        self.runtime_config = RuntimeConfig.from_settings(self.settings)
        self.recorder = Recorder.from_settings(self.settings)
        self._process_manager = process_manager
        self.environment_manager = environment_manager or EnvironmentManager(
            EnvironmentConfig.from_settings(self.settings),
            self.runtime_config,
            offline=self.settings["offline"],
            workshop=self.settings.paths.workshop,
        )

    @property
    def process_manager(self) -> ProcessManager:
        """Made when it is needed: a run by a worker does without."""
        if self._process_manager is None:
            from agenthub.runtime.process_manager import ProcessManager

            self._process_manager = ProcessManager(self.runtime_config)
        return self._process_manager

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
        from agenthub.runtime.agents.info import describe_agent

        return describe_agent(self, self.locate(agent_path))

    # what they are made of ----------------------------------------------------------------------------------

    def locate(self, agent: str) -> LocatedAgent:
        """The agent called `agent`: `owner/name`, `name`, or a path.

        Raises:
            AgentNotFoundError: there is none.
            InvalidManifestError: a path's manifest is missing or wrong.
        """
        if not is_path(agent) and os.path.isabs(os.path.expanduser(agent)):
            return locate_directory(os.path.expanduser(agent), self.store)
        return locate(self.store, agent)

    def run(
        self, agent: LocatedAgent, method_name: str, parameters: Mapping[str, Any], options: RunOptions
    ) -> dict[str, Any]:
        """`execute_agent` for an agent that was located already."""
        with self.held(agent) as agent:
            plan = self.plan(agent, method_name, parameters, options)
            plan.require_consent(options.consent)
            return self.carry_out(plan, parameters, options)

    def plan(
        self, agent: LocatedAgent, method_name: str, parameters: Mapping[str, Any], options: RunOptions
    ) -> RunPlan:
        """What a run would be held to; raises whatever would be refused before it starts."""
        method = find_method(agent, method_name)
        limits = self.limits(agent, method)
        return plan_run(agent, method, parameters, options, store=self.store, settings=self.settings, limits=limits)

    def worker_plan(self, agent: LocatedAgent, options: RunOptions) -> tuple[RunPlan, str | None]:
        """What an agent's worker would be held to, and the interpreter of its environment; raises as `plan` does."""
        plan = self._plan_worker(agent, options)
        plan.require_consent(options.consent)
        python = self._python(agent)
        self._add_bytecode(agent, python, options)
        return plan, python

    def _plan_worker(self, agent: LocatedAgent, options: RunOptions) -> RunPlan:
        limits = self.limits(agent, next(iter(agent.manifest.methods.values()))._replace(timeout=None))
        return plan_worker(agent, options, store=self.store, settings=self.settings, limits=limits)

    def carry_out(self, plan: RunPlan, given: Iterable[str], options: RunOptions) -> dict[str, Any]:
        """Runs what was planned, and records it; `given` are the names of the inputs that the caller gave."""
        run_id, masker = os.urandom(6).hex(), plan.masker()
        with begin_recording(self.recorder, plan, given, run_id, masker) as recording:
            options = options._replace(
                on_log=recording.listening(options.on_log), on_chunk=recording.collecting(options.on_chunk)
            )
            return recording.finish(self._run_process(plan, run_id, masker, options))

    def _run_process(self, plan: RunPlan, run_id: str, masker: Masker | None, options: RunOptions) -> dict[str, Any]:
        agent, method = plan.agent, plan.method
        if masker is not None:
            options = options._replace(
                on_log=masker.lines(options.on_log),
                on_chunk=masker.chunks(options.on_chunk),
                on_progress=masker.progress(options.on_progress),
            )
        python = self._python(agent)
        self._add_bytecode(agent, python, options)
        warm = self._warm(plan, python, options, run_id)
        outcome, refusals = warm or self._cold(plan, python, options, run_id)
        if warm is None and self.settings["warm"] == "auto":
            self._keep_loaded(agent, python)
        if refusals or "error" in outcome:
            outcome = self._explained(plan, outcome, refusals, options)
        if masker is not None:
            outcome = masker.outcome(outcome)
        return run_envelope(agent, method, run_id, outcome)

    def _warm(self, plan: RunPlan, python: str | None, options: RunOptions, run_id: str) -> _Outcome | None:
        """By a worker, where there is one for this agent that was given what this run may have."""
        if python is None or plan.agent.wanted or not (options.line or self._may_be_loaded(plan.agent)):
            return None
        from agenthub.runtime.workers.client import run_warm

        current, level = lambda: self._current_order(plan.agent, python), self.runtime_config.log_level
        return run_warm(self.settings.paths, plan, python, options, run_id, current, level)

    def _may_be_loaded(self, agent: LocatedAgent) -> bool:
        try:
            names = os.listdir(self.settings.paths.workers_of(agent.owner, agent.name, agent.variant))
        except OSError:
            return False
        return not agent.owner or any(name.endswith(".sock") for name in names)

    def _lasting_plan(self, agent: LocatedAgent) -> RunPlan | None:
        """What an agent's worker would be held to now; None where that is not known, or said for this command alone."""
        if any(self.settings.lookup(name).source == "flag" for name in ("memory", "sandbox", "python")):
            return None
        with suppress(AgentRuntimeError):
            return self._plan_worker(agent, RunOptions())
        return None

    def _current_order(self, agent: LocatedAgent, python: str) -> str | None:
        from agenthub.runtime.workers.orders import fingerprint_of

        plan = self._lasting_plan(agent)
        return None if plan is None else fingerprint_of(plan, python)

    def _keep_loaded(self, agent: LocatedAgent, python: str | None) -> None:
        """Starts a worker for the runs to come, and does not wait for it."""
        from agenthub.runtime.workers.control import can_be_warm, start_worker

        if python is None or agent.wanted or can_be_warm(agent):
            return
        with suppress(AgentRuntimeError, OSError):  # this run has its result
            plan = self._lasting_plan(agent)
            if plan is not None:
                plan.require_consent(None)
                idle = self.settings["warm_idle"]
                start_worker(self.settings.paths, plan, python, idle=idle, wait=False)

    def _cold(self, plan: RunPlan, python: str | None, options: RunOptions, run_id: str) -> _Outcome:
        """In a process of its own that is started for it."""
        from agenthub.runtime.processes.scratch import scratch_directory
        from agenthub.runtime.runs.confinement import held
        from agenthub.runtime.runs.file_results import with_file

        with scratch_directory(run_id, self.runtime_config.cleanup_interval) as scratch, held(plan, scratch) as holder:
            outcome = self.process_manager.execute_agent(
                plan.agent.directory,
                plan.method.name,
                dict(plan.arguments),
                manifest=plan.agent.manifest,
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
                watch_network=plan.watch_network,
            )
            return with_file(outcome, plan.method, scratch, plan.limits.result), holder.refusals

    @contextmanager
    def held(self, agent: LocatedAgent) -> Iterator[LocatedAgent]:
        """Keeps an installed version from being removed, as `hold_located` does."""
        agent, held = hold_located(self.store, agent)
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
        protected = (self.settings.paths.home, scratch_base())
        check_paths(permissions, protected, agent.directory, agent.manifest.name)
        from agenthub.runtime.processes.scratch import scratch_directory
        from agenthub.runtime.sandbox.confinement import confine

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
            from agenthub.runtime.agents.cached_environments import cached_environment

            return cached_environment(self, agent)
        try:
            return self.environment_manager.get_python_executable(venv)
        except EnvironmentError as error:
            raise self._broken(agent, error.message.partition(" is broken: ")[2] or error.message) from None

    def _add_bytecode(self, agent: LocatedAgent, python: str | None, options: RunOptions) -> None:
        """At an agent's first run: its later ones could not write any."""
        if python is None:
            return
        venv = os.path.dirname(os.path.dirname(python))
        if not os.path.exists(os.path.join(venv, PENDING_BYTECODE)):
            return
        home = os.path.realpath(self.settings.paths.home)
        if not os.path.realpath(venv).startswith(home + os.sep):
            return  # its interpreter is a stranger's program, and compiling is done outside of the sandbox
        from agenthub.runtime.agents.cached_environments import is_fetched

        say = options.on_progress
        own = agent.directory if agent.record is not None or is_fetched(self, agent) else None
        self.environment_manager.add_bytecode(venv, own, say and (lambda line: say(None, line)))

    def _broken(self, agent: LocatedAgent, problem: str) -> EnvironmentError:
        return EnvironmentError(
            f"the environment of {agent.label} is broken: {problem}",
            suggestion="agenthub doctor --fix rebuilds it" if agent.record else "remove its folder, and run again",
        )

    def _explained(
        self, plan: RunPlan, outcome: dict[str, Any], refusals: tuple[Refusal, ...], options: RunOptions
    ) -> dict[str, Any]:
        """A failure that the environment explains, or what was refused, is said to be that."""
        from agenthub.runtime.runs.refusals import explain_refusals, refusal_lines

        for line in refusal_lines(refusals):
            if options.on_log is not None:
                options.on_log(line, "WARNING")
        if outcome.get("error_type") == "ExecutionError" and (problem := self._environment_problem(plan.agent)):
            return {**outcome, **self._broken(plan.agent, problem).to_dict()}
        return explain_refusals(plan, outcome, refusals)

    def _environment_problem(self, agent: LocatedAgent) -> str:
        if agent.record is None or not needs_python(agent) or not os.path.isdir(agent.directory):
            return ""
        venv = os.path.join(agent.directory, self.environment_manager.config.venv_location)
        expected = [(package["name"], package["version"]) for package in agent.record.dependencies]
        return next(iter(self.environment_manager.check(venv, expected)), "")


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
