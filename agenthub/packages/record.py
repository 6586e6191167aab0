"""What is known of an installed version; written last, so that a version with a record is complete."""

from __future__ import annotations

import os

from agenthub.config import RECORD
from agenthub.errors import StoreError
from agenthub.packages.files import SCHEMA_VERSION, read_json, write_json
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_WAY_OUT = "install it again, or uninstall it"


class InstallRecord(NamedTuple):
    """One installed version.

    Attributes:
        owner: who it belongs to in this store.
        name: the agent's name.
        version: the manifest's.
        source: where it came from, as `sources.Fetched.source`.
        digest: `"sha256:…"` of its tree.
        installed_at: UTC, ISO 8601.
        tool_version: of the agenthub that installed it.
        interpreter: `path` and `version`; None for an agent without an environment.
        dependencies: `name` and `version` of every package in its environment.
        environment: what described the environment (`"uv.lock"`, `"dependencies"`, `"none"` …).
        size: bytes of `code` and of `environment`.
        manifest: the compiled manifest.
        warnings: what the user was told when it was installed.
        hints: environment variables that its code reads and its manifest does not declare.
        environment_digest: `"sha256:…"` of what a run of it runs on, see `environment_digest`; empty in older records.
        environment_files: `"sha256:…"` of the list of its files, see `agenthub.trust.contents`; empty in older records.
        locked: of a project's agent, the key of the packages and hashes in the lock that its environment was made from.
        requested: what the user asked for besides the agent, and an upgrade keeps: `python`, and `with`, requirements.
    """

    owner: str
    name: str
    version: str
    source: dict[str, Any]
    digest: str
    installed_at: str
    tool_version: str
    interpreter: dict[str, str] | None
    dependencies: list[dict[str, str]]
    environment: str
    size: dict[str, int]
    manifest: dict[str, Any]
    warnings: list[str] = []  # noqa: RUF012 - never changed
    hints: list[str] = []  # noqa: RUF012
    environment_digest: str = ""
    environment_files: str = ""
    requested: dict[str, Any] = {}  # noqa: RUF012
    locked: str = ""


# What must be there, and what JSON makes of it.
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("owner", "name", "version", "digest", "installed_at", "tool_version", "environment"), str),
    **dict.fromkeys(("source", "size", "manifest"), dict),
    "interpreter": (dict, type(None)),
    "dependencies": list,
}


def environment_digest(
    digest: str, interpreter: Mapping[str, str] | None, dependencies: Sequence[Mapping[str, str]]
) -> str:
    """The same for two runs exactly if they ran the same files with the same interpreter and packages."""
    import hashlib
    import json

    text = json.dumps([digest, interpreter, dependencies], sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def now() -> str:
    """The time for `installed_at`."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_record(version_dir: str) -> InstallRecord:
    """The record of an installed version.

    Raises:
        StoreError: there is none, it is damaged, or a newer agenthub wrote it.
    """
    path = os.path.join(version_dir, RECORD)
    try:
        values = read_json(path, _WAY_OUT)
    except FileNotFoundError:
        raise StoreError(f"{version_dir} has no install record", suggestion=_WAY_OUT) from None
    lacking = ", ".join(key for key in _KINDS if key not in values)
    if lacking:
        raise StoreError(f"{path} is damaged: it lacks {lacking}", suggestion=_WAY_OUT)
    for key, kinds in _KINDS.items():
        if not isinstance(values[key], kinds):
            raise StoreError(f"{path} is damaged: its '{key}' is of the wrong type", suggestion=_WAY_OUT)
    return InstallRecord(**{key: values[key] for key in InstallRecord._fields if key in values})


def write_record(version_dir: str, record: InstallRecord) -> None:
    """Writes or replaces the record of a version, in one step.

    Raises:
        StoreError: it cannot be written.
    """
    path = os.path.join(version_dir, RECORD)
    values = {"schema_version": SCHEMA_VERSION, **record._asdict()}
    write_json(path, {**values, "seal": seal(values)}, os.path.dirname(path))


def seal(values: Mapping[str, Any]) -> str:
    """`"sha256:…"` of a record's values: tells an edited record, and not one that was sealed again."""
    import hashlib
    import json

    sealed = {key: value for key, value in values.items() if key != "seal"}
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()
