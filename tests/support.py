"""What the tests through the public doors share: the command, in and out of process, and throw-away agents."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from typing import Any, NamedTuple

from agenthub.testing import create_test_agent

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SAMPLES = os.path.join(PROJECT, "sample_agents")
COMMAND = (sys.executable, "-m", "agenthub")
PATIENCE = 30.0  # seconds until a test that waits for something gives up


class Finished(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def error_lines(self) -> list[str]:
        """The error that ended it, without what was logged before."""
        lines = self.err.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        assert starts, self.err
        return lines[starts[-1] :]


def assert_refused(finished: Finished, code: int, *words: str) -> None:
    """An error as a person wants it: the right exit code, at most four lines that say `words`, nothing on stdout."""
    assert finished.code == code, finished
    assert finished.stdout == b""
    error = finished.error_lines
    assert len(error) <= 4, error
    for word in words:
        assert word in "\n".join(error), (word, error)
    assert "agenthub/cli" not in finished.err
    assert "agenthub/runtime" not in finished.err


def invoke(*words: object, **options: Any) -> Finished:
    """The command in a process of its own."""
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, timeout=PATIENCE, **options)
    return Finished(done.returncode, done.stdout, done.stderr)


def install_into(home: Any, *words: object) -> str:
    """Installs agents into a store that tests share and never change."""
    done = invoke("install", "--yes", *words, env={**os.environ, "AGENTHUB_HOME": str(home)})
    assert done.code == 0, done.err
    return str(home)


def start(*words: object, **options: Any) -> subprocess.Popen[bytes]:
    """The command, running; whoever starts it ends it."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *map(str, words)], **{**pipes, **options})


def in_terminal(
    *words: object, replies: list[tuple[str, Any]] | None = None, stdout: int | None = None, **options: Any
) -> Finished:
    """The command on a terminal of 80 columns; answers each question (a part of it) with its reply, or calls that.

    What it writes to the terminal, stderr and mostly stdout, is in `stderr`.
    """
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdin=terminal,
        stdout=terminal if stdout is None else stdout,
        stderr=terminal,
        start_new_session=True,
        **options,
    )
    os.close(terminal)
    waiting = list(replies or [])
    seen, answered = b"", 0
    try:
        while (data := _next(controller, time.monotonic() + PATIENCE)) != b"":
            seen += data
            if waiting and waiting[0][0].encode() in seen[answered:]:
                answered = len(seen)
                reply = waiting.pop(0)[1]
                if callable(reply):
                    reply()
                else:
                    os.write(controller, reply.encode() + b"\n")
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert not waiting, f"was never asked {waiting[0][0]!r}: {seen!r}"
    return Finished(code, b"", seen.replace(b"\r\n", b"\n"))


def _next(controller: int, deadline: float) -> bytes:
    ready, _, _ = select.select([controller], [], [], max(0.0, deadline - time.monotonic()))
    assert ready, "nothing happens on the terminal"
    try:
        return os.read(controller, 65536)
    except OSError:  # the other end was closed
        return b""


def wait_until(holds: Any, process: subprocess.Popen[bytes] | None, what: str = "the agent runs") -> Any:
    """Waits until `holds()` is true, while the process runs if one is given, and returns what it returned."""
    deadline = time.monotonic() + PATIENCE
    while not (value := holds()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended before {what}: {process.communicate()}")
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)
    return value


def method(description: str = "what the test needs", **parameters: Any) -> dict[str, Any]:
    """A method for a manifest; a parameter is its type, or a mapping."""
    given = {name: {"type": one} if isinstance(one, str) else one for name, one in parameters.items()}
    return {"description": description, "parameters": {k: {"description": f"the {k}", **v} for k, v in given.items()}}


def write_agent(directory: Any, code: str, methods: dict[str, Any] | None = None, **manifest: Any) -> str:
    """An agent of the given name; without `entrypoint` in the script contract. Returns its directory."""
    interface = {"methods": methods or {"go": method()}}
    return create_test_agent(directory, {"interface": interface, **manifest}, code)


def marked(mark: Any) -> list[int]:
    """The living processes of runs that were given `--env AGENT_MARK=mark`, in whatever namespaces they are."""
    wanted = f"AGENT_MARK={mark}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):  # a zombie has none
                    found.append(int(pid))
        except OSError:
            continue
    return found


def tree(directory: Any) -> dict[str, Any]:
    """Every path below a directory, with what is there: a link's target, a file's bytes, or None for a directory."""
    found: dict[str, Any] = {}
    for folder, folders, files in os.walk(directory):
        for name in folders + files:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, directory)
            if os.path.islink(path):
                found[relative] = f"-> {os.readlink(path)}"
            elif os.path.isdir(path):
                found[relative] = None
            else:
                with open(path, "rb") as file:
                    found[relative] = file.read()
    return found
