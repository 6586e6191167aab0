"""The content of a project's agents, fetched once for a command, whoever needs it first."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from typing import NamedTuple

from agenthub.errors import InstallError
from agenthub.manifest import AgentManifest, read_manifest
from agenthub.packages.sources import Fetched, fetch
from agenthub.packages.spec import Spec, parse_spec, redacted
from agenthub.packages.tree import copy_tree
from agenthub.projects.project_file import git_spec
from agenthub.runtime.runs.permissions import asked_permissions
from agenthub.trust.trusted import ARCHIVE, trusted_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.packages.sources import FetchIndex
    from agenthub.packages.store import Store
    from agenthub.projects.lock_file import LockedAgent
    from agenthub.projects.project_file import Wanted
    from agenthub.projects.supply import Supply

    Say = Callable[[str], None]


class Tree(NamedTuple):
    """An agent's content in a directory of ours, which may be moved away.

    `packages` are those that a lock adds to it, and that may be others than it declares.
    """

    directory: str
    fetched: Fetched
    manifest: AgentManifest
    packages: tuple[str, ...] = ()


class Trees:
    """Fetches agents into staging directories, which are gone when it is closed. May be used from several threads.

    Args:
        store: where.
        project: the project's directory, which paths are relative to.
        fetcher: gives what fetches agents from the index of a name, or (None) from the one that an owner belongs to.
        say: called with a line of what is being done.
        supply: has what was locked, before sources are asked for it.
    """

    def __init__(
        self,
        store: Store,
        project: str,
        fetcher: Callable[[str | None], FetchIndex],
        say: Say,
        supply: Supply | None = None,
    ) -> None:
        self.at: dict[str, str | None] = {}  # by label, the index that agents.toml names
        self._store = store
        self._project = project
        self._fetcher = fetcher
        self._supply = supply
        self._fetchers: dict[str | None, FetchIndex] = {}
        self._say = say
        self._taken: dict[str, Tree] = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._trees: dict[tuple[str, str], Tree] = {}

    def __enter__(self) -> Trees:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wanted(self, wanted: Wanted, keep: LockedAgent | None = None) -> Tree:
        """What `agents.toml` asks for, or of that what the lock already fixed: the commit, or the version."""
        taken = self._taken.get(wanted.label)
        if taken is not None:
            return taken
        return self._fetch(wanted.label, self._spec(wanted.label, wanted.source, keep), keep)

    def locked(self, locked: LockedAgent) -> Tree:
        """What the lock fixed.

        Raises:
            InstallError: the source gives something else now.
        """
        tree = self._trees.get((locked.label, locked.digest))
        if tree is None:
            tree = self._supplied(locked)
        if tree is None:
            tree = self._fetch(locked.label, self._spec(locked.label, locked.source, locked), locked)
        archive = tree.fetched.source.get("archive_digest")
        given, wanted = tree.fetched.digest, locked.digest
        if given == wanted and locked.archive:
            given, wanted = str(archive), locked.archive
        if given != wanted:
            raise InstallError(
                f"{locked.label} is not what was locked: {_place(locked)} gives {given[:19]} now, "
                f"and agents.lock has {wanted[:19]}",
                suggestion=f"if that is meant: agenthub lock --upgrade {locked.label}",
            )
        return tree

    def notes(self) -> list[str]:
        """What the user should know of what was fetched."""
        return [f"{label}: {note}" for (label, _), tree in sorted(self._trees.items()) for note in tree.fetched.notes]

    def take(self, spec: Spec) -> Tree:
        """What a SPEC names, for an agent that is not in `agents.toml` yet; `call` follows."""
        tree = self._fetch(spec.text, spec, None)
        self._trees.pop((spec.text, tree.fetched.digest))
        return tree

    def call(self, tree: Tree, label: str) -> None:
        """Says what an agent is called that was taken before that was known."""
        self._taken[label] = self._trees[label, tree.fetched.digest] = tree

    def _fetch(self, label: str, spec: Spec, keep: LockedAgent | None) -> Tree:
        with self._lock:
            staging = self._stack.enter_context(self._store.new_staging())
        directory = os.path.join(staging, "tree")
        self._say(f"fetching {label}")
        fetched = self._from_cache(keep, directory) if keep and spec.kind == "git" else None
        if fetched is None:
            fetched = fetch(spec, directory, self._say, fetch_index=self._index(label))
            if spec.kind == "git":
                self._to_cache(directory, fetched.digest)
        return self._noted(label, directory, fetched)

    def _supplied(self, locked: LockedAgent) -> Tree | None:
        if self._supply is None:
            return None
        with self._lock:
            staging = self._stack.enter_context(self._store.new_staging())
        directory = os.path.join(staging, "tree")
        fetched = self._supply.tree(locked, directory)
        return self._noted(locked.label, directory, fetched) if fetched is not None else None

    def _noted(self, label: str, directory: str, fetched: Fetched) -> Tree:
        manifest = read_manifest(directory)
        asked_permissions(manifest)  # refuses what cannot be held
        owner = label.partition("/")[0]
        keys = [entry for entry in trusted_of(self._store.paths, owner) if entry.kind != ARCHIVE]
        if keys and fetched.source["kind"] != "index":
            note = f"it is called as {owner}'s agents are, whose releases are signed, and this is not"
            fetched = fetched._replace(notes=(*fetched.notes, note))
        tree = Tree(directory, fetched, manifest)
        with self._lock:
            self._trees[label, fetched.digest] = tree
        return tree

    def _index(self, label: str) -> FetchIndex:
        with self._lock:
            at = self.at.get(label)
            if at not in self._fetchers:
                self._fetchers[at] = self._fetcher(at)
            return self._fetchers[at]

    def _spec(self, label: str, source: dict[str, str], keep: LockedAgent | None) -> Spec:
        if "path" in source:
            return parse_spec(os.path.join(self._project, source["path"]))
        if "git" in source:
            return git_spec(self._project, source, keep.commit if keep else None)
        wanted = (keep.commit or f"=={keep.version}") if keep else source["version"]
        return parse_spec(f"{label}@{wanted}" if wanted != "*" else label)

    def _from_cache(self, locked: LockedAgent, directory: str) -> Fetched | None:
        """A commit's content never changes: it is taken from the cache where that has it, and checked as any source."""
        kept = self._kept(locked.digest)
        if not os.path.isdir(kept):
            return None
        tree = copy_tree(kept, directory)
        if tree.digest != locked.digest:
            from agenthub.packages.files import remove_tree

            remove_tree(directory)
            return None
        spec = git_spec(self._project, locked.source)
        source = {
            "kind": "git",
            "location": redacted(spec.location),
            "ref": spec.ref,
            "commit": locked.commit,
            "subdirectory": spec.subdirectory,
            "digest": tree.digest,
        }
        return Fetched(tree.digest, locked.commit, source, tree.files, tree.bytes)

    def _to_cache(self, directory: str, digest: str) -> None:
        kept = self._kept(digest)
        with suppress(OSError, InstallError):  # a cache is never needed
            if not os.path.isdir(kept):
                os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
                with self._store.new_staging() as staging:
                    copy_tree(directory, os.path.join(staging, "kept"))
                    os.rename(os.path.join(staging, "kept"), kept)

    def _kept(self, digest: str) -> str:
        return os.path.join(self._store.paths.cache, "sources", digest.removeprefix("sha256:")[:24])


def _place(locked: LockedAgent) -> str:
    return locked.source.get("path") or locked.source.get("git") or "its index"
