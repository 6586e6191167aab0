"""Looks for what is in the variables of others, and sets its own. Each function is one attack."""

import ctypes
import errno
import functools
import os
import subprocess
import sys

WORD = "kept" + "-secret-"  # what every secret of these tests begins with
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def attack(function):
    """Makes `outcome` of what a function does: `done`, or the name of the errno that stopped it."""

    @functools.wraps(function)
    def attempt(facts):
        try:
            return {"outcome": "done", "got": function(facts)}
        except OSError as error:
            return {"outcome": errno.errorcode.get(error.errno, repr(error))}

    return attempt


def nothing():
    raise OSError(errno.ENOENT, "there is nothing to be had")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def secrets_in(data):
    return [part.decode(errors="replace")[:200] for part in data.split(b"\0") if WORD.encode() in part]


def others(name):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            try:
                found += secrets_in(read(f"/proc/{pid}/{name}"))
            except OSError:
                continue
    return found or nothing()


@attack
def own_environment(facts):
    return secrets_in(b"\0".join(f"{name}={value}".encode() for name, value in os.environ.items())) or nothing()


@attack
def environment_of_parent(facts):
    return secrets_in(read(f"/proc/{os.getppid()}/environ")) or nothing()


@attack
def environment_of_canary(facts):
    return secrets_in(read(f"/proc/{facts['canary']}/environ")) or nothing()


@attack
def environment_of_every_process(facts):
    return others("environ")


@attack
def arguments_of_every_process(facts):
    return others("cmdline")


@attack
def memory_of_parent(facts):
    parent = os.getppid()
    found = []
    with open(f"/proc/{parent}/maps") as maps, open(f"/proc/{parent}/mem", "rb", 0) as memory:
        for line in maps:
            if "[heap]" in line or "[stack]" in line:
                start, end = (int(number, 16) for number in line.split()[0].split("-"))
                memory.seek(start)
                found += secrets_in(memory.read(end - start))
    return found or nothing()


@attack
def stack_of_parent(facts):
    """process_vm_readv needs no file."""
    room = ctypes.create_string_buffer(16)
    mine = (ctypes.c_size_t * 2)(ctypes.addressof(room), 16)
    theirs = (ctypes.c_size_t * 2)(id(None), 16)
    if libc.process_vm_readv(os.getppid(), mine, 1, theirs, 1, 0) < 0:
        number = ctypes.get_errno()
        if number != errno.EFAULT:  # which says that it may look, only not there
            raise OSError(number, "refused")


@attack
def passphrase(facts):
    return os.environ.get("AGENTHUB_SECRETS_PASSPHRASE") or nothing()


@attack
def secret_by_the_command(facts):
    """agenthub itself is in reach of its own code, with the store."""
    for name in ("secrets.json", "secrets.key"):
        path = os.path.join(facts["store"], name)
        if os.path.exists(path):
            return read(path).decode()
    return nothing()


@attack
def keyring_of_kernel(facts):
    """Keys of the user's session, where desktops keep passwords of disks and network shares."""
    session, get_id = -3, 0
    if libc.syscall(250, get_id, session, 0) < 0:
        raise OSError(ctypes.get_errno(), "refused")


# for others


@attack
def loader_of_next_run(facts):
    with open("/etc/ld.so.preload", "a"):  # and writes nothing: it is everybody's
        pass


@attack
def settings_of_next_run(facts):
    with open(os.path.join(facts["store"], "config.toml"), "w") as file:
        file.write('sandbox = "off"\n')


@attack
def project_file(facts):
    with open(os.path.join(facts["outside"], "agenthub.toml"), "w") as file:
        file.write('timeout = "0"\n')


@attack
def startup_of_shells(facts):
    for name in (".bashrc", ".profile", ".config/environment.d/x.conf"):
        path = os.path.join(facts["home"], name)
        if os.path.isdir(os.path.dirname(path)):
            with open(path, "a") as file:
                file.write("export LD_PRELOAD=/tmp/evil.so\n")
            return name
    return nothing()


@attack
def preload_for_children(facts):
    """What it sets reaches its own children, and nobody else."""
    code = "import os; print(os.environ['HOSTILE_SET'])"
    os.environ["HOSTILE_SET"] = facts["marker"]
    libc.setenv(b"LD_PRELOAD", b"/nowhere.so", 1)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert done.stdout.decode().strip() == facts["marker"]


def variables():
    return dict(os.environ)
