"""What a run was refused: kept for its log and for the error that follows from it."""

from __future__ import annotations

import threading
from typing import NamedTuple

from agenthub.runtime.sandbox.hosts import rule_for

_MOST = 256  # different ones
_LONGEST = 100  # characters of what the agent wrote


class Refusal(NamedTuple):
    """What the agent wanted and did not get.

    Attributes:
        host: normal form of the host or address; as the agent wrote it, shortened, where it has none.
        port: 0 where none was named.
        reason: why, as the end of a sentence about the host.
        times: how often.
        declare: what to declare to allow it; "" where nothing can.
    """

    host: str
    port: int
    reason: str
    times: int
    declare: str

    @property
    def suggestion(self) -> str:
        """How to allow it; "" where nothing can."""
        if not self.declare:
            return ""
        return f"declare `network: [{self.declare}]` or run with --allow-network {self.declare}"


class RefusalRecord:
    """Counts refusals; may be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, str], Refusal] = {}

    def all(self) -> tuple[Refusal, ...]:
        """Every different one, in the order in which it first happened."""
        with self._lock:
            return tuple(self._known.values())

    def add(self, host: str, port: int, reason: str, declare: str | None = None) -> Refusal:
        """Counts one.

        Args:
            host: as the agent named it.
            port: or 0.
            reason: the end of a sentence about the host.
            declare: what would have to be declared; by default the host and, where that is not usual, the port.
        """
        if declare is None:
            declare = rule_for(host, port)
        key = (_printable(host), port, reason)
        with self._lock:
            if key not in self._known and len(self._known) >= _MOST:
                key, declare = ("others", 0, "and too many to list"), ""
            known = self._known.get(key)
            refusal = Refusal(*key, known.times + 1 if known else 1, declare)
            self._known[key] = refusal
        return refusal


def _printable(text: str) -> str:
    return (text if text.isprintable() and text.isascii() else ascii(text)[1:-1])[:_LONGEST]
