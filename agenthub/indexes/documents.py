"""What an index says of one agent: a JSON document with all its releases. Read strictly: anybody may write one."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from agenthub.errors import InstallError
from agenthub.packages.names import is_name

SCHEMA_VERSION = 1
LARGEST_DOCUMENT = 16 << 20
"""Bytes of an agent's document that are still read."""
LARGEST_ARCHIVE = 4 << 30
"""Bytes of a release's archive that are still fetched."""

_MOST_RELEASES = 10_000
_LONGEST_TEXT = 10_000
_MOST_ITEMS = 10_000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}", re.ASCII)
_FILE = re.compile(r"(?:[0-9A-Za-z_][0-9A-Za-z._+!~-]*/)*[0-9A-Za-z_][0-9A-Za-z._+!~-]*", re.ASCII)


class Signature(NamedTuple):
    """Who vouches for an archive.

    Attributes:
        kind: `"ssh"` or `"sigstore"`.
        file: the signature's file, relative to the index.
        key: the key's fingerprint, or the identity that signed.
    """

    kind: str
    file: str
    key: str


class Release(NamedTuple):
    """One published version of one agent.

    Attributes:
        version: as it was published; PEP 440.
        file: the archive, relative to the index.
        digest: `"sha256:…"` of the archive.
        tree_digest: `"sha256:…"` of the agent's content, as an install record has it.
        size: the archive's bytes.
        python: the range of Python that it runs on; None: any.
        published_at: UTC, ISO 8601, as the publisher's clock said.
        published_by: who published it, as the index says.
        permissions: what its manifest asks for; None: it declares none.
        methods: descriptions by name.
        environment: `name`, `required` and `secret` of each variable that it reads.
        requires: ranges of versions of other agents, by `owner/name`.
        dependencies: its requirements; None: known only after it was unpacked.
        yanked: why it is not to be chosen any more; None: it is.
        deprecated: why another one should be used; None: it may be used.
        signatures: who vouches for the archive.
    """

    owner: str
    name: str
    version: str
    file: str
    digest: str
    tree_digest: str
    size: int
    python: str | None = None
    published_at: str = ""
    published_by: str = ""
    permissions: dict[str, Any] | None = None
    methods: dict[str, str] = {}  # noqa: RUF012 - never changed
    environment: tuple[dict[str, Any], ...] = ()
    requires: dict[str, str] = {}  # noqa: RUF012
    dependencies: tuple[str, ...] | None = None
    yanked: str | None = None
    deprecated: str | None = None
    signatures: tuple[Signature, ...] = ()

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.owner}/{self.name} {self.version}"


class AgentDocument(NamedTuple):
    """All that an index says of one agent.

    `serial` only grows: a lower one than was seen before is an old document. `releases` are by version.
    """

    owner: str
    name: str
    serial: int
    updated: str
    description: str
    tags: tuple[str, ...]
    releases: dict[str, Release]


def parse_agent_document(data: bytes, where: str, owner: str, name: str) -> AgentDocument:
    """The document of `owner/name` in `data`, which `where` (an address) said.

    Raises:
        InstallError: it is damaged, too large, of another agent, or of a newer agenthub; says which part.
    """
    reader = Reader(where)
    document = reader.document(data, LARGEST_DOCUMENT)
    said = (reader.text(document, "owner"), reader.text(document, "name"))
    if said != (owner, name):
        raise reader.error(f"it is the document of {'/'.join(said)!r}, and not of {owner}/{name}")
    releases = reader.mapping(document, "releases")
    if len(releases) > _MOST_RELEASES:
        raise reader.error(f"it has more than {_MOST_RELEASES:,} releases")
    parsed = {version: _release(reader, owner, name, version, release) for version, release in releases.items()}
    _refuse_equal_versions(reader, parsed)
    return AgentDocument(
        owner,
        name,
        reader.whole(document, "serial"),
        reader.text(document, "updated", ""),
        reader.text(document, "description", ""),
        reader.texts(document, "tags"),
        parsed,
    )


def to_json(document: AgentDocument) -> dict[str, Any]:
    """The JSON value that `parse_agent_document` reads; releases in the order of `document`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "owner": document.owner,
        "name": document.name,
        "serial": document.serial,
        "updated": document.updated,
        "description": document.description,
        "tags": list(document.tags),
        "releases": {version: release_to_json(release) for version, release in document.releases.items()},
    }


def release_to_json(release: Release) -> dict[str, Any]:
    """The JSON value of one release in its agent's document."""
    values = release._asdict()
    for key in ("owner", "name", "version"):
        del values[key]
    values["environment"] = list(release.environment)
    values["dependencies"] = None if release.dependencies is None else list(release.dependencies)
    values["signatures"] = [signature._asdict() for signature in release.signatures]
    return values


def is_version(version: str) -> bool:
    """Whether `version` may name a release: PEP 440, and harmless as a part of a file's name."""
    if not _VERSION.fullmatch(version):
        return False
    from packaging.version import InvalidVersion, Version

    try:
        Version(version)
    except InvalidVersion:
        return False
    return True


def is_inside_path(path: str) -> bool:
    """Whether `path` can only be a file below the index's own address: plain names between slashes."""
    return len(path) <= 512 and _FILE.fullmatch(path) is not None


def _release(reader: Reader, owner: str, name: str, version: str, values: Any) -> Release:
    if not is_version(version):
        raise reader.error(f"{version[:80]!r} is not a version")
    reader = reader.inside(version)
    if not isinstance(values, dict):
        raise reader.error("it is not an object")
    size = reader.whole(values, "size")
    if not 0 < size <= LARGEST_ARCHIVE:
        raise reader.error(f"its archive of {size:,} bytes is not possible")
    return Release(
        owner=owner,
        name=name,
        version=version,
        file=reader.path(values, "file"),
        digest=reader.digest(values, "digest"),
        tree_digest=reader.digest(values, "tree_digest"),
        size=size,
        python=reader.optional(values, "python"),
        published_at=reader.text(values, "published_at", ""),
        published_by=reader.text(values, "published_by", ""),
        permissions=reader.mapping(values, "permissions") if values.get("permissions") is not None else None,
        methods={key: str(text)[:_LONGEST_TEXT] for key, text in reader.mapping(values, "methods", {}).items()},
        environment=_environment(reader, values),
        requires=_requires(reader, values),
        dependencies=reader.texts(values, "dependencies") if values.get("dependencies") is not None else None,
        yanked=reader.optional(values, "yanked"),
        deprecated=reader.optional(values, "deprecated"),
        signatures=_signatures(reader, values),
    )


def _environment(reader: Reader, values: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    variables = []
    for value in reader.items(values, "environment"):
        if not isinstance(value, dict):
            raise reader.error("'environment' has something else than objects")
        required, secret = value.get("required") is True, value.get("secret") is True
        variables.append({"name": reader.text(value, "name"), "required": required, "secret": secret})
    return tuple(variables)


def _requires(reader: Reader, values: dict[str, Any]) -> dict[str, str]:
    wanted = reader.mapping(values, "requires", {})
    for agent, versions in wanted.items():
        owner, _, name = agent.partition("/")
        if not is_name(owner) or not is_name(name) or not isinstance(versions, str):
            raise reader.error(f"'requires' names {agent[:80]!r}, which is no agent with a range of versions")
    return wanted


def _signatures(reader: Reader, values: dict[str, Any]) -> tuple[Signature, ...]:
    found = []
    for value in reader.items(values, "signatures"):
        if not isinstance(value, dict):
            raise reader.error("'signatures' has something else than objects")
        found.append(Signature(reader.text(value, "kind"), reader.path(value, "file"), reader.text(value, "key", "")))
    return tuple(found)


def _refuse_equal_versions(reader: Reader, releases: dict[str, Release]) -> None:
    """`1.0` and `1.0.0` are one version: an index that has both says two things of it."""
    from packaging.version import Version

    seen: dict[Version, str] = {}
    for version in releases:
        other = seen.setdefault(Version(version), version)
        if other != version:
            raise reader.error(f"{other} and {version} are the same version")


class Reader:
    """Takes typed values out of a stranger's JSON, and says what is wrong with it, and where it came from."""

    def __init__(self, where: str) -> None:
        self.where = where

    def inside(self, part: str) -> Reader:
        """A reader whose complaints name a part of the document."""
        return Reader(f"{self.where}: {part}")

    def error(self, complaint: str) -> InstallError:
        """An error that names the document."""
        return InstallError(f"{self.where} is not to be used: {complaint}")

    def document(self, data: bytes, largest: int) -> dict[str, Any]:
        """The JSON object in `data`, of a schema that this agenthub knows."""
        if len(data) > largest:
            raise self.error(f"it is larger than {largest:,} bytes")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise self.error("it is not JSON") from None
        if not isinstance(value, dict):
            raise self.error("it is not an object")
        schema = self.whole(value, "schema_version")
        if schema > SCHEMA_VERSION:
            error = self.error(f"it was made for a newer agenthub (schema {schema}, not {SCHEMA_VERSION})")
            error.suggestion = "upgrade agenthub"
            raise error
        return value

    def text(self, values: dict[str, Any], key: str, default: str | None = None) -> str:
        """A text; `default` where there is none, if that is given."""
        value = values.get(key, default)
        if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
            raise self.error(f"its '{key}' is not a text" if value is not None else f"it lacks '{key}'")
        return value

    def optional(self, values: dict[str, Any], key: str) -> str | None:
        """A text, or None."""
        return None if values.get(key) is None else self.text(values, key)

    def whole(self, values: dict[str, Any], key: str) -> int:
        """A whole number that is not negative."""
        value = values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
            raise self.error(f"its '{key}' is not a number" if value is not None else f"it lacks '{key}'")
        return value

    def mapping(self, values: dict[str, Any], key: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """An object; `default` where there is none, if that is given."""
        value = values.get(key, default)
        if not isinstance(value, dict) or len(value) > _MOST_ITEMS:
            raise self.error(f"its '{key}' is not an object" if value is not None else f"it lacks '{key}'")
        return value

    def items(self, values: dict[str, Any], key: str) -> list[Any]:
        """A list; empty where there is none."""
        value = values.get(key) or []
        if not isinstance(value, list) or len(value) > _MOST_ITEMS:
            raise self.error(f"its '{key}' is not a list")
        return value

    def texts(self, values: dict[str, Any], key: str) -> tuple[str, ...]:
        """A list of texts; empty where there is none."""
        found = self.items(values, key)
        if not all(isinstance(item, str) and len(item) <= _LONGEST_TEXT for item in found):
            raise self.error(f"its '{key}' has something else than texts")
        return tuple(found)

    def digest(self, values: dict[str, Any], key: str) -> str:
        """`"sha256:…"`."""
        value = self.text(values, key)
        if not _DIGEST.fullmatch(value):
            raise self.error(f"its '{key}' is not sha256: and 64 hexadecimal digits")
        return value

    def path(self, values: dict[str, Any], key: str) -> str:
        """The path of a file below the index's own address."""
        value = self.text(values, key)
        if not is_inside_path(value):
            raise self.error(f"its '{key}' is not the path of a file of this index: {value[:80]!r}")
        return value
