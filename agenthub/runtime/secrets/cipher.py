"""How secrets are encrypted where there is no keyring: AES-256-GCM, by the cryptography library."""

from __future__ import annotations

import binascii
import os
from typing import Any

from agenthub.errors import StoreError

_NONCE = 12  # bytes
_BLOCK = 256  # bytes to a multiple of which values are filled up, so that their lengths do not show
_SALT = 16  # bytes
# What one guess at a passphrase costs: 32 MiB and about 0.3 s.
_WORK = {"n": 2**15, "r": 8, "p": 3}
_MOST_WORK = {"n": 2**20, "r": 32, "p": 16}
_CHECK = "\0check"  # not a variable's name


class Cipher:
    """Encrypts values, each bound to its name: one that is moved to another name does not open.

    Args:
        key: 32 bytes.

    Raises:
        StoreError: the cryptography library is not installed.
    """

    def __init__(self, key: bytes) -> None:
        try:
            from importlib import import_module

            aead = import_module("cryptography.hazmat.primitives.ciphers.aead")
        except ImportError:
            raise StoreError(
                "secrets are kept encrypted, for which the cryptography library is needed",
                suggestion="pip install 'agenthub[keyring]'",
            ) from None
        self._aead = aead.AESGCM(key)

    def seal(self, name: str, value: str) -> str:
        """`value` encrypted, as text."""
        data = value.encode()
        data += b"\0" * (-len(data) % _BLOCK or _BLOCK)
        nonce = os.urandom(_NONCE)
        sealed = nonce + self._aead.encrypt(nonce, data, name.encode())
        return binascii.b2a_base64(sealed, newline=False).decode()

    def open(self, name: str, sealed: str) -> str:
        """What was sealed under `name`.

        Raises:
            ValueError: it was sealed with another key or under another name, or is damaged.
        """
        data = binascii.a2b_base64(sealed)
        if len(data) <= _NONCE:
            raise ValueError("too short")
        from importlib import import_module

        invalid: type[Exception] = import_module("cryptography.exceptions").InvalidTag
        try:
            opened: bytes = self._aead.decrypt(data[:_NONCE], data[_NONCE:], name.encode())
        except invalid:
            raise ValueError("not sealed with this key") from None
        return opened.rstrip(b"\0").decode()

    def seal_check(self) -> str:
        """What tells this key from others."""
        return self.seal(_CHECK, _CHECK[1:])

    def opens(self, check: Any) -> bool:
        """Whether `check` was made with this key."""
        try:
            return isinstance(check, str) and self.open(_CHECK, check) == _CHECK[1:]
        except ValueError:
            return False


def new_derivation() -> dict[str, Any]:
    """How a new key is derived from a passphrase; no secret."""
    return {"salt": os.urandom(_SALT).hex(), **_WORK}


def derive_key(passphrase: str, derivation: dict[str, Any]) -> bytes:
    """The key that a passphrase makes (scrypt).

    Raises:
        ValueError: `derivation` is damaged.
    """
    import hashlib

    work = {name: derivation.get(name) for name in _MOST_WORK}
    if not all(isinstance(number, int) and 0 < number <= _MOST_WORK[name] for name, number in work.items()):
        raise ValueError("no amount of work")
    n, r, p = (int(number) for number in work.values() if number is not None)
    salt = bytes.fromhex(str(derivation.get("salt")))
    data = passphrase.encode("utf-8", "surrogateescape")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r + 2**20, dklen=32)
