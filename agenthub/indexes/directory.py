"""An index as a directory: what lies where, and changes that readers see whole or not at all.

Static files are for readers; `.agenthub/` in it is the writers' own. A change puts files in their places first, then
replaces the agent's document by one rename, which is the moment of publication, then the two summaries. What a writer
was about to do stands in a note, so that the next one finishes the summaries, or takes the files away, when it died.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import NamedTuple

from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError
from agenthub.indexes.documents import (
    LARGEST_DOCUMENT,
    SCHEMA_VERSION,
    AgentDocument,
    Reader,
    is_inside_path,
    parse_agent_document,
)
from agenthub.indexes.summaries import (
    AGENTS,
    FILES,
    INDEX,
    SEARCH,
    Entries,
    as_json,
    document_bytes,
    document_place,
    files_of,
    index_bytes,
    search_bytes,
    set_entry,
    timestamp,
)
from agenthub.packages.files import fsync_directory, remove_tree
from agenthub.packages.locks import acquire, acquire_abandoned
from agenthub.packages.names import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

OWN = ".agenthub"
LARGEST_SUMMARY = 256 << 20
_LOCK = ".lock"
_PENDING = f"{OWN}/pending.json"

_WAYS_OUT = {
    errno.ENOSPC: "free some space; nothing was published",
    errno.EDQUOT: "free some space; nothing was published",
    errno.EROFS: "it can be read from here, and is published to elsewhere",
    errno.EACCES: "publish as a user who may write it",
    errno.EPERM: "publish as a user who may write it",
}


class Summary(NamedTuple):
    """What `index.json` says: `agents` is how many there are."""

    serial: int
    updated: str
    agents: int


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turns an `OSError` inside into an `InstallError` such as "cannot write PATH: Read-only file system"."""
    try:
        yield
    except OSError as error:
        if isinstance(error, AgentRuntimeError):  # some of ours are OSErrors as well
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InstallError(f"cannot write {path}: {reason}", suggestion=_WAYS_OUT.get(error.errno or 0)) from error


class IndexDirectory:
    """An index on this machine.

    Args:
        root: its directory.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    # reading -----------------------------------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """The path of something in it; `parts` were checked."""
        return os.path.join(self.root, *parts)

    def exists(self) -> bool:
        """Whether there is an index."""
        return os.path.isfile(self.path(INDEX))

    def check_exists(self) -> None:
        """Raises `AgentNotFoundError` unless there is an index."""
        if not self.exists():
            hint = (
                "the first agenthub publish makes one" if not listed(self.root) else f"agenthub index build {self.root}"
            )
            raise AgentNotFoundError(f"there is no index in {self.root}", suggestion=hint)

    def check_usable(self) -> None:
        """Raises `InstallError` where there are files that are not an index's: nobody meant to publish to there."""
        strange = [name for name in listed(self.root) if name not in (OWN, AGENTS, FILES, SEARCH, INDEX)]
        if strange and not self.exists():
            raise InstallError(
                f"{self.root} is not an index: it holds {strange[0]}",
                suggestion="publish to an empty directory, or one that is not there yet: an index is made in it",
            )

    def document(self, owner: str, name: str) -> AgentDocument | None:
        """What it says of an agent; None where there is none.

        Raises:
            InstallError: the document is damaged.
        """
        path = self.path(AGENTS, owner, f"{name}.json")
        data = self.read(path, LARGEST_DOCUMENT)
        return None if data is None else parse_agent_document(data, path, owner, name)

    def agents(self) -> list[tuple[str, str]]:
        """Owner and name of every agent that has a document, sorted."""
        found = []
        for owner in filter(is_name, listed(self.path(AGENTS))):
            names = [file.removesuffix(".json") for file in listed(self.path(AGENTS, owner)) if file.endswith(".json")]
            found += [(owner, name) for name in names if is_name(name)]
        return sorted(found)

    def summary(self) -> Summary:
        """What `index.json` says; zeros where there is none."""
        data = self.read(self.path(INDEX), LARGEST_SUMMARY)
        if data is None:
            return Summary(0, "", 0)
        reader = Reader(self.path(INDEX))
        values = reader.document(data, LARGEST_SUMMARY)
        return Summary(
            reader.whole(values, "serial"), reader.text(values, "updated", ""), reader.whole(values, "agents")
        )

    def search(self) -> Entries:
        """The entries of `search.json` by owner and name."""
        data = self.read(self.path(SEARCH), LARGEST_SUMMARY)
        if data is None:
            return {}
        reader = Reader(self.path(SEARCH))
        document = reader.document(data, LARGEST_SUMMARY)
        try:
            return {(str(entry["owner"]), str(entry["name"])): entry for entry in document["agents"]}
        except (TypeError, KeyError):
            raise reader.error("it has no list of agents, or one of them has no name") from None

    def read(self, path: str, most: int) -> bytes | None:
        """A file of the index, and at most one byte more than `most`; None where there is none."""
        try:
            with open(path, "rb") as file:
                return file.read(most + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InstallError(f"cannot read the index {self.root}: {path}: {error.strerror}") from error

    # writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A directory of one's own on the index's file system; gone afterwards, also when this process is killed.

        Raises:
            InstallError: the index cannot be written.
        """
        with writing(self.root):
            self._prepare()
            path = self.path(OWN, "staging", os.urandom(8).hex())
            lock = acquire(path + _LOCK)
        try:
            with writing(self.root):
                os.mkdir(path, 0o700)
            yield path
        finally:
            with suppress(OSError):
                remove_tree(path)
                os.unlink(path + _LOCK)
            os.close(lock)

    @contextmanager
    def changing(self, waiting: Callable[[], None] | None = None) -> Iterator[Change]:
        """The right to change it, which one process has at a time; what a dead one left is put in order first.

        Raises:
            InstallError: it cannot be written.
        """
        with self.scratch() as scratch, writing(self.root):
            lock = acquire(self.path(OWN, "lock"), waiting)
            try:
                self._sweep()
                change = Change(self, scratch)
                change.finish_interrupted()
                yield change
            finally:
                os.close(lock)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Keeps writers away while it is read as a whole; where it cannot be locked, nobody here can write it."""
        try:
            descriptor = os.open(self.path(OWN, "lock"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def interrupted(self) -> bool:
        """Whether a writer was killed, and the next one will put in order what it left."""
        return os.path.lexists(self.path(_PENDING))

    def _prepare(self) -> None:
        os.makedirs(self.path(OWN, "staging"), exist_ok=True)
        # As the umask has it, so that a group can publish together.
        os.close(os.open(self.path(OWN, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))

    def _sweep(self) -> None:
        staging = self.path(OWN, "staging")
        for name in listed(staging):
            if name.endswith(_LOCK) and (lock := acquire_abandoned(os.path.join(staging, name))) is not None:
                with suppress(OSError):
                    remove_tree(os.path.join(staging, name.removesuffix(_LOCK)))
                    os.unlink(os.path.join(staging, name))
                os.close(lock)


class Change:
    """What the one process that may change an index does to it."""

    def __init__(self, index: IndexDirectory, scratch: str) -> None:
        self.index = index
        self.scratch = scratch
        self._staged = 0

    def commit(
        self, document: AgentDocument, files: Iterable[tuple[str, str]] = (), *, at: float | None = None
    ) -> AgentDocument:
        """Puts files in their places and the agent's document in place of the earlier one.

        Args:
            document: of the agent; it gets the next serial and the time.
            files: path on the index's file system and in the index, of each that goes with it.
            at: when, in seconds since 1970; None: now.

        Returns:
            AgentDocument: as it was written.

        Raises:
            InstallError: readers would refuse it: something in it is too long, or there is too much of it.
        """
        index, moment = self.index, time.time() if at is None else at
        before, files = index.summary(), list(files)
        serial = max(before.serial + 1, document.serial + 1, int(moment))
        document = document._replace(serial=serial, updated=timestamp(moment))
        agents = before.agents + (index.document(document.owner, document.name) is None)
        entries = index.search()
        set_entry(entries, document)
        data = document_bytes(document)
        _check_readable(document, data)
        # All that needs space is written before anything is changed.
        staged = [*files, self._stage(document_place(document), data)]
        staged += self._summaries(entries, agents, serial, document.updated)
        note = {"owner": document.owner, "name": document.name, "files": [place for _, place in files]}
        pending = self._stage(_PENDING, as_json({"schema_version": SCHEMA_VERSION, **note}))
        try:
            self._place([pending, *staged])
            os.unlink(index.path(_PENDING))
        except BaseException:
            with suppress(OSError, AgentRuntimeError):
                self.finish_interrupted()
            raise
        return document

    def finish_interrupted(self) -> None:
        """Does what a writer that died had still to do: the summaries, or taking away what was not published."""
        path = self.index.path(_PENDING)
        data = self.index.read(path, LARGEST_DOCUMENT)
        if data is None:
            return
        reader = Reader(path)
        note = reader.document(data, LARGEST_DOCUMENT)
        owner, name, files = reader.text(note, "owner"), reader.text(note, "name"), reader.texts(note, "files")
        document = self.index.document(owner, name)
        known = files_of(document) if document else frozenset()
        for place in files:
            if place not in known and is_inside_path(place):
                self._remove(place)
        if document is not None:
            entries, before = self.index.search(), self.index.summary()
            set_entry(entries, document)
            newer = document.serial > before.serial
            serial, at = (document.serial, document.updated) if newer else (before.serial, before.updated)
            self.write_summaries(entries, len(self.index.agents()), serial, at)
        os.unlink(path)

    def write_document(self, document: AgentDocument) -> None:
        """Replaces an agent's document, unless it is the same."""
        self._place_changed([self._stage(document_place(document), document_bytes(document))])

    def write_summaries(self, entries: Entries, agents: int, serial: int, at: str) -> None:
        """Replaces both summaries, unless they are the same."""
        self._place_changed(self._summaries(entries, agents, serial, at))

    def _summaries(self, entries: Entries, agents: int, serial: int, at: str) -> list[tuple[str, str]]:
        summary = index_bytes(serial, at, agents)
        return [self._stage(SEARCH, search_bytes(entries, serial)), self._stage(INDEX, summary)]

    def _stage(self, place: str, data: bytes) -> tuple[str, str]:
        """Writes what will be put at `place`, where nobody sees it."""
        self._staged += 1
        path = os.path.join(self.scratch, f"{self._staged}.new")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path, place

    def _place(self, staged: Iterable[tuple[str, str]]) -> None:
        for source, place in staged:
            target = self.index.path(place)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(source, target)
            fsync_directory(os.path.dirname(target))

    def _place_changed(self, staged: Iterable[tuple[str, str]]) -> None:
        for source, place in staged:
            with open(source, "rb") as file:
                if self.index.read(self.index.path(place), LARGEST_SUMMARY) == file.read():
                    continue
            self._place([(source, place)])

    def _remove(self, place: str) -> None:
        """Removes a file of the index, and the directories that are empty then."""
        with suppress(FileNotFoundError):
            os.unlink(self.index.path(place))
        while place := os.path.dirname(place):
            with suppress(OSError):
                os.rmdir(self.index.path(place))


def _check_readable(document: AgentDocument, data: bytes) -> None:
    """Refuses to write what no reader would take."""
    label = f"{document.owner}/{document.name}"
    try:
        parse_agent_document(data, label, document.owner, document.name)
    except InstallError as error:
        raise InstallError(f"not published, since readers would refuse it: {error.message}") from None


def listed(directory: str) -> list[str]:
    """What is in a directory, sorted; nothing where there is none. Raises InstallError where it cannot be read."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InstallError(f"cannot read the index: {directory}: {error.strerror}") from error
