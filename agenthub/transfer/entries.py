"""What a travelling file says of each agent in it. Read strictly: anybody may write one."""

from __future__ import annotations

import base64
import re
from typing import Any, NamedTuple

from agenthub.errors import AgentRuntimeError, InvalidInputError
from agenthub.indexes.configured import index_url
from agenthub.packages.grants import GRANTS
from agenthub.packages.names import is_name
from agenthub.runtime.environments.state import normalised
from agenthub.transfer.platforms import parse_wheel_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from agenthub.transfer.container import Container

_MOST_AGENTS = 2_000
_MOST_ITEMS = 5_000
_LONGEST = 4096
_MOST_SIGNATURES = 8
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_SERIES = re.compile(r"3\.[0-9]{1,2}", re.ASCII)
_KINDS = ("directory", "archive", "git", "index", "bundle")
_TEXTS = ("location", "ref", "commit", "subdirectory", "index", "version", "archive_digest", "url", "tag")


class KeptSignature(NamedTuple):
    """A signature of a release, as it was published, and the key that made it."""

    kind: str
    key: str
    data: bytes


class AgentEntry(NamedTuple):
    """One agent.

    Attributes:
        owner: what it is installed as.
        name: the same.
        version: its manifest's.
        digest: `"sha256:…"` of its content.
        archive: where its archive is in the file.
        source: where it came from, as an install record keeps it.
        signatures: of the release that it is.
        requested: what the user asked for besides the agent, as an install record keeps it.
        wanted: the versions of an index that it may become; None: any.
        pinned: whether upgrades leave it alone.
        environment: what described its environment; `"none"` where it has none.
        python: the series of Python that its wheels are for, `"3.12"`; "" where it has none.
        wheels: where its wheels are in the file; None: they are not there.
        grants: what the user allowed it, by kind.
    """

    owner: str
    name: str
    version: str
    digest: str
    archive: str
    source: dict[str, Any]
    signatures: tuple[KeptSignature, ...] = ()
    requested: dict[str, Any] = {}  # noqa: RUF012 - never changed
    wanted: str | None = None
    pinned: bool = False
    environment: str = "none"
    python: str = ""
    wheels: tuple[str, ...] | None = None
    grants: dict[str, list[str]] = {}  # noqa: RUF012

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.owner}/{self.name}"

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        signatures = [
            {"kind": one.kind, "key": one.key, "data": base64.b64encode(one.data).decode("ascii")}
            for one in self.signatures
        ]
        return {**self._asdict(), "signatures": signatures}


def parse_entries(container: Container) -> list[AgentEntry]:
    """The agents of a file, by owner and name.

    Raises:
        InstallError: something of them cannot be what it should be, or the file holds what none of them has.
    """
    found = container.values.get("agents")
    if not isinstance(found, list) or len(found) > _MOST_AGENTS:
        raise container.refusal("its list of agents is damaged")
    entries = []
    for value in found:
        try:
            entries.append(_entry(value))
        except (KeyError, TypeError, ValueError, AttributeError, AgentRuntimeError) as error:
            label = value.get("name") if isinstance(value, dict) else None
            raise container.refusal(f"what it says of agent {str(label)[:80]!r} is damaged: {error}") from None
    labels = [entry.label for entry in entries]
    if len(set(labels)) != len(labels):
        raise container.refusal("an agent is in it twice")
    _check_files(container, entries)
    return sorted(entries, key=lambda entry: (entry.owner, entry.name))


def _check_files(container: Container, entries: list[AgentEntry]) -> None:
    used: set[str] = set()
    for entry in entries:
        names = set()
        for path in (entry.archive, *(entry.wheels or ())):
            if path not in container.files:
                raise container.refusal(f"{path} of {entry.label} is not in it")
            used.add(path)
        for path in entry.wheels or ():
            wheel = parse_wheel_name(path.rpartition("/")[2])
            name = normalised(wheel.name) if wheel is not None else ""
            if not name or name in names:
                raise container.refusal(f"{path} is no wheel, or {entry.label} has another one of it")
            names.add(name)
    stray = sorted(name for name in container.files.keys() - used if name.startswith(("agents/", "wheels/")))
    if stray:
        raise container.refusal(f"{stray[0]} is in it, and no agent has it")


def _entry(value: Mapping[str, Any]) -> AgentEntry:
    fields = {key: _text(value[key], key) for key in ("owner", "name", "version", "digest", "archive", "environment")}
    if not (is_name(fields["owner"]) and is_name(fields["name"])):
        raise ValueError("it has no name")
    if not _DIGEST.fullmatch(fields["digest"]):
        raise ValueError("its digest is none")
    python = value.get("python", "")
    if python != "" and not _SERIES.fullmatch(_text(python, "python")):
        raise ValueError("its Python is none")
    wheels = value.get("wheels")
    return AgentEntry(
        **fields,
        source=_source(value["source"], fields["digest"]),
        signatures=_signatures(value.get("signatures", [])),
        requested=_requested(value.get("requested", {})),
        wanted=_range(value.get("wanted")),
        pinned=value.get("pinned") is True,
        python=python,
        wheels=None if wheels is None else tuple(_texts(wheels, "wheels")),
        grants=parse_grants(value.get("grants", {})),
    )


def _source(value: Any, digest: str) -> dict[str, Any]:
    kind = value["kind"]
    if kind not in _KINDS:
        raise ValueError("its source is of no kind that is known")
    source = {key: None if value.get(key) is None else _text(value[key], key) for key in _TEXTS if key in value}
    if source.get("archive_digest") and not _DIGEST.fullmatch(str(source["archive_digest"])):
        raise ValueError("the digest of its archive is none")
    _text(source["location"], "location")
    if kind == "index":
        index_url(_text(source["index"], "index"))
        if source.get("archive_digest"):
            _text(source["version"], "version")
    return {"kind": kind, "commit": None, "ref": None, "subdirectory": None, **source, "digest": digest}


def _signatures(value: Any) -> tuple[KeptSignature, ...]:
    if not isinstance(value, list) or len(value) > _MOST_SIGNATURES:
        raise ValueError("its signatures are damaged")
    return tuple(
        KeptSignature(
            _text(one["kind"], "kind"), _text(one["key"], "key"), base64.b64decode(one["data"], validate=True)
        )
        for one in value
    )


def _requested(value: Any) -> dict[str, Any]:
    python, extra = value.get("python"), _texts(value.get("with", []), "with")
    if any(requirement.startswith("-") for requirement in extra):
        raise ValueError("a requirement is an option")
    asked = {"python": _text(python, "python") if python is not None else None, "with": extra}
    return {key: item for key, item in asked.items() if item}


def _range(value: Any) -> str | None:
    if value is None:
        return None
    from agenthub.packages.versions import parse_range

    try:
        parse_range(_text(value, "wanted"))
    except InvalidInputError as error:
        raise ValueError(error.message) from None
    return str(value)


def parse_grants(value: Any) -> dict[str, list[str]]:
    """What a file says that an agent was granted, by kind.

    Raises:
        ValueError: that cannot be.
    """
    if not isinstance(value, dict) or not value.keys() <= set(GRANTS):
        raise ValueError("its grants are damaged")
    return {kind: sorted(set(_texts(items, kind))) for kind, items in sorted(value.items()) if items}


def _texts(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        raise ValueError(f"its '{what}' is no list")
    return [_text(item, what) for item in value]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise ValueError(f"its '{what}' is not a text")
    return value
