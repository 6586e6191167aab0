"""An owner belongs to one index: the one that the user says, else the one where it was first seen.

Without this, whoever publishes under a known owner's name at an index that is asked earlier would be installed instead
(dependency confusion), and an index could show an old state to keep a repair from its users (rollback).
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from agenthub.config import Paths
from agenthub.errors import PermissionDeniedError, StoreError
from agenthub.indexes.configured import IndexSource
from agenthub.packages.files import SCHEMA_VERSION, read_json, storing, write_json
from agenthub.packages.locks import acquire
from agenthub.packages.names import skeleton
from agenthub.packages.staging import new_staging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_WAY_OUT = "remove it: owners are then noted anew, where they are first seen"


class Pin(NamedTuple):
    """Where an owner was first seen, and the highest serial that was seen of each of its agents' documents."""

    url: str
    serials: dict[str, int]


class Owners:
    """What is known of owners, in `AGENTHUB_HOME/owners.json`.

    Args:
        paths: of the store.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def pins(self) -> dict[str, Pin]:
        """Every owner that was seen.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            values = read_json(self._paths.owners, _WAY_OUT)
        except FileNotFoundError:
            return {}
        try:
            return {owner: _pin(value) for owner, value in values["owners"].items()}
        except (KeyError, TypeError, AttributeError, ValueError):
            raise StoreError(f"{self._paths.owners} is damaged", suggestion=_WAY_OUT) from None

    def index_for(self, owner: str, indexes: Sequence[IndexSource]) -> IndexSource | None:
        """The index that an owner belongs to; None for an owner that was never seen.

        Raises:
            PermissionDeniedError: it was first seen at an index that is not among `indexes`.
        """
        mapped = next((source for source in indexes if owner in source.owners), None)
        if mapped is not None:
            return mapped
        pin = self.pins().get(owner)
        if pin is None:
            return None
        source = next((source for source in indexes if source.url == pin.url), None)
        if source is None:
            raise PermissionDeniedError(
                f"{owner} was first seen at {pin.url}, which is not among the indexes here",
                suggestion=f"agenthub index add NAME {pin.url}, or move it: agenthub index owner {owner} NAME",
            )
        return source

    def check_new(self, owner: str, indexes: Sequence[IndexSource]) -> None:
        """Whether an owner that was never seen is not one that the user knows under almost the same name.

        Raises:
            PermissionDeniedError: it looks like one of them.
        """
        known = {*self.pins(), *(each for source in indexes for each in source.owners)}
        alike = sorted(each for each in known if each != owner and skeleton(each) == skeleton(owner))
        if alike:
            raise PermissionDeniedError(
                f"the owner '{owner}' looks like '{alike[0]}', whose agents you have used, and is another one",
                suggestion=f"if you mean it: agenthub index owner {owner} NAME",
            )

    def note(self, owner: str, source: IndexSource, name: str, serial: int, where: str, *, first: bool = True) -> None:
        """Notes where an owner was seen, and how far an agent's document has come; unless `first`, of known ones only.

        Raises:
            PermissionDeniedError: a later state of the document was seen before, or the owner elsewhere meanwhile.
            StoreError: it cannot be written.
        """
        pin = self.pins().get(owner)
        if pin is None and not first:
            return
        if pin is not None and pin.url == source.url:
            seen = pin.serials.get(name, -1)
            if serial < seen:
                raise PermissionDeniedError(
                    f"{where} shows an older state of {owner}/{name} than was seen before (serial {serial}, then "
                    f"{seen}): a repair may be kept from you",
                    suggestion=f"ask whoever runs it; to accept what it shows: agenthub index owner {owner} NAME",
                )
            if serial == seen:
                return

        def change(owners: dict[str, Pin]) -> None:
            found = owners.get(owner)
            if found is not None and found.url != source.url and owner not in source.owners:
                raise PermissionDeniedError(
                    f"{owner} was first seen at {found.url} a moment ago, and not at {source.url}",
                    suggestion=f"if {owner} belongs there: agenthub index owner {owner} NAME",
                )
            serials = found.serials if found is not None and found.url == source.url else {}
            owners[owner] = Pin(source.url, {**serials, name: max(serial, serials.get(name, serial))})

        self._change(change)

    def adopt(self, pins: Mapping[str, Pin]) -> None:
        """Notes where owners were seen on another machine; what was seen here, and is otherwise, counts.

        Raises:
            StoreError: it cannot be written.
        """

        def change(owners: dict[str, Pin]) -> None:
            for owner, pin in pins.items():
                here = owners.get(owner, pin)
                if here.url == pin.url:
                    names = {*here.serials, *pin.serials}
                    serials = {name: max(here.serials.get(name, 0), pin.serials.get(name, 0)) for name in names}
                    owners[owner] = Pin(pin.url, serials)

        self._change(change)

    def forget(self, owner: str) -> None:
        """Forgets where an owner was seen: the user says anew where it belongs.

        Raises:
            StoreError: it cannot be written.
        """
        self._change(lambda owners: owners.pop(owner, None))

    def _change(self, change: Callable[[dict[str, Pin]], object]) -> None:
        with new_staging(self._paths) as staging, storing("lock", self._paths.locks):
            os.makedirs(self._paths.locks, mode=0o700, exist_ok=True)
            lock = acquire(os.path.join(self._paths.locks, "owners.lock"))
            try:
                owners = self.pins()
                change(owners)
                values = {owner: pin._asdict() for owner, pin in sorted(owners.items())}
                write_json(self._paths.owners, {"schema_version": SCHEMA_VERSION, "owners": values}, staging.path)
            finally:
                os.close(lock)


def _pin(value: Any) -> Pin:
    url, serials = value["url"], value["serials"]
    if not isinstance(url, str):
        raise TypeError("the index of an owner is not an address")
    return Pin(url, {str(name): int(serial) for name, serial in serials.items()})
