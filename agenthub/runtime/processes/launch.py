"""Starting a program behind a gate, so that every cap holds before its first instruction.

The gate is a shell that reads one line from what will be the program's stdin and then becomes the program. While it
waits, the supervisor caps its resources from outside; then it enters its cgroup. So nothing of ours runs between fork
and exec (`preexec_fn` may deadlock in a program with threads), and the program inherits no descriptor of ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import resource
import subprocess

from agenthub.config import MB
from agenthub.errors import EnvironmentError
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agenthub.runtime.processes.limits import Limits

RUN_ID_VARIABLE = "AGENTHUB_RUN_ID"
OPEN_GATE = b"\n"
# Enters cgroups by itself: a single thread that moves itself takes no lock of the kernel's that takes 10 ms to get.
_GATE = """read -r AGENTHUB_GATE || exit 125
while [ "$1" != -- ]; do { echo 0 >&"$1"; } 2>/dev/null; eval "exec $1>&-"; shift; done
shift
exec "$@\""""
_HEADERS = (
    b"\x7fELF",
    b"\xcf\xfa\xed\xfe",  # Mach-O, 64 bits
    b"\xca\xfe\xba\xbe",  # Mach-O for several processors
)
_HIGHEST = 1 << 62
_LONGEST_CPU = 1e9  # seconds; the kernel counts in nanoseconds
_SHELLS_LAST = 9


class Launch(NamedTuple):
    """A program to run.

    Attributes:
        argv: program and arguments; a program without a slash is looked up in `env["PATH"]`, a relative one in `cwd`.
        env: its whole environment.
        cwd: its working directory.
        run_id: put into its environment as `AGENTHUB_RUN_ID`, by which its orphans are known.
        pass_fds: descriptors it inherits besides 0, 1 and 2.
        needs: files of agenthub's own that it reads.
        scratch: the directory that it may write, whose size counts; empty: none.
        record: a file that tells a later command whom to end, should the supervisor be killed; empty: none.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    run_id: str
    pass_fds: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    scratch: str = ""
    record: str = ""


def open_doors(doors: Iterable[str]) -> list[int]:
    """Opens the files by which cgroups are entered; those that cannot be are left out.

    As descriptors they can be used by a gate that may not open them, and that closes them. A shell knows only ten, so
    the lowest numbers are taken that there are.
    """
    opened: list[int] = []
    for door in doors:
        with contextlib.suppress(OSError):
            descriptor = os.open(door, os.O_WRONLY | os.O_CLOEXEC)
            opened.append(move_descriptor(descriptor, opened[-1] if opened else 2))
    return opened


def move_descriptor(descriptor: int, last: int) -> int:
    """Moves one that will be passed on to the lowest free number that is not next to `last`.

    `subprocess` closes the ranges between those that are passed on, and an empty range makes it close one by one.
    """
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, last + 2)
    os.close(descriptor)
    return moved


def start_gated(launch: Launch, doors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Starts the gate, in a session of its own, with three pipes. The program must have been checked.

    Args:
        launch: what to become.
        doors: descriptors of files of cgroups, to which the gate writes 0 to enter.

    Raises:
        EnvironmentError: no process can be made.
    """
    low = [door for door in doors if door <= _SHELLS_LAST]
    try:
        process = subprocess.Popen(
            ("/bin/sh", "-c", _GATE, "sh", *map(str, low), "--", *launch.argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=launch.cwd,
            env={**launch.env, RUN_ID_VARIABLE: launch.run_id},
            start_new_session=True,
            pass_fds=(*launch.pass_fds, *low),
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise EnvironmentError(f"cannot start {launch.argv[0]} in {launch.cwd}: {reason}") from None
    for door in set(doors).difference(low):
        with contextlib.suppress(OSError):
            os.write(door, str(process.pid).encode())
    return process


def check_program(program: str, env: Mapping[str, str], cwd: str) -> None:
    """Makes sure that the kernel can run `program`; a shell would read a damaged one as its own script.

    Raises:
        EnvironmentError: it is missing, not executable, no executable format, or its `#!` interpreter is missing.
    """
    if not os.path.isdir(cwd):
        raise EnvironmentError(f"cannot start {program}: its working directory {cwd} is missing")
    path = _find(program, env, cwd)
    if path is None:
        raise EnvironmentError(f"cannot start {program}: there is no such executable program")
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except PermissionError:  # executable though unreadable is fine for a binary
        return
    except OSError as error:
        raise EnvironmentError(f"cannot start {program}: {error.strerror}") from None
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        interpreter = os.fsdecode(words[0]) if words else ""
        named = os.fsdecode(words[1]) if len(words) > 1 and interpreter.endswith("/env") else ""
        for needed in (interpreter, named):
            if needed != "" and not needed.startswith("-") and _find(needed, env, cwd) is None:
                raise EnvironmentError(f"cannot start {program}: its interpreter {needed} is missing")
    elif not head.startswith(_HEADERS):
        raise EnvironmentError(f"cannot start {program}: it is damaged, or neither a program nor a `#!` script")


def _find(program: str, env: Mapping[str, str], cwd: str) -> str | None:
    if "/" in program:
        candidates = [os.path.join(cwd, program)]
    else:
        candidates = [os.path.join(cwd, folder, program) for folder in env.get("PATH", os.defpath).split(os.pathsep)]
    for path in candidates:
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def choose_mark(pid: int) -> int | None:
    """A mark for the run of a waiting gate: the value of a harmless limit, which descendants cannot raise.

    They need not know about it, so that orphans with a cleared environment are recognised. The run's tree is opened
    with it before `apply_rlimits` sets it: another run that ends meanwhile would take it for a stray of its own.

    Returns:
        None where limits of others cannot be set.
    """
    if not hasattr(resource, "prlimit"):
        return None
    try:
        hard = resource.prlimit(pid, resource.RLIMIT_RTTIME)[1]
    except ProcessLookupError:  # killed already; its end will be noticed
        return None
    return (_HIGHEST if hard == resource.RLIM_INFINITY else hard) - int.from_bytes(os.urandom(5), "big")


def apply_rlimits(pid: int, limits: Limits, mark: int | None) -> None:
    """Caps a waiting gate's resources, and marks it; every descendant inherits both."""
    if mark is None:
        return
    wanted: dict[int, int] = {resource.RLIMIT_CORE: 0}
    if (
        limits.memory is not None
    ):  # far above the cap, since reserved memory counts; it stops what polling is too late for
        wanted[resource.RLIMIT_DATA] = limits.memory + max(limits.memory // 2, 256 * MB)
    if limits.open_files is not None:
        wanted[resource.RLIMIT_NOFILE] = limits.open_files
    if limits.file_size is not None:
        wanted[resource.RLIMIT_FSIZE] = limits.file_size
    if limits.processes is not None and os.geteuid() != 0:  # counts all tasks of the user, and none of root's
        wanted[resource.RLIMIT_NPROC] = _tasks_of_user() + limits.processes
    try:
        for which, value in wanted.items():
            _cap(pid, which, value, value)
        if limits.cpu is not None:
            seconds = math.ceil(min(limits.cpu, _LONGEST_CPU))
            _cap(pid, resource.RLIMIT_CPU, seconds, seconds + 1)
        _cap(pid, resource.RLIMIT_RTTIME, mark, mark)
    except ProcessLookupError:  # killed already; its end will be noticed
        return


def _cap(pid: int, which: int, soft: int, hard: int) -> None:
    ceiling = resource.prlimit(pid, which)[1]
    if ceiling == resource.RLIM_INFINITY:
        ceiling = _HIGHEST
    resource.prlimit(pid, which, (min(soft, ceiling), min(hard, ceiling)))


def _tasks_of_user() -> int:
    user = os.getuid()
    tasks = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                status = os.stat(f"/proc/{name}/task")
            except OSError:  # ended meanwhile
                continue
            if status.st_uid == user:
                tasks += status.st_nlink - 2
    return tasks
