"""Forgets what is old, or more than there is room for. `python -m agenthub.observability.retention` does it once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time

from agenthub.config import Settings
from agenthub.errors import AgentRuntimeError
from agenthub.observability import database
from agenthub.observability.history import History
from agenthub.observability.journal import Journal, remove_segment

_SHARE = 4  # the journal and the logs may each take a quarter of the room, the database the rest
_BATCH = 5000  # rows in a transaction: nobody who takes the journal in waits long


def forget(directory: str, age: float, size: int) -> None:
    """Takes the journal in, and removes runs, journal segments and logs that are too old or too many.

    Args:
        directory: of the history.
        age: seconds after which a run is forgotten.
        size: bytes that all of it may take.

    Raises:
        StoreError: it cannot be read or written.
    """
    if not os.path.isdir(directory):
        return
    with History(directory, lambda sentence: None) as history:
        history.refresh()
    oldest = time.time() - age
    connection = database.open_database(directory)
    try:
        _remove_old(connection, oldest)
        _remove_oldest(connection, size - 2 * (size // _SHARE))
        connection.executescript("PRAGMA incremental_vacuum")  # `execute` would take one step of it, one page
        connection.executescript("PRAGMA wal_checkpoint(TRUNCATE)")
        _remove_segments(connection, Journal(os.path.join(directory, "journal")), oldest, size // _SHARE)
    except sqlite3.Error as error:
        raise database.explained(error, directory) from None
    finally:
        connection.close()
    _remove_files(os.path.join(directory, "logs"), oldest, size // _SHARE)
    for path in database.set_aside_files(directory):
        if os.stat(path).st_mtime < oldest:
            os.unlink(path)


def _remove_old(connection: sqlite3.Connection, oldest: float) -> None:
    """Without those that still run."""
    statement = """
        DELETE FROM runs WHERE seq IN (SELECT seq FROM runs WHERE started < ? AND status != 'running' LIMIT ?)
    """
    while _changes(connection, statement, (oldest, _BATCH)):
        pass


def _remove_oldest(connection: sqlite3.Connection, room: int) -> None:
    statement = "DELETE FROM runs WHERE seq IN (SELECT seq FROM runs WHERE status != 'running' ORDER BY seq LIMIT ?)"
    while (used := _used(connection)) > room:
        first, last = connection.execute("SELECT min(seq), max(seq) FROM runs").fetchone()
        if first is None:
            return
        surplus = (used - room) / used * (last - first + 1)
        if not _changes(connection, statement, (min(_BATCH, int(surplus) + 1),)):
            return


def _used(connection: sqlite3.Connection) -> int:
    pages, free, page = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page)


def _changes(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> int:
    with database.transaction(connection):
        return connection.execute(statement, values).rowcount


def _remove_segments(connection: sqlite3.Connection, journal: Journal, oldest: float, room: int) -> None:
    """Oldest first; never the newest, whose number the next one goes on from, nor what was not taken in."""
    segments = journal.segments()
    sizes = {path: os.stat(path).st_size for path in segments}
    surplus = sum(sizes.values()) - room
    for path in segments[:-1]:
        row = connection.execute("SELECT taken FROM segments WHERE name = ?", (os.path.basename(path),)).fetchone()
        old = os.stat(path).st_mtime < oldest
        if row is None or row[0] < sizes[path] or (surplus <= 0 and not old) or not remove_segment(path):
            return
        surplus -= sizes[path]


def _remove_files(directory: str, oldest: float, room: int) -> None:
    """The oldest files, as many as are too old or too much."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime, status.st_blocks * 512, entry.path))
    surplus = sum(size for _, size, _ in found) - room
    for changed, size, path in sorted(found):
        if surplus <= 0 and changed >= oldest:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
        surplus -= size


def main() -> None:
    """What `recorder.sweep_sometimes` starts."""
    with contextlib.suppress(AgentRuntimeError, OSError, sqlite3.Error):  # nobody is there to read it
        settings = Settings()
        forget(settings.paths.history, settings["history_age"], settings["history_size"])


if __name__ == "__main__":
    main()
