"""What opens a private index: a token in a variable or in the keyring, or a login in a `.netrc`."""

from __future__ import annotations

import os
import re

from agenthub.errors import StoreError
from agenthub.keyrings import keyring_errors, usable_keyring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agenthub.indexes.configured import IndexSource

_SERVICE = "agenthub-index"


def authorization(source: IndexSource, environ: Mapping[str, str], configured: Sequence[IndexSource]) -> str | None:
    """The value of the header `Authorization`, from a variable or a `.netrc`; None where there is neither.

    Args:
        source: what it is for.
        environ: has the variables.
        configured: the user's indexes: the token of one of them is not for another whose host is called as it is.

    Raises:
        StoreError: the `.netrc` cannot be understood.
    """
    variable = token_variable(source)
    others = {token_variable(other) for other in configured if other.url != source.url}
    token = environ.get(variable) if variable not in others else None
    return _bearer(token) if token else _from_netrc(source, environ)


def keyring_authorization(source: IndexSource) -> str | None:
    """The same from the keyring, which may take its time: asked when the index has refused.

    Raises:
        StoreError: the keyring fails.
        PermissionDeniedError: the keyring is locked.
    """
    keyring = usable_keyring()
    if keyring is None:
        return None
    with keyring_errors(f"could not give the token of {source.name}"):
        token = keyring.get_password(_SERVICE, source.url)
    return _bearer(token) if isinstance(token, str) and token else None


def keep_token(source: IndexSource, token: str) -> None:
    """Keeps an index's token in the keyring.

    Raises:
        StoreError: there is no keyring, or it fails.
        PermissionDeniedError: the keyring is locked.
    """
    keyring = usable_keyring()
    if keyring is None:
        raise StoreError(
            "there is no keyring here to keep a token in (agenthub[keyring], in a desktop session)",
            suggestion=f"export {token_variable(source)}=…, or write the login into ~/.netrc",
        )
    with keyring_errors(f"could not keep the token of {source.name}"):
        keyring.set_password(_SERVICE, source.url, token)


def forget_token(source: IndexSource) -> bool:
    """Removes an index's token from the keyring; whether there was one.

    Raises:
        StoreError: the keyring fails.
        PermissionDeniedError: the keyring is locked.
    """
    keyring = usable_keyring()
    if keyring is None:
        return False
    with keyring_errors(f"could not remove the token of {source.name}"):
        if keyring.get_password(_SERVICE, source.url) is None:
            return False
        keyring.delete_password(_SERVICE, source.url)
    return True


def token_variable(source: IndexSource) -> str:
    """`AGENTHUB_INDEX_TOKEN_<NAME>`; of an index that is not configured, with its host for a name."""
    name = source.name if "://" not in source.name else _host(source.url)
    return "AGENTHUB_INDEX_TOKEN_" + re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()


def _host(url: str) -> str:
    return re.sub(r":[0-9]+$", "", url.partition("://")[2].partition("/")[0])


def _bearer(token: str) -> str:
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise StoreError("the token of the index has characters that no token has", suggestion="set it again")
    return f"Bearer {token}"


def _from_netrc(source: IndexSource, environ: Mapping[str, str]) -> str | None:
    path = environ.get("NETRC") or os.path.join(os.path.expanduser("~"), ".netrc")
    if not os.path.exists(path):
        return None
    import base64
    import netrc

    try:
        found = netrc.netrc(path).authenticators(_host(source.url).strip("[]"))
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        reason = error.msg if isinstance(error, netrc.NetrcParseError) else str(error)
        raise StoreError(f"{path} cannot be used: {reason}") from None
    if found is None:
        return None
    login, _, password = found
    return "Basic " + base64.b64encode(f"{login}:{password or ''}".encode()).decode("ascii")
