"""From a run's plan to what holds it."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from agenthub.errors import InvalidInputError, PermissionDeniedError
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.policy import LANDLOCK, RLIMITS
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agenthub.runtime.processes.confined import Confinement
    from agenthub.runtime.runs.plan import RunPlan
    from agenthub.runtime.sandbox.declared_network import DeclaredNetwork
    from agenthub.runtime.sandbox.refusals import Refusal


class Held(NamedTuple):
    """What holds a run.

    Attributes:
        confinement: for `ProcessManager.execute_agent`.
        variables: to add to its environment.
        door: to the declared hosts, where some are declared.
    """

    confinement: Confinement
    variables: Mapping[str, str]
    door: DeclaredNetwork | None

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The hosts that were refused so far."""
        return self.door.refusals if self.door is not None else ()


@contextmanager
def held(plan: RunPlan, scratch: str) -> Iterator[Held]:
    """Makes what holds one run, for as long as it runs.

    Raises:
        PermissionDeniedError: the sandbox is strict, or hosts are declared, and this machine cannot hold to that.
        InvalidInputError: an output cannot be written.
    """
    with _outputs(plan), _door(plan) as door:
        confinement = confine(plan.policy(scratch), plan.tiers, door)
        yield Held(confinement, door.variables if door is not None else {}, door)


@contextmanager
def _door(plan: RunPlan) -> Iterator[DeclaredNetwork | None]:
    if plan.network.kind != "hosts" or plan.tier == RLIMITS:
        yield None
        return
    if plan.tier == LANDLOCK:
        from agenthub.runtime.sandbox.notify import missing_support

        if missing := missing_support():
            raise PermissionDeniedError(
                f"{plan.agent.manifest.name} cannot be held to its hosts here: {missing}",
                suggestion="install bubblewrap; or --allow-network any, or --deny-network any",
            )
    from agenthub.runtime.sandbox.declared_network import DeclaredNetwork

    with DeclaredNetwork(plan.network.hosts, plan.tier) as network:
        yield network
        network.check()


@contextmanager
def _outputs(plan: RunPlan) -> Iterator[None]:
    """Makes what a run is to write, since only what exists can be granted; takes back what stayed empty."""
    made = []
    for name, parameter in plan.method.parameters.items():
        path = plan.arguments.get(name)
        if path in plan.outputs and parameter.access == "write":
            try:
                with suppress(FileExistsError):
                    _make(path, directory=parameter.kind == "directory")
                    made.append(path)
            except OSError as error:
                raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):
                if os.path.isdir(path):
                    os.rmdir(path)  # if it is empty
                elif os.path.getsize(path) == 0:
                    os.unlink(path)


def _make(path: str, *, directory: bool) -> None:
    if directory:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
