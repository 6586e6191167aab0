"""Makes one archive of an agent's directory: the same files are the same bytes, on every machine.

The archive is a zip without compression, whose entries have no times and one of two modes (why: see
docs/decisions/0006-archive.md). Only files and links are in it: a directory without files is not.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from contextlib import suppress
from typing import NamedTuple

from agenthub.config import format_size
from agenthub.errors import InstallError, InvalidManifestError, PermissionDeniedError
from agenthub.packages.files import fsync_directory
from agenthub.packages.ignoring import AGENT_IGNORE, IgnoreLists
from agenthub.packages.leaks import LeakScanner, secret_by_name
from agenthub.packages.ledger import LIMITS, MB, Ledger
from agenthub.packages.spec import MANIFESTS
from agenthub.packages.tree import CHUNK, walk_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

SUFFIX = ".agent"
MAX_FILE = 10 * MB
MAX_SIZE = 50 * MB
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_UNIX = 3


class PackRules(NamedTuple):
    """What may be in an archive.

    Attributes:
        allowed: paths inside the directory, of files that are taken whatever they are.
        max_size: bytes of all files that are not in `allowed`.
        heed_lists: whether ignore lists leave something out.
        max_file: bytes of one file that is not in `allowed`.
        checked: off: everything is taken, as it is of what was published already.
        directories: directories are in it as well, so that those without files are.
    """

    allowed: frozenset[str] = frozenset()
    max_size: int = MAX_SIZE
    heed_lists: bool = True
    max_file: int = MAX_FILE
    checked: bool = True
    directories: bool = False


DEFAULT_RULES = PackRules()


class Packed(NamedTuple):
    """An archive that was made.

    Attributes:
        digest: `"sha256:…"` of the archive's bytes.
        tree_digest: of the tree that it unpacks to, as `TreeSummary.digest`.
        size: of the archive, in bytes.
        files: the paths in it.
        left_out: what the ignore lists left out; a directory ends in a slash.
    """

    digest: str
    tree_digest: str
    size: int
    files: list[str]
    left_out: list[str]


def pack(directory: str, output: str, rules: PackRules = DEFAULT_RULES) -> Packed:
    """Writes the archive of the agent in `directory` to the file `output`, in one step.

    Raises:
        AgentNotFoundError: there is no such directory.
        InvalidManifestError: the ignore lists leave out its manifest.
        InstallError: something in it is refused or cannot be read, or `output` cannot be written; that is as it was.
        PermissionDeniedError: secrets or large files would be published; names them.
    """
    partial = os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.{os.urandom(4).hex()}.partial")
    try:
        with open(partial, "xb+") as file:
            packed = pack_into(directory, file, rules)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, output)
        fsync_directory(os.path.dirname(output) or ".")
    except OSError as error:
        if isinstance(error, PermissionDeniedError):  # which is one of the system's as well
            raise
        raise InstallError(f"cannot write {output}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            os.unlink(partial)
    return packed


def pack_into(directory: str, file: IO[bytes], rules: PackRules = DEFAULT_RULES, *, what: str | None = None) -> Packed:
    """As `pack`, into a file that is open for reading and writing, and empty; messages call it `what`."""
    lists = IgnoreLists(directory)
    packing = _Packing(what or directory, file, rules)
    try:
        walk_tree(directory, packing.ledger, packing.enter, packing.add, lists if rules.heed_lists else None)
        summary = packing.finish()
    except BaseException:
        packing.abandon()
        raise
    if not any(packing.ledger.is_file(name) for name in MANIFESTS):
        _refuse_without_manifest(directory, lists.left_out)
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return Packed(f"sha256:{digest.hexdigest()}", summary, file.tell(), packing.files, lists.left_out)


def _refuse_without_manifest(directory: str, left_out: list[str]) -> None:
    for name in MANIFESTS:
        if name in left_out:
            raise InvalidManifestError(
                f"{directory}: {name} is left out by an ignore list", suggestion=f"add !{name} to {AGENT_IGNORE}"
            )
    raise InvalidManifestError(f"there is no agent.yaml in {directory}")


class _Packing:
    def __init__(self, what: str, file: IO[bytes], rules: PackRules) -> None:
        self.ledger = Ledger(what, LIMITS)
        self.files: list[str] = []
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._rules = rules
        self._refused: list[tuple[str, str]] = []
        self._size = 0
        self._folders: dict[str, int] = {}

    def enter(self, path: str) -> None:
        """Writes a directory, where these are wanted."""
        if self._rules.directories:
            self.ledger.directory(path)
            self._archive.writestr(_entry(f"{path}/", stat.S_IFDIR | 0o755), b"")

    def add(self, path: str, executable: bool, chunks: Iterable[bytes]) -> None:
        """Writes one file."""
        self.ledger.file(path)
        allowed = path in self._rules.allowed or not self._rules.checked
        secret = None if allowed else secret_by_name(path)
        digest = hashlib.sha256()
        with self._archive.open(_entry(path, stat.S_IFREG | (0o755 if executable else 0o644)), "w") as entry:
            for chunk in self._checked(path, chunks) if secret is None and not allowed else chunks:
                self.ledger.grow(len(chunk), path)
                digest.update(chunk)
                entry.write(chunk)
        if secret is not None:
            self._refused.append((path, f"is {secret}"))
        self.ledger.content(path, executable, digest.digest())
        self.files.append(path)

    def finish(self) -> str:
        """Adds the links and closes the archive; returns the tree's digest.

        Raises:
            InstallError: a link leads out of the tree.
            PermissionDeniedError: something that was added is refused.
        """
        summary = self.ledger.finish()
        for path, target in sorted(self.ledger.links.items()):
            self._archive.writestr(_entry(path, stat.S_IFLNK | 0o777), target.encode())
            self.files.append(path)
        self._archive.close()
        self._refuse()
        return summary.digest

    def abandon(self) -> None:
        """Lets go of an archive that will not be finished."""
        with suppress(OSError, ValueError):
            self._archive.close()

    def _checked(self, path: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        scanner, size = LeakScanner(), 0
        for chunk in chunks:
            size += len(chunk)
            if size > self._rules.max_file:
                self._refused.append((path, f"is larger than {format_size(self._rules.max_file)}"))
                return
            scanner.feed(chunk)
            yield chunk
        if scanner.found is not None:
            self._refused.append((path, f"holds {scanner.found}"))
        self._count(path, size)

    def _count(self, path: str, size: int) -> None:
        top, slash, _ = path.partition("/")
        self._folders[top + slash] = self._folders.get(top + slash, 0) + size
        self._size += size
        if self._size > self._rules.max_size + MAX_FILE * 10:
            self._refuse()
            self._refuse_size()

    def _refuse(self) -> None:
        if not self._refused:
            if self._size > self._rules.max_size:
                self._refuse_size()
            return
        path, reason = self._refused[0]
        more = [f"{path} {reason}" for path, reason in self._refused[1:]]
        count = f", and {len(more)} more" if more else ""
        raise PermissionDeniedError(
            f"{self.ledger.what} is not packed: {path} {reason}{count}",
            details=more,
            suggestion=f"leave it out with a line in {AGENT_IGNORE}, or take it with --allow-file {path}",
        )

    def _refuse_size(self) -> None:
        largest = sorted(self._folders.items(), key=lambda item: (-item[1], item[0]))[:3]
        shown = ", ".join(f"{name} ({format_size(size)})" for name, size in largest)
        limit = format_size(self._rules.max_size)
        raise PermissionDeniedError(
            f"{self.ledger.what} is not packed: it is larger than {limit}; most of it is {shown}",
            suggestion=f"leave out what does not belong in it with lines in {AGENT_IGNORE}, or allow --max-size SIZE",
        )


def _entry(path: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _EPOCH)
    entry.create_system = _UNIX
    entry.external_attr = mode << 16
    return entry
