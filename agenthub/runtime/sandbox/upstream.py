"""From the proxy outwards: names are resolved, each address is checked, only a checked address is connected to."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from typing import NamedTuple

from agenthub.errors import EnvironmentError
from agenthub.runtime.sandbox.addresses import refusal_of_address
from agenthub.runtime.sandbox.event_loop import WRITE, Event, EventLoop, Wait
from agenthub.runtime.sandbox.hosts import normal_host, split_port
from agenthub.runtime.sandbox.streams import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from agenthub.runtime.sandbox.hosts import DeclaredHosts

    Resolver = Callable[[str, int], Sequence[str]]

RESOLVE_TIMEOUT = 15.0
CONNECT_TIMEOUT = 10.0  # seconds for each address; shared by all if there are several
ANSWER_LIFETIME = 60.0  # seconds for which a resolver's answer is used again
_ANSWERS = 256
_LOOKUPS = 16  # at once: a resolver that hangs must not pile up threads
_LOCALHOST = ("127.0.0.1", "::1")
_HEAD_LIMIT = 16 * 1024


class RefusedAddressError(Exception):
    """A name leads to an address that was not declared and is not public."""

    def __init__(self, address: str, kind: str) -> None:
        super().__init__(f"its address {address} is {kind}")
        self.address = address


class UnreachableError(Exception):
    """The host cannot be resolved or connected to; says why."""


class UserProxy(NamedTuple):
    """A proxy that the user needs to reach the network."""

    host: str
    port: int
    authorization: str | None = None


class UserProxies:
    """The user's own proxy settings, which the agent never sees.

    Args:
        environ: variables as curl and others read them; the lower-case spelling counts first.

    Raises:
        EnvironmentError: a proxy is set that speaks something else than HTTP.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        def value(name: str) -> str:
            return environ.get(name) or environ.get(name.upper()) or ""

        self._tunnel = _user_proxy(value("https_proxy") or value("all_proxy"))
        # In upper case it may come from a request's header `Proxy:` where a web server runs us.
        self._plain = _user_proxy(environ.get("http_proxy") or value("all_proxy"))
        self._direct = [part.strip().lower().lstrip("*") for part in value("no_proxy").split(",") if part.strip()]

    def choose(self, host: str, tunnel: bool) -> UserProxy | None:
        """The proxy for a host, None to connect directly."""
        for entry in self._direct:
            bare = entry.lstrip(".")
            if entry == "" or host == bare or (bare and host.endswith("." + bare)):
                return None
        return self._tunnel if tunnel else self._plain


class Connector:
    """Connects to declared hosts.

    Args:
        loop: of the proxy.
        declared: whose literal addresses may be other than public.
        resolver: returns the numeric addresses of a name; raises OSError. Called in threads of its own.
        proxies: the user's.
    """

    def __init__(
        self, loop: EventLoop, declared: DeclaredHosts, resolver: Resolver | None, proxies: UserProxies | None
    ) -> None:
        self._loop = loop
        self._declared = declared
        self._resolver = resolver or resolve
        self._proxies = proxies
        self._answers: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._lookups: dict[str, _Lookup] = {}

    def connect(self, host: str, port: int, tunnel: bool) -> Generator[Wait, bool, Stream]:
        """A connection to a host that was declared.

        Raises:
            RefusedAddressError: it leads to an address where it may not.
            UnreachableError: it cannot be reached.
        """
        literal = is_address(host)
        proxy = self._proxies.choose(host, tunnel) if self._proxies else None
        if literal or host == "localhost":
            addresses: Sequence[str] = (host,) if literal else _LOCALHOST
            if proxy is None or host == "localhost" or refusal_of_address(host):
                return (yield from self._connect_any(host, port, addresses))
        else:
            try:
                addresses = self._checked((yield from self._resolve(host, port)), port)
            except UnreachableError:
                if proxy is None:
                    raise
                addresses = ()  # only the user's proxy can resolve names here
        if proxy is None:
            return (yield from self._connect_any(host, port, addresses))
        return (yield from self._connect_through(proxy, host, port))

    def _checked(self, addresses: Sequence[str], port: int) -> Sequence[str]:
        for address in addresses:
            kind = refusal_of_address(address) or ("this machine's own" if _is_own(address) else None)
            if kind is not None and not self._declared.allow(address, port):
                raise RefusedAddressError(address, kind)
        return addresses

    def _resolve(self, host: str, port: int) -> Generator[Wait, bool, Sequence[str]]:
        known = self._answers.get(host)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        lookup = self._lookups.get(host)
        if lookup is None:
            if len(self._lookups) >= _LOOKUPS:
                raise UnreachableError("too many names are being resolved")
            lookup = self._lookups[host] = _Lookup(host, port, self._resolver, self._loop, self._learn)
        if not lookup.ended.happened and not (yield Wait((), RESOLVE_TIMEOUT, lookup.ended)):
            raise UnreachableError("the resolver does not answer")
        if not lookup.addresses:
            raise UnreachableError(f"its name cannot be resolved: {lookup.error}")
        return lookup.addresses

    def _learn(self, lookup: _Lookup) -> None:
        del self._lookups[lookup.host]
        if lookup.addresses:
            while len(self._answers) >= _ANSWERS:
                del self._answers[next(iter(self._answers))]
            self._answers[lookup.host] = (time.monotonic() + ANSWER_LIFETIME, lookup.addresses)
        self._loop.notify(lookup.ended)

    def _connect_any(self, host: str, port: int, addresses: Sequence[str]) -> Generator[Wait, bool, Stream]:
        timeout = CONNECT_TIMEOUT / max(1, min(len(addresses), 4))
        reason = "it has no address"
        for address in addresses:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            connected = False
            try:
                failure = yield from _connect(sock, address, port, timeout)
                if failure == 0:
                    connected = True
                    return Stream(sock)
                reason = os.strerror(failure)
            finally:
                if not connected:
                    sock.close()
        raise UnreachableError(f"cannot connect to {host}:{port}: {reason}")

    def _connect_through(self, proxy: UserProxy, host: str, port: int) -> Generator[Wait, bool, Stream]:
        if is_address(proxy.host):
            addresses: Sequence[str] = (proxy.host,)
        elif proxy.host == "localhost":
            addresses = _LOCALHOST
        else:
            addresses = yield from self._resolve(proxy.host, proxy.port)
        stream = yield from self._connect_any(proxy.host, proxy.port, addresses)
        opened = False
        try:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            words = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
            if proxy.authorization:
                words.append(f"Proxy-Authorization: {proxy.authorization}")
            yield from stream.send("\r\n".join([*words, "", ""]).encode(), CONNECT_TIMEOUT)
            head = yield from stream.read_past(b"\r\n\r\n", _HEAD_LIMIT, CONNECT_TIMEOUT)
            status = (head or b"").split(b"\r\n")[0].split(b" ")
            if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1][:1] != b"2":
                said = b" ".join(status[1:]).decode("latin-1")[:100] or "nothing"
                raise UnreachableError(f"the proxy of this machine's user refused {host}:{port}: {said}")
            opened = True
            return stream
        except TimeoutError:
            raise UnreachableError("the proxy of this machine's user does not answer") from None
        finally:
            if not opened:
                stream.close()


class _Lookup:
    """A name being resolved, in a thread, because the system's resolver cannot be asked without waiting."""

    def __init__(
        self, host: str, port: int, resolver: Resolver, loop: EventLoop, learn: Callable[[_Lookup], None]
    ) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()
        self.error = "no answer"
        self.ended = Event()

        def work() -> None:
            try:
                self.addresses = tuple(dict.fromkeys(resolver(host, port)))
            except OSError as error:
                self.error = error.strerror or str(error)
            finally:
                loop.call_soon(lambda: learn(self))

        threading.Thread(target=work, name="agenthub-resolver", daemon=True).start()


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system's resolver sorts them. Raises OSError."""
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return [str(address[0]).partition("%")[0] for _, _, _, _, address in found]


def _connect(sock: socket.socket, address: str, port: int, timeout: float) -> Generator[Wait, bool, int]:
    """Connects within `timeout` seconds; returns an errno, 0 for success."""
    sock.setblocking(False)
    failure = sock.connect_ex((address, port))
    if failure != errno.EINPROGRESS:
        return failure
    if not (yield Wait(((sock, WRITE),), timeout)):
        return errno.ETIMEDOUT
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _is_own(address: str) -> bool:
    """Whether an address is one of this machine's. A datagram socket tells, without a packet."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:  # no route, which connecting will find as well
            return False
        return str(probe.getsockname()[0]) == address


def is_address(host: str) -> bool:
    """Whether a host in its normal form is an address."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def _user_proxy(url: str) -> UserProxy | None:
    if not url:
        return None
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    user, _, authority = rest.split("/")[0].rpartition("@")
    try:
        host, port = split_port(authority)
        name = normal_host(host)
    except ValueError:
        scheme = ""
    if scheme.lower() != "http":
        raise EnvironmentError(
            f"the proxy in this machine's environment cannot be used with declared hosts: {scheme or 'malformed'}",
            suggestion="set https_proxy to an http:// proxy, or unset it",
        )
    if not user:
        return UserProxy(name, port or 80)
    import base64
    from urllib.parse import unquote_to_bytes

    return UserProxy(name, port or 80, "Basic " + base64.b64encode(unquote_to_bytes(user)).decode())
