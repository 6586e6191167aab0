"""Archives on their way: resumed where they were cut, and given their name only when their digest is right."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import contextmanager, suppress
from typing import Any

from agenthub.config import Paths, format_size
from agenthub.errors import InstallError
from agenthub.indexes.http import CHUNK, TransferError
from agenthub.packages.files import storing
from agenthub.packages.locks import acquire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SAID_EVERY = 1 << 20


class Archives:
    """Archives in the cache, by their digest, and those that are not whole yet."""

    def __init__(self, paths: Paths) -> None:
        self._folder = os.path.join(paths.index_cache, "archives")

    def take(self, digest: str, target: str) -> bool:
        """Puts an archive that is in the cache at `target`; False where it is not, or is damaged.

        Raises:
            StoreError: `target` cannot be written.
        """
        path = self._path(digest)
        try:
            with open(path, "rb") as file:
                if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != digest:
                    os.unlink(path)
                    return False
        except OSError:
            return False
        with suppress(OSError):
            os.utime(path)  # the least recently used goes first
        with storing("write", target):
            _link_or_copy(path, target)
        return True

    @contextmanager
    def partial(self, digest: str, size: int, waiting: Callable[[], None]) -> Iterator[Partial]:
        """The download of an archive, alone among all processes; what came of it stays for the next attempt.

        Raises:
            StoreError: the cache cannot be written.
        """
        path = self._path(digest) + ".part"
        with storing("write", path):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            descriptor = acquire(path, waiting)
        try:
            yield Partial(path, descriptor, digest, size)
        finally:
            os.close(descriptor)

    def _path(self, digest: str) -> str:
        return os.path.join(self._folder, digest.removeprefix("sha256:") + ".agent")


class Partial:
    """What has come of one archive.

    Attributes:
        have: bytes of it that are there.
        came: bytes that were there when it was found to be another file.
    """

    def __init__(self, path: str, descriptor: int, digest: str, size: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._digest = digest
        self._size = size
        self.have = 0
        self.came = 0
        self._hash = hashlib.sha256()
        self._read()

    def restart(self) -> None:
        """Forgets what came."""
        with storing("write", self._path):
            os.ftruncate(self._descriptor, 0)
        self.have, self._hash = 0, hashlib.sha256()

    def add(self, chunks: Iterable[bytes], say: Callable[[str], None]) -> None:
        """Appends what comes.

        Raises:
            TransferError: from `chunks`, or there is more than the index says.
            StoreError: it cannot be written; where the disk is full, what came is removed.
        """
        said = self.have
        for chunk in chunks:
            if self.have + len(chunk) > self._size:
                self.restart()
                raise TransferError(f"it sends more than the {self._size:,} bytes that the index says", again=False)
            self._write(chunk)
            if self.have - said >= _SAID_EVERY:
                said = self.have
                say(f"{format_size(self.have)} of {format_size(self._size)}")

    def finish(self, target: str) -> bool:
        """Gives it its name in the cache and at `target`; False, and it is forgotten, where its digest is wrong.

        Raises:
            StoreError: it cannot be written.
        """
        if self.have != self._size or f"sha256:{self._hash.hexdigest()}" != self._digest:
            self.came = self.have
            self.restart()
            return False
        final = self._path.removesuffix(".part")
        with storing("write", target):
            os.replace(self._path, final)
            _link_or_copy(final, target)
        return True

    def _read(self) -> None:
        with storing("read", self._path):
            if os.fstat(self._descriptor).st_size > self._size:
                os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            while data := os.read(self._descriptor, CHUNK):
                self._hash.update(data)
                self.have += len(data)

    def _write(self, data: bytes) -> None:
        with storing("write", self._path):
            try:
                view = memoryview(data)
                position = self.have
                while view:
                    written = os.pwrite(self._descriptor, view, position)
                    view, position = view[written:], position + written
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    with suppress(OSError):
                        os.unlink(self._path)
                raise
        self._hash.update(data)
        self.have += len(data)


def copy_checked(source: str, target: str, size: int, digest: str) -> None:
    """Copies an archive from an index on this machine's disk, and checks it.

    Raises:
        InstallError: it cannot be read, or is not what the index says; `target` is not there.
        StoreError: `target` cannot be written.
    """
    hashed, have = hashlib.sha256(), 0
    try:
        with _reading(source) as file, storing("write", target), open(target, "xb") as copy:
            while data := file.read(CHUNK):
                have += len(data)
                if have > size:
                    break
                hashed.update(data)
                copy.write(data)
        if have != size or f"sha256:{hashed.hexdigest()}" != digest:
            raise wrong_content(source, size, have)
    except BaseException:
        with suppress(OSError):
            os.unlink(target)
        raise


def _reading(path: str) -> Any:
    try:
        return open_regular(path)
    except OSError as error:
        raise InstallError(f"cannot read {path}: {error.strerror}") from error


def open_regular(path: str) -> Any:
    """A regular file, open for reading in bytes; nothing that would block for ever.

    Raises:
        OSError: it is not there, or is no regular file.
    """
    import stat

    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file", path)
    return open(descriptor, "rb")


def wrong_content(what: str, size: int, have: int) -> InstallError:
    """The error for an archive that is not the one that the index describes; nothing of it was opened."""
    length = f": it has {have:,} bytes and not {size:,}" if have != size else ": its digest is another one"
    return InstallError(
        f"{what} is not what the index says{length}",
        suggestion="nothing of it was opened; tell whoever runs the index, or try again later",
    )


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        from shutil import copyfile

        copyfile(source, target)
