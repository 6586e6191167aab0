"""Whom the user trusts, owner by owner: keys of OpenSSH, identities of Sigstore, and single archives.

Kept in `AGENTHUB_HOME/trust.json`. An owner who has a key here publishes signed: what is not signed by one of the
owner's keys is refused.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import Any, NamedTuple

from agenthub.config import Paths
from agenthub.errors import InvalidInputError, StoreError, nearest
from agenthub.packages.files import SCHEMA_VERSION, read_json, storing, write_json
from agenthub.packages.locks import acquire
from agenthub.packages.names import check_name, is_name
from agenthub.packages.record import now
from agenthub.packages.staging import new_staging
from agenthub.trust.keys import is_fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SSH, SIGSTORE, ARCHIVE = "ssh", "sigstore", "archive"
FIRST_USE, BY_YOU = "first use", "you"

_ARCHIVE = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_IDENTITY = re.compile(r"[!-~]{1,500}", re.ASCII)
_WAY_OUT = "mend it, or remove it: then every owner's next release is a first one again"
_OPEN = "https://"  # an identity that is an address may be followed by @ and a branch or tag


class Trusted(NamedTuple):
    """What an owner's releases may be vouched for by.

    Attributes:
        kind: `"ssh"`, `"sigstore"` or `"archive"`.
        key: the fingerprint `SHA256:…`; the identity; the digest `sha256:…` of one archive that is taken unsigned.
        issuer: of a Sigstore identity: who says that it is that one; empty otherwise.
        since: UTC, ISO 8601.
        by: `"you"`, or `"first use"`: its release was the first of this owner's to be installed here.
    """

    kind: str
    key: str
    issuer: str = ""
    since: str = ""
    by: str = BY_YOU

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.key} ({self.issuer})" if self.issuer else self.key

    def covers(self, kind: str, key: str, issuer: str = "") -> bool:
        """Whether a signature of that kind by that key, or identity, is one of this."""
        if (self.kind, self.issuer) != (kind, issuer):
            return False
        return key == self.key or (kind == SIGSTORE and self.key.startswith(_OPEN) and key.startswith(self.key + "@"))


def trusted_of(paths: Paths, owner: str) -> tuple[Trusted, ...]:
    """What is trusted of an owner, the oldest first.

    Raises:
        StoreError: the file cannot be read.
    """
    return _read(paths).get(owner, ())


def all_trusted(paths: Paths) -> dict[str, tuple[Trusted, ...]]:
    """What is trusted, by owner.

    Raises:
        StoreError: the file cannot be read.
    """
    return dict(sorted(_read(paths).items()))


def trust(paths: Paths, owner: str, entry: Trusted) -> tuple[Trusted, ...]:
    """Trusts a key, an identity or an archive besides what is trusted already, and returns all of that owner's.

    Raises:
        InstallError: the owner's name cannot be one.
        InvalidInputError: what it names cannot be trusted.
        StoreError: it cannot be written.
    """
    check_name(owner, "owner")
    if not is_sound(entry):
        raise InvalidInputError(f"{entry.key!r} cannot be trusted", suggestion="see: agenthub trust --help")
    with _changing(paths) as owners:
        others = tuple(each for each in owners.get(owner, ()) if each[:3] != entry[:3])
        owners[owner] = (*others, entry._replace(since=now()))
        return owners[owner]


def trust_first(paths: Paths, owner: str, entry: Trusted) -> bool:
    """Trusts a key because it is the first one seen; False where another one was first, which is the one that counts.

    Raises:
        StoreError: it cannot be written.
    """
    check_name(owner, "owner")
    with _changing(paths) as owners:
        signers = [each for each in owners.get(owner, ()) if each.kind != ARCHIVE]
        if signers:
            return any(each.covers(entry.kind, entry.key, entry.issuer) for each in signers)
        owners[owner] = (*owners.get(owner, ()), entry._replace(since=now(), by=FIRST_USE))
        return True


def distrust(paths: Paths, owner: str, key: str | None = None) -> tuple[Trusted, ...]:
    """Forgets one key of an owner, or all, and returns what was forgotten.

    Raises:
        InvalidInputError: there is nothing of that kind; says what there is.
        StoreError: it cannot be written.
    """
    with _changing(paths) as owners:
        known = owners.get(owner)
        if known is None:
            close = nearest(owner, owners)
            raise InvalidInputError(
                f"nothing of an owner '{owner}' is trusted",
                suggestion=f"did you mean '{close}'?" if close else "agenthub trust list shows what is",
            )
        gone = tuple(each for each in known if key is None or each.key == key)
        if not gone:
            raise InvalidInputError(
                f"{key} is not trusted for {owner}", suggestion=f"one of {', '.join(each.key for each in known)}"
            )
        left = tuple(each for each in known if each not in gone)
        owners[owner] = left
        if not left:
            del owners[owner]
        return gone


def is_sound(entry: Trusted) -> bool:
    """Whether an entry is one that can be trusted at all, whoever wrote it."""
    if entry.kind == SSH:
        return is_fingerprint(entry.key) and not entry.issuer
    if entry.kind == ARCHIVE:
        return _ARCHIVE.fullmatch(entry.key) is not None and not entry.issuer
    return entry.kind == SIGSTORE and all(_IDENTITY.fullmatch(text) for text in (entry.key, entry.issuer))


def _read(paths: Paths) -> dict[str, tuple[Trusted, ...]]:
    path = _path(paths)
    try:
        values = read_json(path, _WAY_OUT)
    except FileNotFoundError:
        return {}
    try:
        owners = {owner: tuple(map(_entry, entries)) for owner, entries in values["owners"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StoreError(f"{path} is damaged", suggestion=_WAY_OUT) from None
    # Damage must not read as trust, nor as its absence.
    if not all(is_name(owner) and entries and all(map(is_sound, entries)) for owner, entries in owners.items()):
        raise StoreError(f"{path} is damaged", suggestion=_WAY_OUT)
    return owners


def _entry(values: Any) -> Trusted:
    entry = Trusted(**{key: values[key] for key in Trusted._fields})
    if not all(isinstance(text, str) for text in entry):
        raise TypeError("a text is none")
    return entry


@contextmanager
def _changing(paths: Paths) -> Iterator[dict[str, tuple[Trusted, ...]]]:
    """What is trusted, to change; written unless the block raises; one process at a time."""
    with new_staging(paths) as staging, storing("lock", paths.locks):
        os.makedirs(paths.locks, mode=0o700, exist_ok=True)
        lock = acquire(os.path.join(paths.locks, "trust.lock"))
        try:
            before = _read(paths)
            owners = dict(before)
            yield owners
            if owners != before:
                values = {owner: [entry._asdict() for entry in entries] for owner, entries in sorted(owners.items())}
                write_json(_path(paths), {"schema_version": SCHEMA_VERSION, "owners": values}, staging.path, mode=0o600)
        finally:
            os.close(lock)


def _path(paths: Paths) -> str:
    return os.path.join(paths.home, "trust.json")
