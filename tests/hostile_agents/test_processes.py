"""Agents that reach for other processes, or want to outlive their run."""

from __future__ import annotations

import time

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, LANDLOCK, RLIMITS, Attack, each, outcome
from tests.hostile_agents.selection import daily

# A process that does not exist here, and one that may not be touched.
GONE, OTHER = "ESRCH ENOENT", "EPERM EACCES"
ATTACKS = (
    Attack("signal_the_canary", GONE, OTHER, daily=True),
    Attack("stop_the_canary", GONE, OTHER),
    Attack("signal_the_runner", GONE, OTHER),
    Attack("signal_by_child", GONE, OTHER),
    Attack("signal_by_handle", GONE, OTHER),
    Attack("signal_by_owner", GONE, OTHER, "ESRCH done"),
    Attack("signal_by_timer", "EINVAL", "EINVAL", "EINVAL"),
    Attack("trace", "EPERM", "EPERM", daily=True),
    Attack("seize", "EPERM", "EPERM"),
    Attack("read_memory", "EPERM", "EPERM"),
    Attack("write_memory", "EPERM", "EPERM"),
    Attack("read_memory_file", GONE, OTHER),
    Attack("read_environment", GONE, OTHER, daily=True),
    Attack("take_descriptor", f"{GONE} EPERM", OTHER, daily=True),
    Attack("compare", "EPERM", "EPERM"),
    Attack("advise", f"{GONE} EPERM", OTHER, ""),
    Attack("lower_limits", GONE, OTHER),
    Attack("renice", GONE, OTHER),
    Attack("renice_everyone", GONE, OTHER),
    Attack("pin", GONE, OTHER),
    Attack("reschedule", GONE, OTHER),
    Attack("ioprio", GONE, OTHER),
    Attack("make_victim_of_memory", GONE, OTHER),
    Attack("move_pages", "EPERM", "EPERM", ""),
    Attack("user_namespace", "EPERM", "EPERM", "done ENOSPC EPERM", daily=True),
    Attack("user_namespace_by_clone", "EPERM", "EPERM", "done ENOSPC EPERM"),
    Attack("every_namespace", "EPERM", "EPERM", "done ENOSPC EPERM"),
    Attack("join_namespace", "EPERM", "EPERM", "EINVAL EPERM"),
    Attack("clone3", "ENOSYS", "ENOSYS", "done ENOSPC EPERM"),
    Attack("key_ring", "EPERM", "EPERM", ""),
    Attack("perf", "EPERM", "EPERM", ""),
    Attack("bpf", "EPERM", "EPERM", "", root=True),
    Attack("userfaultfd", "ENOSYS", "ENOSYS", ""),
    Attack("io_uring", "ENOSYS", "ENOSYS", ""),
    Attack("listen_to_others", "EAFNOSUPPORT", "EAFNOSUPPORT", "", root=True),
    Attack("personality", "EPERM", "EPERM"),
    Attack("leave_filter", "EPERM", "EPERM", "done ENOSPC EPERM"),
)
LEAVING = [
    "chase",
    "leave_daemon",
    "leave_hidden_daemon",
    "leave_sibling",
    "leave_stopped",
    "leave_vforked",
    "leave_job",
    "leave_subreaper",
    "leave_unkillable_handlers",
]


@pytest.fixture
def told(host):
    """The host, whose agents know who runs them, where they cannot see it."""
    host.facts["confined"] = host.tier != RLIMITS
    host.facts["runner"] = host.facts["tests"] if host.tier == BUBBLEWRAP else 0
    return host


def sure(host):
    """Whether no process can outlive its run here: by namespaces, by Landlock's domain, or by a cgroup."""
    return host.tier == BUBBLEWRAP or (host.tier == LANDLOCK and host.user == "ordinary")


@each(ATTACKS)
def test_other_processes_are_out_of_reach(told, attack):
    told.attack("processes", attack)


@pytest.mark.parametrize("method", daily(LEAVING, ("chase", "leave_hidden_daemon")))
def test_nothing_outlives_its_run(told, method):
    envelope = told.run("processes", method)
    assert outcome(envelope) == "done", envelope
    assert envelope["usage"]["wall"] < 8, "nobody waited for it"
    if method != "chase" or sure(told):
        assert told.survivors() == []
    else:
        told.forgive()


def test_nothing_outlives_a_killed_run(told):
    envelope = told.run("processes", "chase_for_ever", None, "--timeout", "0.3")
    assert outcome(envelope) == "TimeoutError"
    if sure(told):
        assert told.survivors() == []
    else:
        told.forgive()


def test_whoever_stops_those_between_gains_nothing(told):
    """Inside of bubblewrap the parent is the namespace's first process, which takes no signal from inside."""
    told.environment["AGENTHUB_GRACE"] = "0.5"
    envelope = told.run("processes", "stop_the_gate")
    assert outcome(envelope) in {BUBBLEWRAP: ("done", "EPERM"), LANDLOCK: ("EPERM",), RLIMITS: ("EPERM",)}[told.tier]
    assert envelope["usage"]["wall"] < 5


def test_a_killed_runner_takes_its_run_with_it_or_the_next_one_does(told):
    name = told.install("processes")
    running = told.start("run", name, "linger", '{"facts": {"marker": "x"}}')
    seen = b""
    while b"lingering" not in seen:
        line = running.stderr.readline()
        assert line, seen
        seen += line
    running.kill()
    running.wait()
    if told.tier == BUBBLEWRAP:  # nothing waits for a next command
        assert told.survivors() == []
    else:
        assert told._adopted() != []
    began = time.monotonic()
    assert outcome(told.run("processes", "rest")) == "done"
    assert time.monotonic() - began < 10
    assert told.survivors() == []
    assert told.world.leftovers() == []
