"""Agents that attack when they are imported, by whoever only wants to know whether they are in order."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.hostile_agents.harness import AREAS, SECRETS


@pytest.fixture
def place(host):
    """The agent's directory, not installed."""
    made = host.world.directory("work/importing")
    for name in os.listdir(os.path.join(AREAS, "importing")):
        shutil.copy(os.path.join(AREAS, "importing", name), made)
    with open(f"{made}/agent.py") as file:
        host.world.write("work/importing/agent.py", file.read().replace("@HOME@", host.home))
    return made


def test_an_agent_that_is_looked_at_does_not_run(host, place):
    """What it asks for is shown, and nobody has agreed to it yet."""
    finished = host.invoke("validate", place)
    assert "read ~/.agenthub" in finished.err
    assert "found" not in finished.out + finished.err


@pytest.mark.slow
def test_an_agent_that_is_imported_is_held_as_in_a_run(host, place):
    finished = host.invoke("validate", "--yes", place)
    os.unlink(f"{host.world.store}/consents.json")  # that of this test
    said = finished.out + finished.err
    assert finished.code != 0
    assert "kept-secret-" not in said
    assert not [secret for secret in SECRETS.values() if secret in said]
