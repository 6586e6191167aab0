"""One archive of a directory: the same bytes everywhere, what git would commit, and nothing that is secret or junk."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
import zipfile

import pytest

from agenthub.errors import AgentNotFoundError, InstallError, InvalidManifestError, PermissionDeniedError
from agenthub.packages.archives import unpack
from agenthub.packages.pack import MAX_FILE, PackRules, pack, pack_into
from agenthub.packages.tree import copy_tree
from tests.support import write_agent

LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYzaBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789abcdefghij" * 2


@pytest.fixture
def agent(tmp_path):
    return write_agent(tmp_path / "agent", "def go():\n    return 1\n", entrypoint="agent")


def put(directory, path, content="x\n"):
    target = os.path.join(directory, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return target


def packed(directory, **rules):
    return pack_into(str(directory), io.BytesIO(), PackRules(**rules))


def names(directory, **rules):
    return sorted(packed(directory, **rules).files)


def refused(directory, **rules):
    with pytest.raises(PermissionDeniedError) as caught:
        packed(directory, **rules)
    return caught.value


# the same bytes ----------------------------------------------------------------------------------------------------


def test_the_bytes_are_known(tmp_path):
    """Whatever Python and whatever zlib: if this changes, every digest that somebody noted is wrong."""
    directory = tmp_path / "agent"
    put(directory, "agent.yaml", "name: golden\n")
    put(directory, "agent.py", "print()\n")
    put(directory, "données/é.txt", "é\n")
    os.chmod(put(directory, "tools/run.sh", "#!/bin/sh\n"), 0o755)
    os.symlink("tools/run.sh", directory / "run")
    pack(str(directory), str(tmp_path / "golden.agent"))
    found = packed(directory)
    assert found.digest == "sha256:1d59b31b6eed562708ec46dae36cf28b50db3c32083f1546168453ba1e832458"
    assert (tmp_path / "golden.agent").stat().st_size == found.size
    with zipfile.ZipFile(tmp_path / "golden.agent") as archive:
        assert [entry.filename for entry in archive.infolist()] == found.files
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_times_modes_and_order_do_not_matter(agent, tmp_path):
    for name in ("b.txt", "a/z.txt", "a/b.txt", "B.md"):
        put(agent, name, name)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    for name in ("B.md", "a/b.txt", "b.txt", "a/z.txt", "agent.py", "agent.yaml"):  # made in another order
        with open(os.path.join(agent, name), "rb") as file:
            path = put(other, name, file.read())
        os.chmod(path, 0o600)
        os.utime(path, (1, 1))
    assert packed(other)[:3] == packed(agent)[:3]
    os.chmod(other / "b.txt", 0o700)
    assert packed(other).digest != packed(agent).digest


def test_what_is_unpacked_has_the_digest_that_was_said(agent, tmp_path):
    os.chmod(put(agent, "tools/run.sh"), 0o755)
    os.symlink("agent.py", os.path.join(agent, "link"))
    archive = str(tmp_path / "a.agent")
    found = pack(agent, archive)
    assert unpack(archive, str(tmp_path / "tree")).digest == found.tree_digest
    assert copy_tree(agent, str(tmp_path / "copy")).digest == found.tree_digest
    assert os.readlink(tmp_path / "tree" / "link") == "agent.py"
    assert os.access(tmp_path / "tree" / "tools" / "run.sh", os.X_OK)
    assert found.files == ["agent.py", "agent.yaml", "tools/run.sh", "link"]


def test_a_clone_has_the_same_bytes_as_the_directory_it_is_of(agent, tmp_path):
    """Git keeps no empty directories, and the author's machine has caches and builds."""
    put(agent, ".gitignore", "build/\n*.log\n")
    git = ["git", "-C", agent, "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    os.mkdir(os.path.join(agent, "empty"))
    for junk in ("build/out.bin", "a.log", "__pycache__/agent.pyc", ".venv/pyvenv.cfg", ".mypy_cache/x", "x.agent"):
        put(agent, junk)
    clone = str(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", agent, clone], check=True)
    assert packed(clone)[:4] == packed(agent)[:4]
    assert packed(agent).left_out == ["a.log", "build/", "x.agent"]


# what is left out --------------------------------------------------------------------------------------------------

GITIGNORES = {
    "anchored": {".gitignore": "/a.txt\n/d/b.txt\n"},
    "directories": {".gitignore": "d/\n"},
    "negated": {".gitignore": "*.txt\n!a.txt\n!/d/e/c.txt\n"},
    "not below what is excluded": {".gitignore": "d/\n!d/b.txt\n"},
    "nested": {".gitignore": "*.txt\n", "d/.gitignore": "!b.txt\n", "d/e/.gitignore": "!*\n"},
    "stars": {".gitignore": "**/e/*.txt\nd/**/c.md\n"},
    "escapes and comments": {".gitignore": "# no\n\\#x\n a b \n\n"},
    "the list itself": {".gitignore": ".gitignore\n"},
    "case": {".gitignore": "A.TXT\n"},
    "ranges": {".gitignore": "[ab].txt\n"},
}


@pytest.mark.parametrize("lists", GITIGNORES.values(), ids=GITIGNORES)
def test_ignore_lists_mean_what_git_means(agent, lists):
    for name in ("a.txt", "b.txt", "d/b.txt", "d/e/c.txt", "d/e/c.md", "#x", "keep"):
        put(agent, name)
    for name, text in lists.items():
        put(agent, name, text)
    subprocess.run(["git", "-C", agent, "init", "-q"], check=True)
    listed = ["git", "-C", agent, "ls-files", "-z", "-o", "--exclude-standard", "-c"]
    wanted = subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0")
    assert names(agent) == sorted(filter(None, wanted))


def test_the_lists_above_count_up_to_the_repository(agent, tmp_path):
    put(agent, "a.txt")
    put(agent, "keep.txt")
    put(tmp_path, ".gitignore", "*.txt\n!keep.txt\n")
    assert "a.txt" in names(agent)  # there is no repository
    subprocess.run(["git", "-C", tmp_path, "init", "-q"], check=True)
    assert names(agent) == ["agent.py", "agent.yaml", "keep.txt"]
    put(tmp_path, ".gitignore", "*.txt\nagent/\n")  # which is to say nothing of the agent itself
    assert "a.txt" in names(agent)


def test_agentignore_goes_before_gitignore(agent):
    put(agent, ".gitignore", "dist/\n*.log\n")
    put(agent, ".agentignore", "!dist/\ntests/\n.agentignore\n")
    for name in ("dist/model.js", "a.log", "tests/test.py"):
        put(agent, name)
    assert names(agent) == [".gitignore", "agent.py", "agent.yaml", "dist/model.js"]
    put(agent, "dist/.agentignore", "model.js\n")
    assert "dist/model.js" not in names(agent)


def test_a_list_that_cannot_be_understood(agent):
    put(agent, ".agentignore", "ok\n!\n")
    with pytest.raises(InstallError, match=r"\.agentignore"):
        packed(agent)
    put(agent, ".agentignore", b"#" * (2 << 20))
    with pytest.raises(InstallError, match="absurd"):
        packed(agent)


@pytest.mark.parametrize("pattern", ["a*" * 16 + "b", "**/" * 200 + "b", "*****b", "!x/" + "*a" * 9])
def test_a_list_that_could_be_matched_for_ever(agent, pattern):
    put(agent, "a" * 200)
    put(agent, ".gitignore", f"# {pattern}\n{pattern}\n")
    with pytest.raises(InstallError, match=r"\.gitignore:2: more than 3 wildcards"):
        packed(agent)


@pytest.mark.parametrize("pattern", ["a*a*a*b", "**/**/**/b"])
def test_the_costliest_list_is_matched_soon(agent, pattern):
    for number in range(20):
        put(agent, f"{'a' * 200}{number}")
    put(agent, ".gitignore", f"{pattern}\n")
    started = time.process_time()
    assert len(names(agent)) == 23
    assert time.process_time() - started < 5


def test_the_manifest_has_to_be_in_it(agent, tmp_path):
    put(agent, ".agentignore", "*.yaml\n")
    with pytest.raises(InvalidManifestError, match="left out") as caught:
        packed(agent)
    assert "!agent.yaml" in caught.value.suggestion
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidManifestError, match=r"no agent\.yaml"):
        packed(tmp_path / "empty")
    with pytest.raises(AgentNotFoundError):
        packed(tmp_path / "nowhere")


def test_earlier_archives_are_not_packed(agent):
    """Else the second `agenthub pack .` would have the first one in it."""
    before = packed(agent)
    pack(agent, os.path.join(agent, "agent-1.0.0.agent"))
    assert packed(agent)[:3] == before[:3]


# what is refused ---------------------------------------------------------------------------------------------------

# Put together here, so that no search for secrets finds this file.
SECRETS = {
    "private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + LETTERS[:64] + "\n",
    "rsa in json": '{"private_key": "-----BEGIN ' + "PRIVATE KEY-----\\n" + LETTERS[:64] + '"}',
    "aws": "key = " + "AK" + "IA" + "QWERTYUIOPASDFGH",
    "github": "t=" + "gh" + "p_" + LETTERS[:36],
    "github fine": "github" + "_pat_" + LETTERS[:82],
    "gitlab": "gl" + "pat-" + LETTERS[:20],
    "openai": "sk-" + "proj-" + LETTERS[:40] + "T3Bl" + "bkFJ" + LETTERS[:40],
    "anthropic": "sk-" + "ant-api03-" + LETTERS[:93],
    "google": "AI" + "za" + LETTERS[:35],
    "slack": "xo" + "xb-123456789012-" + LETTERS[:30],
    "stripe": "sk" + "_live_" + LETTERS[:24],
    "pypi": "py" + "pi-AgE" + LETTERS[:80],
    "npm": "np" + "m_" + LETTERS[:36],
    "hugging face": "h" + "f_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh",
    "age": "AGE-" + "SECRET-KEY-1" + "Q" * 58,
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_secrets_are_refused_by_what_they_are(agent, secret):
    put(agent, "src/settings.py", f"# ours\nVALUE = '''{secret}'''\n")
    error = refused(agent)
    assert "src/settings.py" in error.message
    assert secret[10:] not in str(error.to_dict())
    assert "src/settings.py" in names(agent, allowed=frozenset(["src/settings.py"]))


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.local", "deploy/.env.production", "id_rsa", "id_ed25519", ".netrc", ".pypirc"),
        *(".git-credentials", ".aws/credentials", "certificate.p12", "vault.kdbx", ".ssh/config", ".envrc"),
    ],
)
def test_secrets_are_refused_by_their_names(agent, name):
    put(agent, name)
    assert name in refused(agent).message
    put(agent, ".agentignore", f"{name}\n")
    assert name not in names(agent)


def test_what_only_looks_like_a_secret(agent):
    """Else nobody could publish an agent that looks for secrets."""
    put(agent, ".env.example", "KEY=\n")
    put(agent, "id_rsa.pub", "ssh-rsa AAAA\n")
    put(agent, "find.py", 'MARK = "-----BEGIN RSA PRIVATE KEY-----"\nGITHUB = "ghp_[A-Za-z0-9]{36}"\nAWS = "AKIA"\n')
    put(agent, "docs.md", "AKIA" + "IOSFODNN7EXAMPLE and ghp_" + "x" * 36 + "\n")
    put(agent, "words.txt", "hf_transfer npm_config_registry sk-learn risk-free\n")
    assert len(names(agent)) == 7


def test_a_secret_that_lies_across_two_reads(agent):
    put(agent, "data.bin", b"." * ((1 << 20) - 9) + SECRETS["github"].encode() + b"." * 100)
    assert "a token of GitHub" in refused(agent).message


def test_all_that_is_refused_is_named_at_once(agent):
    for name in (".env", "id_rsa", "x/id_ed25519"):
        put(agent, name)
    error = refused(agent)
    assert "and 2 more" in error.message
    assert len(error.details) == 2
    assert ".agentignore" in error.suggestion
    assert "--allow-file .env" in error.suggestion


def test_large_files_are_refused(agent):
    with open(put(agent, "weights.bin"), "wb") as file:
        file.truncate(MAX_FILE + 1)
    assert "weights.bin is larger than 10 MB" in refused(agent).message
    assert "weights.bin" in names(agent, allowed=frozenset(["weights.bin"]))


def test_much_in_small_files_is_refused(agent):
    for number in range(20):
        put(agent, f"dataset/{number}.csv", b"x" * 2000)
    error = refused(agent, max_size=30_000)
    assert "dataset/" in error.message
    assert "--max-size" in error.suggestion
    assert len(names(agent, max_size=50_000)) == 22


def test_what_no_agent_may_hold(agent):
    os.mkfifo(os.path.join(agent, "pipe"))
    with pytest.raises(InstallError, match="named pipe"):
        packed(agent)
    os.unlink(os.path.join(agent, "pipe"))
    os.symlink("/etc/passwd", os.path.join(agent, "out"))
    with pytest.raises(InstallError, match="leaves it"):
        packed(agent)


# what is written ---------------------------------------------------------------------------------------------------


def test_a_refusal_leaves_the_earlier_archive(agent, tmp_path):
    target = tmp_path / "a.agent"
    pack(agent, str(target))
    before = target.read_bytes()
    put(agent, ".env")
    with pytest.raises(PermissionDeniedError):
        pack(agent, str(target))
    assert target.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.agent", "agent"]


def test_where_it_cannot_be_written(agent, tmp_path):
    with pytest.raises(InstallError, match="cannot write"):
        pack(agent, str(tmp_path / "nowhere" / "a.agent"))


def test_a_link_is_packed_and_not_what_it_leads_to(agent, tmp_path):
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    put(agent, "real/data.txt")
    os.symlink("real", os.path.join(agent, "alias"))
    assert names(agent) == ["agent.py", "agent.yaml", "alias", "real/data.txt"]
