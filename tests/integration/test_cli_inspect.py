"""`info`, `list`, `uninstall`, `dir`, `config`, `cache`, `doctor`, `grant`, `revoke`."""

from __future__ import annotations

import json
import os
import shlex
import shutil

import pytest

from tests.support import PATIENCE, assert_refused, install_into, method, start, tree, wait_until, write_agent

CODE = """
def greet(name, times=1, loud=False, style="plain"):
    return name

def chart(table, target=None):
    open("chart.svg", "w").write("<svg/>")
    return "chart.svg"

def wait(place):
    import os, time
    marker = os.path.join(place, "running")
    open(marker, "w").close()
    while os.path.exists(marker):
        time.sleep(0.01)
    return "waited"
"""
METHODS = {
    "greet": {
        **method(
            "says hello to someone",
            name={"type": "string", "required": True, "description": "who is greeted"},
            times={"type": "integer", "default": 3},
            loud="boolean",
            style={"type": "string", "enum": ["plain", "rude"], "default": "plain"},
        ),
        "returns": {"type": "string"},
    },
    "chart": {
        **method("draws", table={"type": "file", "required": True}),
        "returns": {"type": "file", "media_type": "image/svg+xml"},
    },
    "wait": method(place={"type": "directory", "access": "write", "required": True}),
}


def greeter(place, **manifest):
    return write_agent(place, CODE, METHODS, entrypoint="agent", **manifest)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("inspected")
    full = greeter(
        place / "greeter",
        license="MIT",
        tags=["greeting", "tests"],
        dependencies=["six"],
        limits={"timeout": "7s", "memory": "300MB", "processes": 50},
        permissions={"network": ["api.example.com"], "run": ["git"]},
        environment={"required": {"GREETER_KEY": "opens the door"}, "optional": {"GREETER_URL": "another door"}},
    )
    plain = write_agent(place / "plain", "", description="an agent\nwith a long description " + "and more words " * 20)
    return install_into(place / "home", full, plain)


@pytest.fixture
def looking(shared, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    return cli


# info --------------------------------------------------------------------------------------------------------------


def test_info_shows_what_a_person_needs(looking, monkeypatch):
    monkeypatch.setenv("GREETER_URL", "x")
    page = " ".join(looking.ok("info", "greeter").out.split())
    for told in (
        *("local/greeter 1.0.0", "an agent for tests", "MIT", "greeting", "installed 20", "Python 3.", "sha256:"),
        *("· 1 package ·", "packages six 1.", "kB", "7 s", "300 MB", "50 processes"),
        *("api.example.com", "git", "GREETER_KEY (required, not set): opens the door", "GREETER_URL (optional, set)"),
        *("says hello to someone", "--name", "who is greeted (required)", "--times", "default 3", "plain, rude"),
        *("image/svg+xml", "agenthub run local/greeter greet --name", "> chart.svg"),
    ):
        assert told in page, told


def test_info_as_json(looking):
    info = looking.ok("info", "local/greeter", "--json").json
    assert info["schema_version"] == 1
    assert (info["name"], info["owner"], info["version"], info["installed"]) == ("greeter", "local", "1.0.0", True)
    assert info["limits"]["timeout"] == 7
    assert info["limits"]["memory"] == 300 << 20
    assert [one["name"] for one in info["dependencies"]] == ["six"]
    assert {"name", "set", "required", "description"} <= set(info["variables"][0])
    assert info["methods"]["greet"]["parameters"]["times"]["default"] == 3


def test_the_example_commands_of_info_can_be_run(looking, tmp_path, monkeypatch):
    monkeypatch.setenv("GREETER_KEY", "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("data")
    methods = looking.ok("info", "greeter", "--json").json["methods"]
    for name in ("greet", "chart"):
        program, *words = shlex.split(methods[name]["example"].partition(" > ")[0])
        assert program == "agenthub"
        assert looking(*words).code == 0


def test_info_of_a_directory_that_is_not_installed(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    greeter(tmp_path / "fresh")
    page = cli.ok("info", "./fresh").out
    assert "not installed" in page
    assert "agenthub run ./fresh greet" in page
    assert not (tmp_path / "home").exists()


def test_info_of_nobody(looking):
    assert_refused(looking("info", "greter"), 3, "greter", "greeter")
    finished = looking("info", "greter", "--json")
    assert finished.code == 3
    assert finished.json["error_type"] == "AgentNotFoundError"


# list --------------------------------------------------------------------------------------------------------------


def test_list_is_one_line_an_agent(looking):
    lines = looking.ok("list").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["local/greeter", "1.0.0"], ["local/plain", "1.0.0"]]
    assert all(len(line) <= 80 for line in lines)
    assert looking.ok("ls").out.splitlines() == lines


def test_list_as_json(looking):
    document = looking.ok("list", "--json").json
    assert document["schema_version"] == 1
    assert [(one["owner"], one["name"], one["version"]) for one in document["agents"]] == [
        ("local", "greeter", "1.0.0"),
        ("local", "plain", "1.0.0"),
    ]


def test_an_empty_store(cli, tmp_path):
    assert cli.ok("list", "--json").json == {"agents": [], "schema_version": 1}
    finished = cli.ok("list")
    assert finished.out == ""
    assert "agenthub install" in finished.err
    assert not (tmp_path / "home").exists(), "looking makes nothing"


def test_a_damaged_agent_does_not_hide_the_others(cli, tmp_path):
    greeter(tmp_path / "one")
    greeter(tmp_path / "two")
    cli.ok("install", "--yes", tmp_path / "one", tmp_path / "two")
    record = os.path.join(cli.ok("dir", "one").out.strip(), ".agenthub", "record.json")
    with open(record, "w") as file:
        file.write("{")
    os.utime(record, ns=(1, 1))
    listed = {one["name"]: one for one in cli.ok("list", "--json").json["agents"]}
    assert set(listed) == {"one", "two"}
    assert_refused(cli("run", "one", "greet", "--name", "x"), 4, "record.json")
    assert cli.ok("run", "two", "greet", "--name", "x").out == "x\n"
    cli.ok("uninstall", "one")
    assert [one["name"] for one in cli.ok("list", "--json").json["agents"]] == ["two"]


# uninstall ---------------------------------------------------------------------------------------------------------


def _kept(home):
    """What a store holds, but for the locks, caches and history that every use makes."""
    volatile = ("locks", "cache", "index.json", "history")
    return {path: data for path, data in tree(home).items() if not path.startswith(volatile)}


def test_uninstall_removes_exactly_what_install_made(cli, tmp_path):
    greeter(tmp_path / "first")
    greeter(tmp_path / "second", dependencies=["six"])
    cli.ok("install", "--yes", "--env", "GREETER_KEY", tmp_path / "first")
    source, before = tree(tmp_path / "second"), _kept(tmp_path / "home")
    cli.ok("install", "--yes", "--as", "acme/second", "--env", "GREETER_KEY", tmp_path / "second")
    cli.ok("run", "second", "greet", "--name", "x")
    assert _kept(tmp_path / "home") != before
    finished = cli.ok("uninstall", "second")
    assert finished.out == ""
    assert "acme/second" in finished.err
    assert _kept(tmp_path / "home") == before
    assert tree(tmp_path / "second") == source
    assert cli.ok("run", "first", "greet", "--name", "x").out == "x\n"


def test_uninstall_all_or_none(cli, tmp_path):
    greeter(tmp_path / "first")
    cli.ok("install", "--yes", tmp_path / "first")
    assert_refused(cli("uninstall", "first", "nobody"), 3, "nobody")
    assert_refused(cli("rm", "frist"), 3, "frist", "first")
    cli.ok("uninstall", "--dry-run", "first")
    assert len(cli.ok("list", "--json").json["agents"]) == 1
    cli.ok("rm", "first", "local/first")
    assert cli.ok("list", "--json").json["agents"] == []


def test_uninstall_spares_a_run_in_progress(cli, tmp_path):
    greeter(tmp_path / "busy")
    cli.ok("install", "--yes", tmp_path / "busy")
    marker = tmp_path / "place" / "running"
    marker.parent.mkdir()
    process = start("run", "busy", "wait", "--place", marker.parent)
    try:
        wait_until(marker.exists, process)
        finished = cli("uninstall", "busy")
        assert finished.code != 0
        assert "--force" in finished.err
        assert cli.ok("info", "busy").out
    finally:
        marker.unlink(missing_ok=True)
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == b"waited\n"
    cli.ok("uninstall", "busy")


def test_an_agent_directory_that_is_deleted_in_the_middle_of_a_run(cli, tmp_path):
    greeter(tmp_path / "gone")
    with open(tmp_path / "gone" / "agent.py", "a") as file:
        file.write("\n_wait = wait\n\ndef wait(place):\n    _wait(place)\n    import late\n")
    cli.ok("install", "--yes", tmp_path / "gone")
    marker = tmp_path / "place" / "running"
    marker.parent.mkdir()
    process = start("run", "gone", "wait", "--place", marker.parent)
    wait_until(marker.exists, process)
    shutil.rmtree(cli.ok("dir", "gone").out.strip())
    marker.unlink()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, b"")
    assert b"install it again" in err
    assert b"agenthub/runtime/agent_runtime.py" not in err


def test_an_agent_directory_that_was_deleted_by_hand(cli, tmp_path):
    greeter(tmp_path / "gone")
    cli.ok("install", "--yes", tmp_path / "gone")
    shutil.rmtree(cli.ok("dir", "gone").out.strip())
    finished = cli("run", "gone", "greet", "--name", "x")
    assert finished.code in (3, 4)
    assert len(finished.error_lines) <= 4
    assert "gone" in finished.error_lines[0]
    cli.ok("uninstall", "gone")
    assert cli.ok("list", "--json").json["agents"] == []


# dir, config, cache ------------------------------------------------------------------------------------------------


def test_dir(looking, shared, cli, tmp_path):
    assert looking.ok("dir").out == f"{shared}\n"
    assert os.path.isfile(os.path.join(looking.ok("dir", "greeter").out.strip(), "agent.yaml"))
    assert_refused(looking("dir", "nobody"), 3, "nobody")


def test_config_shows_each_value_with_its_source(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTHUB_MEMORY", "2GB")
    (tmp_path / "agenthub.toml").write_text('output = "1MB"\ngrace = "1s"\n')
    cli.ok("config", "set", "timeout", "90s")
    cli.ok("config", "set", "grace", "2s")
    settings = cli.ok("config", "--json").json["settings"]
    user, project = str(tmp_path / "home" / "config.toml"), str(tmp_path / "agenthub.toml")
    assert settings["memory"] == {"value": 2 << 30, "source": "AGENTHUB_MEMORY"}
    assert settings["timeout"] == {"value": 90, "source": user}
    assert settings["output"] == {"value": 1 << 20, "source": project}
    assert settings["grace"] == {"value": 1, "source": project}
    assert settings["python"]["source"] == "default"
    page = cli.ok("config").out
    assert "AGENTHUB_MEMORY" in page
    assert user in page


def test_config_changes_one_line(cli, tmp_path):
    path = tmp_path / "home" / "config.toml"
    path.parent.mkdir()
    path.write_text('# mine\npython = "3.11"\n')
    cli.ok("config", "set", "timeout", "10")
    cli.ok("config", "set", "timeout", "20")
    assert path.read_text() == '# mine\npython = "3.11"\ntimeout = "20"\n'
    cli.ok("config", "unset", "timeout")
    assert path.read_text() == '# mine\npython = "3.11"\n'


@pytest.mark.parametrize(
    ("words", "complaints"),
    [
        (["set", "timeuot", "1"], ["timeuot", "timeout"]),
        (["set", "timeout", "soon"], ["timeout", "'soon'"]),
        (["set", "timeout"], ["NAME and VALUE"]),
        (["unset"], ["NAME"]),
    ],
)
def test_config_refuses(cli, tmp_path, words, complaints):
    assert_refused(cli("config", *words), 2, *complaints)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("text", ["timeout = \n", 'timeuot = "1"\n', 'timeout = "soon"\n'])
def test_a_wrong_file_of_settings_is_named(cli, tmp_path, text):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(text)
    assert_refused(cli("config"), 2, "config.toml")


def test_cache(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.ok("cache", "dir").out == f"{tmp_path / 'home' / 'cache'}\n"
    assert cli.ok("cache", "clean").out == ""
    greeter(tmp_path / "cached")
    cli.ok("run", "--yes", "./cached", "greet", "--name", "x")
    assert not cli.ok("cache", "size").out.startswith("0 ")
    cli.ok("cache", "clean")
    assert not (tmp_path / "home" / "cache").exists()
    assert cli.ok("run", "./cached", "greet", "--name", "x").out == "x\n"


# grants ------------------------------------------------------------------------------------------------------------


def test_a_grant_passes_a_variable_until_it_is_revoked(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hunter2")
    write_agent(tmp_path / "curious", "import os\ndef go():\n    return os.environ.get('MY_KEY')", entrypoint="agent")
    cli.ok("install", "--yes", tmp_path / "curious")
    assert cli.ok("run", "curious", "go").out == "null\n"
    cli.ok("grant", "curious", "environment", "MY_KEY")
    assert cli.ok("run", "curious", "go").out == "hunter2\n"
    assert cli.ok("info", "curious", "--json").json["variables"][0]["name"] == "MY_KEY"
    cli.ok("revoke", "curious", "environment", "MY_KEY")
    assert cli.ok("run", "curious", "go").out == "null\n"
    assert "hunter2" not in "".join(str(data) for data in tree(tmp_path / "home" / "grants").values())


def test_install_can_grant(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hunter2")
    write_agent(tmp_path / "curious", "import os\ndef go():\n    return os.environ.get('MY_KEY')", entrypoint="agent")
    assert_refused(cli("install", "--yes", "--env", "MY_KEY=hunter2", tmp_path / "curious"), 2, "--env", "never stored")
    cli.ok("install", "--yes", "--env", "MY_KEY", tmp_path / "curious")
    assert cli.ok("run", "curious", "go").out == "hunter2\n"


@pytest.mark.parametrize(
    ("words", "code"), [(["nobody", "environment", "X"], 3), (["greeter", "environment", "A-B"], 2), (["greeter"], 2)]
)
def test_a_grant_that_cannot_be(looking, words, code):
    assert_refused(looking("grant", *words), code)


# doctor ------------------------------------------------------------------------------------------------------------


def test_doctor(looking):
    document = looking.ok("doctor", "--json").json
    topics = {check["topic"]: check for check in document["checks"]}
    assert document["healthy"] is True
    assert {"uv", "python", "git", "store", "agents", "disk"} <= set(topics)
    assert topics["agents"]["message"].startswith("2 installed, 2 healthy")
    tier = looking.ok("info", "plain", "--json").json["isolation"]["tier"]
    assert topics["isolation: sandbox"]["message"].startswith(tier)
    guarded = {"deadline", "files", "network off", "declared hosts only", "memory", "number of processes"}
    assert {f"isolation: {guarantee}" for guarantee in guarded} <= set(topics)
    assert all(check["remedy"] for check in document["checks"] if check["state"] != "ok")


def test_doctor_sweeps_what_was_left_behind(cli, tmp_path):
    greeter(tmp_path / "one")
    cli.ok("install", "--yes", tmp_path / "one")
    rubbish = tmp_path / "home" / "staging" / "left-behind"
    rubbish.mkdir()
    (rubbish / "file").write_text("x")
    cli.ok("doctor", "--fix")
    assert not rubbish.exists()


def test_documents_are_one_line_of_sorted_json(looking):
    for words in (["list"], ["info", "greeter"], ["config"]):
        text = looking.ok(*words, "--json").out
        assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False) + "\n"
