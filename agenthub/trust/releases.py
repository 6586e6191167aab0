"""Whether a release of an index may be installed: who vouches for it, and is it who did before."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from agenthub.config import Paths, Settings
from agenthub.errors import PermissionDeniedError
from agenthub.indexes.documents import Release
from agenthub.packages.sources import file_digest
from agenthub.trust.statements import Statement
from agenthub.trust.trusted import ARCHIVE, SIGSTORE, SSH, Trusted, trust_first, trusted_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Fetch = Callable[[str, int], bytes]
    """A file of the release's index, by its path there, and at most so many bytes of it."""

MOST_SIGNATURES = 8
MOST_SIGNATURE_BYTES = 1 << 20
"""A Sigstore bundle takes some 10 kB, with an attestation of a build perhaps 50."""

KNOWN = "known"

UNSIGNED, SIGNED, FIRST, ACCEPTED, UNCHECKED = "unsigned", "signed", "first use", "accepted by you", "not checked"


class Signer(NamedTuple):
    """Who made a signature that was verified, and the signature itself.

    `kind`, `key` and `issuer` are those of `trusted.Trusted`; `signature` is the file as it was published.
    """

    kind: str
    key: str
    issuer: str
    signature: bytes

    @property
    def label(self) -> str:
        """What messages call it."""
        return Trusted(self.kind, self.key, self.issuer).label

    @property
    def lasting_key(self) -> str:
        """What the next release will have as well: of a workflow's address the part before its branch or tag."""
        return self.key.partition("@")[0] if self.key.startswith("https://") else self.key


class Provenance(NamedTuple):
    """What is known of who made a release.

    Attributes:
        state: `"signed"` by somebody who is trusted; `"first use"`: signed, by somebody who is seen for the first
            time; `"unsigned"`; `"accepted by you"`: unsigned, and you trust this very archive; `"not checked"`: there
            is a signature that cannot be verified here.
        signer: who signed; None where nobody is known to have.
        note: what a person should know besides; empty mostly.
    """

    state: str
    signer: Signer | None = None
    note: str = ""

    def to_record(self) -> dict[str, Any]:
        """What an install record keeps in its `source`: enough to verify it again without the index."""
        signatures = []
        if self.signer is not None:
            encoded = base64.b64encode(self.signer.signature).decode("ascii")
            signatures.append({**self.signer._asdict(), "signature": encoded})
        return {"trust": self.state, "signatures": signatures}

    def words(self) -> str:
        """For people, in one line."""
        if self.signer is not None:
            seen = ", which is seen here for the first time" if self.state == FIRST else ""
            return f"signed by {self.signer.label}{seen}"
        return self.note or {ACCEPTED: "not signed; you trust this archive"}.get(self.state, "not signed")


def check_release(
    settings: Settings, owner: str, name: str, release: Release, archive_path: str, fetch: Fetch
) -> Provenance:
    """Decides whether the archive of a release may be opened.

    Nothing is remembered: `remember` does that once the user has agreed to install it.

    Args:
        settings: of the command: where what is trusted is kept, and what is demanded.
        owner: whose agent was asked for.
        name: the agent that was asked for.
        release: what the index says of it.
        archive_path: the file that was fetched, whose digest is the release's.
        fetch: gets a signature's file from the same index.

    Raises:
        PermissionDeniedError: a signature is wrong, missing where there was one before, or by another key; names both,
            and the command that accepts it.
        InstallError: the archive is not the release's, a signature cannot be fetched, or ssh-keygen is missing.
    """
    statement = Statement(owner, name, release.version, file_digest(archive_path), release.tree_digest)
    if statement.digest != release.digest:
        raise PermissionDeniedError(f"{release.label} is not the archive that its index speaks of")
    known = trusted_of(settings.paths, owner)
    if any(entry.covers(ARCHIVE, statement.digest) for entry in known):
        return Provenance(ACCEPTED)
    signers = [entry for entry in known if entry.kind != ARCHIVE]
    checks = _Checks(settings, statement, release, fetch)
    if signers:
        return checks.by_one_of(signers)
    if settings["signatures"] == KNOWN:
        return checks.by_nobody_known()
    return checks.first()


def check_unsigned(settings: Settings, owner: str, label: str, digest: str) -> None:
    """Refuses what comes from where nobody can sign, of an owner who signs.

    Args:
        settings: of the command.
        owner: whose agent it is.
        label: what messages call it.
        digest: `"sha256:…"` of its content.

    Raises:
        PermissionDeniedError: a key of the owner's is known, or is demanded; names the command that accepts it.
    """
    known = trusted_of(settings.paths, owner)
    if any(entry.covers(ARCHIVE, digest) for entry in known):
        return
    signers = [entry for entry in known if entry.kind != ARCHIVE]
    if signers or settings["signatures"] == KNOWN:
        raise PermissionDeniedError(
            f"{label} is not signed, and " + (f"{owner}'s releases are" if signers else "signatures=known demands it"),
            details=[_before(entry) for entry in signers[-1:]],
            suggestion=f"to take just this content all the same: agenthub trust {owner} {digest}",
        )


def remember(paths: Paths, owner: str, provenance: Provenance) -> None:
    """Trusts the key of an owner's first signed release, now that it is being installed.

    Raises:
        PermissionDeniedError: another process has installed one by another key meanwhile.
        StoreError: it cannot be written.
    """
    signer = provenance.signer
    if provenance.state != FIRST or signer is None:
        return
    if not trust_first(paths, owner, Trusted(signer.kind, signer.lasting_key, signer.issuer)):
        raise PermissionDeniedError(
            f"{owner} got another key a moment ago than {signer.label}",
            suggestion=f"agenthub trust list {owner} shows it; install again",
        )


class _Checks:
    """One release and its signatures, each fetched and verified once."""

    def __init__(self, settings: Settings, statement: Statement, release: Release, fetch: Fetch) -> None:
        self._settings = settings
        self._statement = statement
        self._release = release
        self._fetch = fetch
        self.label = release.label
        self._known_kinds = [signature for signature in release.signatures if signature.kind in (SSH, SIGSTORE)]
        if len(self._known_kinds) > MOST_SIGNATURES:
            raise PermissionDeniedError(f"{self.label} has {len(self._known_kinds)} signatures: that is refused")

    def by_one_of(self, known: Sequence[Trusted]) -> Provenance:
        """Signed by somebody who is trusted, or refused."""
        kinds = {entry.kind for entry in known}
        found, failures = self._verified(kinds)
        for signer in found:
            if any(entry.covers(signer.kind, signer.key, signer.issuer) for entry in known):
                return Provenance(SIGNED, signer)
        if failures and not found:
            raise failures[0]
        others = found or self._verified(_usable() - kinds)[0]
        owner = self._statement.owner
        before = _before(known[-1])
        if others:
            raise PermissionDeniedError(
                f"{self.label} is signed by another key than {owner}'s releases were",
                details=[before, f"now:    {others[0].label}"],
                suggestion=f"if {owner} confirms the new one: {_accepting(owner, others[0])}",
            )
        raise PermissionDeniedError(
            f"{self.label} is not signed, and {owner}'s releases are",
            details=[before],
            suggestion=f"to take this one archive all the same: agenthub trust {owner} {self._statement.digest}",
        )

    def by_nobody_known(self) -> Provenance:
        """Refused, since nobody is trusted of that owner, and that is demanded."""
        found, failures = self._verified({SSH, SIGSTORE})
        if failures and not found:
            raise failures[0]
        owner = self._statement.owner
        if found:
            raise PermissionDeniedError(
                f"{self.label} is signed by a key that you have not named: {found[0].label}",
                suggestion=f"if it is {owner}'s: {_accepting(owner, found[0])}",
            )
        raise PermissionDeniedError(
            f"{self.label} is not signed, and signatures=known demands it",
            suggestion=f"to take this one archive all the same: agenthub trust {owner} {self._statement.digest}",
        )

    def first(self) -> Provenance:
        """The first one of its owner's; what is signed wrongly is refused all the same."""
        found, failures = self._verified(_usable())
        if failures:
            raise failures[0]
        if found:
            return Provenance(FIRST, found[0])
        if self._known_kinds:
            return Provenance(UNCHECKED, note="signed by Sigstore, which is not checked: agenthub[sigstore] does that")
        return Provenance(UNSIGNED)

    def _verified(self, kinds: set[str]) -> tuple[list[Signer], list[PermissionDeniedError]]:
        """Who signed, by the signatures of those kinds; and what was wrong with the others."""
        found: list[Signer] = []
        failures: list[PermissionDeniedError] = []
        for signature in self._known_kinds:
            if signature.kind in kinds:
                data = self._fetch(signature.file, MOST_SIGNATURE_BYTES)
                try:
                    found.append(verify_signature(self._settings, self._statement, signature.kind, data))
                except PermissionDeniedError as error:
                    failures.append(error)
        return found, failures


def verify_signature(settings: Settings, statement: Statement, kind: str, signature: bytes) -> Signer:
    """Who signed a statement.

    Raises:
        PermissionDeniedError: the signature is not one of it.
        InstallError: what verifies it is missing.
    """
    if kind == SSH:
        from agenthub.trust.signatures import verify_statement

        return Signer(SSH, verify_statement(statement, signature).fingerprint, "", signature)
    from agenthub.trust.sigstore_bundles import verify_bundle

    identity, issuer = verify_bundle(signature, statement, settings["sigstore_root"] or None)
    return Signer(SIGSTORE, identity, issuer, signature)


def _usable() -> set[str]:
    """The kinds of signatures that can be verified on this machine; that ssh-keygen is there is demanded."""
    from importlib.util import find_spec

    return {SSH} if find_spec("sigstore") is None else {SSH, SIGSTORE}


def _before(entry: Trusted) -> str:
    return f"before: {entry.label} (since {entry.since[:10]}, by {entry.by})"


def _accepting(owner: str, signer: Signer) -> str:
    if signer.kind == SSH:
        return f"agenthub trust {owner} {signer.key}"
    return f"agenthub trust {owner} --identity {signer.lasting_key} --issuer {signer.issuer}"
