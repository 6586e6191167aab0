"""What goes on now, as values: runs, workers, rates. For `agenthub top`."""

from __future__ import annotations

import os
import time

from agenthub.config import scratch_base
from agenthub.observability.history import Filter, History
from agenthub.runtime.processes.process_tree import ProcTree, read_file
from agenthub.runtime.workers.control import list_workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agenthub.config import Paths
    from agenthub.observability.history import RunRecord

WINDOW = 60.0  # seconds that rates are taken over
_MOST = 5000  # runs that are counted for them
_RECENT = 12


def overview(paths: Paths, history: History) -> dict[str, Any]:
    """A look at this user's agents.

    Returns:
        dict: `time`; `running`, each with `run_id agent method seconds memory isolation`; `workers`, as `WorkerInfo`;
        `recent`, each with `run_id agent method status seconds memory error`; `minute`, with the `runs` that were
        started in the last minute, `failed` of them, and `rate` (a second).

    Raises:
        StoreError: the history cannot be read.
    """
    now = time.time()
    running = history.runs(Filter(status="running"), _MOST)
    minute = history.runs(Filter(since=now - WINDOW), _MOST)
    ended = [record for record in history.runs(Filter(), _RECENT + len(running)) if record.status != "running"]
    failed = sum(record.status in ("failed", "lost") for record in minute)
    return {
        "time": now,
        "running": [_running(record, now) for record in running],
        "workers": [worker._asdict() for worker in list_workers(paths)],
        "recent": [_ended(record) for record in ended[:_RECENT]],
        "minute": {"runs": len(minute), "failed": failed, "rate": len(minute) / WINDOW},
    }


def _running(record: RunRecord, now: float) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "agent": record.label,
        "method": record.method,
        "seconds": max(0.0, now - record.started),
        "memory": _memory(record.run_id),
        "isolation": record.isolation,
    }


def _ended(record: RunRecord) -> dict[str, Any]:
    usage = record.usage or {}
    return {
        "run_id": record.run_id,
        "agent": record.label,
        "method": record.method,
        "status": record.status,
        "seconds": record.execution_time,
        "memory": usage.get("peak_memory"),
        "error": record.error,
    }


def _memory(run_id: str) -> int | None:
    """Bytes that a run holds, by the record that its supervisor keeps; None for one that a worker serves."""
    fields = read_file(os.path.join(scratch_base(), f"{run_id}.run")).split()
    if len(fields) != 5:
        return None
    tree = ProcTree(int(fields[1]), run_id, None)
    return tree.memory(tree.scan())
