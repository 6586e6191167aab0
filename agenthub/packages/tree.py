"""Copies an agent's directory into the store, and computes its digest, in one pass.

Nothing is written through a path: every directory is opened from its parent without following links, so that a tree
that changes underneath cannot redirect a write. Links are made last.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Protocol

from agenthub.errors import AgentNotFoundError, InstallError
from agenthub.packages.files import remove_tree, storing
from agenthub.packages.ledger import LIMITS, Ledger, Limits, TreeSummary, is_skipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: str, target: str, *, limits: Limits = LIMITS) -> TreeSummary:
    """Copies the directory `source` to `target`, which must not exist yet.

    Modes become 644 and 755; links inside the tree stay links; see `ledger.SKIPPED` for what is left out.

    Raises:
        InstallError: something in the tree is refused (named), or cannot be read; `target` is gone again.
        StoreError: `target` cannot be written; it is gone again.
    """
    real_source = os.path.realpath(source)
    if os.path.commonpath((real_source, os.path.realpath(target))) == real_source:
        raise InstallError(
            f"{source} contains agenthub's own directory {target}",
            suggestion="set AGENTHUB_HOME to a directory outside the agent's",
        )
    ledger = Ledger(source, limits)
    with TreeWriter(target, ledger) as writer:
        walk_tree(source, ledger, writer.directory, writer.file)
        return writer.finish()


def tree_digest(path: str, *, limits: Limits = LIMITS) -> str:
    """The digest that `copy_tree` would return for the directory `path`, without a copy.

    Raises:
        InstallError: as for `copy_tree`.
    """
    ledger = Ledger(path, limits)

    def read(name: str, executable: bool, chunks: Iterable[bytes]) -> None:
        ledger.file(name)
        digest = hashlib.sha256()
        for chunk in chunks:
            ledger.grow(len(chunk), name)
            digest.update(chunk)
        ledger.content(name, executable, digest.digest())

    walk_tree(path, ledger, ledger.directory, read)
    return ledger.finish().digest


class TreeWriter:
    """Makes a directory and fills it with what its ledger accepts; a context that leaves nothing when it fails.

    Args:
        target: the directory, which must not exist yet.
        ledger: what judges each entry before it is written.
    """

    def __init__(self, target: str, ledger: Ledger) -> None:
        self.target = target
        self.ledger = ledger
        self._parent = ""
        self._parent_fd = -1

    def __enter__(self) -> TreeWriter:
        with storing("write", self.target):
            os.mkdir(self.target, 0o755)
            self._root_fd = os.open(self.target, _DIRECTORY)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._leave()
        os.close(self._root_fd)
        if kind is not None:
            remove_tree(self.target)

    def directory(self, path: str) -> None:
        """Makes a directory, and its parents."""
        self.ledger.directory(path)
        with storing("write", os.path.join(self.target, path)):
            self._enter(path)

    def file(self, path: str, executable: bool, chunks: Iterable[bytes]) -> None:
        """Writes a file from its chunks."""
        self.ledger.file(path)
        parent, _, name = path.rpartition("/")
        digest = hashlib.sha256()
        place = os.path.join(self.target, path)
        with storing("write", place):
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=self._enter(parent))
        try:
            for chunk in chunks:
                self.ledger.grow(len(chunk), path)
                digest.update(chunk)
                with storing("write", place):
                    _write_all(descriptor, chunk)
            with storing("write", place):
                os.fchmod(descriptor, 0o755 if executable else 0o644)
        finally:
            os.close(descriptor)
        self.ledger.content(path, executable, digest.digest())

    def read(self, path: str) -> Iterator[bytes]:
        """The chunks of a file that was written before."""
        parent, _, name = path.rpartition("/")
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._enter(parent))
        try:
            yield from _chunks(descriptor)
        finally:
            os.close(descriptor)

    def strip(self, top: str) -> None:
        """Moves all that is in the directory `top` up, and does away with `top`."""
        self._leave()
        with storing("write", self.target):
            os.rename(top, ".agenthub", src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)  # no entry is called so
            inner = os.open(".agenthub", _DIRECTORY, dir_fd=self._root_fd)
            try:
                for name in os.listdir(inner):
                    os.rename(name, name, src_dir_fd=inner, dst_dir_fd=self._root_fd)
            finally:
                os.close(inner)
            os.rmdir(".agenthub", dir_fd=self._root_fd)
        self.ledger.strip(top)

    def finish(self) -> TreeSummary:
        """Makes the links, now that it is known where they lead."""
        summary = self.ledger.finish()
        for path, target in sorted(self.ledger.links.items()):
            parent, _, name = path.rpartition("/")
            with storing("write", os.path.join(self.target, path)):
                os.symlink(target, name, dir_fd=self._enter(parent))
        return summary

    def _enter(self, path: str) -> int:
        """The descriptor of a directory of the target, made if need be; valid until the next call."""
        if not path:
            return self._root_fd
        if path == self._parent:
            return self._parent_fd
        self._leave()
        self._parent_fd = os.dup(self._root_fd)
        for name in path.split("/"):
            inner = _open_directory(name, self._parent_fd)
            os.close(self._parent_fd)
            self._parent_fd = inner
        self._parent = path
        return self._parent_fd

    def _leave(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent, self._parent_fd = "", -1


def _open_directory(name: str, parent: int) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    os.fchmod(descriptor, 0o755)
    return descriptor


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _chunks(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, CHUNK):
        yield chunk


class Selection(Protocol):
    """What of a directory is wanted, beyond `is_skipped`."""

    def enter(self, descriptor: int, prefix: str) -> None:
        """A directory that is about to be visited; `prefix` is its path with a slash, or empty."""

    def leaves_out(self, path: str, directory: bool) -> bool:
        """Whether this entry, and all below it, is left out."""


def walk_tree(
    source: str,
    ledger: Ledger,
    directory: Callable[[str], None],
    file: Callable[[str, bool, Iterable[bytes]], None],
    selection: Selection | None = None,
) -> None:
    """Visits the directory `source` in a fixed order, files before directories, without following a link.

    Args:
        source: the directory.
        ledger: judges what is found; it is told of links, and the callables tell it of the rest.
        directory: called with the path of each directory.
        file: called with path, whether it is executable, and chunks of content.
        selection: what is wanted; None: everything.

    Raises:
        AgentNotFoundError: there is no such directory.
        InstallError: something in it is refused, or cannot be read.
    """
    try:
        root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise AgentNotFoundError(f"there is no directory {source}") from None
    except OSError as error:
        raise InstallError(f"cannot read {source}: {error.strerror}") from error
    _Walk(ledger, directory, file, selection).descend(root, "")


class _Walk:
    def __init__(
        self,
        ledger: Ledger,
        directory: Callable[[str], None],
        file: Callable[[str, bool, Iterable[bytes]], None],
        selection: Selection | None,
    ) -> None:
        self._ledger = ledger
        self._directory = directory
        self._file = file
        self._selection = selection

    def descend(self, descriptor: int, prefix: str) -> None:
        """Visits a directory's files, then its directories; closes the descriptor."""
        inner = []
        try:
            if self._selection is not None:
                self._selection.enter(descriptor, prefix)
            for name in sorted(os.listdir(descriptor)):
                self._ledger.count()
                path = prefix + name
                if not is_skipped(name) and self._visit(descriptor, name, path):
                    inner.append(name)
            for name in inner:
                self._directory(prefix + name)
                self.descend(self._open(descriptor, name, prefix + name, _DIRECTORY), f"{prefix}{name}/")
        finally:
            os.close(descriptor)

    def _visit(self, parent: int, name: str, path: str) -> bool:
        """Takes a file or a link; True for a directory, whose turn comes later."""
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if self._selection is not None and self._selection.leaves_out(path, stat.S_ISDIR(mode)):
                return False
            if stat.S_ISLNK(mode):
                self._ledger.link(path, os.readlink(name, dir_fd=parent))
                return False
        except OSError as error:
            raise self._unreadable(path, error) from error
        if stat.S_ISDIR(mode):
            return True
        if not stat.S_ISREG(mode):
            raise self._ledger.refusal(f"is a {_kind(mode)}", path)
        descriptor = self._open(parent, name, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise self._ledger.refusal("changed while it was read", path)
            self._file(path, bool(mode & stat.S_IXUSR), self._contents(descriptor, path))
        finally:
            os.close(descriptor)
        return False

    def _contents(self, descriptor: int, path: str) -> Iterator[bytes]:
        try:
            yield from _chunks(descriptor)
        except OSError as error:
            raise self._unreadable(path, error) from error

    def _open(self, parent: int, name: str, path: str, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=parent)
        except OSError as error:
            raise self._unreadable(path, error) from error

    def _unreadable(self, path: str, error: OSError) -> InstallError:
        return InstallError(f"cannot read {self._ledger.what}/{path}: {error.strerror}")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"
