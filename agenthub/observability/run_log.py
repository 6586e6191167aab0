"""A run's log lines, in a file of their own: written as they come, so that another process can follow them."""

from __future__ import annotations

import os
import time

from agenthub.config import out_of_the_way

LARGEST = 1 << 20
"""Bytes of a run's log that are kept from its beginning; of what follows, the newest `_TAIL`."""
_TAIL = 64 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def log_path(directory: str, run_id: str) -> str:
    """Where the log of a run is, if it said anything."""
    return os.path.join(directory, "logs", f"{run_id}.log")


class RunLog:
    """Takes a run's lines. A line costs one `write` of a microsecond; what fails is told by `close`.

    Args:
        directory: of the history.
        run_id: whose log it is.
    """

    def __init__(self, directory: str, run_id: str) -> None:
        self._room = LARGEST
        self._tail: list[bytes] = []
        self._tail_size = 0
        self._left_out = 0
        self._problem: OSError | None = None
        self._descriptor = -1
        path = log_path(directory, run_id)
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._descriptor = out_of_the_way(os.open(path, _FLAGS, 0o600))
        except OSError as error:
            self._problem = error

    def write(self, line: str, level: str) -> None:
        """Adds a line."""
        if self._problem is not None:
            return
        text = line.replace("\n", "\n\t") if "\n" in line else line
        data = f"{time.time():.3f} {level} {text}\n".encode("utf-8", "replace")
        if not self._left_out and len(data) <= self._room:
            self._room -= len(data)
            self._put(data)
        else:
            self._keep(data)

    def close(self) -> OSError | None:
        """Adds the newest of the lines for which there was no room. Returns what went wrong, if anything did."""
        if self._tail:
            left = self._left_out - len(self._tail)
            if left > 0:
                self._put(f"{time.time():.3f} WARNING … {left} lines are left out here\n".encode())
            self._put(b"".join(self._tail))
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        return self._problem

    def _keep(self, data: bytes) -> None:
        self._left_out += 1
        self._tail.append(data)
        self._tail_size += len(data)
        if self._tail_size > 2 * _TAIL:  # now and then, which is cheaper than one by one
            while self._tail_size > _TAIL:
                self._tail = self._tail[len(self._tail) // 2 + 1 :]
                self._tail_size = sum(map(len, self._tail))

    def _put(self, data: bytes) -> None:
        try:
            os.write(self._descriptor, data)
        except OSError as error:
            self._problem = self._problem or error
