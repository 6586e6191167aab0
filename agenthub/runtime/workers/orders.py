"""What a worker has to have been given, and a short text that tells whether two were given the same."""

from __future__ import annotations

import os
from contextlib import suppress

from agenthub import __version__
from agenthub.observability.recorder import digest
from agenthub.runtime.processes.run_environment import run_environment
from agenthub.runtime.runs.plan import OFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agenthub.runtime.runs.locator import LocatedAgent
    from agenthub.runtime.runs.plan import RunPlan

# Caps that the kernel holds from the start of a process on; the others are each run's own.
_FIXED_LIMITS = ("memory", "processes", "open_files", "file_size")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_UNWATCHED = ("venv", ".venv", ".git", "__pycache__")
_SEEN = ("content", "environment")  # looked at for each run anew
MOST_FILES = 5000
"""In a directory that is watched for changes."""
# What the newest plan decided, by the objects that say so; where; and its digest.
_last: tuple[tuple[object, ...], tuple[str, str], str] = ((), ("", ""), "")


def order_of(plan: RunPlan, python: str) -> dict[str, Any] | None:
    """What a worker for a run has to have been given, as JSON; None where that cannot be told."""
    content = content_of(plan.agent)
    if content is None:
        return None
    return {**_decided(plan, python), "content": content, "environment": _environment_state(python)}


def fingerprint(order: dict[str, Any]) -> str:
    """Two orders have the same one if and only if they are the same."""
    decided = {name: value for name, value in order.items() if name not in _SEEN}
    return _joined(digest(decided), order["content"], order["environment"])


def fingerprint_of(plan: RunPlan, python: str) -> str | None:
    """The one of `order_of`. Of plans that were made from one, only what may have changed since is looked at."""
    global _last
    content = content_of(plan.agent)
    if content is None:
        return None
    parts = (plan.agent, plan.permissions, plan.variables, plan.limits, plan.tiers)
    known, where, text = _last
    if where != (python, plan.level) or any(one is not other for one, other in zip(known, parts, strict=True)):
        text = digest(_decided(plan, python))
        _last = parts, (python, plan.level), text
    return _joined(text, content, _environment_state(python))


def _joined(decided: str, content: str, environment: list[int]) -> str:
    return f"{decided} {content} {environment}"


def _decided(plan: RunPlan, python: str) -> dict[str, Any]:
    limits = plan.limits._asdict()
    policy = plan.policy("")
    environ = dict(os.environ)
    return {
        "tool": __version__,
        "agent": plan.agent.label,
        "directory": plan.agent.directory,
        "manifest": plan.agent.manifest.to_compiled(),
        "python": python,
        "inherited": run_environment(environ, "", None),
        "proxies": {name: value for name, value in environ.items() if name.lower() in _PROXIES},
        "variables": dict(plan.variables),
        "limits": {name: limits[name] for name in _FIXED_LIMITS},
        "policy": {**policy._asdict(), "network": [policy.network.kind, list(policy.network.hosts)], "scratch": ""},
        "tiers": plan.tiers._asdict() if plan.level != OFF else None,
    }


def content_of(agent: LocatedAgent) -> str | None:
    """What changes whenever somebody edits an agent in its place; None where it is too large to look at.

    The time of the last change of an inode cannot be set back, unlike the one of its content.
    """
    if agent.record is not None:  # installed, and never changed
        return ""
    newest, count, size = 0, 0, 0
    for folder, folders, files in os.walk(agent.directory, followlinks=True):
        folders[:] = [name for name in folders if name not in _UNWATCHED]
        for name in files:
            path = os.path.join(folder, name)
            try:
                found = os.stat(path) if os.path.exists(path) else os.lstat(path)
            except OSError:  # removed this very moment
                return None
            newest, count, size = max(newest, found.st_ctime_ns), count + 1, size + found.st_size
        count += len(folders)
        if count > MOST_FILES:
            return None
    return f"{count} {size} {newest}"


def _environment_state(python: str) -> list[int]:
    """What changes when an environment is made anew, or something is installed into it."""
    root = os.path.dirname(os.path.dirname(python))
    places = [os.path.join(root, "pyvenv.cfg")]
    with suppress(OSError):
        library = os.path.join(root, "lib")
        places += [os.path.join(library, name, "site-packages") for name in sorted(os.listdir(library))]
    state = []
    for place in places:
        with suppress(OSError):
            found = os.stat(place)
            state += [found.st_ino, found.st_mtime_ns]
    return state
