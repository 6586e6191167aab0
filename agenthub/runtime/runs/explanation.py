"""What a run would be held to, as values: for `run --explain`, and for whoever decides about it."""

from __future__ import annotations

import os
from typing import Any

from agenthub.runtime.processes.cgroups import cgroup_can_be_made
from agenthub.runtime.runs.documents import SCHEMA_VERSION, identity
from agenthub.runtime.runs.permissions import ANY
from agenthub.runtime.runs.plan import OFF
from agenthub.runtime.sandbox.guarantees import Guarantee, guarantees
from agenthub.runtime.sandbox.policy import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agenthub.runtime.runs.plan import RunPlan
    from agenthub.runtime.sandbox.tiers import Tiers


def explain_plan(plan: RunPlan) -> dict[str, Any]:
    """What would be enforced.

    Returns:
        dict: `agent`, `method`, `sandbox` (`level`, `tier`, `reason`, `remedy`, `weakness`), `read`, `write`,
        `network` (`kind` and `hosts`), `run` (programs, or None for any), `variables` and `secrets` (names),
        `limits` (seconds and bytes), `guarantees` (each with `name`, `state`, `message`, `remedy`).
    """
    tiers = plan.tiers
    if plan.level == OFF:
        tiers = tiers._replace(best=RLIMITS, reason="it is turned off", remedy="--sandbox auto")
    return {
        "schema_version": SCHEMA_VERSION,
        "agent": identity(plan.agent),
        "method": plan.method.name,
        "sandbox": {
            "level": plan.level,
            "tier": plan.tier,
            "reason": tiers.reason,
            "remedy": tiers.remedy,
            "weakness": plan.weakness,
        },
        "read": [plan.agent.directory, *plan.permissions.read],
        "write": list(plan.permissions.write),
        "network": {"kind": plan.network.kind, "hosts": list(plan.network.hosts)},
        "run": None if ANY in plan.permissions.run else list(plan.permissions.run),
        "variables": sorted(plan.variables),
        "secrets": sorted(plan.secrets),
        "limits": plan.limits._asdict(),
        "guarantees": [guarantee._asdict() for guarantee in all_guarantees(tiers)],
    }


def all_guarantees(tiers: Tiers) -> Iterator[Guarantee]:
    """What a run on this machine is held to: tried, not guessed."""
    yield Guarantee("deadline", "ok", "the whole process tree is killed at it")
    yield Guarantee("environment variables", "ok", "a fixed few, and what was declared or passed")
    yield from guarantees(tiers, cgroup=cgroup_can_be_made(), root=os.geteuid() == 0)
