"""What is said of a run that failed for what it was refused."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

from agenthub.errors import PermissionDeniedError
from agenthub.runtime.runs.permissions import covers, is_sensitive
from agenthub.runtime.sandbox.hosts import rule_for
from agenthub.runtime.sandbox.policy import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agenthub.runtime.runs.plan import RunPlan
    from agenthub.runtime.sandbox.refusals import Refusal

_PATH = re.compile(r"""['"](/[^'"\n]{1,4096})['"]""")
_MOST_PATHS = 8  # that are looked for
_NO_FILE = ("No such file", "Permission denied", "Read-only file", "not permitted", "ENOENT", "EACCES", "not find")
_NO_NETWORK = (
    *("Operation not permitted", "Network is unreachable", "name resolution", "Name or service not known"),
    *("Connection error", "Connection refused", "EAI_AGAIN", "ENETUNREACH", "EPERM", "resolve host"),
)


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
    return rule_for(name, int(port))


def _with_missing_path(plan: RunPlan, outcome: dict[str, Any]) -> dict[str, Any]:
    """Names the flag, where an agent fails for want of a file that is there and that it may not touch.

    The text is the agent's, who may say anything, and a person copies the flag. So no flag opens a directory of more
    than what was named, nor what no agent needs, nor is anything but one word of a shell.
    """
    said = outcome["error"]
    if outcome.get("suggestion") or not any(sign in said for sign in _NO_FILE):
        return outcome
    for found in list(_PATH.finditer(said))[:_MOST_PATHS]:
        path = os.path.normpath(found[1])
        if covers(plan.permissions.write, path) or not path.isprintable():
            continue
        if is_sensitive(path) or is_sensitive(os.path.realpath(path)):
            return {**outcome, "suggestion": f"agents are kept from places like {path}, and rarely need them"}
        writes = "Read-only" in said or covers(plan.permissions.read, path)
        place = path if os.path.lexists(path) else os.path.dirname(path)
        if os.path.lexists(place) and not is_sensitive(place):
            kind = "write" if writes else "read"
            return {**outcome, "suggestion": f"if it should {kind} {place}: --allow-{kind} {shlex.quote(place)}"}
    return outcome


def refusal_lines(refusals: tuple[Refusal, ...]) -> Iterator[str]:
    """One line for each host that was refused, for the run's log."""
    for one in refusals:
        times = "" if one.times == 1 else f", {one.times} times"
        yield f"agenthub refused {_at(one)}: {one.reason}{times}"
