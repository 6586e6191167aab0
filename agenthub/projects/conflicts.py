"""What a merge left behind: a file with both sides in it belongs to nobody."""

from __future__ import annotations

import re

from agenthub.errors import InvalidInputError

_BLOCK = re.compile(r'\s*name\s*=\s*"([^"\n]{1,200})"|\s*"([^"\n]{1,200}/[^"\n]{1,200})"\s*=')
_MOST = 6  # names that are shown of a side


def refuse_conflicts(text: str, path: str) -> None:
    """Raises InvalidInputError where `text` has conflict markers, with the agents that each side changed."""
    if not re.search(r"^<{7} ", text, re.MULTILINE):
        return
    sides: dict[str, list[str]] = {}
    within = last = before = ""  # the side that a line is of, the agent whose block it is in, that above the conflict
    for line in text.splitlines():
        marker = line[:7]
        if marker == "<<<<<<<":
            within, before = line[8:].strip() or "?", last
        elif marker in ("=======", "|||||||") and within:
            within, last = marker, before
        elif marker == ">>>>>>>" and within:
            label = line[8:].strip() or "?"
            sides[label] = [*sides.get(label, []), *sides.pop("=======", [])]
            within = ""
        else:
            found = _BLOCK.match(line)
            last = (found[1] or found[2]) if found else "" if line.startswith("[[agent]]") else last
            if within and last and line.strip():
                sides.setdefault(within, []).append(last)
    sides.pop("|||||||", None)
    said = "; ".join(f"{label}: {_listed(names)}" for label, names in sides.items())
    raise InvalidInputError(
        f"{path} has merge conflicts ({said})",
        suggestion="settle agents.toml by hand; for agents.lock: git checkout --ours agents.lock && agenthub lock",
    )


def _listed(names: list[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:_MOST]) + (f" and {len(different) - _MOST} more" if len(different) > _MOST else "")
