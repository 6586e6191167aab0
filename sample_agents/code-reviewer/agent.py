"""code-reviewer: what ruff and bandit say of Python code, as one list of findings.

The code is read, never imported or run, and nothing is written beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

from linters import Finding, python_files, run_bandit, run_ruff
from measures import measure_files

__all__ = ["metrics", "review", "review_code", "summarize"]

DEFAULT_RULES = ("E4", "E7", "E9", "F", "B", "C90", "ASYNC", "PERF", "RET", "SIM", "UP")
SEVERITIES = ("low", "medium", "high")


def review(
    path: str,
    select: Sequence[str] = DEFAULT_RULES,
    ignore: Sequence[str] = (),
    min_severity: str = "low",
    project_config: bool = False,
) -> list[dict[str, Any]]:
    """Findings in a file or a directory.

    Args:
        path: Python file, or directory of them.
        select: Ruff rules, or prefixes of rules, to check; bandit checks all of its own.
        ignore: Rules, or prefixes of rules, of either linter whose findings are left out.
        min_severity: "low", "medium" or "high".
        project_config: Use the ruff configuration found beside the code instead of `select`.

    Returns:
        Findings sorted by file, line and column (from 1): `file` (relative to `path`), `line`, `column`, `end_line`,
        `rule`, `severity`, `message`, `url`, `fixable` (by `ruff --fix`) and `tool`.

    Raises:
        ValueError: No such path, no Python file there, or an unknown rule or severity.
    """
    return [finding._asdict() for finding in _review(path, select, ignore, min_severity, project_config)[1]]


def review_code(
    code: str, select: Sequence[str] = DEFAULT_RULES, ignore: Sequence[str] = (), min_severity: str = "low"
) -> list[dict[str, Any]]:
    """Findings in Python source, as `review` returns them, with the file `snippet.py`."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "snippet.py")
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(code)
        return review(path, select, ignore, min_severity)


def summarize(
    path: str,
    select: Sequence[str] = DEFAULT_RULES,
    ignore: Sequence[str] = (),
    min_severity: str = "low",
    project_config: bool = False,
) -> dict[str, Any]:
    """Counts of what `review` finds: `files`, `findings`, `fixable`, `by_severity`, `by_rule` and `by_file`."""
    files, findings = _review(path, select, ignore, min_severity, project_config)
    severities = Counter(finding.severity for finding in findings)
    return {
        "files": len(files),
        "findings": len(findings),
        "fixable": sum(finding.fixable for finding in findings),
        "by_severity": {severity: severities[severity] for severity in reversed(SEVERITIES)},
        "by_rule": _most_common(finding.rule for finding in findings),
        "by_file": _most_common(finding.file for finding in findings),
    }


def metrics(path: str, top: int = 10) -> dict[str, Any]:
    """Lines and cyclomatic complexity (as ruff's C901 counts it).

    Args:
        path: Python file, or directory of them.
        top: How many of the most complex functions to list.

    Returns:
        `files`, `lines`, `code_lines`, `comment_lines`, `functions`, `mean_complexity` (None without functions) and
        `most_complex`: `function`, `file`, `line`, `complexity`.

    Raises:
        ValueError: No such path, or no Python file there.
    """
    root, files = python_files(path)
    return measure_files(root, files, top)


def _review(
    path: str, select: Sequence[str], ignore: Sequence[str], min_severity: str, project_config: bool
) -> tuple[list[str], list[Finding]]:
    if min_severity not in SEVERITIES:
        raise ValueError(f"min_severity is {min_severity!r}; it can be {', '.join(SEVERITIES)}")
    root, files = python_files(path)
    findings = run_ruff(root, files, None if project_config else select) + run_bandit(root, files)
    kept = {
        finding
        for finding in findings
        if not finding.rule.startswith(tuple(ignore))
        and SEVERITIES.index(finding.severity) >= SEVERITIES.index(min_severity)
    }
    return files, sorted(kept)


def _most_common(names: Any) -> dict[str, int]:
    counted = Counter(names)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
