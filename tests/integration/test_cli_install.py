"""`agenthub install`: every source, consent, names, and what is said about it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.support import assert_refused, in_terminal, method, tree, write_agent

CODE = "def version():\n    return '{}'"
METHODS = {"version": method()}


def hello(directory, version="1.0.0", **manifest):
    """An agent that tells its version."""
    return write_agent(directory, CODE.format(version), METHODS, entrypoint="agent", version=version, **manifest)


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return hello(tmp_path / "hello")


def git(directory, *words):
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    done = subprocess.run(
        ["git", *identity, *words], cwd=directory, capture_output=True, check=True, text=True, env=_without_config()
    )
    return done.stdout.strip()


def _without_config():
    return {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Version 1.0.0 as tag v1, 2.0.0 on main, 3.0.0 on the branch next, another agent in agents/second."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "repo"
    hello(place, "1.0.0", name="hello")
    git(place, "init", "-q", "-b", "main")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "one")
    git(place, "tag", "v1")
    hello(place, "2.0.0", name="hello")
    hello(place / "agents" / "second", "0.5.0", name="second")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "two")
    git(place, "checkout", "-q", "-b", "next")
    hello(place, "3.0.0", name="hello")
    git(place, "commit", "-q", "-a", "-m", "three")
    git(place, "checkout", "-q", "main")
    return place


# sources -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["./hello", "{}/hello", "./hello/", "././hello/../hello"])
def test_a_directory(cli, agent, tmp_path, spec):
    finished = cli.ok("install", "--yes", spec.format(tmp_path))
    assert finished.out == ""
    assert "local/hello 1.0.0" in finished.err
    assert "agenthub info hello" in finished.err
    assert cli("run", "hello", "version").out == "1.0.0\n"


@pytest.mark.parametrize(("kind", "suffix"), [("zip", ".zip"), ("gztar", ".tar.gz"), ("zip", ".agent")])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive(cli, agent, tmp_path, kind, suffix, wrapped):
    made = shutil.make_archive("packed", kind, tmp_path if wrapped else agent, "hello" if wrapped else None)
    os.rename(made, f"hello{suffix}")
    cli.ok("install", "--yes", f"hello{suffix}")
    assert cli("run", "local/hello", "version").out == "1.0.0\n"
    assert cli.ok("info", "hello", "--json").json["source"]["kind"] == "archive"


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("git+{}", "2.0.0"),
        ("git+file://{}", "2.0.0"),
        ("git+./repo", "2.0.0"),
        ("git+{}@v1", "1.0.0"),
        ("git+file://{}@next", "3.0.0"),
        ("git+{}@{commit}", "1.0.0"),
    ],
)
def test_git(cli, repository, spec, version):
    commit = git(repository, "rev-parse", "v1")
    finished = cli.ok("install", "--yes", spec.format(repository, commit=commit))
    assert f"local/hello {version}" in finished.err
    assert cli("run", "hello", "version").out == f"{version}\n"
    info = cli.ok("info", "hello", "--json").json
    ref = {"1.0.0": "v1", "2.0.0": "main", "3.0.0": "next"}[version]
    assert info["commit"] == git(repository, "rev-parse", ref)
    assert info["source"]["kind"] == "git"
    assert not os.path.exists(os.path.join(info["path"], ".git"))


def test_a_subdirectory_of_a_repository(cli, repository):
    cli.ok("install", "--yes", f"git+{repository}#subdirectory=agents/second")
    assert cli("run", "second", "version").out == "0.5.0\n"


@pytest.mark.parametrize(
    ("spec", "code", "complaints"),
    [
        ("git+{}@nowhere", 4, ["nowhere"]),
        ("git+{}#subdirectory=nowhere", 4, ["nowhere"]),
        ("git+{}#subdirectory=../..", 4, ["'../..'"]),
        ("git+{}/nowhere", 3, ["nowhere"]),
        ("git+ext::sh -c true", 4, ["ext", "refused"]),
        ("./nowhere", 3, ["nowhere"]),
        ("./rep", 3, ["rep", "did you mean", "repo"]),
        ("repo", 4, ["did you mean ./repo?"]),
        ("nowhere.zip", 3, ["nowhere.zip"]),
        ("https://localhost/x", 4, ["git+https://"]),
        ("./repo/agent.py", 4, ["neither a directory nor an archive"]),
        ("./repo/agents", 3, ["agent.yaml"]),
    ],
)
def test_what_is_no_source(cli, repository, spec, code, complaints):
    assert_refused(cli("install", "--yes", spec.format(repository)), code, *complaints)
    assert cli.ok("list", "--json").json["agents"] == []


def test_without_git(cli, repository, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert_refused(cli("install", "--yes", f"git+{repository}"), 4, "git")


def test_a_damaged_archive(cli, agent, tmp_path):
    (tmp_path / "hello.zip").write_bytes(b"PK\x03\x04 not really")
    assert_refused(cli("install", "--yes", "./hello.zip"), 4, "hello.zip")


def test_several_at_once(cli, agent, tmp_path):
    hello(tmp_path / "second")
    cli.ok("install", "--yes", "./hello", "./second")
    names = [entry["name"] for entry in cli.ok("list", "--json").json["agents"]]
    assert names == ["hello", "second"]


# manifests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", ["name", "version", "description", "author", "interface"])
def test_a_manifest_that_lacks_a_key_is_refused(cli, tmp_path, removed):
    place = tmp_path / "partial"
    hello(place)
    import json

    manifest = json.loads((place / "agent.yaml").read_text())
    del manifest[removed]
    (place / "agent.yaml").write_text(json.dumps(manifest))
    assert_refused(cli("install", "--yes", place), 3, "agent.yaml", removed)


def test_a_directory_without_a_manifest(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(cli("install", "--yes", tmp_path / "empty"), 3, str(tmp_path / "empty"), "agent.yaml")


def test_a_manifest_error_names_file_line_and_key(cli, tmp_path):
    place = tmp_path / "wrong"
    place.mkdir()
    (place / "agent.yaml").write_text("name: wrong\nversion: 1.0.0\ndescription: d\nauthor: a\nlimits: {timeout: no}\n")
    assert_refused(cli("install", "--yes", place), 3, "agent.yaml", ":5", "timeout")


# consent -----------------------------------------------------------------------------------------------------------


def test_without_a_terminal_code_never_seen_is_refused_and_the_flag_named(cli, agent, tmp_path):
    before = tree(tmp_path)
    finished = cli("install", "./hello")
    assert_refused(finished, 5, "local/hello", "--yes")
    assert "hello 1.0.0" in finished.err
    assert cli.ok("list", "--json").json["agents"] == []
    assert {name for name in tree(tmp_path) if not name.startswith("home")} == set(before)


@pytest.mark.parametrize(("reply", "code"), [("y", 0), ("yes", 0), ("n", 5), ("", 5)])
def test_on_a_terminal_it_asks(cli, agent, tmp_path, reply, code):
    shown = in_terminal("install", "./hello", replies=[("Install local/hello? [y/N]", reply)], cwd=tmp_path)
    assert shown.code == code
    for told in ("hello 1.0.0", "an agent for tests", "local directory", "may not        use the network", "held by"):
        assert told in shown.err
    assert len(cli.ok("list", "--json").json["agents"]) == (code == 0)


def test_the_same_content_is_a_quiet_success(cli, agent):
    cli.ok("install", "--yes", "./hello")
    finished = cli.ok("install", "./hello")
    assert (finished.out, finished.err) == ("", "")
    assert cli.ok("install", "./hello", "--json").json["agents"][0]["changed"] is False


def test_the_same_content_from_elsewhere_is_the_same(cli, agent, tmp_path):
    cli.ok("install", "--yes", "./hello")
    shutil.make_archive("packed", "zip", agent)
    assert cli.ok("install", "./packed.zip").err == ""


def test_other_content_needs_force(cli, agent, tmp_path):
    cli.ok("install", "--yes", "./hello")
    hello(tmp_path / "hello", "2.0.0")
    refused = cli("install", "--yes", "./hello")
    assert_refused(refused, 5, "local/hello", "--force")
    assert cli("run", "hello", "version").out == "1.0.0\n"
    cli.ok("install", "--yes", "--force", "./hello")
    assert cli("run", "hello", "version").out == "2.0.0\n"


def test_on_a_terminal_replacing_is_asked_once(cli, agent, tmp_path):
    cli.ok("install", "--yes", "./hello")
    hello(tmp_path / "hello", "2.0.0")
    shown = in_terminal("install", "./hello", replies=[("Replace it? [y/N]", "y")], cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert shown.err.count("[y/N]") == 1
    assert cli("run", "hello", "version").out == "2.0.0\n"


def test_force_alone_is_no_consent_to_code_never_seen(cli, agent):
    assert_refused(cli("install", "--force", "./hello"), 5, "--yes")


def test_dry_run_shows_and_changes_nothing(cli, agent, tmp_path):
    finished = cli.ok("install", "--dry-run", "./hello")
    assert finished.out == ""
    assert "hello 1.0.0" in finished.err
    assert cli.ok("list", "--json").json["agents"] == []
    report = cli.ok("install", "--dry-run", "--json", "./hello").json["agents"][0]
    assert (report["dry_run"], report["changed"], report["name"]) == (True, False, "hello")


def test_json_tells_what_was_installed(cli, agent):
    document = cli.ok("install", "--yes", "--json", "./hello").json
    assert document["schema_version"] == 1
    [report] = document["agents"]
    expected = {"owner": "local", "name": "hello", "version": "1.0.0", "changed": True, "spec": "./hello"}
    assert expected.items() <= report.items()
    assert os.path.isdir(report["path"])
    assert report["digest"].startswith("sha256:")


def test_json_tells_why_it_was_refused(cli, agent):
    finished = cli("install", "--json", "./hello")
    assert finished.code == 5
    assert finished.json["error_type"] == "PermissionDeniedError"
    assert (finished.json["exit_code"], finished.json["schema_version"]) == (5, 1)
    assert "--yes" in finished.json["suggestion"]


def test_quiet_is_quiet(cli, agent):
    finished = cli.ok("install", "-q", "--yes", "./hello")
    assert (finished.out, finished.err) == ("", "")


# names -------------------------------------------------------------------------------------------------------------


def test_as_gives_another_name(cli, agent):
    cli.ok("install", "--yes", "./hello")
    cli.ok("install", "--yes", "./hello", "--as", "acme/greeter")
    assert cli("run", "acme/greeter", "version").out == "1.0.0\n"
    assert cli("run", "greeter", "version").out == "1.0.0\n"
    labels = [f"{entry['owner']}/{entry['name']}" for entry in cli.ok("list", "--json").json["agents"]]
    assert labels == ["acme/greeter", "local/hello"]


@pytest.mark.parametrize("name", ["greeter", "acme/", "/greeter", "../../etc", "a/../b", "a/b/c", "ac me/x"])
def test_as_refuses_what_is_no_name(cli, agent, tmp_path, name):
    before = set(tree(tmp_path))
    finished = cli("install", "--yes", "./hello", f"--as={name}")
    assert finished.code in (2, 4)
    assert len(finished.error_lines) <= 4
    assert {path for path in tree(tmp_path) if not path.startswith("home")} == before


def test_as_is_for_one_agent(cli, agent):
    assert_refused(cli("install", "--yes", "./hello", "./hello", "--as", "a/b"), 2, "--as")


def test_two_owners_of_a_name(cli, agent):
    cli.ok("install", "--yes", "./hello")
    cli.ok("install", "--yes", "./hello", "--as", "acme/hello")
    assert_refused(cli("run", "hello", "version"), 3, "acme/hello", "local/hello")
    assert_refused(cli("uninstall", "hello"), 3, "acme/hello", "local/hello")
    assert_refused(cli("info", "hello"), 3, "acme/hello", "local/hello")


# the store ---------------------------------------------------------------------------------------------------------


def test_the_agent_directory_is_a_link_to_an_immutable_version(cli, agent, tmp_path):
    cli.ok("install", "--yes", "./hello")
    link = tmp_path / "home" / "agents" / "local" / "hello"
    assert link.is_symlink()
    assert (link / "venv" / "bin" / "python").exists()
    assert (link / "agent.py").read_text() == (tmp_path / "hello" / "agent.py").read_text()
    assert cli.ok("dir", "hello").out.strip() == os.path.realpath(link)


def test_the_record_says_where_everything_came_from(cli, agent):
    cli.ok("install", "--yes", "./hello")
    info = cli.ok("info", "hello", "--json").json
    assert info["source"]["location"] == agent
    assert info["digest"].startswith("sha256:")
    assert info["installed_at"].endswith("Z")
    assert os.path.exists(info["interpreter"]["path"])
    assert info["dependencies"] == []
    assert info["size"]["code"] > 0
    assert info["size"]["environment"] > 0


def test_an_update_keeps_what_runs(cli, agent, tmp_path):
    """A version that is replaced while it runs finishes with its own code."""
    write_agent(
        tmp_path / "hello",
        "import os, time\n"
        "def version(place):\n"
        "    marker = os.path.join(place, 'running')\n"
        "    open(marker, 'w').close()\n"
        "    while os.path.exists(marker):\n"
        "        time.sleep(0.01)\n"
        "    import late\n"
        "    return late.text\n",
        {"version": method(place={"type": "directory", "access": "write"})},
        entrypoint="agent",
    )
    (tmp_path / "hello" / "late.py").write_text("text = 'old'\n")
    from tests.support import PATIENCE, start, wait_until

    cli.ok("install", "--yes", "./hello")
    marker = tmp_path / "place" / "running"
    marker.parent.mkdir()
    process = start("run", "hello", "version", "--place", marker.parent)
    wait_until(marker.exists, process)
    (tmp_path / "hello" / "late.py").write_text("text = 'new'\n")
    cli.ok("install", "--yes", "--force", "./hello")
    marker.unlink()
    out, _ = process.communicate(timeout=PATIENCE)
    assert out == b"old\n"


def test_a_store_of_a_newer_version_is_not_touched(cli, agent, tmp_path):
    cli.ok("install", "--yes", "./hello")
    marker = tmp_path / "home" / "store.json"
    marker.write_text('{"schema_version": 99}')
    before = tree(tmp_path / "home")
    for words in (["install", "--yes", "--force", "./hello"], ["uninstall", "hello"]):
        assert_refused(cli(*words), 4, "newer")
    assert tree(tmp_path / "home") == before


# installation commands ---------------------------------------------------------------------------------------------


def commanded(place, *commands):
    return hello(place, installation={"commands": list(commands)})


def test_commands_need_a_consent_of_their_own(cli, tmp_path):
    place = commanded(tmp_path / "commanded", "touch made-by-command")
    assert_refused(cli("install", "--yes", place), 5, "touch made-by-command", "--allow-commands")
    assert cli.ok("list", "--json").json["agents"] == []
    cli.ok("install", "--yes", "--allow-commands", place)
    assert os.path.exists(os.path.join(cli.ok("dir", "commanded").out.strip(), "made-by-command"))


def test_commands_run_without_a_shell_and_the_first_failure_ends_it(cli, tmp_path):
    place = commanded(tmp_path / "commanded", "echo a > b", "sh -c 'echo the reason; exit 3'", "touch never")
    finished = cli("install", "--yes", "--allow-commands", place)
    assert_refused(finished, 4, "commanded", "status 3", "the reason")
    assert cli.ok("list", "--json").json["agents"] == []
    assert not [path for path in tree(tmp_path) if path.endswith(("never", "/b"))]


def test_commands_are_not_run_where_something_declarative_describes_the_environment(cli, tmp_path):
    place = hello(tmp_path / "both", installation={"commands": ["touch never"]}, dependencies=["six"])
    finished = cli.ok("install", "--yes", "-v", place)
    assert "not run" in finished.err
    assert not os.path.exists(os.path.join(cli.ok("dir", "both").out.strip(), "never"))
