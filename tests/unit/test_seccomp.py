"""Filters, run by an interpreter of classic BPF: what they answer on each architecture, for any arguments."""

from __future__ import annotations

import errno
import struct

import pytest

from agenthub.runtime.sandbox.seccomp import Match, Profile, Rule, assemble, make_filter, rules
from agenthub.runtime.sandbox.syscalls import NUMBERS, Architecture

ALLOWED, KILLED = "allowed", "killed"
NONE = Profile("none", namespaces=False, exact_memory=False, abi=7)
X86, ARM = Architecture("x86_64"), Architecture("aarch64")
UNIX, INET, INET6, NETLINK, PACKET = 1, 2, 10, 16, 17
STREAM, DATAGRAM, RAW, CLOEXEC = 1, 2, 3, 0o2000000


def answer(program, number, *arguments, audit=X86.audit):
    """What the kernel would do."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *(*arguments, *[0] * (6 - len(arguments))))
    at = accumulator = 0
    for _ in range(4096):
        code, yes, no, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            if value == 0x7FFF0000:
                return ALLOWED
            return KILLED if value == 0x80000000 else errno.errorcode.get(value & 0xFFFF, "pretended")
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x45: accumulator & value != 0,
            }[code]
            at += yes if holds else no
    raise AssertionError("does not end")


def call(profile, name, *arguments, architecture=X86):
    program = assemble(rules(profile), architecture)
    return answer(program, architecture.number(name), *arguments, audit=architecture.audit)


@pytest.mark.parametrize("architecture", [X86, ARM], ids=["x86_64", "aarch64"])
@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize("network", ["none", "hosts", "any"])
def test_every_unconditional_rule_refuses_and_ends(architecture, namespaces, network):
    found = rules(Profile(network, namespaces, exact_memory=False, abi=1))
    program = assemble(found, architecture)
    for rule in found:
        number = architecture.number(rule.call)
        if number is not None and not rule.when and not rule.unless:
            assert answer(program, number, audit=architecture.audit) not in (ALLOWED, KILLED)
    for number in range(463):  # no jump leads astray
        for arguments in ((), (2**64 - 1,) * 6):
            assert answer(program, number, *arguments, audit=architecture.audit)


def test_another_architecture_is_killed():
    program = make_filter(NONE)
    assert answer(program, 0, audit=0x40000003) == KILLED
    assert answer(program, 0, audit=ARM.audit) == KILLED


@pytest.mark.parametrize("number", [463, 500, 1 << 30, (1 << 30) + 41, 2**31 - 1])
def test_unknown_calls_do_not_exist(number):
    assert answer(make_filter(NONE), number) == "ENOSYS"


@pytest.mark.parametrize("name", ["ioctl", "fcntl", "clone", "unshare", "seccomp"])
def test_an_argument_is_not_taken_for_a_number(name):
    """What follows a call's conditions must not compare the argument that they looked at."""
    for value in range(64, 463):
        assert call(NONE, name, 0, value) == ALLOWED
        assert call(NONE._replace(namespaces=True), "openat", 0, 0, 0o100, value & 0o3777) == ALLOWED


def test_ordinary_calls_are_allowed():
    for number in (0, 1, 2, 3, 9, 59, 60, 61, 202, 257, 231, 322):
        assert answer(make_filter(NONE), number) == ALLOWED


@pytest.mark.parametrize(
    ("network", "namespaces", "allowed"),
    [
        ("none", True, {UNIX}),
        ("none", False, set()),
        ("hosts", True, {UNIX, INET, INET6}),
        ("hosts", False, {INET, INET6}),
        ("any", True, {INET, INET6, NETLINK}),
        ("any", False, {INET, INET6, NETLINK}),
    ],
)
def test_families_of_sockets(network, namespaces, allowed):
    profile = Profile(network, namespaces, exact_memory=False, abi=7)
    found = {family for family in range(64) if call(profile, "socket", family, STREAM | CLOEXEC) == ALLOWED}
    assert found == allowed
    assert call(profile, "socketpair", UNIX, STREAM) == ALLOWED
    assert call(profile, "socketpair", UNIX, 5 | CLOEXEC) == ALLOWED
    for family, kind in ((INET, STREAM), (UNIX, DATAGRAM), (UNIX, RAW)):
        assert call(profile, "socketpair", family, kind) == "EAFNOSUPPORT"


def test_declared_hosts_without_namespaces_are_plain_tcp():
    profile = Profile("hosts", namespaces=False, exact_memory=False, abi=7)
    assert call(profile, "socket", INET, STREAM, 6) == ALLOWED
    for kind, protocol in ((DATAGRAM, 0), (RAW, 6), (STREAM, 132), (STREAM, 262)):
        assert call(profile, "socket", INET, kind, protocol) == "EAFNOSUPPORT"
    for name in ("bind", "listen", "accept", "accept4"):
        assert call(profile, name) == "EPERM"
    assert call(profile, "sendto", 3, 0, 1, 0x20000000) == "EPERM"
    assert call(profile, "sendto", 3, 0, 1, 0x4000) == ALLOWED
    assert call(profile, "sendmsg", 3, 0, 0x20000000) == "EPERM"
    assert call(profile, "sendmmsg", 3, 0, 1, 0x20004000) == "EPERM"


def test_only_the_low_half_of_an_int_counts():
    """The kernel ignores the rest, and so must a filter."""
    assert call(NONE, "ioctl", 0, (1 << 32) | 0x5412) == "EPERM"
    assert call(NONE, "socketpair", (1 << 32) | INET) == "EAFNOSUPPORT"
    assert call(NONE, "clone", (1 << 40) | 0x10000000) == "EPERM"


def test_processes_may_be_made_and_namespaces_not():
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert call(NONE, "clone", flag | 17) == "EPERM"
        assert call(NONE, "unshare", flag) == "EPERM"
    assert call(NONE, "unshare", 0x80) == "EPERM"
    assert call(NONE, "clone", 0x01200011) == ALLOWED  # fork
    assert call(NONE, "clone", 0x003D0F00) == ALLOWED  # a thread
    assert call(NONE, "unshare", 0x400) == ALLOWED  # descriptors
    assert call(NONE, "clone3") == "ENOSYS"


def test_others_cannot_be_touched_without_namespaces():
    for name in ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        assert call(NONE, name, 0) == ALLOWED
        assert call(NONE, name, 1234) == "EPERM"
    assert [call(NONE, "setpriority", kind, who) for kind, who in ((0, 0), (0, 9), (1, 0), (2, 0))] == [
        ALLOWED,
        "EPERM",
        "EPERM",
        "EPERM",
    ]
    assert [call(NONE, "ioprio_set", kind, who) for kind, who in ((1, 0), (1, 9), (3, 0))] == [
        ALLOWED,
        "EPERM",
        "EPERM",
    ]


def test_metadata_is_left_alone_without_namespaces():
    shared = NONE
    own = shared._replace(namespaces=True)
    for name in ("chmod", "fchmodat2", "utimensat", "fchown"):
        assert call(shared, name) == "pretended"
        assert call(own, name) == ALLOWED
    assert call(shared, "setxattr") == errno.errorcode[errno.EOPNOTSUPP]
    assert call(shared, "ioctl", 3, 0x40086602) == "EPERM"


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize("architecture", [X86, ARM], ids=["x86_64", "aarch64"])
def test_no_program_is_made_that_runs_as_its_owner(architecture, namespaces):
    profile = NONE._replace(namespaces=namespaces)
    create, temporary, at = 0o100 | 1, 0o20200000 | 1, 2**32 - 100
    for name, before in (("chmod", (1,)), ("fchmod", (1,)), ("fchmodat", (at, 1)), ("fchmodat2", (at, 1))):
        if architecture.number(name) is not None:
            assert call(profile, name, *before, 0o4755, architecture=architecture) == "EPERM"
            assert call(profile, name, *before, 0o2755, architecture=architecture) != "EPERM"
    for flags in (create, temporary):
        assert call(profile, "openat", at, 1, flags, 0o4755, architecture=architecture) == "EPERM"
        assert call(profile, "openat", at, 1, flags, 0o755, architecture=architecture) == ALLOWED
    assert call(profile, "openat", at, 1, 0, 0o7777, architecture=architecture) == ALLOWED  # a mode that is not read
    assert call(profile, "mknodat", at, 1, 0o104755, architecture=architecture) == "EPERM"
    assert call(profile, "openat2", at, 1, architecture=architecture) == "ENOSYS"
    if architecture is X86:
        assert call(profile, "open", 1, create, 0o4755) == "EPERM"
        assert call(profile, "creat", 1, 0o4755) == "EPERM"


def test_memory_that_nobody_counts_needs_a_cgroup():
    assert call(NONE, "memfd_create") == "ENOSYS"
    assert call(NONE._replace(exact_memory=True), "memfd_create") == ALLOWED


def test_an_older_landlock_gets_what_it_lacks():
    assert call(NONE, "truncate") == ALLOWED
    assert call(NONE._replace(abi=2), "truncate") == "EPERM"


def test_a_listener_cannot_be_put_on_top():
    assert call(NONE, "seccomp", 1, 8) == "EPERM"
    assert call(NONE, "seccomp", 1, 0) == ALLOWED


def test_alternatives_and_conjunctions():
    found = (
        Rule("fcntl", when=((Match(1, 5), Match(2, 0xF0, mask=0xF0)), (Match(1, 6),))),
        Rule("ioctl", unless=((Match(1, 5), Match(2, 1)), (Match(1, 6),))),
    )
    program = assemble(found, X86)
    number = X86.number("fcntl")
    assert [answer(program, number, 0, *rest) for rest in ((5, 0xF1), (5, 0xE1), (6, 0), (7, 0))] == [
        "EPERM",
        ALLOWED,
        "EPERM",
        ALLOWED,
    ]
    number = X86.number("ioctl")
    assert [answer(program, number, 0, *rest) for rest in ((5, 1), (5, 2), (6, 0), (7, 0))] == [
        ALLOWED,
        "EPERM",
        ALLOWED,
        "EPERM",
    ]


def test_unknown_machines_are_named():
    with pytest.raises(ValueError, match="riscv64"):
        Architecture("riscv64")


def test_numbers_are_different_calls():
    for column in (0, 1):
        numbers = [pair[column] for pair in NUMBERS.values() if pair[column] is not None]
        assert len(numbers) == len(set(numbers))
