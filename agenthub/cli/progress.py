"""One line at the bottom of a terminal that says what takes so long: a spinner, or a bar where a fraction is known."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRESS_DELAY = 2.0  # seconds before a spinner shows that something takes long
_REDRAW = 0.1
_BAR = 24  # columns
_WIPE = "\r\x1b[2K"


class Progress:
    """Shows a label, the newest message and the time. Thread-safe; silent where not shown.

    A spinner comes after `PROGRESS_DELAY`, a bar at once.
    """

    def __init__(self, label: str, shown: bool = True) -> None:
        self._label = label
        self._message = ""
        self._fraction: float | None = None
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._drawn = False
        self._hidden = 0
        self._over = not shown
        if shown:
            threading.Thread(target=self._live, name="agenthub progress", daemon=True).start()

    def update(self, message: str, fraction: float | None = None) -> None:
        """Replaces the message; `fraction` (0 to 1) makes a bar of the spinner, None keeps what is there."""
        with self._changed:
            self._message = message
            if fraction is not None:
                first = self._fraction is None
                self._fraction = min(max(fraction, 0.0), 1.0)
                if first:
                    self._changed.notify_all()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hides it while something else is on the screen, and lets nobody draw meanwhile."""
        self.hide(True)
        try:
            yield
        finally:
            self.hide(False)

    def hide(self, hidden: bool) -> None:
        """Takes it away until it is called with False."""
        with self._changed:
            self._wipe()
            self._hidden += 1 if hidden else -1

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Makes room for lines that are written above it."""
        with self._changed:
            self._wipe()
            yield

    def stop(self) -> None:
        """Takes it away for good."""
        with self._changed:
            self._over = True
            self._wipe()
            self._changed.notify_all()

    def _live(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._fraction is not None, PROGRESS_DELAY)
            while not self._over:
                if not self._hidden:
                    self._drawn = True
                    _write(f"{_WIPE}{self._text()}")
                self._changed.wait(_REDRAW)

    def _wipe(self) -> None:
        if self._drawn:
            self._drawn = False
            _write(_WIPE)

    def _text(self) -> str:
        elapsed = time.monotonic() - self._began
        plain = "utf" not in (sys.stderr.encoding or "").lower()
        if self._fraction is None:
            frames = "|/-\\" if plain else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
            head, measure = f"{frames[int(elapsed / _REDRAW) % len(frames)]} {self._label}", ""
        else:
            done = int(self._fraction * _BAR)
            full, empty = "#-" if plain else "━─"
            head, measure = self._label, f"{full * done}{empty * (_BAR - done)} {self._fraction:4.0%}"
        message = "".join(letter if letter.isprintable() else " " for letter in self._message[:200])
        return _cut("  ".join(filter(None, (head, measure, f"{elapsed:.0f} s", message.strip()))), _columns() - 1)


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _cut(text: str, columns: int) -> str:
    """As much of `text` as fits: a line that wraps cannot be taken away again."""
    import unicodedata

    for position, letter in enumerate(text):
        columns -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if columns < 0:
            return text[:position]
    return text


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody looks any more
        sys.stderr.write(text)
        sys.stderr.flush()
