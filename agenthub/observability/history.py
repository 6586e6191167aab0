"""What was run: the history as readers see it, brought up to date from the journal before each look."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import Any, NamedTuple

from agenthub.errors import InvalidInputError, StoreError
from agenthub.observability import database
from agenthub.observability.intake import take_in
from agenthub.observability.journal import Journal
from agenthub.observability.liveness import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import TypeVar

    Answer = TypeVar("Answer")

STATUSES = ("ok", "failed", "running", "lost")
_COLUMNS = (
    *("seq", "run_id", "owner", "agent", "version", "directory", "digest", "method", "inputs", "environment"),
    *("isolation", "stop", "started", "status", "ended", "exit_code", "error_type", "error", "suggestion"),
    *("result", "execution_time", "usage", "masked"),
)
_JSON = ("inputs", "result", "usage", "masked")
_FEW = 2000  # rows that are sorted faster than those before them are skipped


class RunRecord(NamedTuple):
    """A run.

    Attributes:
        seq: its place in the order of starts.
        run_id: its name.
        owner, agent, version, digest: whose method it is; `owner` is empty and `digest` None for what is not installed.
        directory: where that was.
        method: what was called.
        inputs: `{"value": …}`, `{"digest": …}` or `{"lost": reason}`; `value` and `lost` where it is masked.
        environment: a digest of the agent's version, interpreter and packages; None for what is not installed.
        isolation: what held it: `bubblewrap landlock rlimits`.
        stop: the pipe by which it can be stopped.
        started, ended: seconds since 1970 by the clock of that time; `ended` None while it has not.
        status: `ok failed running`, or `lost`: its supervisor died, and nobody knows how it ended.
        exit_code, error_type, error, suggestion, result, execution_time, usage, masked: as in its envelope, `result` as
            `inputs`.
    """

    seq: int
    run_id: str
    owner: str
    agent: str
    version: str | None
    directory: str | None
    digest: str | None
    method: str
    inputs: dict[str, Any]
    environment: str | None
    isolation: str | None
    stop: str | None
    started: float
    status: str
    ended: float | None
    exit_code: int | None
    error_type: str | None
    error: str | None
    suggestion: str | None
    result: dict[str, Any] | None
    execution_time: float | None
    usage: dict[str, Any] | None
    masked: list[str] | None

    @property
    def label(self) -> str:
        """What messages call its agent."""
        return f"{self.owner}/{self.agent}" if self.owner else self.agent


class Filter(NamedTuple):
    """Which runs are meant; None and 0 leave all in.

    Attributes:
        agent: `owner/name`, or `name` of any owner.
        method: its method.
        status: one of `STATUSES`.
        since: not earlier than this, in seconds since 1970.
        after: only what started after this `seq`.
    """

    agent: str | None = None
    method: str | None = None
    status: str | None = None
    since: float | None = None
    after: int = 0


class History:
    """Reads a history. Every method raises `StoreError` where that cannot be done.

    Args:
        directory: of the history.
        say: called with a sentence where something is not as it should be, and went on all the same.
    """

    def __init__(self, directory: str, say: Callable[[str], None]) -> None:
        self.directory = directory
        self.journal = Journal(os.path.join(directory, "journal"))
        self._say = say
        self._connection: sqlite3.Connection | None = None
        self._writable = True
        self._told = False

    def runs(self, wanted: Filter, limit: int) -> list[RunRecord]:
        """The newest `limit` runs that fit, the newest first; all of them where it is negative."""
        self.refresh()
        return self._ask(lambda connection: _select(connection, wanted, limit))

    def again(self, records: Iterable[RunRecord]) -> list[RunRecord]:
        """The same runs, as they are now, by their order; without what was forgotten meanwhile."""
        numbers = tuple(record.seq for record in records)
        clause = f"WHERE seq IN ({', '.join('?' * len(numbers))}) ORDER BY seq"
        return self._ask(lambda connection: _records(connection, clause, numbers))

    def find(self, prefix: str) -> RunRecord:
        """The run whose id is, or begins with, `prefix`.

        Raises:
            InvalidInputError: there is none, or several.
        """
        self.refresh()
        found = self._ask(
            lambda connection: _records(
                connection, "WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT 4", (prefix, prefix + "\U0010ffff")
            )
        )
        if len(found) == 1 or (found and found[0].run_id == prefix):
            return found[0]
        if found:
            ids = ", ".join(record.run_id for record in found[:3]) + (" …" if len(found) > 3 else "")
            raise InvalidInputError(f"several runs begin with '{prefix}'", suggestion=f"one of {ids}")
        raise InvalidInputError(f"there is no run '{prefix}' in the history", suggestion="see: agenthub runs")

    def refresh(self) -> None:
        """Takes in what is new, and finds out which runs lost their supervisor."""
        if not os.path.isdir(self.directory):
            return
        bad = self._ask(self._take_in)
        if bad:
            self._say(f"the history's journal has {bad} lines that are cut short or no JSON; they are left out")
        self._ask(self._mark_lost)

    def close(self) -> None:
        """Closes the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take_in(self, connection: sqlite3.Connection) -> int:
        with self._as_far_as_possible():
            return take_in(connection, self.journal) if self._writable else 0
        return 0

    def _mark_lost(self, connection: sqlite3.Connection) -> None:
        running = "SELECT seq, pid, pid_start, boot FROM runs WHERE status = 'running'"
        dead = [row[0] for row in connection.execute(running) if not is_alive(row[1:])]
        if not dead or not self._writable:
            return
        self._take_in(connection)  # it may have written its end, and then died
        with self._as_far_as_possible(), database.transaction(connection):
            connection.executemany(
                "UPDATE runs SET status = 'lost' WHERE seq = ? AND status = 'running'", [(seq,) for seq in dead]
            )

    @contextlib.contextmanager
    def _as_far_as_possible(self) -> Iterator[None]:
        """Goes on with what is known where the disk is full, or another program has locked the database."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if database.is_damaged(error) or database.is_read_only(error):
                raise
            self._behind(error)

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """The answer; a damaged database is set aside first, and one that cannot be written only read."""
        made_again = False
        try:
            for _ in range(3):
                try:
                    connection = self._open()
                    if made_again:
                        self._take_in(connection)
                    return question(connection)
                except sqlite3.Error as error:
                    problem = error
                    self.close()
                    if database.is_damaged(error) and self._writable:
                        database.set_aside(self.directory, self._say)
                        made_again = True
                    elif database.is_read_only(error) and self._writable:
                        self._writable = False
                        self._behind(error)
                    else:
                        break
            raise database.explained(problem, self.directory) from None
        except OSError as error:
            raise StoreError(f"cannot read the history {self.directory}: {error.strerror}") from None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if not os.path.isdir(self.directory):  # nothing is made by looking
                self._connection = database.empty_database()
            elif self._writable:
                try:
                    self._connection = database.open_database(self.directory)
                except OSError as error:
                    self._writable = False
                    self._behind(error)
            if self._connection is None:
                self._connection = database.open_for_reading(self.directory)
        return self._connection

    def _behind(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._say(f"the history cannot be brought up to date: {reason}")


def _select(connection: sqlite3.Connection, wanted: Filter, limit: int) -> list[RunRecord]:
    clauses: list[str] = ["seq > ?"]
    values: list[Any] = [wanted.after]
    owner, _, name = (wanted.agent or "").rpartition("/")
    given = {"agent": name, "owner": owner, "method": wanted.method, "status": wanted.status}
    for column, value in given.items():
        if value:
            clauses.append(f"{column} = ?")
            values.append(value)
    if wanted.since is not None:
        clauses.append("+started >= ?")
        values.append(wanted.since)
        if _is_few(connection, wanted.since):  # else the newest rows are the ones, mostly
            clauses[-1] = "started >= ?"
            return _records(
                connection,
                f"INDEXED BY runs_started WHERE {' AND '.join(clauses)} ORDER BY +seq DESC LIMIT ?",
                (*values, limit),
            )
    return _records(connection, f"WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?", (*values, limit))


def _is_few(connection: sqlite3.Connection, since: float) -> bool:
    """Clocks jump, so that neither order alone finds the newest of a few hours quickly."""
    count = "SELECT count(*) FROM (SELECT 1 FROM runs WHERE started >= ? LIMIT ?)"
    return bool(connection.execute(count, (since, _FEW)).fetchone()[0] < _FEW)


def _records(connection: sqlite3.Connection, rest: str, values: tuple[Any, ...]) -> list[RunRecord]:
    rows = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs {rest}", values)  # noqa: S608
    records = [RunRecord._make(row) for row in rows]
    return [record._replace(**{key: _json(getattr(record, key)) for key in _JSON}) for record in records]


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
