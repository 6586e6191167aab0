"""Which files of a directory are meant to be published: `.gitignore` and `.agentignore`, as git reads them."""

from __future__ import annotations

import os

from agenthub.errors import InstallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pathspec import GitIgnoreSpec

AGENT_IGNORE = ".agentignore"
_GIT_IGNORE = ".gitignore"
_MAX_BYTES = 1 << 20  # of one list
_MAX_STARS = 3  # of a pattern's part between two slashes, and of its `**`: each multiplies what one name can cost
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEVER_MEANT = (
    "*.agent",
    "*.agent.sig",
    ".*.partial",
    "*~",
    "*.swp",
    ".idea/",
    ".vscode/",
    ".tox/",
    ".nox/",
    ".coverage",
)


class IgnoreLists:
    """A `tree.Selection`: leaves out what the lists in a directory say, and remembers what that was.

    The list that is nearest decides, the last pattern in it first; `.agentignore` goes before every `.gitignore`, so
    that it can take in what git ignores. The lists above the directory count up to the root of its git repository.

    Args:
        directory: what is packed.
    """

    def __init__(self, directory: str) -> None:
        self.left_out: list[str] = []
        self._lists: dict[str, list[tuple[str, GitIgnoreSpec]]] = {AGENT_IGNORE: [], _GIT_IGNORE: []}
        self._outer = list(_lists_above(os.path.realpath(directory)))
        self._default = _spec(list(_NEVER_MEANT), "")

    def enter(self, descriptor: int, prefix: str) -> None:
        """Reads the lists of a directory that is about to be visited."""
        for name, lists in self._lists.items():
            while lists and not prefix.startswith(lists[-1][0]):
                lists.pop()
            lines = _read(name, descriptor, prefix + name)
            if lines:
                lists.append((prefix, _spec(lines, prefix + name)))

    def leaves_out(self, path: str, directory: bool) -> bool:
        """Whether the lists leave this entry out."""
        marked = path + "/" if directory else path
        for spec, relative in self._deciding(marked):
            said = spec.check_file(relative).include
            if said is not None:
                if said:
                    self.left_out.append(marked)
                return said
        return False

    def _deciding(self, path: str) -> Iterator[tuple[GitIgnoreSpec, str]]:
        """The lists that have a say, first the one that decides, each with the path as that list sees it."""
        for lists in self._lists.values():
            yield from ((spec, path[len(prefix) :]) for prefix, spec in reversed(lists))
        yield from ((spec, above + path) for above, spec in self._outer)
        yield self._default, path


def _lists_above(directory: str) -> Iterator[tuple[str, GitIgnoreSpec]]:
    """The `.gitignore` files above, nearest first, up to the repository's root; none that ignore the directory itself.

    Each comes with the path from where it lies to the directory.
    """
    if os.path.lexists(os.path.join(directory, ".git")):
        return
    found, below, here = [], "", directory
    while (parent := os.path.dirname(here)) != here:
        below, here = f"{os.path.basename(here)}/{below}", parent
        lines = _read(os.path.join(here, _GIT_IGNORE), None, os.path.join(here, _GIT_IGNORE))
        if lines:
            found.append((below, _spec(lines, os.path.join(here, _GIT_IGNORE))))
        if os.path.lexists(os.path.join(here, ".git")):
            yield from ((path, spec) for path, spec in found if not spec.match_file(path))
            return


def _read(name: str, descriptor: int | None, shown: str) -> list[str]:
    try:
        file = open(os.open(name, _OPEN, dir_fd=descriptor), "rb")  # noqa: SIM115
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InstallError(f"cannot read {shown}: {error.strerror}") from error
    with file:
        try:
            data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise InstallError(f"cannot read {shown}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InstallError(f"{shown} is of absurd size")
    return data.decode("utf-8", "surrogateescape").splitlines()


def _spec(lines: list[str], shown: str) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    for number, line in enumerate(lines, 1):
        if not line.startswith("#") and _is_costly(line):
            raise InstallError(f"{shown}:{number}: more than {_MAX_STARS} wildcards in one place cannot be matched")
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise InstallError(f"{shown}: {error}") from None


def _is_costly(line: str) -> bool:
    """Whether matching a hostile name could take for ever: patterns become regular expressions, which try every way."""
    return line.count("**") > _MAX_STARS or any(part.count("*") > _MAX_STARS for part in line.split("/"))
