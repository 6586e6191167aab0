"""A web server on loopback that serves a directory, and misbehaves where it is told to."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import ssl
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What a client asked."""

    method: str
    path: str
    headers: Message


class BadServer(ThreadingHTTPServer):
    """`will("tool.json", status(503), cut(10))`: the first two answers for that file; then it behaves.

    `always("tool.json", fault)` for every answer. `requests` is what was asked, in its order.
    """

    daemon_threads = True
    request_queue_size = 50

    def __init__(self, directory: Any, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = str(directory)
        self.requests: list[Request] = []
        self.etags = True
        self.token = ""
        self._faults: dict[str, list[Any]] = {}
        self._always: dict[str, Any] = {}
        self.over = threading.Event()
        self._scheme = "http"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self._scheme = "https"

    @property
    def url(self) -> str:
        host = "localhost" if self._scheme == "https" else "127.0.0.1"
        return f"{self._scheme}://{host}:{self.server_address[1]}"

    def will(self, ending: str, *faults: Any) -> None:
        self._faults.setdefault(ending, []).extend(faults)

    def always(self, ending: str, fault: Any) -> None:
        self._always[ending] = fault

    def fault(self, path: str) -> Any:
        for ending, faults in self._faults.items():
            if path.endswith(ending) and faults:
                return faults.pop(0)
        return next((fault for ending, fault in self._always.items() if path.endswith(ending)), None)

    def asked(self, ending: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(ending)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is what most tests want."""


@contextlib.contextmanager
def serving(directory: Any, context: ssl.SSLContext | None = None):
    """A `BadServer`, for as long as the block."""
    with BadServer(directory, context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="bad index")
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadServer

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.requests.append(Request("GET", self.path, self.headers))
        if self.server.token and self.headers.get("Authorization") != self.server.token:
            return self.send(401, b"who are you?")
        fault = self.server.fault(self.path)
        path = re.sub("^http://[^/]*", "", self.path)  # as a proxy is asked
        path = os.path.join(self.server.directory, path.lstrip("/"))
        data = b""
        if os.path.isfile(path):
            with open(path, "rb") as file:
                data = file.read()
        if fault is not None:
            return fault(self, data)
        if not os.path.isfile(path):
            return self.send(404, b"not here")
        return self.behave(data)

    def behave(self, data: bytes) -> None:
        """As a good server does: conditional requests and ranges."""
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"ETag": etag} if self.server.etags else {}
        if self.server.etags and self.headers.get("If-None-Match") == etag:
            return self.send(304, None, **headers)
        wanted = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        if wanted:
            start = int(wanted)
            if start >= len(data):
                return self.send(416, b"")
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(206, data[start:], **headers)
        return self.send(200, data, **headers)

    def send(self, code: int, data: bytes | None, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if data is not None:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data or b"")


# faults: each is called with the handler and the bytes of the file ---------------------------------------------------


def status(code: int, **headers: str) -> Any:
    """An answer of this status."""
    return lambda handler, data: handler.send(code, b"an answer", **headers)


def redirect(location: str, code: int = 302) -> Any:
    """Says to look elsewhere."""
    return status(code, Location=location)


def cut(after: int) -> Any:
    """Promises everything and closes the connection after so many bytes of what was asked for."""

    def fault(handler: _Handler, data: bytes) -> None:
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0] or 0)
        code, headers = (206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}) if start else (200, {})
        handler.send(code, data[start : start + after], length=len(data) - start, **headers)
        handler.close_connection = True

    return fault


def promising(more: int) -> Any:
    """All of the file, with a Content-Length that is wrong by so many bytes."""

    def fault(handler: _Handler, data: bytes) -> None:
        handler.send(200, data, length=len(data) + more)
        handler.close_connection = True

    return fault


def saying(other: bytes, **headers: str) -> Any:
    """Another file, in good order."""
    return lambda handler, data: handler.send(200, other, **headers)


def squeezed(handler: _Handler, data: bytes) -> None:
    """The file, compressed."""
    handler.send(200, gzip.compress(data), Content_Encoding="gzip")


def unranged(handler: _Handler, data: bytes) -> None:
    """The whole file, whatever piece was asked for."""
    handler.send(200, data)


def elsewhere(handler: _Handler, data: bytes) -> None:
    """Another piece than was asked for."""
    handler.send(206, data[1:], Content_Range=f"bytes 1-{len(data) - 1}/{len(data)}")


def dripping(handler: _Handler, data: bytes) -> None:
    """A byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"x")


def dripping_headers(handler: _Handler, data: bytes) -> None:
    """Headers that never end, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"x")


def silent(handler: _Handler, data: bytes) -> None:
    """No answer."""
    handler.server.over.wait(30)
    handler.close_connection = True
