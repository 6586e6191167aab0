"""The rows of a batch from a file or standard input: JSON lines, or CSV whose header names the parameters."""

from __future__ import annotations

import csv
import json
import os
import select
import stat
import sys
from typing import Any

from agenthub.config import format_size
from agenthub.errors import InvalidInputError, nearest
from agenthub.manifest.inputs import convert_text
from agenthub.observability.recorder import digest
from agenthub.runtime.batches.batch import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agenthub.manifest import Method
    from agenthub.runtime.processes.cancellation import Cancellation

_BLOCK = 1 << 16


class Lines:
    """The lines of a file, without their ends; stops early when the batch is cancelled.

    Args:
        path: of the file; `-`: standard input.
        cancellation: ends it, also while it waits for a line.
        limit: bytes that a line may have.

    Raises:
        InvalidInputError: it cannot be read.
    """

    def __init__(self, path: str, cancellation: Cancellation, limit: int) -> None:
        self.name = "standard input" if path == "-" else path
        self.size: int | None = None
        """Bytes that there are, where that is known."""
        self.consumed = 0
        self._cancellation = cancellation
        self._limit = limit
        try:
            self._file = os.fdopen(os.dup(sys.stdin.fileno()) if path == "-" else os.open(path, os.O_RDONLY), "rb", 0)
            found = os.fstat(self._file.fileno())
        except OSError as error:
            if path != "-":
                raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None
            self._file = sys.stdin.buffer  # type: ignore[assignment]  # a stream of a program that embeds this
            return
        if stat.S_ISREG(found.st_mode):
            self.size = found.st_size - os.lseek(self._file.fileno(), 0, os.SEEK_CUR)

    def __iter__(self) -> Iterator[bytes]:
        pending = bytearray()
        while block := self._block():
            searched = len(pending)
            pending += block
            start = 0
            while (end := pending.find(b"\n", max(start, searched))) >= 0:
                line = bytes(pending[start : end + 1])
                self.consumed += len(line)
                yield line.rstrip(b"\r\n")
                start = end + 1
            del pending[:start]
            if len(pending) > self._limit:
                raise InvalidInputError(
                    f"{self.name} has a line longer than the {format_size(self._limit)} that an input may have"
                )
        if pending and not self._cancellation.cancelled:
            self.consumed += len(pending)
            yield bytes(pending)

    def _block(self) -> bytes:
        if self.size is None and self._file is not getattr(sys.stdin, "buffer", None):
            select.select([self._file.fileno(), self._cancellation.fileno()], [], [])
        if self._cancellation.cancelled:
            return b""
        try:
            return self._file.read(_BLOCK) or b""
        except OSError as error:
            raise InvalidInputError(f"cannot read {self.name}: {error.strerror}") from None

    def close(self) -> None:
        """Closes the file; standard input stays open."""
        if self._file is not getattr(sys.stdin, "buffer", None):
            self._file.close()


class Rows:
    """What stands in the lines: each an input of the method.

    Args:
        lines: JSON objects, one a line, or CSV; the first line that is not blank tells.
        method: whose inputs they are.
        agent: its agent, which stands in the digest of a row as the method does.
        limit: characters that a field may have.

    Attributes:
        count: how many there were, once there are no more; else None.
    """

    def __init__(self, lines: Lines, method: Method, agent: str, limit: int) -> None:
        self.count: int | None = None
        self._lines = lines
        self._method = method
        self._agent = agent
        self._limit = limit

    def __iter__(self) -> Iterator[Row]:
        lines = (line for line in self._unmarked() if line.strip())
        first = next(lines, None)
        index = -1
        if first is not None:
            found = self._json_rows(first, lines) if first.lstrip()[:1] in b"{[" else self._csv_rows(first)
            for index, (inputs, problem) in enumerate(found):
                yield self._row(index, inputs, problem)
        self.count = index + 1

    def _unmarked(self) -> Iterator[bytes]:
        self._texts = iter(self._lines)
        for number, line in enumerate(self._texts):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line

    def _row(self, number: int, inputs: Any, problem: InvalidInputError | None) -> Row:
        given: Mapping[str, Any] = inputs if problem is None else {}
        return Row(number, given, digest([self._agent, self._method.name, inputs]), problem)

    def _json_rows(self, first: bytes, others: Iterator[bytes]) -> Iterator[tuple[Any, InvalidInputError | None]]:
        if first.lstrip().startswith(b"["):
            name = self._lines.name
            raise InvalidInputError(
                f"{name} is a JSON list, not one object a line", suggestion="jq -c '.[]' makes lines of a list"
            )
        yield _object(first)
        for line in others:
            yield _object(line)

    def _csv_rows(self, first: bytes) -> Iterator[tuple[Any, InvalidInputError | None]]:
        csv.field_size_limit(self._limit)
        header: list[str] = []
        # Lines with their ends: a quoted field may go over several.
        reader = csv.reader(self._text_lines(first))
        try:
            for fields in reader:
                if not header:
                    header = self._checked_header(fields)
                elif fields:
                    yield self._converted(header, fields)
        except csv.Error as error:
            raise InvalidInputError(f"{self._lines.name}:{reader.line_num + 1}: not CSV: {error}") from None

    def _text_lines(self, first: bytes) -> Iterator[str]:
        yield self._text(first)
        for line in self._texts:
            yield self._text(line)

    def _text(self, line: bytes) -> str:
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            raise InvalidInputError(f"{self._lines.name} is not UTF-8 text") from None

    def _checked_header(self, fields: list[str]) -> list[str]:
        header = [name.strip() for name in fields]
        for name in header:
            if name not in self._method.parameters:
                near = nearest(name, self._method.parameters)
                raise InvalidInputError(
                    f"{self._lines.name}: its first line is neither a JSON object nor names of parameters: "
                    f"{self._method.name} has no '{name[:40]}'" + (f". Did you mean '{near}'?" if near else ""),
                    suggestion=f"parameters: {', '.join(self._method.parameters) or 'none'}",
                )
        if len(set(header)) < len(header):
            raise InvalidInputError(f"{self._lines.name}: its header names a parameter twice")
        return header

    def _converted(self, header: list[str], fields: list[str]) -> tuple[Any, InvalidInputError | None]:
        if len(fields) != len(header):
            return fields, InvalidInputError(f"{len(fields)} values, where the header names {len(header)}")
        try:
            return {
                name: convert_text(self._method, name, [text])
                for name, text in zip(header, fields, strict=True)
                if text or self._keeps_empty(name)
            }, None
        except InvalidInputError as error:
            return fields, error

    def _keeps_empty(self, name: str) -> bool:
        """An empty field leaves its parameter out, but for a text that has to be given."""
        parameter = self._method.parameters[name]
        return parameter.required and not parameter.has_default and parameter.schema["type"] == "string"


def _object(line: bytes) -> tuple[Any, InvalidInputError | None]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        return line.decode("utf-8", "replace"), InvalidInputError(f"not valid JSON: {reason}")
    if not isinstance(value, dict):
        return value, InvalidInputError("not a JSON object")
    return value, None
