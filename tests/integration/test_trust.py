"""Whose releases are installed: first use, keys that change, signatures that are missing, and what the user says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import COMMAND, PROJECT, assert_refused, in_terminal
from tests.trust_support import SignedIndex, make_key


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Two keys."""
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder / "one"), make_key(folder / "two")


@pytest.fixture
def index(tmp_path, cli):
    """An index that is configured."""
    made = SignedIndex(tmp_path / "index")
    cli.ok("index", "add", "--no-check", "main", made.file_url)
    return made


def trusted(cli):
    return [(row["owner"], row["key"], row["by"]) for row in cli.ok("trust", "list", "--json").json["trusted"]]


def test_the_first_signed_release_of_an_owner_says_whose_the_next_are(cli, index, keys):
    index.release("alice/tool", "1.0.0", keys[0])
    done = cli.ok("install", "--yes", "alice/tool")
    assert f"signed by {keys[0].fingerprint}, which is seen here for the first time" in done.err
    assert trusted(cli) == [("alice", keys[0].fingerprint, "first use")]
    info = cli.ok("info", "--json", "alice/tool").json["provenance"]
    assert info["trust"] == "first use"
    assert info["signers"] == [{"kind": "ssh", "key": keys[0].fingerprint, "issuer": ""}]
    assert info["index"] == index.file_url
    assert keys[0].fingerprint in cli.ok("info", "alice/tool").out

    index.release("alice/other", "1.0.0", keys[0])  # the owner's, not the agent's
    cli.ok("install", "--yes", "alice/other")
    assert cli.ok("info", "--json", "alice/other").json["provenance"]["trust"] == "signed"
    verified = cli.ok("verify", "--json").json
    assert [agent["signer"] for agent in verified["agents"]] == [keys[0].fingerprint] * 2


def test_another_key_is_refused_until_the_user_takes_it(cli, index, keys):
    index.release("alice/tool", "1.0.0", keys[0])
    cli.ok("install", "--yes", "alice/tool")
    index.release("alice/tool", "1.1.0", keys[1])
    refused = cli("install", "--yes", "--force", "alice/tool")
    assert_refused(refused, 5, "another key", keys[0].fingerprint, f"now:    {keys[1].fingerprint}", "by first use")
    command = refused.error_lines[-1].partition("agenthub ")[2].split()
    assert command == ["trust", "alice", keys[1].fingerprint]
    assert cli.ok("info", "--json", "alice/tool").json["version"] == "1.0.0"
    said = cli.ok(*command)
    assert f"agenthub trust remove alice {keys[0].fingerprint}" in said.err
    cli.ok("install", "--yes", "--force", "alice/tool")
    assert cli.ok("info", "--json", "alice/tool").json["version"] == "1.1.0"


def test_a_signature_that_is_missing_is_refused_until_the_user_takes_the_archive(cli, index, keys):
    index.release("alice/tool", "1.0.0", keys[0])
    cli.ok("install", "--yes", "alice/tool")
    digest = index.release("alice/tool", "1.1.0")
    refused = cli("install", "--yes", "--force", "alice/tool")
    assert_refused(refused, 5, "is not signed", keys[0].fingerprint, f"agenthub trust alice {digest}")
    cli.ok("trust", "alice", digest)
    cli.ok("install", "--yes", "--force", "alice/tool")
    assert cli.ok("info", "--json", "alice/tool").json["provenance"]["trust"] == "accepted by you"
    index.release("alice/tool", "1.2.0")  # that one archive, and no other
    assert_refused(cli("install", "--yes", "--force", "alice/tool"), 5, "is not signed")


def test_unsigned_releases_of_who_never_signed_are_installed(cli, index):
    index.release("bob/tool", "1.0.0")
    assert "not signed" in cli.ok("install", "--yes", "bob/tool").err
    assert trusted(cli) == []
    assert "signed   no" in cli.ok("info", "bob/tool").out


def test_a_key_that_was_named_before_is_what_counts(cli, index, keys):
    cli.ok("trust", "alice", keys[0].public)
    index.release("alice/tool", "1.0.0", keys[1])
    assert_refused(cli("install", "--yes", "alice/tool"), 5, keys[0].fingerprint, keys[1].fingerprint, "by you")


@pytest.mark.parametrize("spelling", ["line", "fingerprint", "public"])
def test_spellings_of_a_key(cli, keys, spelling):
    cli.ok("trust", "alice", *getattr(keys[0], spelling).split())
    assert trusted(cli) == [("alice", keys[0].fingerprint, "you")]


def test_nothing_is_remembered_of_what_was_not_installed(cli, index, keys):
    index.release("alice/tool", "1.0.0", keys[0])
    assert_refused(cli("install", "alice/tool"), 5, "--yes")
    cli.ok("install", "--dry-run", "alice/tool")
    assert trusted(cli) == []


def test_where_only_known_keys_count(cli, index, keys, monkeypatch):
    monkeypatch.setenv("AGENTHUB_SIGNATURES", "known")
    digest = index.release("bob/tool", "1.0.0")
    assert_refused(cli("install", "--yes", "bob/tool"), 5, "is not signed", f"agenthub trust bob {digest}")
    index.release("alice/tool", "1.0.0", keys[0])
    refused = cli("install", "--yes", "alice/tool")
    assert_refused(refused, 5, "have not named", f"agenthub trust alice {keys[0].fingerprint}")
    cli.ok("trust", "alice", keys[0].fingerprint)
    cli.ok("install", "--yes", "alice/tool")


def test_a_project_may_demand_signatures_and_not_do_without(cli, index, tmp_path, monkeypatch):
    index.release("bob/tool", "1.0.0")
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    (project / "agenthub.toml").write_text('signatures = "known"\n')
    assert_refused(cli("install", "--yes", "bob/tool"), 5, "signatures=known")
    (project / "agenthub.toml").write_text('signatures = "first-use"\n')
    assert_refused(cli("install", "--yes", "bob/tool"), 2, "may set signatures to known")
    (project / "agenthub.toml").write_text('sigstore_root = "root.json"\n')
    assert_refused(cli("install", "--yes", "bob/tool"), 2, "may not set sigstore_root")


def test_forgetting(cli, index, keys):
    cli.ok("trust", "alice", keys[0].fingerprint)
    cli.ok("trust", "alice", keys[1].fingerprint)
    assert_refused(cli("trust", "remove", "alicia"), 2, "did you mean 'alice'?")
    assert_refused(cli("trust", "remove", "alice", "SHA256:x"), 2, keys[0].fingerprint)
    cli.ok("trust", "remove", "alice", keys[0].fingerprint)
    assert trusted(cli) == [("alice", keys[1].fingerprint, "you")]
    cli.ok("trust", "remove", "alice")
    assert cli.ok("trust", "list", "--json").json["trusted"] == []
    index.release("alice/tool", "1.0.0", keys[0])
    cli.ok("install", "--yes", "alice/tool")  # a first one again
    cli.ok("trust", "remove", "alice")
    told = cli("verify", "alice/tool")
    assert told.code == 1
    assert "whom you do not trust" in told.out


def test_an_owner_called_like_a_word_of_the_command(cli, keys):
    cli.ok("trust", "add", "list", keys[0].fingerprint)
    assert trusted(cli) == [("list", keys[0].fingerprint, "you")]


def test_publishing_signed_through_the_command(cli, tmp_path, keys):
    index = SignedIndex(tmp_path / "index")
    directory = index.write("alice/tool", "1.0.0")
    cli.ok("publish", directory, "--index", index.file_url, "--owner", "alice", "--sign", keys[0].path)
    release = index.document("alice/tool")["releases"]["1.0.0"]
    assert [signature["key"] for signature in release["signatures"]] == [keys[0].fingerprint]
    statement = cli.ok("trust", "statement", "alice", index.archive("alice/tool")).stdout
    assert statement.splitlines()[:4] == [b"agenthub release 1", b"owner alice", b"name tool", b"version 1.0.0"]
    check = ["ssh-keygen", "-Y", "check-novalidate", "-n", "agenthub", "-s", f"{index.archive('alice/tool')}.sig"]
    subprocess.run(check, input=statement, check=True, capture_output=True)  # anybody can check it by hand


@pytest.mark.slow
def test_the_agent_of_a_git_host_is_refused_of_who_signs(cli, tmp_path, keys):
    repository = tmp_path / "host" / "alice" / "tool"
    SignedIndex(tmp_path / "index").write("alice/tool", "1.0.0")
    os.renames(tmp_path / "index-sources" / "alice" / "tool" / "1.0.0", repository)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    cli.ok("index", "add", "host", f"git+file://{tmp_path}/host/{{owner}}/{{name}}")
    cli.ok("trust", "alice", keys[0].fingerprint)
    refused = cli("install", "--yes", "alice/tool")
    assert_refused(refused, 5, "is not signed", keys[0].fingerprint)
    cli.ok(*refused.error_lines[-1].partition("agenthub ")[2].split())
    cli.ok("install", "--yes", "alice/tool")


@pytest.mark.slow
def test_a_key_with_a_passphrase(cli, tmp_path, monkeypatch):
    key = make_key(tmp_path / "locked", passphrase="open sesame")
    index = SignedIndex(tmp_path / "index")
    words = ("publish", index.write("alice/tool"), "--index", index.file_url, "--owner", "alice", "--sign")
    with monkeypatch.context() as patch:  # ssh-keygen asks on the terminal that controls it
        patch.setattr("tests.support.COMMAND", ("setsid", "--ctty", "--wait", *COMMAND))
        done = in_terminal(*words, key.path, replies=[("passphrase", "open sesame")])
    assert done.code == 0, done.err
    assert index.document("alice/tool")["releases"]["1.0.0"]["signatures"][0]["key"] == key.fingerprint
    # Without a terminal nobody can be asked.
    other = SignedIndex(tmp_path / "other")
    words = ("publish", other.write("alice/tool"), "--index", other.file_url, "--owner", "alice", "--sign", key.path)
    command = subprocess.run(
        [*COMMAND, *words], stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, text=True
    )
    assert command.returncode == 4
    assert "does not sign" in command.stderr
    assert "ssh-add" in command.stderr
    assert not other.directory.exists() or "alice" not in os.listdir(other.directory / "agents")


@pytest.mark.slow
def test_a_key_that_an_ssh_agent_holds(cli, tmp_path, keys, monkeypatch):
    socket = str(tmp_path / "agent.sock")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        subprocess.run(["ssh-add", "-q", keys[0].path], check=True)
        public = tmp_path / "elsewhere.pub"
        public.write_text(keys[0].line)
        index = SignedIndex(tmp_path / "index")
        words = ("publish", index.write("alice/tool"), "--index", index.file_url, "--owner", "alice")
        cli.ok(*words, "--sign", public)
    finally:
        agent.kill()
        agent.wait()
        assert agent.stdout is not None
        agent.stdout.close()
    assert index.document("alice/tool")["releases"]["1.0.0"]["signatures"][0]["key"] == keys[0].fingerprint


@pytest.mark.slow
def test_where_there_is_no_ssh_keygen(cli, index, keys, tmp_path):
    index.release("alice/tool", "1.0.0", keys[0])
    hidden = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/dev/null", "/usr/bin/ssh-keygen", "--chdir", PROJECT]
    words = [sys.executable, "-m", "agenthub", "install", "--yes", "alice/tool"]
    done = subprocess.run([*hidden, *words], capture_output=True, text=True)
    if "bwrap:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 4
    assert "openssh-client" in done.stderr
    assert trusted(cli) == []
