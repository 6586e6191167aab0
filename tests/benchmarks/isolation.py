"""The rows of docs/reference/isolation.md: what each tier adds to a start, what a memory cap lets through, a proxy."""

from __future__ import annotations

import http.client
import http.server
import os
import statistics
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, cast

from agenthub.runtime.processes.cgroups import cgroup_can_be_made, make_cgroup
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.lines import Log
from agenthub.runtime.processes.protocol import ScriptExchange
from agenthub.runtime.processes.supervisor import Launch, supervise
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.declared_network import DeclaredNetwork
from agenthub.runtime.sandbox.policy import BUBBLEWRAP, LANDLOCK, RLIMITS, Network, SandboxPolicy
from agenthub.runtime.sandbox.proxy import AllowListProxy
from agenthub.runtime.sandbox.tiers import available_tiers
from tests.benchmarks.measure import Row, Sample, command, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.runtime.processes.cgroups import Cgroup
    from agenthub.runtime.processes.supervisor import Completion

MB = 1024 * 1024
CAP = 256 * MB
STARTS = 101
_TOUCH = "import mmap; m = mmap.mmap(-1, 1 << 30)\nfor at in range(0, 1 << 30, 4096): m[at] = 1"
_REQUESTS = 300


def isolation_rows() -> list[Row]:
    tiers = available_tiers()
    with tempfile.TemporaryDirectory() as work:
        rows = [added_start(work, BUBBLEWRAP, 6.0)] if tiers.best == BUBBLEWRAP else []
        if tiers.abi:
            rows.append(added_start(work, LANDLOCK, 2.0))
        if tiers.best == BUBBLEWRAP:
            rows.append(hosts_start(work))
        rows += overshoot(work)
    return [*rows, proxy_request()]


class _Measured:
    """A cgroup that notes its peak, as the kernel counted it, before it is removed."""

    def __init__(self, cgroup: Cgroup, peaks: list[int]) -> None:
        self._cgroup = cgroup
        self._peaks = peaks

    def __getattr__(self, name: str) -> object:
        return getattr(self._cgroup, name)

    def remove(self) -> None:
        for door in self._cgroup.doors:
            for name in ("memory.max_usage_in_bytes", "memory.peak"):
                path = os.path.join(os.path.dirname(door), name)
                if os.path.exists(path):
                    with open(path) as file:
                        self._peaks.append(int(file.read()))
        self._cgroup.remove()


def run(
    work: str,
    code: str,
    tier: str,
    network: Network,
    *,
    factory: Callable[[int | None, int | None], Cgroup | None] = make_cgroup,
    memory: int | None = None,
) -> Completion:
    """`python -I -c code` under a supervisor, held by a tier."""
    tiers = available_tiers()._replace(best=tier)
    policy = SandboxPolicy("off" if tier == RLIMITS else "auto", work, work, network=network)
    launch = Launch(
        argv=(sys.executable, "-I", "-c", code), env={"PATH": os.environ["PATH"]}, cwd=work, run_id=os.urandom(8).hex()
    )
    log = Log()
    limits = Limits(timeout=60, memory=memory)
    exchange = ScriptExchange("go", {}, log, MB)
    if network.kind == "hosts":
        with DeclaredNetwork(network.hosts, tier) as door:
            return supervise(launch, exchange, limits, log, confinement=confine(policy, tiers, door))
    return supervise(launch, exchange, limits, log, confinement=confine(policy, tiers), cgroup_factory=factory)


def _timed(start: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        begun = time.perf_counter()
        start()
        return time.perf_counter() - begun

    return measure


def added_start(work: str, tier: str, target: float) -> Row:
    """Medians of whole runs of nothing, held and not held, in turns; beside them a bare interpreter."""
    nothing = Network("none")
    mine, theirs = in_turns(
        _timed(lambda: run(work, "pass", tier, nothing)), _timed(lambda: run(work, "pass", RLIMITS, nothing)), STARTS
    )
    bare = Sample([command([sys.executable, "-I", "-c", "pass"], dict(os.environ))() for _ in range(STARTS)])
    added = (mine.median - theirs.median) * 1e3
    name = (
        f"{tier} adds to a start ({added:.1f} ms, {mine.median / bare.median:.2f} x python -I -c pass) / {target:g} ms"
    )
    return Row(name, f"{mine} ms", f"{theirs} ms", added / target, 1)


def hosts_start(work: str) -> Row:
    """With a proxy for declared hosts, which has no target of its own: what it costs is to be known."""
    hosts = Network("hosts", ("api.example.com",))
    mine, theirs = in_turns(
        _timed(lambda: run(work, "pass", BUBBLEWRAP, hosts)),
        _timed(lambda: run(work, "pass", BUBBLEWRAP, Network("none"))),
        31,
    )
    added = (mine.median - theirs.median) * 1e3
    return Row(f"declared hosts add to a start ({added:.1f} ms) / 20 ms", f"{mine} ms", f"{theirs} ms", added / 20, 1)


def overshoot(work: str) -> list[Row]:
    """How far over 256 MiB the fastest allocator comes before it is killed."""

    def peaks(*, cgroup: bool) -> list[int]:
        found: list[int] = []

        def measured(memory: int | None, processes: int | None) -> Cgroup | None:
            made = make_cgroup(memory, processes) if cgroup else None
            return made and cast("Cgroup", _Measured(made, found))

        for _ in range(11):
            done = run(work, _TOUCH, RLIMITS, Network("none"), factory=measured, memory=CAP)
            assert done.reason == "memory", done
            if not cgroup:
                found.append(done.peak_memory)
        return found

    over = [max(0.0, (peak - CAP) / MB) for peak in peaks(cgroup=False)]
    median, worst = statistics.median(over), max(over)
    rows = [
        Row("overshoot of a 256 MiB cap, by polling, median / 20 MiB", f"{median:.0f} MiB", "20 MiB", median / 20, 1),
        Row("the same, worst of 11 / 64 MiB", f"{worst:.0f} MiB", "64 MiB", worst / 64, 1),
    ]
    if cgroup_can_be_made():
        worst = max(peaks(cgroup=True)) / MB
        rows.append(Row("its peak with a cgroup, worst of 11 / 256 MiB", f"{worst:.0f} MiB", "256 MiB", worst / 256, 1))
    return rows


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


def proxy_request() -> Row:
    """A request over a connection that is open already, as a client library sends them."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = "127.0.0.1", server.server_port
        with _listening_proxy(f"{host}:{port}") as door:
            direct = http.client.HTTPConnection(host, port)
            through = http.client.HTTPConnection("127.0.0.1", door.port)

            def ask(client: http.client.HTTPConnection, target: str) -> Callable[[], float]:
                def measure() -> float:
                    begun = time.perf_counter()
                    client.request("GET", target, headers={"Host": f"{host}:{port}"})
                    assert client.getresponse().read() == b"ok"
                    return time.perf_counter() - begun

                return measure

            mine, theirs = in_turns(ask(through, f"http://{host}:{port}/"), ask(direct, "/"), _REQUESTS)
            direct.close()
            through.close()
        server.shutdown()
    added = (mine.median - theirs.median) * 1e3
    return Row(f"the proxy adds to a request ({added:.2f} ms) / 1 ms", f"{mine} ms", f"{theirs} ms", added, 1)


class _listening_proxy:  # noqa: N801 - a context, used as a function
    def __init__(self, *hosts: str) -> None:
        self._proxy = AllowListProxy(hosts)

    def __enter__(self) -> _listening_proxy:
        import socket

        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self._proxy.start()
        self._proxy.serve(listener)
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.close()
