"""What enters a sandbox's namespaces: standard library only, so that a bare interpreter can run it as a file."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
_FREE_BIND = 15  # IP_FREEBIND: the namespace's loopback interface need not be up yet
_BACKLOG = 128
ORDER = struct.Struct("=H")  # the port; comes with descriptors of a user and a network namespace
ANSWER = struct.Struct("=i")  # an errno; 0 comes with a descriptor of the socket


def enter(namespace: int, kind: int) -> None:
    """Moves this thread into a namespace, for good.

    Raises:
        OSError: it may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def listen(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1, in the namespace of this thread.

    Raises:
        OSError: the port is in use.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.IPPROTO_IP, _FREE_BIND, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def serve(channel: socket.socket) -> None:
    """Waits for one order and carries it out; ends too when the other side of the channel does."""
    order, descriptors, _, _ = socket.recv_fds(channel, ORDER.size, 2, socket.MSG_CMSG_CLOEXEC)
    if len(order) != ORDER.size or len(descriptors) != 2:
        return
    try:
        enter(descriptors[0], NEW_USER)
        enter(descriptors[1], NEW_NETWORK)
        with listen(*ORDER.unpack(order)) as listener:
            socket.send_fds(channel, [ANSWER.pack(0)], [listener.fileno()])
    except OSError as error:
        channel.send(ANSWER.pack(error.errno or 0))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
