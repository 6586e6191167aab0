"""System call filters: what is refused, as data, and its translation into classic BPF.

A filter refuses what a run never needs, answers calls that are newer than this table as an older kernel would, and
allows the rest: which files and processes can be reached at all is the business of namespaces or Landlock.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from agenthub.runtime.sandbox.syscalls import NEWEST, Architecture
from agenthub.values import NamedTuple

_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _AND, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x45, 0x06
_X32 = 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_PART = 24  # instructions; a jump reaches 255
_LONGEST = 4096  # instructions, the kernel's maximum

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM, _SEQPACKET, _TYPE_MASK = 1, 2, 5, 0xF
_TCP, _FASTOPEN = 6, 0x20000000
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*, without CLONE_NEWTIME, which `clone` cannot be asked for
_NEW_TIME = 0x80
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# Requests by which a file system changes what was only opened for reading, by the byte that names their family.
_OF_FILE_SYSTEMS, _OF_SOME_FILE_SYSTEM = b"fvX", (0x94, 0xBC, 0xF5, *b"nr")
_FAMILY, _FAMILY_AND_DIRECTION = 0xFF00, 0xC000FF00
_ONLY_READING = 2  # direction; but for one that is misnamed
_FS_IOC_SET_ENCRYPTION_POLICY = 0x800C6613
_F_SETLEASE, _F_NOTIFY = 1024, 1026
_FILTER_FLAG_NEW_LISTENER = 0x8
_PERSONALITY_QUERY = 0xFFFFFFFF
_SET_UID = 0o4000
_CREATING = os.O_CREAT | 0o20000000  # O_TMPFILE's own bit

_GONE = errno.ENOSYS
_REFUSED = errno.EPERM
_PRETENDED = 0  # the call returns success and does nothing


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Match(NamedTuple):
    """A condition on the low half of one argument, which is all that the kernel reads of an int or of flags.

    Attributes:
        argument: its index.
        value: what it is compared with; with `any_bit`, the bits of which none may be set.
        mask: bits that are compared.
        any_bit: true where a bit of `value` is set, in place of where it equals `value`.
    """

    argument: int
    value: int
    mask: int = 0xFFFFFFFF
    any_bit: bool = False


class Rule(NamedTuple):
    """What happens to one call.

    Attributes:
        call: its name.
        error: errno that it returns; 0: it pretends to succeed.
        when: the error is returned if any of these alternatives holds, each a conjunction; (): always.
        unless: the error is returned if none of these holds.
    """

    call: str
    error: int = _REFUSED
    when: tuple[tuple[Match, ...], ...] = ()
    unless: tuple[tuple[Match, ...], ...] = ()


class Profile(NamedTuple):
    """What a filter is made for.

    Attributes:
        network: `none hosts any`.
        namespaces: whether the run has mount, pid, ipc and network namespaces of its own.
        exact_memory: whether memory that is not mapped counts too, so that it may be had.
        abi: of Landlock, where it takes the place of namespaces.
        kept: whether one run follows another in it, so that nothing may be made that outlives a process.
    """

    network: str
    namespaces: bool
    exact_memory: bool
    abi: int = 0
    kept: bool = False


def _all(names: str, error: int) -> tuple[Rule, ...]:
    return tuple(Rule(name, error) for name in names.split())


def _no_set_uid(call: str, mode: int, flags: int | None = None) -> Rule:
    """Keeps a call from making a program that runs as its owner, whoever starts it and however long after the run.

    Args:
        call: its name.
        mode: index of the argument that holds the file's mode.
        flags: index of the argument that says whether `mode` counts; None: it always does.
    """
    wanted: tuple[Match, ...] = (Match(mode, _SET_UID, any_bit=True),)
    if flags is not None:
        wanted = (Match(flags, _CREATING, any_bit=True), *wanted)
    return Rule(call, when=(wanted,))


_ALWAYS = (
    *_all("io_uring_setup io_uring_enter io_uring_register clone3 userfaultfd memfd_secret", _GONE),
    *_all("keyctl add_key request_key bpf perf_event_open fanotify_init fanotify_mark", _REFUSED),
    *_all("ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp", _REFUSED),
    *_all("mount umount2 pivot_root chroot setns mount_setattr move_mount open_tree statmount listmount", _REFUSED),
    *_all("fsopen fsconfig fsmount fspick name_to_handle_at open_by_handle_at lookup_dcookie", _REFUSED),
    *_all("swapon swapoff reboot kexec_load kexec_file_load acct quotactl quotactl_fd nfsservctl", _REFUSED),
    *_all("init_module finit_module delete_module create_module query_module get_kernel_syms", _REFUSED),
    *_all("settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname", _REFUSED),
    *_all("iopl ioperm modify_ldt uselib ustat sysfs _sysctl syslog vhangup move_pages migrate_pages", _REFUSED),
    Rule("unshare", when=((Match(0, _NEW_NAMESPACES | _NEW_TIME, any_bit=True),),)),
    Rule("clone", when=((Match(0, _NEW_NAMESPACES, any_bit=True),),)),
    Rule("personality", unless=((Match(0, 0),), (Match(0, _PERSONALITY_QUERY),))),
    Rule("ioctl", when=((Match(1, _TIOCSTI),), (Match(1, _TIOCLINUX),))),
    # Both work on files that can only be read: one holds up whoever opens them, the other watches.
    Rule("fcntl", when=((Match(1, _F_SETLEASE),), (Match(1, _F_NOTIFY),))),
    Rule("seccomp", when=((Match(0, 1), Match(1, _FILTER_FLAG_NEW_LISTENER, any_bit=True)),)),
    # A pair of datagram sockets can send to any socket that has a path, connected as it is.
    Rule(
        "socketpair",
        errno.EAFNOSUPPORT,
        unless=tuple((Match(0, AF_UNIX), Match(1, kind, _TYPE_MASK)) for kind in (_STREAM, _SEQPACKET)),
    ),
    *(_no_set_uid(call, 1) for call in ("chmod", "fchmod", "creat", "mknod")),
    *(_no_set_uid(call, 2) for call in ("fchmodat", "fchmodat2", "mknodat")),
    _no_set_uid("open", 2, flags=1),
    _no_set_uid("openat", 3, flags=2),
    Rule("openat2", _GONE),  # has its mode in memory, where a filter does not look
)
_UNCOUNTED_MEMORY = _all("memfd_create shmget", _GONE)
# Limits and priorities of others, and what an owner may make of a file that lasts and cannot be seen to be undone.
_ITS_OWN = (
    Rule("prlimit64", unless=((Match(0, 0),),)),
    *(Rule(name, unless=((Match(0, 0),),)) for name in ("sched_setaffinity", "sched_setattr", "sched_setparam")),
    Rule("sched_setscheduler", unless=((Match(0, 0),),)),
    Rule("setpriority", unless=((Match(0, 0), Match(1, 0)),)),
    Rule("ioprio_set", unless=((Match(0, 1), Match(1, 0)),)),
    Rule(
        "ioctl",
        when=(
            (Match(1, _FS_IOC_SET_ENCRYPTION_POLICY),),
            *(
                (Match(1, direction << 30 | family << 8, _FAMILY_AND_DIRECTION),)
                for family in _OF_FILE_SYSTEMS
                for direction in range(4)
                if direction != _ONLY_READING
            ),
        ),
    ),
    Rule("ioctl", errno.ENOTTY, when=tuple((Match(1, family << 8, _FAMILY),) for family in _OF_SOME_FILE_SYSTEM)),
)
_LASTING = (
    *_all("shmget semget msgget mq_open", _GONE),
    *_all("setxattr lsetxattr fsetxattr", errno.EOPNOTSUPP),
    *_ITS_OWN,
)
# Without namespaces the host's objects are in reach by number or by path.
_SHARED_HOST = (
    *_all("shmget shmat shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl", _GONE),
    *_all("mq_open mq_unlink", _GONE),
    *_all("inotify_add_watch", errno.EACCES),
    # Neither path nor descriptor says whether a file is the run's own. Refused, these would break `shutil.copy`.
    *_all("chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat", _PRETENDED),
    *_all("utime utimes futimesat utimensat", _PRETENDED),
    *_all("setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr", errno.EOPNOTSUPP),
    *_ITS_OWN,
)
_TCP_ONLY = tuple(
    (Match(0, family), Match(1, _STREAM, _TYPE_MASK), Match(2, protocol))
    for family in (AF_INET, AF_INET6)
    for protocol in (0, _TCP)
)
_INTERNET = tuple(
    (Match(0, family), Match(1, kind, _TYPE_MASK)) for family in (AF_INET, AF_INET6) for kind in (_STREAM, _DATAGRAM)
)
_ROUTES = ((Match(0, AF_NETLINK), Match(2, 0)),)  # how a program asks which addresses it has


def _network_rules(profile: Profile) -> tuple[Rule, ...]:
    if profile.network == "any":
        # In the host's network namespace abstract sockets of the host are in reach.
        return (Rule("socket", errno.EAFNOSUPPORT, unless=(*_INTERNET, *_ROUTES)),)
    own = ((Match(0, AF_UNIX),),) if profile.namespaces else ()
    if profile.network == "none":
        return (Rule("socket", errno.EAFNOSUPPORT, unless=own),)
    if profile.namespaces:
        return (Rule("socket", errno.EAFNOSUPPORT, unless=(*_INTERNET, *own)),)
    return (
        Rule("socket", errno.EAFNOSUPPORT, unless=_TCP_ONLY),
        *_all("bind listen accept accept4", _REFUSED),
        Rule("sendto", when=((Match(3, _FASTOPEN, any_bit=True),),)),
        Rule("sendmsg", when=((Match(2, _FASTOPEN, any_bit=True),),)),
        Rule("sendmmsg", when=((Match(3, _FASTOPEN, any_bit=True),),)),
    )


def rules(profile: Profile) -> tuple[Rule, ...]:
    """Everything that a filter for `profile` refuses."""
    found = _ALWAYS + _network_rules(profile)
    if not profile.exact_memory:
        found += _UNCOUNTED_MEMORY
    if profile.kept and profile.namespaces:
        found += _LASTING
    if not profile.namespaces:
        found += _SHARED_HOST
        if profile.abi < 3:  # Landlock does not know truncation by path yet
            found += _all("truncate", _REFUSED)
    return found


def assemble(found: tuple[Rule, ...], architecture: Architecture | None = None) -> bytes:
    """A filter in classic BPF, as the kernel takes it.

    Args:
        found: what is refused; all else is allowed.
        architecture: whose numbers; by default this machine's.

    Raises:
        ValueError: the architecture is not known.
    """
    architecture = architecture or Architecture()
    code = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, 0),  # the number
        (_JUMP_ABOVE, 0, 1, NEWEST),
        (_RETURN, 0, 0, _ERRNO | _GONE),  # x32 numbers too, which start at 1 << 30
    ]
    grouped: dict[int, list[Rule]] = {}
    for rule in found:
        number = architecture.number(rule.call)
        if number is not None:
            grouped.setdefault(number, []).append(rule)
    for part in _parts(grouped):
        code += part
    code.append((_RETURN, 0, 0, _ALLOW))
    assert len(code) <= _LONGEST
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _parts(grouped: dict[int, list[Rule]]) -> Iterator[_Code]:
    """Code for a few calls each, behind a jump for numbers above them: the kernel tries a new filter on every call."""
    part: _Code = []
    last = 0
    for number in sorted(grouped):
        body = [instruction for rule in grouped[number] for instruction in _body(rule)]
        if grouped[number][-1].when:  # past it the accumulator holds an argument, and no longer the number
            body.append((_RETURN, 0, 0, _ALLOW))
        part += [(_JUMP_EQUAL, 0, len(body), number), *body]
        last = number
        if len(part) > _PART:
            yield [(_JUMP_ABOVE, len(part), 0, last), *part]
            part = []
    yield [(_JUMP_ABOVE, len(part), 0, last), *part]


_Code = list[tuple[int, int, int, int]]


def _body(rule: Rule) -> _Code:
    """Returns the error or falls through its own end; the last alternative of `unless` ends in an error."""
    error = (_RETURN, 0, 0, _ERRNO | rule.error)
    if rule.when:
        return [instruction for tests in rule.when for instruction in _conjunction(tests, error)]
    allow = (_RETURN, 0, 0, _ALLOW)
    return [*(instruction for tests in rule.unless for instruction in _conjunction(tests, allow)), error]


def _conjunction(tests: tuple[Match, ...], answer: tuple[int, int, int, int]) -> _Code:
    """Returns `answer` where all tests hold, else goes on behind it."""
    code: _Code = [answer]
    for test in reversed(tests):
        away = len(code)
        jump = [(_JUMP_SET if test.any_bit else _JUMP_EQUAL, 0, away, test.value)]
        if test.mask != 0xFFFFFFFF:
            jump.insert(0, (_AND, 0, 0, test.mask))
        code = [(_LOAD, 0, 0, 16 + 8 * test.argument), *jump, *code]
    return code


_made: dict[Profile, bytes] = {}


def make_filter(profile: Profile) -> bytes:
    """The filter for a profile, made once.

    Raises:
        ValueError: this machine's architecture is not known.
    """
    if profile not in _made:
        _made[profile] = assemble(rules(profile))
    return _made[profile]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid_new_privileges() -> None:
    """For this thread and what it starts: set-uid programs and file capabilities give nothing.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def install(program: bytes) -> None:
    """Puts this thread, and what it starts, under a filter. New privileges must be forbidden already.

    Raises:
        OSError: the kernel refused.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    _prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(header))


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *padded) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
