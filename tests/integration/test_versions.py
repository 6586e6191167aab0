"""Versions of an agent side by side: upgrading from where it came from, going back, and who stays where it is."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.integration.index_support import TestIndex
from tests.support import assert_refused, in_terminal, method, tree, write_agent

ANSWER = "def go():\n    return {!r}\n"


@pytest.fixture
def source(tmp_path):
    """`source("2.0")` makes the agent's directory that version, and returns its path."""

    def write(version, code=None, **manifest):
        directory = tmp_path / "probe"
        shutil.rmtree(directory, ignore_errors=True)
        return write_agent(
            directory,
            code or ANSWER.format(version),
            {"go": method()},
            **{"name": "probe", "version": version, "entrypoint": "agent", **manifest},
        )

    return write


@pytest.fixture
def two(cli, source):
    """Version 1.0 was installed, and was upgraded to 2.0."""
    cli.ok("install", "--yes", source("1.0"))
    source("2.0")
    cli.ok("upgrade", "--yes", "probe")
    return cli


def answer(cli, agent="probe"):
    return cli.ok("run", agent, "go").out.strip()


def version_dirs(tmp_path, agent="local/probe"):
    return sorted(os.listdir(tmp_path / "home" / "versions" / agent))


# upgrade, rollback, use ---------------------------------------------------------------------------------------------


def test_the_whole_way(two, source):
    cli = two
    assert answer(cli) == "2.0"
    assert answer(cli, "probe@1.0") == answer(cli, "local/probe@1") == answer(cli, "probe@<2") == "1.0"
    assert "local/probe 1.0 is back (was 2.0)" in cli.ok("rollback", "probe").err
    assert answer(cli) == "1.0"
    assert cli.ok("rollback", "--json", "probe").json["version"] == "2.0"
    assert cli.ok("use", "--json", "local/probe@1.0").json == {
        "owner": "local",
        "name": "probe",
        "version": "1.0",
        "before": "2.0",
        "changed": True,
        "unmet": [],
        "path": cli.ok("dir", "probe@1.0").out.strip(),
        "schema_version": 1,
    }
    assert not cli.ok("use", "--json", "probe@1").json["changed"]
    listed = cli.ok("use", "probe").out.splitlines()
    assert [line.split()[:2] for line in listed] == [["*", "1.0"], ["2.0", listed[1].split()[1]]]
    info = cli.ok("info", "--json", "probe").json
    assert [(each["version"], each["current"]) for each in info["versions"]] == [("1.0", True), ("2.0", False)]
    assert "versions also 2.0" in cli.ok("info", "probe").out
    cli.ok("uninstall", "probe")
    assert not os.path.exists(os.path.join(os.environ["AGENTHUB_HOME"], "versions", "local"))
    assert not os.path.exists(os.path.join(os.environ["AGENTHUB_HOME"], "states"))


def test_going_on_to_a_version_that_is_still_there_makes_nothing(two, tmp_path):
    before = version_dirs(tmp_path)
    two.ok("rollback", "probe")
    assert two.ok("outdated", "--json").json["agents"][0]["available"] == "2.0"
    two.ok("upgrade", "--yes", "probe")
    assert answer(two) == "2.0"
    assert version_dirs(tmp_path) == before


def test_an_upgrade_shows_what_changes_and_keeps_what_was_asked_for(cli, source, tmp_path):
    first = source(
        "1.0",
        dependencies=["six==1.16.0", "idna"],
        environment={"optional": {"OLD_NAME": "a variable"}},
        permissions={"network": ["old.example.com"]},
    )
    cli.ok("install", "--yes", "--with", "iniconfig==2.0.0", first)
    source(
        "1.1",
        dependencies=["six==1.17.0", "packaging==24.2"],
        environment={"secret": {"NEW_KEY": "a key"}},
        permissions={"network": ["new.example.com"]},
        requires={},
    )
    before = tree(tmp_path / "home" / "versions")
    shown = cli.ok("upgrade", "--dry-run", "--json", "probe")
    assert tree(tmp_path / "home" / "versions") == before
    for line in (
        "local/probe 1.0 → 1.1",
        "+ packaging 24.2, six 1.16.0 → 1.17.0",
        "asks for more  it may now also reach new.example.com over the network, and nothing else",
        "no longer      it may reach old.example.com over the network, and nothing else",
        "variables      + NEW_KEY required secret, - OLD_NAME optional",
    ):
        assert line in shown.err
    (report,) = shown.json["agents"]
    assert (report["dry_run"], report["changed"]) == (True, False)
    assert {"name": "six", "before": "1.16.0", "after": "1.17.0"} in report["changes"]["packages"]
    assert "iniconfig" not in shown.err
    assert_refused(cli("upgrade", "probe"), 5, "local/probe 1.1 asks for more", "--force --yes consents")
    assert_refused(cli("upgrade", "--yes", "probe"), 5, "asks for more")
    cli.ok("upgrade", "--yes", "--force", "probe")
    packages = {one["name"]: one["version"] for one in cli.ok("info", "--json", "probe").json["dependencies"]}
    assert packages == {"six": "1.17.0", "packaging": "24.2", "iniconfig": "2.0.0"}


@pytest.mark.slow
def test_a_question_on_a_terminal(cli, source):
    cli.ok("install", "--yes", source("1.0"))
    source("2.0")
    asked = in_terminal("upgrade", "probe", replies=[("Upgrade local/probe to 2.0? [y/N]", "n")])
    assert asked.code == 5
    assert answer(cli) == "1.0"
    asked = in_terminal("upgrade", "probe", replies=[("Upgrade local/probe to 2.0? [y/N]", "y")])
    assert asked.code == 0
    assert "agenthub rollback probe goes back" in asked.err
    assert answer(cli) == "2.0"


def test_nothing_new(cli, source):
    cli.ok("install", "--yes", source("1.0"))
    assert cli.ok("outdated", "--json").json == {"agents": [], "problems": [], "schema_version": 1}
    finished = cli.ok("upgrade", "--json", "--all")
    assert [agent["changed"] for agent in finished.json["agents"]] == [False]
    assert "up to date" in cli.ok("outdated").err


@pytest.mark.slow
def test_other_content_of_the_same_version(cli, source):
    cli.ok("install", "--yes", source("1.0"))
    source("1.0", ANSWER.format("mended"))
    assert cli.ok("outdated", "--json").json["agents"][0]["available"] == "changed"
    assert "code           changes" in cli.ok("upgrade", "--yes", "probe").err
    assert answer(cli) == "mended"
    cli.ok("rollback", "probe")
    assert answer(cli) == "1.0"


def test_a_hostile_manifest_stays_on_its_line(cli, source):
    cli.ok("install", "--yes", source("1.0"))
    source("2.0", dependencies=["six; extra == '\x1b[31m'"], environment={"optional": {"A": "x\x1b[2J"}})
    assert "\x1b" not in cli("upgrade", "--dry-run", "probe").err


@pytest.mark.parametrize("words", [["upgrade"], ["upgrade", "--all", "probe"], ["pin", "probe@1"]])
def test_bad_usage(cli, words):
    assert_refused(cli(*words), 2)


def test_what_cannot_be(two, tmp_path):
    assert_refused(two("use", "probe@3"), 3, "no version 3 of local/probe is installed", "installed: 2.0, 1.0")
    assert_refused(two("run", "probe@3", "go"), 3, "3")
    assert_refused(two("use", "probe@>=a"), 2, "neither a version nor a range")
    assert_refused(two("upgrade", "probe@1.5"), 4, "has one version")
    shutil.rmtree(tmp_path / "probe")
    assert_refused(two("upgrade", "probe"), 3, "there is no file or directory")
    assert "there is no file or directory" in two.ok("outdated", "--json").json["problems"][0]["problem"]


def test_an_agent_that_was_never_another(cli, source):
    cli.ok("install", "--yes", source("1.0"))
    assert_refused(cli("rollback", "probe"), 3, "no earlier version", "agenthub use probe")


@pytest.mark.slow
def test_only_as_many_as_the_setting_says(cli, source, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTHUB_KEEP_VERSIONS", "1")
    for version in ("1.0", "2.0", "3.0"):
        cli.ok("install", "--yes", "--force", source(version))
    assert [leaf.partition("-")[0] for leaf in version_dirs(tmp_path)] == ["2.0", "3.0"]
    cli.ok("rollback", "probe")
    assert [each["version"] for each in cli.ok("use", "--json", "probe").json["versions"]] == ["2.0", "3.0"]


# pin ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pinned_agent_stays(two, source, tmp_path):
    other = write_agent(tmp_path / "other", ANSWER.format("a"), {"go": method()}, name="other", entrypoint="agent")
    two.ok("install", "--yes", other)
    two.ok("pin", "probe")
    assert not two.ok("pin", "--json", "probe").json["agents"][0]["changed"]
    source("3.0")
    with open(os.path.join(other, "agent.py"), "w") as file:
        file.write(ANSWER.format("b"))
    assert two.ok("outdated", "--json").json["agents"][1]["pinned"]
    finished = two.ok("upgrade", "--all", "--yes")
    assert "local/probe is pinned" in finished.err
    assert (answer(two), answer(two, "other")) == ("2.0", "b")
    assert_refused(two("upgrade", "--yes", "probe"), 5, "is pinned to 2.0", "agenthub unpin local/probe")
    two.ok("unpin", "probe")
    two.ok("upgrade", "--yes", "probe")
    assert answer(two) == "3.0"


# other sources ------------------------------------------------------------------------------------------------------


def git(directory, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *identity, "-C", directory, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(directory, version):
    write_agent(directory, ANSWER.format(version), {"go": method()}, name="probe", version=version, entrypoint="agent")
    git(directory, "add", "-A")
    git(directory, "commit", "-m", version, "--allow-empty")


@pytest.mark.slow
def test_git_follows_what_was_asked_for(cli, tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init")
    commit(repository, "1.0")
    git(repository, "tag", "-a", "v1", "-m", "v1")
    git(repository, "branch", "stable")
    commit(repository, "2.0")
    cli.ok("install", "--yes", f"git+file://{repository}@stable")
    cli.ok("install", "--yes", "--as", "x/fixed", f"git+file://{repository}@v1")
    cli.ok("install", "--yes", "--as", "x/commit", f"git+file://{repository}@{git(repository, 'rev-parse', 'HEAD')}")
    assert cli.ok("outdated", "--json").json["agents"] == []
    git(repository, "checkout", "-q", "stable")
    commit(repository, "1.1")
    (outdated,) = cli.ok("outdated", "--json").json["agents"]
    head = git(repository, "rev-parse", "HEAD")
    assert (outdated["name"], outdated["available"]) == ("probe", head[:12])
    shown = cli.ok("upgrade", "--yes", "--all").err
    assert f"→ {head[:12]}" in shown
    assert (answer(cli), answer(cli, "fixed"), answer(cli, "commit")) == ("1.1", "1.0", "2.0")
    git(repository, "commit", "-q", "--allow-empty", "-m", "nothing")  # a commit, and no other content
    assert len(cli.ok("outdated", "--json").json["agents"]) == 1
    assert not cli.ok("upgrade", "--yes", "--json", "probe").json["agents"][0]["changed"]
    assert cli.ok("outdated", "--json").json["agents"] == []
    cli.ok("upgrade", "--yes", "probe@main")
    assert answer(cli) == "2.0"
    assert cli.ok("info", "--json", "probe").json["source"]["ref"] == "main"


@pytest.mark.slow
def test_an_archive(cli, source, tmp_path):
    archive = tmp_path / "probe.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", source("1.0"))
    cli.ok("install", "--yes", archive)
    assert cli.ok("outdated", "--json").json["agents"] == []
    shutil.make_archive(str(archive.with_suffix("")), "zip", source("2.0"))
    assert cli.ok("outdated", "--json").json["agents"][0]["available"] == "changed"
    cli.ok("upgrade", "--yes", "probe")
    assert answer(cli) == "2.0"


@pytest.fixture
def index(tmp_path, monkeypatch):
    made = TestIndex(tmp_path / "index")
    monkeypatch.setenv("AGENTHUB_INDEX", made.file_url)
    return made


@pytest.mark.slow
def test_an_index(cli, index):
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        index.publish("acme/tool", version)
    cli.ok("install", "--yes", "acme/tool@1.0.0")
    (row,) = cli.ok("outdated", "--json").json["agents"]
    assert (row["available"], row["latest"]) == (None, "2.0.0")  # exactly that was asked for
    cli.ok("upgrade", "--yes", "acme/tool@1")
    assert answer(cli, "tool") == "acme/tool 1.1.0"
    index.publish("acme/tool", "1.2.0")
    (row,) = cli.ok("outdated", "--json").json["agents"]
    assert (row["available"], row["latest"]) == ("1.2.0", "2.0.0")
    cli.ok("upgrade", "--yes", "--all")
    assert answer(cli, "tool") == "acme/tool 1.2.0"
    cli.ok("upgrade", "--yes", "tool@latest")
    assert answer(cli, "tool") == "acme/tool 2.0.0"
    index.publish("acme/tool", "2.1.0")
    cli.ok("use", "tool@1.1.0")  # is installed
    cli.ok("use", "--yes", "tool@1.0")  # was removed meanwhile, and is taken from the index
    assert answer(cli, "tool") == "acme/tool 1.0.0"
    assert cli.ok("outdated", "--json").json["agents"][0]["available"] == "2.1.0"  # `use` asks for nothing
    cli.ok("use", "--yes", "acme/tool@2.1")
    assert cli.ok("outdated", "--json").json["agents"] == []


def test_use_of_an_agent_that_is_not_installed(cli, index):
    index.publish("acme/tool", "1.0.0")
    assert_refused(cli("use", "acme/tool@1"), 5, "--yes consents")
    assert cli.ok("use", "--yes", "--json", "acme/tool@1").json["version"] == "1.0.0"
    assert answer(cli, "tool") == "acme/tool 1.0.0"


def test_a_yanked_version_is_no_upgrade(cli, index):
    index.publish("acme/tool", "1.0.0")
    cli.ok("install", "--yes", "acme/tool")
    index.publish("acme/tool", "1.1.0")
    index.publish("acme/tool", "1.2.0rc1")
    index.notice("acme/tool", "1.1.0", yanked="it deletes files")
    assert cli.ok("outdated", "--json").json["agents"] == []
    assert not cli.ok("upgrade", "--all", "--json").json["agents"][0]["changed"]


# agents that need agents --------------------------------------------------------------------------------------------


def test_what_an_agent_needs_comes_with_it(cli, index, source):
    for version in ("1.0.0", "1.5.0", "2.0.0"):
        index.publish("acme/parser", version)
    index.publish("acme/fetcher", "1.0.0", requires={"acme/parser": "<2"})
    directory = source("1.0", requires={"acme/fetcher": ">=1"})
    shown = cli("install", directory)
    assert_refused(shown, 5, "Install local/probe, and 2 more that it needs")
    for label in ("acme/fetcher", "acme/parser"):
        assert f"and with it    {label}: is not installed yet" in shown.err
    assert cli.ok("list").out == ""
    cli.ok("install", "--yes", directory)
    assert answer(cli, "parser") == "acme/parser 1.5.0"
    assert_refused(cli("uninstall", "parser"), 4, "acme/parser is needed by acme/fetcher 1.0.0")
    assert_refused(cli("uninstall", "parser", "fetcher"), 4, "needed by local/probe")
    # An upgrade stays with what is needed of it; who asks for more by name is told.
    assert cli.ok("outdated", "--json").json["agents"] == [
        {
            "owner": "acme",
            "name": "parser",
            "version": "1.5.0",
            "available": None,
            "latest": "2.0.0",
            "source": "index",
            "location": "acme/parser",
            "pinned": False,
            "problem": "",
        }
    ]
    assert_refused(
        cli("upgrade", "--yes", "parser@2"),
        4,
        "no version of acme/parser is right for all that need it",
        "acme/fetcher 1.0.0 (installed) needs acme/parser <2",
    )
    cli.ok("upgrade", "--yes", "--force", "parser@2")
    assert answer(cli, "parser") == "acme/parser 2.0.0"
    cli.ok("uninstall", "parser", "fetcher", "probe")


@pytest.mark.slow
def test_going_back_says_what_others_need(cli, index):
    index.publish("acme/parser", "1.0.0")
    cli.ok("install", "--yes", "acme/parser")
    index.publish("acme/parser", "2.0.0")
    cli.ok("upgrade", "--yes", "parser")
    index.publish("acme/fetcher", "1.0.0", requires={"acme/parser": ">=2"})
    cli.ok("install", "--yes", "acme/fetcher")
    finished = cli.ok("rollback", "--json", "parser")
    assert finished.json["unmet"] == ["acme/fetcher 1.0.0 needs acme/parser >=2"]
    assert "warning: acme/fetcher 1.0.0 needs acme/parser >=2" in finished.err


@pytest.mark.slow
def test_an_upgrade_that_needs_a_newer_agent_upgrades_that_too(cli, index):
    index.publish("acme/parser", "1.0.0")
    index.publish("acme/fetcher", "1.0.0", requires={"acme/parser": "1"})
    cli.ok("install", "--yes", "acme/fetcher")
    index.publish("acme/parser", "2.0.0", permissions={"network": ["example.com"]})
    index.publish("acme/fetcher", "2.0.0", requires={"acme/parser": "2"})
    assert_refused(cli("upgrade", "--yes", "fetcher"), 5, "asks for more")
    shown = cli.ok("upgrade", "--yes", "--force", "fetcher").err
    assert "and with it    acme/parser: 1.0.0 → 2.0.0" in shown
    assert "needs agents   acme/parser 1 → 2" in shown
    assert answer(cli, "parser") == "acme/parser 2.0.0"


def test_a_need_that_nobody_has(cli, index, source):
    index.publish("acme/parser", "1.0.0")
    assert_refused(
        cli("install", "--yes", source("1.0", requires={"acme/parser": ">=2"})), 4, "no version of acme/parser", "1.0.0"
    )
    assert_refused(cli("install", "--yes", source("1.0", requires={"acme/parse": "*"})), 4, "acme/parse", "acme/parser")
    assert cli.ok("list").out == ""
