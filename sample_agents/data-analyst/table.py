"""One file as a DuckDB view named `data`, in a database that can reach nothing but that file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
from json_values import to_json

CSV = "read_csv({0}, sample_size = 500_000, hive_partitioning = false)"  # types are guessed from the sample
JSON = "read_json({0}, hive_partitioning = false)"
PARQUET = "read_parquet({0}, hive_partitioning = false)"
READERS = {
    ".csv": CSV,
    ".tsv": CSV,
    ".txt": CSV,
    ".parquet": PARQUET,
    ".pq": PARQUET,
    ".json": JSON,
    ".jsonl": JSON,
    ".ndjson": JSON,
}
NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")  # each also as U…
MEMORY_LIMIT = "512MB"  # half of the agent's cap; DuckDB spills to the scratch directory beyond it


class Table:
    """The open view: its columns, and queries over it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.columns: dict[str, str] = {row[0]: row[1] for row in self.fetch("DESCRIBE data")}

    def column_type(self, name: str) -> str:
        """DuckDB's type of a column.

        Raises:
            ValueError: There is no such column; the message lists those that exist.
        """
        if name not in self.columns:
            raise ValueError(f"no column {name!r}; columns: {', '.join(self.columns)}")
        return self.columns[name]

    def is_numeric(self, name: str) -> bool:
        """Whether a column holds numbers. Raises ValueError as `column_type` does."""
        return self.column_type(name).partition("(")[0].removeprefix("U") in NUMERIC

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of our own SQL, as Python values."""
        with _short_errors():
            return self._connection.execute(sql).fetchall()

    def query(self, sql: str, limit: int) -> list[dict[str, Any]]:
        """At most `limit` rows of a user's SELECT statement, as JSON values.

        Raises:
            ValueError: The text is not one valid SELECT statement.
        """
        with _short_errors():
            try:
                relation = self._relation(sql).limit(limit)  # which also makes the columns' names unique
                rows = relation.fetchall()
            except duckdb.BinderException as error:
                raise ValueError(f"{_short(error)}; columns of data: {', '.join(self.columns)}") from None
        return [dict(zip(relation.columns, map(to_json, row), strict=True)) for row in rows]

    def _relation(self, sql: str) -> duckdb.DuckDBPyRelation:
        statements = self._connection.extract_statements(sql)
        # A statement that writes could replace the one file that this database may open.
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ValueError("sql must be one SELECT statement over the table data")
        return self._connection.sql(statements[0].query)


@contextmanager
def open_table(file: str) -> Iterator[Table]:
    """Opens `file` as the view `data`.

    Raises:
        ValueError: The file's format is unknown, or it cannot be read as a table.
    """
    path = os.path.abspath(file)
    if not os.path.isfile(path):
        raise ValueError(f"no file {file}")
    options: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": os.path.join(tempfile.gettempdir(), "duckdb-spill"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,  # SQL shall not see this module's variables
    }
    with duckdb.connect(":memory:", config=options) as connection:
        with _short_errors():
            pattern = _quote(_literal_pattern(path))
            connection.execute(f"SET allowed_paths = [{_quote(path)}, {pattern}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            connection.execute(f"CREATE VIEW data AS SELECT * FROM {_reader(path).format(pattern)}")
        yield Table(connection)


def quote_identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literal_pattern(path: str) -> str:
    """The readers take patterns: a bracketed character stands for itself, as in `data[1].csv`."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)


def _reader(path: str) -> str:
    stem, suffix = os.path.splitext(path.lower())
    if suffix == ".gz":
        suffix = os.path.splitext(stem)[1]
    if suffix not in READERS:
        raise ValueError(f"{os.path.basename(path)} has no known suffix; known: {' '.join(READERS)}")
    return READERS[suffix]


@contextmanager
def _short_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise ValueError(_short(error)) from None


def _short(error: duckdb.Error) -> str:
    """DuckDB's message as one line: its first paragraph, without advice and code excerpts."""
    lines = str(error).strip().partition("\n\n")[0].splitlines()[:3]
    return " ".join(line.strip() for line in lines if not line.endswith(":"))
