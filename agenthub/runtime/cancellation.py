"""Stopping a run from another thread or from a signal handler."""

from __future__ import annotations

import os

from agenthub.config import out_of_the_way


class Cancellation:
    """A flag that wakes whoever selects on it; set once, from any thread or signal handler.

    One object may cancel many runs. `close` frees its two descriptors once no run uses it.
    """

    def __init__(self) -> None:
        self._reader, self._writer = map(out_of_the_way, os.pipe())
        os.set_blocking(self._writer, False)
        self.cancelled = False

    def cancel(self) -> None:
        """Asks every run that was given this object to stop, now and later."""
        if not self.cancelled:
            self.cancelled = True
            if self._writer >= 0:
                os.write(self._writer, b"!")  # never read, so that the descriptor stays readable for all

    def fileno(self) -> int:
        """A descriptor that is readable once `cancel` was called."""
        return self._reader

    def close(self) -> None:
        """Frees the descriptors; `cancel` is harmless afterwards."""
        reader, self._reader = self._reader, -1
        writer, self._writer = self._writer, -1
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
