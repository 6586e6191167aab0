"""Wants the terminal of the person who runs it. Each function is an attack, and says what came of it."""

import errno
import fcntl
import functools
import os
import struct
import sys
import termios

STEAL = termios.TIOCSCTTY
TITLE = "\x1b]0;OWNED\x07"


def attack(function):
    @functools.wraps(function)
    def tried(facts):
        try:
            return {"outcome": "done", "got": function(facts)}
        except OSError as error:
            return {"outcome": errno.errorcode.get(error.errno, str(error))}

    return tried


def on_any(facts, action):
    """Tries it on every descriptor, and on the terminal by its names."""
    last = OSError(errno.ENOTTY, "no terminal")
    opened = list(range(16))
    for path in ("/dev/tty", facts["terminal"], f"/proc/{facts['runner'] or os.getppid()}/fd/0"):
        try:
            opened.append(os.open(path, os.O_RDWR | os.O_NOCTTY))
        except OSError as error:
            last = error
    for descriptor in opened:
        try:
            return action(descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EBADF):
                last = error
    raise last


@attack
def open_controlling(facts):
    os.close(os.open("/dev/tty", os.O_RDWR))


@attack
def open_by_path(facts):
    os.close(os.open(facts["terminal"], os.O_RDWR | os.O_NOCTTY))


@attack
def open_by_runner(facts):
    """What the runner has open, by its descriptors."""
    os.close(os.open(f"/proc/{facts['runner'] or os.getppid()}/fd/0", os.O_RDWR | os.O_NOCTTY))


@attack
def push_input(facts):
    """As if the person had typed it."""
    for letter in b"echo OWNED\n":
        fcntl.ioctl(0, termios.TIOCSTI, bytes([letter]))


@attack
def push_input_by_path(facts):
    on_any(facts, lambda descriptor: fcntl.ioctl(descriptor, termios.TIOCSTI, b"x"))


@attack
def console_selection(facts):
    on_any(facts, lambda descriptor: fcntl.ioctl(descriptor, 0x541C, b"\x03"))


@attack
def steal(facts):
    on_any(facts, lambda descriptor: fcntl.ioctl(descriptor, STEAL, 1))


@attack
def steal_in_own_session(facts):
    """Only who leads a session can have a terminal."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        status = 0
        try:
            os.setsid()
            on_any(facts, lambda descriptor: fcntl.ioctl(descriptor, STEAL, 1))
        except OSError as error:
            status = error.errno
        os.write(writer, bytes([status]))
        os._exit(0)
    status = os.read(reader, 1)[0]
    if status:
        raise OSError(status, "refused")


@attack
def new_terminal(facts):
    """A pair of its own is harmless: nobody looks at it."""
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    return os.ttyname(terminal), controller


@attack
def hang_up(facts):
    on_any(facts, lambda descriptor: fcntl.ioctl(descriptor, 0x5437))


@attack
def take_foreground(facts):
    on_any(facts, lambda descriptor: os.tcsetpgrp(descriptor, os.getpgrp()))


@attack
def change_settings(facts):
    """A terminal without echo is a person who cannot see what they type."""

    def change(descriptor):
        try:
            settings = termios.tcgetattr(descriptor)
            settings[3] &= ~termios.ECHO
            termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        except termios.error as error:
            raise OSError(error.args[0], "refused") from None

    on_any(facts, change)


@attack
def write_to_all(facts):
    """A title, to every terminal that is there."""
    written = []
    last = OSError(errno.ENOENT, "none")
    for path in [facts["terminal"], "/dev/tty", "/dev/console", *(f"/dev/pts/{n}" for n in range(8))]:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            last = error
            continue
        if path == facts["terminal"]:
            os.write(descriptor, TITLE.encode())
        os.close(descriptor)
        written.append(path)
    if not written:
        raise last
    return written


@attack
def read_passphrase(facts):
    """Asks in the person's name; standard input is not theirs."""
    sys.stderr.write("Passphrase: ")
    got = sys.stdin.read(64)
    if not got:
        raise OSError(errno.ENOTTY, "nobody is there")
    return got


def say_escapes(facts):
    print(TITLE + "printed")
    os.write(2, struct.pack("4s", b"\x1b[2J") + b"written\r\n")
    return {"outcome": TITLE + "\x1b]52;c;b3duZWQ=\x07\x9b2J\u202e"}
