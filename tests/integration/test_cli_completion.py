"""Shell completion: what it offers, and that bash takes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from index_support import TestIndex

from tests.support import install_into, method, write_agent


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("completed")
    draw = method(
        input_file={"type": "file", "required": True},
        kind={"type": "string", "enum": ["line", "bar"]},
        grid="boolean",
    )
    one = write_agent(place / "painter", "", {"draw": draw, "erase": method()})
    two = write_agent(place / "poet", "", {"write": method()})
    install_into(place / "home", one, two)
    return install_into(place / "home", two, "--as", "acme/poet")


@pytest.fixture
def complete(shared, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    monkeypatch.setenv("COMPLETED_NAME", "x")
    return lambda *words: cli.ok("complete", *words).out.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ins"], ["install"]),
        (["un"], ["uninstall", "unpin"]),
        (["use", "pai"], ["painter"]),
        (["use", "painter@"], ["painter@1.0.0"]),
        (["run", "painter@1"], ["painter@1.0.0"]),
        (["run", "painter@1.0.0", "d"], ["draw"]),
        (["upgrade", "painter", "local/po"], ["local/poet"]),
        (["pin", "painter", "acme/"], ["acme/poet"]),
        (["bundle", "painter", "acme/"], ["acme/poet"]),
        (["bundle", "--proj"], ["--project"]),
        (["import", "--no-g"], ["--no-grants"]),
        (["export", "mine"], []),  # files are the shell's to complete
        # as bash takes words apart
        (["use", "painter", "@"], ["@1.0.0"]),
        (["use", "painter", "@", "1."], ["1.0.0"]),
        (["use", "painter", "@", "2"], []),
        (["run", ""], ["acme/poet", "local/painter", "local/poet", "painter"]),
        (["run", "pai"], ["painter"]),
        (["run", "acme/"], ["acme/poet"]),
        (["run", "--quiet", "pai"], ["painter"]),
        (["run", "--timeout", "3", "pai"], ["painter"]),
        (["run", "--time"], ["--timeout"]),
        (["run", "--allow-n"], ["--allow-network"]),
        (["run", "--sandbox", "off", "pai"], ["painter"]),
        (["run", "painter", ""], ["draw", "erase"]),
        (["run", "painter", "d"], ["draw"]),
        (["run", "painter", "draw", "--"], ["--grid", "--input-file", "--kind"]),
        (["run", "painter", "draw", "--input-file", ""], []),
        (["run", "painter", "draw", "--kind", ""], ["bar", "line"]),
        (["run", "painter", "draw", "--kind", "b"], ["bar"]),
        (["run", "painter", "draw", "--grid", ""], ["false", "true"]),
        (["run", "nobody", ""], []),
        (["run", "painter", "nothing", "--"], []),
        (["run", "poet", ""], []),
        (["run", "--nonsense", ""], []),
        (["info", "pa"], ["painter"]),
        (["info", "painter", ""], []),
        (["uninstall", "painter", "acme/"], ["acme/poet"]),
        (["install", ""], []),
        (["install", "--dry"], ["--dry-run"]),
        (["completion", "b"], ["bash"]),
        (["config", ""], ["set", "unset"]),
        (["config", "set", "time"], ["timeout"]),
        (["cache", "c"], ["clean"]),
        (["grant", "painter", ""], ["environment", "network", "read", "run", "sandbox", "secret", "write"]),
        (["grant", "painter", "network", ""], ["any"]),
        (["revoke", "painter", "run", "git", "a"], ["any"]),
        (["grant", "painter", "sandbox", ""], ["landlock", "off", "rlimits"]),
        (["grant", "painter", "environment", "COMPLETED_"], ["COMPLETED_NAME"]),
        (["grant", "painter", "write", ""], []),
        (["grant", "painter", "secret", ""], []),
        (["nonsense", ""], []),
    ],
)
def test_candidates(complete, words, offered):
    assert sorted(complete(*words)) == offered


def test_what_a_project_names_is_offered_for_removal(complete, monkeypatch, tmp_path):
    (tmp_path / "agents.toml").write_text('[agents]\n"acme/helper" = ">=1"\n')
    monkeypatch.chdir(tmp_path)
    assert complete("remove", "") == ["acme/helper", "helper"]


def test_published_agents_are_offered_to_whoever_takes_them_back(complete, cli, monkeypatch, tmp_path):
    index = TestIndex(tmp_path / "index")
    index.publish("acme/helper")
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGENTHUB_INDEX", index.file_url)
    cli.ok("search", "helper")
    for words in (["install"], ["add"], ["yank"], ["deprecate"]):
        assert complete(*words, "acme/h") == ["acme/helper"], words


def test_all_commands_are_offered_and_the_hidden_one_is_not(complete):
    offered = complete("")
    assert {"install", "run", "info", "list", "uninstall", "init", "validate", "doctor"} <= set(offered)
    assert "complete" not in offered


def test_an_empty_store_offers_nothing(cli, tmp_path):
    assert cli.ok("complete", "run", "").out == ""
    assert not (tmp_path / "home").exists()


def test_a_store_that_cannot_be_read_disturbs_nobody(cli, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "store.json").write_text('{"schema_version": 99}')
    finished = cli("complete", "run", "")
    assert finished.out == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_accepted_by_their_shells(cli, shell):
    script = cli.ok("completion", shell).stdout
    assert b"agenthub complete" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, capture_output=True).stderr == b""


def test_an_unknown_shell(cli):
    finished = cli("completion", "cmd")
    assert finished.code == 2
    assert "bash" in finished.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        (["agenthub", "run", "pain"], ["painter"]),
        (["agenthub", "run", "painter", "draw", "--kind", ""], ["line", "bar"]),
        (["agenthub", "run", "painter", "draw", "--input-file", ""], []),
        (["agenthub", "run", "painter", "draw", "--"], ["--input-file", "--kind", "--grid"]),
    ],
)
def test_bash_completes(shared, tmp_path, line, replies):
    program = tmp_path / "agenthub"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agenthub "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(agenthub completion bash)"\n'
        "complete -p agenthub >/dev/null || exit 9\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        '_agenthub\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    env = {**os.environ, "AGENTHUB_HOME": shared, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script, "bash", *line], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == replies
