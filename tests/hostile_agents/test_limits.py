"""Agents that take more than they may: the error names the limit, and nothing is left of what they took."""

from __future__ import annotations

import pytest

from tests.hostile_agents.harness import RLIMITS, Attack, each, outcome
from tests.hostile_agents.selection import daily

MB = 1 << 20
KILLED = {  # by method: the error, and the limit's own words
    "memory_by_touching": ("MemoryLimitError", "128 MB memory cap"),
    "memory_by_forking": ("MemoryLimitError", "128 MB memory cap"),
    "memory_shared_without_a_name": ("MemoryLimitError", "128 MB memory cap"),
    "cpu_in_many_processes": ("CpuLimitError", "2 s of CPU time"),
    "cpu_in_orphans": ("CpuLimitError", "2 s of CPU time"),
    "open_files": ("OpenFilesLimitError", "64 open files"),
    "large_file": ("FileSizeLimitError", "4 MB"),
    "disk_by_small_files": ("DiskLimitError", "4 MB"),
    "disk_by_empty_files": ("DiskLimitError", "4 MB"),
    "disk_by_directories": ("DiskLimitError", "4 MB"),
    "disk_by_filled_holes": ("DiskLimitError", "4 MB"),
    "disk_by_deleted_files": ("DiskLimitError", "4 MB"),
    "output_by_print": ("OutputLimitError", "1 MB"),
    "output_by_stderr": ("OutputLimitError", "1 MB"),
    "output_by_log": ("OutputLimitError", "1 MB"),
    "output_by_chunks": ("OutputLimitError", "1 MB"),
    "output_by_children": ("OutputLimitError", "1 MB"),
    "result_too_large": ("OutputLimitError", "1 MB"),
    "deadline_ignored": ("TimeoutError", "0.3 s"),
    "deadline_while_stopped": ("TimeoutError", "0.3 s"),
    "deadline_in_children": ("TimeoutError", "0.3 s"),
}
DAILY = (
    "memory_by_touching",
    "memory_by_forking",
    "cpu_in_orphans",
    "open_files",
    "disk_by_filled_holes",
    "output_by_chunks",
    "result_too_large",
    "deadline_while_stopped",
)
CODES = {"MemoryLimitError": 137, "TimeoutError": 124}
# What is refused, or killed where the machine can count it. Without a sandbox much of it is out of sight.
REFUSED = (
    Attack("memory_in_anonymous_files", "ENOSYS MemoryLimitError", "ENOSYS MemoryLimitError", "done MemoryLimitError"),
    Attack("memory_in_shm", "ENOSPC MemoryLimitError", "EACCES", "done ENOSPC MemoryLimitError"),
    Attack("memory_in_tmp", "ENOSPC MemoryLimitError", "EACCES", "done ENOSPC"),
    Attack("processes", "EAGAIN ProcessLimitError", "EAGAIN ProcessLimitError", "EAGAIN ProcessLimitError"),
    Attack("threads", "EAGAIN ProcessLimitError", "EAGAIN ProcessLimitError", "EAGAIN ProcessLimitError"),
    Attack("open_files_without_error", "EMFILE", "EMFILE", "EMFILE"),
    Attack("open_files_in_flight", "EMFILE ETOOMANYREFS", "EMFILE ETOOMANYREFS", "", daily=True),
    Attack("large_file_without_error", "EFBIG", "EFBIG", "EFBIG"),
    Attack("large_file_by_allocation", "EFBIG", "EFBIG", "EFBIG"),
)
HONEST = ["memory_that_is_cache", "disk_by_holes"]


@pytest.mark.parametrize("method", daily(KILLED, DAILY))
def test_whoever_takes_too_much_is_killed_and_told_why(host, method):
    error_type, words = KILLED[method]
    envelope = host.run("limits", method)
    if outcome(envelope) == "EAGAIN" and host.user != "root":  # its cap counts the user's tasks, of other tests as well
        envelope = host.run("limits", method)
    assert outcome(envelope) == error_type, envelope
    assert envelope["exit_code"] == CODES.get(error_type, 1)
    assert words in envelope["error"], envelope
    assert "hostile-limits" in envelope["error"]
    assert envelope["suggestion"]
    assert host.survivors() == []


@each(REFUSED)
def test_what_is_over_a_cap_is_refused(host, attack):
    host.attack("limits", attack)


@pytest.mark.parametrize("method", HONEST)
def test_what_only_looks_like_too_much_is_allowed(host, method):
    assert outcome(host.run("limits", method)) == "done"


@pytest.mark.slow
def test_a_fast_allocation_overshoots_little(host):
    peak = host.run("limits", "memory_by_touching")["usage"]["peak_memory"]
    assert 128 * MB <= peak < (128 + 128) * MB


@pytest.mark.slow
def test_what_only_the_kernel_holds_counts_where_a_cgroup_counts(host):
    if outcome(host.run("limits", "memory_in_anonymous_files")) != "MemoryLimitError":
        pytest.skip("no cgroup here, and nobody else can count it")
    assert outcome(host.run("limits", "memory_in_sockets")) == "MemoryLimitError"


def test_processes_of_other_sessions_count_too(host):
    """Whether they were refused, which the agent does not notice, or the run was ended."""
    envelope = host.run("limits", "processes_in_sessions")
    assert outcome(envelope) in ("done", "EAGAIN", "ProcessLimitError")
    assert host.survivors() == []
    if outcome(envelope) != "ProcessLimitError":
        assert envelope["usage"]["processes"] <= 24


def test_a_result_has_a_limit_of_its_own(host):
    host.environment["AGENTHUB_RESULT"] = "64KB"
    envelope = host.run("limits", "result_too_large")
    assert envelope["error_type"] == "OutputLimitError"
    assert "64 kB" in envelope["error"].replace("KB", "kB")


@pytest.mark.slow
def test_limits_can_be_lowered_by_the_caller_and_not_by_the_agent(host):
    """A child that raises its own soft limits reaches the hard ones, which are the same."""
    envelope = host.run("limits", "deadline_ignored", None, "--timeout", "0.3")
    assert "0.3 s" in envelope["error"]
    assert host.tier == RLIMITS or host.survivors() == []


ABSURD = {
    "memory": 10**30,
    "cpu": "1e300",
    "processes": 10**25,
    "open_files": 10**25,
    "file_size": 10**25,
    "disk": 10**30,
    "output": 10**30,
    "timeout": "1e308",
}


@pytest.mark.parametrize("name", daily(ABSURD, ("memory",)))
def test_what_is_too_large_to_be_a_limit_is_none(host, name):
    """Neither a bug of the runner's, nor a figure that turns small because it is too large."""
    place = host.world.directory(f"work/absurd-{name}")
    methods = "interface: {methods: {rest: {description: rests}}}"
    manifest = f"name: absurd\nversion: '1.0.0'\ndescription: absurd\nauthor: agenthub\nentrypoint: agent\n{methods}\n"
    host.world.write(
        f"work/absurd-{name}/agent.yaml", f"{manifest}permissions: {{}}\nlimits: {{{name}: {ABSURD[name]}}}\n"
    )
    host.world.write(f"work/absurd-{name}/agent.py", "def rest(): return sum(range(1000000))\n")
    finished = host.invoke("run", "--json", "--yes", place, "rest")
    host.forgive()  # the consent is kept
    assert finished.code == 0, finished
    assert finished.json["result"] == 499999500000
