"""HTTP/1 messages, read strictly: what two programs could read in two ways is refused, so nothing can be smuggled."""

from __future__ import annotations

import re
from typing import NamedTuple

from agenthub.runtime.sandbox.hosts import normal_host, split_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Body(Protocol):
        """Follows a message's bytes and knows where it ends."""

        done: bool

        def feed(self, data: bytes) -> tuple[bytes, bytes]:
            """Returns what to pass on, and what belongs to the next message or needs more bytes to be understood."""

        def end(self) -> None:
            """The sender has closed; raises BadMessageError where the message needed more."""


HEAD_LIMIT = 64 * 1024  # bytes of a message's first line and headers
_CHUNK_LINE_LIMIT = 4096
_TRAILER_LIMIT = 16 * 1024
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])\Z")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\Z")
# No two parts that follow each other match the same letters: whatever the bytes, each is looked at once.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\Z")
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[\t\x20-\x7e]*)?\Z")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authorization proxy-authenticate proxy-authentication-info "
    b"te upgrade http2-settings".split()
)
_INDISPENSABLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type"))
_NO_BODY = frozenset((204, 304))


class BadMessageError(Exception):
    """A message that is refused; says why."""


class Request(NamedTuple):
    """A client's request.

    Attributes:
        tunnel: it is a CONNECT.
        method: as sent.
        host: in its normal form.
        port: 1 to 65535.
        head: the bytes for the server; empty for a tunnel.
        body: what follows it.
        keep: whether the client wants to send another one afterwards.
    """

    tunnel: bool
    method: bytes
    host: str
    port: int
    head: bytes
    body: Body
    keep: bool


class BadHostError(BadMessageError):
    """The request names its host in a form that is refused."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(reason)
        self.host = host


class Passage:
    """Passes everything on, until the sender closes."""

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""

    def end(self) -> None:
        self.done = True


class FixedBody:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        mine, rest = data[: self._left], data[self._left :]
        self._left -= len(mine)
        self.done = self._left == 0
        return mine, rest

    def end(self) -> None:
        raise BadMessageError("it ended before its body did")


class ChunkedBody:
    """A body in chunks, passed on as they are."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # bytes of the present chunk, with its line end
        self._last = False
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        position = 0
        while position < len(data) and not self.done:
            if self._left:
                position = self._chunk(data, position)
                continue
            end = data.find(b"\n", position)
            if end < 0:
                if len(data) - position > _CHUNK_LINE_LIMIT:
                    raise BadMessageError("a line of its chunked body is too long")
                break
            self._line(data[position : end + 1])
            position = end + 1
        return data[:position], data[position:]

    def end(self) -> None:
        raise BadMessageError("it ended before its body did")

    def _chunk(self, data: bytes, position: int) -> int:
        taken = min(self._left, len(data) - position)
        for offset, expected in ((self._left - 2, 0x0D), (self._left - 1, 0x0A)):
            if 0 <= offset < taken and data[position + offset] != expected:
                raise BadMessageError("a chunk is longer than it says")
        self._left -= taken
        return position + taken

    def _line(self, line: bytes) -> None:
        text = line[:-2]
        if not line.endswith(b"\r\n") or b"\r" in text:
            raise BadMessageError("a line of its chunked body has a broken end")
        if not self._last:
            match = _CHUNK_LINE.match(text)
            if match is None:
                raise BadMessageError("a chunk's size is malformed")
            size = int(match[1], 16)
            self._last = size == 0
            self._left = size + 2 if size else 0
        elif not text:
            self.done = True
        else:
            self._trailers += len(line)
            if _HEADER.match(text) is None or self._trailers > _TRAILER_LIMIT:
                raise BadMessageError("its trailers are malformed or too long")


class Response:
    """Follows the answer to one request: heads of 100 and the like, the head, the body.

    Args:
        method: of the request.
        keep: whether the client wants to keep its connection.
    """

    def __init__(self, method: bytes, keep: bool) -> None:
        self.keep = keep
        self.done = False
        self.started = False
        self._method = method
        self._body: Body | None = None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        passed = b""
        while self._body is None:
            end = data.find(b"\r\n\r\n")
            if max(end, 0) > HEAD_LIMIT or (end < 0 and len(data) > HEAD_LIMIT):
                raise BadMessageError("the head of the answer is too long")
            if end < 0:
                return passed, data
            passed += self._head(data[:end])
            data = data[end + 4 :]
        self.started = True
        mine, rest = self._body.feed(data)
        self.done = self._body.done
        return passed + mine, rest

    def end(self) -> None:
        if self._body is None:
            raise BadMessageError("the server closed without an answer")
        self._body.end()
        self.done = True

    def _head(self, head: bytes) -> bytes:
        first, _, rest = head.partition(b"\r\n")
        match = _STATUS_LINE.match(first)
        if match is None:
            raise BadMessageError("the answer is not HTTP/1")
        status = int(match[2])
        headers = _headers(rest)
        if status == 101:
            raise BadMessageError("the server changed the protocol unasked")
        line = b"HTTP/1.1 %d %s\r\n" % (status, match[3] or b"")
        if status < 200:
            return line + _serialise(_end_to_end(headers)) + b"\r\n"
        closes = match[1] == b"0" or b"close" in _tokens(headers, b"connection")
        self._body = FixedBody(0) if self._method == b"HEAD" or status in _NO_BODY else _body_of(headers)
        if self._body is None:
            self._body = Passage()
            closes = True
        self.keep = self.keep and not closes
        kept = [*_end_to_end(headers), (b"Connection", b"keep-alive" if self.keep else b"close")]
        return line + _serialise(kept) + b"\r\n"


def parse_request(head: bytes) -> Request:
    """Reads a request's head, without the empty line that ends it.

    Raises:
        BadHostError: it names a host in a form that is refused.
        BadMessageError: it is malformed, ambiguous, or nothing that a proxy serves.
    """
    first, _, rest = head.partition(b"\r\n")
    match = _REQUEST_LINE.match(first)
    if match is None:
        raise BadMessageError("its first line is malformed")
    method, target, minor = match[1], match[2].decode("ascii"), match[3]
    headers = _headers(rest)
    hosts = [value for name, value in headers if name.lower() == b"host"]
    if len(hosts) > 1:
        raise BadMessageError("it has several Host headers")
    connection = _tokens(headers, b"connection") | _tokens(headers, b"proxy-connection")
    if method == b"CONNECT":
        host, port = _authority(target, None)
        if hosts and _authority(hosts[0].decode("latin-1"), port) != (host, port):
            raise BadMessageError("its Host header names another host")
        return Request(True, method, host, port, b"", Passage(), False)
    authority, path = _absolute(target)
    host, port = _authority(authority, 80)
    if (hosts or minor == b"1") and _authority(hosts[0].decode("latin-1") if hosts else "", 80) != (host, port):
        raise BadMessageError("its Host header names another host")
    body = _body_of(headers, minor == b"1") or FixedBody(0)
    kept = [(name, value) for name, value in _end_to_end(headers) if name.lower() != b"host"]
    shown = f"[{host}]" if ":" in host else host
    named = [(b"Host", (shown if port == 80 else f"{shown}:{port}").encode())]
    line = b"%s %s HTTP/1.%s\r\n" % (method, path.encode(), minor)
    keep = minor == b"1" and b"close" not in connection
    ask = [(b"Connection", b"keep-alive" if keep else b"close")]
    return Request(False, method, host, port, line + _serialise(named + kept + ask) + b"\r\n", body, keep)


def _absolute(target: str) -> tuple[str, str]:
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() != "http":
        raise BadMessageError("its target is no http:// address; this is a proxy")
    cut = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    path = rest[cut:]
    if "#" in path or "\\" in rest[:cut]:
        raise BadHostError(rest[:cut], "its address is malformed")
    return rest[:cut], path if path.startswith("/") else "/" + path


def _authority(text: str, default: int | None) -> tuple[str, int]:
    try:
        host, port = split_port(text)
        name = normal_host(host)
    except ValueError as error:
        raise BadHostError(text, str(error)) from None
    if port is None and default is None:
        raise BadHostError(text, "it has no port")
    return name, port or default or 0


def _headers(text: bytes) -> list[tuple[bytes, bytes]]:
    headers = []
    for line in text.split(b"\r\n") if text else ():
        match = _HEADER.match(line)
        if match is None:
            raise BadMessageError("a header is malformed")
        headers.append((match[1], match[2].strip(b" \t")))
    return headers


def _tokens(headers: list[tuple[bytes, bytes]], wanted: bytes) -> set[bytes]:
    found = b",".join(value for name, value in headers if name.lower() == wanted)
    return {token.strip().lower() for token in found.split(b",")} - {b""}


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    named = _tokens(headers, b"connection")
    if named & _INDISPENSABLE:
        raise BadMessageError("its Connection header takes an indispensable header away")
    dropped = _HOP_BY_HOP | named
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _body_of(headers: list[tuple[bytes, bytes]], may_chunk: bool = True) -> Body | None:
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    codings = [value.lower() for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings:
        if codings != [b"chunked"] or lengths or not may_chunk:
            raise BadMessageError("its length is ambiguous")
        return ChunkedBody()
    if not lengths:
        return None
    if len(lengths) > 1 or not _DIGITS.match(lengths[0]):
        raise BadMessageError("its length is ambiguous")
    return FixedBody(int(lengths[0]))


def _serialise(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%s: %s\r\n" % header for header in headers)
