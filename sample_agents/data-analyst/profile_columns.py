"""Statistics of a table's columns: one scan for all of them, one more for each text column."""

from __future__ import annotations

from typing import Any

from json_values import to_json
from table import Table, quote_identifier

EXACT_ROWS = 1_000_000  # above, distinct values and quartiles are estimated: the exact ones keep all values in memory
TOP_VALUES = 5

FINITE = "CASE WHEN isfinite({0}::DOUBLE) THEN {0} END"
NUMBER_STATISTICS = {
    "min": "min({0})",
    "max": "max({0})",
    "mean": "avg({0})",
    "std": "stddev_samp({0})",
}
QUARTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75}
RANGE_STATISTICS = {"min": "min({0})", "max": "max({0})"}


def profile_table(table: Table) -> dict[str, Any]:
    """`rows`, `estimated` and `columns` of a table; see `DataAnalyst.profile`."""
    rows = table.fetch("SELECT count(*) FROM data")[0][0]
    estimated = rows > EXACT_ROWS
    expressions = {name: _expressions(table, name, estimated) for name in table.columns}
    flat = [sql for column in expressions.values() for sql in column.values()]
    values = iter(table.fetch(f"SELECT {', '.join(flat)} FROM data")[0])
    columns = []
    for name, type_name in table.columns.items():
        statistics = {key: to_json(next(values)) for key in expressions[name]}
        if type_name in ("VARCHAR", "BOOLEAN"):
            statistics["top"] = _top(table, name)
        columns.append({"name": name, "type": type_name, **statistics})
    return {"rows": rows, "estimated": estimated, "columns": columns}


def _expressions(table: Table, name: str, estimated: bool) -> dict[str, str]:
    column = quote_identifier(name)
    distinct = f"approx_count_distinct({column})" if estimated else f"count(DISTINCT {column})"
    expressions = {"nulls": f"count(*) - count({column})", "distinct": distinct}
    if table.is_numeric(name):
        finite = FINITE.format(column)
        expressions |= {key: sql.format(finite) for key, sql in NUMBER_STATISTICS.items()}
        quantile = "approx_quantile" if estimated else "quantile_cont"
        expressions |= {key: f"{quantile}({finite}, {fraction})" for key, fraction in QUARTILES.items()}
    elif table.columns[name].startswith(("DATE", "TIME")):
        expressions |= {key: sql.format(column) for key, sql in RANGE_STATISTICS.items()}
    return expressions


def _top(table: Table, name: str) -> list[dict[str, Any]]:
    column = quote_identifier(name)
    found = table.fetch(
        f"SELECT {column}, count(*) FROM data WHERE {column} IS NOT NULL"
        f" GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {TOP_VALUES}"
    )
    return [{"value": value, "count": count} for value, count in found]
