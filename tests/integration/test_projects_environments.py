"""Environments from a lock: whatever declares the dependencies, each package is what was locked, on the disk once."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from agenthub.errors import EnvironmentError
from agenthub.runtime.environments.pins import Pin, format_pins, parse_pins
from agenthub.runtime.environments.tools import find_uv
from tests.integration.project_support import agent
from tests.support import assert_refused

ANSWER = "import six\n\n\ndef go():\n    return six.__version__\n"
HASH = f"sha256:{'a' * 64}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_agents_with_the_same_packages_take_the_disk_of_one(cli, project):
    """Also where uv cannot link from its cache, as on another file system: it copies then, as here."""
    os.environ["UV_LINK_MODE"] = "copy"
    try:
        for name in ("one", "two"):
            agent(project / name, name, name=name, wheel=True)
        paths = [each["path"] for each in cli.ok("add", "--yes", "--json", "./one", "./two").json["agents"]]
    finally:
        del os.environ["UV_LINK_MODE"]
    first, second = (
        {str(file.relative_to(path)): file.stat().st_ino for file in Path(path, "venv").rglob("*") if file.is_file()}
        for path in paths
    )
    modules = [file for file in first if "/site-packages/tiny" in file]
    assert len(modules) >= 4
    assert [file for file in modules if first[file] != second[file]] == []
    assert cli.ok("run", "two", "go").out == "two\n"
    cli.ok("remove", "one")
    assert cli.ok("run", "two", "go").out == "two\n"


@pytest.mark.parametrize(
    "line",
    [
        "six",
        "six>=1",
        "six==1 --hash=md5:abc",
        "six==1",
        "-e . --hash=" + HASH,
        "--index-url https://example.org --hash=" + HASH,
        "six @ git+https://example.org/six --hash=" + HASH,
        "six @ file:///tmp/six.whl --hash=" + HASH,
        "/tmp/six.whl --hash=" + HASH,
        "./../six.whl --hash=" + HASH,
        "six==1 ; python_version > '3' ''' --hash=" + HASH,
        "six==1\\\n--index-url=x --hash=" + HASH,
    ],
)
def test_what_has_no_hash_is_no_pin(line):
    with pytest.raises(EnvironmentError, match="x depends on"):
        parse_pins(line, "x")


def test_pins_are_read_as_they_are_written():
    pins = (
        Pin("./wheels/tiny-1.0-py3-none-any.whl", (HASH,)),
        Pin("requests[socks,use-chardet]==2.1.post1+local", (HASH, f"sha512:{'b' * 128}")),
        Pin("six==1.17.0 ; python_full_version < '3.12' and sys_platform == 'win32'", (HASH,)),
        Pin("x @ https://example.org/x-1.whl#sha=1 ; sys_platform == 'linux'", (HASH,)),
    )
    assert parse_pins(format_pins(pins), "x") == pins


@pytest.mark.slow
@pytest.mark.parametrize("use_uv", ["true", "false"])
@pytest.mark.parametrize("kind", ["manifest", "requirements.txt", "pyproject.toml", "uv.lock", "own project"])
def test_every_way_to_declare_dependencies(cli, project, monkeypatch, kind, use_uv):
    monkeypatch.setenv("AGENTHUB_USE_UV", use_uv)
    directory = project / "one"
    manifest = {"dependencies": ["six"]} if kind == "manifest" else {}
    agent(directory, "", name="one", **manifest, entrypoint="one" if kind == "own project" else "agent")
    (directory / "agent.py").write_text(ANSWER)
    if kind == "requirements.txt":
        (directory / kind).write_text("six>=1.15,<2  # a comment\n")
    elif kind != "manifest":
        text = '[project]\nname = "one"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["six"]\n'
        (directory / "pyproject.toml").write_text(text)
    if kind == "uv.lock":
        subprocess.run([find_uv(), "lock", "--quiet"], cwd=directory, check=True)
    if kind == "own project":
        with open(directory / "pyproject.toml", "a") as file:
            file.write('[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n')
        (directory / "src/one").mkdir(parents=True)
        (directory / "agent.py").rename(directory / "src/one/__init__.py")
    cli.ok("add", "--yes", "./one")
    lock = (project / "agents.lock").read_text()
    [version] = re.findall(r"^six==(\S+) \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert cli.ok("run", "one", "go").out == f"{version}\n"
    assert lock.count("==") == 1
    (project / "agents.lock").write_text(re.sub(r"sha256:\w{64}( \\)?$", f"sha256:{'0' * 64}\\1", lock, flags=re.M))
    text = re.sub(
        r'digest = "sha256:0+"', re.search('digest = "[^"]*"', lock)[0], (project / "agents.lock").read_text()
    )
    (project / "agents.lock").write_text(text)
    assert_refused(cli("sync", "--frozen", "--yes"), 4, "one", "six")


@pytest.mark.slow
def test_an_older_version_of_a_package_stays_locked(cli, project):
    agent(project / "one", 1, name="one", dependencies=["six<1.17"])
    cli.ok("add", "--yes", "--no-sync", "./one")
    before = (project / "agents.lock").read_text()
    agent(project / "one", 1, name="one", dependencies=["six"])
    cli.ok("lock", "--yes")
    assert "six==1.16.0" in before
    assert "six==1.16.0" in (project / "agents.lock").read_text()
    shown = cli.ok("lock", "--yes", "--upgrade", "one").err
    assert "-six==1.16.0, +six==" in shown


@pytest.mark.slow
def test_the_projects_python_counts(cli, project):
    agent(project / "one", 1, name="one", wheel=True, python_version=">=3.8")
    (project / "agents.toml").write_text('[project]\npython = ">=3.11"\n[agents]\n"local/one" = {path = "one"}\n')
    cli.ok("sync", "--yes")
    assert 'python = ">=3.8,>=3.11"' in (project / "agents.lock").read_text()
    (project / "agents.toml").write_text('[project]\npython = "<3.5"\n[agents]\n"local/one" = {path = "one"}\n')
    assert "asked for Python" in cli("sync", "--check").out or "asks for Python <3.5" in cli("sync", "--check").out
    assert_refused(cli("sync", "--yes"), 4, "no Python fits")
