"""The process that keeps one worker; its order comes as JSON on standard input, from `warm.start_worker`.

It listens on a socket of the user's own, serves one run at a time, and ends when nothing is asked of it for long
enough, when the agent has another version or may do something else, when its worker dies without a run, when memory is
short, or when it is told to.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from agenthub.errors import AgentRuntimeError
from agenthub.manifest import AgentManifest
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.scratch import scratch_directory
from agenthub.runtime.runs.file_results import with_file
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.policy import BUBBLEWRAP, LANDLOCK, RLIMITS, Network, SandboxPolicy
from agenthub.runtime.sandbox.tiers import Tiers
from agenthub.runtime.workers.control import COLD, Upkeep
from agenthub.runtime.workers.orders import fingerprint
from agenthub.runtime.workers.places import places
from agenthub.runtime.workers.post import Post, ThereAlreadyError
from agenthub.runtime.workers.run import NotBegunError, WarmRequest
from agenthub.runtime.workers.wire import Teller, let_go, peer_of, read_message, send_message
from agenthub.runtime.workers.worker import DOMAIN, NAMESPACE, NotLoadedError, Worker, WorkerSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.runtime.sandbox.declared_network import DeclaredNetwork

_LOAD_TIMEOUT = 120.0
_REQUEST_TIMEOUT = 10.0
_MOST_RESTARTS = 3  # to load what a script was seen to load, and in a row after runs that were killed


class Keeper:
    """Keeps one worker until `serve` returns.

    Args:
        order: as `warm.start_worker` writes it.
        post: where it is reached.
        base: the directory that its runs write into.
    """

    def __init__(self, order: dict[str, Any], post: Post, base: str) -> None:
        self._order: dict[str, Any] = order["order"]
        self._fingerprint = fingerprint(self._order)
        self._caps = Limits(**order["caps"])
        self._version: str = order["version"]
        self._current: str = order["current"]
        self._number: int = order["number"]
        self._idle: float = order["idle"]
        self._lasting: bool = order["lasting"]
        self._upkeep = Upkeep(**order["upkeep"])
        self._post = post
        self._base = base
        self._runs = 0
        self._started = time.time()
        self._used = self._heard = time.monotonic()
        self._client: socket.socket | None = None
        self._restarts = 0
        self._lost = 0  # workers in a row
        self._modules: tuple[str, ...] = ()
        self._network: DeclaredNetwork | None = None
        self._worker: Worker | None = None
        self._stopping = False
        self._wake, self._waker = os.pipe()  # a signal alone does not end a wait

    # starting and ending ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Starts the worker. Raises AgentRuntimeError."""
        order = self._order
        tiers = Tiers(**{**order["tiers"], "gaps": tuple(order["tiers"]["gaps"])}) if order["tiers"] else Tiers(RLIMITS)
        policy = self._policy()
        variables = self._open_network(policy.network, tiers.best)
        spec = WorkerSpec(
            directory=order["directory"],
            manifest=AgentManifest.from_compiled(order["manifest"]),
            python=order["python"],
            inherited=order["inherited"],
            variables={**variables, **order["variables"]},
            limits=self._caps,
            sweeps=_sweeps(tiers),
            modules=self._modules,
        )
        self._worker = Worker(spec, self._base, confine(policy, tiers, self._network))
        try:
            self._worker.start(_LOAD_TIMEOUT)
            if self._network is not None:
                self._network.check()
        except BaseException:
            self.unload()
            raise

    def _policy(self) -> SandboxPolicy:
        policy = self._order["policy"]
        home, temporary, shared = places(self._base)
        kind, hosts = policy["network"]
        return SandboxPolicy(
            level=policy["level"],
            agent_dir=policy["agent_dir"],
            scratch=home,
            read=tuple(policy["read"]),
            write=tuple(policy["write"]),
            network=Network(kind, tuple(hosts)),
            programs=None if policy["programs"] is None else tuple(policy["programs"]),
            temporary=(temporary, shared),
        )

    def _open_network(self, network: Network, tier: str) -> dict[str, str]:
        """The door to declared hosts, and the variables that lead there."""
        if network.kind != "hosts" or tier == RLIMITS:
            return {}
        from agenthub.runtime.sandbox.declared_network import DeclaredNetwork

        if tier == LANDLOCK:
            from agenthub.runtime.sandbox.notify import missing_support

            if missing := missing_support():
                raise NotLoadedError(f"it cannot be held to its hosts here: {missing}")
        self._network = DeclaredNetwork(network.hosts, tier)
        return dict(self._network.variables)

    def unload(self) -> None:
        """Ends the worker and its network."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._network is not None:
            self._network.close()
            self._network = None

    def note(self) -> None:
        """Says in a file what `agenthub ps` shows."""
        assert self._worker is not None
        self._post.note(
            {
                "agent": self._order["agent"],
                "version": self._version,
                "number": self._number,
                "pid": os.getpid(),
                "started": self._started,
                "memory": self._worker.memory,
                "runs": self._runs,
                "idle": self._idle,
                "tier": self._worker.isolation,
            }
        )

    def stop(self, *_: object) -> None:
        """Ends `serve` at once, and a run with it; a signal handler."""
        self._stopping = True
        os.write(self._waker, b"!")

    # serving ------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until there is a reason to end."""
        while not self._stopping and self._worker is not None and self._worker.alive:
            left = self._used + self._idle - time.monotonic()
            if left <= 0:
                break
            source = (self._client or self._post.listener).fileno()
            watched = [source, self._worker.fileno(), self._wake]
            ready, _, _ = select.select(watched, [], [], min(left, self._upkeep.look))
            if source in ready:
                self._attend()
            elif ready or self._is_outdated() or not self._worker.is_quiet() or self._must_give_way():
                break
            elif self._client is not None and time.monotonic() > self._heard + _REQUEST_TIMEOUT:
                self._part()
        self._part()

    def _attend(self) -> None:
        """Takes a client, or hears one, who may ask for run after run."""
        self._heard = time.monotonic()
        if self._client is None:
            self._client, _ = self._post.listener.accept()
            if peer_of(self._client)[1] != os.getuid():
                self._part()
        elif not self._converse(self._client):
            self._part()
        elif self._needs_renewal():
            self._part()  # who waits for it runs cold meanwhile
            self._renew()

    def _part(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _converse(self, connection: socket.socket) -> bool:
        """Answers one message; False where nobody is there any more who could be answered."""
        try:
            connection.settimeout(_REQUEST_TIMEOUT)
            message = read_message(connection)
            if "check" in message:
                self._check(connection, message)
            elif message.get("order") != self._fingerprint:
                send_message(connection, {"no": "differs"})
            else:
                self._run(connection, message)
                self._settle()
        except (OSError, KeyError, TypeError, ValueError):  # it has gone, or is of another version
            return False
        return True

    def _check(self, connection: socket.socket, message: dict[str, Any]) -> None:
        fits = message["check"] == self._fingerprint or not self._lasting
        if not fits:
            self._stopping = True
            self._post.hide()  # before whoever asked starts another
        elif isinstance(message.get("idle"), (int, float)):
            self._idle = float(message["idle"])
            self.note()
        send_message(connection, {"fits": fits})

    def _run(self, connection: socket.socket, message: dict[str, Any]) -> None:
        assert self._worker is not None
        worker, before = self._worker, self._network.refusals if self._network is not None else ()
        limits = Limits(**message["limits"])
        method = worker.spec.manifest.methods[message["method"]]
        request = WarmRequest(
            run_id=message["run_id"],
            method=message["method"],
            arguments=message["arguments"],
            limits=limits,
            tool_context=message["tool_context"],
            watch_network=message["watch_network"],
        )
        self._post.touch()
        tell = Teller(connection)
        try:
            outcome = worker.run(
                request,
                lambda: let_go(connection),
                on_log=lambda line, level: tell({"log": [line, level]}),
                on_chunk=(lambda chunk: tell({"chunk": chunk})) if message["streamed"] else None,
                on_progress=lambda fraction, said: tell({"progress": [fraction, said]}),
                stops=(connection.fileno(), self._wake),
            )
        except NotBegunError as error:
            with contextlib.suppress(OSError):
                send_message(connection, {"no": str(error)})
            return
        outcome = with_file(outcome, method, worker.scratch, limits.result)
        refusals = []
        if self._network is not None:
            times = {one[:3]: one.times for one in before}
            refusals = [one._replace(times=one.times - times.get(one[:3], 0)) for one in self._network.refusals]
        tell({"outcome": outcome, "refusals": [one for one in refusals if one.times > 0]})

    def _settle(self) -> None:
        """After a run, or what was to become one: makes the worker as new."""
        worker = self._worker
        assert worker is not None
        self._runs += 1
        self._used = self._heard = time.monotonic()
        if worker.alive:
            worker.tidy()
        self._lost = 0 if worker.alive else self._lost + 1
        if worker.alive and self._runs & (self._runs - 1) == 0:  # after 1, 2, 4, 8 …
            self.note()

    def _needs_renewal(self) -> bool:
        """Whether the worker was ended with a run, or could have more loaded."""
        worker = self._worker
        return worker is not None and (not worker.alive or (bool(worker.modules) and self._restarts < _MOST_RESTARTS))

    def _renew(self) -> None:
        worker = self._worker
        assert worker is not None
        if self._stopping or self._lost > _MOST_RESTARTS:
            return
        if not worker.alive:
            self._restart()
        else:
            self._restarts += 1
            self._restart(worker.modules)
        self.note()

    def _restart(self, more: tuple[str, ...] = ()) -> None:
        """Loads the agent anew, and what its runs were seen to load. Meanwhile they are cold."""
        before = self._modules
        with self._post.away():
            self.unload()
            self._modules += more
            try:
                self.load()
            except NotLoadedError:
                if not more:
                    raise
                self._modules, self._restarts = before, _MOST_RESTARTS
                self.load()

    def _is_outdated(self) -> bool:
        directory = self._order["directory"]
        moved = self._current and os.path.realpath(self._current) != directory
        return bool(moved) or not os.path.isdir(directory) or not self._post.is_ours()

    def _must_give_way(self) -> bool:
        """Whether memory is short, and no other worker of this user has been idle for longer."""
        self._post.touch(time.monotonic() - self._used)
        return _free_share() < self._upkeep.least_free and self._post.is_least_used()


def _sweeps(tiers: Tiers) -> str:
    """By what the worker may itself end all that it can reach: only where that is its own sandbox."""
    if tiers.best == BUBBLEWRAP:
        return NAMESPACE
    return DOMAIN if tiers.best == LANDLOCK and not tiers.gaps and os.geteuid() != 0 else ""


def _free_share() -> float:
    with open("/proc/meminfo", encoding="ascii") as file:
        known = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return known["MemAvailable"] / known["MemTotal"]


def _note_cold(order: dict[str, Any], reason: str | None) -> None:
    """Remembers that this version cannot be kept loaded: `info` says so, and nobody tries again by itself."""
    path = os.path.join(order["place"], COLD)
    with contextlib.suppress(OSError):
        if reason is None:
            os.unlink(path)
            return
        os.makedirs(order["place"], mode=0o700, exist_ok=True)
        known = {name: order["order"][name] for name in ("directory", "content")}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**known, "reason": reason}, file)


def main() -> None:
    """One worker's life."""
    order = json.load(sys.stdin)
    try:
        with (
            Post(order["place"], order["number"], wait=order["wait"]) as post,
            scratch_directory(os.urandom(6).hex()) as base,
        ):
            _keep(Keeper(order, post, base), post, order)
    except AgentRuntimeError as error:
        if isinstance(error, NotLoadedError):
            _note_cold(order, error.message)
        _say(
            {
                "error": error.message,
                "unsafe": isinstance(error, NotLoadedError),
                "there": isinstance(error, ThereAlreadyError),
                "details": list(error.details),
            }
        )


def _keep(keeper: Keeper, post: Post, order: dict[str, Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, keeper.stop)
    try:
        keeper.load()
        gc.collect()
        gc.freeze()  # a run need not wait until all that was imported has been looked through for garbage
        keeper.note()
        post.open()
        _note_cold(order, None)
        _say({"ready": True})
        keeper.serve()
    finally:
        keeper.unload()


def _say(answer: dict[str, Any]) -> None:
    """Tells whoever waits for the start, and then nobody."""
    with contextlib.suppress(OSError, ValueError):
        print(json.dumps(answer), flush=True)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
