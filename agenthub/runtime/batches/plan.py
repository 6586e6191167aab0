"""What the rows of a batch have in common, decided once: asking, opening secrets and reading grants cost time."""

from __future__ import annotations

import os
import threading
from typing import Any

from agenthub.manifest.inputs import check_inputs
from agenthub.runtime.agent_runtime import find_method
from agenthub.runtime.runs.locator import working_directory
from agenthub.runtime.runs.permissions import input_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.runs.locator import LocatedAgent
    from agenthub.runtime.runs.plan import RunOptions, RunPlan


class BatchPlan:
    """Plans of rows that name no paths are one plan, made anew when what the agent was granted changes.

    Args:
        runtime: plans.
        agent: whose method it is.
        method: its name.
        options: of each run.

    Raises:
        AgentRuntimeError: whatever keeps every row from being run, a refused consent among it.
    """

    def __init__(self, runtime: AgentRuntime, agent: LocatedAgent, method: str, options: RunOptions) -> None:
        self.agent = agent
        self._runtime = runtime
        self._method = find_method(agent, method)
        self._lock = threading.Lock()
        self.options = options._replace(
            directory=options.directory or working_directory(),
            consent=None if options.consent is None else _once(options.consent),
            ask_passphrase=None if options.ask_passphrase is None else _once(options.ask_passphrase),
        )
        self._decide()

    def _decide(self) -> None:
        self._granted = self._grants()
        plan, self.python = self._runtime.worker_plan(self.agent, self.options)
        self.shared = plan._replace(method=self._method, limits=self._runtime.limits(self.agent, self._method))

    def _grants(self) -> tuple[int, ...]:
        """What changes with the agent's grants."""
        try:
            found = os.stat(self._runtime.store.grants_path(self.agent.owner, self.agent.name))
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def of_row(self, inputs: Mapping[str, Any]) -> tuple[RunPlan, bool]:
        """A row's plan, and whether it may touch what every row may touch, and nothing else.

        Raises:
            InvalidInputError: the inputs do not fit.
            PermissionDeniedError: a path that it cannot be given.
        """
        assert self.options.directory is not None
        arguments = check_inputs(self._method, inputs, self.options.directory)
        if any(input_paths(self._method, {name: arguments[name] for name in inputs})):
            plan = self._runtime.plan(self.agent, self._method.name, inputs, self.options)
            plan.require_consent(self.options.consent)
            return plan, False
        with self._lock:
            if self._grants() != self._granted:
                self._decide()
            return self.shared._replace(arguments=arguments), True


def _once(ask: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Asks each question once, and gives the same answer from then on."""
    lock = threading.Lock()
    answers: dict[Any, Any] = {}

    def answer(question: Any) -> Any:
        with lock:
            if question not in answers:
                answers[question] = ask(question)
            return answers[question]

    return answer
