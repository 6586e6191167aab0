"""Environments that were made from the same packages: the first takes its space, the others share its files."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress

from agenthub.config import VENV, Paths
from agenthub.errors import AgentNotFoundError, StoreError
from agenthub.manifest import AgentManifest
from agenthub.packages.locks import hold
from agenthub.packages.project_links import referenced_versions
from agenthub.packages.record import read_record
from agenthub.runtime.environments.dependencies import needs_project

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agenthub.packages.record import InstallRecord
    from agenthub.projects.installing import State
    from agenthub.projects.lock_file import LockedAgent
    from agenthub.projects.trees import Tree

_MOST = 500  # versions that are looked at


class Made:
    """Knows, by its packages, an environment whose files another may share. For several threads.

    Args:
        paths: of the store.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._being_made: dict[str, threading.Lock] = {}
        self._known: dict[str, tuple[str, str]] | None = None  # by key: version directory, interpreter

    @staticmethod
    def in_order(states: Sequence[State]) -> list[State]:
        """The states, one of each set of packages first: those that share with it need not wait for it then."""
        seen: dict[str, int] = {}
        ranked = []
        for state in states:
            key = state.locked.environment_key()
            ranked.append((seen.setdefault(key, 0), state))
            seen[key] += 1
        return [state for _, state in sorted(ranked, key=lambda one: one[0])]

    @contextmanager
    def like(self, locked: LockedAgent, tree: Tree) -> Iterator[tuple[str | None, str]]:
        """An environment with the packages of an agent, which is kept meanwhile, and its interpreter; or None and "".

        Two environments of the same packages are not made at the same time: the second shares with the first.
        """
        if not locked.pins or needs_project(tree.directory, tree.manifest):
            yield None, ""
            return
        key = locked.environment_key()
        with self._lock:
            being_made = self._being_made.setdefault(key, threading.Lock())
        with being_made:
            directory, python = self._find(key) or ("", "")
            try:
                held = hold(directory) if directory else None
            except AgentNotFoundError:
                held, directory = None, ""
            try:
                yield (os.path.join(directory, VENV) if directory else None), python
            finally:
                if held is not None:
                    held.close()

    def add(self, record: InstallRecord, place: str) -> None:
        """A version that was just made, complete."""
        with self._lock:
            if self._known is not None and (python := _shared_python(record, place)):
                self._known.setdefault(record.locked, (place, python))

    def _find(self, key: str) -> tuple[str, str] | None:
        with self._lock:
            if self._known is None:
                self._known = self._all_known()
            return self._known.get(key)

    def _all_known(self) -> dict[str, tuple[str, str]]:
        """What projects use has an environment that was made from a lock."""
        known = {}
        for directory in sorted(referenced_versions(self._paths))[:_MOST]:
            with suppress(StoreError, OSError, KeyError, TypeError, ValueError):
                record = read_record(directory)
                if python := _shared_python(record, directory):
                    known[record.locked] = (directory, python)
        return known


def _shared_python(record: InstallRecord, directory: str) -> str:
    """The interpreter of an environment that holds just what a lock names; "" for any other."""
    if not record.locked or not record.interpreter:
        return ""
    manifest = AgentManifest.from_compiled(record.manifest)
    return "" if needs_project(directory, manifest) else record.interpreter["path"]
