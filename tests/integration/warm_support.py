"""What the tests of workers share: agents that do what they are told, on a chosen tier, and the workers of a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from contextlib import contextmanager, suppress
from typing import Any

from agenthub.config import Settings
from agenthub.runtime.agent_runtime import AgentRuntime
from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.runs.plan import RunOptions
from agenthub.runtime.workers.control import Upkeep, WorkerInfo, list_workers, start_worker, stop_worker
from tests.support import Finished, invoke, method, wait_until, write_agent

BUBBLEWRAP, LANDLOCK, RLIMITS = "bubblewrap", "landlock", "rlimits"
TIERS = (BUBBLEWRAP, LANDLOCK, RLIMITS)
PATIENCE = 20.0
_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin")
# `warm`: whether the run was forked from a worker; `boot`: differs where the module was imported anew.
OBEDIENT = """
import os, sys
boot = os.urandom(8).hex()
class Agent:
    def do(self, code):
        names = {"module": sys.modules[__name__], "value": None}
        exec(code, names)
        return {"warm": os.path.basename(sys.orig_argv[1]) == "worker.py", "boot": boot, "value": names["value"]}
    def go(self):
        return self.do("")
    def stream(self, count):
        for number in range(count):
            yield number
"""
SCRIPT = """
import json, os, sys
boot = os.urandom(8).hex()
request = json.loads(sys.argv[1])
names = {"module": sys.modules[__name__], "value": None}
exec(request["parameters"].get("code", ""), names)
warm = os.path.basename(sys.orig_argv[1]) == "worker.py"
print(json.dumps({"result": {"warm": warm, "boot": boot, "value": names["value"]}}))
"""
METHODS = {"do": method(code="string"), "go": method(), "stream": method(count="integer")}
CODES = {"method": OBEDIENT, "script": SCRIPT}


class Warm:
    """One user's store with the agents and workers of some tests, on one tier."""

    def __init__(self, path: str, tier: str) -> None:
        self.path = path
        self.tier = tier
        self.home = os.path.join(path, "home")
        self.temporary = os.path.join(path, f"tmp-{tier}")
        self.programs = os.path.join(path, "programs")
        os.makedirs(self.temporary, exist_ok=True)
        self._link_programs()
        self.settings: dict[str, str] = {"AGENTHUB_SANDBOX": "off"} if tier == RLIMITS else {}
        self._numbers = 0
        self._located: dict[tuple[str, int], Any] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What tests put into the environment."""
        path = os.environ["PATH"] if self.tier == BUBBLEWRAP else self.programs
        return {"PATH": path, "TMPDIR": self.temporary, "AGENTHUB_HOME": self.home, **self.settings}

    @property
    def runtime(self) -> AgentRuntime:
        return AgentRuntime(Settings(environ={**os.environ, **self.environment}))

    def agent(self, code: str = OBEDIENT, methods: dict[str, Any] | None = None, **manifest: Any) -> str:
        """A new agent of the method contract, or of the script contract with `entrypoint=None`."""
        self._numbers += 1
        directory = os.path.join(self.path, f"agent-{self.tier}-{self._numbers}-{os.urandom(3).hex()}")
        manifest = {"entrypoint": "agent:Agent", **manifest}
        if manifest["entrypoint"] is None:
            del manifest["entrypoint"]
        return write_agent(directory, code, METHODS if methods is None else methods, **manifest)

    def warm(self, agent: str, number: int = 0, idle: float = 60.0, upkeep: Upkeep | None = None) -> WorkerInfo:
        """Starts a worker."""
        runtime = self.runtime
        located = runtime.locate(agent)
        plan, python = runtime.worker_plan(located, RunOptions(consent=bool))
        assert python is not None
        start_worker(runtime.settings.paths, plan, python, number=number, idle=idle, upkeep=upkeep)
        return next(worker for worker in self.workers(agent) if worker.number == number)

    def workers(self, agent: str | None = None) -> list[WorkerInfo]:
        found = list_workers(self.runtime.settings.paths)
        return [worker for worker in found if agent is None or worker.agent == os.path.realpath(agent)]

    def run(self, agent: str, name: str = "go", options: RunOptions | None = None, **inputs: Any) -> dict[str, Any]:
        """An envelope."""
        runtime = self.runtime
        options = (options or RunOptions())._replace(consent=bool)
        return runtime.run(self._locate(runtime, agent), name, inputs, options)

    def _locate(self, runtime: AgentRuntime, agent: str) -> Any:
        """As the runtime does, which reads the manifest each time."""
        if not os.path.isdir(agent):
            return runtime.locate(agent)
        key = agent, os.stat(os.path.join(agent, "agent.yaml")).st_mtime_ns
        if key not in self._located:
            self._located[key] = runtime.locate(agent)
        return self._located[key]

    def do(self, agent: str, code: str, options: RunOptions | None = None) -> dict[str, Any]:
        """What an obedient agent says of a run that has to succeed."""
        envelope = self.run(agent, "do", options, code=code)
        assert "error" not in envelope, envelope
        held = envelope["usage"]["isolation"]
        assert held == self.tier, envelope
        return dict(envelope["result"])

    def command(self, *words: object, **options: Any) -> Finished:
        """`agenthub …` in a process of its own."""
        return invoke(*words, env={**os.environ, **self.environment}, **options)

    def loaded(self, worker: WorkerInfo) -> int:
        """The pid of a worker's loaded process."""
        return next(
            pid for pid in self.processes(worker) if b"worker.py" in _read(f"/proc/{pid}/cmdline").split(b"\0")[1]
        )

    def processes(self, worker: WorkerInfo) -> list[int]:
        """All below a keeper."""
        found, pending = [], [worker.pid]
        for pid in pending:
            with suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = _read(f"/proc/{pid}/task/{task}/children").split()
                    pending += map(int, children)
                    found += map(int, children)
        return found

    def leftovers(self) -> list[int]:
        """Living processes that have this test's directories in their environment."""
        mark = self.temporary.encode()
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
        return [pid for pid in pids if mark in _read(f"/proc/{pid}/environ")]

    def close(self) -> None:
        """Ends what tests left, and asserts that this ends all of it."""
        for worker in self.workers():
            stop_worker(worker, PATIENCE)
        try:
            wait_until(lambda: not self.leftovers(), None, "nothing is left")
        finally:
            for pid in self.leftovers():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def _link_programs(self) -> None:
        if os.path.isdir(self.programs):
            return
        os.mkdir(self.programs)
        for folder in _FOLDERS:
            for name in os.listdir(folder):
                link = os.path.join(self.programs, name)
                if name != "bwrap" and not os.path.lexists(link):
                    os.symlink(os.path.join(folder, name), link)


@contextmanager
def environment(monkeypatch: Any, warm: Warm) -> Any:
    """The environment of a test on its tier."""
    for name, value in warm.environment.items():
        monkeypatch.setenv(name, value)
    yield warm


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def unavailable(tier: str) -> str:
    """Why this machine does not have a tier; empty if it does."""
    from agenthub.runtime.sandbox.tiers import available_tiers

    tiers = available_tiers()
    if tier == BUBBLEWRAP:
        return "" if tiers.best == BUBBLEWRAP and shutil.which("bwrap") else tiers.reason
    return "" if tier == RLIMITS or tiers.abi >= 6 else f"Landlock has ABI {tiers.abi}"


def result_of(finished: Finished) -> Any:
    """The result in the envelope of a command that succeeded."""
    assert finished.code == 0, finished.err
    return json.loads(finished.stdout)["result"]


class Slow:
    """A run in a thread of its own, which says on its log that it has begun."""

    def __init__(self, warm: Warm, agent: str, code: str = "", **options: Any) -> None:
        self.envelope: dict[str, Any] = {}
        self.cancellation = Cancellation()
        self._begun = threading.Event()
        body = f"import time, sys; {code or 'pass'}\nprint('begun', file=sys.stderr, flush=True); time.sleep(60)"
        given = RunOptions(cancellation=self.cancellation, on_log=self._heard, **options)
        self._thread = threading.Thread(target=self._run, args=(warm, agent, body, given))
        self._thread.start()
        assert self._begun.wait(PATIENCE), self.envelope

    def _run(self, warm: Warm, agent: str, body: str, options: RunOptions) -> None:
        try:
            self.envelope = warm.run(agent, "do", options, code=body)
        finally:
            self._begun.set()

    def _heard(self, line: str, level: str) -> None:
        if line == "begun":
            self._begun.set()

    def wait(self) -> dict[str, Any]:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.cancellation.close()
        return self.envelope

    def stop(self) -> dict[str, Any]:
        self.cancellation.cancel()
        return self.wait()
