"""From a file that travelled to agents that can be installed: each is what its list says, and is vouched for."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, NamedTuple

from agenthub.config import Settings
from agenthub.errors import AgentRuntimeError, EnvironmentError, InstallError, PermissionDeniedError
from agenthub.indexes.configured import configured_indexes, index_url
from agenthub.indexes.documents import Release, Signature
from agenthub.indexes.owners import Owners
from agenthub.manifest import AgentManifest, read_manifest
from agenthub.packages.archives import unpack
from agenthub.packages.files import storing
from agenthub.packages.names import is_name
from agenthub.packages.record import InstallRecord
from agenthub.packages.sources import Fetched
from agenthub.packages.spec import LOCAL_OWNER, parse_spec
from agenthub.runtime.environments.pinned import Pins
from agenthub.runtime.environments.pins import Pin
from agenthub.runtime.environments.state import normalised
from agenthub.transfer.container import Container
from agenthub.transfer.entries import AgentEntry, parse_entries
from agenthub.transfer.platforms import Platform, parse_wheel_name, this_machine
from agenthub.trust.releases import check_release, check_unsigned, remember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from agenthub.trust.releases import Provenance

BUNDLE, SETUP = "bundle", "setup"


class Opened(NamedTuple):
    """The content of a file, every byte of which is what its list says.

    Attributes:
        path: the file.
        values: what its list says besides files and agents.
        entries: its agents.
        places: where its files are now, by their paths inside.
        digests: of these files.
        scratch: a directory on the store's file system, which is there as long as they are.
    """

    path: str
    values: dict[str, Any]
    entries: list[AgentEntry]
    places: dict[str, str]
    digests: dict[str, str]
    scratch: str


def open_container(path: str, scratch: str, *kinds: str) -> Opened:
    """Copies a file's content to `scratch`, checks all of it, and reads what it says of agents.

    Raises:
        AgentNotFoundError: there is no such file.
        InstallError: it is damaged or refused; nothing of it was opened.
        StoreError: `scratch` cannot be written.
    """
    with Container(path, *kinds) as container:
        entries = parse_entries(container)
        digests = {name: listed.digest for name, listed in container.files.items()}
        return Opened(path, container.values, entries, container.extract(scratch), digests, scratch)


def check_platform(opened: Opened) -> None:
    """Whether the wheels of a file can be used on this machine.

    Raises:
        EnvironmentError: they are for another one; names both.
        InstallError: what it says of it is damaged.
    """
    value = opened.values.get("platform")
    try:
        texts = {key: value[key] for key in ("system", "machine", "libc")}  # type: ignore[index]
        major, minor = value["libc_version"]  # type: ignore[index]
        if not all(isinstance(text, str) for text in texts.values()) or {type(major), type(minor)} != {int}:
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise InstallError(f"{opened.path} is refused: what it says of its platform is damaged") from None
    needed, here = Platform(**texts, libc_version=(major, minor)), this_machine()
    if not needed.runs_on(here):
        raise EnvironmentError(
            f"{opened.path} is for {needed.label}, and this machine is {here.label}",
            suggestion="make the bundle on a machine such as this one",
        )


def interpreter_for(opened: Opened, entry: AgentEntry, preferred: str) -> str | None:
    """The interpreter for an agent's wheels; None where it has none.

    Raises:
        EnvironmentError: this machine has no such Python; names those that it has.
    """
    from agenthub.runtime.environments.interpreters import available_interpreters, find_interpreter

    if not entry.python:
        return None
    try:
        return find_interpreter(f"=={entry.python}.*", preferred=preferred, who=entry.label).path
    except EnvironmentError:
        have = ", ".join(one.version for one in available_interpreters()) or "none"
        raise EnvironmentError(
            f"{opened.path} has {entry.label} for Python {entry.python}, and this machine has {have}",
            suggestion=f"install Python {entry.python}, or make the bundle with one of these",
        ) from None


def fetch_entry(settings: Settings, opened: Opened, entry: AgentEntry, tree: str) -> Fetched:
    """Unpacks an agent into the directory `tree`, which is not there yet, once it is known who vouches for it.

    Raises:
        InstallError: its content is not what the list says.
        PermissionDeniedError: its owner signs, and it is not signed by a key of theirs; or it belongs elsewhere.
    """
    archive = opened.places[entry.archive]
    provenance = _vouched(settings, opened, entry, archive)
    found = unpack(archive, tree)
    manifest = read_manifest(tree)
    _check_content(opened, entry, found.digest, manifest)
    source, notes = _source(opened, entry), []
    if provenance is not None:
        source |= provenance.to_record()
        notes.append(provenance.words())
    return Fetched(
        found.digest,
        source.get("commit"),
        source,
        found.files,
        found.bytes,
        tuple(notes),
        None if provenance is None else lambda: remember(settings.paths, _released(entry)[0], provenance),
    )


def pins_for(opened: Opened, entry: AgentEntry) -> Pins | None:
    """The packages of an agent, with a directory of its wheels; None where the file has no wheels."""
    if entry.wheels is None:
        return None
    pins = []
    for path in entry.wheels:
        wheel = parse_wheel_name(path.rpartition("/")[2])
        assert wheel is not None  # `parse_entries` has looked
        pins.append(Pin(wheel.requirement, (opened.digests[path],)))
    folder = os.path.join(opened.scratch, "wheels")
    if not _gather(opened, entry.wheels, folder):  # another agent's are called the same, and are others
        folder = os.path.join(opened.scratch, f"{entry.owner}+{entry.name}.wheels")
        _gather(opened, entry.wheels, folder)
    return Pins(tuple(pins), entry.environment, wheels=folder, cache=os.path.join(opened.scratch, "uv-cache"))


def _gather(opened: Opened, wheels: Sequence[str], folder: str) -> bool:
    """Puts wheels into a directory, under their names; False where another file has the name of one.

    One directory for many agents has uv unpack each wheel once, and their environments share its files.
    """
    with storing("write", folder):
        os.makedirs(folder, exist_ok=True)
        for path in wheels:
            place = os.path.join(folder, path.rpartition("/")[2])
            with suppress(FileExistsError):
                os.link(opened.places[path], place)
            if not os.path.samefile(opened.places[path], place):
                return False
    return True


def has_packages(record: InstallRecord, pins: Pins | None) -> bool:
    """Whether an environment has just these packages; None: which they are does not matter."""
    if pins is None:
        return True
    from packaging.utils import canonicalize_version

    pairs = [pin.requirement.split("==", 1) for pin in pins.pins]
    have = {(normalised(one["name"]), canonicalize_version(one["version"])) for one in record.dependencies}
    return have == {(normalised(name), canonicalize_version(version)) for name, version in pairs}


def _released(entry: AgentEntry) -> tuple[str, str]:
    """Owner and name of the release that an agent of an index is, which may be installed under others."""
    owner, _, name = str(entry.source["location"]).partition("/")
    return owner, name


def _vouched(settings: Settings, opened: Opened, entry: AgentEntry, archive: str) -> Provenance | None:
    """Who vouches for an agent, as if it came from where its list says; None where nobody can."""
    source, label = entry.source, f"{entry.label} of {opened.path}"
    released = source["kind"] == "index" and source.get("archive_digest") is not None
    if source["kind"] == "index":
        owner, name = _released(entry)
        if not (is_name(owner) and is_name(name)):
            raise InstallError(f"{opened.path} is refused: {entry.label} says that it is {source['location']!r}")
        _check_place(settings, entry, owner)
    if not released or _released(entry)[0] != entry.owner:
        if entry.owner != LOCAL_OWNER:
            Owners(settings.paths).check_new(entry.owner, configured_indexes(settings))
        check_unsigned(settings, entry.owner, label, entry.digest)
    if not released:
        return None
    signatures = tuple(Signature(one.kind, str(number), one.key) for number, one in enumerate(entry.signatures))
    release = Release(
        owner,
        name,
        str(source.get("version")),
        entry.archive,
        str(source["archive_digest"]),
        entry.digest,
        os.path.getsize(archive),
        signatures=signatures,
    )
    return check_release(
        settings, owner, name, release, archive, lambda file, limit: entry.signatures[int(file)].data[: limit + 1]
    )


def _check_place(settings: Settings, entry: AgentEntry, owner: str) -> None:
    """An owner belongs to one index, also where an agent of theirs comes by another way."""
    indexes, owners = configured_indexes(settings), Owners(settings.paths)
    said = index_url(str(entry.source.get("index")))
    mapped = next((source.url for source in indexes if owner in source.owners), None)
    pin = owners.pins().get(owner)
    known = mapped or (pin.url if pin is not None else None)
    if known is None:
        owners.check_new(owner, indexes)
    elif known != said:
        raise PermissionDeniedError(
            f"{entry.label} says that it is of {said}, and {owner} belongs to {known}",
            suggestion=f"if {owner} has moved: agenthub index owner {owner} NAME",
        )


def _check_content(opened: Opened, entry: AgentEntry, digest: str, manifest: AgentManifest) -> None:
    wrong = ""
    if digest != entry.digest:
        wrong = "its content is another one"
    elif manifest.version != entry.version:
        wrong = f"it is version {manifest.version}"
    elif entry.source["kind"] == "index" and "archive_digest" in entry.source:
        from packaging.version import InvalidVersion, Version

        with suppress(InvalidVersion):
            if Version(manifest.version) != Version(str(entry.source.get("version"))):
                wrong = f"it is version {manifest.version}"
        if manifest.name.lower() != _released(entry)[1]:
            wrong = f"it is the agent {manifest.name!r}"
    if wrong:
        raise InstallError(f"{opened.path} is refused: {entry.label} is not what its list says: {wrong}")


def _source(opened: Opened, entry: AgentEntry) -> dict[str, Any]:
    """What the install record says: a place that can be asked from here as well, or else the file."""
    source = entry.source
    if source["kind"] == "index":
        return dict(source)
    if source["kind"] == "git" and _is_askable(source):
        return dict(source)
    # What the user exported may have come from a path that is here as well; a stranger's bundle names none of ours.
    if opened.values["kind"] == SETUP and source["kind"] in ("directory", "archive"):
        is_there = os.path.isdir if source["kind"] == "directory" else os.path.isfile
        if os.path.isabs(source["location"]) and is_there(source["location"]):
            return dict(source)
    return {
        "kind": "bundle",
        "location": os.path.abspath(opened.path),
        "ref": None,
        "commit": None,
        "subdirectory": None,
        "digest": entry.digest,
        "origin": f"{source['kind']} {source['location']}",
    }


def _is_askable(source: dict[str, Any]) -> bool:
    """Whether a git source is one that the user could have written, on this machine."""
    text = f"git+{source['location']}"
    text += f"@{source['ref']}" if source.get("ref") else ""
    text += f"#subdirectory={source['subdirectory']}" if source.get("subdirectory") else ""
    try:
        spec = parse_spec(text)
    except AgentRuntimeError:
        return False
    same = (spec.location, spec.ref, spec.subdirectory)
    return same == (source["location"], source.get("ref"), source.get("subdirectory"))
