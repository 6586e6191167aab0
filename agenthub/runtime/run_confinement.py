"""From a run's plan to what holds it, and what is said of what it was refused."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from agenthub.errors import InvalidInputError, PermissionDeniedError
from agenthub.runtime.permissions import covers
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.policy import LANDLOCK, RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agenthub.runtime.confined import Confinement
    from agenthub.runtime.run_plan import RunPlan
    from agenthub.runtime.sandbox.declared_network import DeclaredNetwork
    from agenthub.runtime.sandbox.refusals import Refusal

_PATH = re.compile(r"""['"](/[^'"\n]{1,4096})['"]""")
_NO_FILE = ("No such file", "Permission denied", "Read-only file", "not permitted", "ENOENT", "EACCES", "not find")
_NO_NETWORK = (
    *("Operation not permitted", "Network is unreachable", "name resolution", "Name or service not known"),
    *("Connection error", "Connection refused", "EAI_AGAIN", "ENETUNREACH", "EPERM", "resolve host"),
)


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


def explain_refusals(plan: RunPlan, outcome: dict[str, Any], refusals: tuple[Refusal, ...]) -> dict[str, Any]:
    """The outcome of a run that failed, with what it was refused and how that can be allowed.

    Args:
        plan: of the run.
        outcome: as `ProcessManager.execute_agent` returned it.
        refusals: hosts that it did not get.
    """
    tried = outcome.pop("attempts", ())
    if outcome.get("error_type") != "ExecutionError" or plan.tier == RLIMITS:
        return outcome
    name, said = plan.agent.manifest.name, outcome["error"]
    if refusals:
        return {**outcome, **_refused(plan, said, [(_at(one), one.times, one.declare) for one in refusals])}
    if plan.network.kind == "none":
        if tried:
            return {**outcome, **_refused(plan, said, [(host, 1, _declared(host)) for host in tried])}
        if any(sign in said for sign in _NO_NETWORK):
            hint = f"{name} has no network; if it needs one: --allow-network HOST"
            return {"suggestion": hint, **{key: value for key, value in outcome.items() if value is not None}}
    return _with_missing_path(plan, outcome)


def _refused(plan: RunPlan, said: str, hosts: list[tuple[str, int, str]]) -> dict[str, Any]:
    name = plan.agent.manifest.name
    shown = ", ".join(host if times == 1 else f"{host} ({times} times)" for host, times, _ in hosts[:3])
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    allowed = f"it may reach {', '.join(plan.network.hosts)}" if plan.network.hosts else "it may use no network"
    declare = list(dict.fromkeys(host for _, _, host in hosts if host))
    suggestion = None
    if declare:
        flags = " ".join(f"--allow-network {host}" for host in declare)
        suggestion = f"declare `network: [{', '.join(declare)}]` or run with {flags}"
        if plan.agent.record is not None:
            suggestion += f"; always: agenthub grant {plan.agent.call_name} network {' '.join(declare)}"
    return PermissionDeniedError(
        f"{name} was refused {shown}{more}, and failed: {said} ({allowed})", suggestion=suggestion
    ).to_dict()


def _at(refusal: Refusal) -> str:
    host = f"[{refusal.host}]" if ":" in refusal.host else refusal.host
    return f"{host}:{refusal.port}" if refusal.port else host


def _declared(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if port in ("80", "443") else host


def _with_missing_path(plan: RunPlan, outcome: dict[str, Any]) -> dict[str, Any]:
    """Names the flag, where an agent fails for want of a file that is there and that it may not touch."""
    said = outcome["error"]
    if outcome.get("suggestion") or not any(sign in said for sign in _NO_FILE):
        return outcome
    for path in _PATH.findall(said):
        writes = "Read-only" in said or covers(plan.permissions.read, path)
        place = path if os.path.lexists(path) else os.path.dirname(path)
        if place != "/" and os.path.lexists(place) and not covers(plan.permissions.write, path):
            kind = "write" if writes else "read"
            return {**outcome, "suggestion": f"if it should {kind} {place}: --allow-{kind} {place}"}
    return outcome


def refusal_lines(refusals: tuple[Refusal, ...]) -> Iterator[str]:
    """One line for each host that was refused, for the run's log."""
    for one in refusals:
        times = "" if one.times == 1 else f", {one.times} times"
        yield f"agenthub refused {_at(one)}: {one.reason}{times}"
