"""ruff and bandit as subprocesses, their reports as findings of one shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

BATCH = 500  # files per command line: the system limits its length
SYNTAX_ERROR = "invalid-syntax"
# Ruff does not grade its rules. High: the code fails when it gets there. Medium: probably a mistake. Low: the rest.
HIGH = (SYNTAX_ERROR, "E9", "F50", "F52", "F6", "F7", "F82")
MEDIUM = ("F", "B", "C90", "E7", "ASYNC")


class Finding(NamedTuple):
    """One finding; the fields' order is the order of a report. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    end_line: int
    rule: str
    severity: str
    message: str
    url: str | None
    fixable: bool
    tool: str


def python_files(path: str) -> tuple[str, list[str]]:
    """The directory that findings are relative to, and the Python files at `path`, sorted.

    A directory is searched as ruff does: without virtual environments, caches and what `.gitignore` names.

    Raises:
        ValueError: There is no such path, or no Python file.
    """
    path = os.path.abspath(path)
    if os.path.isfile(path):
        return os.path.dirname(path), [path]
    if not os.path.isdir(path):
        raise ValueError(f"no file or directory {path}")
    listed = _run("ruff", "check", "--isolated", "--no-cache", "--show-files", "--", path).splitlines()
    files = sorted(file for file in listed if file.endswith((".py", ".pyi")))
    if not files:
        raise ValueError(f"no Python file in {path}")
    return path, files


def run_ruff(root: str, files: Sequence[str], select: Sequence[str] | None, *options: str) -> list[Finding]:
    """Ruff's findings: of the rules in `select`, or with the project's own configuration where it is None.

    Raises:
        ValueError: Ruff does not know a rule.
    """
    rules = ["--isolated", f"--select={','.join(select)}"] if select is not None else []
    findings = []
    for batch in _batches(files):
        report = _run(
            "ruff", "check", "--no-cache", "--exit-zero", "--output-format=json", *rules, *options, "--", *batch
        )
        findings += [_from_ruff(root, entry) for entry in json.loads(report)]
    return findings


def run_bandit(root: str, files: Sequence[str]) -> list[Finding]:
    """Bandit's findings. A file that it cannot parse has none: ruff reports the syntax error."""
    findings = []
    for batch in _batches(files):
        report = _run("bandit", "--quiet", "--exit-zero", "--format=json", "--", *batch)
        findings += [_from_bandit(root, entry) for entry in json.loads(report)["results"]]
    return findings


def _from_ruff(root: str, entry: dict[str, Any]) -> Finding:
    rule = entry["code"] or SYNTAX_ERROR
    severity = "high" if rule.startswith(HIGH) else "medium" if rule.startswith(MEDIUM) else "low"
    fix = entry.get("fix") or {"applicability": "none"}
    return Finding(
        file=os.path.relpath(entry["filename"], root),
        line=entry["location"]["row"],
        column=entry["location"]["column"],
        end_line=entry["end_location"]["row"],
        rule=rule,
        severity=severity,
        message=entry["message"],
        url=entry.get("url"),
        fixable=fix["applicability"] == "safe",
        tool="ruff",
    )


def _from_bandit(root: str, entry: dict[str, Any]) -> Finding:
    return Finding(
        file=os.path.relpath(entry["filename"], root),
        line=entry["line_number"],
        column=entry["col_offset"] + 1,
        end_line=max(entry["line_range"]),
        rule=entry["test_id"],
        severity=entry["issue_severity"].lower(),
        message=entry["issue_text"],
        url=entry.get("more_info"),
        fixable=False,
        tool="bandit",
    )


def _batches(files: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(files), BATCH):
        yield files[start : start + BATCH]


def _run(module: str, *arguments: str) -> str:
    # -I: a module of the reviewed code that is named like one of the linter's must not be imported in its stead.
    command = [sys.executable, "-I", "-m", module, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise ValueError(f"{module}: {' '.join(line.strip() for line in lines[:3])}")
    return done.stdout
