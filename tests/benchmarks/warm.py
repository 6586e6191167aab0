"""The rows of agents that are kept loaded."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from agenthub.config import Settings
from agenthub.runtime.agent_runtime import AgentRuntime
from agenthub.runtime.runs.plan import RunOptions
from tests.benchmarks.measure import Row, Sample, command, compare, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

AGENTHUB = os.path.join(os.path.dirname(sys.executable), "agenthub")
MB = 1024 * 1024
_CALLS = 300
_AT_ONCE = 8


def warm_rows(env: Mapping[str, str], tool: Callable[[], float], scripts: Mapping[str, float]) -> list[Row]:
    """Agents must be installed: `trivial`, and one for each of `scripts`.

    Args:
        env: the commands' environment.
        tool: runs a trivial tool by uvx.
        scripts: an agent in the script contract -> the ratio that is to be reached.
    """
    rows = []
    with _Loaded(env, "trivial"):
        rows.append(
            compare(
                "warm run of a trivial agent / uvx --offline of a trivial tool",
                0.35,
                command([AGENTHUB, "run", "trivial", "go"], env),
                tool,
            )
        )
    for agent, target in scripts.items():
        with _Loaded(env, agent) as loaded:
            directory = os.path.join(env["AGENTHUB_HOME"], "agents/local", agent)
            by_hand = [f"{directory}/venv/bin/python", "agent.py", '{"method": "go", "parameters": {}}']
            run = command([AGENTHUB, "run", agent, "go"], env)
            for _ in range(4):  # until what a run loads is loaded
                run()
            rows.append(
                compare(f"warm run of {agent} / its script by hand", target, run, command(by_hand, env, cwd=directory))
            )
            memory = loaded.memory() / MB
            rows.append(Row(f"memory of {agent} loaded and idle (published)", f"{memory:.0f} MB", "-", 0, 1))
            done = subprocess.run([AGENTHUB, "run", agent, "go"], env=env, capture_output=True, check=True)
            added = int(done.stdout) / 1024
            rows.append(Row(f"memory that a fork of {agent} adds to it (published)", f"{added:.1f} MB", "-", 0, 1))
    return [*rows, *_from_python(env)]


class _Loaded:
    """An agent with workers, which are gone afterwards."""

    def __init__(self, env: Mapping[str, str], agent: str, number: int = 1) -> None:
        self._env = env
        self._agent = agent
        self._number = number

    def __enter__(self) -> _Loaded:
        command([AGENTHUB, "warm", self._agent, "-n", str(self._number)], self._env)()
        return self

    def _workers(self) -> list[dict[str, int]]:
        done = subprocess.run([AGENTHUB, "ps", "--json"], env=self._env, capture_output=True, check=True)
        found: list[dict[str, int]] = json.loads(done.stdout)["workers"]
        return found

    def memory(self) -> int:
        return self._workers()[0]["memory"]

    def __exit__(self, *_: object) -> None:
        command([AGENTHUB, "stop", self._agent], self._env)()


def _from_python(env: Mapping[str, str]) -> list[Row]:
    runtime = AgentRuntime(Settings(environ=env))
    agent = runtime.locate("trivial")

    def call() -> float:
        begun = time.perf_counter()
        envelope = runtime.run(agent, "go", {}, RunOptions())
        assert envelope["result"] == 1, envelope
        return time.perf_counter() - begun

    bare = command([sys.executable, "-c", "pass"], env)
    rows = []
    for tier, hidden in (("bubblewrap", ""), ("landlock", "/usr/bin/bwrap")):
        with _Tier(runtime, hidden) as held, _Loaded(held.env(env), "trivial"):
            if held.tier != tier:
                continue
            mine, theirs = in_turns(call, bare, 101)
            name = f"warm call from Python, recorded, {tier} / python -c pass"
            rows.append(Row(name, f"{mine} ms", f"{theirs} ms", mine.median / theirs.median, 0.5))
    with _Loaded(env, "trivial", _AT_ONCE):
        times = _at_once(call)
    p99 = sorted(times)[int(len(times) * 0.99)]
    median = statistics.median(times)
    name = f"p99 of {_AT_ONCE} such calls at once / their median"
    rows.append(Row(name, f"{p99 * 1e3:.1f} ms", f"{Sample(times)} ms", p99 / median, 3))
    return rows


class _Tier:
    """Without bubblewrap on PATH, where that is asked for."""

    def __init__(self, runtime: AgentRuntime, hidden: str) -> None:
        self._path = os.environ["PATH"]
        folders = self._path.split(os.pathsep)
        self._without = os.pathsep.join(folder for folder in folders if not os.path.exists(f"{folder}/bwrap"))
        self._hidden = bool(hidden)
        self._runtime = runtime
        self.tier = ""

    def env(self, env: Mapping[str, str]) -> dict[str, str]:
        return {**env, "PATH": os.environ["PATH"]}

    def __enter__(self) -> _Tier:
        from agenthub.runtime.runs.plan import tiers_here

        if self._hidden:
            os.environ["PATH"] = self._without
        self.tier = tiers_here(self._runtime.settings.paths).best
        return self

    def __exit__(self, *_: object) -> None:
        os.environ["PATH"] = self._path


def _at_once(call: Callable[[], float]) -> list[float]:
    times: list[float] = []

    def work() -> None:
        for _ in range(_CALLS // _AT_ONCE):
            times.append(call())

    threads = [threading.Thread(target=work) for _ in range(_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times
