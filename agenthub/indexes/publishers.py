"""Who may publish to a reference server: tokens, each with a name and, where it says so, the owners it is for."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import stat
from typing import NamedTuple

from agenthub.errors import InvalidInputError
from agenthub.packages.names import is_name

_MAX_BYTES = 1 << 20
_SHORTEST = 16  # characters of a token
_FORM = "each line is TOKEN NAME [OWNER[,OWNER…]]"


class Publisher(NamedTuple):
    """`name` is what the index says of who published; an empty `owners` means all of them."""

    token: str
    name: str
    owners: tuple[str, ...] = ()

    def may_publish(self, owner: str) -> bool:
        """Whether the token is good for this owner's agents."""
        return not self.owners or owner in self.owners


def read_publishers(path: str) -> tuple[Publisher, ...]:
    """The publishers in a file that nobody else may read.

    Raises:
        InvalidInputError: the file cannot be read, is open to others, or has a line that is wrong.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidInputError(f"{path} holds tokens, and others may read it", suggestion=f"chmod 600 {path}")
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    found = tuple(
        _publisher(words, f"{path}:{number}") for number, words in lines if words and not words[0].startswith("#")
    )
    if not found:
        raise InvalidInputError(f"{path} has no tokens", suggestion=_FORM)
    return found


def authorized(publishers: tuple[Publisher, ...], header: str | None) -> Publisher | None:
    """Whose token an `Authorization` header has: as Bearer, or as the password of a login (which `.netrc` gives)."""
    token = _token(header or "").encode("utf-8", "surrogateescape")
    matching = [each for each in publishers if hmac.compare_digest(each.token.encode(), token)]
    return matching[0] if matching else None


def _publisher(words: list[str], where: str) -> Publisher:
    if len(words) not in (2, 3):
        raise InvalidInputError(f"{where}: it has {len(words)} words", suggestion=_FORM)
    token, name = words[:2]
    owners = tuple(words[2].split(",")) if len(words) == 3 else ()
    for owner in owners:
        if not is_name(owner):
            raise InvalidInputError(f"{where}: {owner!r} cannot be an owner")
    return Publisher(check_token(token, where), name, owners)


def check_token(token: str, where: str) -> str:
    """`token` itself.

    Raises:
        InvalidInputError: it can be guessed, or not be sent.
    """
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError(f"{where}: a token has at least {_SHORTEST} characters of ASCII, without spaces")
    return token


def _token(header: str) -> str:
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8", "replace").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""
