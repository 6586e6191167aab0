"""The indexes that the user configured, in the order in which they are asked, and the owners that belong to each."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import Any, NamedTuple

from agenthub.config import Paths, Settings
from agenthub.errors import InvalidInputError, StoreError, nearest
from agenthub.packages.files import SCHEMA_VERSION, read_json, storing, write_json
from agenthub.packages.locks import acquire
from agenthub.packages.names import check_name, is_name
from agenthub.packages.spec import redacted
from agenthub.packages.staging import new_staging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPELLINGS = "write https://HOST/PATH, file:///DIR, a directory, or git+https://HOST/{owner}/{name}"
_URL = re.compile(r"(git\+)?([a-z]+)://([^/?#\s\\]*)(/[^?#\s\\]*)?", re.ASCII)
_PORT = re.compile(r":[0-9]{1,5}$", re.ASCII)
_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[::1\]", re.ASCII)
_WAY_OUT = "mend it, or remove it and add the indexes again"


class IndexSource(NamedTuple):
    """One index.

    Attributes:
        name: what the user calls it; of one that is not configured, its address.
        url: its address, without a slash at the end; `git+…/{owner}/{name}` for a git host.
        owners: whose agents come from here, and from nowhere else.
    """

    name: str
    url: str
    owners: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`"git"`, `"file"` or `"http"`."""
        return "git" if self.url.startswith("git+") else "file" if self.url.startswith("file://") else "http"

    @property
    def directory(self) -> str:
        """Where an index of kind `"file"` is on this machine's disk."""
        from urllib.parse import unquote

        return unquote(self.url.removeprefix("file://"))


def configured_indexes(settings: Settings, extra: Sequence[str] = ()) -> tuple[IndexSource, ...]:
    """The indexes that a command asks: `extra` and the setting `index` first, then the configured ones.

    Args:
        settings: of the command.
        extra: addresses, or names of configured indexes.

    Raises:
        InvalidInputError: one of `extra`, or of the setting, is neither.
        StoreError: the file of the indexes cannot be read.
    """
    named = (settings["index"],) if settings["index"] else ()
    return read_indexes(settings.paths, (*extra, *named))


def read_indexes(paths: Paths, extra: Sequence[str] = ()) -> tuple[IndexSource, ...]:
    """The configured indexes in their order; those that `extra` (addresses or names) says come first."""
    configured = _read(paths)
    first: list[IndexSource] = []
    for text in extra:
        source = _named(configured, text) or IndexSource(index_url(text), index_url(text))
        source = next((each for each in configured if each.url == source.url), source)
        if source not in first:
            first.append(source)
    return (*first, *(each for each in configured if each not in first))


def add_index(paths: Paths, name: str, address: str, owners: Sequence[str] = (), *, first: bool = False) -> IndexSource:
    """Configures an index, behind all others or before them.

    Raises:
        InvalidInputError: the name or the address cannot be one, or the name or an owner is taken.
        StoreError: it cannot be written.
    """
    from agenthub.indexes.credentials import token_variable

    if not is_name(name):
        raise InvalidInputError(f"{name!r} cannot be the name of an index: use lower-case letters, digits and . _ -")
    source = IndexSource(name, index_url(address), tuple(sorted({check_name(owner, "owner") for owner in owners})))
    with _changing(paths) as indexes:
        for other in indexes:
            if other.name == name and other.url != source.url:
                raise InvalidInputError(
                    f"the index {name} is configured already: {other.url}", suggestion=f"agenthub index remove {name}"
                )
            if other.url == source.url and other.name != name:
                raise InvalidInputError(f"{other.url} is configured already, as {other.name}")
            if other.name != name and token_variable(other) == token_variable(source):
                raise InvalidInputError(
                    f"the index {other.name} takes its token from {token_variable(other)}, and so would {name}",
                    suggestion="give it a name that differs in more than dots and dashes",
                )
            taken = set(other.owners) & set(source.owners) if other.name != name else set()
            if taken:
                raise _owner_taken(min(taken), other)
        earlier = next((each for each in indexes if each.name == name), None)
        if earlier is not None:
            source = source._replace(owners=tuple(sorted({*earlier.owners, *source.owners})))
            position = 0 if first else indexes.index(earlier)
            indexes.remove(earlier)
        else:
            position = 0 if first else len(indexes)
        indexes.insert(position, source)
    return source


def remove_index(paths: Paths, name: str) -> IndexSource:
    """Forgets an index, and which owners were mapped to it.

    Raises:
        InvalidInputError: no index is called so.
        StoreError: it cannot be written.
    """
    with _changing(paths) as indexes:
        source = find_index(indexes, name)
        indexes.remove(source)
    return source


def map_owner(paths: Paths, owner: str, name: str | None) -> IndexSource | None:
    """Says that an owner's agents come from one index and from no other; None: no longer.

    Raises:
        InvalidInputError: no index is called so.
        InstallError: the owner cannot be one.
        StoreError: it cannot be written.
    """
    check_name(owner, "owner")
    with _changing(paths) as indexes:
        chosen = find_index(indexes, name) if name is not None else None
        for position, source in enumerate(indexes):
            owners = {*source.owners} - {owner} | ({owner} if source == chosen else set())
            indexes[position] = source._replace(owners=tuple(sorted(owners)))
    return chosen


def find_index(indexes: Sequence[IndexSource], name: str) -> IndexSource:
    """The index of that name or address.

    Raises:
        InvalidInputError: there is none; says the nearest.
    """
    found = _named(indexes, name) or next((each for each in indexes if each.url == name.rstrip("/")), None)
    if found is not None:
        return found
    close = nearest(name, [source.name for source in indexes])
    hint = f"did you mean '{close}'?" if close else "agenthub index list shows them; agenthub index add NAME URL"
    raise InvalidInputError(f"no index is called '{name}'", suggestion=hint)


def index_url(text: str) -> str:
    """The address in its one spelling.

    Raises:
        InvalidInputError: it is none, or one that is refused: another transport, or one with a password in it.
    """
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        from urllib.parse import quote

        return "file://" + quote(os.path.abspath(os.path.expanduser(text)))
    scheme, found, rest = text.partition("://")
    match = _URL.fullmatch(f"{scheme.lower()}{found}{rest}".rstrip("/")) if found and text.isprintable() else None
    if match is None:
        raise InvalidInputError(f"'{redacted(text)}' is not the address of an index", suggestion=_SPELLINGS)
    git, scheme, authority, path = match[1] or "", match[2], match[3], match[4] or ""
    if git and ("{owner}" not in path or "{name}" not in path):
        raise InvalidInputError(f"'{redacted(text)}' does not say where an owner's agents are", suggestion=_SPELLINGS)
    _check_transport(git, scheme, authority, redacted(text))
    if scheme == "file":
        return f"{git}file://{path if git else os.path.normpath(path or '/')}"
    return f"{git}{scheme}://{authority if git else authority.lower()}{path}"


def is_loopback(host: str) -> bool:
    """Whether a host (IPv6 in brackets) is this machine."""
    return _LOOPBACK.fullmatch(host.lower()) is not None


def _check_transport(git: str, scheme: str, authority: str, shown: str) -> None:
    host = _PORT.sub("", authority.rpartition("@")[2])
    if scheme == "file":
        if authority:
            raise InvalidInputError(f"'{shown}' names another machine", suggestion="write file:///DIR")
        return
    allowed = ("https", "ssh") if git else ("https",)
    if scheme not in allowed and not (scheme == "http" and is_loopback(host)):
        raise InvalidInputError(
            f"an index over '{scheme}' is refused: {shown}",
            suggestion="use https:// or file:// (http:// on this machine only)",
        )
    if not host or host.startswith("-") or (":" in host and not host.startswith("[")):
        raise InvalidInputError(f"'{shown}' names no host", suggestion=_SPELLINGS)
    if "@" in authority and (not git or ":" in authority.rpartition("@")[0]):
        raise InvalidInputError(
            f"'{shown}' has a password in it, which would be kept in a file for all to read",
            suggestion="leave it out: agenthub index login NAME, ~/.netrc or AGENTHUB_INDEX_TOKEN_NAME give it",
        )


def _named(indexes: Sequence[IndexSource], name: str) -> IndexSource | None:
    return next((each for each in indexes if each.name == name), None)


def _owner_taken(owner: str, source: IndexSource) -> InvalidInputError:
    return InvalidInputError(
        f"{owner} belongs to the index {source.name} already", suggestion=f"agenthub index owner {owner} NAME moves it"
    )


def _read(paths: Paths) -> list[IndexSource]:
    try:
        values = read_json(paths.indexes, _WAY_OUT)
    except FileNotFoundError:
        return []
    try:
        found = [_source(value) for value in values["indexes"]]
    except (KeyError, TypeError, InvalidInputError) as error:
        raise StoreError(f"{paths.indexes} is damaged: {error}", suggestion=_WAY_OUT) from None
    return found


def _source(value: Any) -> IndexSource:
    name, url, owners = value["name"], value["url"], value["owners"]
    if not isinstance(name, str) or not isinstance(url, str) or not all(isinstance(owner, str) for owner in owners):
        raise TypeError("an index is not as it was written")
    return IndexSource(name, index_url(url), tuple(owners))


@contextmanager
def _changing(paths: Paths) -> Iterator[list[IndexSource]]:
    """The list to change, which is written unless the block raises; one process at a time."""
    with new_staging(paths) as staging, storing("lock", paths.locks):
        os.makedirs(paths.locks, mode=0o700, exist_ok=True)
        lock = acquire(os.path.join(paths.locks, "indexes.lock"))
        try:
            indexes = _read(paths)
            yield indexes
            values = [{**source._asdict(), "owners": list(source.owners)} for source in indexes]
            write_json(paths.indexes, {"schema_version": SCHEMA_VERSION, "indexes": values}, staging.path)
        finally:
            os.close(lock)
