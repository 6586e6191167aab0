"""Bytes as they come, made into lines of bounded size."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG_LINE = 16 * 1024
TAIL = 64 * 1024


class LineSplitter:
    """Splits a stream at line feeds; memory is one unfinished line, and joining it is linear.

    Args:
        piece: an unfinished line is handed on in pieces of about this many bytes; None: it is kept whole.
    """

    def __init__(self, piece: int | None = None) -> None:
        self._piece = piece
        self._parts: list[bytes] = []
        self.pending = 0
        """Bytes of the unfinished line."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their line feeds."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            yield self._take(data[start:end])
            start = end + 1
        rest = data[start:] if start else data
        if rest:
            self._parts.append(rest)
            self.pending += len(rest)
        if self._piece is not None and self.pending >= self._piece:
            yield self._take(b"")

    @property
    def head(self) -> bytes:
        """The unfinished line's beginning."""
        return self._parts[0] if self._parts else b""

    def finish(self) -> bytes:
        """The unfinished line at the end of the stream."""
        return self._take(b"")

    def _take(self, last: bytes) -> bytes:
        if not self._parts:
            return last
        self._parts.append(last)
        line = b"".join(self._parts)
        self._parts.clear()
        self.pending = 0
        return line


class Log:
    """An agent's log: every line goes to `on_line(line, level)`, the newest ones are kept for error reports.

    Args:
        on_line: called with a line without its line feed, decoded with replacements, and with `"DEBUG"`, `"INFO"`,
            `"WARNING"` or `"ERROR"`. Control characters are left in: a renderer knows what its terminal bears.
    """

    def __init__(self, on_line: Callable[[str, str], None] | None = None) -> None:
        self._on_line = on_line
        self._tail: list[str] = []
        self._size = 0

    def write(self, line: bytes | str, level: str = "INFO") -> None:
        """Adds one line; what is longer than a log line may be is cut into pieces."""
        for start in range(0, len(line) or 1, LOG_LINE):
            piece = line[start : start + LOG_LINE]
            text = piece.decode("utf-8", "replace") if isinstance(piece, bytes) else piece
            self._keep(text.rstrip("\r"))
            if self._on_line is not None:
                self._on_line(text.rstrip("\r"), level)

    def _keep(self, text: str) -> None:
        self._tail.append(text)
        self._size += len(text) + 1
        if self._size > 2 * TAIL:  # halved now and then, which is cheaper than popping from the front
            while self._size > TAIL:
                kept = self._tail[len(self._tail) // 2 :] if len(self._tail) > 1 else []
                self._tail = kept
                self._size = sum(len(line) + 1 for line in kept)

    @property
    def tail(self) -> tuple[str, ...]:
        """The newest lines, about 64 kB of them."""
        return tuple(self._tail)
