"""What happens to versions in the middle of things: kills, runs that go on, full disks, broken environments."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from tests.integration.faults_support import Hub, processes_about, tmpfs, until, write_agent
from tests.integration.test_faults_disk import NO_SPACE, fill
from tests.integration.test_faults_kill import kill
from tests.integration.test_faults_running import finish, running


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def change(hub, number, *, dependency=False):
    """Makes the source of `probe` another version."""
    source = hub.root / "source"
    shutil.rmtree(source, ignore_errors=True)
    return write_agent(source, f"v{number}", version=f"{number}.0", dependency=dependency)


def upgraded(hub, *numbers, dependency=False):
    """`probe`, that was each of these versions."""
    hub.install(change(hub, numbers[0], dependency=dependency))
    for number in numbers[1:]:
        change(hub, number, dependency=dependency)
        hub.ok("upgrade", "--yes", "probe")


def installed(hub):
    return json.loads(hub.ok("use", "--json", "probe"))["versions"]


def assert_whole(hub):
    """The agent answers as the version that it says it is, and every version that is listed can be run."""
    versions = installed(hub)
    assert sum(each["current"] for each in versions) == 1
    for each in versions:
        number = each["version"].partition(".")[0]
        assert hub.ok("run", f"probe@{each['directory']}", "which").split()[0] == f"v{number}"
    current = next(each["version"] for each in versions if each["current"])
    assert hub.ok("run", "probe", "which").split()[0] == f"v{current.partition('.')[0]}"
    return current


def killed_after(hub, seconds, *words, whole=False):
    process = hub.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    died = process.poll() is None
    kill(hub, process, whole=whole)
    until(lambda: not processes_about(hub.root), "its tools have ended", 20)
    return died


def length_of(hub, *words):
    started = time.monotonic()
    hub.ok(*words)
    return time.monotonic() - started


@pytest.mark.slow
def test_upgrades_that_are_killed(hub):
    chance = random.Random(5)
    upgraded(hub, 0, dependency=True)
    change(hub, 1, dependency=True)
    length = length_of(hub, "upgrade", "--yes", "probe")
    before, seen = "1.0", set()
    for number in range(2, 34):
        change(hub, number, dependency=True)
        share = number / 32 if number % 2 else chance.random()
        killed_after(hub, length * 2 * share, "upgrade", "--yes", "probe", whole=chance.random() < 0.5)
        now = assert_whole(hub)
        assert now in (before, f"{number}.0")
        seen.add(now == before)
        before = now
        if number % 8 == 0:
            assert hub.checks("--fix") == []
            assert hub.leftovers() == []
            assert len(hub.versions()) <= 4  # what a prune that was killed left goes with the next one
    assert seen == {True, False}
    change(hub, 50, dependency=True)
    hub.ok("upgrade", "--yes", "probe")
    assert hub.leftovers() == []
    assert len(hub.versions()) == 3
    hub.ok("rollback", "probe")
    assert assert_whole(hub) == before


@pytest.mark.slow
def test_rollbacks_that_are_killed(hub):
    chance = random.Random(6)
    upgraded(hub, 1, 2)
    length = max(length_of(hub, "rollback", "probe") for _ in range(4))
    before, seen = "2.0", set()
    for attempt in range(30):  # later and later, however fast this machine is at the moment
        killed_after(hub, length * (0.4 + attempt / 15 + 0.2 * chance.random()), "rollback", "probe")
        now = assert_whole(hub)
        assert len(installed(hub)) == 2
        seen.add(now == before)
        before = now
    assert seen == {True, False}
    assert hub.checks("--fix") == []
    assert hub.leftovers() == []
    for expected in ("1.0", "2.0") if before == "2.0" else ("2.0", "1.0"):
        hub.ok("rollback", "probe")
        assert assert_whole(hub) == expected


@pytest.mark.slow
def test_collections_that_are_killed(hub):
    chance = random.Random(7)
    hub.variables["AGENTHUB_KEEP_VERSIONS"] = "9"
    upgraded(hub, 0, dependency=True)
    length, seen = 0.0, set()
    for attempt in range(12):
        while len(hub.versions()) < 4:
            change(hub, hub_number := random.randrange(10, 10_000), dependency=True)
            hub.ok("upgrade", "--yes", "probe")
            newest = f"{hub_number}.0"
        if not length:
            length = length_of(hub, "gc", "--dry-run", "--keep", "0")
        killed_after(hub, length * (0.2 + attempt / 4 + 0.2 * chance.random()), "gc", "--keep", "0")
        assert assert_whole(hub) == newest
        seen.add(len(hub.versions()))
        if attempt % 5 == 4:
            assert hub.checks("--fix") == []
            assert hub.leftovers() == []
    hub.ok("gc", "--keep", "0")
    assert hub.leftovers() == []
    assert len(hub.versions()) == 1
    assert len(seen) > 1, "no kill came in time, or each came before anything was done"


def test_a_version_that_a_run_uses_stays(hub, tmp_path):
    upgraded(hub, 1, 2)
    with running(hub, tmp_path, "probe@1.0") as process:
        found = json.loads(hub.ok("gc", "--keep", "0", "--json"))["found"]
        assert [(each["kind"], each["in_use"]) for each in found] == [("version", True)]
        hub.fails(4, "uninstall", "probe", says="is running")
        code, output, _ = finish(process, tmp_path)
    assert (code, output.split()[0]) == (0, "v1")
    found = json.loads(hub.ok("gc", "--keep", "0", "--json", "--dry-run"))["found"]
    assert [(each["kind"], each["in_use"]) for each in found] == [("version", False)]
    assert found[0]["size"] > 0
    assert len(hub.versions()) == 2
    assert "removed 1 thing" in hub.run("gc", "--keep", "0").stderr
    assert len(hub.versions()) == 1
    assert "nothing to remove" in hub.run("gc").stderr


@pytest.mark.slow
def test_an_upgrade_while_a_run_goes_on(hub, tmp_path):
    hub.variables["AGENTHUB_KEEP_VERSIONS"] = "0"
    upgraded(hub, 1)
    with running(hub, tmp_path) as process:
        change(hub, 2)
        hub.ok("upgrade", "--yes", "probe")
        assert hub.ok("run", "probe", "which") == "v2\n"
        assert len(hub.versions()) == 2
        code, output, errors = finish(process, tmp_path)
    assert (code, output) == (0, "v1 # last line of v1\n"), errors
    change(hub, 3)
    hub.ok("upgrade", "--yes", "probe")
    assert len(hub.versions()) == 1  # the one that had been in use went as well


@pytest.mark.slow
def test_what_is_kept_loaded_of_a_version_ends_with_it(hub):
    upgraded(hub, 1, 2)
    hub.ok("warm", "probe")
    try:
        assert hub.ok("run", "probe@1.0", "which") == "v1\n"
        hub.ok("rollback", "probe")
        assert hub.ok("run", "probe", "which") == "v1\n"
        until(lambda: not json.loads(hub.ok("ps", "--json"))["workers"], "the worker of 2.0 has ended")
        hub.ok("warm", "probe")
        assert [worker["version"] for worker in json.loads(hub.ok("ps", "--json"))["workers"]] == ["1.0"]
        assert hub.ok("run", "probe", "which") == "v1\n"
    finally:
        hub.run("stop", "probe")


@pytest.mark.slow
def test_runs_by_version_while_versions_come_and_go(hub):
    """Each either answers as the version that it asked for, or says that this one is not installed."""
    upgraded(hub, 1)
    done, outcomes = threading.Event(), []

    def run():
        while not done.is_set():
            finished = hub.run("run", "probe@1.0", "which")
            outcomes.append((finished.returncode, finished.stdout, finished.stderr))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 8):
            change(hub, number)
            hub.ok("upgrade", "--yes", "probe")
            hub.run("gc", "--keep", "0")
            change(hub, 1)
            hub.ok("upgrade", "--yes", "probe")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert {(code, output) for code, output, _ in outcomes} <= {(0, "v1\n"), (3, "")}, outcomes
    assert any(code == 0 for code, *_ in outcomes)
    assert all("1.0" in errors for code, _, errors in outcomes if code == 3), outcomes


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        hub = Hub(tmp_path, home=disk / "home")
        upgraded(hub, 1, 2)
        source = change(hub, 3)
        (source / "weights.bin").write_bytes(bytes(8 << 20))
        hub.fails(4, "upgrade", "--yes", "probe", says=NO_SPACE)
        assert assert_whole(hub) == "2.0"
        assert hub.leftovers() == []
        ballast = fill(hub)
        for words in (("rollback", "probe"), ("use", "probe@1.0"), ("pin", "probe")):
            finished = hub.run(*words)
            assert finished.returncode in (0, 4), finished
            assert finished.returncode == 0 or NO_SPACE.search(finished.stderr)
        ballast.unlink()
        assert assert_whole(hub) in ("1.0", "2.0")
        hub.ok("doctor", "--fix")
        assert hub.leftovers() == []
        (source / "weights.bin").unlink()
        hub.ok("unpin", "probe")
        hub.ok("upgrade", "--yes", "probe")
        assert assert_whole(hub) == "3.0"


@pytest.mark.slow
def test_a_version_whose_environment_broke(hub):
    upgraded(hub, 1, 2, dependency=True)
    shutil.rmtree(hub.home / "versions" / "local" / "probe" / f"{installed(hub)[1]['directory']}" / "venv")
    hub.fails(4, "rollback", "probe", says=("local/probe 1.0 cannot be used", "environment is broken", "--rebuild"))
    hub.fails(4, "use", "probe@1.0", says=("local/probe 1.0 cannot be used", "--rebuild"))
    assert hub.ok("run", "probe", "which") == "v2 v2\n"
    hub.ok("rollback", "--rebuild", "probe")
    assert hub.ok("run", "probe", "which") == "v1 v1\n"


@pytest.mark.slow
def test_a_way_back_from_what_is_broken(hub):
    upgraded(hub, 1, 2)
    shutil.rmtree((hub.home / "agents" / "local" / "probe").resolve())
    hub.fails(4, "run", "probe", "which", says="is broken")
    hub.ok("rollback", "probe")
    assert hub.ok("run", "probe", "which") == "v1\n"


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 99}', '{"schema_version": 1, "previous": 7}'])
def test_a_damaged_state(hub, content):
    upgraded(hub, 1, 2)
    state = hub.home / "states" / "local" / "probe.json"
    state.write_text(content)
    finished = hub.run("rollback", "probe")
    assert finished.returncode in (3, 4), finished
    assert "probe.json" in finished.stderr or "no earlier version" in finished.stderr
    assert hub.ok("run", "probe", "which") == "v2\n"
    state.unlink()
    assert "1.0" in hub.ok("use", "probe")
    hub.ok("use", "probe@1.0")


@pytest.mark.slow
def test_upgrades_at_once(hub):
    upgraded(hub, 1)
    change(hub, 2)
    processes = [hub.start("upgrade", "--yes", "--json", "probe") for _ in range(6)]
    finished = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for *_, code in finished] == [0] * 6, finished
    assert sum(json.loads(output)["agents"][0]["changed"] for output, *_ in finished) == 1
    assert assert_whole(hub) == "2.0"
    hub.ok("rollback", "probe")
    assert assert_whole(hub) == "1.0"


@pytest.mark.slow
def test_rollbacks_at_once(hub):
    upgraded(hub, 1, 2)
    processes = [hub.start("rollback", "probe") for _ in range(7)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert assert_whole(hub) == "1.0"  # each went to the other one
    assert hub.leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_upgrade_leaves_nothing(hub, number):
    upgraded(hub, 1, dependency=True)
    change(hub, 2, dependency=True)
    process = hub.start("upgrade", "--yes", "probe")
    until(lambda: any((hub.home / "staging").iterdir()) or process.poll() is not None, "it has begun")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if "✓" not in errors:
        assert process.returncode in (130, -signal.SIGINT), errors
    assert "Traceback" not in errors
    assert hub.leftovers() == []
    assert assert_whole(hub) in ("1.0", "2.0")


@pytest.mark.slow
def test_what_nobody_refers_to_goes(hub):
    """A version that only a project uses stays as long as the project; a build that was killed does not."""
    upgraded(hub, 1)
    project = hub.root / "project"
    project.mkdir()
    (project / "agents.toml").write_text("[agents]\n")
    hub.ok("add", "--yes", hub.root / "source", cwd=project)
    for number in (2, 3):
        change(hub, number)
        hub.ok("upgrade", "--yes", "probe")
    started = subprocess.Popen(["true"])
    started.wait()
    partial = hub.versions()[0] / f"venv.{started.pid}.partial"
    partial.mkdir()
    found = json.loads(hub.ok("gc", "--keep", "0", "--dry-run", "--json"))["found"]
    assert {each["kind"] for each in found} == {"leftover", "version"}
    assert partial.exists()
    hub.ok("gc", "--keep", "0")
    assert not partial.exists()
    assert [path.name.partition("-")[0] for path in hub.versions()] == ["1.0", "3.0"]
    assert hub.ok("run", "probe", "which", cwd=project) == "v1\n"
    hub.fails(3, "use", "probe@1.0", says="installed: 3.0")  # it is the project's
    hub.ok("uninstall", "probe")
    assert hub.ok("run", "probe", "which", cwd=project) == "v1\n"
    shutil.rmtree(project)
    kinds = {each["kind"] for each in json.loads(hub.ok("gc", "--json"))["found"]}
    assert "project" in kinds
    assert hub.versions() == []
