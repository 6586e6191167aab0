"""What the tests of declared hosts share: servers on loopback, names that lead to them, a proxy, raw requests."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
from urllib.parse import parse_qs, urlsplit

from agenthub.runtime.sandbox.proxy import AllowListProxy

NAME = "api.example.com"
PATIENCE = 20.0
SYSTEM_PYTHON = "/usr/bin/python3"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self._note(b"")
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", query["to"])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif parts.path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (b"one,", b"two,", b"three"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif parts.path == "/until-close":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nold")
            self.close_connection = True
        elif parts.path == "/big":
            self._answer(b"x" * int(query["size"]))
        else:
            self._answer(b"hello " + self.path.encode())

    do_HEAD = do_GET  # noqa: N815 - named by http.server

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._note(body)
        if self.path.endswith("/chat/completions"):
            message = {"role": "assistant", "content": "spoken"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            self._answer(json.dumps(answer).encode(), "application/json")
        else:
            self._answer(body)

    def _note(self, body):
        self.server.requests.append((self.command, self.path, dict(self.headers), body))

    def _answer(self, body, kind="text/plain"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Answers requests and notes them; with a TLS context over TLS."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, context=None):
        self.requests = []
        self.context = context
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_address[1]

    def finish_request(self, request, client_address):
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:
                return
        with contextlib.suppress(OSError, ValueError), contextlib.closing(request):
            super().finish_request(request, client_address)


class RawServer(socketserver.ThreadingTCPServer):
    """Runs a function with each connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, work):
        self.work = work
        super().__init__(("127.0.0.1", 0), None)
        self.port = self.server_address[1]

    def finish_request(self, request, client_address):
        with contextlib.suppress(OSError):
            self.work(request)


@contextlib.contextmanager
def serving(server):
    """Runs a server for a `with` block."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def leads_to(names):
    """A resolver that knows some names; each leads to one address or a list of them."""

    def resolve(host, _port):
        if host not in names:
            raise socket.gaierror(-2, "Name or service not known")
        found = names[host]
        return [found] if isinstance(found, str) else found

    return resolve


@contextlib.contextmanager
def proxying(*hosts, names=None, **options):
    """A proxy that listens on loopback: `proxy.port`."""
    before = set(threading.enumerate())
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    with AllowListProxy(hosts, resolver=leads_to(names or {}), **options) as proxy:
        proxy.port = listener.getsockname()[1]
        proxy.serve(listener)
        yield proxy
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name == "agenthub-proxy"]


def open_to(proxy):
    """A connection to a proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)


def receive_all(sock):
    """Everything until the other side ends."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := sock.recv(65536):
            data += block
    return data


def ask(proxy, request):
    """Sends bytes to a proxy and returns all that it answers until it closes."""
    with open_to(proxy) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


def get(url, host=None, *headers):
    """A plain request that wants no other after it."""
    host = host if host is not None else urlsplit(url).netloc
    return "\r\n".join([f"GET {url} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]).encode()


def tunnel(proxy, place):
    """Opens a tunnel; returns the socket and the answer's first line."""
    sock = open_to(proxy)
    sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        head += byte
    return sock, head.split(b"\r\n")[0].decode()


def make_certificate(directory):
    """A certificate for the names of the tests, and its key, in one file."""
    path = directory / "certificate.pem"
    names = f"subjectAltName=DNS:{NAME},DNS:*.{NAME},DNS:localhost,IP:127.0.0.1"
    kind = ("-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2")
    where = ("-keyout", str(directory / "key.pem"), "-out", str(path), "-subj", "/CN=tests", "-addext", names)
    subprocess.run(("openssl", "req", *kind, *where), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (directory / "key.pem").read_bytes())
    return str(path)


def tls_server(certificate):
    """A server that speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return Server(context)


class Sandbox:
    """A program in namespaces of its own, that waits until it is let go."""

    def __init__(self, code, *options, env=None):
        info, info_writer = os.pipe()
        hold, self._hold = os.pipe()
        self.process = subprocess.Popen(
            [
                *("bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"),
                *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
                *("--info-fd", str(info_writer), "--block-fd", str(hold), *options, SYSTEM_PYTHON, "-c", code),
            ],
            pass_fds=(info_writer, hold),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        os.close(info_writer)
        os.close(hold)
        said = b""
        while b"}" not in said:
            said += os.read(info, 4096)
        os.close(info)
        self.pid = json.loads(said)["child-pid"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            # Without its first process inside, which would wait for ever for an outer one that dies too early.
            os.kill(self.pid, signal.SIGKILL)
        self.process.communicate()
        os.close(self._hold)

    def output(self):
        """Lets it go, and returns what it wrote."""
        os.write(self._hold, b"!")
        return self.process.communicate(timeout=PATIENCE)[0].decode()
