from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading

import pytest

from agenthub.errors import InstallError
from agenthub.packages.ledger import Limits
from agenthub.packages.sources import digest_of, fetch
from agenthub.packages.spec import parse_spec
from agenthub.packages.tree import tree_digest

WHO = (
    "-c",
    "user.name=A",
    "-c",
    "user.email=a@example.org",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "commit.gpgsign=false",
)


def git(where, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", *WHO, "-c", "protocol.file.allow=always", "-C", str(where), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def commit(where, **files):
    for name, content in files.items():
        path = where / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    git(where, "add", "-A")
    git(where, "commit", "-q", "--allow-empty", "-m", "x")
    return git(where, "rev-parse", "HEAD")


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return home


@pytest.fixture
def repository(tmp_path, home):
    """Two commits on main, a tag on the first, a branch with a slash."""
    where = tmp_path / "repository"
    where.mkdir()
    git(where, "init", "-q")
    commits = [commit(where, agent="one", sub__agent="inner")]
    git(where, "tag", "-a", "-m", "x", "v1.0")
    git(where, "branch", "feature/x")
    commits.append(commit(where, agent="two"))
    return where, commits


@pytest.fixture
def get(tmp_path):
    """Fetches a spec; a failure must leave nothing."""
    room = tmp_path / "room"
    room.mkdir()

    def run(text, **options):
        target = room / str(len(os.listdir(room)))
        before = os.listdir(room)
        try:
            fetched = fetch(parse_spec(text, str(tmp_path)), str(target), **options)
        except InstallError:
            assert os.listdir(room) == before
            raise
        assert os.listdir(room) != before
        assert not any("git" in name for name in os.listdir(room))
        assert fetched.digest == tree_digest(str(target))
        return target, fetched

    return run


def test_a_directory(get, tmp_path):
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "agent.yaml").write_text("x")
    target, fetched = get("./agent")
    assert (target / "agent.yaml").read_text() == "x"
    assert fetched.source == {
        "kind": "directory",
        "location": str(tmp_path / "agent"),
        "ref": None,
        "commit": None,
        "subdirectory": None,
        "digest": fetched.digest,
    }
    assert (fetched.commit, fetched.files, fetched.bytes) == (None, 1, 1)
    assert digest_of(parse_spec("./agent", str(tmp_path))) == fetched.digest


def test_an_archive_is_recorded_by_its_own_digest_too(get, tmp_path):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("x/agent.yaml")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    _, fetched = get("x.tgz")
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "agent.yaml").write_text("x")
    assert fetched.digest == digest_of(parse_spec("./agent", str(tmp_path)))
    checksum = subprocess.run(["sha256sum", tmp_path / "x.tgz"], check=True, capture_output=True, text=True).stdout
    assert fetched.source["archive_digest"] == f"sha256:{checksum.split()[0]}"
    assert digest_of(parse_spec("x.tgz", str(tmp_path))) is None


def test_an_index_is_asked_by_who_calls(get, tmp_path):
    spec, target = parse_spec("owner/name@1.0"), str(tmp_path / "target")
    with pytest.raises(InstallError, match="owner/name"):
        fetch(spec, target)
    asked = []
    assert fetch(spec, target, None, fetch_index=lambda *words: asked.append(words) or "fetched") == "fetched"
    assert asked == [(spec, target, None)]


@pytest.mark.parametrize("way", ["git+{0}", "git+file://{0}", "git+./repository"])
@pytest.mark.parametrize(
    ("ref", "which"), [("", 1), ("@main", 1), ("@v1.0", 0), ("@feature/x", 0), ("@{1}", 0), ("@{1:.8}", 0), ("@{2}", 1)]
)
def test_git_refs(get, repository, way, ref, which):
    where, commits = repository
    target, fetched = get((way + ref).format(where, *commits))
    assert fetched.commit == fetched.source["commit"] == commits[which]
    assert (target / "agent").read_text() == ("one", "two")[which]
    assert not (target / ".git").exists()


def test_a_fetch_is_shallow(get, repository):
    where, _ = repository
    seen = []
    get(f"git+{where}", on_progress=seen.append)
    objects = 5  # a commit, two trees, two files; nothing of the commit before
    assert any(f"({objects}/{objects})" in line for line in seen)


def test_a_subdirectory(get, repository):
    where, _ = repository
    target, fetched = get(f"git+{where}@v1.0#subdirectory=sub")
    assert os.listdir(target) == ["agent"]
    assert (target / "agent").read_text() == "inner"
    assert fetched.source["subdirectory"] == "sub"
    for missing in ("none", "agent", "*"):
        with pytest.raises(InstallError, match="has no directory"):
            get(f"git+{where}#subdirectory={missing}")


def test_a_subdirectory_that_is_a_link(get, repository, tmp_path):
    where, _ = repository
    (where / "etc").symlink_to("/etc")
    (where / "way").symlink_to("sub")
    commit(where)
    for name in ("etc", "way", "etc/ssl"):
        with pytest.raises(InstallError, match="has no directory"):
            get(f"git+{where}#subdirectory={name}")


def test_a_link_out_of_the_checkout(get, repository):
    where, _ = repository
    (where / "bad").symlink_to("../../../secret")
    commit(where)
    with pytest.raises(InstallError, match="bad is a link that leaves it"):
        get(f"git+{where}")


def test_an_unknown_ref(get, repository):
    where, _ = repository
    for ref, hint in (("v1.1", "did you mean 'v1.0'?"), ("zzz", "it has: feature/x, main, v1.0")):
        with pytest.raises(InstallError, match=f"has no branch, tag or commit '{ref}'") as caught:
            get(f"git+{where}@{ref}")
        assert caught.value.suggestion == hint
    for ref in ("abcdef12", "0" * 39 + "1"):
        with pytest.raises(InstallError, match=f"has no branch, tag or commit '{ref}'"):
            get(f"git+{where}@{ref}")


def test_what_is_no_repository(get, tmp_path, home):
    (tmp_path / "plain").mkdir()
    with pytest.raises(InstallError, match="plain cannot be fetched") as caught:
        get("git+./plain")
    assert "does not appear to be a git repository" in "\n".join(caught.value.details)
    with pytest.raises(InstallError, match="cannot be fetched") as caught:
        get("git+http://me:secret@127.0.0.1:1/o/n.git")
    assert caught.value.details
    assert "secret" not in str(caught.value) + "".join(caught.value.details)


def test_an_empty_repository(get, tmp_path, home):
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    with pytest.raises(InstallError, match="has no branch, tag or commit 'HEAD'"):
        get("git+./empty")
    commit(tmp_path / "empty")
    with pytest.raises(InstallError, match="has no files"):
        get("git+./empty")


def test_nothing_of_the_users_or_the_repositorys_runs(get, repository, home, tmp_path, monkeypatch):
    where, _ = repository
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\ncat\n")
    script.chmod(0o755)
    hooks = home / "template" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).symlink_to(script)
    (home / ".gitconfig").write_text(
        f"[init]\ntemplateDir = {home}/template\n[core]\nhooksPath = {hooks}\nfsmonitor = {script}\n"
        f'[filter "lfs"]\nsmudge = {script}\nprocess = {script}\nrequired = true\n[filter "x"]\nsmudge = {script}\n'
    )
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.sshCommand")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(script))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    commit(where, a="x", b="y")
    (where / ".gitattributes").write_text("a filter=lfs\nb filter=x\n")
    commit(where)
    target, _ = get(f"git+{where}")
    assert (target / "a").read_text() == "x"
    assert not (tmp_path / "ran").exists()


def test_submodules_are_left_out(get, repository, tmp_path):
    where, _ = repository
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    commit(other, x="x")
    git(where, "submodule", "-q", "add", str(other), "module")
    commit(where)
    target, _ = get(f"git+{where}")
    assert not (target / "module" / "x").exists()


def test_a_repository_that_is_too_large(get, repository):
    where, _ = repository
    commit(where, large="x" * 3_000_000)
    with pytest.raises(InstallError, match="more than 100,000 files or 2 MB"):
        get(f"git+{where}", limits=Limits(size=2 << 20))
    get(f"git+{where}#subdirectory=sub", limits=Limits(size=2 << 20))
    with pytest.raises(InstallError, match="more than 2 files"):
        get(f"git+{where}", limits=Limits(entries=2))


def test_a_server_that_knows_no_shallow_fetch(get, repository, tmp_path):
    """A plain file server ("dumb http"): all is fetched, and the commit is found in it."""
    where, commits = repository
    git(tmp_path, "clone", "-q", "--bare", str(where), str(tmp_path / "www" / "owner" / "name.git"))
    git(tmp_path / "www" / "owner" / "name.git", "update-server-info")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/owner/name.git"
            assert parse_spec(url).owner == "owner"
            assert get(url)[1].commit == commits[1]
            assert get(f"{url}@v1.0")[1].commit == commits[0]
            assert get(f"{url}@{commits[0][:7]}")[1].commit == commits[0]
        finally:
            server.shutdown()
            thread.join()


def test_another_transport_is_refused_by_git_too(get, repository, home, tmp_path):
    """The user's own configuration may rewrite URLs, but not to a transport that runs commands."""
    where, _ = repository
    (home / ".gitconfig").write_text(f'[url "ext::touch {tmp_path}/ran "]\ninsteadOf = {where}\n')
    with pytest.raises(InstallError, match="cannot be fetched") as caught:
        get(f"git+{where}")
    assert "not allowed" in "".join(caught.value.details)
    assert not (tmp_path / "ran").exists()


def test_no_git(get, repository, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InstallError, match="git is not installed"):
        get(f"git+{repository[0]}")


def test_ctrl_c_kills_git_and_its_helpers(tmp_path):
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n(exec sleep 1000 >{alive}) &\necho started >{alive}\nwait\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    program = (
        "import sys; from agenthub.packages.sources import fetch; from agenthub.packages.spec import parse_spec\n"
        "fetch(parse_spec(sys.argv[1]), sys.argv[2])"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    command = [sys.executable, "-c", program, "git+https://127.0.0.1/o/n.git", str(tmp_path / "target")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process, open(alive) as pipe:
        assert pipe.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert pipe.read() == ""  # the end of file: whoever could write is dead
        assert process.wait(10) != 0
    assert sorted(os.listdir(tmp_path)) == ["alive", "bin"]


def test_what_git_says_last_is_heard(get, repository, tmp_path, monkeypatch):
    """Also if it ends between a look at its pipes and a look at itself."""
    where, _ = repository
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *init*) exit;; esac\nread -r _ <"{gate}"\necho "the reason" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    class Late(subprocess.Popen):
        def poll(self):
            if self.returncode is None and "fetch" in self.args and not self.stderr.closed:
                with contextlib.suppress(FileNotFoundError):
                    gate.write_text("go\n")
                    gate.unlink()
                self.wait()
            return super().poll()

    monkeypatch.setattr(subprocess, "Popen", Late)
    with pytest.raises(InstallError) as caught:
        get(f"git+{where}")
    assert caught.value.details == ("the reason",)
