"""Environments through the command: what describes them, which Python they get, and what happens when they break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from agenthub.runtime.environments.tools import find_uv
from tests.support import assert_refused, method, write_agent

CODE = r"""
import importlib.metadata, sys


def versions(names):
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def python():
    return [sys.version.split()[0], sys.prefix]


def imported():
    import six
    return six.__version__
"""
METHODS = {
    "versions": method(names={"type": "array", "required": True}),
    "python": method(),
    "imported": method(),
}
HERE = ".".join(map(str, sys.version_info[:2]))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "worker"


def worker(place, **manifest):
    return write_agent(place, CODE, METHODS, entrypoint="agent", **{"python_version": ">=3.11", **manifest})


def versions(cli, *names):
    return cli.ok("run", "worker", "versions", "--names", ",".join(names)).json


PROJECT = """
[project]
name = "worker"
version = "1.0.0"
requires-python = ">=3.11"
dependencies = ["idna{}"]

[tool.uv]
package = false
"""


def test_requirements_of_the_manifest(cli, place):
    worker(place, dependencies=["idna==3.7", "six>=1.16"])
    cli.ok("install", "--yes", place)
    found = versions(cli, "idna", "six")
    assert found["idna"] == "3.7"
    assert found["six"]
    info = cli.ok("info", "worker", "--json").json
    assert {"name": "idna", "version": "3.7"} in info["dependencies"]


@pytest.mark.parametrize("declared", [True, False])
def test_requirements_txt(cli, place, declared):
    worker(place, **({"dependencies": "requirements.txt"} if declared else {}))
    (place / "requirements.txt").write_text("# a comment\nidna==3.7  # pinned\n")
    cli.ok("install", "--yes", place)
    assert versions(cli, "idna", "six") == {"idna": "3.7", "six": None}


@pytest.mark.parametrize("declared", [True, False])
def test_pyproject(cli, place, declared):
    worker(place, **({"dependencies": "pyproject.toml"} if declared else {}))
    (place / "pyproject.toml").write_text(PROJECT.format("==3.7"))
    cli.ok("install", "--yes", place)
    assert versions(cli, "idna") == {"idna": "3.7"}


def test_a_lock_is_installed_exactly(cli, place):
    worker(place)
    (place / "pyproject.toml").write_text(PROJECT.format("==3.7"))
    subprocess.run([find_uv(), "lock", "-q", "--directory", place], check=True, capture_output=True)
    # The lock counts, although the project would allow something newer by now.
    (place / "pyproject.toml").write_text(PROJECT.format(">=3.7"))
    lock = (place / "uv.lock").read_text().replace('specifier = "==3.7"', 'specifier = ">=3.7"')
    (place / "uv.lock").write_text(lock)
    cli.ok("install", "--yes", place)
    assert versions(cli, "idna") == {"idna": "3.7"}


def test_with_adds_to_what_is_declared(cli, place):
    worker(place, dependencies=["idna==3.7"])
    cli.ok("install", "--yes", "--with", "six", "--with", "idna<4", place)
    found = versions(cli, "idna", "six")
    assert found["idna"] == "3.7"
    assert found["six"]


def test_each_agent_has_its_own(cli, place, tmp_path):
    worker(place, dependencies=["idna==3.7"])
    worker(tmp_path / "other", dependencies=["idna==3.6"])
    cli.ok("install", "--yes", place, tmp_path / "other")
    assert versions(cli, "idna") == {"idna": "3.7"}
    assert cli.ok("run", "other", "versions", "--names", "idna").json == {"idna": "3.6"}


def test_a_dependency_that_does_not_exist_is_named_and_leaves_nothing(cli, place, tmp_path):
    worker(place, dependencies=["six", "idna==99.99"])
    finished = cli("install", "--yes", place)
    assert_refused(finished, 4, "worker", "idna==99.99")
    assert cli.ok("list", "--json").json["agents"] == []
    home = tmp_path / "home"
    assert os.listdir(home / "staging") == []
    assert list(home.glob("versions/*/*/*")) == list(home.glob("agents/*/*")) == []


def test_verbose_shows_all_of_the_tools_reason(cli, place):
    worker(place, dependencies=["six", "idna==99.99"])
    brief = cli("install", "--yes", place).error_lines
    verbose = cli("install", "--yes", "-v", place).err
    assert len(verbose.splitlines()) > len(brief)
    assert "Traceback" in verbose


def test_offline_uses_nothing_but_caches(cli, place, tmp_path, monkeypatch):
    worker(place, dependencies=["six"])
    cli.ok("install", "--yes", place)  # now it is in the cache
    cli.ok("uninstall", "worker")
    cli.ok("install", "--yes", "--offline", place)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    worker(place, dependencies=["six", "idna"])
    assert_refused(cli("install", "--yes", "--offline", "--force", place), 4, "worker", "--offline")


def test_a_failed_replacement_leaves_the_installed_one(cli, place):
    worker(place)
    cli.ok("install", "--yes", place)
    worker(place, dependencies=["idna==99.99"], version="2.0.0")
    assert cli("install", "--yes", "--force", place).code == 4
    assert cli.ok("info", "worker", "--json").json["version"] == "1.0.0"
    assert cli.ok("run", "worker", "python").json


# interpreters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [HERE, f">={HERE}", sys.executable])
def test_python_of_the_user(cli, place, wanted):
    worker(place)
    cli.ok("install", "--yes", "--python", wanted, place)
    version, prefix = cli.ok("run", "worker", "python").json
    assert tuple(map(int, version.split(".")[:2])) >= sys.version_info[:2]
    assert prefix.endswith("/venv")


def test_python_of_the_user_for_an_agent_that_is_not_installed(cli, place):
    worker(place)
    version, _ = cli.ok("run", "--yes", "--python", HERE, "./worker", "python").json
    assert version.startswith(f"{HERE}.")


def test_python_in_the_older_spelling(cli, place):
    worker(place, python_version="3.11+")
    cli.ok("install", "--yes", place)
    assert cli.ok("run", "worker", "python").json


@pytest.mark.parametrize(("manifest", "words"), [({"python_version": ">=3.99"}, []), ({}, ["--python", "3.99"])])
def test_where_no_python_fits_the_versions_at_hand_are_named(cli, place, manifest, words):
    worker(place, **manifest)
    finished = cli("install", "--yes", *words, place)
    assert_refused(finished, 4, "worker", "3.99", HERE)


def test_a_python_that_is_none(cli, place, tmp_path):
    worker(place)
    assert_refused(cli("install", "--yes", "--python", str(tmp_path / "python"), place), 4, str(tmp_path / "python"))


# what breaks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(cli, place):
    """An installed agent that needs six; its real directory."""
    worker(place, dependencies=["six"])
    cli.ok("install", "--yes", place)
    assert cli.ok("run", "worker", "imported").out
    return os.path.realpath(cli.ok("dir", "worker").out.strip())


def _without_interpreter(directory):
    link = os.path.join(directory, "venv", "bin", "python")
    os.unlink(link)
    os.symlink("/nowhere/python3.11", link)


def _without_package(directory):
    [library] = [name for name in os.listdir(os.path.join(directory, "venv", "lib")) if name.startswith("python")]
    packages = os.path.join(directory, "venv", "lib", library, "site-packages")
    for name in os.listdir(packages):
        if name.startswith("six"):
            path = os.path.join(packages, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def _without_environment(directory):
    shutil.rmtree(os.path.join(directory, "venv"))


def test_broken_environments_are_seen_and_rebuilt(cli, installed, place):
    damages = {"worker": _without_interpreter, "second": _without_package, "third": _without_environment}
    for name, damage in damages.items():
        cli.ok("install", "--yes", "--as", f"local/{name}", place)
        damage(cli.ok("dir", name).out.strip())
        assert_refused(cli("run", name, "imported"), 4, name, "environment", "doctor --fix")
    examined = cli("doctor", "--json")
    assert examined.code == 4
    checks = {check["topic"]: check for check in examined.json["checks"]}
    for name in damages:
        assert checks[f"local/{name}"]["state"] == "error"
        assert "doctor --fix" in checks[f"local/{name}"]["remedy"]
    assert cli.ok("doctor", "--fix", "--json").json["healthy"] is True
    for name in damages:
        assert cli.ok("run", name, "imported").out


def test_installing_again_repairs_too(cli, installed, place):
    _without_interpreter(installed)
    cli.ok("install", "--yes", place)
    assert cli.ok("run", "worker", "imported").out


def test_the_envelope_of_a_broken_environment(cli, installed):
    _without_interpreter(installed)
    finished = cli("run", "--json", "worker", "imported")
    assert finished.code == finished.json["exit_code"] == 4
    assert finished.json["error_type"] == "EnvironmentError"
    assert finished.json["agent"]["name"] == "worker"


def test_a_sound_environment_is_not_blamed_for_an_agents_error(cli, place):
    write_agent(place, "def go():\n    import nothing_of_the_kind", entrypoint="agent")
    cli.ok("install", "--yes", place)
    assert_refused(cli("run", "worker", "go"), 1, "worker", "nothing_of_the_kind")


@pytest.mark.slow
def test_without_uv_virtualenv_and_pip_do_it(cli, place, monkeypatch):
    monkeypatch.setenv("AGENTHUB_USE_UV", "off")
    worker(place, dependencies=["six"])
    cli.ok("install", "--yes", place)
    assert cli.ok("run", "worker", "imported").out


def test_an_environment_over_its_size(cli, place, monkeypatch):
    monkeypatch.setenv("AGENTHUB_MAX_VENV_SIZE", "1kB")
    worker(place, dependencies=["six"])
    assert_refused(cli("install", "--yes", place), 4, "worker", "1 kB")
    assert cli.ok("list", "--json").json["agents"] == []
