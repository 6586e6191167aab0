"""What two environments have in common is on the disk once: files of one are linked into another.

uv does so with its cache where that is on the same file system. Elsewhere it copies, and each environment would take
all of its space again.
"""

from __future__ import annotations

import os

from agenthub.runtime.environment_manager import PENDING_BYTECODE
from agenthub.runtime.environments.state import BYTECODE, site_packages

_LEFT_OUT = frozenset((BYTECODE, PENDING_BYTECODE))


def link_environment(source: str, target: str) -> bool:
    """Gives a fresh environment what another has, if both are of the same series of Python.

    Args:
        source: an environment, which may be moved and removed afterwards.
        target: one without packages, made by the same tool from the same interpreter; what it has stays.

    Returns:
        bool: False where it cannot be done; `target` may have a part of it then, and is to be made again.
    """
    packages = site_packages(source)
    if not packages or os.path.relpath(packages, source) != os.path.relpath(site_packages(target) or target, target):
        return False
    try:
        _link(source, target)
    except OSError:  # more links than a file can have, or a source that is being removed
        return False
    return True


def _link(source: str, target: str) -> None:
    there = set(os.listdir(target))
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.name in _LEFT_OUT:
                continue
            path = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in there:
                    os.mkdir(path)
                _link(entry.path, path)
            elif entry.name not in there:
                os.link(entry.path, path, follow_symlinks=False)
