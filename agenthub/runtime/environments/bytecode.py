"""Bytecode of what is installed, compiled once and shared: an agent may not write any, so it would compile at each run.

The cache has an entry for each distribution, named by the digests of its modules, and is trusted for all agents. So an
entry holds nothing but what this program compiled from files that have these digests, whatever a `RECORD` says.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import NamedTuple

from agenthub.errors import AgentRuntimeError, EnvironmentError
from agenthub.runtime.environments.replacing import is_running, remove
from agenthub.runtime.environments.state import BYTECODE, normalised, python_path, site_packages
from agenthub.runtime.environments.tools import run_tool, tool_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    Progress = Callable[[str], None] | None

COMPILER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compiler.py")
COMPILE_TIMEOUT = 10 * 60.0
"""Seconds for all that is missing of one environment; torch with transformers takes some 30 on two cores."""
_FORMAT = 1
_TESTS = "tests"  # a third of what scientific packages bring, and nothing that a run loads
_NOT_CODE = frozenset(("node_modules", BYTECODE, _TESTS))
_WORTHWHILE = 1000  # bytes of source in a directory; less is compiled faster than a directory is made
_MOST_DIGITS = 12
_LEFT_OUT = frozenset((_TESTS, ".."))
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


class Modules(NamedTuple):
    """The modules of a distribution, or an agent's own.

    root: the directory their paths are relative to.
    digests: path -> SHA-256, as a `RECORD` writes it.
    """

    root: str
    digests: dict[str, str]

    def key(self) -> str:
        """The name of their entry in the cache."""
        lines = (f"{path},{self.digests[path]}\n" for path in sorted(self.digests))
        return hashlib.sha256(f"{_FORMAT}\n{''.join(lines)}".encode("utf-8", "surrogateescape")).hexdigest()[:40]


def add_bytecode(venv: str, modules: Iterable[Modules], cache: str, on_progress: Progress = None) -> None:
    """Puts bytecode beside modules, from the cache or, where that has none, compiled for it.

    Bytecode saves time and is never needed: where the disk is full or something cannot be compiled, there is less.

    Args:
        venv: the environment whose interpreter will load it.
        modules: what to compile.
        cache: a directory; it may be deleted at any time.
        on_progress: called with a line before anything is compiled.
    """
    library = os.path.dirname(site_packages(venv))
    if not library:
        return
    # Bytecode is the same for all releases of a series; in its pre-releases Python itself passes over what is not its.
    series = os.path.join(cache, os.path.basename(library))
    entries = [(found, os.path.join(series, found.key())) for found in modules if found.digests]
    try:
        missing = [pair for pair in entries if not os.path.isdir(pair[1])]
        if missing:
            if on_progress:
                on_progress(f"compiling {sum(len(found.digests) for found, _ in missing):,} modules")
            _compile(python_path(venv), missing, series)
        for found, entry in entries:
            _link(entry, found.root)
    except (OSError, EnvironmentError) as error:
        if isinstance(error, AgentRuntimeError) and not isinstance(error, EnvironmentError):
            raise  # an interruption of ours is an OSError as well


def installed_modules(venv: str, without: Collection[str] = ()) -> list[Modules]:
    """The modules of each installed distribution but those named, as its `RECORD` lists them.

    A distribution that brings bytecode is left out, as one that pip installed and compiled.
    """
    folder = site_packages(venv)
    found = []
    for name in sorted(os.listdir(folder)) if folder else ():
        if name.endswith(".dist-info") and normalised(name.partition("-")[0]) not in without:
            try:
                with open(os.path.join(folder, name, "RECORD"), encoding="utf-8", errors="surrogateescape") as file:
                    record = file.read()
            except OSError:
                continue
            if ".pyc," not in record:
                found.append(Modules(folder, _listed(folder, record)))
    return found


def own_modules(directory: str) -> Modules:
    """The modules of an agent's own directory; environments in there are not its own."""
    digests = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        if os.path.exists(os.path.join(directory, folder, "pyvenv.cfg")):
            continue
        with contextlib.suppress(OSError), os.scandir(os.path.join(directory, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _NOT_CODE and entry.name[0] != ".":
                        pending.append(path)
                elif entry.name.endswith(".py") and entry.is_file(follow_symlinks=False):
                    digests[path] = _digest(entry.path)
    return Modules(directory, digests)


def _listed(folder: str, record: str) -> dict[str, str]:
    digests = {}
    sizes: dict[str, int] = {}
    for line in record.splitlines():
        # A path in quotes has a comma or a quote in it, and is no module.
        path, _, rest = line.partition(",")
        if not path.endswith(".py") or path[0] in '"/' or "\0" in path or not _LEFT_OUT.isdisjoint(path.split("/")):
            continue
        told, _, size = rest.partition(",")
        kind, _, digest = told.partition("=")
        if kind != "sha256" or not size.isdecimal() or len(size) > _MOST_DIGITS:
            try:
                digest = _digest(os.path.join(folder, path))
            except OSError:
                continue
            size = str(_WORTHWHILE)
        digests[path] = digest
        parent = path.rpartition("/")[0]
        sizes[parent] = sizes.get(parent, 0) + int(size)
    return {path: digest for path, digest in digests.items() if sizes[path.rpartition("/")[0]] >= _WORTHWHILE}


def _digest(path: str) -> str:
    import base64

    with open(path, "rb") as file:
        return base64.urlsafe_b64encode(hashlib.sha256(file.read()).digest()).rstrip(b"=").decode()


def _compile(python: str, missing: list[tuple[Modules, str]], series: str) -> None:
    """Compiles what has no entry yet, and enters it: entries appear whole, by a rename."""
    os.makedirs(series, mode=0o700, exist_ok=True)
    _sweep(series)
    place = os.path.join(series, f"{os.urandom(6).hex()}.{os.getpid()}.partial")
    os.mkdir(place)
    try:
        jobs = _write_jobs(place, [found for found, _ in missing])
        argv = [python, "-I", "-S", "-B", "-W", "ignore", COMPILER, jobs]
        finished = run_tool(argv, cwd=place, env=tool_environment(), timeout=COMPILE_TIMEOUT)
        if finished.code:
            raise EnvironmentError(f"{python} cannot compile", details=finished.lines[-5:])
        _sync(place)  # an entry that lost its content with the power would be loaded, and fail
        for number, (_, entry) in enumerate(missing):
            target = os.path.join(place, str(number))
            if not os.path.exists(f"{target}.refused"):
                with contextlib.suppress(OSError):  # another process was faster
                    os.rename(target, entry)
    finally:
        remove(place)


def _write_jobs(place: str, missing: list[Modules]) -> str:
    """The compiler's list of jobs; directory N in `place` becomes the entry of the N-th."""
    import json

    jobs = []
    for number, found in enumerate(missing):
        target = os.path.join(place, str(number))
        os.mkdir(target)
        for path, digest in found.digests.items():
            names = (os.path.join(found.root, path), os.path.join(target, path[: -len(".py")]))
            jobs.append((*names, digest, f"{target}.refused"))
    with open(os.path.join(place, "jobs"), "w", encoding="utf-8") as file:
        json.dump(jobs, file)
    return file.name


def _sweep(series: str) -> None:
    """Removes what killed processes left; another thread of this one may be at work."""
    for name in os.listdir(series):
        if name.endswith(".partial"):
            pid = int(name.split(".")[1])
            if pid != os.getpid() and not is_running(pid):
                remove(os.path.join(series, name))


def _sync(path: str) -> None:
    import ctypes

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        synchronise = getattr(ctypes.CDLL(None), "syncfs", None)
        if synchronise is None or synchronise(descriptor):
            os.sync()
    finally:
        os.close(descriptor)


def _link(entry: str, root: str) -> None:
    """Links an entry's files to beside their modules."""
    pending = [""]
    while pending:
        folder = pending.pop()
        files = []
        try:
            with os.scandir(os.path.join(entry, folder)) as found:
                for each in found:
                    if each.is_dir(follow_symlinks=False):
                        pending.append(os.path.join(folder, each.name))
                    else:
                        files.append((each.path, each.name))
            if files:
                beside = os.path.join(root, folder, BYTECODE)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(beside)
                for path, name in files:
                    _place(path, os.path.join(beside, name))
        except (FileNotFoundError, NotADirectoryError):  # the cache was cleaned, or the modules are not there
            continue


def _place(path: str, target: str) -> None:
    try:
        os.link(path, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        import shutil

        fresh = f"{target}.{os.getpid()}"
        shutil.copyfile(path, fresh)
        os.rename(fresh, target)
