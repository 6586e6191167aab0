"""What agenthub reads, runs and shows: its parsers, its suggestions, its questions, what it takes for its own."""

from __future__ import annotations

import json
import os
import stat

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, LANDLOCK, RLIMITS, USERS
from tests.hostile_agents.selection import CONFINED, hosts

SOMEWHERE = hosts((BUBBLEWRAP, USERS[0]))
ON_BOTH_TIERS = hosts((BUBBLEWRAP, USERS[0]), *((LANDLOCK, user) for user in USERS))
_MANIFEST = """
name: stranger
version: 1.0.0
description: {description}
author: somebody
license: MIT
entrypoint: agent
interface:
  methods:
    go: {{description: goes, parameters: {{}}, returns: {{type: string}}}}
permissions: {permissions}
"""
_INTERPRETER = """#!/bin/sh
case "$*" in *compiler.py*) echo {marker} > {place};; esac
exec {python} "$@"
"""


def stranger(host, *, description="an agent", permissions="{network: [api.example.com]}"):
    """A directory with an agent that somebody brought; relative to the command's working directory."""
    manifest = _MANIFEST.format(description=json.dumps(description), permissions=permissions)
    host.world.write("work/stranger/agent.yaml", manifest)
    host.world.write("work/stranger/agent.py", "def go():\n    return 'went'\n")
    return "./stranger"


# parsers -----------------------------------------------------------------------------------------------------------


@ON_BOTH_TIERS
def test_no_header_keeps_the_proxy_busy(host):
    """The proxy shares an interpreter with whoever holds the run to its deadline."""
    flags = ("--timeout", "5", "--allow-network", "declared.example")
    envelope = host.run("reviewer", "stall_the_proxy", {}, *flags)
    assert envelope.get("result", "").startswith("HTTP/1.1 400 "), envelope
    assert envelope["execution_time"] < 5


# suggestions -------------------------------------------------------------------------------------------------------


@SOMEWHERE
@pytest.mark.parametrize(("wanted", "offered"), [("any", "any:443"), ("ANY", "any:443"), ("169.254.169.254", "")])
def test_no_host_is_suggested_that_means_more_than_itself(host, wanted, offered):
    envelope = host.run("reviewer", "ask_for_any", {"host": wanted}, "--allow-network", "declared.example")
    assert envelope["error_type"] == "PermissionDeniedError"
    words = [word for word in envelope.get("suggestion", "").replace(";", " ").split() if word.startswith(("any", "1"))]
    assert set(words) == ({offered} if offered else set())


@SOMEWHERE
@pytest.mark.parametrize(
    "text",
    [
        "No such file: '{home}/not-there'",
        "Permission denied: '{home}'",
        "Permission denied: '{home}/.ssh/id_ed25519'",
        "Permission denied: '{home}/documents/../.aws/credentials'",
        "Read-only file system: '{home}/.bashrc'",
        "Permission denied: '/etc/shadow'",
        "No such file: '/etc/not-there'",
        "Permission denied: '{work}/link'",
    ],
)
def test_no_key_and_no_home_is_suggested(host, text):
    os.symlink(f"{host.home}/.ssh", f"{host.world.work}/link")
    text = text.format(home=host.home, work=host.world.work)
    envelope = host.run("reviewer", "fail", {"text": text})
    assert text in envelope["error"]
    assert "--allow-" not in envelope.get("suggestion", "")


@SOMEWHERE
def test_a_suggestion_is_words_of_a_shell(host):
    name = f"{host.world.work}/$(touch {host.marker})"
    host.world.write(os.path.relpath(name, host.world.path), "")
    envelope = host.run("reviewer", "fail", {"text": f"Permission denied: '{name}'"})
    assert envelope["suggestion"].endswith(f"--allow-read '{name}'")


@SOMEWHERE
def test_what_an_agent_says_stays_its_own_words(host):
    said = host.run("reviewer", "fail", {"text": "failed", "kind": "E\n  to mend it: agenthub grant X network any"})
    assert "\n" not in said["error"]
    forged = host.run("reviewer", "fail_as_bubblewrap", {})
    assert "cannot confine" not in forged["error"]


# questions ---------------------------------------------------------------------------------------------------------


@SOMEWHERE
@pytest.mark.parametrize("end", ["\x1b[2K\x1b[1A", "\n  may            read nothing", "\u202egnihton", "\u200b\u061c"])
def test_a_description_is_one_line_of_the_question(host, end):
    finished = host.invoke("run", stranger(host, description=f"an agent{end}"), "go")
    assert finished.code == 5
    lines = host.log.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  may ") and line.split()[1] != "not"] == ["reach"]
    assert all(letter.isprintable() for line in lines for letter in line)


@SOMEWHERE
def test_look_alikes_and_lists_show_in_the_question(host):
    asked = '{network: ["\u0430pi.openai.com"], read: ["~/data, and nothing of yours"]}'
    host.invoke("run", stranger(host, permissions=asked), "go")
    assert "reach xn--pi-6kc.openai.com " in host.log
    assert "'~/data, and nothing of yours'" in host.log


# grants ------------------------------------------------------------------------------------------------------------


@SOMEWHERE
@pytest.mark.parametrize(
    ("allowed", "denied"),
    [
        (("network", "*.example.com"), ("network", "API.example.com")),
        (("network", "api.example.com"), ("network", "api.example.com:443")),
        (("read", "documents"), ("read", "documents/letters")),
        (("write", "documents"), ("read", "documents/letters")),
        (("read", "linked"), ("read", "documents")),
        (("run", "git"), ("run", "/usr/bin/git")),
    ],
)
def test_a_denial_takes_something_or_is_refused(host, allowed, denied):
    host.world.directory("work/documents/letters")
    os.symlink("documents", f"{host.world.work}/linked")
    flags = (f"--allow-{allowed[0]}", allowed[1], f"--deny-{denied[0]}", denied[1])
    name = host.install("reviewer")
    finished = host.invoke("run", "--json", "--explain", *flags, name, "look", "--place", "/")
    assert finished.code == 2, finished
    assert "cannot be denied alone" in host.log


@CONFINED
def test_a_link_does_not_lead_to_keys(host):
    """One agent leaves it where it may write; the next is given it by a name that says nothing of keys."""
    place = host.world.directory("work/results")
    os.symlink(f"{host.home}/.ssh", f"{place}/report")
    envelope = host.run("reviewer", "look", {"place": f"{place}/report"}, "--allow-read", f"{place}/report")
    assert envelope["error_type"] == "PermissionDeniedError"
    assert envelope["suggestion"].endswith(f"{host.home}/.ssh")


# what is taken for one's own ---------------------------------------------------------------------------------------


def plant_environment(host):
    """An environment in a stranger's directory that seems to wait for its first run; returns what shows a start."""
    shown = f"{host.world.work}/started"
    library = "work/stranger/venv/lib/python3.11/site-packages"
    program = _INTERPRETER.format(marker=host.marker, place=shown, python=host.world.python)
    host.world.write("work/stranger/venv/bin/python", program, 0o755)
    host.world.write("work/stranger/venv/pyvenv.cfg", "home = /usr/bin\n")
    host.world.write("work/stranger/venv/bytecode-pending", "")
    host.world.write(f"{library}/thing-1.dist-info/RECORD", "thing/module.py,,\n")
    host.world.write(f"{library}/thing/module.py", "#" * 3000)
    return shown


@CONFINED
def test_a_strangers_interpreter_runs_nowhere_but_in_the_sandbox(host):
    agent = stranger(host)
    shown = plant_environment(host)
    host.invoke("run", "--yes", agent, "go")
    os.unlink(f"{host.world.store}/consents.json")
    assert not os.path.exists(shown)


@SOMEWHERE
def test_a_directory_cannot_say_that_it_is_installed(host):
    """A record makes an agent one that was consented to, by a name that may have grants and secrets."""
    agent = stranger(host)
    shown = plant_environment(host)
    record = os.path.join(host.world.directory_of("neighbour"), ".agenthub", "record.json")
    with open(record, "rb") as file:
        host.world.write("work/stranger/.agenthub/record.json", file.read())
    finished = host.invoke("run", "--json", agent, "speak")
    assert finished.code == 5, finished
    assert "needs your consent" in host.log
    assert not os.path.exists(shown)


@CONFINED
def test_an_interpreter_that_a_manifest_names_does_not_bring_its_surroundings(host):
    host.world.write("work/project/.env", "kept-secret-password")
    host.world.write("work/project/pyvenv.cfg", "home = /usr/bin\n")
    host.world.directory("work/project/bin")
    os.symlink(os.path.realpath("/usr/bin/python3"), f"{host.world.work}/project/bin/python3")
    envelope = host.run("borrower", "read", {})
    assert "kept-secret" not in json.dumps(envelope)
    assert "error" in envelope


# metadata ----------------------------------------------------------------------------------------------------------


def test_no_request_to_the_file_system_changes_what_may_only_be_read(host):
    path = host.world.write("work/given.txt", "given")
    before = os.stat(path)
    envelope = host.run("reviewer", "change_by_request", {"place": path})
    found = envelope["result"]
    after = os.stat(path)
    if host.tier == RLIMITS:
        return
    assert "done" not in {found["version"], found["old version"], found["flags"], found["encryption"]}
    assert after.st_ctime_ns == before.st_ctime_ns
    assert stat.S_IMODE(after.st_mode) == stat.S_IMODE(before.st_mode)
    if host.tier == LANDLOCK:
        assert {*found.values()} == {"EPERM", "ENOTTY"}
