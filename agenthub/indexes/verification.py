"""Holds an index against itself: every archive against its document, every document against the summaries."""

from __future__ import annotations

import os
from typing import NamedTuple

from agenthub.errors import AgentRuntimeError, InstallError
from agenthub.indexes.directory import IndexDirectory
from agenthub.indexes.documents import AgentDocument, Release, release_to_json
from agenthub.indexes.inspection import archive_place, file_digest, inspect_archive, release_of
from agenthub.indexes.summaries import AGENTS, FILES, INDEX, SEARCH, Entries, files_of, search_bytes, set_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LARGEST = 256 << 20


class Problem(NamedTuple):
    """Something that is wrong; `path` is inside the index. A `"warning"` is what the next publication mends."""

    severity: str
    path: str
    message: str


class Verified(NamedTuple):
    """What a verification found."""

    agents: int
    releases: int
    problems: list[Problem]

    @property
    def valid(self) -> bool:
        """Whether readers get what was published."""
        return all(problem.severity != "error" for problem in self.problems)


def verify(index: IndexDirectory, scratch: str, on_progress: Callable[[str], None] | None = None) -> Verified:
    """Reads the whole index, and writes nothing to it.

    Args:
        index: what is verified.
        scratch: an empty directory, in which archives are unpacked.
        on_progress: called with a line of what is being read.

    Raises:
        AgentNotFoundError: there is no index.
        InstallError: it cannot be read.
    """
    index.check_exists()
    verification = _Verification(index, scratch, on_progress or (lambda line: None))
    with index.undisturbed():
        verification.run()
    problems = sorted(verification.problems, key=lambda problem: (problem.path, problem.message))
    return Verified(verification.agents, verification.releases, problems)


class _Verification:
    def __init__(self, index: IndexDirectory, scratch: str, say: Callable[[str], None]) -> None:
        self.problems: list[Problem] = []
        self.agents = self.releases = 0
        self._index = index
        self._scratch = scratch
        self._say = say
        self._known: set[str] = set()
        self._damaged: set[str] = set()
        self._interrupted = index.interrupted()

    def run(self) -> None:
        entries: Entries = {}
        serials = [0]
        for owner, name in self._index.agents():
            place = f"{AGENTS}/{owner}/{name}.json"
            self._say(f"{owner}/{name}")
            self.agents += 1
            self._known.add(place)
            try:
                document = self._index.document(owner, name)
            except InstallError as error:
                self._error(place, error.message)
                self._damaged.add(f"{FILES}/{owner}/{name}/")
                continue
            assert document is not None
            self._document(document)
            set_entry(entries, document)
            serials.append(document.serial)
        self._summaries(entries, max(serials))
        self._orphans()
        if self._interrupted:
            self.problems.append(
                Problem("warning", ".", "a publication was interrupted; the next one, or index build, puts it in order")
            )

    def _document(self, document: AgentDocument) -> None:
        self._known |= files_of(document)
        for release in document.releases.values():
            self.releases += 1
            try:
                self._release(release)
            except AgentRuntimeError as error:
                self._error(release.file, error.message)
            for signature in release.signatures:
                if not os.path.isfile(self._index.path(signature.file)):
                    self._error(signature.file, f"it is missing, and {release.label} is said to be signed with it")

    def _release(self, release: Release) -> None:
        path = self._index.path(release.file)
        if release.file != archive_place(release.owner, release.name, release.version):
            return self._error(release.file, f"this is not where {release.label} belongs")
        if os.path.islink(path):
            return self._error(release.file, "it is a link, which servers and readers do not follow")
        if not os.path.isfile(path):
            return self._error(release.file, f"it is missing, and {release.label} is published")
        digest, size = file_digest(path)
        if (digest, size) != (release.digest, release.size):
            return self._error(
                release.file, f"it is not what was published: {digest} of {size:,} bytes, not {release.digest}"
            )
        found = inspect_archive(path, self._scratch)
        really = release_to_json(release_of(release.owner, found, release.published_at, release.published_by))
        said = release_to_json(release)
        wrong = [
            key for key in really if key not in ("yanked", "deprecated", "signatures") and really[key] != said[key]
        ]
        if (found.name, found.version) != (release.name, release.version):
            wrong = ["name and version"]
        if wrong:
            self._error(release.file, f"its document says other {', '.join(wrong)} than the archive")
        return None

    def _summaries(self, entries: Entries, highest: int) -> None:
        try:
            summary = self._index.summary()
        except InstallError as error:
            return self._summary_problem(INDEX, error.message)
        if summary.agents != self.agents:
            self._summary_problem(INDEX, f"it says {summary.agents} agents, and there are {self.agents}")
        if summary.serial < highest:
            self._summary_problem(INDEX, f"its serial {summary.serial} is lower than {highest}, a document's")
        data = self._index.read(self._index.path(SEARCH), _LARGEST)
        if data != search_bytes(entries, summary.serial):
            self._summary_problem(SEARCH, "it says other than the documents" if data else "it is missing")
        return None

    def _orphans(self) -> None:
        for place in _files(self._index, (AGENTS, FILES)):
            if place in self._known or any(place.startswith(folder) for folder in self._damaged):
                continue
            message = "no document names it" if place.startswith(FILES) else "this is not the document of an agent"
            self._summary_problem(place, message)

    def _summary_problem(self, path: str, message: str) -> None:
        """What may be the trace of a writer that died."""
        self.problems.append(Problem("warning" if self._interrupted else "error", path, message))

    def _error(self, path: str, message: str) -> None:
        self.problems.append(Problem("error", path, message.replace(self._index.root + os.sep, "")))


def _files(index: IndexDirectory, folders: tuple[str, ...]) -> Iterator[str]:
    for folder in folders:
        for directory, _, names in os.walk(index.path(folder)):
            yield from (os.path.relpath(os.path.join(directory, name), index.root) for name in names)
