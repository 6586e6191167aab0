"""What the configured indexes have: an agent's releases, the one that is meant, and its archive."""

from __future__ import annotations

from agenthub.config import Settings
from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError, PermissionDeniedError
from agenthub.indexes.choosing import Choice, choose
from agenthub.indexes.configured import IndexSource, configured_indexes
from agenthub.indexes.documents import LARGEST_DOCUMENT, AgentDocument, Release, parse_agent_document
from agenthub.indexes.owners import Owners
from agenthub.indexes.transport import NotPublishedError, Transport
from agenthub.packages.names import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class IndexClient:
    """Looks agents up in indexes.

    Args:
        settings: of the command.
        extra: addresses, or names of configured indexes, that are asked first. A project names them, and does not say
            by that where an owner belongs outside of it.
        transport: the way to the files; None: as the settings say.
    """

    def __init__(self, settings: Settings, extra: Sequence[str] = (), transport: Transport | None = None) -> None:
        self.indexes = configured_indexes(settings, extra)
        self.transport = transport or Transport.from_settings(settings)
        self.owners = Owners(settings.paths)
        self._named_now = len(extra) + bool(settings["index"])
        self._extra = self.indexes[: len(extra)]
        self._sources: dict[str, IndexSource] = {}
        self._documents: dict[tuple[str, str], AgentDocument] = {}
        self._found: dict[tuple[str, str], bytes] = {}

    def document(self, owner: str, name: str) -> AgentDocument:
        """What the index of `owner` says of one agent; asked once, however often it is wanted.

        Raises:
            AgentNotFoundError: no index has it.
            InstallError: an index cannot be reached, or what it says is not to be used.
            PermissionDeniedError: it may not be believed: another index, an older state, a look-alike.
        """
        if (owner, name) not in self._documents:
            check_name(owner, "owner")
            check_name(name)
            source = self.source(owner, name)
            if source.kind == "git":
                raise InstallError(f"{owner}/{name} comes from {source.url}, which has no releases")
            self._documents[owner, name] = self._fetch(source, owner, name)
        return self._documents[owner, name]

    def source(self, owner: str, name: str) -> IndexSource:
        """The one index that an owner's agents come from; `name` is looked for where that is not known yet.

        Raises:
            AgentNotFoundError: no index has it.
            InstallError: an index cannot be reached, so that it cannot be known.
            PermissionDeniedError: several indexes have it, or it looks like an owner that is known.
        """
        if owner not in self._sources:
            source = self.owners.index_for(owner, self.indexes)
            if source is None:
                source = self._first_seen(owner, name)
                self.owners.check_new(owner, self.indexes)
            self._sources[owner] = source
        return self._sources[owner]

    def choose(self, owner: str, name: str, wanted: str | None) -> Choice:
        """The release that `wanted` means, with what is to be said of it; raises as `document`.

        Args:
            owner: of the agent.
            name: of the agent.
            wanted: a version, its beginning, a range, `"latest"` or None.
        """
        return choose(self.document(owner, name), wanted)

    def resolve(self, owner: str, name: str, wanted: str | None = None) -> Release:
        """The release that `wanted` means; see `choose`."""
        return self.choose(owner, name, wanted).release

    def fetch_archive(self, release: Release, target: str, on_progress: Callable[[str], None] | None = None) -> None:
        """Fetches a release's archive to `target`, and checks its size and digest; raises as `Transport.download`."""
        source = self.source(release.owner, release.name)
        self.transport.download(source, release.file, target, release.size, release.digest, on_progress)

    def fetch_file(self, release: Release, file: str, limit: int) -> bytes:
        """A small file that belongs to a release, such as a signature; raises as `Transport.document`."""
        return self.transport.document(self.source(release.owner, release.name), file, limit)

    def note(self, owner: str, source: IndexSource, name: str, serial: int) -> None:
        """Notes where an owner was seen, and the serial of an agent's document; raises as `Owners.note`."""
        self.owners.note(owner, source, name, serial, source.url, first=source not in self._extra)

    def _fetch(self, source: IndexSource, owner: str, name: str) -> AgentDocument:
        path = document_path(owner, name)
        before = self.transport.cached(source, path)
        try:
            data = self._found.get((source.url, path)) or self.transport.document(source, path, LARGEST_DOCUMENT)
        except NotPublishedError:
            raise self._gone(source, owner, name) from None
        document = parse_agent_document(data, f"{source.url}/{path}", owner, name)
        if before is not None and before != data:
            _refuse_changed(before, document, source)
        try:
            self.note(owner, source, name, document.serial)
        except PermissionDeniedError:
            if self.transport.offline:
                raise
            # Another process may have seen a later state since this one was fetched: only what comes now counts.
            self.transport.forget(source, path)
            data = self.transport.document(source, path, LARGEST_DOCUMENT)
            document = parse_agent_document(data, f"{source.url}/{path}", owner, name)
            self.note(owner, source, name, document.serial)
        return document

    def _first_seen(self, owner: str, name: str) -> IndexSource:
        """The index for an owner that was never seen: the only one that has the agent."""
        if not self.indexes:
            raise AgentNotFoundError(
                f"there is no index to look '{owner}/{name}' up in",
                suggestion=f"agenthub index add NAME URL, or from a git host: git+https://HOST/{owner}/{name}",
            )
        static = [source for source in self.indexes if source.kind != "git"]
        found = []
        for source in static:
            if self._has(source, owner, name):
                found.append(source)
                if source in self.indexes[: self._named_now]:  # the user said for this command where to look first
                    return source
        if len(found) > 1:
            names = ", ".join(source.name for source in found)
            raise PermissionDeniedError(
                f"several indexes have {owner}/{name}: {names}; an owner belongs to one",
                suggestion=f"say which: agenthub index owner {owner} {found[0].name}",
            )
        hosts = [source for source in self.indexes if source.kind == "git"]
        if not found and not hosts:
            raise self._unknown(owner, name)
        return (found or hosts)[0]

    def _has(self, source: IndexSource, owner: str, name: str) -> bool:
        path = document_path(owner, name)
        try:
            self._found[source.url, path] = self.transport.document(source, path, LARGEST_DOCUMENT)
        except NotPublishedError:
            return False
        except InstallError as error:
            if len(self.indexes) > 1 and not self.transport.offline:
                error.suggestion = f"to do without it, say where {owner} belongs: agenthub index owner {owner} NAME"
            if self.transport.offline:
                return False
            raise
        return True

    def _unknown(self, owner: str, name: str) -> AgentNotFoundError:
        from agenthub.indexes.search import nearest_agent

        close = nearest_agent(self, f"{owner}/{name}")
        names = ", ".join(source.name for source in self.indexes)
        return AgentNotFoundError(
            f"no index has {owner}/{name} ({names})",
            suggestion=f"did you mean {close}?" if close else f"agenthub search {name}",
        )

    def _gone(self, source: IndexSource, owner: str, name: str) -> AgentRuntimeError:
        """Why the index of an owner does not have an agent; that another one has it is no reason to take it."""
        for other in self.indexes:
            if other is source or other.kind == "git" or self.transport.offline:
                continue
            try:
                elsewhere = self._has(other, owner, name)
            except AgentRuntimeError:
                continue
            if elsewhere:
                return PermissionDeniedError(
                    f"{owner}/{name} is not at {source.name}, where {owner} belongs, but at {other.name}: "
                    "somebody else may be behind it",
                    suggestion=f"if {owner} has moved: agenthub index owner {owner} {other.name}",
                )
        error = self._unknown(owner, name)
        error.message = f"{source.name}, where {owner} belongs, has no {owner}/{name}"
        error.args = (error.message,)
        return error


def document_path(owner: str, name: str) -> str:
    """Where an agent's document is in an index."""
    return f"agents/{owner}/{name}.json"


def _refuse_changed(before: bytes, document: AgentDocument, source: IndexSource) -> None:
    """A published release never changes: refuses one that is another one than when it was last seen."""
    try:
        earlier = parse_agent_document(before, source.url, document.owner, document.name)
    except InstallError:
        return
    for version, release in document.releases.items():
        known = earlier.releases.get(version)
        if known is not None and (known.digest, known.tree_digest) != (release.digest, release.tree_digest):
            raise PermissionDeniedError(
                f"{release.label} is another one at {source.name} than it was before: a release never changes",
                suggestion="ask whoever runs the index; agenthub cache clean accepts what it shows now",
            )
