"""The proxy between a confined agent and the hosts that it declared: CONNECT and plain HTTP, in one thread.

It decides by name and port, resolves the names itself and connects to an address that it has checked. It does not look
into what is encrypted: a server that is shared by several sites (a CDN) decides itself which of them it serves, except
that a TLS connection must ask, in the open, for the very name that was declared.
"""

from __future__ import annotations

import socket
import threading

from agenthub.runtime.sandbox.event_loop import EventLoop, Wait
from agenthub.runtime.sandbox.hosts import DeclaredHosts, normal_host, rule_for
from agenthub.runtime.sandbox.http_messages import (
    HEAD_LIMIT,
    BadHostError,
    BadMessageError,
    Passage,
    Request,
    Response,
    parse_request,
)
from agenthub.runtime.sandbox.refusals import Refusal, RefusalRecord
from agenthub.runtime.sandbox.streams import Flow, Stream, relay
from agenthub.runtime.sandbox.tls_hello import HELLO_LIMIT, UNRECOGNIZED_NAME, NoHelloError, server_name
from agenthub.runtime.sandbox.upstream import Connector, RefusedAddressError, UnreachableError, is_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable
    from types import TracebackType

    from agenthub.runtime.sandbox.upstream import Resolver, UserProxies

IDLE_TIMEOUT = 120.0  # seconds a client may keep a connection open without a request
HEAD_TIMEOUT = 20.0  # seconds for a whole head, or a whole ClientHello, once it has begun
EXCHANGE_TIMEOUT = 600.0  # seconds without a byte in either direction
TUNNEL_TIMEOUT = 900.0
MAX_CONNECTIONS = 256
_PAUSE = 0.05
_REASONS = {400: "Bad request", 403: "Forbidden", 431: "Head too long", 502: "Bad gateway", 504: "Gateway timeout"}


class AllowListProxy:
    """Serves connections of one run until the `with` block ends.

    Args:
        hosts: what was declared.
        on_refusal: called once for each different refusal, in the proxy's thread; must not raise.
        on_request: called with host and port of each tunnel and each plain request that is let through.
        resolver: returns the numeric addresses of a name and a port, or raises OSError; by default the system's.
        user_proxies: the user's own proxies, through which it then connects.
        tls_ports: where a tunnel to a named host must begin with a ClientHello for that name.

    Raises:
        InvalidInputError: a host is malformed (a ValueError).
    """

    def __init__(
        self,
        hosts: DeclaredHosts | Iterable[str],
        on_refusal: Callable[[Refusal], object] | None = None,
        on_request: Callable[[str, int], object] | None = None,
        *,
        resolver: Resolver | None = None,
        user_proxies: UserProxies | None = None,
        tls_ports: Collection[int] = (443,),
    ) -> None:
        self._declared = hosts if isinstance(hosts, DeclaredHosts) else DeclaredHosts(hosts)
        self._on_refusal = on_refusal
        self._on_request = on_request
        self._tls_ports = tls_ports
        self._record = RefusalRecord()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._listeners: list[socket.socket] = []
        self._paused = False
        self._loop = EventLoop()
        self._connector = Connector(self._loop, self._declared, resolver, user_proxies)

    def __enter__(self) -> AllowListProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What was refused so far, in the order in which it first happened."""
        return self._record.all()

    @property
    def full(self) -> bool:
        """Whether it serves as many connections as it will."""
        return self._loop.tasks >= MAX_CONNECTIONS

    def start(self) -> None:
        """Starts the thread, which otherwise starts with what it first has to do.

        It inherits the restrictions of the calling thread.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agenthub-proxy", daemon=True)
                self._thread.start()

    def serve(self, listener: socket.socket) -> None:
        """Accepts connections from a listening socket, which it then owns."""
        listener.setblocking(False)

        def start() -> None:
            self._listeners.append(listener)
            self._loop.watch(listener, lambda: self._accept(listener))

        if not self._call(start):
            listener.close()

    def attach(self, connection: socket.socket) -> None:
        """Serves a connected socket, which it then owns."""
        if not self._call(lambda: self._loop.spawn(self._client(connection))):
            connection.close()

    def watch(self, file: int, callback: Callable[[], object]) -> None:
        """Calls back, in the proxy's thread, whenever descriptor `file` can be read, until a call returns False."""
        self._call(lambda: self._loop.watch(file, callback))

    def unwatch(self, file: int) -> None:
        """Stops watching, before this returns. Not to be called in the proxy's thread."""
        done = threading.Event()

        def stop() -> None:
            self._loop.unwatch(file)
            done.set()

        if self._loop.call_soon(stop):
            while not done.wait(0.05):
                if self._thread is None or not self._thread.is_alive():
                    return

    def refuse(self, host: str, port: int, reason: str, declare: str | None = None) -> Refusal:
        """Records that something was refused, in the proxy's thread.

        Args:
            host: as the agent named it.
            port: or 0.
            reason: the end of a sentence about the host.
            declare: what would have to be declared; by default the host and, where that is not usual, the port.
        """
        refusal = self._record.add(host, port, reason, declare)
        if refusal.times == 1 and self._on_refusal is not None:
            self._on_refusal(refusal)
        return refusal

    def close(self) -> None:
        """Ends every connection and the thread. May be called twice.

        Raises:
            Exception: what ended the thread before, a bug of the proxy's.
        """
        if self._thread is None:
            self._loop.close()
        elif self._thread is not threading.current_thread():
            self._loop.stop()
            self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _call(self, call: Callable[[], object]) -> bool:
        """Has the thread make a call, and starts it if there is none yet."""
        if not self._loop.call_soon(call):
            return False
        self.start()
        return True

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:  # noqa: BLE001 -- passed on by close(); everything is shut by now
            self._failure = error
        finally:
            for listener in self._listeners:
                listener.close()

    def _accept(self, listener: socket.socket) -> None:
        if self.full:
            self._pause()
            return
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # out of descriptors
            self._pause()
            return
        self._loop.spawn(self._client(connection))

    def _pause(self) -> None:
        if self._paused:
            return
        self._paused = True
        for listener in self._listeners:
            self._loop.unwatch(listener)
        self._loop.spawn(self._resume())

    def _resume(self) -> Generator[Wait, bool, None]:
        yield Wait((), _PAUSE)
        self._paused = False
        for listener in self._listeners:
            self._loop.watch(listener, lambda listener=listener: self._accept(listener))  # type: ignore[misc]

    def _client(self, connection: socket.socket) -> Generator[Wait, bool, None]:
        """One connection of the agent's, with any number of requests."""
        client = Stream(connection)
        upstream = _Upstream()
        try:
            while (yield from self._serve_one(client, upstream)):
                pass
        except (OSError, BadMessageError):  # in the middle of something: there is nobody left to tell
            pass
        finally:
            upstream.close()
            client.close()

    def _serve_one(self, client: Stream, upstream: _Upstream) -> Generator[Wait, bool, bool]:
        """Serves a request; returns whether another one may follow."""
        try:
            head = yield from _read_head(client)
            if head is None:
                return False
            request = parse_request(head)
            if not self._declared.allow(request.host, request.port):
                raise _RefusedError(self.refuse(request.host, request.port, "not declared"))
            return (yield from self._pass_on(client, upstream, request))
        except BadHostError as error:
            refusal = self.refuse(error.host, 0, f"malformed: {error}", "")
            yield from _answer_refusal(client, refusal)
        except _RefusedError as error:
            yield from _answer_refusal(client, error.refusal)
        except _HeadTooLongError:
            yield from _answer(client, 431, "the request's head is too long")
        except BadMessageError as error:
            yield from _answer(client, 400, f"the request is refused: {error}")
        except UnreachableError as error:
            yield from _answer(client, 502, str(error))
        return False

    def _pass_on(self, client: Stream, upstream: _Upstream, request: Request) -> Generator[Wait, bool, bool]:
        place = (request.host, request.port)
        server = None if request.tunnel else upstream.reuse(place)
        if server is None:
            upstream.close()
            try:
                server = yield from self._connector.connect(*place, request.tunnel)
            except RefusedAddressError as error:
                shown = f"[{error.address}]" if ":" in error.address else error.address
                offered = f"{shown}:{request.port}" if rule_for(error.address, request.port) else ""
                raise _RefusedError(self.refuse(*place, str(error), offered)) from None
            upstream.hold(place, server)
        if self._on_request is not None:
            self._on_request(*place)
        if request.tunnel:
            yield from self._tunnel(client, server, request)
            return False
        return (yield from _exchange(client, server, request))

    def _tunnel(self, client: Stream, server: Stream, request: Request) -> Generator[Wait, bool, None]:
        yield from client.send(b"HTTP/1.1 200 Connection established\r\n\r\n", HEAD_TIMEOUT)
        if request.port in self._tls_ports and not is_address(request.host):
            wrong = yield from _wrong_hello(client, request.host)
            if wrong:
                self.refuse(request.host, request.port, wrong, "")
                yield from client.send(UNRECOGNIZED_NAME, HEAD_TIMEOUT)
                yield from client.finish()
                return
        flows = (Flow(client, server, Passage(), True), Flow(server, client, Passage(), True))
        yield from relay(flows, flows, TUNNEL_TIMEOUT)


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class _HeadTooLongError(Exception):
    """A request's head is over its limit."""


class _Upstream:
    """The server's end of a client's connection, kept for its next request to the same place."""

    def __init__(self) -> None:
        self._place: tuple[str, int] | None = None
        self._stream: Stream | None = None

    def hold(self, place: tuple[str, int], stream: Stream) -> None:
        self._place, self._stream = place, stream

    def reuse(self, place: tuple[str, int]) -> Stream | None:
        if self._stream is None or self._place != place:
            return None
        try:
            self._stream.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return self._stream
        except OSError:
            return None
        return None  # it has ended, or sent what nobody asked for

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def _read_head(client: Stream) -> Generator[Wait, bool, bytes | None]:
    """The next request's head; None where the client has gone, or dawdles."""
    try:
        while client.buffer in (b"", b"\r", b"\r\n"):
            client.buffer = b"" if client.buffer == b"\r\n" else client.buffer
            if not (yield from client.fill(IDLE_TIMEOUT)):
                return None
        head = yield from client.read_past(b"\r\n\r\n", HEAD_LIMIT, HEAD_TIMEOUT)
    except TimeoutError:
        return None
    if len(client.buffer if head is None else head) > HEAD_LIMIT:
        raise _HeadTooLongError
    return head


def _exchange(client: Stream, server: Stream, request: Request) -> Generator[Wait, bool, bool]:
    """Passes a request on and its answer back; returns whether both connections can be used again."""
    response = Response(request.method, request.keep)
    up, down = Flow(client, server, request.body), Flow(server, client, response)
    try:
        yield from server.send(request.head, EXCHANGE_TIMEOUT)
        yield from relay((up, down), (down,), EXCHANGE_TIMEOUT)
    except (OSError, BadMessageError) as error:
        if response.started:  # whatever came now would be taken for the rest of the answer
            raise ConnectionAbortedError from None
        late = isinstance(error, TimeoutError)
        reason = "it does not answer" if late else getattr(error, "strerror", None) or str(error)
        yield from _answer(client, 504 if late else 502, f"{request.host}:{request.port}: {reason}")
        return False
    if response.keep and up.done and not up.broken and not down.broken and not server.buffer:
        return True
    yield from client.finish()
    return False


def _wrong_hello(client: Stream, host: str) -> Generator[Wait, bool, str]:
    """What is wrong with the beginning of a TLS connection to `host`; "" if nothing is."""
    try:
        while (name := server_name(client.buffer)) is None:
            if len(client.buffer) > HELLO_LIMIT or not (yield from client.fill(HEAD_TIMEOUT)):
                return "the tunnel does not begin with a TLS ClientHello"
        if normal_host(name) == host:
            return ""
    except (NoHelloError, TimeoutError):
        return "the tunnel does not begin with a TLS ClientHello"
    except ValueError:
        return "the TLS connection in the tunnel names no server"
    return f"the TLS connection in the tunnel is for {ascii(name)[1:-1][:100]}"


def _answer_refusal(client: Stream, refusal: Refusal) -> Generator[Wait, bool, None]:
    place = f"{refusal.host}:{refusal.port}" if refusal.port else refusal.host
    lines = [f"agenthub refused {place}: {refusal.reason}"]
    if refusal.declare:
        lines.append(f"to allow it: {refusal.suggestion}")
    yield from _answer(client, 403, "\n".join(lines), f"Forbidden by agenthub: {place} ({refusal.reason})")


def _answer(client: Stream, status: int, text: str, phrase: str = "") -> Generator[Wait, bool, None]:
    body = (text + "\n").encode()
    head = (
        f"HTTP/1.1 {status} {phrase or _REASONS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    yield from client.send(head.encode("ascii", "replace") + body, HEAD_TIMEOUT)
    yield from client.finish()
