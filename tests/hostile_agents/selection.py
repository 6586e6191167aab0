"""Which cases of a table, and which hosts, are part of the quick run; the long one has all."""

from __future__ import annotations

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, RLIMITS, USERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

_FIRST = (BUBBLEWRAP, USERS[0])


def daily(names: Iterable[str], chosen: Container[str]) -> list[object]:
    """The cases, all but the chosen ones marked `slow`."""
    return [pytest.param(name, marks=() if name in chosen else pytest.mark.slow) for name in names]


def hosts(*chosen: tuple[str, str]) -> pytest.MarkDecorator:
    """For what is the same on every tier: a module's `pytestmark`, which has its tests run on these hosts alone."""
    marked = [
        pytest.param(place, id="-".join(place), marks=() if place == _FIRST else pytest.mark.slow) for place in chosen
    ]
    return pytest.mark.parametrize("host", marked, indirect=True)


BOTH_ENDS = hosts(_FIRST, (RLIMITS, USERS[-1]))
CONFINED = hosts(*((BUBBLEWRAP, user) for user in USERS))
