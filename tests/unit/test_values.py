"""The light `NamedTuple` behaves as that of `typing`."""

from __future__ import annotations

import copy
import pickle
import typing

import pytest

from agenthub import values


class Point(values.NamedTuple):
    """A place."""

    x: int
    y: int
    label: str = "here"

    @property
    def total(self) -> int:
        return self.x + self.y


class Reference(typing.NamedTuple):
    """A place."""

    x: int
    y: int
    label: str = "here"

    @property
    def total(self) -> int:
        return self.x + self.y


@pytest.mark.parametrize(
    "use",
    [
        lambda kind: kind(1, 2),
        lambda kind: kind(1, y=2, label="there"),
        lambda kind: kind(y=1, x=2),
        lambda kind: kind._make([1, 2, "there"]),
        lambda kind: kind(1, 2)._replace(y=3),
        lambda kind: kind(1, 2)._asdict(),
        lambda kind: repr(kind(1, 2)).partition("(")[2],
        lambda kind: (kind(1, 2).y, kind(1, 2).label, kind(1, 2).total, kind(1, 2)[0]),
        lambda kind: kind(1, 2) == (1, 2, "here"),
        lambda kind: hash(kind(1, 2)) == hash((1, 2, "here")),
        lambda kind: (kind._fields, kind._field_defaults, kind.__match_args__, kind.__doc__, kind.__name__ != ""),
        lambda kind: [*kind(1, 2)],
        lambda kind: hasattr(kind(1, 2), "__dict__"),
        lambda kind: pickle.loads(pickle.dumps(kind(1, 2))),
        lambda kind: copy.deepcopy(kind([1], 2)),
    ],
)
def test_it_does_what_typing_does(use):
    assert use(Point) == use(Reference)


@pytest.mark.parametrize(
    "use",
    [
        lambda kind: kind(),
        lambda kind: kind(1),
        lambda kind: kind(1, 2, "there", 4),
        lambda kind: kind(1, 2, x=3),
        lambda kind: kind(1, 2, z=3),
        lambda kind: kind._make([1, 2]),
        lambda kind: setattr(kind(1, 2), "x", 3),
        lambda kind: setattr(kind(1, 2), "z", 3),
    ],
)
def test_it_refuses_what_typing_refuses(use):
    with pytest.raises((TypeError, AttributeError)) as reference:
        use(Reference)
    with pytest.raises(reference.type):
        use(Point)


def test_it_matches():
    match Point(1, 2):
        case Point(1, y, label="here"):
            assert y == 2
        case _:
            pytest.fail("did not match")
