"""Digests that distributions bring along: what a wheel says of its files need not be read from them again.

A `RECORD` lists the files of its distribution with their SHA-256. It is read when the environment is new; a file that
was changed in uv's cache before, or that its wheel describes wrongly, is listed as the wheel says, and `verify` tells.
"""

from __future__ import annotations

import binascii
import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGEST = b"sha256="
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # what builds a package may leave a pipe there
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ELSEWHERE = (b"../", b"/", b'"')  # scripts lie outside, and have the environment's path in them: those are read


class RecordedFiles:
    """What is recorded of the files in one `site-packages`.

    Args:
        folder: that directory; "" for an agent without an environment.
    """

    def __init__(self, folder: str) -> None:
        self._inside = folder + os.sep
        self._digests: dict[str, str] = {}
        twice: set[str] = set()
        for name in os.listdir(folder) if folder else ():
            if name.endswith(".dist-info"):
                for path, digest in _recorded(os.path.join(folder, name, "RECORD")):
                    if self._digests.setdefault(path, digest) != digest:
                        twice.add(path)
        for path in twice:  # of two distributions: which one's it is, its content says
            del self._digests[path]

    def digest(self, path: str) -> str | None:
        """What is recorded of the file at `path`, in hexadecimal digits."""
        return self._digests.get(path[len(self._inside) :]) if path.startswith(self._inside) else None


def _recorded(record: str) -> Iterator[tuple[str, str]]:
    """Paths in `site-packages`, with digests in hexadecimal digits."""
    try:
        with open(os.open(record, _OPEN), "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        path, _, rest = line.partition(b",")
        if rest.startswith(_DIGEST) and not line.startswith(_ELSEWHERE):
            with suppress(binascii.Error):
                digest = binascii.a2b_base64(rest[len(_DIGEST) :].partition(b",")[0].translate(_URL_SAFE) + b"=").hex()
                if len(digest) == 64:
                    yield os.fsdecode(path), digest
