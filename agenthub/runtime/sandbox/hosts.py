"""Declared hosts: how they are written, and what they match.

A rule is a name (`api.example.com`), everything below a name (`*.example.com`), or an address (`192.0.2.7`, `[::1]`),
with a port (`:8443`) or, without one, with ports 443 and 80. Names are compared in one normal form: lower case,
punycode, no trailing dot. Whatever two programs could read in two ways is refused, not interpreted.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from agenthub.errors import InvalidInputError
from agenthub.runtime.sandbox.addresses import canonical_ipv4, canonical_ipv6, refusal_of_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_PORTS = (443, 80)
EVERY_HOST = "any"  # a host of this name can be declared with its port alone
_NEVER_OFFERED = ("link-local", "metadata", "unspecified", "multicast")  # what no honest agent asks for
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_AMBIGUOUS = frozenset("\u00df\u03c2\u200c\u200d")  # IDNA 2003 and 2008 map these to different names
_LONGEST_NAME = 253


class HostRule(NamedTuple):
    """One declared host.

    Attributes:
        name: the normal form of the name or address; of a wildcard, what follows `*.`.
        ports: the ports it may be reached at.
        wildcard: whether it stands for the names below `name`, and not for `name` itself.
    """

    name: str
    ports: tuple[int, ...]
    wildcard: bool = False

    @property
    def text(self) -> str:
        """The one spelling of the rule, in ASCII: letters that look like others show."""
        host = f"*.{self.name}" if self.wildcard else self.name
        if self.ports == DEFAULT_PORTS:
            return host
        return f"[{host}]:{self.ports[0]}" if ":" in host else f"{host}:{self.ports[0]}"

    def is_within(self, other: HostRule) -> bool:
        """Whether `other` stands for all that this one stands for."""
        names = self.name == other.name and self.wildcard == other.wildcard
        below = other.wildcard and self.name.endswith(f".{other.name}")
        return (names or below) and set(self.ports) <= set(other.ports)

    def overlaps(self, other: HostRule) -> bool:
        """Whether something is meant by both."""
        names = self._replace(ports=()), other._replace(ports=())
        meet = names[0].is_within(names[1]) or names[1].is_within(names[0])
        return meet and not set(self.ports).isdisjoint(other.ports)


class DeclaredHosts:
    """Answers whether a host and a port were declared.

    Args:
        hosts: rules as a manifest writes them.

    Raises:
        InvalidInputError: a rule is malformed (a ValueError).
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self.rules = tuple(map(parse_host, hosts))
        self._exact = {(rule.name, port) for rule in self.rules if not rule.wildcard for port in rule.ports}
        self._below = {(rule.name, port) for rule in self.rules if rule.wildcard for port in rule.ports}

    def allow(self, host: str, port: int) -> bool:
        """Whether `host`, in its normal form, may be reached at `port`."""
        if (host, port) in self._exact:
            return True
        if not self._below or ":" in host:
            return False
        labels = host.split(".")
        return any((".".join(labels[start:]), port) in self._below for start in range(1, len(labels)))


def parse_host(text: str) -> HostRule:
    """Reads one rule.

    Raises:
        InvalidInputError: it is none, or one that could be read in two ways (a ValueError).
    """
    try:
        host, port = split_port(text)
        ports = DEFAULT_PORTS if port is None else (port,)
        wildcard = host.startswith("*.")
        name = normal_host(host[2:] if wildcard else host, declared=True)
        if wildcard and ("." not in name or name.rpartition(".")[2].isdigit() or ":" in name):
            raise ValueError("a wildcard needs a name of two labels or more below it")
    except ValueError as error:
        raise InvalidInputError(
            f"{text[:100]!r} is no host that can be declared: {error}",
            suggestion="write a host (api.example.com), a host and a port (api.example.com:8443), or *.example.com",
        ) from None
    return HostRule(name, ports, wildcard)


def rule_for(host: str, port: int) -> str:
    """How a host is declared that an agent wanted; "" for what is not to be suggested, and for what is no host.

    A person copies this: it never stands for more than the one host.
    """
    try:
        name = normal_host(host)
    except ValueError:
        return ""
    address = ":" in name or name.rpartition(".")[2].isdigit()
    kind = (refusal_of_address(name) if address else None) or ""
    if not 0 < port < 65536 or any(word in kind for word in _NEVER_OFFERED):
        return ""
    if port in DEFAULT_PORTS and name != EVERY_HOST:
        return name
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def split_port(text: str) -> tuple[str, int | None]:
    """Takes `host[:port]` apart; an IPv6 address with a port stands in brackets.

    Raises:
        ValueError: the port is no number from 1 to 65535, in plain decimal.
    """
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("its brackets are broken")
        host, colon, port = host + bracket, rest[:1], rest[1:]
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    else:
        return text, None
    if not colon:
        return host, None
    if not _PORT.match(port) or int(port) > 65535:
        raise ValueError("its port is no number from 1 to 65535")
    return host, int(port)


def normal_host(text: str, *, declared: bool = False) -> str:
    """The one spelling of a host name or an address.

    Args:
        text: as written, without a port; an IPv6 address may stand in brackets.
        declared: a person wrote it, so that letters beyond ASCII are converted to punycode.

    Raises:
        ValueError: it is neither, or has a form that programs disagree about; the message says why.
    """
    if text.startswith("[") and text.endswith("]"):
        return canonical_ipv6(text[1:-1])
    if ":" in text:
        return canonical_ipv6(text)
    if not text.isascii():
        if not declared:
            raise ValueError("it is not ASCII; clients send punycode")
        text = _punycode(text)
    name = text.lower()
    if name.endswith("."):
        name = name[:-1]
    labels = name.split(".")
    if _NUMBER.match(labels[-1]):
        return canonical_ipv4(name)
    if len(name) > _LONGEST_NAME or not all(map(_LABEL.match, labels)):
        raise ValueError("it is no host name")
    return name


def _punycode(text: str) -> str:
    import unicodedata

    wanted = unicodedata.normalize("NFC", text.lower())
    try:
        encoded = wanted.encode("idna").decode()
        same = encoded.encode().decode("idna") == wanted
    except UnicodeError:
        raise ValueError("it is no international host name") from None
    if not same or _AMBIGUOUS.intersection(wanted):
        raise ValueError("it has letters that stand for others; write its xn-- form")
    return encoded
