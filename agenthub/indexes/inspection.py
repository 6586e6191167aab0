"""What an archive says of the release that it is, when somebody publishes it: unpacked and read, and never run."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from agenthub.errors import AgentRuntimeError, InstallError, InvalidManifestError
from agenthub.indexes.documents import LARGEST_ARCHIVE, Release, is_version
from agenthub.indexes.summaries import FILES
from agenthub.manifest import AgentManifest, read_manifest
from agenthub.packages.archives import unpack
from agenthub.packages.files import remove_tree
from agenthub.packages.ledger import LIMITS, Limits
from agenthub.packages.names import check_name
from agenthub.packages.pack import SUFFIX


class Inspected(NamedTuple):
    """An archive that can be published. `version` is the manifest's as PEP 440 writes it."""

    manifest: AgentManifest
    name: str
    version: str
    digest: str
    tree_digest: str
    size: int


def inspect_archive(archive: str, scratch: str, limits: Limits = LIMITS) -> Inspected:
    """Unpacks an archive below `scratch`, reads what is in it, and removes it again; as `unpack_release`."""
    tree = os.path.join(scratch, "inspected")
    try:
        return unpack_release(archive, tree, limits)
    finally:
        remove_tree(tree)


def unpack_release(archive: str, tree: str, limits: Limits = LIMITS) -> Inspected:
    """Unpacks an archive into the directory `tree`, which is not there yet, and reads what is in it.

    Raises:
        InstallError: it is damaged or hostile, or name or version cannot be those of a release.
        InvalidManifestError: the manifest is missing or wrong.
    """
    digest, size = file_digest(archive)
    if not 0 < size <= LARGEST_ARCHIVE:
        raise InstallError(f"{archive} has {size:,} bytes, which no release may have")
    tree_digest = unpack(archive, tree, limits).digest
    manifest = _manifest(archive, tree)
    name = check_name(manifest.name.lower())
    return Inspected(manifest, name, release_version(manifest), digest, tree_digest, size)


def release_version(manifest: AgentManifest) -> str:
    """The version under which an agent is published: `1.0.0-beta.1` is published as `1.0.0b1`.

    Raises:
        InvalidManifestError: it is not PEP 440, or a local version, which is not for publishing.
    """
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(manifest.version)
    except InvalidVersion:
        version = None
    if version is None or version.local or not is_version(str(version)):
        raise InvalidManifestError(
            f"{manifest.name}: {manifest.version!r} is not a version that can be published",
            suggestion="write for example 1.2.0, 1.2.0rc1 or 1.2.0.post1 (PEP 440) in agent.yaml",
        )
    return str(version)


def release_of(owner: str, found: Inspected, published_at: str, published_by: str) -> Release:
    """The release that an inspected archive is."""
    manifest = found.manifest
    requirements = manifest.dependencies
    return Release(
        owner=owner,
        name=found.name,
        version=found.version,
        file=archive_place(owner, found.name, found.version),
        digest=found.digest,
        tree_digest=found.tree_digest,
        size=found.size,
        python=manifest.python_version or None,
        published_at=published_at,
        published_by=published_by,
        permissions=manifest.permissions,
        methods={name: method.description for name, method in manifest.methods.items()},
        environment=tuple(
            {"name": each.name, "required": each.required, "secret": each.secret} for each in manifest.environment
        ),
        requires=dict(manifest.requires),
        dependencies=requirements if isinstance(requirements, tuple) else None,
    )


def archive_place(owner: str, name: str, version: str) -> str:
    """Where a release's archive is in its index."""
    return f"{FILES}/{owner}/{name}/{name}-{version}{SUFFIX}"


def file_digest(path: str) -> tuple[str, int]:
    """`"sha256:…"` and size of a file.

    Raises:
        InstallError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return f"sha256:{digest}", file.tell()
    except OSError as error:
        raise InstallError(f"cannot read {path}: {error.strerror}") from error


def _manifest(archive: str, tree: str) -> AgentManifest:
    """The manifest of an unpacked tree; complaints name the archive, not where it was unpacked."""
    try:
        return read_manifest(tree)
    except AgentRuntimeError as error:
        message = error.message.replace(f"{tree}/", "").replace(tree, archive)
        raise InvalidManifestError(
            message if archive in message else f"{archive}: {message}", details=error.details
        ) from None
