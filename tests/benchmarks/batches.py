"""The rows of docs/reference/speed.md on `agenthub map`: how many a second, and what it takes of memory."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from tests.benchmarks.measure import Row, peak_rss

if TYPE_CHECKING:
    from collections.abc import Mapping

AGENTHUB = os.path.join(os.path.dirname(sys.executable), "agenthub")
MB = 1024 * 1024
RATE = 400  # rows a second
FEW, MANY = 1_000, 10_000


def batch_rows(work: str, env: Mapping[str, str], agent: str = "trivial", method: str = "go") -> list[Row]:
    """`agent` is installed in the store of `env`, and its method needs no inputs."""
    small, _ = mapped(work, env, [agent, method], FEW)
    large, seconds = mapped(work, env, [agent, method], MANY)
    rate = MANY / seconds
    return [
        Row(f"{RATE} rows a second / map over {MANY:,} trivial rows", f"{rate:.0f}/s", f"{RATE}/s", RATE / rate, 1),
        Row(
            f"our own peak memory with {MANY:,} rows / with {FEW:,}",
            f"{large / MB:.1f} MB",
            f"{small / MB:.1f} MB",
            large / small,
            1.1,
        ),
    ]


def mapped(work: str, env: Mapping[str, str], call: list[str], count: int) -> tuple[int, float]:
    """Peak resident bytes of ours, and seconds, of a batch of so many rows."""
    out = os.path.join(work, f"{count}-results.jsonl")
    started = time.perf_counter()
    peak = peak_rss([AGENTHUB, "map", *call, inputs(work, count), "-j", "4", "--quiet", "--out", out], env)
    seconds = time.perf_counter() - started
    with open(out, "rb") as file:
        assert sum(b'"result"' in line for line in file) == count, "rows failed"
    os.unlink(out)
    return peak, seconds


def inputs(work: str, count: int) -> str:
    """A file of so many empty inputs."""
    path = os.path.join(work, f"{count}.jsonl")
    with open(path, "w") as file:
        file.writelines(["{}\n"] * count)
    return path
