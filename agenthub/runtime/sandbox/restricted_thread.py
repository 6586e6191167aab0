"""A thread that restricts itself for good, starts a run, and stays as the one who can end all of it.

Landlock and filters hold for the calling thread and for what it starts. So neither a launcher nor `preexec_fn` is
needed, and the other threads stay free. From inside its Landlock domain, `kill(-1)` reaches that domain alone.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import struct
import subprocess
import threading

from agenthub.errors import PermissionDeniedError
from agenthub.runtime.sandbox import landlock, seccomp
from agenthub.runtime.sandbox.landlock import Access

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agenthub.runtime.sandbox.visible import Visible

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_HARMLESS = (  # what programs ask of the machine
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
    "/sys/devices/system",
    "/sys/fs/cgroup/memory.max",
    # What exists and is refused is an error to many a program that would do without.
    "/etc/gitconfig",
    "/etc/group",
    "/etc/hosts",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
)
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 24, 47, 4
_CAPABILITY_VERSION = 0x20080522
_KILL_TIMEOUT = 5.0


class RestrictedThread:
    """Starts one run.

    Args:
        seen: the files it may reach.
        program: its filter of system calls.
        abi: of the kernel's Landlock.
        network: `none hosts any`.
        hook: called in the thread between Landlock and the filter.
    """

    def __init__(
        self, seen: Visible, program: bytes, abi: int, network: str, hook: Callable[[], None] | None = None
    ) -> None:
        self._accesses = tuple(_accesses(seen))
        self._program = program
        self._abi = abi
        self._network = network
        self._hook = hook
        self._orders: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Restricts the thread and calls `start` in it.

        Raises:
            PermissionDeniedError: the kernel refused a restriction.
        """

        def restricted_start() -> subprocess.Popen[bytes]:
            try:
                self._restrict()
            except OSError as error:
                raise PermissionDeniedError(f"the kernel refused to restrict the run: {error.strerror}") from None
            return start()

        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        try:
            process = self._ask(restricted_start)
        except BaseException:  # an interrupt too: what was started meanwhile must not stay
            self.close()
            self._discard_late()
            raise
        assert isinstance(process, subprocess.Popen)
        return process

    def _discard_late(self) -> None:
        if not self._answers.empty():
            process = self._answers.get()
            if isinstance(process, subprocess.Popen):
                process.kill()
                process.communicate()

    def kill_domain(self) -> None:
        """Kills every process that the thread's process started, if it is certain that nobody else is hit."""
        if self._thread is None or self._abi < landlock.SIGNALS_ABI or os.geteuid() == 0:
            return
        with _canary() as pid:
            if pid:
                self._ask(lambda: _kill_all(pid))

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

    def _ask(self, order: Callable[[], object]) -> object:
        self._orders.put(order)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                answer = order()
            except BaseException as error:  # noqa: BLE001 - raised again by the one who asked
                answer = error
            self._answers.put(answer)

    def _restrict(self) -> None:
        drop_capabilities()
        seccomp.forbid_new_privileges()
        landlock.restrict_thread(self._accesses, self._abi, network=self._network == "any")
        if self._hook is not None:
            self._hook()
        seccomp.install(self._program)


def _accesses(seen: Visible) -> Iterator[Access]:
    for path in seen.readable:
        yield Access(path, landlock.READ if path in seen.data else landlock.RUN)
    for path in seen.writable:
        yield Access(path, landlock.CHANGE)
    for path in _HARMLESS:
        yield Access(path, landlock.READ)
    yield Access("/proc", landlock.READ_DIR)  # one's own descriptors; what is in others' directories is guarded itself
    for path in _DEVICES:
        yield Access(path, landlock.READ | landlock.WRITE_FILE)


def drop_capabilities() -> None:
    """Takes this thread's capabilities away, for good together with `forbid_new_privileges`.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_AMBIENT_CLEAR_ALL), *[ctypes.c_ulong(0)] * 3)
    capability = 0
    while libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3) == 0:
        capability += 1  # ends after the last that the kernel knows, or at once without the right to
    if libc.capset(header, bytes(24)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _kill_all(outsider: int) -> None:
    """In the restricted thread: `outsider` is a process that we could signal if the scope did not hold."""
    try:
        os.kill(outsider, 0)
    except PermissionError:
        os.kill(-1, signal.SIGKILL)


class _canary:  # noqa: N801 - a context, used as a function
    """The pid of a process outside of every domain that this process may signal; 0: there is none."""

    def __enter__(self) -> int:
        self._own: subprocess.Popen[bytes] | None = None
        parent = os.getppid()
        if parent > 1:
            try:
                os.kill(parent, 0)
                return parent
            except (PermissionError, ProcessLookupError):
                pass
        try:
            self._own = subprocess.Popen(("/bin/sh", "-c", "read -r _"), stdin=subprocess.PIPE)
        except OSError:
            return 0
        return self._own.pid

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.kill()
            self._own.communicate()
