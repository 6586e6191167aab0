"""The attacks of other areas by runs of a loaded agent: what forks them gives them nothing that a cold run has not."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time

import pytest

from tests.hostile_agents import test_descriptors, test_environment, test_network, test_processes
from tests.hostile_agents.harness import BUBBLEWRAP, LANDLOCK, RLIMITS, outcome

AREAS = {
    "processes": test_processes.ATTACKS,
    "descriptors": test_descriptors.ATTACKS,
    "environment": test_environment.ATTACKS,
    "network": test_network.OFF,
}
LEAVING = ("leave_daemon", "leave_hidden_daemon", "leave_sibling", "leave_stopped", "leave_vforked", "leave_job")
_ENDING = 10.0


@pytest.fixture
def kept(host):
    """Loads an area's agent; ended after the test."""
    host.facts["confined"] = host.tier != RLIMITS

    def load(area):
        done = host.invoke("warm", host.install(area), "--idle", "2min", "--yes")
        assert done.code == 0, done.err
        host.facts["runner"] = workers(host)[0]["pid"]  # its parent is the worker, which is its own to harm

    yield load
    for worker in workers(host):
        os.kill(worker["pid"], signal.SIGTERM)
        deadline = time.monotonic() + _ENDING
        while os.path.exists(f"/proc/{worker['pid']}/exe") and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker["pid"], os.WNOHANG)
            time.sleep(0.01)
    assert workers(host) == []
    shutil.rmtree(os.path.join(host.world.store, "workers"), ignore_errors=True)


def workers(host):
    return host.invoke("ps", "--json").json["workers"]


@pytest.mark.parametrize("area", AREAS)
def test_a_loaded_agent_reaches_nothing_more(host, kept, area, request):
    if host.tier == RLIMITS:
        pytest.skip("nothing is promised without a sandbox")
    quick = "not slow" in request.config.getoption("-m")
    kept(area)
    first = workers(host)[0]
    for attack in AREAS[area]:
        if quick and not attack.daily:
            continue
        envelope = host.run(area, attack.method)
        # Where one run follows another some calls are refused that are harmless in a sandbox of one run.
        allowed = {*attack.expected(host), *attack.landlock.split(), "EPERM", "EOPNOTSUPP"}
        assert outcome(envelope) in allowed, (attack.method, envelope)
    last = workers(host)[0]
    assert last["pid"] == first["pid"]
    assert last["runs"] > 0, "it served them"


@pytest.mark.parametrize("method", ["chase", *(pytest.param(name, marks=pytest.mark.slow) for name in LEAVING)])
def test_nothing_outlives_its_run(host, kept, method):
    kept("processes")
    envelope = host.run("processes", method)
    assert outcome(envelope) == "done", envelope
    if host.tier == BUBBLEWRAP or (host.tier == LANDLOCK and host.user == "ordinary") or method != "chase":
        again = host.run("processes", "rest")
        assert outcome(again) == "done"
    else:
        host.forgive()
