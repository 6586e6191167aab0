"""What the user allowed an installed agent, and took from it; and code that may run without being installed."""

from __future__ import annotations

import os

from agenthub.config import Paths
from agenthub.packages.files import SCHEMA_VERSION, read_json, storing, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PERMISSIONS = ("network", "read", "write", "run", "environment")
# `sandbox`: tiers below what was asked for, which the user accepts; `secrets`: names; the rest: permissions by kind.
GRANTS = (*_PERMISSIONS, "secrets", "sandbox", *(f"denied_{kind}" for kind in _PERMISSIONS))


def read_grants(path: str) -> dict[str, list[str]]:
    """What the file at `path` grants, by each key of `GRANTS`; a permission that was taken is under `denied_<kind>`."""
    values = _read(path)
    return {key: [str(item) for item in values.get(key) or ()] for key in GRANTS}


def write_grants(paths: Paths, path: str, grants: dict[str, list[str]]) -> None:
    """Replaces what an agent was granted, in the file at `path`. The caller holds the agent's lock.

    Raises:
        StoreError: it cannot be written.
    """
    value = {key: sorted(set(grants[key])) for key in GRANTS if grants.get(key)}
    _write(paths, path, value)


def has_consent(paths: Paths, location: str, digest: str) -> bool:
    """Whether the user agreed to run this content from this place (a path or a URL) without installing it."""
    return digest in _read(_consents_path(paths)).get("code", {}).get(location, ())


def add_consent(paths: Paths, location: str, digest: str) -> None:
    """Remembers that the user agreed; only the latest content of a place is remembered.

    Raises:
        StoreError: it cannot be written.
    """
    from agenthub.packages.locks import acquire
    from agenthub.packages.staging import open_store

    open_store(paths)
    with storing("lock", paths.locks):
        os.makedirs(paths.locks, mode=0o700, exist_ok=True)
        descriptor = acquire(os.path.join(paths.locks, "consents.lock"))
    try:
        code = _read(_consents_path(paths)).get("code", {})
        _write(paths, _consents_path(paths), {"code": {**code, location: [digest]}})
    finally:
        os.close(descriptor)


def _consents_path(paths: Paths) -> str:
    return os.path.join(paths.home, "consents.json")


def _read(path: str) -> dict[str, Any]:
    try:
        return read_json(path, "remove it: what you allowed is asked, or granted, again")
    except FileNotFoundError:
        return {}


def _write(paths: Paths, path: str, value: dict[str, Any]) -> None:
    from agenthub.packages.staging import new_staging

    with new_staging(paths) as staging:
        with storing("write", path):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_json(path, {"schema_version": SCHEMA_VERSION, **value}, staging.path, mode=0o600)
