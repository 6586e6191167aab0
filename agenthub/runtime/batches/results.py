"""The file that a batch writes: one line a row, each written when its row has ended, so that a batch can be resumed.

A line is written by one `write`. Whatever was killed in the middle of one leaves a last line without its end, which is
cut off. Rows stand as they came until the batch is complete; then they are put in order, by one rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from array import array
from typing import Any, NamedTuple

from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

_MOST_ROWS = 1 << 28


class _Line(NamedTuple):
    """What a line says: whose it is, of which input, and where it stands."""

    number: int
    digest: str
    failed: bool
    offset: int


class ResultsFile:
    """Open for writing, and nobody else's; a context.

    Args:
        path: of the file.
        resume: go on with what is there; else it must be new or empty.
        again: rows that failed are to be run again: forgets them.

    Raises:
        InvalidInputError: it cannot be written, is somebody else's, is not such a file, or is there already.
    """

    def __init__(self, path: str, *, resume: bool = False, again: bool = False) -> None:
        self.path = path
        self.failed = 0
        """Rows in it that failed."""
        self.rows = 0
        self._digests = array("Q")  # by index, shortened; 0: not there
        self._last = -1
        self._in_order = True
        with self._complaining():
            self._descriptor = _opened(os.path.realpath(path))
        try:
            self.regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            """Whether it is a file, and not a pipe or a device, which nothing can be read from or put in order."""
            self._take(resume, again)
        except BaseException:
            self.close()
            raise

    def _take(self, resume: bool, again: bool) -> None:
        if not self.regular:
            if resume:
                raise InvalidInputError(f"{self.path} is not a file: nothing to resume")
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidInputError(f"another batch is writing {self.path}") from None
        if os.fstat(self._descriptor).st_size and not resume:
            raise InvalidInputError(
                f"{self.path} is there already", suggestion="--resume goes on with it; or remove it"
            )
        with self._complaining():
            kept, forgotten = array("Q"), False
            for line in self._lines():
                if again and line.failed:
                    forgotten = True
                else:
                    self._note(line)
                    kept.append(line.offset)
            if forgotten:
                self._rewrite(kept)

    def _lines(self) -> Iterator[_Line]:
        """Every complete line; what stands behind the last one is cut off."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            offset = 0
            for place, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    os.ftruncate(self._descriptor, offset)
                    return
                yield self._parsed(text, place, offset)
                offset += len(text)

    def _parsed(self, text: bytes, place: int, offset: int) -> _Line:
        try:
            row = json.loads(text)
            number, digest = row["index"], row["input"]
            if not (isinstance(number, int) and 0 <= number < _MOST_ROWS and isinstance(digest, str)):
                raise ValueError(text)
            return _Line(number, digest, "error" in row, offset)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InvalidInputError(
                f"{self.path}:{place}: not a line of a batch's results", suggestion="write to another file"
            ) from None

    def _note(self, line: _Line) -> None:
        missing = line.number + 1 - len(self._digests)
        if missing > 0:
            self._digests.frombytes(bytes(8 * missing))
        self.rows += self._digests[line.number] == 0
        self._digests[line.number] = _short(line.digest)
        self.failed += line.failed
        self._in_order = self._in_order and line.number > self._last
        self._last = line.number

    def has(self, number: int, digest: str) -> bool:
        """Whether a row is there.

        Raises:
            InvalidInputError: it is, but with another input.
        """
        if number >= len(self._digests) or not self._digests[number]:
            return False
        if self._digests[number] != _short(digest):
            raise InvalidInputError(
                f"row {number} is not the one that {self.path} has a result of: the input, or the method, is another",
                suggestion="write to another file",
            )
        return True

    def reaches_beyond(self, rows: int) -> bool:
        """Whether it has a row that the input, of so many rows, has not."""
        return len(self._digests) > rows

    def append(self, number: int, line: str) -> None:
        """Adds a row.

        Raises:
            InvalidInputError: it cannot be written; what was written of it is cut off by the next batch.
        """
        data = line.encode("utf-8", "replace") + b"\n"
        with self._complaining():
            while data:
                data = data[os.write(self._descriptor, data) :]
        self._in_order = self._in_order and number > self._last
        self._last = number

    def put_in_order(self) -> None:
        """Sorts the rows by index, if they are not.

        Raises:
            InvalidInputError: there is no room for that; the rows are complete as they came.
        """
        if not self.regular or self._in_order:
            return
        offsets = array("Q")  # by index, plus one
        with self._complaining("put in order"):
            for line in self._lines():
                missing = line.number + 1 - len(offsets)
                if missing > 0:
                    offsets.frombytes(bytes(8 * missing))
                offsets[line.number] = line.offset + 1
            self._rewrite(offset - 1 for offset in offsets if offset)

    def _rewrite(self, offsets: Iterable[int]) -> None:
        """Replaces the file by its lines at these offsets."""
        target = os.path.realpath(self.path)
        partial = f"{target}.{os.getpid()}.partial"
        try:
            with open(partial, "xb") as new, open(self._descriptor, "rb", closefd=False) as old:
                os.fchmod(new.fileno(), stat.S_IMODE(os.fstat(self._descriptor).st_mode))
                _copy_lines(old, offsets, new)
                os.fsync(new.fileno())
            with _opened_again(partial) as descriptor:
                os.replace(partial, target)
                os.dup2(descriptor, self._descriptor, inheritable=False)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    @contextlib.contextmanager
    def _complaining(self, verb: str = "write") -> Iterator[None]:
        try:
            yield
        except InvalidInputError:
            raise
        except OSError as error:
            raise InvalidInputError(f"cannot {verb} {self.path}: {error.strerror}") from None

    def close(self) -> None:
        """Lets go of it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: str) -> int:
    """Readable too, where it is a file: a pipe would be its own reader, and never end."""
    try:
        pipe = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        pipe = False
    flags = os.O_WRONLY if pipe else os.O_RDWR | os.O_CREAT | os.O_APPEND
    return os.open(path, flags | os.O_CLOEXEC, 0o666)


@contextlib.contextmanager
def _opened_again(path: str) -> Iterator[int]:
    """For appending, and locked before it has its name."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_lines(old: BinaryIO, offsets: Iterable[int], new: BinaryIO) -> None:
    for offset in offsets:
        old.seek(offset)
        new.write(old.readline())


def _short(digest: str) -> int:
    """Eight bytes of a digest; never 0."""
    try:
        return int(digest.rpartition(":")[2][:16], 16) or 1
    except ValueError:
        return 1


def result_line(number: int, digest: str, envelope: dict[str, Any], attempts: int, *, whole: bool) -> str:
    """A row's line.

    Args:
        number: of the row.
        digest: of its inputs.
        envelope: of its last run.
        attempts: runs that it took.
        whole: with everything that the envelope says.
    """
    row: dict[str, Any] = {"index": number, "input": digest}
    if whole:
        row.update(envelope)
    else:
        shown = _OF_FAILURES if "error" in envelope else _OF_RESULTS
        row.update((key, envelope[key]) for key in shown if key in envelope)
        if envelope.get("warnings"):
            row["warnings"] = envelope["warnings"]
    if attempts > 1:
        row["attempts"] = attempts
    return json.dumps(row, ensure_ascii=False)


_OF_RESULTS = ("run_id", "result", "execution_time")
_OF_FAILURES = ("run_id", "error", "error_type", "exit_code", "suggestion", "execution_time")
