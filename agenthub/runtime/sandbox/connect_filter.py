"""The filter that has the kernel ask about every connect(2). Small, because a start waits for it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from agenthub.runtime.sandbox.syscalls import Architecture

CONNECT = {"x86_64": 42, "aarch64": 203}
_X32 = 0x40000000
_KILL_PROCESS, _USER_NOTIFICATION, _ERRNO, _ALLOW = 0x80000000, 0x7FC00000, 0x00050000, 0x7FFF0000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 8, 32
_KIND_MASK = 0xF  # the rest of a socket's type is flags
_STREAM, _PACKETS_IN_ORDER = 1, 5


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install_connect_filter() -> int:
    """Puts this thread, and what it starts, under a filter that reports each connect; all else is as before.

    New privileges must be forbidden already. Filters that forbid more go on top: they must leave `connect`, and
    `socket` of TCP, alone, and must come later if they forbid `seccomp`.

    Returns:
        A descriptor for `ConnectNotifier`. Not inherited by programs.

    Raises:
        OSError: the kernel refused; EBUSY: the thread is under such a filter already.
        ValueError: the numbers of this machine's architecture are not known.
    """
    program = _filter()
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    number = Architecture().number("seccomp")
    assert number is not None
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        descriptor: int = libc.syscall(
            ctypes.c_long(number), ctypes.c_ulong(_SET_MODE_FILTER), ctypes.c_ulong(flags), ctypes.byref(header)
        )
        if descriptor >= 0:
            return descriptor
        if ctypes.get_errno() != errno.EINVAL:
            break
    failure = ctypes.get_errno()
    raise OSError(failure, os.strerror(failure))


def _filter() -> bytes:
    architecture = Architecture()
    code = (
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, 0),  # the number
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 0, 1, CONNECT[architecture.machine]),
        (_RETURN, 0, 0, _USER_NOTIFICATION),
        # A pair of datagram sockets (which SOCK_RAW makes too) can send to any socket in the file system.
        (_EQUAL, 0, 5, architecture.number("socketpair") or 0),
        (_LOAD, 0, 0, 16 + 8),
        (_AND, 0, 0, _KIND_MASK),
        (_EQUAL, 2, 0, _STREAM),
        (_EQUAL, 1, 0, _PACKETS_IN_ORDER),
        (_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
