"""An agent in the format of the existing public agents (script, service module, project, lock), unchanged."""

from __future__ import annotations

import os
import subprocess

import pytest

from agenthub.runtime.environments.tools import find_uv
from tests.integration.openai_server import KEY, OpenAIServer
from tests.support import in_terminal, install_into, invoke, tree

MANIFEST = """\
name: "rhyme-agent"
version: "1.0.0"
description: "Finds rhymes with a language model"
author: "somebody"
license: "MIT"
python_version: "3.11+"

installation:
  commands:
    - "python -m ensurepip --upgrade"
    - "pip install uv"
    - "uv venv .venv"
    - "uv pip install -e ."
    - "uv sync"
  description: "Install uv, then the agent and its dependencies"

interface:
  methods:
    rhyme:
      description: "Rhyme on a word"
      parameters:
        word:
          type: "string"
          description: "The word"
          required: true
        count:
          type: "integer"
          description: "How many"
          required: false
          default: 3
      returns:
        type: "string"
        description: "The rhymes"
    sources:
      description: "What the agent knows of itself"
      parameters:
      returns:
        type: "dict"
    confirm:
      description: "Asks on the terminal"
      parameters: {}
    broken:
      description: "Reports an error and exits with 0"

tags: ["rhymes"]
builtin_tools:
  - name: "search"
"""

AGENT = """\
#!/usr/bin/env python3
import json
import os
import sys

from rhyme_service import RhymeService


class RhymeAgent:
    def __init__(self):
        with open("config.json") as file:  # in the working directory
            self.config = json.load(file)
        self.service = RhymeService()

    def rhyme(self, word, count):
        prompt = self.config["prompt"].format(word=word, count=count)
        try:
            return self.service.generate(prompt)
        except Exception as error:
            return f"The service is unavailable: {error}"

    def sources(self):
        beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "config.json")
        return {"arguments": len(sys.argv), "beside": os.path.exists(beside), "home": os.path.expanduser("~")}


def main():
    if len(sys.argv) != 2:
        print(json.dumps({"error": "Invalid arguments"}))
        sys.exit(1)
    try:
        request = json.loads(sys.argv[1])
        method = request.get("method")
        parameters = request.get("parameters", {})
        agent = RhymeAgent()
        print("🔌 no tool server at localhost:8000")
        if method == "rhyme":
            print(json.dumps({"result": agent.rhyme(parameters.get("word", ""), parameters.get("count"))}))
        elif method == "sources":
            print(json.dumps({"result": agent.sources()}))
        elif method == "confirm":
            answers = [line for line in iter(lambda: sys.stdin.readline(), "")]
            try:
                input("Continue? ")
            except EOFError:
                print("\\n" + json.dumps({"result": {"lines": len(answers), "then": "EOF"}}))
        else:
            print(json.dumps({"error": f"Unknown method: {method}"}))
    except Exception as error:
        print(json.dumps({"error": str(error)}))
        sys.exit(1)


if __name__ == "__main__":
    main()
"""

SERVICE = """\
import os

import openai


class RhymeService:
    def generate(self, prompt):
        if not os.getenv("OPENAI_API_KEY"):
            raise RuntimeError("no key")
        client = openai.OpenAI(max_retries=0)
        answer = client.chat.completions.create(model="small", messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content
"""

PROJECT = """\
[build-system]
requires = ["setuptools>=61.0", "wheel"]
build-backend = "setuptools.build_meta"

[project]
name = "rhyme-agent"
version = "1.0.0"
description = "Finds rhymes with a language model"
requires-python = ">=3.11"
dependencies = ["openai>=1.40"]

[project.scripts]
rhyme-agent = "agent:main"

[tool.setuptools.packages.find]
where = ["."]
include = ["*"]
"""

NOTE = "OPENAI_API_KEY, OPENAI_BASE_URL"


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The agent's directory, with a lock that was made just now."""
    place = tmp_path_factory.mktemp("old") / "rhyme-agent"
    place.mkdir()
    files = {
        "agent.yaml": MANIFEST,
        "agent.py": AGENT,
        "rhyme_service.py": SERVICE,
        "pyproject.toml": PROJECT,
        "config.json": '{"prompt": "{count} rhymes on {word}"}',
        "README.md": "# rhyme-agent\n",
    }
    for name, text in files.items():
        (place / name).write_text(text)
    subprocess.run([find_uv(), "lock", "-q", "--directory", place], check=True, capture_output=True)
    return place


@pytest.fixture(scope="session")
def shared(source, tmp_path_factory):
    return install_into(tmp_path_factory.mktemp("old-home") / "home", source, "--as", "somebody/rhyme-agent")


@pytest.fixture
def old(shared, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    return cli


@pytest.fixture
def server():
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def own_store(source, cli, tmp_path):
    """An installation that the test may change."""
    cli.ok("install", "--yes", source)
    return cli


def test_it_installs_unchanged_exactly_as_locked(old, source, shared):
    info = old.ok("info", "rhyme-agent", "--json").json
    locked = (source / "uv.lock").read_text()
    assert {one["name"] for one in info["dependencies"]} >= {"openai", "pydantic"}
    for one in info["dependencies"]:
        assert f'name = "{one["name"]}"\nversion = "{one["version"]}"' in locked
    installed = tree(info["path"])
    assert all(installed[name] == data for name, data in tree(source).items())
    assert not any(name.startswith((".venv", "build", "rhyme_agent.egg-info")) for name in installed)


def test_its_installation_commands_are_not_run_and_that_is_said(source, cli):
    assert "not run" in cli.ok("install", "--yes", "-v", source).err


@pytest.mark.slow
def test_key_and_address_given_by_env(old, server, monkeypatch):
    words = ["--env", f"OPENAI_API_KEY={KEY}", "--env", f"OPENAI_BASE_URL={server.url}"]
    finished = old.ok("run", *words, "rhyme-agent", "rhyme", "--word", "moon")
    assert finished.out == "answer to: 3 rhymes on moon\n", "the manifest's default is filled in"
    assert "🔌 no tool server" in finished.err
    [(path, authorization, body)] = server.requests
    assert (path, authorization, body["model"]) == ("/v1/chat/completions", f"Bearer {KEY}", "small")


def test_key_and_address_taken_over_by_name(old, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    words = ["--env", "OPENAI_API_KEY", "--env", "OPENAI_BASE_URL"]
    finished = old.ok("run", *words, "rhyme-agent", "rhyme", "--word", "moon", "--count", "1")
    assert finished.out == "answer to: 1 rhymes on moon\n"
    assert "note:" not in finished.err


def test_otherwise_they_are_not_passed_and_a_note_says_so(old, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    finished = old.ok("run", "rhyme-agent", "rhyme", "--word", "moon")
    assert finished.out == "The service is unavailable: no key\n"
    assert server.requests == []
    [note] = [line for line in finished.err.splitlines() if line.startswith("note:")]
    assert NOTE in note
    assert "--env OPENAI_API_KEY --env OPENAI_BASE_URL" in note
    assert KEY not in finished.err


def test_without_a_key_here_there_is_nothing_to_note(old):
    assert "note:" not in old.ok("run", "rhyme-agent", "rhyme", "--word", "moon").err


@pytest.mark.slow
def test_a_grant_is_remembered(own_store, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    own_store.ok("grant", "rhyme-agent", "environment", "OPENAI_API_KEY", "OPENAI_BASE_URL")
    finished = own_store.ok("run", "rhyme-agent", "rhyme", "--word", "sun")
    assert finished.out == "answer to: 3 rhymes on sun\n"
    assert "note:" not in finished.err
    variables = {one["name"]: one for one in own_store.ok("info", "rhyme-agent", "--json").json["variables"]}
    assert variables["OPENAI_API_KEY"]["passed"] is True
    own_store.ok("revoke", "rhyme-agent", "environment", "OPENAI_API_KEY", "OPENAI_BASE_URL")
    assert own_store.ok("run", "rhyme-agent", "rhyme", "--word", "sun").out.startswith("The service is unavailable")


@pytest.mark.slow
def test_consent_on_the_terminal_is_asked_once(own_store, server, tmp_path):
    env = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
    words = ("run", "rhyme-agent", "rhyme", "--word", "tree")
    shown = in_terminal(*words, replies=[(f"reads {NOTE}", "y")], env=env)
    assert shown.code == 0
    assert "answer to: 3 rhymes on tree" in shown.err
    shown = in_terminal(*words, env=env)
    assert "[y/N]" not in shown.err
    assert "answer to: 3 rhymes on tree" in shown.err


def test_a_declaration_passes_them_on(source, cli, server, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(source, tmp_path / "declared")
    with open(tmp_path / "declared" / "agent.yaml", "a") as file:
        file.write('environment: {secret: {OPENAI_API_KEY: "the key"}, optional: {OPENAI_BASE_URL: "the address"}}\n')
    cli.ok("install", "--yes", tmp_path / "declared")
    refused = cli("run", "rhyme-agent", "rhyme", "--word", "lake")
    assert refused.code == 2
    assert "OPENAI_API_KEY (the key)" in refused.err
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert cli.ok("run", "rhyme-agent", "rhyme", "--word", "lake").out == "answer to: 3 rhymes on lake\n"


def test_a_wrong_key_is_seen_in_the_result(old, server):
    words = ["--env", "OPENAI_API_KEY=wrong", "--env", f"OPENAI_BASE_URL={server.url}"]
    assert "Incorrect API key" in old.ok("run", *words, "rhyme-agent", "rhyme", "--word", "moon").out


def test_how_it_is_called(old):
    facts = old.ok("run", "rhyme-agent", "sources").json
    assert facts["arguments"] == 2
    assert facts["beside"] is True
    assert facts["home"] != os.path.expanduser("~")


def test_standard_input_ends(old):
    assert old.ok("run", "rhyme-agent", "confirm").json == {"lines": 1, "then": "EOF"}


def test_an_error_with_exit_code_0_is_a_failure(old):
    finished = old("run", "rhyme-agent", "broken")
    assert finished.code == 1
    assert finished.error_lines[0] == "error: rhyme-agent: Unknown method: broken"


def test_a_method_that_only_the_script_knows_is_refused(old):
    assert old("run", "rhyme-agent", "generate").code == 3


def test_it_is_valid_as_it_is(cli, source):
    finished = cli.ok("validate", "--no-environment", source)
    assert "error" not in finished.out


def test_the_model_cannot_be_reached_while_the_run_goes_on(old):
    """Nobody listens there: the agent says so itself."""
    done = invoke(
        *("run", "--env", "OPENAI_API_KEY=x", "--env", "OPENAI_BASE_URL=http://127.0.0.1:9/v1"),
        *("rhyme-agent", "rhyme", "--word", "moon"),
    )
    assert done.code == 0
    assert "unavailable" in done.out
