"""A store that a newer agenthub wrote, or whose files are damaged: said so and left alone, or made anew."""

from __future__ import annotations

import json
import os

import pytest

from tests.integration.faults_support import Hub, write_agent

DAMAGE = {
    "empty": b"",
    "cut": b'{"schema_version":1,"own',
    "garbage": b"\xff\xfe\0",
    "other": b'{"a":1}',
}


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path)
    hub.install(write_agent(tmp_path / "a", "old"))
    return hub


def snapshot(hub):
    found = {}
    for path in hub.home.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            found[str(path)] = path.read_bytes()
    return found


def record_of(hub):
    (version,) = hub.versions()
    return version / ".agenthub" / "record.json"


def make_newer(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


CHANGES = [["uninstall", "probe"], ["grant", "probe", "environment", "X"]]
READS = [["run", "probe", "which"], ["info", "probe"]]


def test_a_newer_store_is_left_alone(hub, tmp_path):
    make_newer(hub.home / "store.json")
    abandoned = hub.home / "staging" / "0123456789abcdef"
    abandoned.mkdir()  # what a newer agenthub keeps there is not ours to sweep
    before = snapshot(hub)
    new = write_agent(tmp_path / "b", "new", version="2.0")
    for words in (["install", "--yes", "--force", new], *CHANGES, ["list"], ["run", "nobody", "x"]):
        hub.fails(4, *words, says=("newer agenthub", "store.json", "upgrade agenthub"))
    (check,) = hub.checks("--fix")
    assert "newer agenthub" in check["message"]
    assert snapshot(hub) == before
    assert abandoned.exists()


def test_a_newer_record_is_left_alone(hub, tmp_path):
    make_newer(record_of(hub))
    before = snapshot(hub)
    new = write_agent(tmp_path / "b", "new", version="2.0")
    for words in (["install", "--yes", "--force", new], *READS):
        hub.fails(4, *words, says=("newer agenthub", "record.json", "upgrade agenthub"))
    (agent,) = hub.agents()
    assert "newer agenthub" in agent["problem"]
    (check,) = hub.checks("--fix")
    assert "newer agenthub" in check["message"]
    after = {path: content for path, content in snapshot(hub).items() if not path.endswith("index.json")}
    assert after == {path: content for path, content in before.items() if not path.endswith("index.json")}


def test_newer_grants_are_left_alone(hub):
    hub.ok("grant", "probe", "environment", "X")
    grants = hub.home / "grants" / "local" / "probe.json"
    make_newer(grants)
    before = grants.read_bytes()
    for words in (["run", "probe", "which"], ["grant", "probe", "environment", "Y"]):
        hub.fails(4, *words, says=("newer agenthub", "probe.json"))
    assert grants.read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_marker(hub, tmp_path, damage):
    marker = hub.home / "store.json"
    marker.write_bytes(DAMAGE[damage])
    new = write_agent(tmp_path / "b", "new", version="2.0")
    for words in (["install", "--yes", "--force", new], *CHANGES, ["list"]):
        hub.fails(4, *words, says=("store.json", "damaged", "agenthub doctor --fix"))
    assert hub.ok("run", "probe", "which") == "old\n"
    assert hub.checks("--fix") == []
    assert json.loads(marker.read_text())["schema_version"] == 1
    assert [agent["version"] for agent in hub.agents()] == ["1.0"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record(hub, tmp_path, damage):
    record_of(hub).write_bytes(DAMAGE[damage])
    for words in READS:
        hub.fails(4, *words, says=("record.json", "damaged", "install it again"))
    (agent,) = hub.agents()
    assert "damaged" in agent["problem"]
    if damage == "cut":
        (check,) = hub.checks("--fix")
        assert "damaged" in check["message"]
        assert "install it again" in check["remedy"]
    hub.install(tmp_path / "a")  # which is what the errors say
    assert hub.ok("run", "probe", "which") == "old\n"
    assert len(hub.versions()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": []},
        {"owner": 3},
        {"source": "nowhere"},
        {"size": None},
        {"dependencies": 3},
        {"interpreter": "python"},
        {"installed_at": None},
    ],
    ids=str,
)
def test_a_record_of_wrong_shape(hub, tmp_path, change):
    record = record_of(hub)
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    (key,) = change
    for words in READS:
        hub.fails(4, *words, says=("record.json", "damaged", key))
    assert "damaged" in hub.agents()[0]["problem"]
    hub.install(tmp_path / "a")
    assert hub.ok("run", "probe", "which") == "old\n"


@pytest.mark.parametrize("damage", [*DAMAGE, "missing", "directory"])
def test_a_damaged_index_is_made_anew(hub, damage):
    index = hub.home / "index.json"
    expected = hub.agents()
    index.unlink()
    if damage == "directory":
        index.mkdir()
    elif damage != "missing":
        index.write_bytes(DAMAGE[damage])
    assert hub.agents() == expected
    assert hub.agents() == expected
    if damage != "directory":
        assert json.loads(index.read_text())["agents"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_grants_grant_nothing(hub, damage):
    hub.ok("grant", "probe", "environment", "X")
    grants = hub.home / "grants" / "local" / "probe.json"
    grants.write_bytes(DAMAGE[damage])
    hub.fails(4, "run", "probe", "which", says=("probe.json", "damaged"))
    hub.ok("uninstall", "probe")
    assert not grants.exists()


def test_damaged_consents(hub, tmp_path):
    (hub.home / "consents.json").write_bytes(b"{")
    other = write_agent(tmp_path / "b", "other")
    hub.fails(4, "run", other, "which", says=("consents.json", "damaged"))


def test_a_missing_marker_is_made_anew(hub, tmp_path):
    (hub.home / "store.json").unlink()
    assert hub.ok("run", "probe", "which") == "old\n"
    hub.install("--force", write_agent(tmp_path / "b", "new", version="2.0"))
    assert hub.ok("run", "probe", "which") == "new\n"
    assert (hub.home / "store.json").exists()


@pytest.mark.parametrize("gone", ["version", "link", "record", "manifest", "venv", "locks", "staging", "cache"])
def test_parts_that_are_missing(hub, tmp_path, gone):
    import shutil

    (version,) = hub.versions()
    place = {
        "version": version,
        "link": hub.home / "agents" / "local" / "probe",
        "record": version / ".agenthub" / "record.json",
        "manifest": version / "agent.yaml",
        "venv": version / "venv",
    }.get(gone, hub.home / gone)
    place.unlink() if place.is_symlink() or place.is_file() else shutil.rmtree(place)
    for words in (*READS, ["list"]):
        finished = hub.run(*words)
        assert finished.returncode in (0, 3, 4), (words, finished)
        assert len(finished.stderr.splitlines()) <= 4
    hub.install("--force", tmp_path / "a")
    assert hub.ok("run", "probe", "which") == "old\n"
    assert hub.checks("--fix") == []
    assert len(hub.versions()) == 1
    assert hub.leftovers() == []


def test_a_directory_in_the_place_of_an_agent(hub, tmp_path):
    there = write_agent(hub.home / "agents" / "local" / "mine", name="mine")
    new = write_agent(tmp_path / "mine", "new", name="mine")
    hub.fails(4, "install", "--yes", "--force", new, says=(str(there), "did not make"))
    hub.fails(4, "uninstall", "mine", says=(str(there), "did not make"))
    assert (there / "agent.py").exists()
    assert hub.leftovers() == []


def test_foreign_files_in_the_store(hub):
    for path in ("agents/file", "agents/local/file", "versions/file", "staging/file", "cache/workshop/file.lock"):
        (hub.home / path).parent.mkdir(parents=True, exist_ok=True)
        (hub.home / path).write_text("?")
    (hub.home / "agents" / "local" / ".DS_Store").write_text("?")
    os.symlink("nowhere", hub.home / "staging" / "link.lock")
    assert hub.ok("run", "local/probe", "which") == "old\n"
    assert "local/probe" in hub.ok("list")
    assert hub.run("doctor", "--fix").returncode in (0, 4)
    hub.install("--force", hub.root / "a")
    assert hub.ok("run", "local/probe", "which") == "old\n"
