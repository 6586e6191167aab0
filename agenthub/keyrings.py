"""The operating system's keyring, where there is one: for the user's secrets, and for what opens private indexes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

from agenthub.errors import PermissionDeniedError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def usable_keyring() -> Any:
    """The operating system's keyring, by the `keyring` library; None where there is none that can be used now.

    Raises:
        StoreError: one is configured that cannot be loaded.
    """
    from importlib import import_module

    try:
        library: Any = import_module("keyring")
    except ImportError:
        return None
    with keyring_errors("could not be loaded"):
        found = library.get_keyring()
        # 1 and more is what the library recommends; less are its stand-ins for none, and files in plain text.
        return found if found.priority >= 1 else None


@contextmanager
def keyring_errors(problem: str) -> Iterator[None]:
    """Turns what a keyring raises into an error of ours."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a plug-in, and what it calls, may raise anything
        locked = "lock" in type(error).__name__.lower() or "dismiss" in type(error).__name__.lower()
        raise (PermissionDeniedError if locked else StoreError)(
            f"the keyring {problem}: {type(error).__name__}",
            suggestion="unlock it, or keep the secret in an encrypted file: agenthub secret set --file NAME",
        ) from None
