"""From the journal into the database: each line once, whatever is killed in the middle."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import Any

from agenthub.observability.database import newer, transaction
from agenthub.observability.journal import FORMAT, Journal

_MISREAD = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
    sqlite3.ProgrammingError,  # of a kind that no column takes
)
_PIECE = 4 << 20  # bytes of the journal in a transaction; a line may be longer
_FACTS = ("owner", "agent", "version", "directory", "digest", "method", "environment", "isolation", "stop")
_START = (
    f"INSERT OR IGNORE INTO runs (run_id, {', '.join(_FACTS)}, inputs, pid, pid_start, boot, started, status)"  # noqa: S608
    f" VALUES ({', '.join('?' * (len(_FACTS) + 6))}, 'running')"
)
_END = """
    UPDATE runs SET status = ?, ended = ?, exit_code = ?, error_type = ?, error = ?, suggestion = ?, result = ?,
        execution_time = ?, usage = ?, masked = ?, isolation = coalesce(?, isolation) WHERE run_id = ?
"""


def take_in(connection: sqlite3.Connection, journal: Journal) -> int:
    """Takes in what is new; returns how many lines were not understood.

    How far each segment was read is kept in the transaction that writes its rows.

    Raises:
        StoreError: a newer agenthub wrote a line.
        sqlite3.Error: the database cannot be written.
        OSError: the journal cannot be read.
    """
    bad = 0
    for path in journal.segments():
        while True:
            taken, more, misread = _take_piece(connection, path)
            bad += misread
            if not taken or not more:
                break
    return bad


def _take_piece(connection: sqlite3.Connection, path: str) -> tuple[int, bool, int]:
    """Bytes taken, whether there are more, and the lines that were not understood."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # removed, since it was old and taken in
        return 0, False, 0
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if _taken(connection, path, found) >= found.st_size:  # nearly always, and then nobody has to wait
            return 0, False, 0
        with transaction(connection):
            start = _taken(connection, path, found)
            file.seek(start)
            data = _whole_lines(file)
            if not data:
                return 0, False, 0
            bad = sum(not _take_line(connection, line) for line in data.split(b"\n") if line)
            connection.execute(
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?)",
                (os.path.basename(path), found.st_ino, start + len(data)),
            )
        return len(data), start + len(data) < found.st_size, bad


def _taken(connection: sqlite3.Connection, path: str, found: os.stat_result) -> int:
    """How far a segment was taken in; one that was replaced begins anew."""
    row = connection.execute("SELECT inode, taken FROM segments WHERE name = ?", (os.path.basename(path),)).fetchone()
    return row[1] if row is not None and row[0] == found.st_ino and row[1] <= found.st_size else 0


def _whole_lines(file: Any) -> bytes:
    data: bytes = file.read(_PIECE)
    end = data.rfind(b"\n") + 1
    return data[:end] if end or len(data) < _PIECE else data + file.readline()


def _take_line(connection: sqlite3.Connection, line: bytes) -> bool:
    """Whether a line was understood; one that was cut short is not."""
    try:
        record = json.loads(line)
        if record["format"] > FORMAT:
            raise newer("the history's journal", record["format"], FORMAT)
        if "start" in record:
            connection.execute(_START, _start_row(record["run"], record["start"]))
        if "end" in record:
            connection.execute(_END, _end_row(record["run"], record["end"]))
    except _MISREAD:
        return False
    return True


def _start_row(run: str, start: dict[str, Any]) -> tuple[Any, ...]:
    facts = [_text(start.get(key)) for key in _FACTS]
    return (run, *facts, json.dumps(start["inputs"]), *start["supervisor"], start["at"])


def _end_row(run: str, end: dict[str, Any]) -> tuple[Any, ...]:
    usage = end.get("usage") or {}
    return (
        "failed" if "error" in end else "ok",
        end["at"],
        end.get("exit_code", 0),
        *(_text(end.get(key)) for key in ("error_type", "error", "suggestion")),
        json.dumps(end["result"]) if "result" in end else None,
        end.get("execution_time"),
        json.dumps(usage),
        json.dumps(end.get("masked", [])),
        usage.get("isolation"),
        run,
    )


def _text(value: Any) -> Any:
    """Without the halves of characters, which an agent may say and no database takes."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
