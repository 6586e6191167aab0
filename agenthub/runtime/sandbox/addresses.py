"""IP addresses: one spelling of each, and which of them lie on the public internet.

By hand, because importing `ipaddress` costs more than a whole request, and because its idea of a private address
changes between releases of Python.
"""

from __future__ import annotations

import re

_OCTET = re.compile(r"(?:0|[1-9][0-9]{0,2})\Z")
_SPECIAL_4 = (
    (0x00000000, 8, "unspecified"),
    (0x0A000000, 8, "private"),
    (0x64400000, 10, "shared by a carrier"),
    (0x7F000000, 8, "loopback"),
    (0xA9FE0000, 16, "link-local (cloud metadata)"),
    (0xA83F8110, 32, "cloud metadata"),  # the host agent of Azure: a public number that never leaves the machine's host
    (0xAC100000, 12, "private"),
    (0xC0000000, 24, "reserved"),
    (0xC0000200, 24, "reserved"),
    (0xC0586300, 24, "reserved"),
    (0xC0A80000, 16, "private"),
    (0xC6120000, 15, "reserved"),
    (0xC6336400, 24, "reserved"),
    (0xCB007100, 24, "reserved"),
    (0xE0000000, 4, "multicast"),
    (0xF0000000, 4, "reserved"),
)
_SPECIAL_6 = (
    (0, 128, "unspecified"),
    (1, 128, "loopback"),
    (0xFC << 120, 7, "private"),
    (0xFE8 << 116, 10, "link-local"),
    (0xFF << 120, 8, "multicast"),
    (0x2001 << 112, 23, "reserved"),
    (0x20010DB8 << 96, 32, "reserved"),
    (0x2002 << 112, 16, "an IPv4 address in IPv6 form"),
    (0x3FFF << 112, 20, "reserved"),
)
_GLOBAL_6 = (0x2000 << 112, 3)
_NAT64 = (0x0064FF9B << 96, 96)
# Forms of IPv6 that carry an IPv4 address: NAT64 (two kinds), mapped, compatible, Teredo, 6to4.
_CARRIERS = (
    _NAT64,
    (0x0064FF9B0001 << 80, 48),
    (0xFFFF << 32, 96),
    (0, 96),
    (0x20010000 << 96, 32),
    (0x2002 << 112, 16),
)


def canonical_ipv4(text: str) -> str:
    """`text`, if it is four plain decimal numbers; other notations mean different things to different programs.

    Raises:
        ValueError: it is not.
    """
    octets = text.split(".")
    if len(octets) != 4 or not all(_OCTET.match(octet) and int(octet) < 256 for octet in octets):
        raise ValueError("it is no IPv4 address in plain decimal notation")
    return text


def canonical_ipv6(text: str) -> str:
    """The short spelling of an IPv6 address.

    Raises:
        ValueError: it is none, has a zone, or is an IPv4 address in disguise.
    """
    import socket

    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):  # a zone (`%eth0`) is one of the reasons; ValueError: a NUL
        raise ValueError("it is no IPv6 address") from None
    number = int.from_bytes(packed, "big")
    if number > 1 and any(_within(number, *carrier, 128) for carrier in _CARRIERS):
        raise ValueError("it is an IPv4 address in IPv6 form; write the IPv4 address")
    return socket.inet_ntop(socket.AF_INET6, packed)


def refusal_of_address(address: str) -> str | None:
    """Why an address (numeric, as `getaddrinfo` answers) is not one of the public internet; None if it is one."""
    if ":" not in address:
        octets = canonical_ipv4(address).split(".")
        return _special_4(sum(int(octet) << shift for octet, shift in zip(octets, (24, 16, 8, 0), strict=True)))
    import socket

    number = int.from_bytes(socket.inet_pton(socket.AF_INET6, address.partition("%")[0]), "big")
    if _within(number, *_NAT64, 128):  # what a resolver of an IPv6-only network makes of a public IPv4 address
        return _special_4(number & 0xFFFFFFFF)
    for network, bits, kind in _SPECIAL_6:
        if _within(number, network, bits, 128):
            return kind
    return None if _within(number, *_GLOBAL_6, 128) else "reserved"


def _special_4(number: int) -> str | None:
    for network, bits, kind in _SPECIAL_4:
        if _within(number, network, bits, 32):
            return kind
    return None


def _within(number: int, network: int, bits: int, width: int) -> bool:
    return (number ^ network) >> (width - bits) == 0
