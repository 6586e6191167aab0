"""`agenthub sync` of a project with 20 agents: from a warm cache, with nothing to do, and what it takes on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.benchmarks.measure import Row, command, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Env = Mapping[str, str]

BIN = os.path.dirname(sys.executable)
AGENTHUB = os.path.join(BIN, "agenthub")
UV = os.path.join(BIN, "uv")
COUNT = 20
# Four agents of each.
SETS = (["requests", "pyyaml"], ["openai"], ["httpx[http2]", "jinja2"], ["pydantic", "rich"], ["numpy"])
SAME = 1.15
MANIFEST = """\
name: {name}
version: "1.0"
description: a benchmark
author: agenthub
entrypoint: agent
dependencies: [{dependencies}]
python_version: ">=3.11"
interface: {{methods: {{go: {{description: does nothing}}}}}}
"""


def project_rows(work: str, env: Env, tool: Callable[[], float]) -> list[Row]:
    """The rows of the table; `tool` runs `uvx --offline` of a trivial tool."""
    project = os.path.join(work, "project")
    for number in range(COUNT):
        write_agent(project, f"agent-{number}", SETS[number % len(SETS)])
    with open(os.path.join(project, "agents.toml"), "w") as file:
        file.write("[agents]\n")
        file.writelines(f'"local/agent-{n}" = {{ path = "agents/agent-{n}" }}\n' for n in range(COUNT))
    env = {**env, "AGENTHUB_HOME": os.path.join(work, "project-home")}
    checked([AGENTHUB, "sync", "--yes", "--quiet"], env, project)
    return [warm_sync(work, project, env), idle_sync(project, env, tool), disk(work, project, env)]


def warm_sync(work: str, project: str, env: Env) -> Row:
    from agenthub.projects.lock_file import read_lock
    from agenthub.runtime.environments.interpreters import find_interpreter
    from agenthub.runtime.environments.pins import format_pins

    lock = read_lock(project)
    assert lock is not None
    python = find_interpreter(">=3.11").path
    for agent in lock.agents:
        with open(os.path.join(work, f"{agent.name}.txt"), "w") as file:
            file.write(format_pins(agent.pins))
    home, venvs = os.path.join(work, "sync-home"), os.path.join(work, "venvs")

    def sync() -> float:
        ours = {**env, "AGENTHUB_HOME": home}
        seconds = command([AGENTHUB, "sync", "--frozen", "--yes", "--quiet"], ours, cwd=project)()
        shutil.rmtree(home)
        return seconds

    def one(name: str) -> None:
        venv = os.path.join(venvs, name)
        checked([UV, "venv", "--quiet", "--python", python, venv], env, work)
        to = ["--python", f"{venv}/bin/python", "--require-hashes", "--requirements", f"{name}.txt"]
        checked([UV, "pip", "install", "--quiet", *to], env, work)

    def bare() -> float:
        import time

        started = time.perf_counter()
        with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
            list(pool.map(one, [agent.name for agent in lock.agents]))
        seconds = time.perf_counter() - started
        shutil.rmtree(venvs)
        return seconds

    return compare(f"sync of {COUNT} agents, warm / the bare uv commands in parallel", 1.5, sync, bare, times=5)


def idle_sync(project: str, env: Env, tool: Callable[[], float]) -> Row:
    ours = command([AGENTHUB, "sync"], env, cwd=project)
    return compare(f"sync of {COUNT} agents, nothing to do / uvx --offline of a trivial tool", 0.8, ours, tool)


def disk(work: str, project: str, env: Env) -> Row:
    """Two agents with the same locked set, each file counted once however many names it has."""
    paths = [os.path.join(env["AGENTHUB_HOME"], "projects", "*", "agents", "local", f"agent-{n}") for n in (1, 6)]
    one, two = (space(paths[:count]) for count in (1, 2))
    text = [f"{value / 1024:.1f} MB" for value in (two, one)]
    return Row("disk of two agents with the same packages / of one", *text, two / one, SAME)


def space(patterns: list[str]) -> int:
    """Kilobytes that trees take together, as du counts."""
    from glob import glob

    trees = [os.path.realpath(path) for pattern in patterns for path in glob(pattern)]
    done = subprocess.run(["du", "-skc", *trees], capture_output=True, check=True, text=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def write_agent(project: str, name: str, dependencies: list[str]) -> None:
    directory = os.path.join(project, "agents", name)
    os.makedirs(directory)
    with open(os.path.join(directory, "agent.yaml"), "w") as file:
        file.write(MANIFEST.format(name=name, dependencies=", ".join(f'"{one}"' for one in dependencies)))
    with open(os.path.join(directory, "agent.py"), "w") as file:
        file.write("def go():\n    return 1\n")


def checked(argv: list[str], env: Env, cwd: str) -> None:
    subprocess.run(argv, env=env, cwd=cwd, check=True, stdin=subprocess.DEVNULL)
