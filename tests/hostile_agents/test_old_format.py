"""Agents of the old format, which declare nothing: any network and any program, and still nobody's home."""

from __future__ import annotations

import socket

import pytest

from tests.hostile_agents.harness import RLIMITS, Attack, each, outcome

STOPPED = "stopped"
ATTACKS = (
    Attack("cat_key", STOPPED, STOPPED, daily=True),
    Attack("search_by_find", STOPPED, STOPPED),
    Attack("cat_neighbour", STOPPED, STOPPED, daily=True),
    Attack("cat_store", STOPPED, STOPPED),
    Attack("edit_profile", STOPPED, STOPPED, daily=True),
    Attack("edit_own_code", STOPPED, STOPPED, daily=True),
    Attack("make_timer", STOPPED, STOPPED),
    Attack("signal_canary", STOPPED, STOPPED, daily=True),
    Attack("talk_to_docker", STOPPED, STOPPED, daily=True),
    Attack("use_sudo", STOPPED, STOPPED, free=""),
    Attack("use_set_uid_program", STOPPED, STOPPED, free=""),
    Attack("use_debugger", STOPPED, STOPPED, free=""),
    Attack("nested_sandbox", STOPPED, STOPPED, free=""),
)


@each(ATTACKS)
def test_home_keys_and_others_are_protected(host, attack):
    envelope = host.attack("old_format", attack)
    assert host.tier == RLIMITS or "kept-secret-" not in str(envelope)


def test_a_default_that_is_called_a_path_is_no_grant(host):
    """A path that the user gives is granted, also as text; one that the manifest's author chose is not."""
    assert host.tier == RLIMITS or outcome(host.run("old_format", "read_path_by_name", {})) == "stopped"
    given = {"path": f"{host.home}/notes.txt"}
    assert host.run("old_format", "read_path_by_name", given)["result"].get("got") == "kept-secret-notes\n"


@pytest.mark.slow
def test_honest_work_goes_on(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        host.facts["open"] = server.getsockname()[1]
        got = host.run("old_format", "honest")["result"]
    assert got == {"outcome": "done", "got": "installed programs run\n"}
