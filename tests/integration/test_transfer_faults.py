"""Installing from a bundle, and importing, killed in the middle or on a full disk: begun again, they go on."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time

import pytest

from tests.integration.faults_support import Hub, processes_about, tmpfs, until, write_agent
from tests.integration.test_faults_disk import NO_SPACE, files_of, fill
from tests.integration.test_faults_kill import kill

NAMES = ("one", "two", "three")


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def prepare(hub, tmp_path, *words):
    """Three agents with packages, in a file; the hub's home has none of them afterwards."""
    for name in NAMES:
        hub.install(write_agent(tmp_path / name, name, name=name, dependency=True))
        hub.ok("grant", name, "network", "example.org")
    path = tmp_path / ("it.agentbundle" if words[0] == "bundle" else "it.setup")
    hub.ok(*(path if word == "FILE" else word for word in words))
    hub.ok("uninstall", *NAMES)
    return path


def answers(hub):
    """What each of the agents that are there says."""
    installed = [agent["name"] for agent in hub.agents()]
    return {name: hub.ok("run", name, "which").strip() for name in installed}


def wait_for_agents(hub, process, count):
    place = hub.home / "agents" / "local"
    until(lambda: process.poll() is not None or len(list(place.glob("*"))) >= count, f"{count} agents are there")


def kill_again_and_again(hub, command, kills, seed):
    chance = random.Random(seed)
    started = time.monotonic()
    hub.ok(*command)
    length = time.monotonic() - started
    seen = set()
    for number in range(kills):
        if hub.agents():
            hub.ok("uninstall", *(agent["name"] for agent in hub.agents()))
        process = hub.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if number < len(NAMES):  # once so many are there, however fast this machine is
            wait_for_agents(hub, process, number)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=length * 1.1 * (number + chance.random()) / kills)
        kill(hub, process, whole=chance.random() < 0.5)
        until(lambda: not processes_about(hub.root), f"the tools have ended: {processes_about(hub.root)}", 20)
        found = answers(hub)
        assert found == {name: f"{name} {name}" for name in found}
        seen.add(len(found))
        hub.ok(*command)
        assert set(answers(hub)) == set(NAMES)
        assert hub.checks("--fix") == []
        assert [path for path in hub.leftovers() if not path.endswith((".json", "config.toml"))] == []
    return seen


@pytest.mark.slow
def test_an_installation_from_a_bundle_is_killed(hub, tmp_path):
    path = prepare(hub, tmp_path, "bundle", *NAMES, "-o", "FILE")
    seen = kill_again_and_again(hub, ["install", "--yes", path], 15, seed=15)
    assert len(seen) > 1, "the kills missed"


@pytest.mark.slow
def test_an_import_is_killed(hub, tmp_path):
    hub.ok("config", "set", "timeout", "44")
    path = prepare(hub, tmp_path, "export", "--wheels", "FILE")
    (hub.home / "config.toml").unlink()
    seen = kill_again_and_again(hub, ["import", "--yes", "--force", path], 15, seed=51)
    assert len(seen) > 1, "the kills missed"
    assert 'timeout = "44"' in (hub.home / "config.toml").read_text()
    for name in NAMES:
        assert "example.org" in (hub.home / "grants" / "local" / f"{name}.json").read_text()


@pytest.mark.slow
def test_no_space_at_any_point_of_an_installation_from_a_bundle(hub, tmp_path):
    path = prepare(hub, tmp_path, "bundle", "one", "-o", "FILE")
    with tmpfs(tmp_path / "disk") as disk:
        small = Hub(tmp_path, home=disk / "home")
        small.install(write_agent(tmp_path / "old" / "one", "old", name="one"))
        before = files_of(small)
        failed = 0
        for left in (0, *range(8, 2000, 100)):
            fill(small, left << 10)
            finished = small.run("install", "--yes", "--force", path)
            if finished.returncode == 0:
                break
            failed += 1
            assert finished.returncode == 4, finished
            errors = finished.stderr[finished.stderr.index("error: ") :]
            assert NO_SPACE.search(errors), errors
            assert len(errors.splitlines()) <= 4
            assert (left, small.leftovers()) == (left, [])
            assert files_of(small) == before, left
        else:
            raise AssertionError("the room never sufficed")
        assert failed > 2
        assert small.ok("run", "one", "which") == "one one\n"


def test_no_space_for_the_file(hub, tmp_path):
    source = write_agent(tmp_path / "one", "one", name="one")
    (source / "large.bin").write_bytes(bytes(6 << 20))
    hub.install(source)
    with tmpfs(tmp_path / "disk") as disk:
        (disk / "one.agentbundle").write_text("what was there before")
        hub.fails(4, "bundle", "one", "-o", disk / "one.agentbundle", says=("cannot write", NO_SPACE))
        assert [path.name for path in disk.iterdir()] == ["one.agentbundle"]
        assert (disk / "one.agentbundle").read_text() == "what was there before"
        hub.fails(4, "export", disk / "mine.setup", says=("cannot write", NO_SPACE))
        assert [path.name for path in disk.iterdir()] == ["one.agentbundle"]
