"""Every attack runs on each tier, as root and as an ordinary user; the quick run has the best tier of this user."""

from __future__ import annotations

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, TIERS, USERS, Host, World, unavailable

_QUICK = (BUBBLEWRAP, USERS[0])


@pytest.fixture(scope="session")
def worlds():
    """The users, each made when first needed."""
    made: dict[str, World] = {}
    yield made
    for world in made.values():
        world.remove()


@pytest.fixture(scope="session")
def tiers():
    """Why a user cannot have a tier, by both."""
    return {}


@pytest.fixture(
    params=[
        pytest.param((tier, user), id=f"{tier}-{user}", marks=() if (tier, user) == _QUICK else pytest.mark.slow)
        for tier in TIERS
        for user in USERS
    ]
)
def host(request, worlds, tiers):
    """What an agent is let loose on; checked and put right afterwards."""
    tier, user = request.param
    if user not in worlds:
        worlds[user] = World(user)
    world = worlds[user]
    if request.param not in tiers:
        tiers[request.param] = unavailable(tier, world)
    if tiers[request.param]:
        pytest.skip(f"no {tier} here: {tiers[request.param]}")
    made = Host(world, tier)
    try:
        yield made
        made.check()
    finally:
        made.close()
