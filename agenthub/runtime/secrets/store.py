"""Where the user's secrets are kept: the operating system's keyring, or else an encrypted file.

`secrets.json` lists the names and where each one is, so that listing needs neither the keyring nor a key.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager, suppress
from typing import Any

from agenthub.errors import InvalidInputError, PermissionDeniedError, StoreError, nearest
from agenthub.keyrings import keyring_errors, usable_keyring
from agenthub.packages.files import SCHEMA_VERSION, read_json, storing, write_json
from agenthub.packages.locks import acquire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from agenthub.config import Paths
    from agenthub.runtime.secrets.cipher import Cipher

PASSPHRASE = "AGENTHUB_SECRETS_PASSPHRASE"  # noqa: S105 - where it is found
KEYRING, FILE = "keyring", "file"
LARGEST = 64 * 1024
"""Bytes that a value may have; a variable of an environment cannot be much larger."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SET_AGAIN = "remove it, and set your secrets again"


def check_secret_name(name: str) -> str:
    """`name` itself.

    Raises:
        InvalidInputError: it cannot name a secret. It is not repeated: it may be a value that slipped into its place.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidInputError(
            "a secret is named like an environment variable: letters, digits and _, for example OPENAI_API_KEY"
        )
    if name == PASSPHRASE:
        raise InvalidInputError(f"{PASSPHRASE} opens the secrets, and cannot be one of them")
    return name


class SecretStore:
    """The secrets of one `AGENTHUB_HOME`.

    Args:
        paths: of the store.
        ask: asks the user for a passphrase; is told whether a new one is made, which may then be empty for none.
            None: nobody can be asked.
    """

    def __init__(self, paths: Paths, ask: Callable[[bool], str] | None = None) -> None:
        self._paths = paths
        self._ask = ask
        self.path = os.path.join(paths.home, "secrets.json")
        self.key_path = os.path.join(paths.home, "secrets.key")
        self._service = f"agenthub:{paths.home}"

    def names(self) -> dict[str, str]:
        """Every secret's name, sorted, with where it is kept: `"keyring"` or `"file"`.

        Raises:
            StoreError: the list is damaged, or was written by a newer agenthub.
        """
        return {name: entry["kept"] for name, entry in sorted(self._read()["secrets"].items())}

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """The values of those of `names` that are kept.

        Raises:
            PermissionDeniedError: the passphrase is wrong, or there is none, or the keyring is locked.
            StoreError: they cannot be read.
        """
        document = self._read()
        kept = {name: document["secrets"][name] for name in names if name in document["secrets"]}
        values = {name: self._from_keyring(name) for name, entry in kept.items() if entry["kept"] == KEYRING}
        sealed = {name: entry["data"] for name, entry in kept.items() if entry["kept"] == FILE}
        if sealed:
            cipher = self._cipher(document["key"])
            for name, data in sealed.items():
                try:
                    values[name] = cipher.open(name, data)
                except ValueError:
                    raise self._damaged(
                        f"{name} cannot be decrypted", f"set it again: agenthub secret set {name}"
                    ) from None
        return values

    def set(self, name: str, value: str, *, in_file: bool = False) -> str:
        """Keeps a secret, or replaces it; returns where it is now, in words.

        Args:
            name: like an environment variable's.
            value: text without NUL.
            in_file: keep it in the encrypted file though there is a keyring.

        Raises:
            InvalidInputError: the name or the value cannot be an environment variable's.
            PermissionDeniedError: the passphrase is wrong, or there is none, or the keyring is locked.
            StoreError: it cannot be kept.
        """
        check_secret_name(name)
        _check_value(name, value)
        keyring = None if in_file else usable_keyring()
        with self._changing() as staging:
            document = self._read()
            before = document["secrets"].get(name)
            if keyring is not None:
                with keyring_errors(f"could not keep {name}"):
                    keyring.set_password(self._service, name, value)
                document["secrets"][name] = {"kept": KEYRING}
            else:
                cipher = self._cipher(document["key"]) if document["key"] else self._new_cipher(document, staging)
                document["secrets"][name] = {"kept": FILE, "data": cipher.seal(name, value)}
            self._write(document, staging)
            if keyring is None and before is not None and before["kept"] == KEYRING:
                self._forget(name)
        if keyring is not None:
            return f"in the keyring ({getattr(keyring, 'name', 'of this system')})"
        if document["key"]["kind"] == "passphrase":
            return f"in {self.path}, encrypted with your passphrase"
        return f"in {self.path}, encrypted with the key in {self.key_path}"

    def remove(self, names: Collection[str]) -> None:
        """Forgets secrets: all of them, or none if one is unknown.

        Raises:
            InvalidInputError: there is no such secret.
            StoreError: they cannot be removed.
        """
        with self._changing() as staging:
            document = self._read()
            for name in names:
                if name not in document["secrets"]:
                    near = nearest(name, document["secrets"])
                    raise InvalidInputError(
                        f"there is no secret {name}" + (f". Did you mean {near}?" if near else ""),
                        suggestion="see: agenthub secret list",
                    )
            for name in dict.fromkeys(names):
                if document["secrets"].pop(name)["kept"] == KEYRING:
                    self._forget(name)
            self._write(document, staging)

    # secrets.json ----------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            document = read_json(self.path, _SET_AGAIN)
        except FileNotFoundError:
            return {"key": None, "secrets": {}}
        key, secrets = document.get("key"), document.get("secrets")
        if not isinstance(secrets, dict) or not all(map(_is_entry, secrets.values())):
            raise self._damaged("it lists no secrets")
        if key is None and any(entry["kept"] == FILE for entry in secrets.values()):
            raise self._damaged("it does not say how its secrets are encrypted")
        if key is not None and not (isinstance(key, dict) and key.get("kind") in ("passphrase", "file")):
            raise self._damaged("it does not say how its secrets are encrypted")
        return {"key": key, "secrets": secrets}

    def _write(self, document: dict[str, Any], staging: str) -> None:
        """Writes the list; a key that nothing is encrypted with any more goes, so that a new one can be chosen."""
        needed = any(entry["kept"] == FILE for entry in document["secrets"].values())
        if not needed:
            document["key"] = None
        write_json(self.path, {"schema_version": SCHEMA_VERSION, **document}, staging, mode=0o600)
        if document["key"] is None or document["key"]["kind"] != "file":
            with storing("remove", self.key_path), suppress(FileNotFoundError):
                os.unlink(self.key_path)

    @contextmanager
    def _changing(self) -> Iterator[str]:
        """Holds the lock of the secrets; gives a directory to write in."""
        from agenthub.packages.staging import new_staging

        with new_staging(self._paths) as staging:
            with storing("lock", self._paths.locks):
                os.makedirs(self._paths.locks, mode=0o700, exist_ok=True)
                lock = acquire(os.path.join(self._paths.locks, "secrets.lock"))
            try:
                yield staging.path
            finally:
                os.close(lock)

    def _damaged(self, problem: str, way_out: str = _SET_AGAIN) -> StoreError:
        return StoreError(f"{self.path} is damaged: {problem}", suggestion=way_out)

    # the encrypted file's key -----------------------------------------------------------------------------------

    def _new_cipher(self, document: dict[str, Any], staging: str) -> Cipher:
        from agenthub.runtime.secrets.cipher import Cipher, derive_key, new_derivation

        passphrase = os.environ.get(PASSPHRASE) or (self._ask(True) if self._ask is not None else "")
        if passphrase:
            derivation = new_derivation()
            cipher = Cipher(derive_key(passphrase, derivation))
            document["key"] = {"kind": "passphrase", **derivation, "check": cipher.seal_check()}
            return cipher
        key = os.urandom(32)
        cipher = Cipher(key)  # fails before anything is written, where the library is missing
        write_json(self.key_path, {"schema_version": SCHEMA_VERSION, "key": key.hex()}, staging, mode=0o600)
        document["key"] = {"kind": "file", "check": cipher.seal_check()}
        return cipher

    def _cipher(self, key: dict[str, Any]) -> Cipher:
        from agenthub.runtime.secrets.cipher import Cipher

        cipher = Cipher(self._key_of_file() if key["kind"] == "file" else self._key_of_passphrase(key))
        if cipher.opens(key.get("check")):
            return cipher
        if key["kind"] == "file":
            raise StoreError(
                f"{self.key_path} is not the key of {self.path}", suggestion="restore both from one backup"
            )
        raise PermissionDeniedError("that is not the passphrase of your secrets", suggestion=f"see: {PASSPHRASE}")

    def _key_of_passphrase(self, derivation: dict[str, Any]) -> bytes:
        from agenthub.runtime.secrets.cipher import derive_key

        passphrase = os.environ.get(PASSPHRASE) or (self._ask(False) if self._ask is not None else "")
        if not passphrase:
            raise PermissionDeniedError(
                "your secrets are encrypted with a passphrase, and there is no terminal to ask for it",
                suggestion=f"give it in the environment variable {PASSPHRASE}",
            )
        try:
            return derive_key(passphrase, derivation)
        except (ValueError, MemoryError):
            raise self._damaged("it does not say how its key is derived") from None

    def _key_of_file(self) -> bytes:
        try:
            mode = stat.S_IMODE(os.stat(self.key_path).st_mode)
            key = bytes.fromhex(str(read_json(self.key_path, "restore it from a backup").get("key")))
        except FileNotFoundError:
            raise StoreError(
                f"{self.key_path} is gone: what was encrypted with it cannot be read",
                suggestion=f"restore it, or remove {self.path} and set your secrets again",
            ) from None
        except ValueError:
            key = b""
        if len(key) != 32:
            raise StoreError(f"{self.key_path} is damaged", suggestion="restore it from a backup")
        if mode & 0o077:
            raise PermissionDeniedError(
                f"{self.key_path} may be read by others (mode {mode:o})", suggestion=f"chmod 600 {self.key_path}"
            )
        return key

    # the keyring ------------------------------------------------------------------------------------------------

    def _from_keyring(self, name: str) -> str:
        keyring = self._keyring(name)
        with keyring_errors(f"could not give {name}"):
            value = keyring.get_password(self._service, name)
        if not isinstance(value, str):
            raise StoreError(f"{name} is no longer in the keyring", suggestion=f"agenthub secret set {name}")
        return value

    def _forget(self, name: str) -> None:
        keyring = self._keyring(name)
        with keyring_errors(f"could not remove {name}"):
            if keyring.get_password(self._service, name) is not None:
                keyring.delete_password(self._service, name)

    @staticmethod
    def _keyring(name: str) -> Any:
        keyring = usable_keyring()
        if keyring is None:
            raise PermissionDeniedError(
                f"{name} is kept in a keyring, which cannot be reached from here",
                suggestion="run it in your desktop session, with agenthub[keyring] installed, or set it again",
            )
        return keyring


def _check_value(name: str, value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"the value of {name} is not text in UTF-8") from None
    if not 0 < size <= LARGEST or "\0" in value:
        raise InvalidInputError(f"the value of {name} is empty, longer than 64 kB, or holds a NUL")


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    return entry.get("kept") == KEYRING or (entry.get("kept") == FILE and isinstance(entry.get("data"), str))
