"""What a user has told agenthub besides agents: settings, indexes, where owners belong, and whom to trust."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from agenthub.config import Paths
from agenthub.errors import AgentRuntimeError, InstallError
from agenthub.indexes.configured import IndexSource, index_url, read_indexes
from agenthub.indexes.owners import Owners, Pin
from agenthub.packages.names import is_name
from agenthub.runtime.secrets.store import SecretStore, check_secret_name
from agenthub.trust.trusted import Trusted, all_trusted, is_sound

_MOST = 20_000
_LONGEST = 4096


class Setup(NamedTuple):
    """A user's, without agents.

    Attributes:
        settings: those of the user's file, as texts, by name.
        indexes: in their order.
        owners: where owners were seen first, and how far their documents had come.
        trusted: what is trusted of owners.
        secrets: the names of secrets; their values stay where they are.
    """

    settings: dict[str, str]
    indexes: tuple[IndexSource, ...]
    owners: dict[str, Pin]
    trusted: dict[str, tuple[Trusted, ...]]
    secrets: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {
            "settings": self.settings,
            "indexes": [{**source._asdict(), "owners": list(source.owners)} for source in self.indexes],
            "owners": {owner: pin._asdict() for owner, pin in self.owners.items()},
            "trusted": {owner: [entry._asdict() for entry in entries] for owner, entries in self.trusted.items()},
            "secrets": list(self.secrets),
        }


def read_setup(paths: Paths) -> Setup:
    """What there is on this machine.

    Raises:
        InvalidInputError: the user's file of settings is no TOML.
        StoreError: something of it cannot be read.
    """
    return Setup(
        user_settings(paths),
        read_indexes(paths),
        Owners(paths).pins(),
        all_trusted(paths),
        tuple(SecretStore(paths).names()),
    )


def user_settings(paths: Paths) -> dict[str, str]:
    """The settings in the user's file, each as `agenthub config set` takes it."""
    if not os.path.exists(paths.user_config):
        return {}
    from agenthub.config import read_settings_file

    values = read_settings_file(paths.user_config)
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}


def parse_setup(path: str, values: Any) -> Setup:
    """What the file `path` says of it; read strictly.

    Raises:
        InstallError: something of it cannot be what it should be.
    """
    try:
        return Setup(
            {_text(name): _text(text, empty=True) for name, text in _items(values["settings"])},
            tuple(map(_index, _list(values["indexes"]))),
            {_name(owner): _pin(pin) for owner, pin in _items(values["owners"])},
            {_name(owner): tuple(map(_trusted, _list(entries))) for owner, entries in _items(values["trusted"])},
            tuple(check_secret_name(_text(name)) for name in _list(values["secrets"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, AgentRuntimeError) as error:
        reason = f"what it says of settings, indexes or keys is damaged: {error}"
        raise InstallError(f"{path} is refused: {reason}") from None


def _index(value: Any) -> IndexSource:
    owners = tuple(sorted(_name(owner) for owner in _list(value["owners"])))
    return IndexSource(_name(value["name"]), index_url(_text(value["url"])), owners)


def _pin(value: Any) -> Pin:
    serials = {_name(name): serial for name, serial in _items(value["serials"])}
    if not all(type(serial) is int and 0 <= serial < 1 << 53 for serial in serials.values()):
        raise ValueError("a serial is none")
    return Pin(index_url(_text(value["url"])), serials)


def _trusted(value: Any) -> Trusted:
    entry = Trusted(**{key: _text(value[key], empty=True) for key in Trusted._fields})
    if not is_sound(entry):
        raise ValueError(f"{entry.key!r} cannot be trusted")
    return entry


def _name(value: Any) -> str:
    if not isinstance(value, str) or not is_name(value):
        raise ValueError(f"{str(value)[:80]!r} is no name")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise ValueError("a list is none")
    return value


def _items(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise ValueError("a table is none")
    return list(value.items())


def _text(value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable() or not (value or empty):
        raise ValueError("a text is none")
    return value
