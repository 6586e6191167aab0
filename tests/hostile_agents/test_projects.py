"""A cloned repository whose agents.toml and agents.lock were written to harm whoever syncs it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.project_support import agent
from tests.support import assert_refused, invoke, method, write_agent

WANTED = '[agents]\n"local/a" = {path = "a"}\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The repository, which is the working directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    (directory / "agents.toml").write_text(WANTED)
    return directory


def program(path, proof):
    """A program that leaves `proof`, and is a Python besides."""
    path.write_text(f'#!/bin/sh\ntouch {proof}\nexec python3 "$@"\n')
    path.chmod(0o755)


def locked_elsewhere(project, tmp_path):
    """The lock as somebody else made it, whose consents are not ours."""
    done = invoke("lock", "--yes", env={**os.environ, "AGENTHUB_HOME": str(tmp_path / "elsewhere")})
    assert done.code == 0, done.err
    return (project / "agents.lock").read_text()


@pytest.mark.slow
def test_a_lock_names_no_interpreter(cli, project, tmp_path):
    agent(project / "a", 1, wheel=True)
    text = locked_elsewhere(project, tmp_path)
    program(project / "evil", tmp_path / "proof")
    (project / "agents.lock").write_text(text.replace('python = ">=3.11"', 'python = "./evil"'))
    assert_refused(cli("sync", "--frozen", "--yes"), 2, "no program of this machine")
    assert not (tmp_path / "proof").exists()


def test_a_lock_is_not_written_through_a_link(cli, project, tmp_path):
    agent(project / "a", 1)
    mine = tmp_path / "mine"
    mine.write_text("")
    (project / "agents.lock").symlink_to("../mine")
    assert_refused(cli("lock", "--yes"), 2, "outside of the project")
    assert mine.read_text() == ""
    (project / "agents.lock").unlink()
    (project / "kept.lock").write_text("")
    (project / "agents.lock").symlink_to("kept.lock")
    cli.ok("lock", "--yes")
    assert "local/a" in (project / "kept.lock").read_text()


@pytest.mark.slow
def test_nothing_is_waited_for_that_never_ends(project):
    os.mkfifo(project / "agents.lock")
    assert_refused(invoke("sync", "--check"), 2, "it is not a file")
    (project / "agents.lock").unlink()
    (project / "agents.toml").write_text('[agents]\n"local/a" = {path = "/dev/zero"}\n')
    (project / "agents.lock").write_text(
        f'schema_version = 1\n[[agent]]\nname = "local/a"\nversion = "1"\ndigest = "sha256:{"0" * 64}"\n'
        f'source = {{ path = "{os.path.relpath("/dev/zero", project)}" }}\n'
    )
    assert invoke("sync", "--check").code == 1


@pytest.mark.parametrize("name", ["agents.toml", "agents.lock", "agenthub.toml"])
def test_a_number_without_end_is_an_error_like_others(cli, project, name):
    (project / name).write_text(f"a = {'1' * 5000}\n")
    assert_refused(cli("lock"), 2, name)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def elsewhere(tmp_path):
    """A package whose setup leaves a proof where it is built, as a lock can name it."""
    setup = f"open({str(tmp_path / 'proof')!r}, 'w')\nfrom setuptools import setup\nsetup(name='evil', version='1')\n"
    (tmp_path / "served").mkdir()
    archive = tmp_path / "served" / "evil-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        entry = tarfile.TarInfo("evil-1/setup.py")
        entry.size = len(setup)
        file.addfile(entry, io.BytesIO(setup.encode()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    yield f"evil @ http://127.0.0.1:{server.server_port}/evil-1.tar.gz \\\n    --hash=sha256:{digest}\n"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_consent_to_an_agent_is_none_to_other_packages(cli, project, tmp_path, elsewhere):
    """Its content is known here; the lock has more in its environment than it declares, which runs when it is built."""
    cli.ok("install", "--yes", agent(tmp_path / "own" / "a", 1, wheel=True))
    agent(project / "a", 1, wheel=True)
    text = locked_elsewhere(project, tmp_path)
    (project / "agents.lock").write_text(text.replace("packages = '''\n", f"packages = '''\n{elsewhere}"))
    for words in (["sync", "--frozen"], ["sync"]):
        refused = cli(*words)
        assert refused.code == 5
        assert "agents.lock    evil @ http://127.0.0.1" in refused.err
    (project / "agents.toml").write_text(WANTED.replace('"a"}', '"./a"}'))  # kept by `lock`, with another spelling
    cli("lock")
    assert cli("sync").code == 5
    assert not (tmp_path / "proof").exists()
    (project / "agents.lock").write_text(text)
    (project / "agents.toml").write_text(WANTED)
    cli.ok("sync", "--frozen")  # what is known is not asked for again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "dependencies"),
    [
        ({"requirements.txt": "-e ./evil\n"}, "requirements.txt"),
        ({"requirements.txt": "-r more.txt\n", "more.txt": "-e ./evil\n"}, "requirements.txt"),
        ({"requirements.txt": "\ufeff-e ./evil\n"}, "requirements.txt"),
        ({"pyproject.toml": '[project]\nname = "x"\nversion = "1"\nrequires-python = "./python"\n'}, "pyproject.toml"),
    ],
)
def test_nothing_of_an_upgrade_runs_before_it_was_agreed_to(cli, tmp_path, monkeypatch, files, dependencies):
    monkeypatch.chdir(tmp_path)
    directory, proof = tmp_path / "a", tmp_path / "proof"
    cli.ok("install", "--yes", write_agent(directory, "", {"go": method()}, version="1.0.0"))
    write_agent(directory, "", {"go": method()}, version="1.1.0", dependencies=dependencies)
    (directory / "evil").mkdir()
    Path(directory, "evil", "setup.py").write_text(
        f"open({str(proof)!r}, 'w')\nfrom setuptools import setup\nsetup()\n"
    )
    program(tmp_path / "python", proof)
    for name, text in files.items():
        (directory / name).write_text(text)
    assert "1.0.0 → 1.1.0" in cli.ok("upgrade", "--dry-run", "a").err
    assert cli("upgrade", "a").code == 5
    assert not proof.exists()


def test_a_directory_that_is_called_as_a_signed_agent(cli, project):
    """Its source is the repository's, which the question says, and that the owner's releases are signed."""
    agent(project / "a", 1)
    cli.ok("trust", "acme", "SHA256:" + "A" * 43)
    (project / "agents.toml").write_text('[agents]\n"acme/tool" = {path = "a"}\n')
    refused = cli("sync")
    assert refused.code == 5
    assert "whose releases are signed, and this is not" in refused.err
