"""One HTTP exchange: proxies, redirects that are followed or refused, servers that stall, errors in plain words."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Url, parse_url

from agenthub import __version__
from agenthub.errors import AgentRuntimeError, InvalidInputError, PermissionDeniedError
from agenthub.indexes.configured import is_loopback
from agenthub.packages.spec import redacted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from urllib3.response import BaseHTTPResponse

CHUNK = 64 * 1024
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LEAST = 16 * 1024  # bytes that have to come in each stretch of the length of the timeout
_LONGEST_WAIT = 20.0  # seconds of a Retry-After that are still waited


class TransferError(Exception):
    """An exchange that failed.

    Attributes:
        again: whether it may succeed when it is tried again.
        hopeless: it may, but hardly will: nobody listens there, or it takes too long.
        after: seconds that the server wants to be left alone; None: it does not say.
    """

    def __init__(self, reason: str, *, again: bool = True, hopeless: bool = False, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.hopeless = hopeless
        self.after = after


class HttpClient:
    """Speaks to servers of indexes, through the proxies that `HTTPS_PROXY`, `NO_PROXY` and the like name.

    Connections are kept and used again.

    Args:
        timeout: seconds until a server has to connect and to answer, and in which it has to send 16 kB; 0: a day.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout or 86400.0
        self._managers: dict[str, urllib3.PoolManager] = {}

    @contextlib.contextmanager
    def exchange(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Iterator[BaseHTTPResponse]:
        """The answer to a request, whose body is still to be read; redirects of a GET are followed.

        `Authorization` goes to the host of `url` alone.

        Raises:
            TransferError: there is no answer, or one of a server that is in trouble.
            PermissionDeniedError: a redirect to where no index may lead.
        """
        given = {"User-Agent": f"agenthub/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._ask(method, url, given, body)
            try:
                if response.status not in _REDIRECTS or method != "GET":
                    if response.status in _TRY_AGAIN:
                        raise TransferError(f"the server answers {response.status}", after=_retry_after(response))
                    yield response
                    return
                target = _redirected(url, response.headers.get("Location", ""))
            finally:
                response.close()
            if _origin(parse_url(target)) != _origin(parse_url(url)):
                given.pop("Authorization", None)
            url = target
        raise TransferError(f"more than {_MOST_REDIRECTS} redirects, the last one to {redacted(url)}", again=False)

    def chunks(self, response: BaseHTTPResponse) -> Iterator[bytes]:
        """The body as it comes.

        Raises:
            TransferError: it does not come whole, or not fast enough.
        """
        since, moved = time.monotonic(), 0
        with translated(self.timeout):
            while data := response.read1(CHUNK, decode_content=True):
                yield data
                moved += len(data)
                now = time.monotonic()
                if now - since > self.timeout:
                    if moved < _LEAST:
                        raise TransferError(f"it sent only {moved} bytes in {now - since:.2g} s", hopeless=True)
                    since, moved = now, 0

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> BaseHTTPResponse:
        with translated(self.timeout):
            return self._manager(url).request(
                method, url, headers=headers, body=body, preload_content=False, redirect=False, retries=False
            )

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = self._proxy(parse_url(url))
        if proxy not in self._managers:
            timeout = urllib3.Timeout(connect=self.timeout, read=self.timeout)
            manager = _through(proxy, timeout) if proxy else urllib3.PoolManager(timeout=timeout)
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
            self._managers[proxy] = manager
        return self._managers[proxy]

    def _proxy(self, url: Url) -> str:
        """The proxy for an address, or nothing; as curl and pip understand the variables."""
        from urllib.request import getproxies_environment, proxy_bypass

        proxies = getproxies_environment()
        if not proxies or proxy_bypass(url.netloc or ""):
            return ""
        proxy = proxies.get(url.scheme or "") or proxies.get("all") or ""
        return proxy if "://" in proxy or not proxy else f"http://{proxy}"


@contextlib.contextmanager
def translated(timeout: float) -> Iterator[None]:
    """Turns what urllib3 raises into `TransferError`s that a person understands."""
    exceptions = urllib3.exceptions
    try:
        yield
    except AgentRuntimeError:  # some of ours are OSErrors as well
        raise
    except exceptions.SSLError as error:
        raise TransferError(f"its certificate is refused: {_cause(error)}", again=False) from error
    except exceptions.ProxyError as error:
        raise TransferError(f"the proxy fails: {_cause(error)}") from error
    except exceptions.NameResolutionError as error:
        raise TransferError("there is no such host, or no network") from error
    except exceptions.NewConnectionError as error:
        raise TransferError(_cause(error), hopeless=isinstance(error.__cause__, ConnectionRefusedError)) from error
    except (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError, _Stalled) as error:
        raise TransferError(f"no answer within {timeout:g} s", hopeless=True) from error
    except (exceptions.IncompleteRead, exceptions.ProtocolError, OSError) as error:
        raise TransferError(f"the connection was cut: {_cause(error)}") from error
    except exceptions.DecodeError as error:
        raise TransferError("what it sent is damaged") from error
    except (exceptions.HTTPError, ValueError) as error:  # an address that urllib3 refuses, or a proxy's
        raise TransferError(_cause(error), again=False) from error


def _through(proxy: str, timeout: urllib3.Timeout) -> urllib3.ProxyManager:
    parts = parse_url(proxy)
    if parts.scheme not in ("http", "https"):
        raise InvalidInputError(
            f"the proxy {redacted(proxy)} is not one for HTTP", suggestion="set HTTPS_PROXY to http://HOST:PORT"
        )
    headers = urllib3.make_headers(proxy_basic_auth=parts.auth) if parts.auth else None
    bare = Url(parts.scheme, None, parts.host, parts.port).url
    return urllib3.ProxyManager(bare, proxy_headers=headers, timeout=timeout)


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads, if it may.

    Raises:
        PermissionDeniedError: to a file, to a host in plain text, or to this machine from elsewhere.
    """
    from urllib.parse import urljoin

    try:
        target = urljoin(url, location)
        before, after = parse_url(url), parse_url(target)
    except (ValueError, urllib3.exceptions.LocationParseError):
        raise TransferError(f"it redirects to what is no address: {location[:80]!r}", again=False) from None
    same_host = before.host == after.host
    local = is_loopback(after.host or "")
    allowed = (
        (after.scheme == "https" and before.scheme == "https" and (same_host or not local))
        or (after.scheme in ("http", "https") and before.scheme == "http" and same_host and local)
    ) and not after.auth
    if not location or not allowed:
        raise PermissionDeniedError(
            f"{redacted(url)} redirects to {redacted(target)!r}, which is refused",
            suggestion="an index may redirect to its own host, or from https to https; ask whoever runs it",
        )
    return target


def _origin(url: Url) -> tuple[str | None, str | None, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme or "")


def _retry_after(response: BaseHTTPResponse) -> float | None:
    """Seconds; a date depends on two clocks, and is not believed."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT) if text.isdecimal() else None


def _cause(error: BaseException) -> str:
    """The innermost reason, without the names of libraries."""
    while True:
        inner = getattr(error, "reason", None) or getattr(error, "original_error", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        return f"{error.partial} of {error.partial + (error.expected or 0)} bytes came"
    text = str(error.args[0]) if error.args else ""
    return text.rpartition("object at 0x")[2].partition(": ")[2] or text or type(error).__name__


# a server that sends its headers a byte at a time, each well within the timeout -------------------------------------


class _Stalled(Exception):
    """The headers of an answer did not come in time."""


class _Punctual:
    """A connection whose answer has to begin within the timeout, however often a byte of it comes."""

    def getresponse(self) -> Any:
        connection: Any = self
        late = threading.Event()
        descriptor = connection.sock
        seconds = connection.timeout if isinstance(connection.timeout, (int, float)) else 60.0

        def give_up() -> None:
            late.set()
            with contextlib.suppress(OSError):
                socket.socket.shutdown(descriptor, socket.SHUT_RDWR)

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()  # type: ignore[misc]
        except Exception:  # what the end that we made looks like is the library's affair; anything else is passed on
            if late.is_set():
                raise _Stalled from None
            raise
        finally:
            timer.cancel()
        if late.is_set():  # the end that we made looks like the end of an answer
            response.close()
            raise _Stalled
        return response


class _Connection(_Punctual, HTTPConnection):
    """Plain."""


class _SecureConnection(_Punctual, HTTPSConnection):
    """With TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection
