"""Timing whole commands: ours and a reference in turns, so that the machine's noise meets both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Sample(NamedTuple):
    """Seconds (or bytes) of repeated measurements."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values) * 1e3, max(self.values) * 1e3
        return f"{self.median * 1e3:.1f} ({low:.1f}-{high:.1f})"


class Row(NamedTuple):
    """One line of the table. `ratio` is held against `target`."""

    name: str
    ours: str
    reference: str
    ratio: float
    target: float

    @property
    def met(self) -> bool:
        return self.ratio <= self.target


def command(argv: Sequence[str], env: Mapping[str, str], *, cwd: str | None = None) -> Callable[[], float]:
    """A measurement: runs a command to its end, which must be a good one; seconds."""

    def run() -> float:
        started = time.perf_counter()
        done = subprocess.run(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(argv)} failed:\n{done.stderr.decode()[-2000:]}")
        return seconds

    return run


def in_turns(ours: Callable[[], float], reference: Callable[[], float], times: int) -> tuple[Sample, Sample]:
    """Both, `times` times, in turns, after one warm-up of each."""
    ours(), reference()
    pairs = [(ours(), reference()) for _ in range(times)]
    return Sample([one for one, _ in pairs]), Sample([other for _, other in pairs])


def compare(
    name: str, target: float, ours: Callable[[], float], reference: Callable[[], float], times: int = 21
) -> Row:
    """A row in which the ratio of medians is held against a target."""
    mine, theirs = in_turns(ours, reference, times)
    return Row(name, f"{mine} ms", f"{theirs} ms", mine.median / theirs.median, target)


def peak_rss(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Peak resident bytes of a command's own process, its children left out (VmHWM, read while it runs)."""
    import select

    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    peak, pidfd = 0, os.pidfd_open(process.pid)
    while not select.select([pidfd], [], [], 0.002)[0]:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                found = [line for line in status if line.startswith("VmHWM:")]
        except OSError:
            break
        if found:
            peak = max(peak, int(found[0].split()[1]) * 1024)
    os.close(pidfd)
    process.wait()
    return peak


def table(rows: list[Row]) -> str:
    """The rows for a terminal and for docs/reference/speed.md."""
    head = ("what", "ours", "reference", "ratio", "target", "")
    cells = [
        (row.name, row.ours, row.reference, f"{row.ratio:.2f}", f"≤ {row.target:g}", "met" if row.met else "MISSED")
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *cells)]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" if number != 1 else f"|-{line}-|" for number, line in enumerate(lines))
