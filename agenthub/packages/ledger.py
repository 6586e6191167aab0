"""What an agent's tree may hold, whatever it comes from; and its digest.

Directories, archives and checkouts are all hostile until every entry of theirs went through one `Ledger`.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from agenthub.errors import InstallError

MB = 1024 * 1024


class Limits(NamedTuple):
    """Hard caps on one agent's tree; nobody's agent comes near them, a bomb does."""

    entries: int = 100_000
    size: int = 2048 * MB
    depth: int = 64
    path: int = 1024  # bytes of a relative path; PATH_MAX is 4,096, and the store's own part comes on top
    ratio: int = 250  # unpacked size to archive's size, from `ratio_from` on; deflate's own limit is 1,032
    ratio_from: int = 64 * MB


LIMITS = Limits()


class TreeSummary(NamedTuple):
    """A tree that was accepted.

    Attributes:
        digest: `"sha256:…"` of its entries: relative path, kind, executable bit, link target, content.
        files: how many regular files it has.
        bytes: their size.
    """

    digest: str
    files: int
    bytes: int


_VERSION_CONTROL = (".git", ".hg", ".svn")
_CACHES = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store")
SKIPPED = frozenset((*_VERSION_CONTROL, *_CACHES, "venv", ".venv", ".agenthub"))
"""Never part of an agent: other tools' state and environments, which do not move. `node_modules` does."""
_SKIPPED_ENDINGS = (".pyc", ".egg-info")

_MAX_LINKS = 40  # as the kernel's
# C0, DEL, C1, and what reverses or hides text on a terminal
_CONTROL = frozenset([*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029])


def is_skipped(name: str) -> bool:
    """Whether a file or directory of this name is left out of every copy and digest."""
    return name in SKIPPED or name.endswith(_SKIPPED_ENDINGS)


class Ledger:
    """Takes the entries of one tree, one by one, in any order, and refuses what may not be there.

    Args:
        what: the directory, archive or repository, for messages.
        limits: the caps.
    """

    def __init__(self, what: str, limits: Limits = LIMITS) -> None:
        self.what = what
        self.limits = limits
        self.bytes = 0
        self.links: dict[str, str] = {}
        self._lines: dict[str, bytes] = {}
        self._names: dict[str, str] = {}
        self._files = 0
        self._members = 0

    def refusal(self, reason: str, path: str | None = None) -> InstallError:
        """The error that says why this tree is refused, and at which of its entries."""
        entry = f"{_shown(path)} " if path is not None else ""
        return InstallError(f"{_shown(self.what)} is refused: {entry}{reason}")

    def count(self) -> None:
        """Counts what is looked at, whether it is taken or skipped."""
        self._members += 1
        self._check_count(self._members)

    def grow(self, size: int, path: str) -> None:
        """Counts bytes of content while they arrive."""
        self.bytes += size
        if self.bytes > self.limits.size:
            raise self.refusal(f"makes it larger than {self.limits.size // MB:,} MB", path)

    def directory(self, path: str) -> None:
        """A directory, named as often as one likes."""
        if self._lines.get(path) != b"directory":
            self._claim(path)
            self._lines[path] = b"directory"

    def file(self, path: str) -> None:
        """A file; its digest follows with `content`."""
        self._claim(path)
        self._files += 1
        self._lines[path] = b"file"

    def content(self, path: str, executable: bool, digest: bytes) -> None:
        """What is in the file at `path`."""
        self._lines[path] = (b"program " if executable else b"file ") + digest

    def link(self, path: str, target: str) -> None:
        """A symbolic link; where it leads is judged at the end, when all links are known."""
        self._check_text(path, target)
        self._claim(path)
        self.links[path] = target
        self._lines[path] = b"link " + target.encode()

    def is_file(self, path: str) -> bool:
        """Whether a file of this path was taken."""
        return self._lines.get(path, b"").startswith((b"file", b"program"))

    def strip(self, top: str) -> None:
        """Takes the directory `top`, which holds all the rest, away from every path."""
        start = len(top) + 1
        self._lines = {path[start:]: line for path, line in self._lines.items() if path != top}
        self.links = {path[start:]: target for path, target in self.links.items()}

    def top(self) -> str | None:
        """The one directory that holds all the rest, if there is one."""
        tops = {path.partition("/")[0] for path in self._lines}
        only = tops.pop() if len(tops) == 1 else None
        return only if only is not None and self._lines[only] == b"directory" else None

    def finish(self) -> TreeSummary:
        """Judges the links, and sums up.

        Raises:
            InstallError: a link leads out of the tree, or in a circle.
        """
        for path in self.links:
            self._follow(path)
        digest = hashlib.sha256()
        for path in sorted(self._lines):
            name, line = path.encode(), self._lines[path]
            digest.update(b"%d %b %d %b\n" % (len(name), name, len(line), line))
        return TreeSummary(f"sha256:{digest.hexdigest()}", self._files, self.bytes)

    def _check_count(self, count: int) -> None:
        if count > self.limits.entries:
            raise self.refusal(f"it has more than {self.limits.entries:,} files and directories")

    def _claim(self, path: str) -> None:
        self._check_count(len(self._lines) + 1)
        parent, _, name = path.rpartition("/")
        if parent:
            self.directory(parent)
        elif not name:
            raise self.refusal("it has an entry without a name")
        self._check_name(path, name)
        folded = path.lower() if path.isascii() else _fold(path)
        other = self._names.setdefault(folded, path)
        if path in self._lines:
            raise self.refusal("is there twice", path)
        if other != path:
            raise self.refusal(f"and {_shown(other)} are the same name on many file systems", path)

    def _check_name(self, path: str, name: str) -> None:
        if name in (".", ".."):
            raise self.refusal("leads out of it", path)
        self._check_text(path, name)
        if len(name.encode()) > 255 or len(path.encode()) > self.limits.path:
            raise self.refusal("is too long a name", path)
        if path.count("/") >= self.limits.depth:
            raise self.refusal(f"is more than {self.limits.depth} directories deep", path)

    def _check_text(self, path: str, text: str) -> None:
        if not text or (not text.isprintable() and not _CONTROL.isdisjoint(map(ord, text))):
            raise self.refusal("has control characters in its name, or none at all", path)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.refusal("has a name that is not valid UTF-8", path) from None

    def _follow(self, path: str) -> None:
        """Resolves a link as the kernel would, on the tree that the ledger knows."""
        todo, here, followed = path.split("/"), list[str](), 0
        while todo:
            part = todo.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                if not here:
                    raise self.refusal("is a link that leaves it", path)
                here.pop()
                continue
            here.append(part)
            target = self.links.get("/".join(here))
            if target is None:
                continue
            followed += 1
            if target.startswith("/"):
                raise self.refusal("is a link that leaves it", path)
            if followed > _MAX_LINKS:
                raise self.refusal("is a link that leads in a circle", path)
            here.pop()
            todo = target.split("/") + todo


def _fold(path: str) -> str:
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", path).casefold())


def _shown(text: str) -> str:
    """A hostile name as it may go to a terminal."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
