"""Workers: processes that keep an agent loaded. What one has to have been given, and how they are started and ended."""

from __future__ import annotations

import _thread
import os
import sys
from contextlib import suppress

from agenthub.errors import AgentRuntimeError, EnvironmentError, InvalidInputError
from agenthub.packages.store import Store
from agenthub.quick_json import dumps, loads
from agenthub.runtime.workers.orders import MOST_FILES, content_of, fingerprint, order_of
from agenthub.runtime.workers.post import is_held
from agenthub.runtime.workers.wire import Connection
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any

    from agenthub.config import Paths
    from agenthub.runtime.runs.locator import LocatedAgent
    from agenthub.runtime.runs.plan import RunPlan

_KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "AGENTHUB_HOME", "LANG", "PYTHONPATH")
_KEEPER = "import sys; sys.path.insert(0, sys.argv[1]); import agenthub.runtime.workers.keeper as keeper; keeper.main()"
_ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
DEFAULT_IDLE = 900.0  # seconds
COLD = "cold.json"  # beside the sockets: which version cannot be kept loaded, and why
_keepers: list[tuple[str, int, subprocess.Popen[bytes]]] = []  # of this process, with what they keep
_start_lock = _thread.allocate_lock()


class WorkerInfo(NamedTuple):
    """A worker, as it says of itself.

    Attributes:
        agent: `owner/name`, or a directory.
        version: the agent's.
        number: it is one of several for its agent.
        pid: of the process that keeps it.
        started: seconds since the epoch.
        memory: bytes of the loaded process.
        runs: how many it has served.
        idle: seconds after which it ends by itself.
        tier: what holds it.
        busy: whether it serves one now.
    """

    agent: str
    version: str
    number: int
    pid: int
    started: float
    memory: int
    runs: int
    idle: float
    tier: str
    busy: bool


class Upkeep(NamedTuple):
    """When a worker looks after itself.

    Attributes:
        look: seconds between two looks at the agent's version, at itself and at the machine's memory.
        least_free: share of the machine's memory; when less is available, the worker that served longest ago ends.
    """

    look: float = 5.0
    least_free: float = 0.08


def worker_directory(paths: Paths, agent: LocatedAgent) -> str:
    """Where an agent's workers have their sockets; private to the user."""
    if agent.owner:
        return paths.workers_of(agent.owner, agent.name, agent.variant)
    import zlib

    path = os.fsencode(agent.directory)
    name = f"{os.path.basename(agent.directory)[:60]}-{zlib.crc32(path):08x}{zlib.adler32(path):08x}"
    return os.path.join(paths.workers_of("", ""), name)


def can_be_warm(agent: LocatedAgent) -> str:
    """Why an agent can have no worker; empty where it can have one."""
    entry = agent.manifest.entrypoint
    if entry.kind == "command":
        return "only agents in Python can be kept loaded"
    if sys.platform != "linux":
        return "only Linux can keep an agent loaded in its sandbox"
    if content_of(agent) is None:
        return f"its directory has more than {MOST_FILES} files, too many to look for changes"
    return ""


def why_cold(paths: Paths, agent: LocatedAgent) -> str:
    """Why an agent's runs are cold, as its last worker found; empty where that is not known."""
    if reason := can_be_warm(agent):
        return reason
    try:
        with open(os.path.join(worker_directory(paths, agent), COLD), encoding="utf-8") as file:
            known = loads(file.read())
        same = known["directory"] == agent.directory and known["content"] == content_of(agent)
        return str(known["reason"]) if same else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def sockets_in(place: str) -> list[str]:
    """The names of the sockets of an agent's workers, those that do not listen any more among them."""
    try:
        return sorted(name for name in os.listdir(place) if name.endswith(".sock"))
    except OSError:
        return []


def start_worker(
    paths: Paths,
    plan: RunPlan,
    python: str,
    *,
    number: int = 0,
    idle: float = DEFAULT_IDLE,
    wait: bool = True,
    lasting: bool = True,
    upkeep: Upkeep | None = None,
) -> None:
    """Starts a worker, which then lives on its own; one that is there and was given the same stays.

    Args:
        paths: where it makes itself known.
        plan: a run such as it will serve.
        python: the interpreter of the agent's environment.
        number: one of several.
        idle: seconds without a run after which it ends.
        wait: until it is ready; else nothing is said of a failure.
        lasting: it serves the agent as it is configured, and ends when that changes. False: it serves whoever
            started it, who ends it.
        upkeep: when it looks after itself.

    Raises:
        InvalidInputError: this agent can have none.
        EnvironmentError: it did not become ready.
    """
    if reason := can_be_warm(plan.agent):
        raise InvalidInputError(f"{plan.agent.label} cannot be kept loaded: {reason}")
    order = order_of(plan, python)
    place = worker_directory(paths, plan.agent)
    if order is None or (not wait and why_cold(paths, plan.agent)):
        return
    with suppress(OSError), Connection(place, f"{number}.sock") as connection:
        if connection.check(fingerprint(order), idle if wait else None):
            return
    if not wait and is_held(os.path.join(place, f"{number}.owner")):
        return
    order = {
        "order": order,
        "caps": plan.limits._asdict(),
        "place": place,
        "version": plan.agent.manifest.version,
        "current": Store.here(paths).agent_dir(plan.agent.owner, plan.agent.name) if plan.agent.owner else "",
        "number": number,
        "idle": idle,
        "wait": wait,
        "lasting": lasting,
        "upkeep": (upkeep or Upkeep())._asdict(),
    }
    if not wait:
        with _start_lock:
            if not _is_starting(place, number):
                _start_keeper(order, wait=False)
        return
    answer = _start_keeper(order, wait=True)
    if "error" in answer and not answer.get("there"):
        raise EnvironmentError(
            f"{plan.agent.label} cannot be kept loaded: {answer['error']}",
            suggestion="its runs are cold" if answer.get("unsafe") else None,
            details=answer.get("details", ()),
        )


def _is_starting(place: str, number: int) -> bool:
    """Whether this process has started a worker of that number, which may not have its lock yet."""
    _forget_ended()
    return any(one[:2] == (place, number) for one in _keepers)


def _forget_ended() -> None:
    for one in [one for one in _keepers if one[2].poll() is not None]:
        with suppress(ValueError):  # another thread was faster
            _keepers.remove(one)


def _start_keeper(order: dict[str, Any], *, wait: bool) -> dict[str, Any]:
    import subprocess

    _forget_ended()
    inherited = (*_KEPT_VARIABLES, *order["order"]["proxies"])
    keeper = subprocess.Popen(
        (sys.executable, "-P", "-c", _KEEPER, _ROOT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if wait else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: os.environ[name] for name in inherited if name in os.environ},
        start_new_session=True,
    )
    _keepers.append((order["place"], order["number"], keeper))
    assert keeper.stdin is not None
    with suppress(BrokenPipeError), keeper.stdin:
        keeper.stdin.write(dumps(order).encode())
    if keeper.stdout is None:
        return {}
    with keeper.stdout:
        said = keeper.stdout.readline()
    try:
        answer = loads(said)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"error": "the process that keeps it ended at once"}


def list_workers(paths: Paths) -> list[WorkerInfo]:
    """Every worker of this user that is there."""
    found = []
    for folder, _, files in os.walk(paths.workers):
        for name in files:
            stem, _, kind = name.partition(".")
            if stem.isdigit() and kind == "json":
                with suppress(OSError, ValueError, TypeError, AgentRuntimeError):
                    found.append(_info(os.path.join(folder, stem)))
    return sorted(found)


def _info(path: str) -> WorkerInfo:
    if not is_held(f"{path}.owner"):
        raise ProcessLookupError
    with open(f"{path}.json", encoding="utf-8") as file:
        fields = loads(file.read())
    return WorkerInfo(**fields, busy=is_held(f"{path}.lock"))


def stop_worker(worker: WorkerInfo, patience: float = 0.0) -> None:
    """Ends a worker; a run that it serves is stopped.

    Args:
        worker: as `list_workers` returned it.
        patience: seconds to wait until it has gone.
    """
    import select
    import signal

    with suppress(ProcessLookupError):
        keeper = os.pidfd_open(worker.pid)
        try:
            if not _is_keeper(worker.pid):  # asked once the number cannot be given away any more
                return
            signal.pidfd_send_signal(keeper, signal.SIGTERM)
            ended = select.poll()
            ended.register(keeper, select.POLLIN)
            ended.poll(patience * 1000)
        finally:
            os.close(keeper)


def _is_keeper(pid: int) -> bool:
    """Whether a number still is the one of a process that keeps a worker."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"agenthub.runtime.workers.keeper" in file.read()
    except OSError:
        return False
