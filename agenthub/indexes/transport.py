"""Gets files of indexes: over HTTP with a cache, retries and resumed downloads, or from a directory."""

from __future__ import annotations

import os
import random
import time
from contextlib import contextmanager

from agenthub.config import Paths, Settings
from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError, PermissionDeniedError
from agenthub.indexes.configured import IndexSource, read_indexes
from agenthub.indexes.credentials import authorization, keyring_authorization, token_variable
from agenthub.indexes.document_cache import CachedDocument, DocumentCache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from urllib3.response import BaseHTTPResponse

    from agenthub.indexes.downloads import Partial
    from agenthub.indexes.http import HttpClient

    T = TypeVar("T")

ATTEMPTS = 4
"""How often an exchange is tried in a row without anything having come."""
_FIRST_PAUSE = 0.2  # seconds; each further one is twice as long
_PROGRESS = 1 << 20  # bytes that make up for a failed attempt


class NotPublishedError(AgentNotFoundError):
    """The index has no such file."""


class Transport:
    """The way to the files of indexes.

    Args:
        paths: where the cache is.
        timeout: seconds, as for `HttpClient`.
        offline: use the cache, and indexes on this machine's disk, and nothing else.
    """

    def __init__(self, paths: Paths, *, timeout: float = 30.0, offline: bool = False) -> None:
        self.offline = offline
        self._paths = paths
        self._timeout = timeout
        self._documents = DocumentCache(paths)
        self._http: HttpClient | None = None
        self._authorizations: dict[str, str | None] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Transport:
        """As flags, environment and files say."""
        return cls(settings.paths, timeout=settings["index_timeout"], offline=settings["offline"])

    @property
    def http(self) -> HttpClient:
        """Made when it is needed: what is in the cache does without."""
        if self._http is None:
            from agenthub.indexes.http import HttpClient

            self._http = HttpClient(self._timeout)
        return self._http

    def document(self, source: IndexSource, path: str, limit: int, *, max_age: float = 0.0) -> bytes:
        """A small file of an index, kept in the cache and fetched again only where it has changed.

        Args:
            source: the index.
            path: relative to it.
            limit: bytes that it may have.
            max_age: seconds for which a cached one is believed without asking.

        Raises:
            NotPublishedError: there is none.
            InstallError: it cannot be had, or is too large.
            PermissionDeniedError: the index refuses to give it, or redirects to where no index may lead.
        """
        if source.kind == "file":
            return self._read(source, path, limit)
        url = f"{source.url}/{path}"
        cached = self._documents.get(url)
        if cached is not None and (self.offline or cached.is_fresh(max_age)):
            return cached.data
        if self.offline:
            raise InstallError(
                f"{url} is not in the cache, and --offline allows nothing else", suggestion="once without --offline"
            )
        return self._retrying(
            source, path, lambda: self._ask_for_document(source, url, limit, cached), cached is not None
        )

    def cached(self, source: IndexSource, path: str) -> bytes | None:
        """A document as it was last seen, if the cache has it."""
        found = self._documents.get(f"{source.url}/{path}") if source.kind != "file" else None
        return found.data if found else None

    def forget(self, source: IndexSource, path: str) -> None:
        """Removes a document from the cache, so that it is fetched whole."""
        self._documents.forget(f"{source.url}/{path}")

    def download(
        self,
        source: IndexSource,
        path: str,
        target: str,
        size: int,
        digest: str,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Fetches an archive to `target`, which is not there before, and there only if its digest is right.

        Args:
            source: the index.
            path: relative to it.
            target: on the store's file system.
            size: bytes that it has.
            digest: `"sha256:…"` of it.
            on_progress: gets a line now and then.

        Raises:
            NotPublishedError: there is none.
            InstallError: it cannot be had, or is not what `size` and `digest` say.
            PermissionDeniedError: as for `document`.
            StoreError: it cannot be written.
        """
        from agenthub.indexes.downloads import Archives, copy_checked

        if source.kind == "file":
            file = self._file(source, path)
            if not os.path.exists(file):
                raise _missing(source, path)
            return copy_checked(file, target, size, digest)
        if Archives(self._paths).take(digest, target):
            return None
        if self.offline:
            raise InstallError(
                f"{path} of {source.name} is not in the cache, and --offline allows nothing else",
                suggestion="once without --offline",
            )
        return self._download(source, path, target, size, digest, _saying(on_progress, os.path.basename(path)))

    def _download(
        self, source: IndexSource, path: str, target: str, size: int, digest: str, say: Callable[[str], None]
    ) -> None:
        """Fetches what is lacking of an archive, and starts over where what was there is of another one."""
        from agenthub.indexes.downloads import Archives, wrong_content

        archives = Archives(self._paths)
        with archives.partial(digest, size, lambda: say("waiting for another download of it")) as partial:
            if archives.take(digest, target):  # another process was faster
                return
            while True:
                resumed = partial.have > 0
                self._retrying(source, path, lambda: self._continue(source, path, partial, size, say), False, partial)
                if partial.finish(target):
                    return
                if not resumed:
                    raise wrong_content(f"{path} of {source.name}", size, partial.came)

    # HTTP --------------------------------------------------------------------------------------------------------

    def _ask_for_document(self, source: IndexSource, url: str, limit: int, cached: CachedDocument | None) -> bytes:
        from agenthub.indexes.http import TransferError

        headers = {"Accept-Encoding": "gzip"}
        if cached is not None and (cached.etag or cached.modified):
            headers |= {"If-None-Match": cached.etag} if cached.etag else {"If-Modified-Since": cached.modified}
        with self._get(source, url, headers) as response:
            if response.status == 304 and cached is not None:
                self._documents.confirm(cached)
                return cached.data
            if response.status in (404, 410):
                self._documents.forget(url)
                raise _missing(source, url)
            if response.status != 200:
                raise TransferError(f"the server answers {response.status}", again=False)
            data = bytearray()
            for chunk in self.http.chunks(response):
                data += chunk
                if len(data) > limit:
                    raise TransferError(f"it is larger than {limit:,} bytes", again=False)
            etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
        self._documents.put(url, bytes(data), etag, modified)
        return bytes(data)

    def _continue(
        self, source: IndexSource, path: str, partial: Partial, size: int, say: Callable[[str], None]
    ) -> None:
        """One attempt at what is still lacking of an archive."""
        from agenthub.indexes.http import TransferError

        url = f"{source.url}/{path}"
        if partial.have == size:
            return
        headers = {"Range": f"bytes={partial.have}-"} if partial.have else {}
        with self._get(source, url, headers) as response:
            if response.status in (404, 410):
                raise _missing(source, path)
            if response.status == 416 or (response.status == 206 and _start(response) != partial.have):
                partial.restart()
                raise TransferError("the server does not continue where it was asked to")
            if response.status == 200:
                partial.restart()
            elif response.status != 206:
                raise TransferError(f"the server answers {response.status}", again=False)
            partial.add(self.http.chunks(response), say)
        if partial.have < size:
            raise TransferError(f"{partial.have:,} of {size:,} bytes came")

    @contextmanager
    def _get(self, source: IndexSource, url: str, headers: dict[str, str]) -> Iterator[BaseHTTPResponse]:
        """The answer to a GET, with what opens the index: the keyring is asked only when it refused."""
        for ask_keyring in (False, True):
            allowed = self._authorization(source, ask_keyring=ask_keyring)
            given = {**headers, "Authorization": allowed} if allowed else headers
            with self.http.exchange("GET", url, given) as response:
                if response.status not in (401, 403):
                    yield response
                    return
                if allowed or ask_keyring or self._authorization(source, ask_keyring=True) is None:
                    raise _refused(source, response.status, bool(allowed))

    def _authorization(self, source: IndexSource, *, ask_keyring: bool) -> str | None:
        if source.url not in self._authorizations:
            self._authorizations[source.url] = authorization(source, os.environ, read_indexes(self._paths))
        if ask_keyring and self._authorizations[source.url] is None:
            self._authorizations[source.url] = keyring_authorization(source)
        return self._authorizations[source.url]

    def _retrying(
        self, source: IndexSource, path: str, attempt: Callable[[], T], cached: bool, partial: Partial | None = None
    ) -> T:
        """Tries again, after longer and longer pauses, as long as that may help."""
        from agenthub.indexes.http import TransferError

        failed, had = 0, partial.have if partial else 0
        while True:
            try:
                return attempt()
            except TransferError as error:
                weight = 2 if error.hopeless else 1
                failed += weight
                if partial is not None and partial.have - had >= _PROGRESS:
                    failed, had = 1, partial.have  # it gets on
                if not error.again or failed >= ATTEMPTS:
                    raise _unreachable(source, path, error.reason, cached) from error
                pause = _FIRST_PAUSE * 2 ** (failed // weight - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
                time.sleep(max(pause, error.after or 0.0))

    # a directory -------------------------------------------------------------------------------------------------

    @staticmethod
    def _file(source: IndexSource, path: str) -> str:
        return os.path.join(source.directory, path)

    def _read(self, source: IndexSource, path: str, limit: int) -> bytes:
        from agenthub.indexes.downloads import open_regular

        try:
            with open_regular(self._file(source, path)) as file:
                data: bytes = file.read(limit + 1)
        except FileNotFoundError as error:
            if isinstance(error, AgentRuntimeError):
                raise
            if not os.path.isdir(self._file(source, "")):
                raise _unreachable(source, path, "there is no such directory", False) from None
            raise _missing(source, path) from None
        except OSError as error:
            raise _unreachable(source, path, error.strerror or str(error), False) from error
        if len(data) > limit:
            raise _unreachable(source, path, f"{path} is larger than {limit:,} bytes", False)
        return data


def _start(response: BaseHTTPResponse) -> int:
    """Where the piece begins that a server sends; -1 where it does not say."""
    text = response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("-")[0]
    return int(text) if text.isdecimal() else -1


def _saying(on_progress: Callable[[str], None] | None, name: str) -> Callable[[str], None]:
    return lambda text: on_progress(f"{name}: {text}") if on_progress is not None else None


def _named(source: IndexSource) -> str:
    return source.url if source.name == source.url else f"the index {source.name} ({source.url})"


def _missing(source: IndexSource, path: str) -> NotPublishedError:
    return NotPublishedError(f"{_named(source)} has no {path.removeprefix(source.url).lstrip('/')}")


def _refused(source: IndexSource, status: int, tried: bool) -> PermissionDeniedError:
    what = "does not accept what was given to open it" if tried else "is private"
    return PermissionDeniedError(
        f"{_named(source)} {what} (HTTP {status})",
        suggestion=f"set {token_variable(source)}, run agenthub index login {source.name}, or use ~/.netrc",
    )


def _unreachable(source: IndexSource, path: str, reason: str, cached: bool) -> InstallError:
    return InstallError(
        f"cannot get {path} from {_named(source)}: {reason}",
        suggestion="--offline uses what was seen of it before" if cached else "see: agenthub index list",
    )
