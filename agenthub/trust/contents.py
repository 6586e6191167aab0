"""A list of every file of an installed version, made when it was installed: what `verify` holds it to, file by file.

The list is `.agenthub/files.json` in the version's directory; the record has its digest. Directories are not in it,
nor is bytecode that agenthub adds later: see `bytecode_check`.
"""

from __future__ import annotations

import hashlib
import os
import stat

from agenthub.config import RECORD
from agenthub.errors import StoreError
from agenthub.packages.files import SCHEMA_VERSION, read_json, storing, write_json
from agenthub.runtime.environment_manager import PENDING_BYTECODE
from agenthub.runtime.environments.state import site_packages
from agenthub.trust.recorded_files import RecordedFiles
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LIST = os.path.join(os.path.dirname(RECORD), "files.json")

_OURS = os.path.dirname(RECORD)
_BLOCK = 1 << 20
_WORKERS = 4
_WORTH_WORKERS = 200  # files
_UNREADABLE = "unreadable"
_WAY_OUT = "install it again with --force"


class Place(NamedTuple):
    """A file.

    Attributes:
        path: where it is.
        name: its path below the version.
        regular: it is no link, nor anything else.
        imported: it lies among the packages; whether it may be executed does not matter there.
    """

    path: str
    name: str
    regular: bool
    imported: bool


def write_list(version_dir: str, venv_location: str) -> str:
    """Writes the list of what is in a version, and returns its digest, `"sha256:…"`.

    Args:
        version_dir: a version that is not complete yet.
        venv_location: where in it the environment is.

    Raises:
        StoreError: something cannot be read, or the list cannot be written.
    """
    recorded = RecordedFiles(site_packages(os.path.join(version_dir, venv_location)))
    files: dict[str, str] = {}
    unknown = []
    for place in _places(version_dir, venv_location):
        digest = recorded.digest(place.path) if place.regular else None
        if digest is None:
            unknown.append(place)
        else:
            files[place.name] = digest
    for place, what in _described(unknown):
        if what == _UNREADABLE:
            raise StoreError(f"cannot read {place.path}")
        files[place.name] = what
    return _write(version_dir, files)


def relist_environment(version_dir: str, venv_location: str) -> str:
    """Writes the list anew after the environment was built again; what it says of the agent's own files stays.

    Returns:
        str: the list's digest; empty where there was no list that could be read.

    Raises:
        StoreError: as for `write_list`.
    """
    inside = venv_location + os.sep

    def is_environment(name: str) -> bool:
        return name == venv_location or name.startswith(inside)

    try:
        own = {name: what for name, what in read_list(version_dir).items() if not is_environment(name)}
    except (FileNotFoundError, StoreError):
        return ""
    write_list(version_dir, venv_location)
    fresh = {name: what for name, what in read_list(version_dir).items() if is_environment(name)}
    return _write(version_dir, own | fresh)


def list_digest(version_dir: str) -> str:
    """`"sha256:…"` of the list as it is now; empty where there is none."""
    try:
        with open(os.path.join(version_dir, LIST), "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""


def read_list(version_dir: str) -> dict[str, str]:
    """What was in a version when it was installed, by path.

    Raises:
        FileNotFoundError: there is no list.
        StoreError: it is damaged.
    """
    path = os.path.join(version_dir, LIST)
    files = read_json(path, _WAY_OUT).get("files")
    if not isinstance(files, dict) or not all(isinstance(what, str) for what in files.values()):
        raise StoreError(f"{path} is damaged: it has no files", suggestion=_WAY_OUT)
    return files


def present_files(version_dir: str, venv_location: str) -> dict[str, str]:
    """Every file and link of a version that is there now, by path; each is read."""
    return {place.name: what for place, what in _described(list(_places(version_dir, venv_location)))}


def _write(version_dir: str, files: dict[str, str]) -> str:
    path = os.path.join(version_dir, LIST)
    folder = os.path.dirname(path)
    with storing("write", path):
        os.makedirs(folder, mode=0o755, exist_ok=True)
    value = {"schema_version": SCHEMA_VERSION, "files": dict(sorted(files.items()))}
    write_json(path, value, folder, durable=False)
    return list_digest(version_dir)


def _places(version_dir: str, venv_location: str) -> Iterator[Place]:
    """Where the files are; an environment that is a link is looked into as well."""
    venv = os.path.join(version_dir, venv_location)
    passing = os.path.join(venv_location, PENDING_BYTECODE)  # is gone after the first run
    roots = [(version_dir, "")]
    if os.path.islink(venv):
        roots.append((os.path.realpath(venv), venv_location + os.sep))
    for root, prefix in roots:
        start = len(root) + 1
        packages = site_packages(root if prefix else venv)
        for path, regular in _walk(root):
            name = prefix + path[start:]
            if name != passing:
                yield Place(path, name, regular, packages != "" and path.startswith(packages + os.sep))


def _walk(root: str) -> Iterator[tuple[str, bool]]:
    """Paths of what is no directory, and whether each is a regular file."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield entry.path, entry.is_file(follow_symlinks=False)
                    elif folder != root or entry.name != _OURS:
                        folders.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"cannot read {folder}: {error.strerror}") from error


def _described(places: list[Place]) -> Iterator[tuple[Place, str]]:
    if len(places) < _WORTH_WORKERS:
        yield from ((place, _describe(place)) for place in places)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_WORKERS) as pool:
        yield from zip(places, pool.map(_describe, places), strict=True)


def _describe(place: Place) -> str:
    """What is there, in a word that is another for other content, another mode or another link."""
    try:
        mode = os.lstat(place.path).st_mode
        if stat.S_ISLNK(mode):
            return f"-> {os.readlink(place.path)}"
        if not stat.S_ISREG(mode):
            return "special"
        digest = hashlib.sha256()
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(place.path, flags), "rb", 0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return _UNREADABLE
    return digest.hexdigest() + (" x" if mode & stat.S_IXUSR and not place.imported else "")
