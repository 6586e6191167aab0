"""What an index's files say, made from what is known of its agents: the same agents are the same bytes."""

from __future__ import annotations

import json
import time
from typing import Any

from agenthub.indexes.documents import SCHEMA_VERSION, AgentDocument, Release, to_json

INDEX, SEARCH, AGENTS, FILES = "index.json", "search.json", "agents", "files"

_LONGEST_DESCRIPTION = 1000  # characters; the document has all of it
_MOST_WORDS = 200

Entries = dict[tuple[str, str], dict[str, Any]]
"""What `search.json` says, by owner and name."""


def latest_release(document: AgentDocument) -> Release | None:
    """What who asks for no version gets: the highest that is not yanked, a pre-release only where there is no other."""
    from packaging.version import Version

    offered = [release for release in document.releases.values() if release.yanked is None]
    ranked = [(not Version(release.version).is_prerelease, Version(release.version), release) for release in offered]
    return max(ranked, key=lambda each: each[:2])[2] if ranked else None


def describing_release(document: AgentDocument) -> Release:
    """The release whose description and tags are the agent's: the latest, or the highest where all are yanked."""
    from packaging.version import Version

    return latest_release(document) or max(document.releases.values(), key=lambda each: Version(each.version))


def search_entry(document: AgentDocument) -> dict[str, Any] | None:
    """The agent's line in `search.json`; None where all its releases are yanked."""
    release = latest_release(document)
    if release is None:
        return None
    return {
        "owner": document.owner,
        "name": document.name,
        "version": release.version,
        "description": document.description[:_LONGEST_DESCRIPTION],
        "methods": list(release.methods)[:_MOST_WORDS],
        "tags": list(document.tags)[:_MOST_WORDS],
        "deprecated": release.deprecated,
    }


def set_entry(entries: Entries, document: AgentDocument) -> None:
    """Puts what is now to be said of an agent in place of what was."""
    entry = search_entry(document)
    entries.pop((document.owner, document.name), None)
    if entry is not None:
        entries[document.owner, document.name] = entry


def document_place(document: AgentDocument) -> str:
    """Where an agent's document is in its index."""
    return f"{AGENTS}/{document.owner}/{document.name}.json"


def files_of(document: AgentDocument) -> frozenset[str]:
    """Every file that a document names."""
    releases = document.releases.values()
    signatures = [signature.file for release in releases for signature in release.signatures]
    return frozenset([release.file for release in releases] + signatures)


def document_bytes(document: AgentDocument) -> bytes:
    """The file of an agent's document: releases from the lowest version to the highest."""
    from packaging.version import Version

    releases = dict(sorted(document.releases.items(), key=lambda item: Version(item[0])))
    return as_json(to_json(document._replace(releases=releases)))


def search_bytes(entries: Entries, serial: int) -> bytes:
    """The file `search.json`: a line for each agent."""
    lines = [json.dumps(entries[key], ensure_ascii=False, separators=(",", ":")) for key in sorted(entries)]
    head = f'{{"schema_version":{SCHEMA_VERSION},"serial":{serial},"agents":['
    return (head + ",".join("\n" + line for line in lines) + "\n]}\n").encode("utf-8", "backslashreplace")


def index_bytes(serial: int, updated: str, agents: int) -> bytes:
    """The file `index.json`."""
    return as_json({"schema_version": SCHEMA_VERSION, "serial": serial, "updated": updated, "agents": agents})


def timestamp(moment: float) -> str:
    """A time as documents have it: UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def as_json(value: object) -> bytes:
    """A JSON document that people can read and compare."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "backslashreplace")
