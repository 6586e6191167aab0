"""The history's database: made of the journal, and made again where it is damaged."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3

from agenthub.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = 1
_PATIENCE = 3.0  # seconds to wait for another writer
_SCHEMA = """
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL, agent TEXT NOT NULL, version TEXT, directory TEXT, digest TEXT, method TEXT NOT NULL,
    inputs TEXT NOT NULL, environment TEXT, isolation TEXT, stop TEXT,
    pid INTEGER NOT NULL, pid_start INTEGER NOT NULL, boot TEXT NOT NULL,
    started REAL NOT NULL, status TEXT NOT NULL, ended REAL, exit_code INTEGER,
    error_type TEXT, error TEXT, suggestion TEXT, result TEXT, execution_time REAL, usage TEXT, masked TEXT
);
CREATE INDEX runs_agent ON runs (agent);
CREATE INDEX runs_status ON runs (status);
CREATE INDEX runs_started ON runs (started);
CREATE TABLE segments (name TEXT PRIMARY KEY, inode INTEGER NOT NULL, taken INTEGER NOT NULL) WITHOUT ROWID;
"""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def database_path(directory: str) -> str:
    """Where the database of a history is."""
    return os.path.join(directory, "history.db")


def open_database(directory: str) -> sqlite3.Connection:
    """A connection without transactions of its own; the database is made if need be.

    Raises:
        StoreError: a newer agenthub wrote it.
        sqlite3.Error: it is damaged, or cannot be opened.
    """
    path = database_path(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        if not _has_schema(connection):
            with _locked(directory):
                _make_schema(connection)
        # A loss of power may cost the newest rows, which the journal has too.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -32768")  # kB; ids are random, and so are the pages that they are on
    except BaseException:
        connection.close()
        raise
    return connection


def empty_database() -> sqlite3.Connection:
    """A history in which nothing is."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _make_schema(connection)
    return connection


def open_for_reading(directory: str) -> sqlite3.Connection:
    """A connection to a database that cannot be written.

    Raises:
        StoreError: a newer agenthub wrote it.
        sqlite3.Error: there is none, or it is damaged.
    """
    from urllib.parse import quote

    connection = sqlite3.connect(f"file:{quote(database_path(directory))}?immutable=1", uri=True, isolation_level=None)
    try:
        _has_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_schema(connection: sqlite3.Connection) -> None:
    if _has_schema(connection):  # another process was faster
        return
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # what is removed later gives its room back
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _has_schema(connection: sqlite3.Connection) -> bool:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise newer("the history", found, VERSION)
    return found == VERSION


def newer(what: str, found: object, known: int) -> StoreError:
    """The refusal to read what a later version wrote."""
    return StoreError(
        f"{what} was written by a newer agenthub (format {found}, not {known})",
        suggestion="upgrade agenthub; runs are recorded all the same",
    )


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether an error means that the file is no database of ours."""
    return _code(error) in _DAMAGED


def is_read_only(error: sqlite3.Error) -> bool:
    """Whether an error means that the file cannot be written."""
    return _code(error) in _READ_ONLY


def explained(error: sqlite3.Error, directory: str) -> StoreError:
    """What is said of an error that nothing here can mend."""
    path, code = database_path(directory), _code(error)
    if code in _BUSY:
        return StoreError(f"{path} is locked by another program", suggestion="try again when that has ended")
    if code in _FULL:
        return StoreError(f"cannot write {path}: {error}", suggestion="free some space")
    return StoreError(f"cannot read {path}: {error}", suggestion="move it away; it is made again from the journal")


def _code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)  # none where the module itself complains
    return sqlite3.SQLITE_ERROR if code is None else code & 0xFF


def set_aside(directory: str, say: Callable[[str], None]) -> None:
    """Renames a damaged database, so that it is not lost and the next one is made from the journal.

    Raises:
        OSError: it cannot be renamed.
    """
    path = database_path(directory)
    with _locked(directory):
        if _is_sound(path):  # somebody else was here first
            return
        number = 1
        while os.path.lexists(f"{path}.damaged-{number}"):
            number += 1
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path + suffix, f"{path}.damaged-{number}{suffix}")
        say(f"the history was damaged; it is kept as {path}.damaged-{number}, and is made again from the journal")


def set_aside_files(directory: str) -> list[str]:
    """The files of damaged databases."""
    beginning = os.path.basename(database_path(directory)) + ".damaged-"
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.startswith(beginning)]


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """The right to make the database or to set it aside."""
    lock = os.open(os.path.join(directory, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_sound(path: str) -> bool:
    if not os.path.exists(path):
        return True
    connection = sqlite3.connect(path, timeout=_PATIENCE)
    try:
        # Names all columns: a table of another shape is none of ours.
        connection.execute("SELECT seq, inputs, masked FROM runs LIMIT 1").fetchone()
        connection.execute("SELECT name, inode, taken FROM segments LIMIT 1").fetchone()
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.Error:
        return False
    finally:
        connection.close()
