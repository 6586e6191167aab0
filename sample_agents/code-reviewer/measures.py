"""Lines and complexity of Python files."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Sequence
from typing import Any

from linters import run_ruff

COMPLEXITY = re.compile(r"`(.+)` is too complex \((\d+)")
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def measure_files(root: str, files: Sequence[str], top: int) -> dict[str, Any]:
    """The metrics of `files` together; see `agent.metrics`."""
    counts = [_count_lines(file) for file in files]
    functions = _functions(root, files)
    total = sum(function["complexity"] for function in functions)
    return {
        "files": len(files),
        "lines": sum(count[0] for count in counts),
        "code_lines": sum(count[1] for count in counts),
        "comment_lines": sum(count[2] for count in counts),
        "functions": len(functions),
        "mean_complexity": round(total / len(functions), 2) if functions else None,
        "most_complex": functions[:top],
    }


def _functions(root: str, files: Sequence[str]) -> list[dict[str, Any]]:
    """Every function, the most complex first: with a limit of 0, ruff's C901 names them all."""
    limit = "--config=lint.mccabe.max-complexity=0"
    found = []
    for finding in run_ruff(root, files, ["C901"], limit, "--ignore-noqa"):
        match = COMPLEXITY.match(finding.message)
        if match:
            name, complexity = match.groups()
            found.append({"function": name, "file": finding.file, "line": finding.line, "complexity": int(complexity)})
    return sorted(found, key=lambda each: (-each["complexity"], each["file"], each["line"]))


def _count_lines(path: str) -> tuple[int, int, int]:
    """Lines in all, lines with code (docstrings are code), lines with nothing but a comment."""
    with open(path, "rb") as file:
        source = file.read()
    code: set[int] = set()
    comments: set[int] = set()
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments.add(token.start[0])
            elif token.type not in NOT_CODE:
                code.update(range(token.start[0], token.end[0] + 1))
    except (tokenize.TokenError, SyntaxError):
        pass  # counted up to the syntax error, which `review` reports
    return len(source.splitlines()), len(code), len(comments - code)
