"""data-analyst: profiles, queries and plots one tabular file.

DuckDB reads the file; it can read nothing else (see `table.py`). matplotlib costs over a second to import, so only
`plot` pays for it.
"""

from __future__ import annotations

import sys
from typing import Any

from profile_columns import profile_table
from table import Table, open_table, quote_identifier

AGGREGATES = ("sum", "mean", "median", "min", "max")
KINDS = ("line", "bar", "scatter")
MAX_POINTS = 20_000  # more cannot be told apart on a chart of 1,600 pixels
MAX_BARS = 40


class DataAnalyst:
    """Answers questions about a CSV, TSV, Parquet, JSON or JSON-lines file."""

    def profile(self, file: str) -> dict[str, Any]:
        """Statistics of each column.

        Args:
            file: Path of the file.

        Returns:
            `rows` (count), `estimated` (whether distinct counts and quartiles are, as above a million rows) and
            `columns`: for each `name`, `type`, `nulls` and `distinct`; numbers have `min`, `max`,
            `mean`, `std` and quartiles (of finite values), dates `min` and `max`, texts `top`: the most frequent ones.

        Raises:
            ValueError: The file cannot be read as a table.
        """
        with open_table(file) as table:
            return profile_table(table)

    def query(self, file: str, sql: str, limit: int = 1000) -> list[dict[str, Any]]:
        """Rows of a SQL query over the table `data`.

        Args:
            file: Path of the file.
            sql: One SELECT statement.
            limit: Largest number of rows to return; the log says when there were more.

        Returns:
            One object per row. Dates and times are ISO 8601 text, decimals are numbers, intervals are seconds, bytes
            are base64 text, NaN and infinity are null.

        Raises:
            ValueError: The file cannot be read, or the query is not valid.
        """
        with open_table(file) as table:
            rows = table.query(sql, limit + 1)
        if len(rows) > limit:
            print(f"there are more than {limit} rows: the rest is left out", file=sys.stderr)
        return rows[:limit]

    def plot(self, file: str, x: str, y: str, kind: str = "line", aggregate: str = "sum") -> str:
        """A chart of column `y` against column `x`.

        Args:
            file: Path of the file.
            x: Column along the horizontal axis: numbers, dates or texts.
            y: Numeric column along the vertical axis.
            kind: "line", "bar" or "scatter".
            aggregate: How rows with the same `x` become one point of a line or a bar.

        Returns:
            Path of a PNG in the working directory.

        Raises:
            ValueError: No such column, `y` is not numeric, nothing to draw, or too many bars.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it can be {', '.join(KINDS)}")
        if aggregate not in AGGREGATES:
            raise ValueError(f"aggregate is {aggregate!r}; it can be {', '.join(AGGREGATES)}")
        with open_table(file) as table:
            points = _points(table, x, y, None if kind == "scatter" else aggregate)
        if not points:
            raise ValueError(f"no row has both {x!r} and {y!r}")
        if kind == "bar" and len(points) > MAX_BARS:
            raise ValueError(f"{x!r} has {len(points)} values, too many for bars (at most {MAX_BARS}); try kind=line")

        from chart import draw  # loads matplotlib

        label = y if kind == "scatter" else f"{aggregate} of {y}"
        return draw(points, kind=kind, x_label=x, y_label=label, source=file)


def _points(table: Table, x: str, y: str, aggregate: str | None) -> list[tuple[Any, Any]]:
    """Pairs to draw. Texts keep the order of the file (Jan, Feb, ...); numbers and dates are sorted."""
    x_type = table.column_type(x)
    if not table.is_numeric(y):
        raise ValueError(f"column {y!r} is {table.column_type(y)}, not numeric")
    column, value = quote_identifier(x), quote_identifier(y)
    source = (
        f"(SELECT {column} AS x, {value}::DOUBLE AS y, row_number() OVER () AS place FROM data"
        f" WHERE {column} IS NOT NULL AND isfinite({value}::DOUBLE))"
    )
    if aggregate is None:
        return table.fetch(f"SELECT x, y FROM {source} USING SAMPLE reservoir({MAX_POINTS} ROWS) REPEATABLE (1)")
    order = "min(place)" if x_type == "VARCHAR" else "x"
    return table.fetch(f"SELECT x, {aggregate}(y) FROM {source} GROUP BY x ORDER BY {order}")
