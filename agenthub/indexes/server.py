"""The reference server of an index: gives its files to everybody, and takes releases from who has a token.

Any web server can give the files. This one is for a team, and for tests: behind a proxy that speaks TLS, since it does
not itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import stat
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple
from urllib.parse import unquote

from agenthub import __version__
from agenthub.errors import AgentRuntimeError, InstallError
from agenthub.indexes.directory import IndexDirectory
from agenthub.indexes.documents import is_inside_path
from agenthub.indexes.publishers import Publisher, authorized
from agenthub.indexes.summaries import AGENTS, FILES, INDEX, SEARCH
from agenthub.packages.ledger import MB
from agenthub.packages.names import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

MAX_UPLOAD = 256 * MB
_MOST_CONNECTIONS = 64
_TIMEOUT = 30.0  # seconds for which a client may be silent, and in which it has to say what it wants
_SLOWEST = 16 * 1024  # bytes a second that a client takes
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_MUCH = 8 * MB  # bytes of a refused upload that are still read, so that its sender reads the refusal


class Serving(NamedTuple):
    """How an index is served.

    Attributes:
        publishers: who may publish; empty: nobody.
        private: whether reading takes a token too.
        max_upload: bytes of one archive.
        on_request: called with a line for each request that was answered.
    """

    publishers: tuple[Publisher, ...] = ()
    private: bool = False
    max_upload: int = MAX_UPLOAD
    on_request: Callable[[str], None] | None = None


class IndexServer(ThreadingHTTPServer):
    """Serves one index until `shutdown`.

    Args:
        index: what is served.
        host: name or address to listen on.
        port: 0: any that is free, see `url`.
        serving: to whom, and what they may.

    Raises:
        OSError: it cannot listen there.
    """

    request_queue_size = 128

    def __init__(self, index: IndexDirectory, host: str, port: int, serving: Serving) -> None:
        self.index = index
        self.serving = serving
        self._host = host
        self._free = threading.Semaphore(_MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._live: dict[socket.socket, float] = {}  # connections, and when each has to have got on
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address[:2], IndexRequest)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Without asking a name server who we are, as `HTTPServer` does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self._host, self.server_address[1]

    def server_close(self) -> None:
        """Ends the connections, waits for what they are doing, and lets go of the address."""
        with self._lock:
            live = list(self._live)
        for connection in live:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each connection, up to a number."""
        begun = time.monotonic()
        while not self._free.acquire(timeout=0.2):
            self.service_actions()
            if time.monotonic() - begun > 2 * _TIMEOUT:
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Ends connections that are late: a byte now and then would keep others out for ever."""
        now = time.monotonic()
        with self._lock:
            late = [connection for connection, deadline in self._live.items() if deadline < now]
        for connection in late:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def allow(self, connection: socket.socket, seconds: float) -> None:
        """Gives a connection time for what it does now."""
        with self._lock:
            if connection in self._live:
                self._live[connection] = time.monotonic() + seconds

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Runs in the connection's thread."""
        with self._lock:
            self._live[request] = time.monotonic() + _TIMEOUT
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._live.pop(request, None)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news; a bug of ours is one line."""
        import sys

        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, OSError) and self.serving.on_request is not None:
            self.serving.on_request(f"failed: {type(error).__name__}: {error}")


class IndexRequest(BaseHTTPRequestHandler):
    """One connection."""

    server: IndexServer
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        """Waits for a request, and answers it."""
        self.server.allow(self.connection, _TIMEOUT)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Refuses what a proxy may understand in another way: then one request would be two (request smuggling)."""
        if not super().parse_request():
            return False
        lengths = self.headers.get_all("Content-Length", [])
        if self.headers.defects or len(lengths) > 1:
            self.close_connection = True
            self.answer_error(400, "the headers of this request can be read in two ways")
            return False
        if self.command not in ("PUT", "PATCH") and (lengths or "Transfer-Encoding" in self.headers):
            self.close_connection = True  # what follows is not read, and is no request
        return True

    # reading -----------------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        """A file of the index, or a part of it."""
        place = self.place()
        if self.server.serving.private and not self.publisher():
            self.refuse_stranger()
        elif place is None:
            self.answer_error(404, "there is no such file in this index")
        else:
            self._send_file(place)

    do_HEAD = do_GET  # noqa: N815

    def _send_file(self, place: str) -> None:
        try:
            file = open(_descriptor(self.server.index.root, place), "rb")  # noqa: SIM115
        except OSError:
            return self.answer_error(404, "there is no such file in this index")
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return self.answer_error(404, "there is no such file in this index")
            tag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
            headers = {
                "ETag": tag,
                "Accept-Ranges": "bytes",
                "Last-Modified": self.date_time_string(int(status.st_mtime)),
            }
            headers["Cache-Control"] = "public, max-age=31536000, immutable" if place.startswith(FILES) else "no-cache"
            if _names_tag(self.headers.get("If-None-Match"), tag):
                return self.answer(304, headers)
            headers["Content-Type"] = "application/json" if place.endswith(".json") else "application/octet-stream"
            span = self._span(status.st_size, tag)
            if span is None:
                return self._send_part(file, 200, headers, 0, status.st_size)
            start, end = span
            if start >= end:
                return self.answer(416, {"Content-Range": f"bytes */{status.st_size}", "Content-Length": "0"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{status.st_size}"
            return self._send_part(file, 206, headers, start, end)

    def _send_part(self, file: BinaryIO, code: int, headers: dict[str, str], start: int, end: int) -> None:
        self.answer(code, {**headers, "Content-Length": str(end - start)})
        if self.command != "HEAD" and end > start:
            self.wfile.flush()
            self.server.allow(self.connection, _TIMEOUT + (end - start) / _SLOWEST)
            if self.connection.sendfile(file, start, end - start) != end - start:
                self.close_connection = True  # the file became shorter: the client must see that something is missing

    def _span(self, size: int, tag: str) -> tuple[int, int] | None:
        """The bytes that are asked for, from and to; None: all. An empty span cannot be had."""
        match = _RANGE.fullmatch(self.headers.get("Range", "").strip())
        if match is None or match.groups() == ("", "") or self.headers.get("If-Range", tag).strip() != tag:
            return None
        first, last = match.groups()
        if not first:
            return max(0, size - int(last)), size
        if last and int(last) < int(first):
            return None
        return int(first), min(size, int(last) + 1) if last else size

    # publishing --------------------------------------------------------------------------------------------------

    def do_PUT(self) -> None:
        """A release."""
        from agenthub.indexes.uploads import receive_release

        self._change(receive_release)

    def do_PATCH(self) -> None:
        """A notice: yanked, deprecated."""
        from agenthub.indexes.uploads import receive_notice

        self._change(receive_notice)

    def _change(self, receive: Callable[[IndexRequest, str, Publisher], tuple[int, dict[str, Any]]]) -> None:
        place, publisher = self.place(), self.publisher()
        if not self.server.serving.publishers:
            return self.refuse_upload(405, "this index is read-only")
        if publisher is None:
            return self.refuse_upload(401, "publishing to this index takes a token")
        if place is None:
            return self.refuse_upload(404, "a release is published at files/OWNER/NAME/NAME-VERSION.agent")
        self.server.allow(self.connection, math.inf)  # who has a token is believed, and uploads have a limit of theirs
        try:
            code, document = receive(self, place, publisher)
        except AgentRuntimeError as error:
            error.message = error.message.replace(self.server.index.root, "this index")
            return self.refuse_upload(status_of(error), error.message, error)
        return self.answer_json(code, document)

    def handle_expect_100(self) -> bool:
        """Says nothing yet: what will be refused need not be sent."""
        return True

    def refuse_upload(self, code: int, message: str, error: AgentRuntimeError | None = None) -> None:
        """Answers an upload that may not have been read, and ends the connection."""
        self.close_connection = True
        self.answer_error(code, message, error)
        left = min(_MUCH, self.content_length() or 0)
        self.server.allow(self.connection, _TIMEOUT)
        self.connection.settimeout(2.0)
        try:
            while left > 0 and (data := self.rfile.read1(min(left, 1 << 16))):
                left -= len(data)
        except OSError:
            return

    # both --------------------------------------------------------------------------------------------------------

    def place(self) -> str | None:
        """The path of a file that an index may have; None: the address leads nowhere, or elsewhere."""
        path = unquote(self.path.partition("?")[0], errors="surrogateescape").removeprefix("/")
        if path in (INDEX, SEARCH):
            return path
        parts = path.split("/")
        if not is_inside_path(path) or not all(map(is_name, parts[1:-1])):
            return None
        shapes = {AGENTS: 3, FILES: 4}
        return path if shapes.get(parts[0]) == len(parts) else None

    def publisher(self) -> Publisher | None:
        """Who asks, if they have a token."""
        return authorized(self.server.serving.publishers, self.headers.get("Authorization"))

    def content_length(self) -> int | None:
        """The length of what is sent; None where it is not said, or not said plainly."""
        text = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not text.isdecimal() or len(text) > 18:
            return None
        return int(text)

    def refuse_stranger(self) -> None:
        """Asks for a token."""
        self.answer_error(401, "reading this index takes a token")

    def answer(self, code: int, headers: dict[str, str]) -> None:
        """Status and headers."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        if code == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="agenthub"')
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def answer_json(self, code: int, document: dict[str, Any]) -> None:
        """A small JSON document."""
        data = (json.dumps({"schema_version": 1, **document}) + "\n").encode()
        self.answer(code, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer_error(self, code: int, message: str, error: AgentRuntimeError | None = None) -> None:
        """What went wrong, as an envelope has it."""
        self.answer_json(code, error.to_dict() if error else {"error": message})

    def log_message(self, format: str, *args: Any) -> None:
        """One line for each request, with nothing in it that acts on a terminal."""
        if self.server.serving.on_request is not None:
            self.server.serving.on_request(f"{self.address_string()} {format % args}")

    def version_string(self) -> str:
        """What answers."""
        return f"agenthub/{__version__}"

    def address_string(self) -> str:
        """Who asks, without asking a name server."""
        return str(self.client_address[0])


def status_of(error: AgentRuntimeError) -> int:
    """The HTTP status that says best what `error` does."""
    import errno

    from agenthub.errors import PermissionDeniedError

    if isinstance(error, PermissionDeniedError):
        return 409
    cause = error.__cause__
    if isinstance(error, InstallError) and isinstance(cause, OSError):
        return 507 if cause.errno in (errno.ENOSPC, errno.EDQUOT) else 403
    return 422 if isinstance(error, InstallError) else error.http_status


def _descriptor(root: str, place: str) -> int:
    """Opens a file of an index, and follows no link on the way: one may lead out of it.

    Raises:
        OSError: it is not there.
    """
    *folders, name = place.split("/")
    folder = os.open(root, _OPEN | os.O_DIRECTORY)
    try:
        for each in folders:
            inner = os.open(each, _OPEN | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name, _OPEN, dir_fd=folder)
    finally:
        os.close(folder)


def _names_tag(header: str | None, tag: str) -> bool:
    tags = [each.strip().removeprefix("W/") for each in (header or "").split(",")]
    return tag in tags or "*" in tags
