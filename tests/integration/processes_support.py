"""What the tests of processes share: agents made of a few lines, and eyes on what a run leaves."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap

from agenthub.runtime.process_manager import ProcessManager
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.lines import Log
from agenthub.runtime.processes.protocol import ScriptExchange
from agenthub.runtime.processes.supervisor import Launch, supervise

MANIFEST = """
name: probe
version: 1.0.0
description: an agent of the tests
author: tests
{entrypoint}
interface:
  methods:
    go:
      description: the method of the test
"""


def make_agent(directory, code, entrypoint="", file="agent.py"):
    """An agent directory with one method, `go`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "agent.yaml").write_text(MANIFEST.format(entrypoint=entrypoint))
    (directory / file).write_text(textwrap.dedent(code))
    return str(directory)


def run_script(tmp_path, code, parameters=None, **options):
    """Runs a script-contract agent whose agent.py is `code`."""
    path = make_agent(tmp_path / "agent", code)
    return ProcessManager().execute_agent(path, "go", parameters or {}, **options)


def run_method(tmp_path, code, parameters=None, entrypoint="agent:Agent", **options):
    """Runs a method-contract agent; `code` defines the class `Agent`."""
    path = make_agent(tmp_path / "agent", code, f"entrypoint: {entrypoint}")
    return ProcessManager().execute_agent(path, "go", parameters or {}, **options)


def supervised(code, limits=None, cwd="/", run_id=None, argv=None, **options):
    """Runs `python -c code` under a supervisor: its completion and its exchange."""
    limits = limits or Limits(timeout=30)
    log = Log(options.pop("on_log", None))
    exchange = ScriptExchange("go", options.pop("parameters", {}), log, limits.result)
    argv = argv or (sys.executable, "-I", "-c", textwrap.dedent(code))
    launch = Launch(
        tuple(argv), {"PATH": os.environ["PATH"], **options.pop("env", {})}, str(cwd), run_id or os.urandom(8).hex()
    )
    return supervise(launch, exchange, limits, log, **options), exchange


def descriptors():
    """This process's open descriptors."""
    return sorted(os.listdir("/proc/self/fd"))


def own_children():
    """This process's children, zombies included."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{task}/children") as file:  # it has ended
            found += file.read().split()
    return found


def held_by_someone(fifo):
    """Whether a process still has a pipe open for writing: nobody has once its reader sees the end."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(reader, 1) == b"never"
    except BlockingIOError:
        return True
    finally:
        os.close(reader)
