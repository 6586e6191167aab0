"""The first message of a TLS connection: which server the client asks for (RFC 8446 4.1.2, RFC 6066 3)."""

from __future__ import annotations

HELLO_LIMIT = 32 * 1024
# alert, TLS 1.2, two bytes: fatal, unrecognized_name
UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME = 22, 1, 0
_RECORD_LIMIT = 16 * 1024


class NoHelloError(ValueError):
    """The bytes are no ClientHello, or a malformed one."""


def server_name(data: bytes) -> str | None:
    """The server name in a ClientHello, "" if it has none; None while bytes are missing.

    Raises:
        NoHelloError: this will never be one.
    """
    message = _handshake(data)
    if message is None:
        return None
    try:
        return _name(message)
    except (IndexError, UnicodeDecodeError):
        raise NoHelloError("a malformed ClientHello") from None


def _handshake(data: bytes) -> bytes | None:
    """The ClientHello's content, put together from the records that it came in."""
    message = b""
    at = 0
    while True:
        header = data[at : at + 5]
        if header and (header[0] != _HANDSHAKE or (len(header) > 1 and header[1] != 3)):
            raise NoHelloError("no TLS handshake")
        if len(header) < 5:
            return None
        size = int.from_bytes(header[3:5], "big")
        if not 0 < size <= _RECORD_LIMIT:
            raise NoHelloError("a malformed TLS record")
        message += data[at + 5 : at + 5 + size]
        if message and message[0] != _CLIENT_HELLO:
            raise NoHelloError("no ClientHello")
        if len(message) >= 4 and len(message) >= 4 + (length := int.from_bytes(message[1:4], "big")):
            return message[4 : 4 + length]
        at += 5 + size
        if at > len(data):
            return None


def _name(message: bytes) -> str:
    at = 2 + 32  # version, random
    at += 1 + message[at]  # session
    at += 2 + _number(message, at)  # cipher suites
    at += 1 + message[at]  # compression methods
    if at == len(message):
        return ""
    names = []
    end = at + 2 + _number(message, at)
    at += 2
    while at < end:
        kind, size = _number(message, at), _number(message, at + 2)
        if kind == _SERVER_NAME:
            names.append(message[at + 4 : at + 4 + size])
        at += 4 + size
    if at != end or end != len(message) or len(names) > 1:
        raise NoHelloError("a malformed ClientHello")
    if not names:
        return ""
    entry = names[0]
    if _number(entry, 0) + 2 != len(entry) or entry[2] != 0 or _number(entry, 3) + 5 != len(entry):
        raise NoHelloError("a malformed server name")
    return entry[5:].decode("ascii")


def _number(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]
