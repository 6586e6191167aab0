"""Agents that look for what is open, and for ways out by descriptors."""

from __future__ import annotations

import json
import os

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, RLIMITS, Attack, each, outcome

OUT = "ENOENT EACCES"
ATTACKS = (
    Attack("read_inherited", "EBADF", "EBADF", "EBADF", daily=True),
    Attack("read_standard_input", "ENODATA", "ENODATA", "ENODATA"),
    Attack("leave_by_working_directory", OUT, OUT),
    Attack("leave_by_root", OUT, OUT),
    Attack("leave_by_process_root", f"{OUT} EPERM", f"{OUT} EPERM", daily=True),
    Attack("leave_by_runner", f"{OUT} EPERM", f"{OUT} EPERM", "done EACCES", daily=True),
    Attack("leave_by_own_links", OUT, OUT),
    Attack("leave_by_openat2", f"{OUT} ENOSYS", f"{OUT} ENOSYS"),
    Attack("leave_by_path_descriptor", OUT, OUT),
    Attack("leave_by_moving", OUT, OUT),
    Attack("leave_by_mapping", f"{OUT} EPERM ETXTBSY EROFS", f"{OUT} EPERM", ""),
    Attack("leave_by_handle", "EPERM", "EPERM", "", root=True),
    Attack("reopen_runner_pipe", f"{OUT} EPERM", f"{OUT} EPERM", ""),
    Attack("send_to_listener", "ENOENT EAFNOSUPPORT", "EAFNOSUPPORT EACCES"),
    Attack("send_among_own", "done", "done"),
    Attack("anonymous_program", "ENOSYS done", "ENOSYS done"),
)


@each(ATTACKS)
def test_no_descriptor_is_a_way_out(host, attack):
    """With a secret in a descriptor of the command's that its children would inherit, and one in its input."""
    path = os.path.join(host.home, "notes.txt")
    kept = os.open(path, os.O_RDONLY)
    try:
        words = ("run", "--json", host.install("descriptors"), attack.method, json.dumps({"facts": host.facts}))
        finished = host.invoke(*words, pass_fds=(kept,), input=b"secret-of-the-input\n")
    finally:
        os.close(kept)
    if host.tier == RLIMITS:
        host.forgive()
    expected = attack.expected(host)
    assert not expected or outcome(finished.json) in expected, finished.json
    if host.tier != RLIMITS:
        assert "secret" not in finished.out


@pytest.mark.slow
def test_what_is_open_is_the_runs_own(host):
    kept = os.open(os.path.join(host.home, "notes.txt"), os.O_RDONLY)
    try:
        envelope = host.run("descriptors", "list_open", None, pass_fds=(kept,))
    finally:
        os.close(kept)
    found = envelope["result"]["got"]
    assert [kind for number, kind in found if number < 3] == ["/dev/null", "pipe", "pipe"]
    assert sorted(kind for number, kind in found if number >= 3) == ["pipe", "pipe"], found


def test_children_have_three(host):
    assert host.run("descriptors", "list_open_in_child")["result"]["got"] == 3


def test_runs_cannot_meet(host):
    sent = outcome(host.run("descriptors", "send_to_later_run"))
    assert sent == ("done" if host.tier in (BUBBLEWRAP, RLIMITS) else "EAFNOSUPPORT")
    assert outcome(host.run("descriptors", "receive_in_later_run")) in ("ECONNREFUSED", "EAFNOSUPPORT")
