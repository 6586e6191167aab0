"""The one file that travels: a zip without compression, with a list of its files, their sizes and digests.

The same content is the same bytes. A reader takes nothing that is not in the list, and opens nothing before all of it
is what the list says.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import struct
import zipfile
from contextlib import suppress
from typing import Any, NamedTuple

from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError
from agenthub.packages.archives import CappedReader
from agenthub.packages.files import fsync_directory, storing
from agenthub.packages.tree import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

SCHEMA_VERSION = 1
LIST = "manifest.json"
"""The member that lists the others."""

_LARGEST_LIST = 32 << 20
_MOST_FILES = 20_000
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_FILE = stat.S_IFREG | 0o644
_PATH = re.compile(r"(?:[0-9A-Za-z_][0-9A-Za-z._+!-]{0,254}/){0,8}[0-9A-Za-z_][0-9A-Za-z._+!-]{0,254}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_DAMAGE = (zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError, OverflowError, NotImplementedError)


class Listed(NamedTuple):
    """What the list says of one file: its bytes, and `"sha256:…"` of them."""

    size: int
    digest: str


class Written(NamedTuple):
    """A container that was written: `"sha256:…"` of the whole file, and its bytes."""

    digest: str
    size: int


def write_container(path: str, kind: str, values: Mapping[str, Any], files: Mapping[str, str]) -> Written:
    """Writes the file `path`, in one step.

    Args:
        path: the file; one that is there is replaced.
        kind: what it is, for readers.
        values: what they are told besides; what can be JSON.
        files: the members: paths inside by paths on this machine.

    Raises:
        InstallError: it cannot be written; `path` is as it was.
    """
    partial = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.urandom(4).hex()}.partial")
    try:
        with open(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
            _write(file, kind, values, files)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask() if kind == "bundle" else 0o600)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        os.replace(partial, path)
        fsync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        if isinstance(error, AgentRuntimeError):
            raise
        raise InstallError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            os.unlink(partial)
    return Written(f"sha256:{digest}", size)


def _write(file: IO[bytes], kind: str, values: Mapping[str, Any], files: Mapping[str, str]) -> None:
    listed = {inside: _described(outside) for inside, outside in files.items()}
    document = {"schema_version": SCHEMA_VERSION, "kind": kind, **values, "files": listed}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(LIST), json.dumps(document, sort_keys=True, indent=1).encode())
        for inside, outside in sorted(files.items()):
            member = _entry(inside)
            member.file_size = listed[inside][0]  # which says whether it needs the format for large files
            with open(outside, "rb") as source, archive.open(member, "w") as entry:
                while chunk := source.read(CHUNK):
                    entry.write(chunk)


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _EPOCH)
    entry.create_system = 3
    entry.external_attr = _FILE << 16
    return entry


def _described(path: str) -> Listed:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Listed(file.tell(), f"sha256:{digest}")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


class Container:
    """A container that is being read; a context.

    Args:
        path: the file.
        kinds: which it may be.

    Raises:
        AgentNotFoundError: there is no such file.
        InstallError: it is cut off, damaged, hostile, of another kind, or a newer agenthub wrote it.
    """

    def __init__(self, path: str, *kinds: str) -> None:
        self.path = path
        try:
            self._file = CappedReader(io.FileIO(path))
        except FileNotFoundError:
            raise AgentNotFoundError(f"there is no file {path}") from None
        except OSError as error:
            raise InstallError(f"cannot read {path}: {error.strerror}") from error
        try:
            with self._damage():
                self._archive = zipfile.ZipFile(self._file)
                self.values = self._read_list(kinds)
                self.files = self._read_files()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()
        self._file.close()

    def refusal(self, reason: str) -> InstallError:
        """The error that says why this file is refused."""
        return InstallError(f"{self.path} is refused: {reason}")

    def extract(self, target: str) -> dict[str, str]:
        """Copies every file into the directory `target` under a name of ours; returns these paths by paths inside.

        Raises:
            InstallError: one of them is not what the list says.
            StoreError: `target` cannot be written.
        """
        places = {}
        for number, (name, listed) in enumerate(sorted(self.files.items())):
            places[name] = os.path.join(target, str(number))
            if self._copy(name, places[name]) != listed:
                raise self.refusal(f"{name} is not what its list says")
        return places

    def _copy(self, name: str, target: str) -> Listed:
        digest, size = hashlib.sha256(), 0
        with storing("write", target), open(target, "xb") as file:
            for chunk in self._chunks(name):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        return Listed(size, f"sha256:{digest.hexdigest()}")

    def _chunks(self, name: str) -> Any:
        with self._damage():
            member = self._archive.open(name)
        with member:
            while True:
                with self._damage():
                    chunk = member.read(CHUNK)
                if not chunk:
                    return
                yield chunk

    def _read_list(self, kinds: tuple[str, ...]) -> dict[str, Any]:
        first = min(self._archive.infolist(), key=lambda member: member.header_offset, default=None)
        if first is None or first.header_offset or first.filename != LIST or first.file_size > _LARGEST_LIST:
            if self._begins_as_ours():  # what was found at its end is that of an archive inside
                raise zipfile.BadZipFile("its end is missing")
            raise self._foreign(kinds)
        self._check_member(first)
        values = json.loads(self._archive.read(first))
        if not isinstance(values, dict) or values.get("kind") not in kinds:
            raise self._foreign(kinds)
        version = values.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InstallError(
                f"{self.path} was written by a newer agenthub (schema {version}, not {SCHEMA_VERSION})",
                suggestion="upgrade agenthub",
            )
        return values

    def _begins_as_ours(self) -> bool:
        self._file.seek(0)
        start = self._file.read(30 + len(LIST))
        return start.startswith(b"PK\x03\x04") and start[30:] == LIST.encode()

    def _foreign(self, kinds: tuple[str, ...]) -> InstallError:
        return InstallError(f"{self.path} is no {' and no '.join(kinds)} of agenthub's")

    def _read_files(self) -> dict[str, Listed]:
        files = _parse_files(self.values.get("files"))
        if files is None:
            raise self.refusal("its list of files is damaged")
        seen = {LIST}
        for member in self._archive.infolist():
            if member.filename == LIST and member is self._archive.getinfo(LIST):
                continue
            if member.filename in seen:
                raise self.refusal(f"{_shown(member.filename)} is in it twice")
            if member.filename not in files:
                raise self.refusal(f"{_shown(member.filename)} is not in its list")
            self._check_member(member)
            if member.file_size != files[member.filename].size:
                raise self.refusal(f"{member.filename} is not what its list says")
            seen.add(member.filename)
        lacking = sorted(files.keys() - seen)
        if lacking:
            raise self.refusal(f"{lacking[0]} is in its list, and not in the file")
        if sum(listed.size for listed in files.values()) > os.fstat(self._file.fileno()).st_size:
            raise self.refusal("it says that it is larger than it is")
        return files

    def _check_member(self, member: zipfile.ZipInfo) -> None:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x41:
            raise self.refusal(f"{_shown(member.filename)} is compressed or encrypted")
        if kind not in (0, stat.S_IFREG) or member.is_dir():
            raise self.refusal(f"{_shown(member.filename)} is not a file")

    def _damage(self) -> _Damage:
        return _Damage(self.path)


class _Damage:
    """Turns what the library says of a damaged file into our error."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _DAMAGE) and not isinstance(error, AgentRuntimeError):
            raise InstallError(
                f"{self._path} is damaged, or was cut off: {str(error) or type(error).__name__}",
                suggestion="copy it again, and compare its sha256",
            ) from error


def _parse_files(value: Any) -> dict[str, Listed] | None:
    if not isinstance(value, dict) or len(value) > _MOST_FILES:
        return None
    files = {}
    for path, listed in value.items():
        sound = isinstance(listed, list) and len(listed) == 2 and type(listed[0]) is int and listed[0] >= 0
        if not sound or not isinstance(listed[1], str) or not _DIGEST.fullmatch(listed[1]):
            return None
        if not _PATH.fullmatch(path) or path == LIST:
            return None
        files[path] = Listed(listed[0], listed[1])
    return files


def _shown(name: str) -> str:
    return repr(name[:200])
