"""Finds agents by words in what the indexes say of all their agents, from the cache where that is fresh enough."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from agenthub.errors import AgentRuntimeError, nearest
from agenthub.packages.names import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agenthub.indexes.client import IndexClient
    from agenthub.indexes.configured import IndexSource

LARGEST_SEARCH = 64 << 20
"""Bytes of the summary of all agents that is still read."""
FRESH = 600.0
"""Seconds for which a summary in the cache is believed without asking."""

_LONGEST = 1000
_OFFERED = 300
_COMPARED = 2000  # names that a misspelt one is compared with; each costs about 50 µs
# What a word counts where it is found; whole names and their beginnings count more.
_WEIGHTS = {"name": 8.0, "owner": 4.0, "tags": 4.0, "methods": 3.0, "description": 1.0}


class Hit(NamedTuple):
    """An agent that was found; a higher `score` fits better, `source` is the index's name."""

    score: float
    owner: str
    name: str
    version: str
    description: str
    methods: tuple[str, ...]
    tags: tuple[str, ...]
    deprecated: str | None
    source: str


class Found(NamedTuple):
    """What a search found, the best first, and what is to be said of indexes that could not be asked."""

    hits: list[Hit]
    problems: list[str]


def search(client: IndexClient, words: Sequence[str]) -> Found:
    """The agents in which every word is found, in any of name, owner, tags, methods and description.

    Args:
        client: whose indexes are searched. Agents of an owner that belongs to another index are left out.
        words: any case.
    """
    wanted = [word.casefold() for text in words for word in text.split()]
    pins = client.owners.pins()
    home = {owner: pin.url for owner, pin in pins.items()}
    home |= {owner: source.url for source in client.indexes for owner in source.owners}
    hits: dict[tuple[str, str], Hit] = {}
    problems = []
    for source in client.indexes:
        data, problem = summary(client, source)
        if problem:
            problems.append(problem)
        for hit in _matches(data, wanted, source):
            if home.get(hit.owner, source.url) == source.url:
                hits.setdefault((hit.owner, hit.name), hit)
    return Found(sorted(hits.values(), key=lambda hit: (-hit.score, hit.owner, hit.name)), problems)


def summary(client: IndexClient, source: IndexSource, max_age: float = FRESH) -> tuple[bytes, str]:
    """What an index says of all its agents, and what is wrong where that is old, or cannot be had."""
    if source.kind == "git":
        return b"", ""  # a git host has no list of agents
    try:
        return client.transport.document(source, "search.json", LARGEST_SEARCH, max_age=max_age), ""
    except AgentRuntimeError as error:
        return client.transport.cached(source, "search.json") or b"", error.message


def known_agents(client: IndexClient, beginning: str) -> list[str]:
    """The agents whose `owner/name` begins so, as far as lists of agents were seen: some hundreds at most."""
    found = set()
    for source in client.indexes:
        data, _ = summary(client, source)
        for entry in _entries(data):
            label = f"{entry['owner']}/{entry['name']}"
            if label.startswith(beginning):
                found.add(label)
    return sorted(found)[:_OFFERED]


def nearest_agent(client: IndexClient, label: str) -> str | None:
    """The known agent whose name is most like `label`: in owner or name, or in how it begins."""
    owner, _, name = label.partition("/")
    near: list[str] = []
    for source in client.indexes:
        data = client.transport.cached(source, "search.json") if source.kind != "file" else summary(client, source)[0]
        near += [
            f"{entry['owner']}/{entry['name']}"
            for entry in _entries(data or b"")
            if entry["owner"] == owner or entry["name"] == name or entry["name"][:2] == name[:2]
        ]
    return nearest(label, near[:_COMPARED])


def _matches(data: bytes, wanted: list[str], source: IndexSource) -> Iterator[Hit]:
    for entry in _entries(data):
        score = _score(entry, wanted)
        if score > 0:
            deprecated = entry.get("deprecated")
            yield Hit(
                score / 2 if deprecated is not None else score,
                entry["owner"],
                entry["name"],
                str(entry.get("version", ""))[:64],
                str(entry.get("description", ""))[:_LONGEST],
                _texts(entry.get("methods")),
                _texts(entry.get("tags")),
                None if deprecated is None else str(deprecated)[:_LONGEST],
                source.name,
            )


def _entries(data: bytes) -> Iterator[dict[str, Any]]:
    """The entries that can be one; an index that writes others is no reason to find nothing."""
    try:
        entries = json.loads(data)["agents"] if data else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and _is(entry.get("owner")) and _is(entry.get("name")):
            yield entry


def _is(name: object) -> bool:
    return isinstance(name, str) and is_name(name)


def _score(entry: dict[str, Any], wanted: list[str]) -> float:
    """How well an entry fits; 0 where one of the words is nowhere in it."""
    fields = {
        "name": entry["name"],
        "owner": entry["owner"],
        "tags": "\n".join(_texts(entry.get("tags"))).casefold(),
        "methods": "\n".join(_texts(entry.get("methods"))).casefold(),
        "description": str(entry.get("description", ""))[:_LONGEST].casefold(),
    }
    total = 0.0
    for word in wanted:
        owner, slash, name = word.partition("/")
        if slash:
            best = 16.0 if owner == fields["owner"] and fields["name"].startswith(name) else 0.0
        else:
            best = sum(weight for field, weight in _WEIGHTS.items() if word in fields[field])
            if fields["name"].startswith(word):
                best += 8.0 if len(fields["name"]) > len(word) else 24.0
        if not best:
            return 0.0
        total += best
    return total


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, dict):
        value = list(value)
    return tuple(str(item)[:_LONGEST] for item in value[:100]) if isinstance(value, list) else ()
