"""Unpacks archives that nobody vouches for: every member goes through the ledger, and is written by `TreeWriter`."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from typing import Any

from agenthub.errors import AgentRuntimeError, InstallError
from agenthub.packages.ledger import LIMITS, Ledger, Limits, TreeSummary, is_skipped
from agenthub.packages.spec import MANIFESTS
from agenthub.packages.tree import CHUNK, TreeWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_COMPRESSED_TAR: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_TAR_MAGIC_AT = 257
_MAX_LINK = 4096
# Both libraries read these into memory whole.
_MAX_ZIP_DIRECTORY = 16 << 20
_MAX_TAR_HEADER = 1 << 16
_JUNK = "__MACOSX"  # what the Finder adds to its archives

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,  # how gzip and bz2 report damage
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,  # recursion in a chain of headers too
)


def unpack(archive: str, target: str, limits: Limits = LIMITS) -> TreeSummary:
    """Unpacks a zip or a tar archive (plain, gzip, bzip2, xz; told by content) into `target`, which must not exist.

    A single top directory that holds the manifest is stripped. Modes, links and what is left out: as `copy_tree`.

    Raises:
        InstallError: the archive is damaged, encrypted or hostile; says which member and why. `target` is gone again.
        StoreError: `target` cannot be written; it is gone again.
    """
    ledger = Ledger(archive, limits)
    try:
        file = CappedReader(io.FileIO(archive))
    except OSError as error:
        raise InstallError(f"cannot read {archive}: {error.strerror}") from error
    with file, TreeWriter(target, ledger) as writer:
        try:
            _Unpacking(file, writer, ledger).run()
        except AgentRuntimeError:
            raise
        except _DAMAGE as error:
            raise InstallError(f"{archive} is damaged: {str(error) or type(error).__name__}") from error
        top = ledger.top()
        if top and any(ledger.is_file(f"{top}/{name}") for name in MANIFESTS):
            writer.strip(top)
        return writer.finish()


class _Unpacking:
    def __init__(self, file: IO[bytes], writer: TreeWriter, ledger: Ledger) -> None:
        self._file = file
        self._writer = writer
        self._ledger = ledger
        self._allowed = max(ledger.limits.ratio_from, os.fstat(file.fileno()).st_size * ledger.limits.ratio)

    def run(self) -> None:
        start = self._file.read(_TAR_MAGIC_AT + 8)
        self._file.seek(0)
        if start.startswith(_ZIP):
            self._zip()
            return
        for magic, opened in _COMPRESSED_TAR.items():
            if start.startswith(magic):
                with opened(self._file) as content:
                    self._tar(content)
                return
        if start[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] != b"ustar":
            raise InstallError(f"{self._ledger.what} is neither a zip nor a tar archive")
        self._tar(self._file)

    def _zip(self) -> None:
        with zipfile.ZipFile(self._file) as archive:
            for member in archive.infolist():
                self._zip_member(archive, member)

    def _zip_member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        directory = member.orig_filename.endswith("/")
        path = self._path(member.orig_filename, directory)
        if path is None:
            return
        mode = member.external_attr >> 16
        kind = stat.S_IFMT(mode)
        if member.flag_bits & 0x41:
            raise self._ledger.refusal("is encrypted", path)
        if directory:
            self._writer.directory(path)
        elif kind == stat.S_IFLNK:
            with archive.open(member) as content:
                self._link(path, content.read(_MAX_LINK + 1).decode("utf-8", "surrogateescape"))
        elif kind in (0, stat.S_IFREG):
            self._declared(member.file_size, path)
            before = self._ledger.bytes
            with archive.open(member) as content:
                self._writer.file(path, bool(mode & stat.S_IXUSR), self._contents(content, path, CHUNK))
            if self._ledger.bytes - before != member.file_size:
                raise zipfile.BadZipFile(f"{path!r} has another size than it says")
        else:
            raise self._ledger.refusal("is neither a file, nor a directory, nor a link", path)

    def _tar(self, file: IO[bytes]) -> None:
        stream = _ForwardStream(file, self._ledger)
        with tarfile.TarFile(fileobj=stream, mode="r", errors="surrogateescape") as archive:  # type: ignore[arg-type]
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                self._tar_member(archive, member)
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise InstallError(f"{self._ledger.what} is damaged: it is cut off, or a header in it is wrong")
        stream.drain()

    def _tar_member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._path(member.name, member.isdir())
        if path is None:
            return
        executable = bool(member.mode & stat.S_IXUSR)
        if member.isdir():
            self._writer.directory(path)
        elif member.issym():
            self._link(path, member.linkname)
        elif member.islnk():
            original = self._path(member.linkname, False)
            if original is None or not self._ledger.is_file(original):
                raise self._ledger.refusal("is a hard link to something that is not in it", path)
            self._writer.file(path, executable, self._writer.read(original))
        elif member.isreg():
            self._declared(member.size, path)
            content = archive.extractfile(member)
            assert content is not None
            self._writer.file(path, executable, self._contents(content, path, _MAX_TAR_HEADER))
        else:
            raise self._ledger.refusal("is neither a file, nor a directory, nor a link", path)

    def _path(self, name: str, directory: bool) -> str | None:
        """A member's checked path inside the tree; None for one that is left out."""
        self._ledger.count()
        if "\\" in name or name.startswith("/") or re.match("[A-Za-z]:", name):
            raise self._ledger.refusal("is not a relative path with forward slashes", name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._ledger.refusal("leads out of it", name)
        if not parts and not directory:
            raise self._ledger.refusal("it has an entry without a name")
        if not parts or parts[0] == _JUNK or any(map(is_skipped, parts)):
            return None
        return "/".join(parts)

    def _link(self, path: str, target: str) -> None:
        if len(target) > _MAX_LINK:
            raise self._ledger.refusal("is a link of absurd length", path)
        self._ledger.link(path, target)

    def _declared(self, size: int, path: str) -> None:
        if self._ledger.bytes + size > self._ledger.limits.size:
            self._ledger.grow(size, path)

    def _contents(self, content: IO[bytes], path: str, size: int) -> Iterator[bytes]:
        while chunk := content.read(size):
            yield chunk
            if self._ledger.bytes > self._allowed:
                raise self._ledger.refusal("expands like a bomb", path)


class CappedReader(io.BufferedReader):
    """What zipfile reads from: it asks for the whole table of contents at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_ZIP_DIRECTORY:
            raise zipfile.BadZipFile("its table of contents is of absurd size")
        return super().read(size)


class _ForwardStream:
    """What tarfile reads from: forward only, and never more than it should for a header or in all."""

    def __init__(self, file: IO[bytes], ledger: Ledger) -> None:
        self._file = file
        self._ledger = ledger
        self._limit = ledger.limits.size + ledger.limits.size // 4 + _MAX_TAR_HEADER
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.StreamError("its members overlap")
        while self._position < position and self._take(min(CHUNK, position - self._position)):
            pass

    def read(self, size: int) -> bytes:
        if size > _MAX_TAR_HEADER:
            raise tarfile.ReadError("it has a header of absurd size")
        self.last = self._take(size)
        return self.last

    def drain(self) -> None:
        """Reads to the end, so that the compression's own checksum is checked."""
        while self._take(CHUNK):
            pass

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._position += len(data)
        if self._position > self._limit:
            raise self._ledger.refusal("it expands like a bomb")
        return data
