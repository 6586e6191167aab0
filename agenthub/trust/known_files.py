"""Digests of files that were installed before: the same distribution is not read again for each agent that has it.

An entry is named by a distribution's `RECORD` and holds what was found when its files were first read here; of those
alone of which the `RECORD` has a digest, so that the same one speaks of the same files. A file that was changed in uv's
cache since is listed as it was, and `verify` says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress

from agenthub.values import NamedTuple

_SHARED = 500  # bytes of a RECORD below which a distribution is read faster than looked up


class FileState(NamedTuple):
    """What a regular file is: SHA-256 in hexadecimal digits, and whether it is a program."""

    digest: str
    program: bool

    @property
    def text(self) -> str:
        """As it stands in a version's list of files."""
        return self.digest + (" x" if self.program else "")


class KnownFiles:
    """What is known of the files in one `site-packages`.

    Args:
        folder: that directory; "" for an agent without an environment.
        cache: where entries are kept; "": nowhere.
    """

    def __init__(self, folder: str, cache: str) -> None:
        self._folder = folder if cache else ""
        self._cache = cache
        self._known: dict[str, str] = {}
        self._missing: dict[str, list[str]] = {}
        claimed: set[str] = set()
        twice: set[str] = set()
        for key, paths in self._records():
            twice.update(claimed.intersection(paths))
            claimed.update(paths)
            entry = self._load(key)
            if entry is None:
                self._missing[key] = paths
            else:
                self._known.update((path, entry[path]) for path in paths if path in entry)
        for path in twice:  # of two distributions: which one's it is, its content says
            self._known.pop(path, None)

    def what(self, path: str) -> str | None:
        """What is at `path`, if it is a file that is known."""
        inside = self._folder + os.sep
        return self._known.get(path[len(inside) :]) if self._folder and path.startswith(inside) else None

    def learn(self, files: dict[str, str]) -> None:
        """Keeps what was read of distributions that were not known; where that cannot be, nothing is lost."""
        if not self._missing:
            return
        with suppress(OSError):
            os.makedirs(self._cache, mode=0o700, exist_ok=True)
            for key, paths in self._missing.items():
                found = {path: files.get(os.path.join(self._folder, path), "") for path in paths}
                self._store(key, {path: what for path, what in found.items() if what[:64].isalnum()})

    def _records(self) -> list[tuple[str, list[str]]]:
        """For each distribution the name of its entry, and the paths in `site-packages` that its `RECORD` names."""
        found = []
        for name in os.listdir(self._folder) if self._folder else ():
            if name.endswith(".dist-info"):
                with suppress(OSError), open(os.path.join(self._folder, name, "RECORD"), "rb") as file:
                    record = file.read()
                    if len(record) >= _SHARED:
                        found.append(_parsed(record))
        return found

    def _load(self, key: str) -> dict[str, str] | None:
        try:
            with open(os.path.join(self._cache, key), "rb") as file:
                entry = json.loads(file.read())
        except (OSError, ValueError):
            return None
        sound = isinstance(entry, dict) and all(isinstance(what, str) for what in entry.values())
        return entry if sound else None

    def _store(self, key: str, entry: dict[str, str]) -> None:
        temporary = os.path.join(self._cache, f"{key}.{os.getpid()}-{os.urandom(4).hex()}")
        with open(temporary, "x", encoding="ascii") as file:
            json.dump(entry, file, separators=(",", ":"))
        os.rename(temporary, os.path.join(self._cache, key))


def _parsed(record: bytes) -> tuple[str, list[str]]:
    # Scripts lie outside, and have the environment's path in them: they would make another name for each agent.
    lines = [line for line in record.splitlines() if line and not line.startswith((b"../", b"/", b'"'))]
    key = hashlib.sha256(b"\n".join(lines)).hexdigest()[:40]
    return key, [os.fsdecode(line.partition(b",")[0]) for line in lines if b",sha256=" in line]
