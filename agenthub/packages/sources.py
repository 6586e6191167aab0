"""Gets an agent's tree from where a `Spec` says: one door for directories, archives, git and indexes."""

from __future__ import annotations

from typing import Any, NamedTuple

from agenthub.errors import InstallError
from agenthub.packages.ledger import LIMITS, Limits
from agenthub.packages.spec import Spec, redacted
from agenthub.packages.tree import copy_tree, tree_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    FetchIndex = Callable[[Spec, str, Callable[[str], None] | None], "Fetched"]


class Fetched(NamedTuple):
    """A tree that was fetched and checked.

    Attributes:
        digest: `"sha256:…"` of the tree, whatever it came from.
        commit: the full commit of a git source.
        source: what an install record keeps: `kind location ref commit subdirectory digest`, for an archive and for
            an index `archive_digest`, the sha256 of the file, and for an index `index` (its address) and `version`.
            No passwords.
        files: how many files the tree has.
        bytes: their size.
        notes: what the user should know of it before it is installed.
        accepted: called when the user agreed to it, if anything is to be remembered then.
    """

    digest: str
    commit: str | None
    source: dict[str, Any]
    files: int
    bytes: int
    notes: tuple[str, ...] = ()
    accepted: Callable[[], None] | None = None


def fetch(
    spec: Spec,
    target: str,
    on_progress: Callable[[str], None] | None = None,
    *,
    limits: Limits = LIMITS,
    fetch_index: FetchIndex | None = None,
) -> Fetched:
    """Puts the agent's tree into the directory `target`, which must not exist yet, and is gone again on failure.

    Args:
        spec: the source.
        target: the directory.
        on_progress: called with a line of what is being done.
        limits: the caps on the tree.
        fetch_index: does it for a spec of kind `"index"`, in the same way.

    Raises:
        InstallError: the source cannot be had or is refused.
        AgentNotFoundError: the source is not there.
    """
    commit = archive_digest = None
    if spec.kind == "directory":
        tree = copy_tree(spec.location, target, limits=limits)
    elif spec.kind == "archive":
        from agenthub.packages.archives import unpack

        archive_digest = file_digest(spec.location)
        tree = unpack(spec.location, target, limits)
    elif spec.kind == "git":
        from agenthub.packages.git import fetch_git

        commit, tree = fetch_git(spec, target, on_progress, limits=limits)
    elif fetch_index is not None:
        return fetch_index(spec, target, on_progress)
    else:
        raise InstallError(f"'{spec.text}' is an agent of an index, which is not asked here")
    return Fetched(tree.digest, commit, _source(spec, tree.digest, commit, archive_digest), tree.files, tree.bytes)


def digest_of(spec: Spec) -> str | None:
    """The digest that `fetch` would return, where that is cheap to know: for a directory."""
    return tree_digest(spec.location) if spec.kind == "directory" else None


def _source(spec: Spec, digest: str, commit: str | None, archive_digest: str | None) -> dict[str, Any]:
    source = {
        "kind": spec.kind,
        "location": redacted(spec.location),
        "ref": spec.ref,
        "commit": commit,
        "subdirectory": spec.subdirectory,
        "digest": digest,
    }
    return source | {"archive_digest": archive_digest} if archive_digest else source


def file_digest(path: str) -> str:
    """`"sha256:…"` of a file.

    Raises:
        InstallError: it cannot be read.
    """
    import hashlib

    try:
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise InstallError(f"cannot read {path}: {error.strerror}") from error
