"""Verifies Sigstore bundles, offline: certificate, transparency log and signature against a trusted root on disk.

Needs the extra `agenthub[sigstore]`. A bundle counts if it vouches for owner, name, version and archive together:
it signs the statement's text, or it is an in-toto attestation of a subject `owner/name@version` with its digest.
"""

from __future__ import annotations

import json
from typing import Any

from agenthub.errors import InstallError, PermissionDeniedError
from agenthub.trust.statements import Statement

PRODUCTION = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"  # how the library calls the folder of the public instance
MOST_SUBJECTS = 1024

_IN_TOTO = "application/vnd.in-toto+json"
_ISSUER, _ISSUER_OF_OLD = "1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1"


def verify_bundle(data: bytes, statement: Statement, trusted_root: str | None) -> tuple[str, str]:
    """Who signed a statement, as a bundle proves: identity (an e-mail address, or a workflow's address) and issuer.

    Args:
        data: the bundle.
        statement: what it has to vouch for.
        trusted_root: the file of another trusted root than that of the public Sigstore, which the library brings.

    Raises:
        PermissionDeniedError: the bundle does not vouch for it.
        InstallError: the library is missing, or the trusted root cannot be read.
    """
    label = f"{statement.owner}/{statement.name} {statement.version}"
    try:
        from sigstore.errors import Error
        from sigstore.models import Bundle, InvalidBundle
    except ImportError:
        raise InstallError(
            f"{label} is signed by Sigstore, and what verifies that is not installed",
            suggestion="pip install 'agenthub[sigstore]', or: uv tool install 'agenthub[sigstore]'",
        ) from None
    verifier = _verifier(trusted_root)
    certificates = _Certificates()
    try:
        bundle = Bundle.from_json(data)
        if bundle._dsse_envelope is None:
            verifier.verify_artifact(statement.text(), bundle, certificates)
        else:
            kind, payload = verifier.verify_dsse(bundle, certificates)
            if not _attests(kind, payload, statement):
                raise PermissionDeniedError(f"the Sigstore attestation of {label} is one of something else")
        return certificates.identity(), certificates.issuer()
    except (Error, InvalidBundle, ValueError, RecursionError) as error:
        raise PermissionDeniedError(
            f"the Sigstore signature of {label} does not belong to what was served", details=[_reason(error)]
        ) from error


class _Certificates:
    """A policy of Sigstore's that takes every identity, and keeps the certificate that was verified."""

    def __init__(self) -> None:
        self._certificate: Any = None

    def verify(self, cert: Any) -> None:
        self._certificate = cert

    def identity(self) -> str:
        """The one name of the certificate."""
        from cryptography import x509

        found = self._certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [name.value for name in found if isinstance(name, (x509.RFC822Name, x509.UniformResourceIdentifier))]
        if len(names) != 1 or len(found) != 1:
            raise ValueError("its certificate does not have one identity")
        return _plain(names[0])

    def issuer(self) -> str:
        """Who says that it is that identity."""
        from cryptography import x509

        values = {extension.oid.dotted_string: extension.value for extension in self._certificate.extensions}
        found = values.get(_ISSUER) or values.get(_ISSUER_OF_OLD)
        if not isinstance(found, x509.UnrecognizedExtension):
            raise ValueError("its certificate has no issuer of identities")
        data = found.value
        if _ISSUER in values:  # a DER string: its tag, its length in a byte or two, and UTF-8
            start = 3 if len(data) > 2 and data[1] == 0x81 else 2
            if data[:1] != b"\x0c" or len(data) != start + data[start - 1]:
                raise ValueError("its certificate's issuer is damaged")
            data = data[start:]
        return _plain(data.decode())


def _verifier(trusted_root: str | None) -> Any:
    """The library's verifier, without its habit of keeping a copy of the root in the user's cache."""
    from importlib.resources import as_file, files

    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    try:
        if trusted_root:
            return Verifier(trusted_root=TrustedRoot.from_file(trusted_root))
        with as_file(files("sigstore") / "_store" / PRODUCTION / "trusted_root.json") as path:
            return Verifier(trusted_root=TrustedRoot.from_file(str(path)))
    except Exception as error:  # the library says the same thing in a dozen ways
        raise InstallError(
            f"the trusted root of Sigstore cannot be used: {trusted_root or 'the one that the library brings'}",
            details=[_reason(error)],
            suggestion="agenthub config shows sigstore_root",
        ) from error


def _attests(kind: str, payload: bytes, statement: Statement) -> bool:
    """Whether an attestation, whose signature is verified, speaks of this release."""
    if kind != _IN_TOTO:
        return False
    value = json.loads(payload)
    subjects = value.get("subject") if isinstance(value, dict) else None
    if not isinstance(subjects, list) or len(subjects) > MOST_SUBJECTS:
        return False
    name = f"{statement.owner}/{statement.name}@{statement.version}"
    digest = {"sha256": statement.digest.removeprefix("sha256:")}
    return any(
        isinstance(subject, dict)
        and subject.get("name") == name
        and isinstance(subject.get("digest"), dict)
        and digest.items() <= subject["digest"].items()
        for subject in subjects
    )


def _plain(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > 500:
        raise ValueError("its certificate has a name that cannot be shown")
    return text


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
