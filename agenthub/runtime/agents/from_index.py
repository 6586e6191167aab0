"""Installing from an index: which release, its archive, who vouches for it, and whether it is what the index says."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import partial
from typing import Any

from agenthub.config import Settings
from agenthub.errors import AgentNotFoundError, InstallError, InvalidInputError
from agenthub.indexes.client import IndexClient
from agenthub.indexes.configured import IndexSource
from agenthub.manifest import read_manifest
from agenthub.packages.sources import Fetched, fetch
from agenthub.packages.spec import Spec, parse_spec, redacted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.indexes.choosing import Choice
    from agenthub.indexes.documents import Release
    from agenthub.packages.sources import FetchIndex

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
_TAG = re.compile(r"v?([0-9][0-9A-Za-z.!+_-]*)", re.ASCII)


def index_fetcher(settings: Settings, client: IndexClient | None = None) -> FetchIndex:
    """What `sources.fetch` calls for a spec of kind `"index"`.

    Args:
        settings: of the command.
        client: asks the indexes; None: a new one, when it is needed.
    """
    return lambda spec, target, on_progress: _Fetching(
        spec, target, on_progress, client or IndexClient(settings), settings
    ).run()


class _Fetching:
    """One agent on its way from an index into a directory."""

    def __init__(
        self,
        spec: Spec,
        target: str,
        on_progress: Callable[[str], None] | None,
        client: IndexClient,
        settings: Settings,
    ) -> None:
        self._spec = spec
        self._target = target
        self._on_progress = on_progress
        self._client = client
        self._settings = settings

    def run(self) -> Fetched:
        """Finds it, fetches it, and checks it."""
        spec, client = self._spec, self._client
        owner, _, name = spec.location.partition("/")
        try:
            source = client.source(owner, name)
            if source.kind == "git":
                return _from_git(spec, source, self._target, self._on_progress, client, self._settings)
            choice = client.choose(owner, name, spec.ref)
        except AgentNotFoundError as error:
            place = spec.text.partition("@")[0]
            if os.path.exists(place):
                error.suggestion = f"did you mean ./{place}?"
            raise
        archive = self._target + ".agent"
        try:
            client.fetch_archive(choice.release, archive, self._on_progress)
            return self._open(choice, source, archive)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(archive)

    def _open(self, choice: Choice, source: IndexSource, archive: str) -> Fetched:
        """Unpacks an archive whose digest is right, once it is known who vouches for it."""
        from agenthub.packages.archives import unpack
        from agenthub.trust.releases import check_release, remember

        release, settings = choice.release, self._settings
        signature = partial(self._client.fetch_file, release)
        provenance = check_release(settings, release.owner, release.name, release, archive, signature)
        tree = unpack(archive, self._target)
        _check_content(release, source, tree.digest, self._target)
        record: dict[str, Any] = {
            "kind": "index",
            "location": self._spec.location,
            "index": source.url,
            "ref": self._spec.ref,
            "version": release.version,
            "commit": None,
            "subdirectory": None,
            "digest": tree.digest,
            "archive_digest": release.digest,
            **provenance.to_record(),
        }
        accepted = partial(remember, settings.paths, release.owner, provenance)
        notes = (*choice.notes, provenance.words())
        return Fetched(tree.digest, None, record, tree.files, tree.bytes, notes, accepted)


def _check_content(release: Release, source: IndexSource, digest: str, tree: str) -> None:
    """The archive is the one that was published: whether it is also the agent that the index says it is."""
    from packaging.version import InvalidVersion, Version

    manifest = read_manifest(tree)
    wrong = ""
    if digest != release.tree_digest:
        wrong = "its content is another one"
    elif manifest.name.lower() != release.name:
        wrong = f"it is the agent '{manifest.name}'"
    else:
        try:
            same = Version(manifest.version) == Version(release.version)
        except InvalidVersion:
            same = manifest.version == release.version
        wrong = "" if same else f"it is version {manifest.version}"
    if wrong:
        raise InstallError(
            f"{release.label} of {source.name} is not what the index says: {wrong}",
            suggestion="nothing of it was run; tell whoever runs the index",
        )


def _from_git(
    spec: Spec,
    source: IndexSource,
    target: str,
    on_progress: Callable[[str], None] | None,
    client: IndexClient,
    settings: Settings,
) -> Fetched:
    """From a git host that is mapped: a version is a tag, `v1.2` or `1.2`; else the ref may be a branch."""
    from agenthub.trust.releases import check_unsigned

    owner, _, name = spec.location.partition("/")
    git = git_spec(source, owner, name, spec.ref)
    fetched = fetch(git, target, on_progress)
    check_unsigned(settings, owner, f"{owner}/{name} of {source.name}", fetched.digest)
    client.note(owner, source, name, 0)
    record = {
        **fetched.source,
        "kind": "index",
        "location": spec.location,
        "index": source.url,
        "url": redacted(git.location),
        "ref": spec.ref,
        "tag": git.ref,
    }
    return fetched._replace(source=record)


def git_spec(source: IndexSource, owner: str, name: str, wanted: str | None) -> Spec:
    """Where a mapped git host has an agent, at what `wanted` means; None: at its default branch."""
    git = parse_spec(source.url.replace("{owner}", owner).replace("{name}", name))
    return git if wanted is None else git._replace(ref=_git_ref(git, wanted))


def _git_ref(git: Spec, wanted: str) -> str | None:
    from agenthub.packages.git import list_refs
    from agenthub.packages.versions import matching

    if _COMMIT.fullmatch(wanted):  # as a lock has it
        return wanted
    refs = list_refs(git)
    if wanted in refs:
        return wanted
    tags = {match[1]: ref for ref in reversed(refs) if (match := _TAG.fullmatch(ref))}
    try:
        fitting = matching(wanted, tags)
    except InvalidInputError:
        fitting = []
    if fitting:
        return tags[fitting[0]]
    if wanted == "latest":
        return None  # nothing is tagged: its default branch
    known = ", ".join(refs[:10])
    raise AgentNotFoundError(
        f"{redacted(git.location)} has no {wanted}", suggestion=f"it has: {known}" if known else "it has no branches"
    )
