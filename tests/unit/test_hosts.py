"""Declared hosts: spelling, matching, and the addresses that names may lead to."""

from __future__ import annotations

import ipaddress

import pytest

from agenthub.errors import InvalidInputError
from agenthub.runtime.sandbox.addresses import refusal_of_address
from agenthub.runtime.sandbox.hosts import DeclaredHosts, HostRule, normal_host, parse_host, split_port


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("api.example.com", HostRule("api.example.com", (443, 80))),
        ("API.Example.COM.", HostRule("api.example.com", (443, 80))),
        ("api.example.com:8443", HostRule("api.example.com", (8443,))),
        ("*.example.com", HostRule("example.com", (443, 80), True)),
        ("*.example.com:8443", HostRule("example.com", (8443,), True)),
        ("127.0.0.1:11434", HostRule("127.0.0.1", (11434,))),
        ("localhost:8080", HostRule("localhost", (8080,))),
        ("[::1]:8080", HostRule("::1", (8080,))),
        ("2001:0DB8:0::1", HostRule("2001:db8::1", (443, 80))),
        ("b\u00fccher.example", HostRule("xn--bcher-kva.example", (443, 80))),
        ("bu\u0308cher.example", HostRule("xn--bcher-kva.example", (443, 80))),
        ("XN--bcher-KVA.example", HostRule("xn--bcher-kva.example", (443, 80))),
        ("my_service.internal:99", HostRule("my_service.internal", (99,))),
    ],
)
def test_a_rule_has_one_normal_form(text, rule):
    assert parse_host(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*",
        "*.com",
        "*.*.example.com",
        "api.*.com",
        "*example.com",
        "*.1.2.3.4",
        "*.[::1]",
        "https://api.example.com",
        "api.example.com/v1",
        "user@api.example.com",
        "user:pass@api.example.com",
        "evil.com#api.example.com",
        "evil.com?api.example.com",
        "evil.com\\api.example.com",
        "api%2eexample.com",
        "api.example.com\0.evil.com",
        "api.example.com ",
        "api example.com",
        "api..example.com",
        "-api.example.com",
        "api-.example.com",
        "a" * 64 + ".example.com",
        ".".join(["a" * 60] * 5),
        "api.example.com:",
        "api.example.com:0",
        "api.example.com:65536",
        "api.example.com:0443",
        "api.example.com:+443",
        "api.example.com:443:443",
        "api.example.com:\u0664\u0664\u0663",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.01",
        "256.0.0.1",
        "1.2.3.4.5",
        "example.0x7f",
        "example.1",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]:80",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2001:0:1::1",
        "fe80::1%eth0",
        "[::1",
        "::1]",
        "[::1]8080",
        "[api.example.com]",
        "stra\u00dfe.example",
        "\u24d0pi.example.com",
        "api\u3002example.com",
        "api.example\u200d.com",
    ],
)
def test_what_can_be_read_in_two_ways_is_no_rule(text):
    with pytest.raises(InvalidInputError, match="no host that can be declared"):
        parse_host(text)


def test_a_host_is_allowed_by_name_and_port():
    hosts = DeclaredHosts(["api.example.com", "files.example.com:8443", "*.example.org", "10.0.0.1:5000", "[::1]:80"])
    allowed = [
        ("api.example.com", 443),
        ("api.example.com", 80),
        ("files.example.com", 8443),
        ("a.example.org", 443),
        ("a.b.example.org", 80),
        ("10.0.0.1", 5000),
        ("::1", 80),
    ]
    refused = [
        ("api.example.com", 8080),
        ("files.example.com", 443),
        ("example.com", 443),
        ("www.api.example.com", 443),
        ("api.example.com.evil.com", 443),
        ("xapi.example.com", 443),
        ("example.org", 443),
        ("evilexample.org", 443),
        ("a.example.org", 8443),
        ("example.org.evil.com", 443),
        ("10.0.0.1", 80),
        ("10.0.0.2", 5000),
        ("::1", 443),
        ("com", 443),
        ("", 443),
    ]
    assert [place for place in allowed if not hosts.allow(*place)] == []
    assert [place for place in refused if hosts.allow(*place)] == []
    assert not DeclaredHosts([]).allow("api.example.com", 443)


def test_on_the_wire_a_host_is_ascii():
    assert normal_host("Api.Example.com.") == "api.example.com"
    with pytest.raises(ValueError, match="not ASCII"):
        normal_host("b\u00fccher.example")
    assert split_port("[::1]") == ("[::1]", None)
    assert split_port("::1") == ("::1", None)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("10.1.2.3", "private"),
        ("172.31.0.1", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "carrier"),
        ("100.100.100.200", "carrier"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("192.0.0.192", "reserved"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1%eth0", "link-local"),
        ("fd00:ec2::254", "private"),
        ("ff02::1", "multicast"),
        ("::ffff:127.0.0.1", "reserved"),
        ("::ffff:8.8.8.8", "reserved"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("64:ff9b:1::1", "reserved"),
        ("2002:7f00:1::1", "IPv4 address in IPv6 form"),
        ("2001:0:1::1", "reserved"),
    ],
)
def test_an_address_that_is_not_public_is_known(address, kind):
    assert kind in str(refusal_of_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808", "100.128.0.1"])
def test_a_public_address_is_fine(address):
    assert refusal_of_address(address) is None


def test_every_network_that_python_calls_private_is_refused():
    networks = [
        *ipaddress._IPv4Constants._private_networks,
        *ipaddress._IPv6Constants._private_networks,
        *ipaddress._IPv6Constants._reserved_networks,
    ]
    for network in networks:
        for address in (network[0], network[-1]):
            if address not in ipaddress.ip_network("64:ff9b::/96"):
                assert refusal_of_address(str(address)), address
