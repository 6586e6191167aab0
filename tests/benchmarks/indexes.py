"""An index of 10,000 agents: searching it, and finding one agent in it without reading all of it."""

from __future__ import annotations

import json
import os
import random
import sys
from typing import TYPE_CHECKING

from tests.benchmarks.measure import Row, command, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

AGENTS = 10_000
AGENTHUB = os.path.join(os.path.dirname(sys.executable), "agenthub")
_SUBJECTS = ("invoices", "tables", "pictures", "letters", "logs", "contracts", "code", "recipes", "maps", "tickets")
_VERBS = ("reads", "writes", "sorts", "checks", "summarizes", "translates", "compares", "draws", "cleans", "rates")


def index_rows(work: str, env: Mapping[str, str], tool: Callable[[], float]) -> list[Row]:
    """Against `uvx --offline` of a trivial tool, in turns."""
    from tests.integration.bad_index_server import serving

    directory = os.path.join(work, "index")
    sizes = write_index(directory)
    with serving(directory) as server:
        home = {**env, "AGENTHUB_HOME": os.path.join(work, "home-of-indexes"), "AGENTHUB_INDEX": server.url}
        search = compare(
            f"search among {AGENTS:,} agents, warm / uvx --offline of a trivial tool",
            1.2,
            command([AGENTHUB, "search", "summarizes", "contracts"], home),
            tool,
        )
        before = len(server.requests)
        shown = command([AGENTHUB, "install", "--dry-run", "owner-77/agent-4077"], home)
        shown()
        asked = [request.path.lstrip("/") for request in server.requests[before:]]
        assert "search.json" not in asked, asked
        read = sum(sizes[path] for path in asked)
    whole = sum(size for path, size in sizes.items() if not path.endswith(".agent"))
    resolved = Row(
        f"bytes read to find one of {AGENTS:,} agents and its archive / of the whole index",
        f"{read / 1024:.1f} kB",
        f"{whole / 1024:.0f} kB",
        read / whole,
        0.001,
    )
    return [search, resolved, _cached_run(work, env, directory)]


def _cached_run(work: str, env: Mapping[str, str], directory: str) -> Row:
    """An agent that an index has, run without installing it, the second time and later."""
    cached, installed = (
        {**env, "AGENTHUB_HOME": os.path.join(work, f"home-{kind}")} for kind in ("cached", "installed")
    )
    agent = "owner-77/agent-4077"
    for words, home in (
        (["run", "--yes", "--index", directory, agent, "go"], cached),
        (["install", "--yes", "--index", directory, agent], installed),
    ):
        command([AGENTHUB, *words], home)()
    runs = [command([AGENTHUB, "run", agent, "go"], home) for home in (cached, installed)]
    return compare("run of an agent that is not installed, the second time / of an installed one", 1.1, *runs)


def write_index(directory: str) -> dict[str, int]:
    """An index whose agents are all one archive under many names, as to what search reads; sizes of its files."""
    from agenthub.indexes.directory import IndexDirectory
    from agenthub.indexes.publish import Publication, publish
    from agenthub.packages.pack import pack
    from tests.support import method, write_agent

    index = IndexDirectory(directory)
    source = write_agent(
        f"{directory}-agent", "def go():\n    return 1\n", {"go": method()}, name="agent-4077", entrypoint="agent"
    )
    archive = f"{directory}-agent.agent"
    pack(source, archive)
    release = publish(index, Publication(archive, "owner-77", "the benchmark")).release
    place = os.path.join(directory, "agents", "owner-77", "agent-4077.json")
    with open(place, encoding="utf-8") as file:
        document = json.load(file)
    entries = []
    rng = random.Random(5)
    for number in range(AGENTS):
        owner, name = f"owner-{number % 100}", f"agent-{number}"
        words = [f"{rng.choice(_VERBS)} {rng.choice(_SUBJECTS)}" for _ in range(4)]
        entry = {"owner": owner, "name": name, "version": release.version, "description": ", ".join(words)}
        entry |= {"methods": words[0].split(), "tags": words[1].split(), "deprecated": None}
        entries.append(entry)
        if (owner, name) != ("owner-77", "agent-4077"):
            _write(directory, f"agents/{owner}/{name}.json", {**document, "owner": owner, "name": name})
    entries.sort(key=lambda entry: (entry["owner"], entry["name"]))
    _write(directory, "search.json", {"schema_version": 1, "serial": document["serial"], "agents": entries})
    found = {}
    for folder, _, files in os.walk(directory):
        for name in files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, directory)] = os.path.getsize(path)
    return found


def _write(directory: str, path: str, value: object) -> None:
    place = os.path.join(directory, path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "w", encoding="utf-8") as file:
        json.dump(value, file)
