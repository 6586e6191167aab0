"""Documents of indexes as they were last seen, for conditional requests and for work without a network.

A cache and nothing else: what is damaged is not there, and where it cannot be written it is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import NamedTuple

from agenthub.config import Paths


class CachedDocument(NamedTuple):
    """A document, and what its server called this state of it.

    Attributes:
        data: the document.
        etag: the server's name of this state; empty where it gave none.
        modified: the server's `Last-Modified`; empty where it gave none.
        age: seconds since it was last known to be current; negative where the clock was set back.
        path: the file in the cache.
    """

    data: bytes
    etag: str
    modified: str
    age: float
    path: str

    def is_fresh(self, most: float) -> bool:
        """Whether it was current within the last `most` seconds."""
        return 0 <= self.age < most


class DocumentCache:
    """The cache under `cache/index/documents`."""

    def __init__(self, paths: Paths) -> None:
        self._folder = os.path.join(paths.index_cache, "documents")

    def get(self, url: str) -> CachedDocument | None:
        """What is known of the document at `url`."""
        path = self._path(url)
        try:
            with open(path, "rb") as file:
                head, data = json.loads(file.readline()), file.read()
                age = time.time() - os.fstat(file.fileno()).st_mtime
            if head["url"] != url or head["sha256"] != hashlib.sha256(data).hexdigest():
                return None
            return CachedDocument(data, str(head["etag"]), str(head["modified"]), age, path)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, url: str, data: bytes, etag: str, modified: str) -> None:
        """Keeps a document that just came."""
        path = self._path(url)
        head = {"url": url, "etag": etag, "modified": modified, "sha256": hashlib.sha256(data).hexdigest()}
        partial = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n" + data)
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial)

    def confirm(self, document: CachedDocument) -> None:
        """Notes that a document is current now."""
        with contextlib.suppress(OSError):
            os.utime(document.path)

    def forget(self, url: str) -> None:
        """Removes a document that is not there any more."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(url))

    def _path(self, url: str) -> str:
        return os.path.join(self._folder, hashlib.sha256(url.encode()).hexdigest()[:40])
