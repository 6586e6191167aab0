"""Projects through the command: what `agents.toml` asks for, what `agents.lock` fixes, what a machine has of it."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil

import pytest

from tests.integration.index_support import TestIndex
from tests.integration.project_support import Repository, agent
from tests.support import assert_refused, invoke, tree


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory with an agent in it, which is the working directory."""
    place = tmp_path / "project"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def answer(cli, name):
    return json.loads(cli.ok("run", "--json", name, "go").out)["result"]


def lock_of(project):
    return (project / "agents.lock").read_text()


# add and remove -----------------------------------------------------------------------------------------------------


def test_add_locks_and_installs_and_leaves_comments_alone(cli, project):
    agent(project / "agents/one", 1, name="one")
    agent(project / "agents/two", 2, name="two", wheel=True)
    (project / "agents.toml").write_text(
        '# ours\n[project]\npython = ">=3.11"  # as our servers\n\n[agents]\n# none yet\n'
    )
    cli.ok("add", "--yes", "./agents/one")
    shown = cli.ok("add", "--yes", "--json", "./agents/two/", "--as", "team/second").json
    assert (project / "agents.toml").read_text() == (
        '# ours\n[project]\npython = ">=3.11"  # as our servers\n\n[agents]\n# none yet\n'
        '"local/one" = {path = "agents/one"}\n"team/second" = {path = "agents/two"}\n'
    )
    assert [one["name"] for one in shown["agents"]] == ["local/one", "team/second"]
    assert re.search(r"\./wheels/tiny-1\.0-py3-none-any\.whl \\\n    --hash=sha256:[0-9a-f]{64}\n", lock_of(project))
    assert (answer(cli, "one"), answer(cli, "team/second")) == (1, 2)
    assert [entry["project"] for entry in cli.ok("list", "--json").json["agents"]] == [True, True]

    (project / "deep/down").mkdir(parents=True)
    os.chdir(project / "deep/down")
    cli.ok("add", "--yes", "--no-sync", "../../agents/one", "--as", "team/third")
    assert '"team/third" = {path = "agents/one"}' in (project / "agents.toml").read_text()
    assert_refused(cli("run", "third", "go"), 3, "third")
    assert cli.ok("remove", "third", "second", "--json").json["pruned"] == ["team/second"]
    assert "team" not in (project / "agents.toml").read_text() + lock_of(project)
    assert_refused(cli("run", "second", "go"), 3, "second")
    assert_refused(cli("uninstall", "one"), 3, "agenthub remove")
    assert answer(cli, "one") == 1


def test_commands_outside_of_a_project_say_so(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["lock"], ["sync"], ["remove", "x"]):
        assert_refused(cli(*words), 3, "agents.toml", "agenthub add")


def test_an_agent_that_is_not_there_is_not_removed(cli, project):
    (project / "agents.toml").write_text('[agents]\n"acme/report" = "*"\n')
    assert_refused(cli("remove", "reprot"), 3, "reprot", "did you mean report?")


# the lock -----------------------------------------------------------------------------------------------------------


def test_a_lock_is_the_same_bytes_on_another_machine(cli, project, tmp_path, monkeypatch):
    repository = Repository(tmp_path / "repository", 3)
    agent(project / "agents/one", 1, name="one", wheel=True)
    cli.ok("add", "--yes", project / "agents/one")  # absolute
    cli.ok("add", "--yes", f"git+file://{repository.directory}@main", "--as", "team/three")
    before = lock_of(project)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(project, elsewhere / "project")
    shutil.copytree(repository.directory, elsewhere / "repository")
    (elsewhere / "project/agents.lock").unlink()
    monkeypatch.chdir(elsewhere / "project")
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "other-home"))
    cli.ok("sync", "--yes")
    assert lock_of(elsewhere / "project") == before
    assert str(tmp_path) not in before
    assert "://" not in before
    assert f'commit = "{repository.commit}"' in before
    assert (answer(cli, "one"), answer(cli, "three")) == (1, 3)


def test_what_is_locked_stays_until_it_is_asked_to_move(cli, project, tmp_path):
    repository = Repository(tmp_path / "repository", "old")
    cli.ok("add", "--yes", f"git+{repository.directory}@main", "--as", "team/x")
    before = lock_of(project)
    repository.change("new")
    shutil.rmtree(tmp_path / "home/cache", ignore_errors=True)
    cli.ok("lock")
    cli.ok("sync", "--yes")
    assert lock_of(project) == before
    assert answer(cli, "x") == "old"
    assert "with other content" in cli.ok("lock", "--upgrade", "x", "--dry-run", "--yes").err
    assert lock_of(project) == before
    cli.ok("lock", "--upgrade", "--yes")
    assert answer(cli, "x") == "old"
    cli.ok("sync", "--yes")
    assert answer(cli, "x") == "new"


def test_a_source_that_gives_something_else_is_refused(cli, project, tmp_path):
    repository = Repository(tmp_path / "repository", 1)
    cli.ok("add", "--yes", "--no-sync", f"git+{repository.directory}", "--as", "team/x")
    digest = re.search(r'digest = "(sha256:\w+)"', lock_of(project))[1]
    (project / "agents.lock").write_text(lock_of(project).replace(digest, f"sha256:{'0' * 64}"))
    assert_refused(cli("sync", "--yes", "--frozen"), 4, "team/x", "not what was locked", "sha256:000000000000")
    assert not os.path.exists(os.path.join(os.environ["AGENTHUB_HOME"], "versions"))


def test_a_package_whose_hash_is_another_is_refused(cli, project):
    agent(project / "one", 1, name="one", wheel=True)
    cli.ok("add", "--yes", "./one")
    text = lock_of(project)
    (project / "agents.lock").write_text(re.sub(r"--hash=sha256:\w{64}", f"--hash=sha256:{'1' * 64}", text))
    assert_refused(cli("sync", "--frozen"), 4, "one", "tiny")
    assert answer(cli, "one") == 1  # the old one
    (project / "agents.lock").write_text(text)
    cli.ok("sync", "--frozen")


@pytest.mark.parametrize(
    ("found", "replaced", "said"),
    [
        ("./wheels/", "--index-url http://example.org/ ./wheels/", "cannot be locked"),
        ("./wheels/", "-r /etc/passwd\n./wheels/", "cannot be locked"),
        ("./wheels/", "./../../wheels/", "outside of it"),
        ("./wheels/", "x @ https://user:secret@example.org/", "password"),
        (" \\\n    --hash=sha256:", " #", "cannot be locked"),
        ("local/one", "../one", "no name"),
        ("local/one", "Local/one", "no name"),
        ('digest = "sha256:', 'digest = "md5:', "no digest"),
        ("schema_version = 1", "schema_version = 2", "newer agenthub"),
        ("schema_version = 1", "", "not a lock"),
        ("[[agent]]", "[[agent]", "damaged"),
        ("schema_version = 1", "x = " + 9999 * "[", "damaged"),
    ],
)
def test_a_lock_that_somebody_tampered_with_is_refused(cli, project, found, replaced, said):
    agent(project / "one", 1, name="one", wheel=True)
    (project / "agents.toml").write_text('[agents]\n"local/one" = {path = "one"}\n')
    (project / "agents.lock").write_text(
        'schema_version = 1\n\n[[agent]]\nname = "local/one"\nversion = "1"\nsource = { path = "one" }\n'
        f"digest = \"sha256:{'0' * 64}\"\npackages = '''\n"
        f"./wheels/tiny.whl \\\n    --hash=sha256:{'0' * 64}\n'''\n".replace(found, replaced)
        if found == "./wheels/" or found.startswith(" ")
        else _lock("one").replace(found, replaced)
    )
    assert_refused(cli("sync", "--frozen", "--yes"), 2, "agents.lock", said)


def _lock(path):
    head = 'schema_version = 1\n\n[[agent]]\nname = "local/one"\nversion = "1"\n'
    return f'{head}source = {{ path = "{path}" }}\ndigest = "sha256:{"0" * 64}"\n'


def test_merge_conflicts_name_the_agents_of_both_sides(cli, project):
    (project / "agents.toml").write_text('[agents]\n"local/one" = {path = "one"}\n')
    block = '[[agent]]\nname = "acme/{}"\nversion = "1"\n'
    (project / "agents.lock").write_text(
        f'schema_version = 1\n\n{block.format("same")}<<<<<<< HEAD\ncommit = "a"\n\n{block.format("ours")}=======\n'
        f"{block.format('theirs')}>>>>>>> topic\n"
    )
    for words in (["sync", "--frozen"], ["lock"], ["sync", "--check"]):
        assert_refused(cli(*words), 2, "merge conflicts", "HEAD: acme/same, acme/ours", "topic: acme/theirs")
    (project / "agents.lock").unlink()
    (project / "agents.toml").write_text('[agents]\n<<<<<<< a\n"x/one" = "1"\n=======\n"x/two" = "1"\n>>>>>>> b\n')
    assert_refused(cli("lock"), 2, "agents.toml", "a: x/one", "b: x/two")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[agents]\n"one" = "1"', "owner/name"),
        ('[agents]\n"x/../one" = "1"', "owner/name"),
        ('[agents]\n"x/one" = {pth = "1"}', "pth"),
        ('[agents]\n"x/one" = 3', "x/one"),
        ('[agents]\n"x/one" = "banana"', "banana"),
        ('[agents]\n"x/one" = {git = "https://me:secret@example.org/x.git"}', "password"),
        ('[agents]\n"x/one" = {git = "ext::sh -c id"}', "refused"),
        ('[project]\npython = "/bin/sh"', "no program"),
        ("[tool]", "tool"),
        ("[agents", "not valid TOML"),
    ],
)
def test_a_project_file_that_is_not_understood_says_what(cli, project, text, said):
    (project / "agents.toml").write_text(text + "\n")
    assert_refused(cli("lock"), 2, "agents.toml", said)
    assert not (project / "agents.lock").exists()


def test_requirements_between_agents_are_held(cli, project):
    agent(project / "one", 1, name="one", requires={"local/two": ">=2"})
    agent(project / "two", 2, name="two", version="1.0")
    assert_refused(cli("add", "--yes", "./one"), 4, "local/one requires local/two >=2", "agenthub add")
    assert not (project / "agents.toml").exists()
    cli.ok("add", "--yes", "./two")
    assert_refused(cli("add", "--yes", "./one"), 4, "local/one", "1.0 is locked")
    agent(project / "two", 2, name="two", version="2.5")
    cli.ok("add", "--yes", "./one")
    assert_refused(cli("remove", "two"), 4, "local/one requires local/two")


def test_what_no_lock_can_fix_is_refused(cli, project):
    agent(project / "one", 1, name="one", installation={"commands": ["make"]})
    assert_refused(cli("add", "--yes", "./one"), 4, "local/one", "commands")
    agent(project / "two", 2, name="two", dependencies=["x @ file:///tmp/x"])
    assert_refused(cli("add", "--yes", "./two"), 4, "two")


# this machine -------------------------------------------------------------------------------------------------------


def test_a_project_does_not_disturb_what_the_user_has(cli, project, tmp_path, monkeypatch):
    cli.ok("install", "--yes", agent(tmp_path / "x", "the user's", name="x"))
    cli.ok("grant", "x", "network", "example.org")
    cli.ok("add", "--yes", agent(project / "x", "the project's", name="x", version="2.0"))
    assert answer(cli, "x") == answer(cli, "local/x") == "the project's"
    assert cli.ok("info", "--json", "x").json["version"] == "2.0"
    assert "example.org" not in cli.ok("info", "x").out  # what the user granted was for other code
    cli.ok("grant", "x", "network", "example.com")
    assert "example.com" in cli.ok("info", "x").out

    monkeypatch.chdir(tmp_path)
    assert answer(cli, "x") == "the user's"
    said = cli.ok("info", "x").out
    assert "example.org" in said
    assert "example.com" not in said
    assert [entry["version"] for entry in cli.ok("list", "--json").json["agents"]] == ["1.0.0"]
    cli.ok("install", "--force", "--yes", agent(tmp_path / "x", "the user's new one", name="x", version="3.0"))
    cli.ok("uninstall", "x")
    assert_refused(cli("run", "x", "go"), 3)

    monkeypatch.chdir(project)
    assert answer(cli, "x") == "the project's"
    cli.ok("remove", "x")
    assert_refused(cli("run", "x", "go"), 3)
    assert not os.path.exists(os.path.join(os.environ["AGENTHUB_HOME"], "versions/local/x"))


def test_a_directory_cannot_bring_links_of_its_own(cli, project, tmp_path):
    """What decides is in the user's home; a project that was never synced has no say."""
    cli.ok("install", "--yes", agent(tmp_path / "x", "the user's", name="x"))
    agent(project / "x", "somebody else's", name="x")
    (project / "agents.toml").write_text('[agents]\n"local/x" = {path = "x"}\n')
    (project / ".agenthub").mkdir()
    (project / "agents/local").mkdir(parents=True)
    os.symlink("../../x", project / "agents/local/x")
    assert answer(cli, "x") == "the user's"


def test_sync_asks_before_code_that_was_never_seen(cli, project, monkeypatch, tmp_path):
    agent(project / "one", 1, name="one", wheel=True)
    (project / "agents.toml").write_text('[agents]\n"local/one" = {path = "one"}\n')
    assert_refused(cli("lock"), 5, "--yes")
    cli.ok("lock", "--yes")
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "other-home"))
    assert_refused(cli("sync", "--frozen"), 5, "--yes")
    assert_refused(cli("run", "one", "go"), 3)
    assert "one 1.0.0" in cli.ok("sync", "--frozen", "--yes").err
    assert answer(cli, "one") == 1
    cli.ok("sync", "--frozen")


def test_check_says_what_differs_and_changes_nothing(cli, project, tmp_path):
    agent(project / "one", 1, name="one")
    cli.ok("add", "--yes", "./one")
    assert cli.ok("sync", "--check").out == ""
    assert cli.ok("sync", "--check", "--json").json == {
        "schema_version": 1,
        "up_to_date": True,
        "lock": [],
        "machine": [],
    }
    agent(project / "one", 2, name="one")
    (project / "agents.toml").write_text('[agents]\n"local/one" = {path = "one"}\n"acme/two" = ">=1"\n')
    before = tree(tmp_path)
    checked = cli("sync", "--check")
    assert checked.code == 1
    assert checked.out.splitlines() == [
        "agents.lock is out of date",
        "  + acme/two is in agents.toml and not in agents.lock",
        "  ~ local/one one has changed since it was locked",
    ]
    assert cli("lock", "--check").out == checked.out
    assert_refused(cli("sync", "--frozen"), 2, "acme/two", "agenthub lock")
    shutil.rmtree(
        os.path.join(os.environ["AGENTHUB_HOME"], "projects/", os.listdir(tmp_path / "home/projects")[0], "agents")
    )
    checked = cli("sync", "--check", "--json")
    assert checked.code == 1
    assert [one["agent"] for one in checked.json["machine"]] == ["local/one"]
    after = tree(tmp_path)
    assert {path for path in {*before, *after} if before.get(path) != after.get(path)} <= {
        path for path in before if path.startswith("home/projects/")
    } | {path for path in after if "/locks/" in path}


def test_prune_takes_what_the_lock_does_not_name(cli, project):
    agent(project / "one", 1, name="one")
    agent(project / "two", 2, name="two")
    cli.ok("add", "--yes", "./one", "./two")
    (project / "agents.toml").write_text('[agents]\n"local/one" = {path = "one"}\n')
    cli.ok("sync")
    assert "local/two" not in lock_of(project)
    assert answer(cli, "two") == 2
    assert cli.ok("sync", "--prune", "--json").json["pruned"] == ["local/two"]
    assert_refused(cli("run", "two", "go"), 3)
    assert cli.ok("sync", "--prune", "--json").json["pruned"] == []


@pytest.mark.slow
def test_a_sync_mends_what_is_broken(cli, project):
    agent(project / "one", 1, name="one", wheel=True)
    path = cli.ok("add", "--yes", "--json", "./one").json["agents"][0]["path"]
    assert cli.ok("sync", "--json").json["agents"][0]["changed"] is False
    shutil.rmtree(os.path.join(path, "venv"))
    assert "local/one" in cli("sync", "--check").out
    assert "agenthub sync" in cli("doctor").out
    assert cli("doctor", "--fix").code != 0  # what a lock fixes is not resolved again
    path = cli.ok("sync", "--json").json["agents"][0]["path"]
    assert answer(cli, "one") == 1
    [packages] = glob.glob(os.path.join(path, "venv/lib/*/site-packages"))
    shutil.rmtree(os.path.join(packages, "tiny-1.0.dist-info"))
    assert cli.ok("sync", "--json").json["agents"][0]["changed"] is True
    assert cli.ok("sync", "--json").json["agents"][0]["changed"] is False
    cli.ok("doctor")


def test_agents_of_an_index(cli, project, tmp_path, monkeypatch):
    index = TestIndex(tmp_path / "index")
    index.publish("acme/report", "1.0")
    index.publish("acme/report", "1.1")
    cli.ok("index", "add", "ours", index.file_url)
    cli.ok("add", "--yes", "acme/report@<1.1")
    assert '"acme/report" = "<1.1"' in (project / "agents.toml").read_text()
    assert answer(cli, "report") == "acme/report 1.0"
    cli.ok("add", "--yes", "acme/report")
    assert '"acme/report" = ">=1.1"' in (project / "agents.toml").read_text()
    assert answer(cli, "report") == "acme/report 1.1"
    assert index.file_url not in lock_of(project)
    index.publish("acme/report", "1.2")
    cli.ok("sync", "--yes")
    assert answer(cli, "report") == "acme/report 1.1"

    index.notice("acme/report", "1.1", yanked="it eats reports")
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "other-home"))
    cli.ok("index", "add", "ours", index.file_url)
    assert "it eats reports" in cli.ok("sync", "--frozen", "--yes").err
    assert answer(cli, "report") == "acme/report 1.1"
    cli.ok("lock", "--upgrade")
    cli.ok("sync", "--yes")
    assert answer(cli, "report") == "acme/report 1.2"
    archive = re.search(r'archive = "sha256:(\w+)"', lock_of(project))[1]
    (project / "agents.lock").write_text(lock_of(project).replace(archive, "0" * 64))
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "third-home"))
    cli.ok("index", "add", "ours", index.file_url)
    assert_refused(cli("sync", "--frozen", "--yes"), 4, "acme/report", "not what was locked")


def test_an_agent_of_a_mapped_git_host_is_locked_by_its_commit(cli, project, tmp_path, monkeypatch):
    (tmp_path / "host/acme").mkdir(parents=True)
    repository = Repository(tmp_path / "host/acme/tool", "locked")
    repository.tag("v1.0.0")
    cli.ok("index", "add", "host", f"git+file://{tmp_path}/host/{{owner}}/{{name}}")
    cli.ok("add", "--yes", "acme/tool")
    assert f'commit = "{repository.commit}"' in lock_of(project)
    repository.change("later")
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "other-home"))
    cli.ok("index", "add", "host", f"git+file://{tmp_path}/host/{{owner}}/{{name}}")
    cli.ok("sync", "--frozen", "--yes")
    assert answer(cli, "tool") == "locked"


def test_from_python_a_project_counts_as_well(cli, project):
    agent(project / "one", "from the project", name="one")
    cli.ok("add", "--yes", "./one")
    import agenthub

    assert agenthub.load_agent("local/one").go() == "from the project"


@pytest.mark.slow
def test_workers_of_a_project_are_its_own(cli, project, tmp_path, monkeypatch):
    cli.ok("install", "--yes", agent(tmp_path / "x", "the user's", name="x"))
    agent(project / "x", "the project's", name="x", version="2.0")
    monkeypatch.chdir(tmp_path)
    cli.ok("warm", "x")
    try:
        monkeypatch.chdir(project)
        cli.ok("add", "--yes", "./x")
        assert answer(cli, "x") == "the project's"
        cli.ok("warm", "x")
        workers = cli.ok("ps", "--json").json["workers"]
        assert sorted(worker["version"] for worker in workers) == ["1.0.0", "2.0"]
        assert answer(cli, "x") == "the project's"
        monkeypatch.chdir(tmp_path)
        assert answer(cli, "x") == "the user's"
        assert len(cli.ok("ps", "--json").json["workers"]) == 2
    finally:
        cli("stop", "x")


@pytest.mark.slow
def test_two_syncs_at_once_wait_for_each_other(cli, project, tmp_path):
    from tests.support import start

    for number in range(4):
        agent(project / f"a{number}", number, name=f"a{number}", wheel=True)
    entries = "".join(f'"local/a{n}" = {{path = "a{n}"}}\n' for n in range(4))
    (project / "agents.toml").write_text(f"[agents]\n{entries}")
    running = [start("sync", "--yes", "--json") for _ in range(3)]
    outcomes = [(process.communicate(timeout=60), process.returncode) for process in running]
    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    assert [answer(cli, f"a{number}") for number in range(4)] == [0, 1, 2, 3]
    assert all(len(os.listdir(tmp_path / f"home/versions/local/a{n}")) == 1 for n in range(4))
    assert os.listdir(tmp_path / "home/staging") == []
    assert invoke("doctor").code == 0
