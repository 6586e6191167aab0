"""A listening socket inside a sandbox's network namespace, made from outside: nothing of ours runs in the sandbox.

A socket belongs to the namespace in which it was made, whoever holds it. So something enters the namespace for a
moment, makes the socket and hands it over: a thread, where we have the privilege; else a process, because only one with
a single thread may enter the user namespace that gives it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from contextlib import suppress

from agenthub.errors import EnvironmentError
from agenthub.runtime.sandbox import netns_helper
from agenthub.runtime.sandbox.netns_helper import ANSWER, NEW_NETWORK, ORDER
from agenthub.runtime.sandbox.proxy_address import PROXY_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_GET_OWNER = 0xB701  # NS_GET_USERNS: a network namespace may belong to another user namespace than its processes
_HELPER_TIMEOUT = 10.0
_HIGHEST_DESCRIPTOR = 1 << 16  # that is looked for, where the kernel cannot close them all at once


def listen_in_namespace(pid: int, port: int = PROXY_PORT) -> socket.socket:
    """A TCP socket that listens on 127.0.0.1 in the network namespace of a process.

    Args:
        pid: of a process of the sandbox, as seen from here, that its owner or root may inspect.
        port: any that is free in there.

    Raises:
        EnvironmentError: the namespace cannot be entered, is our own, or has the port in use.
    """
    with NamespaceListener() as made:
        return made.listen(pid, port)


class NamespaceListener:
    """`listen_in_namespace` in two steps, so that the process it may need starts while the sandbox does."""

    def __init__(self) -> None:
        self._helper = None if os.geteuid() == 0 else _Helper()

    def __enter__(self) -> NamespaceListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def listen(self, pid: int, port: int = PROXY_PORT) -> socket.socket:
        """Makes the socket; once. Arguments and errors as of `listen_in_namespace`."""
        try:
            network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.path.samestat(os.fstat(network), os.stat("/proc/thread-self/ns/net")):
                    raise OSError(errno.EXDEV, "it has no network namespace of its own")
                return self._listen(network, port)
            finally:
                os.close(network)
        except OSError as error:
            raise EnvironmentError(
                f"cannot put the proxy for declared hosts into the sandbox: {error.strerror or error}",
                suggestion="agenthub doctor shows what this machine can enforce",
            ) from None

    def close(self) -> None:
        """Ends the helper. May be called twice."""
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def _listen(self, network: int, port: int) -> socket.socket:
        if self._helper is None:
            try:
                return _listen_by_thread(network, port)
            except PermissionError:  # root without the capability, as in many containers
                self._helper = _Helper()
        return self._helper.listen(network, port)


def _listen_by_thread(network: int, port: int) -> socket.socket:
    """Has a thread enter, which ends there."""
    made: list[socket.socket] = []
    failures: list[OSError] = []

    def work() -> None:
        try:
            netns_helper.enter(network, NEW_NETWORK)
            made.append(netns_helper.listen(port))
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="agenthub-netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return made[0]


class _Helper:
    """A process that waits for the namespaces that it is to enter: a fork of this one if that is safe."""

    def __init__(self) -> None:
        self._channel, there = socket.socketpair()
        self._channel.settimeout(_HELPER_TIMEOUT)
        with there:
            start = _fork if len(os.listdir("/proc/self/task")) == 1 else _spawn
            self._pid = start(there.fileno())

    def listen(self, network: int, port: int) -> socket.socket:
        """Orders the socket. Raises OSError."""
        import fcntl

        owner = fcntl.ioctl(network, _GET_OWNER)
        try:
            socket.send_fds(self._channel, [ORDER.pack(port)], [owner, network])
        finally:
            os.close(owner)
        said, descriptors, _, _ = socket.recv_fds(self._channel, ANSWER.size, 1, socket.MSG_CMSG_CLOEXEC)
        if not descriptors:
            number = (ANSWER.unpack(said)[0] if said else 0) or errno.EIO
            raise OSError(number, os.strerror(number))
        return socket.socket(fileno=descriptors[0])

    def close(self) -> None:
        self._channel.close()
        with suppress(ChildProcessError):  # an embedding program reaps every child
            os.waitpid(self._pid, 0)


def _fork(channel: int) -> int:
    """Forks a helper that has nothing else of ours: no descriptor, and no signal that our handlers would answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
        if child:
            return child
        try:
            os.closerange(3, channel)
            os.closerange(channel + 1, _HIGHEST_DESCRIPTOR)
            netns_helper.serve(socket.socket(fileno=channel))
        finally:
            os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(channel: int) -> int:
    import subprocess

    helper = subprocess.Popen(
        (sys.executable, "-I", "-S", netns_helper.__file__, str(channel)),
        pass_fds=(channel,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )
    helper.returncode = 0  # it is reaped by its number, like a fork
    return helper.pid
