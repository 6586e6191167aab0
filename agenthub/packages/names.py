"""Names of agents and owners: they become directories, so they are checked wherever they enter."""

from __future__ import annotations

from agenthub.errors import InstallError

_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALLOWED = _FIRST | frozenset("._-")
_LONGEST = 64
_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "-": None, "_": None, ".": None})


def is_name(name: str) -> bool:
    """Whether `name` may name an agent or an owner: lower-case letters, digits and `. _ -`, at most 64 of them."""
    return 0 < len(name) <= _LONGEST and name[0] in _FIRST and _ALLOWED.issuperset(name) and name[-1] != "."


def check_name(name: str, what: str = "agent") -> str:
    """`name` itself.

    Raises:
        InstallError: it cannot be the name of an agent or an owner; says one that could.
    """
    if is_name(name):
        return name
    import re

    better = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64].rstrip(".")
    raise InstallError(
        f"{name!r} cannot be the name of an {what}: only lower-case letters, digits and . _ - are allowed",
        suggestion=f"call it {better!r}, or give another with --as owner/name" if better else None,
    )


def skeleton(name: str) -> str:
    """The same for two names that a reader may take for each other: `0` and `o`, `1`, `i` and `l`, `rn` and `m` …"""
    plain = name.translate(_ALIKE)
    for pair, letter in (("rn", "m"), ("vv", "w")):
        plain = plain.replace(pair, letter)
    return plain


def version_directory(version: str, digest: str) -> str:
    """The name of a version's directory: readable, unique by its content, harmless whatever the manifest says."""
    import re

    readable = re.sub(r"[^A-Za-z0-9.+!_-]", "_", version)[:64].lstrip(".-") or "0"
    return f"{readable}-{digest.removeprefix('sha256:')[:12]}"


def content_of(version_dir: str) -> str:
    """Version and content of a version's directory: the same for two that were made of the same."""
    import re

    leaf = version_dir.rpartition("/")[2]
    again = re.fullmatch(r"(.+-[0-9a-f]{12})-\d+", leaf)
    return again[1] if again else leaf
