"""Indexes that lie about who signed what, and files that try to talk ssh-keygen into something."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from agenthub.config import Paths
from agenthub.errors import InstallError, InvalidInputError
from agenthub.trust.trusted import SSH, Trusted, trust
from tests.support import COMMAND, PROJECT, assert_refused
from tests.trust_support import NO_ENVIRONMENT, SignedIndex, make_key

WRONG = "does not belong to what was served"


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Alice's key, and Mallory's."""
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder / "alice"), make_key(folder / "mallory")


@pytest.fixture(params=["first", pytest.param("known", marks=pytest.mark.slow)])
def index(request, tmp_path, cli, keys):
    """An index of Mallory's with a release of Alice's, whose key is known here, or is not yet."""
    made = SignedIndex(tmp_path / "index")
    cli.ok("index", "add", "--no-check", "main", made.file_url)
    made.release("alice/tool", "1.0.0", keys[0])
    if request.param == "known":
        cli.ok("trust", "alice", keys[0].fingerprint)
    made.known = request.param == "known"
    return made


def nothing_happened(cli, index):
    """Nothing is installed, and nobody is trusted who was not."""
    assert cli.ok("list", "--json").json["agents"] == []
    rows = cli.ok("trust", "list", "--json").json["trusted"]
    assert [(row["owner"], row["by"]) for row in rows] == ([("alice", "you")] if index.known else [])


def swapped(index, version="1.0.0", agent="alice/tool"):
    """Another archive in the place of a release's, with a document that fits it."""
    directory = index.write(agent, version, "", **NO_ENVIRONMENT, description="not what Alice wrote")
    Path(directory, "agent.sh").write_text("rm -rf ~\n")
    archive = index.pack(directory)
    other = SignedIndex(index.directory.parent / "other")
    other.publish_archive(agent, archive, ())
    release = other.document(agent)["releases"][version]
    os.replace(archive, index.archive(agent, version))
    return {key: release[key] for key in ("digest", "tree_digest", "size")}


def test_another_archive_under_a_good_signature(cli, index):
    index.lie("alice/tool", "1.0.0", **swapped(index))
    assert_refused(cli("install", "--yes", "alice/tool"), 5, WRONG)
    nothing_happened(cli, index)


def test_another_archive_signed_by_somebody_else_under_alices_fingerprint(cli, index, keys):
    facts = swapped(index)
    archive = index.archive("alice/tool")
    Path(f"{archive}.sig").write_bytes(index.signature("alice/tool", str(archive), keys[1]))
    index.lie("alice/tool", "1.0.0", **facts)  # whose `signatures` still name Alice's key
    if index.known:
        assert_refused(cli("install", "--yes", "alice/tool"), 5, keys[0].fingerprint, keys[1].fingerprint)
        nothing_happened(cli, index)
    else:  # nobody can know better; but it is Mallory's key that is shown and remembered
        assert keys[1].fingerprint in cli.ok("install", "--yes", "alice/tool").err


def test_a_signature_of_another_agent_of_the_same_owner(cli, index, keys):
    index.release("alice/other", "1.0.0", keys[0])
    index.lie("alice/tool", "1.0.0", **index.document("alice/other")["releases"]["1.0.0"])
    assert_refused(cli("install", "--yes", "alice/tool"), 5, WRONG)
    nothing_happened(cli, index)


def test_an_old_version_under_a_new_number(cli, index):
    old = index.document("alice/tool")["releases"]["1.0.0"]
    index.release("alice/tool", "1.1.0")
    index.lie("alice/tool", "1.1.0", **old)
    assert_refused(cli("install", "--yes", "alice/tool"), 5, WRONG)
    nothing_happened(cli, index)


def test_what_alice_signed_under_another_owner(cli, index):
    archive = index.archive("alice/tool")
    index.publish_archive("mallory/tool", str(archive), ())
    index.lie("mallory/tool", "1.0.0", signatures=index.document("alice/tool")["releases"]["1.0.0"]["signatures"])
    assert_refused(cli("install", "--yes", "mallory/tool"), 5, WRONG)
    nothing_happened(cli, index)


def test_a_good_signature_of_another_content_of_the_archive(cli, index):
    """The digest of the content is signed as well: it is what `verify` believes later."""
    index.lie("alice/tool", "1.0.0", tree_digest="sha256:" + "0" * 64)
    assert_refused(cli("install", "--yes", "alice/tool"), 5, WRONG)
    nothing_happened(cli, index)


def test_a_signature_that_was_taken_away(cli, index):
    index.lie("alice/tool", "1.0.0", signatures=[])
    done = cli("install", "--yes", "alice/tool")
    if index.known:
        assert_refused(done, 5, "is not signed")
        nothing_happened(cli, index)
    else:
        assert "not signed" in done.err


def test_a_good_signature_beside_a_wrong_one_that_is_not_alices(cli, index, keys):
    """At first use every signature has to be right: which of them is the owner's nobody can tell."""
    place = f"{index.archive('alice/tool')}.sig"
    Path(index.directory, "files", "wrong.sig").write_bytes(Path(place).read_bytes().replace(b"A", b"B"))
    entries = index.document("alice/tool")["releases"]["1.0.0"]["signatures"]
    index.lie("alice/tool", "1.0.0", signatures=[{**entries[0], "file": "files/wrong.sig"}, *entries])
    done = cli("install", "--yes", "alice/tool")
    assert done.code == (0 if index.known else 5), done.err


def test_a_signature_for_another_purpose(cli, index, keys, tmp_path):
    statement = cli.ok("trust", "statement", "alice", index.archive("alice/tool")).stdout
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", keys[0].path]
    made = subprocess.run(command, input=statement, capture_output=True, check=True).stdout
    Path(f"{index.archive('alice/tool')}.sig").write_bytes(made)
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "something else than agenthub")
    nothing_happened(cli, index)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\n" + b"A" * 20_000 + b"\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAf////8=\n-----END SSH SIGNATURE-----\n",
        bytes(range(256)) * 100,
    ],
    ids=["empty", "hollow", "zeros", "long-string", "noise"],
)
def test_what_is_no_signature(cli, index, content):
    Path(f"{index.archive('alice/tool')}.sig").write_bytes(content)
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "signature of alice/tool 1.0.0 is damaged")
    nothing_happened(cli, index)


@pytest.mark.parametrize("over", [pytest.param("file", marks=pytest.mark.slow), "http"])
def test_a_signature_of_a_gigabyte(cli, index, over):
    with open(f"{index.archive('alice/tool')}.sig", "wb") as file:
        file.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if over == "file":
        done = cli("install", "--yes", "alice/tool")
    else:
        with index.served() as url:
            done = cli("install", "--yes", "--index", url, "alice/tool")
    assert done.code in (4, 5), done
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    nothing_happened(cli, index)


def test_signatures_without_end(cli, index):
    entry = index.document("alice/tool")["releases"]["1.0.0"]["signatures"][0]
    index.lie("alice/tool", "1.0.0", signatures=[entry] * 1000)
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "1000 signatures")
    nothing_happened(cli, index)


def test_another_ssh_keygen(cli, index, tmp_path):
    """One that says yes to everything: first on PATH, and in the working directory."""
    index.lie("alice/tool", "1.0.0", **swapped(index))
    project = tmp_path / "project"
    project.mkdir()
    marker = tmp_path / "ran"
    (project / "ssh-keygen").write_text(f"#!/bin/sh\ntouch {marker}\nexit 0\n")
    (project / "ssh-keygen").chmod(0o755)
    env = {**os.environ, "PATH": f"{project}:{os.environ['PATH']}", "PYTHONPATH": PROJECT}
    command = [*COMMAND, "install", "--yes", "alice/tool"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert WRONG in done.stderr
    assert not marker.exists()


# keys ----------------------------------------------------------------------------------------------------------------


def lines(key):
    """What may not be taken for a key."""
    return {
        "options": f'command="touch ran" {key.line}',
        "authority": f"cert-authority {key.line}",
        "two": f"{key.line}\n{key.line}",
        "allowed_signers": f'* namespaces="agenthub" {key.line}',
        "another kind": key.line.replace("ssh-ed25519", "ssh-rsa"),
        "certificate": key.line.replace("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"),
        "cut off": key.line.split()[0] + " " + key.line.split()[1][:40],
        "private": Path(key.path).read_text(),
        "nothing": "",
    }


@pytest.mark.parametrize("what", ["options", "authority", "two", "allowed_signers", "another kind", "certificate"])
def test_what_is_no_key(cli, keys, tmp_path, what):
    file = tmp_path / "key.pub"
    file.write_text(lines(keys[0])[what] + "\n")
    assert cli("trust", "alice", file).code == 2
    assert cli("trust", "alice", lines(keys[0])[what]).code == 2
    assert cli.ok("trust", "list", "--json").json["trusted"] == []


@pytest.mark.parametrize("what", ["cut off", "private", "nothing"])
def test_files_that_are_no_key(cli, keys, tmp_path, what):
    file = tmp_path / "key.pub"
    file.write_text(lines(keys[0])[what])
    assert_refused(cli("trust", "alice", file), 2, "private" if what == "private" else str(file))


@pytest.mark.slow
def test_keys_that_are_too_weak(cli, tmp_path):
    weak = make_key(tmp_path / "weak", "rsa", "-b", "1024")
    assert_refused(cli("trust", "alice", weak.public), 2, "2048 bits")
    good = make_key(tmp_path / "good", "rsa", "-b", "3072")
    cli.ok("trust", "alice", good.public)


@pytest.mark.parametrize("name", ["-Ohashalg=sha512", "-f", "a b'c", "$(touch ran)", "new\nline"])
def test_a_key_whose_name_looks_like_an_option(cli, keys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for ending in ("", ".pub"):
        Path(name + ending).write_bytes(Path(keys[0].path + ending).read_bytes())
        os.chmod(name + ending, 0o600)
    index = SignedIndex(tmp_path / "index")
    directory = index.write("alice/tool")
    cli.ok("publish", directory, "--index", index.file_url, "--owner", "alice", f"--sign={name}")
    assert index.document("alice/tool")["releases"]["1.0.0"]["signatures"][0]["key"] == keys[0].fingerprint
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "owner", ["alice mallory ssh-ed25519", "alice\nmallory", 'a" namespaces="file', "*", "-Y", "../alice", "ALICE", ""]
)
def test_an_owners_name_that_would_be_more_than_a_name(cli, keys, owner):
    assert cli("trust", "--", owner, keys[0].fingerprint).code in (2, 4)
    assert cli.ok("trust", "list", "--json").json["trusted"] == []
    with pytest.raises((InstallError, InvalidInputError)):
        trust(Paths(), owner, Trusted(SSH, keys[0].fingerprint))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"schema_version": 1}',
        '{"schema_version": 1, "owners": {"alice": []}}',
        '{"schema_version": 1, "owners": {"a": [{"kind": "ssh", "key": "*", "issuer": "", "since": "", "by": ""}]}}',
        '{"schema_version": 1, "owners": {"ALICE": [{}]}}',
    ],
)
def test_damage_is_no_first_use(cli, index, content):
    Path(Paths().home, "trust.json").write_text(content)
    assert_refused(cli("install", "--yes", "alice/tool"), 4, "trust.json is damaged")
