"""Agents of indexes that are run without being installed: consent, the cache, its bound, and what is in use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agenthub.config import Paths
from agenthub.runtime.agents.run_cache import cached_store
from agenthub.runtime.environments.replacing import replacing
from tests.integration.bad_index_server import serving
from tests.integration.index_support import TestIndex
from tests.support import assert_refused, in_terminal, start, wait_until

SHORT = os.path.join(os.path.dirname(sys.executable), "agenthubx")
WAITING = """
import os, time

def go():
    return "other"

def wait(place):
    open(os.path.join(place, "running"), "w").close()
    while os.path.exists(os.path.join(place, "running")):
        time.sleep(0.01)
    return "waited"
"""


@pytest.fixture
def index(tmp_path):
    index = TestIndex(tmp_path / "index")
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        index.publish("alice/tool", version)
    return index


@pytest.fixture
def home():
    return os.environ["AGENTHUB_HOME"]


def runs(home):
    """The versions in the cache."""
    folder = os.path.join(home, "cache", "runs", "versions", "alice", "tool")
    return sorted(name.partition("-")[0] for name in os.listdir(folder)) if os.path.isdir(folder) else []


def test_run_without_installing(cli, index, home):
    with serving(index.directory) as server:
        cli.ok("index", "add", "main", server.url)
        assert_refused(cli("run", "alice/tool@1", "go"), 5, "consent", "--yes")
        first = cli.ok("run", "--yes", "alice/tool@1", "go")
        assert first.out == "alice/tool 1.1.0\n"
        assert f"published at {server.url}" in first.err
        asked = len(server.requests)
        again = cli.ok("run", "alice/tool@1", "go")  # agreed to once, and nothing is asked of anybody
        assert (again.out, again.err, len(server.requests)) == ("alice/tool 1.1.0\n", "", asked)
    assert cli.ok("run", "alice/tool@1", "go").out == "alice/tool 1.1.0\n"  # nor needed
    assert cli.ok("list", "--json").json["agents"] == []
    assert_refused(cli("run", "alice/tool@2", "go"), 4, "cannot get")


@pytest.mark.slow
def test_which_version_runs(cli, index, home):
    cli.ok("index", "add", "main", index.directory)
    assert cli.ok("run", "--yes", "alice/tool@1.0.0", "go").out == "alice/tool 1.0.0\n"
    assert cli.ok("run", "alice/tool", "go").out == "alice/tool 1.0.0\n"  # what is there is enough
    assert_refused(cli("run", "alice/tool@latest", "go"), 5, "consent")
    assert cli.ok("run", "--yes", "alice/tool@latest", "go").out == "alice/tool 2.0.0\n"
    assert cli.ok("run", "alice/tool@>=1,<2", "go").out == "alice/tool 1.0.0\n"
    index.publish("alice/tool", "3.0.0")
    assert cli.ok("run", "alice/tool", "go").out == "alice/tool 2.0.0\n"
    assert cli.ok("run", "--yes", "alice/tool@latest", "go").out == "alice/tool 3.0.0\n"
    cli.ok("run", "--yes", "alice/tool@1.1", "go")
    assert runs(home) == ["1.0.0", "1.1.0", "2.0.0", "3.0.0"]  # as long as there is room
    cli.ok("cache", "clean")
    assert cli.ok("run", "alice/tool@2", "go").out == "alice/tool 2.0.0\n"  # that was agreed to


@pytest.mark.slow
def test_an_installed_one_goes_before(cli, index):
    cli.ok("index", "add", "main", index.directory)
    cli.ok("install", "--yes", "alice/tool@1.0.0")
    assert cli.ok("run", "alice/tool", "go").out == "alice/tool 1.0.0\n"
    assert cli.ok("run", "--yes", "alice/tool@2", "go").out == "alice/tool 2.0.0\n"
    assert cli.ok("run", "alice/tool", "go").out == "alice/tool 1.0.0\n"
    assert [agent["version"] for agent in cli.ok("list", "--json").json["agents"]] == ["1.0.0"]


def test_names_that_are_nowhere(cli, index):
    assert_refused(cli("run", "alice/tool", "go"), 3, "no agent 'alice/tool' is installed")
    cli.ok("index", "add", "main", index.directory)
    assert_refused(cli("run", "alice/tol", "go"), 3, "no index has alice/tol", "did you mean alice/tool")
    assert_refused(cli("run", "tool", "go"), 3, "no agent 'tool' is installed")
    assert_refused(cli("run", "--index", index.file_url, "bob/x", "go"), 3, "no index has bob/x")


@pytest.mark.slow
def test_asked_on_a_terminal(index):
    answered = in_terminal("run", "--index", index.file_url, "alice/tool", "go", replies=[("Run alice/tool?", "y")])
    assert answered.code == 0, answered
    assert answered.err.endswith("alice/tool 2.0.0\n")
    refused = in_terminal("run", "--index", index.file_url, "alice/tool@1", "go", replies=[("Run alice/tool@1?", "n")])
    assert refused.code == 5


@pytest.mark.slow
def test_the_short_command(index):
    def short(*words):
        return subprocess.run([SHORT, *words], capture_output=True, text=True)

    done = short("--yes", "--index", index.file_url, "alice/tool@1", "go")
    assert (done.returncode, done.stdout) == (0, "alice/tool 1.1.0\n"), done
    assert short("alice/tool", "go").stdout == "alice/tool 1.1.0\n"
    assert short("alice/tool", "gone").returncode == 3
    assert "usage: agenthub run" in short("--help").stdout
    assert short().returncode == 2


@pytest.mark.slow
def test_what_was_not_used_longest_goes_first(cli, index, home):
    cli.ok("index", "add", "main", index.directory)
    for version in ("1.0.0", "1.1.0"):
        cli.ok("run", "--yes", f"alice/tool@{version}", "go")
    cli.ok("run", "alice/tool@1.0.0", "go")
    folder = os.path.join(home, "cache", "runs", "versions", "alice", "tool")
    for name in os.listdir(folder):  # the order is by time: let there be no doubt
        age = 1000 if name.startswith("1.1.0") else 500
        path = os.path.join(folder, name, ".agenthub", "in-use")
        then = os.stat(path).st_mtime - age
        os.utime(path, (then, then))
    assert cli.ok("run", "--yes", "alice/tool@2.0.0", "go").code == 0
    size = cli.ok("config", "--json").json["settings"]["cache_size"]["value"]
    assert runs(home) == ["1.0.0", "1.1.0", "2.0.0"]
    assert size > 1 << 30
    cli.ok("config", "set", "cache_size", "60kB")  # two of them
    index.publish("alice/tool", "2.1.0")
    cli.ok("run", "--yes", "alice/tool@latest", "go")
    assert "1.1.0" not in runs(home)
    assert "2.1.0" in runs(home)
    assert cli.ok("run", "alice/tool", "go").out == "alice/tool 2.1.0\n"


@pytest.mark.slow
def test_what_is_in_use_stays(cli, tmp_path, home):
    index = TestIndex(tmp_path / "index")
    place = tmp_path / "place"
    place.mkdir()
    methods = {
        "go": {"description": "goes"},
        "wait": {
            "description": "waits",
            "parameters": {"place": {"type": "directory", "access": "write", "required": True, "description": "where"}},
        },
    }
    index.publish("alice/tool", "1.0.0", WAITING, methods=methods)
    index.publish("alice/tool", "2.0.0", WAITING, methods=methods)
    cli.ok("index", "add", "main", index.directory)
    cli.ok("config", "set", "cache_size", "1kB")
    with start("run", "--yes", "alice/tool@1", "wait", "--place", place) as process:
        wait_until((place / "running").exists, process)
        cli.ok("run", "--yes", "alice/tool@2", "go")
        assert runs(home) == ["1.0.0", "2.0.0"]
        assert "1.0.0-" in cli.ok("cache", "clean").err
        assert runs(home) == ["1.0.0"]
        (place / "running").unlink()
        assert process.communicate()[0] == b"waited\n"
    cli.ok("run", "--yes", "alice/tool@1", "go")
    cli.ok("run", "--yes", "alice/tool@2", "go")
    index.publish("alice/tool", "3.0.0", WAITING, methods=methods)
    cli.ok("run", "--yes", "alice/tool@3", "go")
    assert runs(home) == ["3.0.0"]


@pytest.mark.slow
def test_the_cache_by_hand(cli, index, home):
    cli.ok("index", "add", "main", index.directory)
    assert cli.ok("cache", "prune", "--json").json["removed"] == []
    cli.ok("run", "--yes", "alice/tool@1", "go")
    cli.ok("config", "set", "cache_size", "1kB")
    assert "1.1.0" in cli.ok("cache", "prune", "--dry-run").out
    assert runs(home) == ["1.1.0"]
    assert len(cli.ok("cache", "prune", "--json").json["removed"]) == 1
    assert runs(home) == []
    assert cli("run", "--offline", "alice/tool@1", "go").out == "alice/tool 1.1.0\n"


@pytest.mark.slow
def test_a_broken_one_is_made_anew(cli, index, home):
    cli.ok("index", "add", "main", index.directory)
    cli.ok("run", "--yes", "alice/tool@1", "go")
    folder = os.path.join(home, "cache", "runs", "versions", "alice", "tool")
    os.unlink(os.path.join(folder, os.listdir(folder)[0], "venv", "bin", "python"))
    assert cli.ok("run", "alice/tool@1", "go").out == "alice/tool 1.1.0\n"


def test_what_somebody_is_just_making_stays(cli, index, home):
    """However it is emptied: a build or a fetch that goes on finds its directory as it left it."""
    cli.ok("run", "--yes", "--index", index.file_url, "alice/tool@1", "go")
    paths = Paths({"AGENTHUB_HOME": home})
    with cached_store(paths).new_staging() as fetching, cached_store(paths).agent_lock("alice", "other"):
        cli.ok("cache", "clean")
        assert os.path.isdir(fetching)
    assert runs(home) == []
    with replacing(os.path.join(home, "venv"), sys.executable, workshop=paths.workshop) as building:
        os.makedirs(building)
        cli.ok("cache", "clean")
        assert os.path.isdir(building)
    cli.ok("cache", "clean")
    assert not os.path.exists(paths.cache)
