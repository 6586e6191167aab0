"""Reaches for other processes, and hides from the end of its run. Each function is an attack, and says what came of it.

What is left behind ends by itself after a while, in case that nobody ends it.
"""

import contextlib
import ctypes
import errno
import functools
import os
import resource
import signal
import struct
import sys
import time

LIFE = 20.0  # seconds
BORN = time.monotonic()
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NEW_USER, NEW_EVERYTHING, PARENT, VFORK = 0x10000000, 0x7E020000, 0x8000, 0x4000


def attack(function):
    @functools.wraps(function)
    def tried(facts):
        try:
            return {"outcome": "done", "got": function(facts)}
        except OSError as error:
            return {"outcome": errno.errorcode.get(error.errno, str(error))}

    return tried


def call(number, *arguments):
    given = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result = libc.syscall(ctypes.c_long(number), *given)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def read(path):
    with open(path, "rb") as file:
        return file.read(64).decode("latin-1")


# other processes --------------------------------------------------------------------------------------------------


@attack
def signal_the_canary(facts):
    os.kill(facts["canary"], signal.SIGTERM)


@attack
def stop_the_canary(facts):
    os.kill(facts["canary"], signal.SIGSTOP)


@attack
def signal_the_runner(facts):
    """0, which does nothing: a stopped runner would hold up the test."""
    os.kill(facts["runner"] or os.getppid(), 0)


@attack
def signal_by_child(facts):
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.kill(facts["canary"], signal.SIGTERM)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, "refused")


@attack
def signal_by_handle(facts):
    handle = call(434, facts["canary"], 0)
    call(424, handle, int(signal.SIGTERM), None, 0)


@attack
def signal_by_owner(facts):
    """The kernel sends SIGIO to whoever is named the owner of a descriptor."""
    import fcntl

    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, facts["canary"])
    fcntl.fcntl(reader, 10, int(signal.SIGTERM))
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writer, b"x")
    time.sleep(0.1)
    os.kill(facts["canary"], 0)


@attack
def signal_by_timer(facts):
    """A timer's signal goes to a thread of the same process, if the kernel looks."""
    event = struct.pack("QiiiI48x", 0, int(signal.SIGTERM), 4, facts["canary"], 0)
    call(222, 1, event, ctypes.byref(ctypes.c_int()))


@attack
def trace(facts):
    call(101, 16, facts["canary"], 0, 0)


@attack
def seize(facts):
    call(101, 0x4206, facts["canary"], 0, 0)


@attack
def read_memory(facts):
    vector(310, facts)


@attack
def write_memory(facts):
    vector(311, facts)


def vector(number, facts):
    room = ctypes.create_string_buffer(8)
    local = struct.pack("QQ", ctypes.addressof(room), 8)
    far = struct.pack("QQ", 0x1000, 8)
    try:
        call(number, facts["canary"], local, 1, far, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:  # it was allowed to look there, and nothing is there
            raise


@attack
def read_memory_file(facts):
    os.close(os.open(f"/proc/{facts['canary']}/mem", os.O_RDWR))


@attack
def read_environment(facts):
    return read(f"/proc/{facts['canary']}/environ") or read(f"/proc/{facts['canary']}/maps")


@attack
def take_descriptor(facts):
    return call(438, call(434, facts["canary"], 0), 0, 0)


@attack
def compare(facts):
    call(312, os.getpid(), facts["canary"], 0, 0, 0)


@attack
def advise(facts):
    room = struct.pack("QQ", 0, 4096)
    call(440, call(434, facts["canary"], 0), room, 1, 21, 0)


@attack
def lower_limits(facts):
    call(302, facts["canary"], resource.RLIMIT_CORE, struct.pack("QQ", 0, 0), None)


@attack
def renice(facts):
    os.setpriority(os.PRIO_PROCESS, facts["canary"], 19)


@attack
def renice_everyone(facts):
    """Of this user; 1 is what a polite program would ask for itself."""
    os.setpriority(os.PRIO_USER, os.getuid(), 1)
    os.kill(facts["canary"], 0)  # else it was a user of its own


@attack
def pin(facts):
    os.sched_setaffinity(facts["canary"], {min(os.sched_getaffinity(0))})


@attack
def reschedule(facts):
    os.sched_setscheduler(facts["canary"], os.SCHED_IDLE, os.sched_param(0))


@attack
def ioprio(facts):
    call(251, 1, facts["canary"], (3 << 13) | 7)


@attack
def make_victim_of_memory(facts):
    with open(f"/proc/{facts['canary']}/oom_score_adj", "w") as file:
        file.write("1000")


@attack
def move_pages(facts):
    call(279, facts["canary"], 0, 0, 0, 0, 0)


# more rights ------------------------------------------------------------------------------------------------------


@attack
def user_namespace(facts):
    call(272, NEW_USER)


@attack
def user_namespace_by_clone(facts):
    pid = call(56, NEW_USER | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@attack
def every_namespace(facts):
    """One by one: each may be had without the others."""
    last = None
    for bit in range(32):
        flag = 1 << bit
        if flag & (NEW_EVERYTHING | 0x80):
            try:
                call(272, flag)
            except OSError as error:
                last = error
            else:
                return hex(flag)
    raise last


@attack
def join_namespace(facts):
    call(308, os.open("/proc/self/ns/user", os.O_RDONLY), 0)


@attack
def clone3(facts):
    pid = call(435, struct.pack("8Q", NEW_USER, 0, 0, 0, 17, 0, 0, 0), 64)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@attack
def key_ring(facts):
    for number, arguments in ((248, (b"user\0", b"x\0", b"y", 1, -3)), (250, (0, -3, 1))):
        call(number, *arguments)


@attack
def perf(facts):
    os.close(call(298, struct.pack("II120x", 1, 128), facts["canary"], -1, -1, 0))


@attack
def bpf(facts):
    call(321, 0, struct.pack("IIII112x", 1, 4, 4, 1), 128)


@attack
def userfaultfd(facts):
    os.close(call(323, 1))


@attack
def io_uring(facts):
    os.close(call(425, 1, ctypes.create_string_buffer(120)))


@attack
def listen_to_others(facts):
    """What the kernel tells of the starts and ends of all processes."""
    import socket

    socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11).bind((os.getpid(), 1))


@attack
def personality(facts):
    call(135, 0x0040000)


@attack
def leave_filter(facts):
    """A filter above the one that holds cannot allow what that one refuses."""
    allow = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    room = ctypes.create_string_buffer(allow, len(allow))
    if libc.prctl(38, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3) or libc.prctl(
        22, ctypes.c_ulong(2), struct.pack("HxxxxxxQ", 1, ctypes.addressof(room))
    ):
        raise OSError(ctypes.get_errno(), "refused")
    call(272, NEW_USER)


# what outlives a run ----------------------------------------------------------------------------------------------


def live():
    """As somebody who does not want to end."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while time.monotonic() < BORN + LIFE:
        time.sleep(0.1)
    os._exit(0)


def run_chasers(count=6):
    for number in range(count):
        if os.fork() == 0:
            if number % 2:
                os.setsid()
            while time.monotonic() < BORN + LIFE:
                try:
                    if os.fork():
                        os._exit(0)
                except OSError:
                    continue
            os._exit(0)


def started():
    """A pipe by which a descendant says that it is where it wanted to be: `tell`, `wait`."""
    reader, writer = os.pipe()
    return (lambda: os.write(writer, b"!")), (lambda: os.read(reader, 1))


@attack
def chase(facts):
    run_chasers()
    time.sleep(0.1)


@attack
def chase_for_ever(facts):
    run_chasers()
    time.sleep(LIFE)


@attack
def leave_daemon(facts):
    tell, wait = started()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            tell()
            live()
        os._exit(0)
    wait()


@attack
def leave_hidden_daemon(facts):
    """No session, parent, environment, limits or open files in common with the run."""
    tell, wait = started()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_RTTIME, (1 << 40, 1 << 40))
            libc.prctl(4, 0, 0, 0, 0)  # not to be looked at
            tell()
            os.closerange(0, 64)
            code = f"import time; time.sleep({LIFE}) #{facts['marker']}"
            os.execve(sys.executable, [sys.executable, "-c", code], {})
        os._exit(0)
    wait()
    time.sleep(0.1)


@attack
def leave_sibling(facts):
    """A child of our parent's, which did not start it."""
    tell, wait = started()
    if call(56, PARENT | 17, 0, 0, 0, 0) == 0:
        os.setsid()
        tell()
        live()
    wait()


@attack
def leave_stopped(facts):
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.kill(os.getpid(), signal.SIGSTOP)
            live()
        os.waitpid(pid, os.WUNTRACED)


@attack
def leave_vforked(facts):
    """Its maker is held in the kernel for as long as it lives."""
    tell, wait = started()
    if os.fork() == 0:
        if call(56, VFORK | 17, 0, 0, 0, 0) == 0:
            os.setsid()
            tell()
            live()
        os._exit(0)
    wait()


@attack
def leave_job(facts):
    os.system(f"setsid sleep {int(LIFE)} >/dev/null 2>&1 &")


@attack
def leave_subreaper(facts):
    """Adopts in the runner's place."""
    tell, wait = started()
    if os.fork() == 0:
        os.setsid()
        libc.prctl(36, 1, 0, 0, 0)
        for _ in range(3):
            if os.fork() == 0:
                if os.fork() == 0:
                    live()
                os._exit(0)
        tell()
        live()
    wait()


@attack
def leave_unkillable_handlers(facts):
    tell, wait = started()
    if os.fork() == 0:
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                continue
        tell()
        live()
    wait()


@attack
def stop_the_gate(facts):
    """Stops whoever is between the agent and the runner, as far as they are in reach."""
    parent = os.getppid()
    if facts["confined"]:
        os.kill(parent, signal.SIGSTOP)
    else:
        raise OSError(errno.EPERM, "it would be the runner")


@attack
def linger(facts):
    """Says that it runs, and goes on, with a daemon."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            live()
        os._exit(0)
    os.wait()
    print("lingering", flush=True)
    live()


def rest(facts):
    return {"outcome": "done"}
