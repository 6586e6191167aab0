"""Reads the log lines of a run, also while more are written."""

from __future__ import annotations

from typing import NamedTuple

from agenthub.observability.run_log import log_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class LogLine(NamedTuple):
    """`time` is in seconds since 1970; `level` one of `DEBUG INFO WARNING ERROR`."""

    time: float
    level: str
    text: str


class LogReader:
    """Reads a log from its beginning, and on from there when it has grown."""

    def __init__(self, directory: str, run_id: str) -> None:
        self._path = log_path(directory, run_id)
        self._offset = 0

    def new_lines(self) -> Iterator[LogLine]:
        """The complete lines since the last time; none where there is no log.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        end = data.rfind(b"\n") + 1
        self._offset += end
        earlier = LogLine(0.0, "INFO", "")
        for line in data[:end].decode("utf-8", "replace").split("\n")[:-1]:
            earlier = _parsed(line, earlier)
            yield earlier


def _parsed(line: str, earlier: LogLine) -> LogLine:
    if line.startswith("\t"):  # the rest of a message of several lines
        return earlier._replace(text=line[1:])
    stamp, _, rest = line.partition(" ")
    level, _, text = rest.partition(" ")
    try:
        return LogLine(float(stamp), level, text)
    except ValueError:
        return earlier._replace(text=line)
