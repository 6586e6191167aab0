"""What is removed or replaced under a run, and tools and interpreters that are missing or broken."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.integration.faults_support import Hub, until, write_agent


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


@contextlib.contextmanager
def running(hub, tmp_path, agent="probe"):
    """A run that has begun, and ends when the file `go` is in its directory."""
    place = tmp_path / "place"
    place.mkdir()
    process = hub.start("run", "--timeout", "30", agent, "wait", "--place", place)
    until(lambda: (place / "here").exists() or process.poll() is not None, "the run has begun")
    assert process.poll() is None, process.communicate()
    try:
        yield process
    finally:
        (place / "go").touch()
        process.communicate(timeout=30)


def finish(process, tmp_path):
    (tmp_path / "place" / "go").touch()
    output, errors = process.communicate(timeout=30)
    assert "agenthub/runtime" not in errors
    return process.returncode, output, errors


def assert_clear_end(code, output, errors):
    """It finished, or failed in a few lines that are the agent's or ours to say."""
    if code == 0:
        return
    assert code in (1, 4), errors
    lines = errors[errors.index("error: ") :].splitlines()
    assert len(lines) <= 4
    assert "agenthub itself failed" not in errors


def test_the_agent_is_deleted_in_the_middle(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a"))
    (version,) = hub.versions()
    with running(hub, tmp_path) as process:
        shutil.rmtree(version)
        assert_clear_end(*finish(process, tmp_path))
    hub.fails(4, "run", "probe", "which", says=("probe is broken", "install it again"))
    hub.install(tmp_path / "a")
    assert hub.ok("run", "probe", "which") == "one\n"


def test_the_environment_is_deleted_in_the_middle(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a", dependency=True))
    (version,) = hub.versions()
    with running(hub, tmp_path) as process:
        shutil.rmtree(version / "venv")
        assert_clear_end(*finish(process, tmp_path))
    hub.fails(4, "run", "probe", "which", says=("local/probe", "environment", "agenthub doctor --fix"))
    assert hub.checks("--fix") == []
    assert hub.ok("run", "probe", "which") == "one one\n"


def test_a_module_that_is_deleted_in_the_middle(hub, tmp_path):
    """What the environment explains is said to be the environment's, though the agent raised it."""
    source = write_agent(tmp_path / "a", dependency=True)
    agent = source / "agent.py"
    agent.write_text(agent.read_text().replace("return which()", "import telltale_late\n    return which()"))
    hub.install(source)
    (version,) = hub.versions()
    with running(hub, tmp_path) as process:
        (info,) = version.glob("venv/lib/python*/site-packages/telltale-1.0.dist-info")
        shutil.rmtree(info)
        code, _, errors = finish(process, tmp_path)
    assert code == 4
    assert "the environment of local/probe is broken: telltale 1.0 is missing" in errors
    assert "agenthub doctor --fix" in errors


def test_uninstalling_during_a_run_is_refused(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a"))
    with running(hub, tmp_path) as process:
        hub.fails(4, "uninstall", "probe", says=("probe is running", "--force"))
        assert hub.ok("run", "probe", "which") == "one\n"
        code, output, _ = finish(process, tmp_path)
    assert (code, output.startswith("one # last line")) == (0, True)
    hub.ok("uninstall", "probe")
    assert hub.versions() == []
    assert hub.leftovers() == []


def test_a_forced_uninstall_during_a_run(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a"))
    with running(hub, tmp_path) as process:
        hub.ok("uninstall", "--force", "probe")
        assert hub.agents() == []
        assert_clear_end(*finish(process, tmp_path))
    assert hub.versions() == []
    assert hub.leftovers() == []


def test_an_upgrade_during_a_run(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a", "old"))
    with running(hub, tmp_path) as process:
        hub.install("--force", write_agent(tmp_path / "b", "new", version="2.0"))
        assert hub.ok("run", "probe", "which") == "new\n"
        assert len(hub.versions()) == 2
        hub.install("--force", tmp_path / "b")  # the old one is still in use, and stays
        assert next(path.name.partition("-")[0] for path in hub.versions()) == "1.0"
        code, output, _ = finish(process, tmp_path)
    assert (code, output) == (0, "old # last line of old\n")
    assert hub.ok("run", "probe@1.0", "which") == "old\n"  # a way back
    hub.ok("gc", "--keep", "0")
    assert len(hub.versions()) == 1
    assert hub.leftovers() == []


def test_a_run_that_is_killed_holds_nothing(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a"))
    with running(hub, tmp_path) as process:
        process.kill()
        process.wait()
        hub.ok("uninstall", "probe")
    assert hub.versions() == []


# tools


def command_without(tmp_path, hub, *missing):
    """An agenthub of its own environment, in which the modules `missing` are not installed."""
    import agenthub

    venv = tmp_path / "without"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    (site,) = venv.glob("lib/python*/site-packages")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    for name in os.listdir(ours):
        package = name.partition("-")[0].removesuffix(".py").lower()
        if package not in (*missing, "agenthub", "__pycache__", "_agenthub.pth") and not name.endswith(".pth"):
            (site / name).symlink_to(os.path.join(ours, name))
    (site / "ours.pth").write_text(os.path.dirname(os.path.dirname(agenthub.__file__)) + "\n")
    hub.command = [str(venv / "bin" / "python"), "-m", "agenthub"]
    hub.variables["PATH"] = "/usr/bin:/bin"


def test_without_uv(hub, tmp_path):
    source = write_agent(tmp_path / "a", dependency=True)
    hub.install(source)
    command_without(tmp_path, hub, "uv")
    new = write_agent(tmp_path / "b", "new", version="2.0", dependency=True)
    hub.fails(4, "install", "--yes", "--force", new, says=("uv", "missing", "pip install", "AGENTHUB_USE_UV=false"))
    assert hub.leftovers() == []
    assert hub.ok("run", "probe", "which") == "one one\n"
    assert "probe" in hub.ok("list")
    (check,) = hub.checks()
    assert check["topic"] == "uv"
    assert "pip install" in check["remedy"]
    hub.install("--force", new, env={"AGENTHUB_USE_UV": "false"})
    assert hub.ok("run", "probe", "which") == "new new\n"


def test_without_uv_and_virtualenv(hub, tmp_path):
    command_without(tmp_path, hub, "uv", "virtualenv")
    source = write_agent(tmp_path / "a")
    says = ("virtualenv", "missing", "pip install virtualenv")
    hub.fails(4, "install", "--yes", source, env={"AGENTHUB_USE_UV": "false"}, says=says)
    assert hub.leftovers() == []


@pytest.mark.parametrize("damage", ["garbage", "not executable", "crashes", "empty", "dangling"])
def test_a_broken_uv(hub, tmp_path, damage):
    command_without(tmp_path, hub, "uv")
    uv = tmp_path / "without" / "bin" / "uv"
    uv.write_text({"garbage": "\x7fELF nonsense", "empty": "", "crashes": "#!/bin/sh\nkill -SEGV $$\n"}.get(damage, ""))
    uv.chmod(0o644 if damage == "not executable" else 0o755)
    if damage == "dangling":
        uv.unlink()
        uv.symlink_to("nowhere")
    hub.fails(4, "install", "--yes", write_agent(tmp_path / "a"), says=("uv",))
    assert hub.leftovers() == []
    assert hub.agents() == []


def test_without_git(hub, tmp_path):
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    hub.variables["PATH"] = str(bin_directory)
    hub.fails(4, "install", "--yes", f"git+file://{tmp_path}", says=("git is not installed", "install git"))
    assert hub.leftovers() == []
    hub.install(write_agent(tmp_path / "a"))  # and nothing at all on PATH is needed else
    assert hub.ok("run", "probe", "which") == "one\n"
    assert "git" in hub.ok("doctor")


def test_a_git_that_fails(hub, tmp_path):
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'fatal: the moon is full' >&2\nexit 128\n")
    fake.chmod(0o755)
    hub.variables["PATH"] = f"{fake.parent}:/usr/bin:/bin"
    hub.fails(4, "install", "--yes", f"git+file://{tmp_path}", says=("the moon is full",))
    fake.chmod(0o644)
    hub.variables["PATH"] = str(fake.parent)
    hub.fails(4, "install", "--yes", f"git+file://{tmp_path}", says=("git",))
    assert hub.leftovers() == []


# interpreters


BREAK = {
    "dangling": lambda python: python.symlink_to("/nowhere/python3"),
    "garbage": lambda python: (python.write_bytes(b"\x7fELF nonsense"), python.chmod(0o755)),
    "no program": lambda python: (python.write_bytes(b"nonsense"), python.chmod(0o755)),
    "not executable": lambda python: (python.write_bytes(b"\x7fELF"), python.chmod(0o644)),
    "crashes": lambda python: (python.write_text("#!/bin/sh\nkill -SEGV $$\n"), python.chmod(0o755)),
    "mute": lambda python: (python.write_text("#!/bin/sh\nexit 0\n"), python.chmod(0o755)),
    "directory": lambda python: python.mkdir(),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_interpreter(hub, tmp_path, how):
    hub.install(write_agent(tmp_path / "a"))
    (version,) = hub.versions()
    python = version / "venv" / "bin" / "python"
    python.unlink()
    BREAK[how](python)
    finished = hub.run("run", "probe", "which")
    assert finished.returncode == (1 if how in ("crashes", "mute") else 4), finished  # only a start shows those two
    assert len(finished.stderr.splitlines()) <= 4
    assert "probe" in finished.stderr or str(python) in finished.stderr
    if how == "mute":  # which only a start shows
        (check,) = hub.checks()
        assert (check["topic"], check["remedy"]) == ("local/probe", "agenthub doctor --fix")
    assert "local/probe: its environment was rebuilt" in hub.ok("doctor", "--fix")
    assert hub.ok("run", "probe", "which") == "one\n"
    assert hub.leftovers() == []


@pytest.mark.parametrize("how", [how for how in BREAK if how != "directory"])
def test_a_broken_interpreter_to_install_with(hub, tmp_path, how):
    python = tmp_path / "python"
    BREAK[how](python)
    hub.fails(4, "install", "--yes", "--python", python, write_agent(tmp_path / "a"), says=(str(python),))
    assert hub.leftovers() == []
    assert hub.agents() == []


def test_a_failed_repair_says_so(hub, tmp_path):
    """The wheel it was made from cannot be had any more: it stays broken, and nothing is left beside it."""
    hub.install(write_agent(tmp_path / "a", dependency=True))
    (version,) = hub.versions()
    shutil.rmtree(version / "venv")
    (version / "telltale-1.0-py3-none-any.whl").unlink()
    (check,) = hub.checks("--fix")
    assert check["topic"] == "local/probe"
    assert "telltale" in check["message"]
    assert hub.leftovers() == []
    assert json.loads(hub.ok("info", "probe", "--json"))["version"] == "1.0"
