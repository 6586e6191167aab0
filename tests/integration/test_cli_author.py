"""`agenthub init` and `validate`, and the published schema of the manifest."""

from __future__ import annotations

import json
import os

import pytest

from agenthub.manifest.schema import SCHEMA, rendered
from tests.support import PROJECT, SAMPLES, assert_refused, in_terminal, method, tree, write_agent


def test_the_published_schema_is_the_one_that_is_checked():
    with open(os.path.join(PROJECT, "docs", "reference", "agent.schema.json"), encoding="utf-8") as file:
        assert file.read() == rendered(), "make schema"
    assert json.loads(rendered()) == SCHEMA


# init --------------------------------------------------------------------------------------------------------------


def test_what_init_writes_is_valid_and_runs_at_once(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = cli.ok("init", "greeter")
    assert finished.out == ""
    assert "agenthub run ./greeter greet --name you" in finished.err
    assert set(tree(tmp_path / "greeter")) == {"agent.yaml", "agent.py"}
    validated = cli.ok("validate", "greeter", "--json").json
    assert validated == {"environment": "complete", "findings": [], "schema_version": 1, "valid": True}
    assert cli.ok("run", "./greeter", "greet", "--name", "you").out == "Hello, you!\n"
    (tmp_path / "text.txt").write_text("to be or not to be")
    counted = cli.ok("run", "./greeter", "count_words", "--file", "text.txt", "--most", "2")
    assert counted.json == {"to": 2, "be": 2}
    assert "6 words" in counted.err
    cli.ok("install", "--yes", "./greeter")
    assert cli.ok("run", "greeter", "greet", "--name", "you").out == "Hello, you!\n"


@pytest.mark.parametrize(
    ("directory", "words", "name"),
    [("My Agent!", [], "my-agent"), ("deep/er", [], "er"), ("x", ["--name", "other"], "other"), ("...", [], "agent")],
)
def test_init_names_it_after_the_directory(cli, tmp_path, monkeypatch, directory, words, name):
    monkeypatch.chdir(tmp_path)
    cli.ok("init", directory, *words)
    assert cli.ok("info", f"./{directory}", "--json").json["name"] == name


def test_init_overwrites_nothing(cli, tmp_path):
    cli.ok("init", tmp_path / "one")
    before = tree(tmp_path / "one")
    assert_refused(cli("init", tmp_path / "one"), 2, "agent.yaml", "exists")
    assert tree(tmp_path / "one") == before


def test_init_refuses_what_cannot_be_a_name(cli, tmp_path):
    assert_refused(cli("init", tmp_path / "x", "--name", "Not/This"), 2, "Not/This")
    assert not (tmp_path / "x").exists()


def test_init_where_nothing_can_be_written(cli, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(cli("init", tmp_path / "file" / "x"), 4, "cannot write")


# validate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(os.listdir(SAMPLES)))
def test_the_sample_agents_are_valid(cli, name):
    if os.path.isdir(os.path.join(SAMPLES, name)):
        finished = cli.ok("validate", "--no-environment", "--json", os.path.join(SAMPLES, name))
        assert finished.json["findings"] == []


MANIFEST = """\
name: checked
version: 1.0.0
description: an agent
author: tests
entrypoint: agent:Agent
interface:
  methods:
    greet:
      description: says hello
      parameters:
        name: {type: string, required: true}
"""
CODE = "class Agent:\n    def greet(self, name):\n        return name\n"


@pytest.fixture
def validate(cli, tmp_path, monkeypatch):
    """Validates an agent of the given texts; returns the command's end and the findings."""
    monkeypatch.chdir(tmp_path)

    def run(manifest=MANIFEST, code=CODE, *words):
        if manifest is not None:
            (tmp_path / "agent.yaml").write_text(manifest)
        if code is not None:
            (tmp_path / "agent.py").write_text(code)
        finished = cli("validate", "--json", "--no-environment", *words)
        return finished, [(one["severity"], one["where"], one["message"]) for one in finished.json["findings"]]

    return run


def test_a_valid_agent(validate, cli):
    finished, findings = validate()
    assert (finished.code, findings) == (0, [])
    assert "checked 1.0.0: 1 method" in cli.ok("validate", "--no-environment").err


@pytest.mark.parametrize(
    ("before", "after", "where", "words"),
    [
        (
            "description: an agent",
            "descripton: an agent",
            "agent.yaml:3",
            ["descripton", "did you mean", "description"],
        ),
        ("author: tests\n", "", "agent.yaml:1", ["author"]),
        ("version: 1.0.0", "version: [1]", "agent.yaml:2", ["version"]),
        ("type: string", "type: sting", "agent.yaml:11", ["type", "sting", "did you mean", "string"]),
        ("      description: says hello\n", "", "agent.yaml:8", ["description"]),
        ("author: tests", "author: tests\nlimits: {timeout: soon}", "agent.yaml:5", ["timeout", "30s"]),
        ("author: tests", "author: tests\npython_version: three", "agent.yaml:5", ["python_version"]),
        ("name: checked", "name: [", "agent.yaml", ["YAML"]),
        ("name: checked", "name: a\nname: b", "agent.yaml:2", ["name", "twice"]),
    ],
)
def test_a_manifest_error_names_file_line_and_key(validate, before, after, where, words):
    finished, findings = validate(MANIFEST.replace(before, after))
    assert finished.code == 3
    texts = [f"{place}: {message}" for severity, place, message in findings if severity == "error"]
    assert any(text.startswith(where) and all(word in text for word in words) for text in texts), findings


def test_an_unknown_key_is_kept_with_a_warning(validate):
    finished, findings = validate(MANIFEST + "homepage: https://localhost\n")
    assert finished.code == 0
    [(severity, where, message)] = findings
    assert (severity, where) == ("warning", "agent.yaml:12")
    assert "homepage" in message


def test_a_script_that_is_to_stream_is_told_that_it_cannot(validate):
    manifest = MANIFEST.replace(
        "      description: says hello\n", "      description: says hello\n      stream: true\n"
    )
    assert validate(manifest)[1] == [], "a class can"
    code = "import json\nprint(json.dumps({'result': 'greet'}))\n"
    finished, [(severity, where, message)] = validate(manifest.replace("entrypoint: agent:Agent\n", ""), code)
    assert (finished.code, severity, where) == (0, "warning", "agent.yaml")
    assert "interface.methods.greet.stream" in message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, ["no module agent"]),
        ("class Agnet:\n    pass", ["no class Agent", "Agnet"]),
        ("class Agent:\n    def greeet(self, name): pass", ["no method greet", "greeet"]),
        ("class Agent:\n    def greet(self): pass", ["does not take the parameter name"]),
        ("class Agent:\n    def greet(self, nme): pass", ["nme"]),
        ("class Agent:\n    def greet(self, name, more): pass", ["needs more"]),
        ("class Agent(:", ["not valid Python"]),
    ],
)
def test_methods_are_compared_with_the_code(validate, code, words):
    finished, findings = validate(code=code)
    assert finished.code == 3
    text = "\n".join(message for severity, _, message in findings if severity == "error")
    for word in words:
        assert word in text, findings


@pytest.mark.parametrize(
    "code",
    [
        "class Agent:\n    def greet(self, **anything): pass",
        "class Agent:\n    def greet(self, name, *, more=1): pass",
        "class Agent:\n    @staticmethod\n    def greet(name): pass",
        "class Agent:\n    async def greet(self, name): pass",
        "from elsewhere import Agent",
        "class Base:\n    def greet(self, name): pass\nclass Agent(Base): pass",
    ],
)
def test_code_that_fits_otherwise(validate, code):
    finished, findings = validate(code=code)
    assert (finished.code, findings) == (0, [])


def test_a_script_that_is_missing_or_does_not_know_a_method(validate, tmp_path):
    script = MANIFEST.replace("entrypoint: agent:Agent\n", "")
    finished, findings = validate(script, None)
    assert finished.code == 3
    assert "there is no agent.py" in findings[0][2]
    finished, findings = validate(script, "print('{}')")
    assert (finished.code, findings[0][0]) == (0, "warning")
    assert "greet" in findings[0][2]


def test_a_program_that_is_missing(validate):
    command = MANIFEST.replace("agent:Agent", "{command: [./bin/agent]}")
    finished, findings = validate(command)
    assert finished.code == 3
    assert "./bin/agent" in findings[0][2]


def test_validate_loads_the_code_in_its_environment(cli, tmp_path):
    place = write_agent(tmp_path / "late", "import six\nvars()['greet'] = six.text_type", entrypoint="agent:Nobody")
    finished = cli("validate", "--yes", place)
    assert finished.code == 3
    assert "Nobody" in finished.out
    place = write_agent(
        tmp_path / "dynamic",
        "import six\n@lambda agent: setattr(agent, 'go', six.ensure_text) or agent\nclass Agent: pass",
        {"go": method()},
        entrypoint="agent:Agent",
        dependencies=["six"],
    )
    assert cli.ok("validate", "--yes", "--json", place).json["environment"] == "complete"


def test_validate_says_when_the_environment_cannot_be_made(cli, tmp_path):
    place = write_agent(tmp_path / "late", "def go(): pass", entrypoint="agent", dependencies=["idna==99.99"])
    finished = cli("validate", "--yes", "--json", place)
    assert finished.code == 3
    assert finished.json["environment"] == "cannot be made"
    assert "idna==99.99" in finished.out


def test_validate_asks_before_it_makes_an_environment(cli, tmp_path):
    write_agent(tmp_path / "asked", "def go(): pass", entrypoint="agent")
    assert cli.ok("validate", "--json", tmp_path / "asked").json["environment"] == "not checked (--yes does)"
    shown = in_terminal("validate", tmp_path / "asked", replies=[("[y/N]", "y")])
    assert shown.code == 0
    assert "environment complete" in shown.err


def test_validate_leaves_the_agents_directory_as_it_is(cli, tmp_path):
    write_agent(tmp_path / "clean", "def go(): pass", entrypoint="agent")
    before = tree(tmp_path / "clean")
    cli.ok("validate", "--yes", tmp_path / "clean")
    after = {path: data for path, data in tree(tmp_path / "clean").items() if "__pycache__" not in path}
    assert after == before


def test_validate_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("validate").code == 3
    assert_refused(cli("validate", "nowhere"), 3, "nowhere")
