"""Declared hosts without a network namespace: the kernel asks us about every connect(2) of the run.

No connect is ever let through: it could be given another address after it was looked at. One to the proxy's address is
answered by putting a connection to the proxy in the place of the caller's socket; all others fail. Nobody listens at
the proxy's address, so nobody else can reach the proxy.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from contextlib import suppress

from agenthub.runtime.sandbox.connect_filter import CONNECT, install_connect_filter
from agenthub.runtime.sandbox.proxy_address import PROXY_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from agenthub.runtime.sandbox.proxy import AllowListProxy

_RECEIVE, _SEND, _IS_VALID, _ADD_DESCRIPTOR = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; number, architecture, instruction, arguments
_REPLACE = 1  # SECCOMP_ADDFD_FLAG_SETFD
_LONGEST_ADDRESS = 128
_PAIR_TIMEOUT = 2.0


def missing_support() -> str | None:
    """Why this machine cannot do it, as the end of a sentence; None if it can. Tries it out in a thread that ends."""
    if os.uname().machine not in CONNECT:
        return f"no system call filter is known for {os.uname().machine}"
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            if int(file.read()) > 1 and os.geteuid() != 0:
                return "kernel.yama.ptrace_scope forbids to read the address of a connect"
    except OSError:  # no Yama
        pass
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.extend(_try_out()), name="agenthub-probe")
    thread.start()
    thread.join()
    return reasons[0] if reasons else None


class ConnectNotifier:
    """Answers every connect of a run, in the proxy's thread, until the `with` block ends.

    Args:
        proxy: serves the connections, and records what was refused.
        descriptor: from `install_connect_filter`; owned by this object.
        port: at 127.0.0.1, where the run finds the proxy.
    """

    def __init__(self, proxy: AllowListProxy, descriptor: int, port: int = PROXY_PORT) -> None:
        self._proxy = proxy
        self._descriptor = descriptor
        self._wanted = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s", port, bytes((127, 0, 0, 1)))
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        proxy.watch(descriptor, self._answer)

    def __enter__(self) -> ConnectNotifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends it: whoever of the run still calls connect gets ENOSYS. May be called twice."""
        if self._descriptor >= 0:
            self._proxy.unwatch(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _answer(self) -> bool:
        """Answers one notification; returns whether there may be more."""
        import fcntl

        ready = self._poll.poll(0)
        if not ready:
            return True
        if not ready[0][1] & select.POLLIN:  # the last process under the filter has ended
            return False
        received = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, received)
        except OSError:  # the caller was killed meanwhile
            return True
        number, pid, _, _, _, _, descriptor, address, length, *_ = _NOTIFICATION.unpack(received)
        failure = self._decide(number, pid, descriptor & 0xFFFFFFFF, address, length & 0xFFFFFFFF)
        with suppress(OSError):  # the same
            fcntl.ioctl(self._descriptor, _SEND, struct.pack("=QqiI", number, 0, -failure, 0))
        return True

    def _decide(self, number: int, pid: int, descriptor: int, pointer: int, length: int) -> int:
        """Carries out or refuses a connect; returns the errno for its caller, 0 for success."""
        import fcntl

        try:
            address = _read_memory(pid, pointer, min(length, _LONGEST_ADDRESS))
            flags = _descriptor_flags(pid, descriptor)
            fcntl.ioctl(self._descriptor, _IS_VALID, struct.pack("=Q", number))  # what was read is the caller's
        except (OSError, ValueError, OverflowError) as error:
            return error.errno if isinstance(error, OSError) and error.errno == errno.EBADF else errno.EACCES
        if address[:8] != self._wanted or length < 16:
            return self._refuse(address)
        if self._proxy.full:
            return errno.ECONNREFUSED
        try:
            theirs, ours = _connected_pair()
        except OSError:
            return errno.ECONNREFUSED
        with theirs:
            theirs.setblocking(not flags & os.O_NONBLOCK)
            order = struct.pack("=QIIII", number, _REPLACE, theirs.fileno(), descriptor, flags & os.O_CLOEXEC)
            try:
                fcntl.ioctl(self._descriptor, _ADD_DESCRIPTOR, order)
            except OSError:
                ours.close()
                return errno.ECONNABORTED
        self._proxy.attach(ours)
        return 0

    def _refuse(self, address: bytes) -> int:
        family = int.from_bytes(address[:2], "little" if struct.pack("=H", 1)[0] else "big")
        if family == socket.AF_INET and len(address) >= 8:
            host = socket.inet_ntop(socket.AF_INET, address[4:8])
            local = address[4] == 127
        elif family == socket.AF_INET6 and len(address) >= 24:
            host = socket.inet_ntop(socket.AF_INET6, address[8:24])
            local = host == "::1"
        else:
            return errno.EACCES
        self._proxy.refuse(host, int.from_bytes(address[2:4], "big"), "it was contacted past the proxy", "")
        return errno.ECONNREFUSED if local else errno.EACCES


def _try_out() -> list[str]:
    import fcntl

    from agenthub.runtime.sandbox.seccomp import forbid_new_privileges

    try:
        forbid_new_privileges()
        descriptor = install_connect_filter()
    except OSError as error:
        return [f"the kernel does not report system calls ({error.strerror})"]
    try:
        fcntl.ioctl(descriptor, _ADD_DESCRIPTOR, struct.pack("=QIIII", 0, 0, 0, 0, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:  # which is about the notification, so that the rest is understood
            return [f"the kernel cannot hand over descriptors ({error.strerror})"]
    finally:
        os.close(descriptor)
    return []


def _read_memory(pid: int, pointer: int, length: int) -> bytes:
    file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, length, pointer)
    finally:
        os.close(file)


def _descriptor_flags(pid: int, descriptor: int) -> int:
    """`O_NONBLOCK`, `O_CLOEXEC` and the like of another process's descriptor. Raises OSError (EBADF: not open)."""
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}", "rb") as file:
            for line in file:
                if line.startswith(b"flags:"):
                    return int(line.split()[1], 8)
    except FileNotFoundError:
        pass
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """Two TCP sockets connected with each other over loopback; nobody else can get between them."""
    theirs = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.settimeout(_PAIR_TIMEOUT)
            listener.bind(("127.0.0.1", 0))
            listener.listen(8)
            theirs.settimeout(_PAIR_TIMEOUT)
            theirs.connect(listener.getsockname())
            while True:
                ours, peer = listener.accept()
                if peer == theirs.getsockname():
                    return theirs, ours
                ours.close()
    except OSError:
        theirs.close()
        raise
