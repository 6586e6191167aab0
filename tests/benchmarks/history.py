"""The rows of the history: what a record costs a run, and a reader when there are a million."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from agenthub.observability.database import open_database
from agenthub.observability.recorder import Recorder
from tests.benchmarks.measure import Row, Sample, command, compare

if TYPE_CHECKING:
    from collections.abc import Mapping

AGENTHUB = os.path.join(os.path.dirname(sys.executable), "agenthub")
FEW, MANY = 1_000, 1_000_000
_RUNS = 500
# Rows as a machine makes them that runs an agent each second; none is so old that it would be forgotten.
_ROWS = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :count)
INSERT INTO runs (run_id, owner, agent, version, method, inputs, pid, pid_start, boot, started, status, ended,
                  exit_code, result, execution_time, usage)
SELECT printf('%012x', n * 2654435761 % 281474976710656),
       'local', 'agent' || n % 20, '1.0', 'go', '{"value": {}}', 1, 1, 'x',
       :now - (:count - n) * 0.5, CASE n % 50 WHEN 0 THEN 'failed' ELSE 'ok' END, :now, n % 50 = 0,
       '{"value": 1}', 0.01, '{"wall": 0.01, "peak_memory": 11000000}'
FROM number
"""


def history_rows(work: str, env: Mapping[str, str]) -> list[Row]:
    homes = {count: _filled(os.path.join(work, f"history-{count}"), count) for count in (FEW, MANY)}
    listing = [command([AGENTHUB, "runs"], {**env, "AGENTHUB_HOME": homes[count]}) for count in (MANY, FEW)]
    return [
        _recording(os.path.join(work, "recorded")),
        compare(f"runs with {MANY:,} in the history / with {FEW:,}", 2, *listing, times=11),
    ]


def _filled(home: str, count: int) -> str:
    connection = open_database(os.path.join(home, "history"))
    connection.execute(_ROWS, {"count": count, "now": time.time()})
    connection.close()
    return home


def _recording(directory: str) -> Row:
    recorder = Recorder(directory)
    envelope = {"exit_code": 0, "result": 1, "execution_time": 0.01, "usage": {"wall": 0.01}}
    facts = {"owner": "local", "agent": "trivial", "version": "1.0", "method": "go"}
    times = []
    for number in range(_RUNS):
        begun = time.perf_counter()
        with recorder.begin(f"{number:012x}", facts, {"text": "x"}) as recording:
            recording.finish(envelope)
        times.append(time.perf_counter() - begun)
    sample = Sample(times)
    return Row("recording a run / 1 ms", f"{sample} ms", "1 ms", sample.median * 1e3, 1)
