"""Landlock: a thread gives up what it may reach, for itself and for whatever it starts."""

from __future__ import annotations

import ctypes
import os
import struct

from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_PATH_BENEATH = 1
_ASK_VERSION = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST = (1 << 13) - 1  # what ABI 1 knows
_NETWORK = 0b11  # bind and connect of TCP
_SCOPES = 0b11  # abstract unix sockets, signals
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
CHANGE = (_FIRST | REFER | TRUNCATE) & ~(1 << 6 | 1 << 11)  # no device nodes

SIGNALS_ABI = 6  # from here on a restricted process cannot signal others
COMPLETE_ABI = 6  # every guarantee of the tier


class Access(NamedTuple):
    """What may be done at a path and below it: bits of this module."""

    path: str
    rights: int


def abi() -> int:
    """The version of Landlock that the kernel offers; 0: none."""
    version: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_ASK_VERSION))
    return max(version, 0)


def restrict_thread(accesses: Iterable[Access], version: int, *, network: bool) -> None:
    """Restricts this thread and what it starts from now on. New privileges must be forbidden already.

    Args:
        accesses: all that may be reached; paths that are missing are left out.
        version: what `abi` said.
        network: whether TCP may be used.

    Raises:
        OSError: the kernel refused.
    """
    handled = _FIRST
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        if version >= since:
            handled |= right
    attributes = struct.pack("=QQQ", handled, 0 if network else _NETWORK, _SCOPES)
    size = 24 if version >= SIGNALS_ABI else 16 if version >= 4 else 8
    libc = _libc()
    ruleset = _check(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0)))
    try:
        for access in accesses:
            _allow(libc, ruleset, access, handled)
        _check(libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)))
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, access: Access, handled: int) -> None:
    try:
        place = os.open(access.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = access.rights & handled
        if not os.path.isdir(access.path):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, place)
        _check(libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0)))
    finally:
        os.close(place)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
