"""The history on its way: a line for each run that has ended, as a journal has them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from agenthub.config import Paths
from agenthub.errors import InstallError
from agenthub.observability.history import Filter, History, RunRecord
from agenthub.observability.journal import FORMAT, Journal
from agenthub.packages.files import storing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FACTS = ("owner", "agent", "version", "directory", "digest", "method", "environment", "isolation")
_ENDED = ("exit_code", "error_type", "error", "suggestion", "result", "execution_time", "usage", "masked")
_RUN = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
_LARGEST_LINE = 16 << 20


def write_history(paths: Paths, target: str) -> int:
    """Writes the runs that have ended to the file `target`, the oldest first; returns how many."""
    with History(paths.history, lambda sentence: None) as history:
        runs = [run for run in history.runs(Filter(), -1) if run.status != "running"]
    with storing("write", target), open(target, "w", encoding="utf-8") as file:
        for run in reversed(runs):
            file.write(json.dumps(_line(run), sort_keys=True) + "\n")
    return len(runs)


def add_history(paths: Paths, source: str, say: Callable[[str], None]) -> int:
    """Adds the runs in a file that the history here does not have; returns how many.

    Raises:
        InstallError: the file is no such one.
        StoreError: the history cannot be read or written.
    """
    with History(paths.history, lambda sentence: None) as history:
        known = {run.run_id for run in history.runs(Filter(), -1)}
    journal, added = Journal(os.path.join(paths.history, "journal")), 0
    say("adding the history")
    with open(source, "rb") as file, storing("write", paths.history):
        while line := file.readline(_LARGEST_LINE):
            record = _parsed(line, source)
            if record["run"] not in known:
                journal.append(record)
                known.add(record["run"])
                added += 1
    return added


def _line(run: RunRecord) -> dict[str, Any]:
    values = run._asdict()
    start = {**{key: values[key] for key in _FACTS}, "inputs": run.inputs, "supervisor": [0, 0, ""], "at": run.started}
    line = {"run": run.run_id, "start": {**start, "stop": None}}
    if run.status == "lost":
        return line
    end = {key: values[key] for key in _ENDED if values[key] is not None}
    if run.status == "failed":
        end.setdefault("error", "")
    return {**line, "end": {"at": run.ended, **end}}


def _parsed(line: bytes, source: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        run, start, end = record["run"], record["start"], record.get("end")
        whole = isinstance(run, str) and _RUN.fullmatch(run)
        if not whole or not isinstance(start, dict) or not isinstance(end, (dict, type(None))):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InstallError(f"a line of the history in {source} is damaged") from None
    # Whatever it says of processes is of another machine.
    start.update(supervisor=[0, 0, ""], stop=None)
    found = {"format": FORMAT, "run": run, "start": start}
    return found if end is None else {**found, "end": end}
