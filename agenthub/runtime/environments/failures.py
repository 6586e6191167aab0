"""From a tool's output to an error that names the dependency, the reason and the way out."""

from __future__ import annotations

import re

from agenthub.errors import EnvironmentError
from agenthub.runtime.environments.dependencies import requirement_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST_LINES, _LAST_LINES = 12, 8

# Most telling first.
_CULPRITS = [
    re.compile(pattern)
    for pattern in (
        r"Failed to install: \S+ \(([^)]+)\)",
        r"Failed to (?:build|download|prepare|read|parse|fetch)[^`\n]*[`']([^`'\n]+)[`']",
        r"Failed to fetch: \S*/simple/([^/\s]+)/",
        r"Failed to parse: (.+)",
        r"No matching distribution found for (.+?)(?:\s+\(from|$)",
        r"Invalid requirement: '([^'\n]+)'",
        r"╰─> from (\S+)",
        r"╰─> ([A-Za-z0-9][\w.-]*)$",
        r"[Bb]ecause there (?:is|are) no versions? of (\S+)",
        r"[Bb]ecause (?:only )?([A-Za-z0-9][^\s,{]*?)(?:\{[^}]*\})? (?:was not found|is available|has no)",
        r"[Bb]ecause only the following versions of (\S+?)(?:\{[^}]*\})? are available",
        r"you require (\S+?)(?: and|,|$)",
    )
]

# (sign in the tool's output, reason, suggestion), the first that is seen counts.
_CAUSES = (
    (
        r"No space left on device|os error 28|Disk quota exceeded",
        "no space is left on the device",
        "free some space; the store is at AGENTHUB_HOME, uv's cache at UV_CACHE_DIR",
    ),
    (
        r"network was disabled|network connectivity is disabled|not found in the cache",
        "it is not in the cache and the network is off",
        "run it once without --offline",
    ),
    (
        r"error sending request|dns error|tcp connect error|Connection refused|NewConnectionError"
        r"|Max retries exceeded|Could not connect|Temporary failure in name resolution|timed out|ConnectTimeout",
        "the package index cannot be reached",
        "look at the network and its proxy; UV_DEFAULT_INDEX (pip: PIP_INDEX_URL) names another index",
    ),
    (
        r"Failed to build|subprocess-exited-with-error|Getting requirements to build|build backend",
        "it could not be built",
        "see the build's own words; a compiler may be missing, or a version with a ready-made wheel may do",
    ),
    (
        r"Read-only file system|Permission denied|os error 13|os error 30",
        "a directory may not be written",
        "look at the owner and the rights of AGENTHUB_HOME and of the caches of uv and pip",
    ),
    (
        r"was not found in the package registry|was not found in the provided|\(from versions: none\)",
        "there is no such package",
        "look at its spelling in the agent's dependencies",
    ),
    (
        r"incompatible with the project's Python requirement|does not satisfy Python"
        r"|requires a different Python|Requires-Python",
        "it needs another Python",
        "choose one with --python",
    ),
    (
        r"there (?:is|are) no versions? of|are available|is available|No matching distribution"
        r"|No solution found",
        "no version of it fits",
        "loosen the version in the agent's dependencies, or choose another Python with --python",
    ),
    (
        r"[Ff]ailed to parse|Invalid requirement",
        "it is not written as a requirement",
        "write for example requests>=2.31",
    ),
    (
        r"Distribution not found at|wheel filename|wrong number of parts|No such file",
        "the file it names is no package",
        "look at the path in the agent's dependencies",
    ),
)


def failed_installation(
    who: str, tool: str, lines: Sequence[str], requirements: Sequence[str] = ()
) -> EnvironmentError:
    """The error for a dependency that could not be installed.

    Args:
        who: the agent.
        tool: `"uv"` or `"pip"`.
        lines: the tool's output.
        requirements: what was asked for, as far as known.
    """
    reason = reason_lines(lines)
    text = "\n".join(reason)
    cause, suggestion = _cause(text)
    culprit = _culprit(text, requirements)
    what = f"'{culprit}'" if culprit else "its dependencies"
    return EnvironmentError(
        f"cannot install {what} for {who}: {cause or f'{tool} failed'}",
        suggestion=suggestion,
        details=_shortened(reason),
    )


def reason_lines(lines: Sequence[str]) -> list[str]:
    """A tool's own reason: from its first error on, without progress and warnings."""
    kept = [line for line in lines if line.strip() and not line.startswith(("warning:", "WARNING:", "[notice]"))]
    for position, line in enumerate(kept):
        if re.match(r"\s*(?:error|ERROR)\b|\s*[\u00d7\u2570]", line):
            return kept[position:]
    return kept


def _shortened(lines: list[str]) -> list[str]:
    surplus = len(lines) - _FIRST_LINES - _LAST_LINES
    if surplus <= 0:
        return lines
    return [*lines[:_FIRST_LINES], f"({surplus} more lines)", *lines[-_LAST_LINES:]]


def _cause(text: str) -> tuple[str | None, str | None]:
    for sign, cause, suggestion in _CAUSES:
        if re.search(sign, text):
            return cause, suggestion
    return None, None


def _culprit(text: str, requirements: Sequence[str]) -> str:
    for pattern in _CULPRITS:
        found = pattern.search(text)
        if found:
            return found.group(1).strip().strip("`").partition(" @ ")[0].partition(" (from ")[0].rstrip(",.")
    # Nothing of the usual wording: the requirement that the reason mentions.
    mentioned = [name for name in map(requirement_name, requirements) if name and name in text.lower()]
    if mentioned:
        return mentioned[0]
    return requirements[0] if len(requirements) == 1 else ""
