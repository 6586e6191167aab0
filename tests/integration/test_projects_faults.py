"""What a sync leaves behind that is cut short: each agent is the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import time

import pytest

from tests.integration.project_support import agent
from tests.support import PATIENCE, invoke, start

COUNT = 4


@pytest.mark.slow
def test_a_sync_that_is_killed_leaves_old_or_new(tmp_path, monkeypatch):
    project, home = tmp_path / "project", tmp_path / "home"
    write(project, "old")
    monkeypatch.chdir(project)
    assert invoke("sync", "--yes").code == 0
    shutil.copytree(home, tmp_path / "before", symlinks=True)
    write(project, "new")
    assert invoke("lock", "--yes").code == 0
    started = time.monotonic()
    assert invoke("sync", "--yes").code == 0
    longest = time.monotonic() - started
    seen = set()
    for number in range(14):
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "before", home, symlinks=True)
        process = start("sync", "--frozen", "--yes")
        time.sleep(random.uniform(0.3, 1) * longest * number / 10)  # when it is killed is what varies
        process.kill()
        process.communicate()
        answers = [answer(f"a{each}") for each in range(COUNT)]
        assert set(answers) <= {"old", "new"}, answers
        seen |= set(answers)
        done = invoke("sync", "--frozen", "--yes")
        assert done.code == 0, done.err
        assert [answer(f"a{each}") for each in range(COUNT)] == ["new"] * COUNT
        assert invoke("sync", "--check").code == 0
        assert os.listdir(home / "staging") == []
        assert invoke("gc").code == 0
        left = {name: os.listdir(home / "versions/local" / name) for name in os.listdir(home / "versions/local")}
        assert all(len(versions) == 1 for versions in left.values()), left
    assert seen == {"old", "new"}


def write(project, answer):
    for number in range(COUNT):
        agent(project / f"a{number}", answer, name=f"a{number}", wheel=True)
    entries = "".join(f'"local/a{number}" = {{path = "a{number}"}}\n' for number in range(COUNT))
    (project / "agents.toml").write_text(f"[agents]\n{entries}")


def answer(name):
    done = invoke("run", "--json", name, "go")
    assert done.code == 0, done
    return json.loads(done.out)["result"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_tool_at_once(tmp_path, monkeypatch, number):
    """The package index accepts connections and says nothing, so that uv waits in several threads of ours."""
    project = tmp_path / "project"
    for each in range(3):
        agent(project / f"a{each}", each, name=f"a{each}", dependencies=[f"no-such-package-{each}"])
    (project / "agents.toml").write_text(
        "[agents]\n" + "".join(f'"local/a{n}" = {{path = "a{n}"}}\n' for n in range(3))
    )
    monkeypatch.chdir(project)
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        server.settimeout(PATIENCE)
        env = {**os.environ, "UV_DEFAULT_INDEX": f"http://127.0.0.1:{server.getsockname()[1]}/", "UV_NO_CACHE": "1"}
        process = start("lock", "--yes", env=env)
        stack.callback(process.communicate)
        stack.callback(process.kill)
        connections = [stack.enter_context(server.accept()[0]) for _ in range(2)]
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, err
        assert b"Traceback" not in err
        for connection in connections:
            connection.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass  # the end: whoever had it is dead
    assert not (project / "agents.lock").exists()
    assert os.listdir(tmp_path / "home/staging") == []
