"""Looks for what is open, and for ways out by descriptors. Each function is an attack, and says what came of it."""

import ctypes
import errno
import functools
import os
import socket
import struct
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


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


def secret(facts):
    """A file that the run may not read, from the root."""
    return facts["home"].strip("/") + "/notes.txt"


def read(path, **options):
    with open(path, "rb", **options) as file:
        return file.read(64).decode()


def read_at(directory, path):
    descriptor = os.open(path, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 64).decode()
    finally:
        os.close(descriptor)


def kinds():
    """What each descriptor is, without the numbers of pipes; those of the listing itself are gone by then."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}").partition(":[")[0]
        except OSError:
            continue
    return found


@attack
def list_open(facts):
    return sorted(kinds().items())


@attack
def list_open_in_child(facts):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import agent; print(len(agent.kinds()))"
    words = [sys.executable, "-c", code, os.path.dirname(__file__)]
    return int(subprocess.run(words, stdout=subprocess.PIPE, close_fds=False).stdout)


@attack
def read_inherited(facts):
    """What the command was started with, and did not close."""
    last = OSError(errno.EBADF, "none")
    for descriptor in range(3, 256):
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            return os.read(descriptor, 64).decode()
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ESPIPE):
                last = error
    raise last


@attack
def read_standard_input(facts):
    got = os.read(0, 64)
    if not got:
        raise OSError(errno.ENODATA, "its end")
    return got.decode()


@attack
def leave_by_working_directory(facts):
    return read("../" * 32 + secret(facts))


@attack
def leave_by_root(facts):
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.fchdir(root)
    return read_at(root, secret(facts))


@attack
def leave_by_process_root(facts):
    """Other processes may have another root."""
    last = None
    for pid in ("self", "thread-self", "1", str(os.getppid()), str(facts["tests"]), str(facts["canary"])):
        for place in ("root", "cwd"):
            try:
                return read(f"/proc/{pid}/{place}/" + "../" * 32 * (place == "cwd") + secret(facts))
            except OSError as error:
                last = error
    raise last


@attack
def leave_by_runner(facts):
    """The directories that the runner has open."""
    last = OSError(errno.ENOENT, "nobody")
    for pid in {os.getppid(), facts["tests"], facts["canary"]}:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                os.close(os.open(f"/proc/{pid}/fd/{name}", os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            last = error
        else:
            return pid
    raise last


@attack
def leave_by_own_links(facts):
    """By links that the kernel follows without looking at the path."""
    os.symlink("/" + secret(facts), "link")
    os.symlink("/proc/self/cwd/link", "second")
    return read("/dev/fd/../cwd/second")


@attack
def leave_by_openat2(facts):
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    return os.read(call(437, directory, ("../" * 32 + secret(facts)).encode(), how, 24), 64).decode()


@attack
def leave_by_path_descriptor(facts):
    """A descriptor for a path only, which needs no right to the file, opened again."""
    place = os.open("/" + secret(facts), os.O_PATH)
    return read(f"/proc/self/fd/{place}")


@attack
def leave_by_moving(facts):
    """A directory that is moved away under somebody who stands in it."""
    os.makedirs("deep/er/still")
    inner = os.open("deep/er/still", os.O_RDONLY | os.O_DIRECTORY)
    os.rename("deep/er/still", "still")
    os.rmdir("deep/er")
    return read_at(inner, "../" * 32 + secret(facts))


@attack
def leave_by_mapping(facts):
    """A file that is mapped, by its addresses."""
    name = os.listdir("/proc/self/map_files")[0]
    os.close(os.open(f"/proc/self/map_files/{name}", os.O_RDWR))


@attack
def leave_by_handle(facts):
    """By number of the inode, past all directories."""
    place = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    handle = struct.pack("IiQ", 8, 1, 2)
    os.close(call(304, place, handle, os.O_RDONLY))


@attack
def reopen_pipe(facts):
    """A pipe to write to, opened anew to read from: one's own output."""
    descriptor = os.open("/proc/self/fd/2", os.O_RDONLY | os.O_NONBLOCK)
    os.close(descriptor)


@attack
def reopen_runner_pipe(facts):
    """The runner's own ends of the pipes, with what other runs say."""
    for descriptor in range(64):
        os.close(os.open(f"/proc/{os.getppid()}/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK))


@attack
def send_to_listener(facts):
    """A descriptor of ours to somebody outside."""
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(facts["unix"])
        socket.send_fds(made, [b"x"], [os.open(".", os.O_RDONLY)])


@attack
def send_among_own(facts):
    """No attack: within a run descriptors may be passed."""
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [os.open(__file__, os.O_RDONLY)])
    return len(socket.recv_fds(right, 1, 1)[1])


@attack
def send_to_later_run(facts):
    """Waits for a later run at a socket of an abstract name, with an open directory."""
    made = socket.socket(socket.AF_UNIX)
    made.bind("\0" + facts["marker"] + "-meeting")
    made.listen()
    if os.fork() == 0:
        os.setsid()
        while True:
            other = made.accept()[0]
            socket.send_fds(other, [b"x"], [os.open(".", os.O_RDONLY)])


@attack
def receive_in_later_run(facts):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("\0" + facts["marker"] + "-meeting")
        return len(socket.recv_fds(made, 1, 1)[1])


@attack
def anonymous_program(facts):
    """A program without a name, from memory."""
    memory = os.memfd_create("x")
    os.write(memory, b"#!/bin/sh\ntrue\n")
    os.execve(memory, ["x"], {}) if os.fork() == 0 else os.wait()
