"""Public keys and signatures of OpenSSH, read strictly: what a stranger wrote never reaches a file of ssh's."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from agenthub.errors import InvalidInputError
from agenthub.values import NamedTuple

NAMESPACE = "agenthub"
MOST_KEY_BYTES = 64 * 1024
MOST_SIGNATURE_BYTES = 64 * 1024
"""An ssh signature by the largest key that OpenSSH makes takes 5 kB."""

_MAGIC = b"SSHSIG"
_VERSION = 1
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
_LEAST_RSA_BITS = 2048
_KINDS = frozenset(
    (
        *("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
        *("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
    )
)
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


class PublicKey(NamedTuple):
    """A public key: its kind (`"ssh-ed25519"` …) and its bytes as OpenSSH has them."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """`"SHA256:…"`, as `ssh-keygen -l` prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """`"ssh-ed25519 AAAA…"`: written anew from what was understood, with nothing else."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


def is_fingerprint(text: str) -> bool:
    """Whether `text` is `SHA256:…` of a key."""
    return _FINGERPRINT.fullmatch(text) is not None


def parse_public_key(text: str, where: str = "the key") -> PublicKey:
    """The key in a line such as `ssh-ed25519 AAAA… comment`; options before it are not accepted.

    Raises:
        InvalidInputError: it is no public key, or of a kind that is not accepted.
    """
    words = text.split()
    if "PRIVATE KEY" in text:
        raise InvalidInputError(
            f"{where} is a private key", suggestion="give the public one: the file that ends in .pub"
        )
    if len([line for line in text.splitlines() if line.strip()]) != 1 or len(words) < 2 or words[0] not in _KINDS:
        raise InvalidInputError(
            f"{where} is not one public key of OpenSSH", suggestion="it looks like: ssh-ed25519 AAAA… comment"
        )
    try:
        blob = base64.b64decode(words[1], validate=True)
        return _public_key(blob, words[0])
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"{where} is damaged: {error}") from None


def signing_key(signature: bytes) -> PublicKey:
    """The key that a signature names as its own; nothing is verified by that.

    Raises:
        ValueError: it is not a signature of OpenSSH's in agenthub's namespace.
    """
    if len(signature) > MOST_SIGNATURE_BYTES:
        raise ValueError("it is too large")
    lines = signature.split()
    begin, end = _BEGIN.split(), _END.split()
    if lines[: len(begin)] != begin or lines[-len(end) :] != end:
        raise ValueError("it is not an ssh signature")
    try:
        data = base64.b64decode(b"".join(lines[len(begin) : -len(end)]), validate=True)
    except binascii.Error:
        raise ValueError("it is not an ssh signature") from None
    if data[:6] != _MAGIC or int.from_bytes(data[6:10], "big") != _VERSION:
        raise ValueError("it is an ssh signature of an unknown version")
    blob, rest = _string(data[10:])
    namespace, rest = _string(rest)
    if namespace != NAMESPACE.encode():
        raise ValueError("it was made for something else than agenthub")
    return _public_key(blob)


def _public_key(blob: bytes, kind: str | None = None) -> PublicKey:
    inner, rest = _string(blob)
    name = inner.decode("ascii", "replace")
    if name not in _KINDS or (kind is not None and kind != name):
        raise ValueError("it is of a kind that is not accepted")
    parts = []
    while rest:
        part, rest = _string(rest)
        parts.append(part)
    if name == "ssh-rsa" and (len(parts) != 2 or int.from_bytes(parts[1], "big").bit_length() < _LEAST_RSA_BITS):
        raise ValueError(f"RSA keys need {_LEAST_RSA_BITS} bits")
    if not parts:
        raise ValueError("it is cut off")
    return PublicKey(name, blob)


def _string(data: bytes) -> tuple[bytes, bytes]:
    """The first of the strings that OpenSSH's formats are made of, and what follows it."""
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 + size or len(data) < 4:
        raise ValueError("it is cut off")
    return data[4 : 4 + size], data[4 + size :]
