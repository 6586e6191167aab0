"""Takes more than it may. Each function is an attack, and says what came of it."""

import contextlib
import errno
import functools
import mmap
import os
import signal
import socket
import sys
import threading
import time

MB = 1 << 20
SHORT = 10.0  # seconds after which an attack gives up


def attack(function):
    @functools.wraps(function)
    def tried(facts):
        try:
            return {"outcome": "done", "got": function(facts)}
        except OSError as error:
            return {"outcome": errno.errorcode.get(error.errno, str(error))}

    return tried


def nap():
    time.sleep(SHORT)


def children(count, work):
    """Starts processes that do `work` until they are killed."""
    for _ in range(count):
        if os.fork() == 0:
            try:
                work()
            finally:
                os._exit(0)


def spin(seconds=SHORT):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def fill(paths, size=4 * MB, count=48):
    """Writes `count` files of `size` bytes each; they stay."""
    data = bytes(range(256)) * (size // 256)
    for number in range(count):
        with open(paths % number, "wb") as file:
            file.write(data)
    return count * size


@attack
def memory_by_touching(facts):
    held = []
    end = time.monotonic() + SHORT
    while time.monotonic() < end:
        with contextlib.suppress(MemoryError):  # whoever is refused asks again
            held.append(bytearray(b"x") * MB)


@attack
def memory_by_forking(facts):
    def take():
        held = bytearray(os.urandom(MB)) * 40
        nap()
        return held

    children(6, take)
    nap()


@attack
def memory_shared_without_a_name(facts):
    held = []
    for _ in range(64):
        held.append(mmap.mmap(-1, 4 * MB))
        held[-1].write(b"x" * 4 * MB)
    nap()


@attack
def memory_in_anonymous_files(facts):
    held = []
    for _ in range(48):
        held.append(os.memfd_create("x"))
        os.write(held[-1], bytes(4 * MB))
    time.sleep(0.5)
    return len(held)


@attack
def memory_in_shm(facts):
    return fill(f"/dev/shm/{facts['marker']}-%d")


@attack
def memory_in_tmp(facts):
    return fill(f"/tmp/{facts['marker']}-%d")


@attack
def memory_in_sockets(facts):
    """What was sent and not received is in no process's memory."""
    held = []
    taken = 0
    for _ in range(24):
        pair = socket.socketpair()
        held.append(pair)
        for one in pair:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MB)
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += one.send(bytes(64 << 10))
    time.sleep(0.3)
    return taken


@attack
def memory_that_is_cache(facts):
    """No attack: what was read stays in memory as long as nobody else needs it, and is nobody's."""
    for number in range(48):
        with open(f"holes{number}", "wb") as file:
            file.truncate(4 * MB)
        with open(f"holes{number}", "rb") as file:
            while file.read(MB):
                pass


@attack
def cpu_in_many_processes(facts):
    children(4, spin)
    nap()


@attack
def cpu_in_orphans(facts):
    """None of them lives long, and nobody whom the agent started waits for them."""
    end = time.monotonic() + SHORT
    while time.monotonic() < end:
        pids = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                if os.fork() == 0:
                    spin(0.1)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        time.sleep(0.1)


@attack
def processes(facts):
    children(200, nap)
    nap()


@attack
def processes_in_sessions(facts):
    def leave():
        os.setsid()
        children(8, nap)

    children(8, leave)
    time.sleep(1)


@attack
def threads(facts):
    try:
        for _ in range(200):
            threading.Thread(target=nap, daemon=True).start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, "no thread") from None
    nap()


def open_files(facts):
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]


@attack
def open_files_without_error(facts):
    return open_files(facts)


@attack
def open_files_in_flight(facts):
    """Descriptors that are under way are in no process's table."""
    left, right = socket.socketpair()
    left.setblocking(False)
    for _ in range(1000):
        socket.send_fds(left, [b"x"], [os.open(os.devnull, os.O_RDONLY)] * 50)
        left, right = socket.socketpair()
        left.setblocking(False)
        socket.send_fds(left, [b"x"], [right.fileno()])


def large_file(facts):
    with open("large", "wb") as file:
        for _ in range(32):
            file.write(bytes(MB))


@attack
def large_file_without_error(facts):
    large_file(facts)


@attack
def large_file_by_allocation(facts):
    with open("large", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 64 * MB)


@attack
def disk_by_small_files(facts):
    for number in range(100_000):
        with open(f"small{number}", "wb") as file:
            file.write(b"x")
    nap()


@attack
def disk_by_empty_files(facts):
    """They take no block, but each takes an entry of a table that has a fixed size."""
    for number in range(300_000):
        os.close(os.open(f"empty{number}", os.O_WRONLY | os.O_CREAT))
    nap()


@attack
def disk_by_directories(facts):
    for _ in range(50_000):
        os.mkdir("deeper")
        os.chdir("deeper")
    nap()


@attack
def disk_by_holes(facts):
    """No attack: what was never written takes no room."""
    for number in range(50):
        with open(f"holes{number}", "wb") as file:
            file.truncate(4 * MB)
    time.sleep(0.2)


@attack
def disk_by_filled_holes(facts):
    """Written through memory, and not by `write`."""
    for number in range(16):
        with open(f"holes{number}", "w+b") as file:
            file.truncate(4 * MB)
            with mmap.mmap(file.fileno(), 4 * MB) as mapped:
                mapped.write(b"x" * 4 * MB)
                mapped.flush()
    nap()


@attack
def disk_by_deleted_files(facts):
    held = []
    for _ in range(32):
        held.append(os.open("gone", os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        os.unlink("gone")
        os.write(held[-1], bytes(MB))
        os.fsync(held[-1])
    nap()


def flood(write):
    end = time.monotonic() + SHORT
    while time.monotonic() < end:
        write("x" * 1000)


@attack
def output_by_print(facts):
    flood(print)


@attack
def output_by_stderr(facts):
    flood(lambda text: os.write(2, text.encode()))


@attack
def output_by_log(facts):
    import agenthub_agent

    flood(agenthub_agent.log)


def output_by_chunks(facts):
    while True:
        yield "x" * 1000


@attack
def output_by_children(facts):
    children(4, lambda: flood(lambda text: os.write(1, text.encode())))
    nap()


def result_too_large(facts):
    return {"outcome": "done", "got": "x" * 2 * MB}


@attack
def deadline_ignored(facts):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    nap()


@attack
def deadline_while_stopped(facts):
    children(3, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    os.kill(os.getpid(), signal.SIGSTOP)
    nap()


@attack
def deadline_in_children(facts):
    def stay():
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        nap()

    children(3, stay)
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nap()
