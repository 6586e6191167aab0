"""What the history is told of a run before it starts; nothing secret is."""

from __future__ import annotations

import os

from agenthub.config import scratch_base
from agenthub.packages.record import environment_digest
from agenthub.runtime.processes.cancellation import STOP_PIPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from agenthub.observability.recorder import Recorder, Recording
    from agenthub.packages.record import InstallRecord
    from agenthub.runtime.processes.masking import Masker
    from agenthub.runtime.runs.plan import RunPlan


def begin_recording(
    recorder: Recorder, plan: RunPlan, given: Iterable[str], run_id: str, masker: Masker | None
) -> Recording:
    """Records that a run starts.

    Args:
        recorder: where.
        plan: of the run.
        given: names of the inputs that the caller gave; the manifest's defaults are those of the version.
        run_id: its name.
        masker: hides its secrets.
    """
    agent = plan.agent
    record = agent.record
    inputs: dict[str, Any] = {name: plan.arguments[name] for name in given}
    clean = inputs if masker is None else _masked(masker, inputs)
    facts = {
        "owner": agent.owner,
        "agent": agent.name,
        "version": agent.manifest.version,
        "directory": agent.directory,
        "digest": record.digest if record is not None else None,
        "environment": _environment(record),
        "method": plan.method.name,
        "isolation": plan.tier,
        "stop": os.path.join(scratch_base(), run_id + STOP_PIPE),
    }
    return recorder.begin(
        run_id,
        facts,
        clean,
        hidden=clean is not inputs,
        mask=None if masker is None else masker.text,
    )


def _environment(record: InstallRecord | None) -> str | None:
    if record is None:
        return None
    # Made when it was installed: the first digest that a process makes takes a millisecond of imports.
    return record.environment_digest or environment_digest(record.digest, record.interpreter, record.dependencies)


def _masked(masker: Masker, inputs: dict[str, Any]) -> Any:
    """`inputs` without secrets; what was found in them is not what the agent said."""
    found, masker.masked = masker.masked, set()
    try:
        return masker.value(inputs)
    finally:
        masker.masked = found
