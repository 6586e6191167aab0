"""A tier taken away, or pretended: a run is refused or told of it, and never held by less than it is said to be."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, LANDLOCK, RLIMITS, outcome
from tests.hostile_agents.selection import daily

ABOVE = {BUBBLEWRAP: "bubblewrap landlock rlimits", LANDLOCK: "landlock rlimits", RLIMITS: "rlimits"}
# Programs that take bubblewrap's name, and what they do in its place.
PRETENDERS = {
    "fails": "echo 'bwrap: no permission' >&2; exit 1",
    "says nothing": "exit 0",
    "runs it as it is": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "leaves out the namespaces": 'shift; exec {bwrap} "$@"',
}
_HARMLESS = {
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
}


def refused(host, *words, code=5, **options):
    """A command that is refused with a way out, and starts no agent."""
    finished = host.invoke(*words, **options)
    assert finished.code == code, (finished.code, host.log)
    assert finished.stdout == b""
    assert len(host.log.splitlines()) >= 2, "says what to do next"
    assert "outcome" not in host.log
    return host.log


def speaking(host):
    return (host.install("demanding"), "speak", json.dumps({"facts": {}}))


def test_strict_is_a_sandbox_or_no_run(host):
    words = ("run", "--sandbox", "strict", host.install("processes"), "rest", json.dumps({"facts": {}}))
    if host.tier == RLIMITS:
        said = refused(host, *words)
        assert "no Landlock" in said
        assert "bubblewrap" in said
        assert "install" in refused(host, *words, "--yes"), "nothing consents to that"
    else:
        assert host.invoke(*words).code == 0


@pytest.mark.slow
def test_what_a_manifest_demands_is_held_or_consented_to(host):
    if host.tier == BUBBLEWRAP:
        assert host.invoke("run", *speaking(host)).code == 0
        return
    said = refused(host, "run", *speaking(host))
    assert "bubblewrap" in said
    assert "--yes" in said
    assert outcome(host.run("demanding", "speak", {"facts": {}}, "--yes")) == "done"
    refused(host, "run", "--yes", "--sandbox", "strict", *speaking(host))


def test_a_consent_for_good_is_for_one_tier(host):
    name = host.install("demanding")
    accepted = LANDLOCK
    assert host.invoke("grant", name, "sandbox", accepted).code == 0
    host.forgive()  # the grant; it is put right with the rest
    code = host.invoke("run", *speaking(host)).code
    assert code == (5 if host.tier == RLIMITS else 0)


@pytest.mark.parametrize("way", daily(["flag", "environment", "setting"], ("environment",)))
def test_off_needs_consent(host, way):
    words = speaking(host)
    if way == "flag":
        words = ("--sandbox", "off", *words)
    elif way == "environment":
        host.environment["AGENTHUB_SANDBOX"] = "off"
    else:
        assert host.invoke("config", "set", "sandbox", "off").code == 0
        host.forgive()
    said = refused(host, "run", *words)
    assert "without a sandbox" in said
    finished = host.invoke("run", "--yes", "--json", *words)
    assert finished.json["usage"]["isolation"] == RLIMITS


@pytest.mark.slow
@pytest.mark.parametrize("value", daily(["off", "auto", "OFF ", ""], ("off",)))
def test_a_project_cannot_lower_the_sandbox(host, value):
    """It comes with what somebody cloned."""
    with open(os.path.join(host.world.work, "agenthub.toml"), "w") as file:
        file.write(f'sandbox = "{value}"\n')
    assert "sandbox" in refused(host, "run", "--yes", *speaking(host), code=2)


def test_a_project_can_raise_it(host):
    with open(os.path.join(host.world.work, "agenthub.toml"), "w") as file:
        file.write('sandbox = "strict"\n')
    code = host.invoke("run", "--yes", *speaking(host)).code
    assert code == (0 if host.tier == BUBBLEWRAP else 5)


@pytest.mark.slow
def test_a_manifest_cannot_lower_the_sandbox(host):
    """`sandbox: off` among its permissions is a word without meaning."""
    envelope = host.run("demanding", "look_into_processes", None, "--yes")
    assert envelope["usage"]["isolation"] == host.tier
    if host.tier == RLIMITS:
        host.forgive()
    else:
        assert envelope["result"]["got"] == []


def test_a_manifest_that_asks_for_devices_gets_no_device(host):
    envelope = host.run("demanding", "look_at_devices", None, "--yes")
    opened = [path for path in envelope["result"]["got"] if "/fd/" not in path and path not in _HARMLESS]
    assert host.tier == RLIMITS or opened == []
    assert host.tier != RLIMITS or host.user != "root" or opened


@pytest.mark.parametrize("name", daily(PRETENDERS, ("runs it as it is",)))
def test_what_takes_bubblewraps_name_is_found_out(host, name):
    folder = host.world.directory(f"pretender-{host.marker}")
    body = PRETENDERS[name].format(bwrap=shutil.which("bwrap") or "/nowhere")
    host.world.write(f"{os.path.basename(folder)}/bwrap", f"#!/bin/sh\n{body}\n", 0o755)
    host.environment["PATH"] = f"{folder}:{host.environment['PATH']}"
    try:
        finished = host.invoke("run", "--json", host.install("processes"), "rest", json.dumps({"facts": {}}))
    finally:
        shutil.rmtree(folder)
    expected = RLIMITS if host.tier == RLIMITS else LANDLOCK
    assert finished.json.get("usage", {}).get("isolation") in (expected, None), finished.json
    assert finished.code == 0, finished.json


def cache(host):
    return os.path.join(host.world.store, "cache", "isolation.json")


def poison(host, text):
    host.run("processes", "rest")
    if callable(text):
        with open(cache(host)) as file:
            text = json.dumps(text(json.load(file)))
    with open(cache(host), "w") as file:
        file.write(text)


POISONS = {
    "nothing": "",
    "null": "null",
    "a list": "[1]",
    "other types": '{"state": 7, "tiers": []}',
    "another state": lambda kept: {**kept, "state": "of another machine"},
    "no such tier": lambda kept: {**kept, "tiers": {**kept["tiers"], "best": "nonsense"}},
    "no tier": lambda kept: {**kept, "tiers": {**kept["tiers"], "best": None}},
    "another program": lambda kept: {**kept, "tiers": {**kept["tiers"], "best": "bubblewrap", "bwrap": "/bin/false"}},
    "text for a number": lambda kept: {**kept, "tiers": {**kept["tiers"], "abi": "7"}},
    "an unknown key": lambda kept: {**kept, "tiers": {**kept["tiers"], "unknown": 1}},
}


@pytest.mark.parametrize("name", daily(POISONS, ("no such tier", "another program")))
def test_what_was_kept_of_the_probes_is_not_believed_blindly(host, name):
    """Whoever can write there is the user; but a damaged answer must not mean no sandbox."""
    poison(host, POISONS[name])
    try:
        envelope = host.run("processes", "rest")
        assert outcome(envelope) == "done", envelope
    finally:
        os.unlink(cache(host))


@pytest.mark.slow
def test_an_answer_that_cannot_be_kept_is_found_again(host):
    folder = os.path.dirname(cache(host))
    host.run("processes", "rest")
    os.unlink(cache(host))
    os.rename(folder, folder + "-away")
    with open(folder, "w"):  # root writes into whatever is a directory
        pass
    try:
        assert outcome(host.run("processes", "rest")) == "done"
    finally:
        os.unlink(folder)
        os.rename(folder + "-away", folder)


@pytest.mark.slow
def test_a_link_in_its_place_is_not_followed(host):
    """The answer is not written through it."""
    host.run("processes", "rest")
    os.unlink(cache(host))
    os.symlink(os.path.join(host.home, "notes.txt"), cache(host))
    assert outcome(host.run("processes", "rest")) == "done"
    with open(os.path.join(host.home, "notes.txt")) as file:
        assert file.read().endswith("secret-notes\n")
