"""What a run says while it runs: its log, its progress, and the values that a streaming method yields."""

from __future__ import annotations

from agenthub.quick_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agenthub.cli.output import Output
    from agenthub.cli.progress import Progress
    from agenthub.manifest import Method


class Live:
    """Prints it as it comes.

    Log and progress go to stderr. Of a stream texts are printed as they are, one after the other, and other values as
    one line of JSON each; with `--json` all of it is events on stdout (`docs/reference/envelope.md`).

    Args:
        method: says whether it streams.
        output: where to.
        progress: shows how far it is.
    """

    def __init__(self, method: Method, output: Output, progress: Progress) -> None:
        self._output = output
        self._progress = progress
        self._events = method.stream and output.as_json
        self._streams = method.stream
        self.logged = False
        """Whether there was a line of log on stderr."""

    @property
    def on_chunk(self) -> Callable[[Any], None] | None:
        """Takes what a streaming method yields; None for any other."""
        return self._chunk if self._streams else None

    def on_log(self, line: str, level: str) -> None:
        """Takes a line of log."""
        if self._events:
            if not self._output.quiet:
                self._event("log", message=line, level=level)
            return
        self.logged = True
        self._output.agent_line(line)

    def on_progress(self, fraction: float | None, message: str) -> None:
        """Takes a step."""
        if self._events and not self._output.quiet:
            self._event("progress", fraction=fraction, message=message)
        self._progress.update(message, fraction)

    def _chunk(self, value: Any) -> None:
        if self._events:
            self._event("chunk", value=value)
        elif isinstance(value, str):
            self._output.stream(value)
        else:
            self._output.end_stream()
            self._output.stream(dumps(value, ensure_ascii=False) + "\n")

    def _event(self, kind: str, **fields: Any) -> None:
        self._output.stream(dumps({"event": kind, **fields}, ensure_ascii=False) + "\n")
