"""An installation that is killed, stopped or raced leaves the old agent or the new one, complete."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.integration.faults_support import Hub, processes_about, until, write_agent

OLD, NEW = "old old", "new new"


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


@pytest.fixture
def agents(tmp_path):
    return (
        write_agent(tmp_path / "old", "old", version="1.0", dependency=True),
        write_agent(tmp_path / "new", "new", version="2.0", dependency=True),
    )


def start_install(hub, source):
    return hub.start("install", "--yes", "--force", source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(hub, process, whole):
    """kill -9 of the command, and with `whole` of all that it started."""
    if whole:
        process.send_signal(signal.SIGSTOP)
        for pid in processes_about(hub.root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def check_after_kill(hub, allowed):
    """The agent answers as one of `allowed` (None: is not there), as `list` says; returns which."""
    run = hub.run("run", "local/probe", "which")
    listed = {agent["version"]: agent for agent in hub.agents()}
    if run.returncode == 3:
        assert None in allowed
        assert listed == {}
        return None
    assert (run.returncode, run.stdout.strip()) in [(0, answer) for answer in allowed], run
    assert list(listed) == ["1.0" if run.stdout.strip() == OLD else "2.0"]
    return run.stdout.strip()


def kill_again_and_again(hub, agents, kills, seed):
    """Kills at moments spread over the whole length of an installation, first fresh ones, then replacements."""
    chance = random.Random(seed)
    old, new = agents
    hub.install(old)
    started = time.monotonic()
    hub.install("--force", new)
    length = time.monotonic() - started
    seen = set()
    for number in range(kills):
        fresh = number % 3 == 0
        if fresh and hub.agents():
            hub.ok("uninstall", "probe")
        source, before = (new, old) if number % 2 else (old, new)
        expected = NEW if source is new else OLD
        if not fresh:
            hub.install("--force", before)
        allowed = {expected, None if fresh else (OLD if before is old else NEW)}
        process = start_install(hub, source)
        # Half of them swept, half of them at random, over a little more than it takes.
        share = (number + chance.random()) / kills if number % 4 < 2 else chance.random()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=length * 1.1 * share)
        kill(hub, process, whole=chance.random() < 0.5)
        until(lambda: not processes_about(hub.root), f"the tools have ended: {processes_about(hub.root)}", 20)
        answer = check_after_kill(hub, allowed)
        seen.add((fresh, answer == expected))
        if number % 4 == 3:
            assert hub.checks("--fix") == []
            assert hub.leftovers() == []
            assert len(hub.versions()) <= 3
    assert hub.checks("--fix") == []
    assert hub.leftovers() == []
    hub.install("--force", new)
    assert check_after_kill(hub, {NEW}) == NEW
    assert len(hub.versions()) <= 3
    return seen


@pytest.mark.slow
def test_kill_at_any_instant(hub, agents):
    kill_again_and_again(hub, agents, 12, seed=12)


@pytest.mark.slow
def test_kill_at_every_instant(hub, agents):
    seen = kill_again_and_again(hub, agents, 90, seed=90)
    # Kills that hit before the change and after it, both for fresh installs and for replacements: else they missed.
    assert seen >= {(True, False), (False, False)}


def slow_tool(tmp_path):
    """An agent whose environment takes for ever to make: its project's build backend sleeps, and tells where it is."""
    source = write_agent(tmp_path / "slow", "slow")
    (source / "pyproject.toml").write_text(
        '[project]\nname = "slow"\nversion = "1"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "backend.py").write_text(
        "import os, subprocess, sys, time\n"
        "def build_wheel(*arguments, **options):\n"
        f"    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', {str(tmp_path)!r}])\n"
        f"    open({str(tmp_path / 'building')!r}, 'w').close()\n"
        "    time.sleep(600)\n"
        "prepare_metadata_for_build_wheel = build_wheel\n"
    )
    manifest = source / "agent.yaml"
    manifest.write_text(manifest.read_text().replace("entrypoint: agent", "entrypoint: agent\ndependencies: ['.']"))
    return source


def start_slow_install(hub, tmp_path):
    process = hub.start("install", "--yes", slow_tool(tmp_path))
    until(
        lambda: (tmp_path / "building").exists() or process.poll() is not None,
        "the build has begun",
    )
    assert process.poll() is None, process.communicate()
    return process


def test_the_tools_end_with_a_killed_install(hub, tmp_path):
    process = start_slow_install(hub, tmp_path)
    process.kill()
    process.communicate()
    until(lambda: not processes_about(tmp_path), f"they have ended: {processes_about(tmp_path)}", 20)
    hub.install(write_agent(tmp_path / "next", "next", name="next"))
    assert hub.ok("run", "next", "which") == "next\n"
    assert hub.checks("--fix") == []
    assert hub.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_install_leaves_nothing(hub, tmp_path, number):
    process = start_slow_install(hub, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors[errors.index("error:") :].splitlines() == ["error: interrupted"]
    assert processes_about(tmp_path) == {}
    assert hub.leftovers() == []
    assert hub.versions() == []
    assert hub.agents() == []


@pytest.mark.slow
def test_signals_at_any_instant_of_an_install(hub, agents):
    """From its first entry in the store on: before, Python itself is starting, and after its last line it has ended."""
    chance = random.Random(8)
    hub.install(agents[0])
    started = time.monotonic()
    hub.install("--force", agents[0])
    length = time.monotonic() - started
    for number in range(8):
        process = hub.start("install", "--yes", "--force", agents[number % 2])
        until(lambda process=process: any((hub.home / "staging").iterdir()) or process.poll() is not None, "it began")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=length * 0.7 * (number + chance.random()) / 8)
        process.send_signal(chance.choice([signal.SIGTERM, signal.SIGINT]))
        _, errors = process.communicate(timeout=60)
        if "✓" not in errors:
            # Both are 130 to a shell; Python takes the way of the signal where it hit in the middle of an `eval`.
            assert process.returncode in (130, -signal.SIGINT), errors
            assert "Traceback" not in errors
        assert processes_about(hub.root) == {}
        assert hub.leftovers() == []
        check_after_kill(hub, {OLD, NEW})


@pytest.mark.parametrize("before", ["versions", "grants"])
def test_an_uninstall_that_was_killed_between_its_steps(hub, tmp_path, before):
    """As kill -9 leaves it: the link is gone; what remains is nobody's, and must not be granted to who comes next."""
    hub.install(write_agent(tmp_path / "a"))
    hub.ok("grant", "probe", "environment", "TELLTALE")
    (hub.home / "agents" / "local" / "probe").unlink()
    if before == "grants":
        shutil.rmtree(hub.home / "versions")
    assert hub.agents() == []
    assert "removed 1 leftover" in hub.ok("doctor", "--fix")
    assert hub.versions() == []
    assert hub.leftovers() == []
    assert list((hub.home / "grants").glob("*/*")) == []
    assert list((hub.home / "locks").iterdir()) == []
    assert "leftover" not in hub.ok("doctor", "--fix")


@pytest.mark.slow
def test_uninstalls_that_are_killed(hub, agents):
    for number in range(4):
        hub.install(agents[0])
        process = hub.start("uninstall", "probe", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Its work is done in the last few milliseconds.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.04 + 0.015 * number)
        kill(hub, process, whole=False)
        check_after_kill(hub, {OLD, None})
    hub.ok("doctor", "--fix")
    assert hub.leftovers() == []
    assert len(hub.versions()) == len(hub.agents())


def test_an_install_that_was_killed_before_it_was_current(hub, agents):
    """Complete, with its record, and never linked: the next command removes it."""
    hub.install(agents[0])
    hub.install(agents[1], "--as", "other/probe")
    (version,) = (hub.home / "versions" / "other" / "probe").iterdir()
    (hub.home / "agents" / "other" / "probe").unlink()
    note = hub.home / "staging" / "0123456789abcdef.lock"
    note.write_text(str(version))
    hub.install("--force", agents[0])
    assert not version.exists()
    assert hub.leftovers() == []
    assert check_after_kill(hub, {OLD}) == OLD


# many at once


def wait_all(processes):
    return [(*process.communicate(timeout=60), process.returncode) for process in processes]


def test_ten_installs_of_the_same_content(hub, agents):
    processes = [hub.start("install", "--yes", "--json", agents[0]) for _ in range(10)]
    finished = wait_all(processes)
    assert [code for *_, code in finished] == [0] * 10, finished
    reports = [json.loads(output)["agents"][0] for output, *_ in finished]
    assert sum(report["changed"] for report in reports) == 1
    assert len({report["path"] for report in reports}) == 1
    assert_one_version(hub)


def test_ten_installs_of_different_content(hub, tmp_path):
    sources = [write_agent(tmp_path / str(n), str(n), version=f"{n}.0", dependency=n % 2 == 0) for n in range(10)]
    finished = wait_all([hub.start("install", "--yes", "--force", source) for source in sources])
    assert [code for *_, code in finished] == [0] * 10, finished
    version = assert_one_version(hub)
    number = version.partition(".")[0]
    assert hub.ok("run", "probe", "which").split() == [number] * (2 if int(number) % 2 == 0 else 1)


def test_installs_against_uninstalls(hub, agents):
    processes = []
    for _ in range(4):
        processes += [hub.start("install", "--yes", "--force", agents[1]), hub.start("uninstall", "probe")]
    for _, errors, code in wait_all(processes):
        assert code == 0 or (code == 3 and "is installed" in errors) or (code == 4 and "running" in errors), errors
        assert "Traceback" not in errors
    assert hub.leftovers() == []
    check_after_kill(hub, {NEW, None})


def assert_one_version(hub):
    (agent,) = hub.agents()
    assert agent["version"] == json.loads(hub.ok("info", "probe", "--json"))["version"]
    assert len(hub.versions()) <= 3  # it, and those that it may go back to
    assert hub.leftovers() == []
    assert hub.checks() == []
    return agent["version"]
