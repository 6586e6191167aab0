"""Loads an agent once, and forks a fresh process for each run.

`python worker.py CONTROL SWEEPS DIRECTORY KIND ENTRY [MODULE…]`. Standard library only. It runs inside the agent's
sandbox and is trusted by nobody: whoever started it holds the deadline, counts what a run takes, and looks from
outside whether anything of a run is left.

CONTROL is a SOCK_SEQPACKET socket. It says `{"ready": …}`, then takes one order at a time: a line of JSON,
`{"run_id", "cpu", "argued"}`, and the argument of a script, with the run's three descriptors and the end of a pipe, at
which the forked process waits for a byte. It answers `{"forked": true}`, and `{"status", "cpu", "peak", "modules"}`
when nothing of the run is left. SWEEPS says by what it may end all that it can reach: `namespace`, `domain` or nothing.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import signal
import socket
import sys

import host  # type: ignore[import-not-found]  # beside this file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_ORDER = 1 << 18
PR_SET_DUMPABLE = 4
# Libraries that say of themselves that they do not survive a fork once they are loaded.
UNSAFE_MODULES = ("polars", "tensorflow", "jax", "jaxlib", "grpc._cython.cygrpc", "ray")
HARMLESS = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/proc/")
DESCRIPTORS = 4
FORKED = b'{"forked": true}'


def preload(directory: str, kind: str, entry: str, modules: list[str]) -> None:
    """Imports what every run would import: the agent's module, or the libraries that its script uses."""
    import importlib

    if kind == "python":
        importlib.import_module(entry.partition(":")[0])
        return
    path = os.path.join(directory, entry)
    for name in script_imports(path) + modules:
        if not is_own(name, os.path.dirname(path)):
            try:
                importlib.import_module(name)
            except (Exception, SystemExit):  # noqa: S112 - the run will say so, if it needs it
                continue


def script_imports(path: str) -> list[str]:
    """The modules that a script imports at its top level."""
    import ast

    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def is_own(name: str, directory: str) -> bool:
    """Whether a module is the agent's own: it may look at its arguments when it is imported, so it waits for a run."""
    top = os.path.join(directory, name.partition(".")[0])
    return os.path.isdir(top) or os.path.isfile(top + ".py")


def why_unsafe(before: set[str]) -> str:
    """Why this process cannot be forked; empty where it can.

    Args:
        before: names of the descriptors that were open before anything was imported.
    """
    pid = os.fork()  # once: there are libraries that end their threads before each fork, and start others after it
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    if len(os.listdir("/proc/self/task")) > 1:
        return "it starts threads when it is imported"
    for name in UNSAFE_MODULES:
        if name in sys.modules:
            return "%s does not survive a fork" % name.partition(".")[0]
    for name in set(os.listdir("/proc/self/fd")).difference(before):
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        if not target.startswith(HARMLESS):  # its position and its state would be those that the run before left
            return "it keeps %s open when it is imported" % target
    torch = sys.modules.get("torch")
    if torch is not None and getattr(getattr(torch, "cuda", None), "is_initialized", bool)():
        return "it holds a GPU context"
    return ""


class Zygote:
    """The loaded agent; forks a fresh process for each run."""

    def __init__(self, control: socket.socket, sweeps: str, directory: str, kind: str, entry: str) -> None:
        self._control = control
        self._sweeps = sweeps
        self._directory = directory
        self._kind = kind
        self._entry = entry
        self._parent = os.getppid()
        self._set_dumpable = dumpable_setter()
        self._baseline = set(sys.modules)

    def serve(self) -> None:
        """One run after another, until the other end is closed."""
        shut = False
        while True:
            data, ancillary, _, _ = self._control.recvmsg(LARGEST_ORDER, socket.CMSG_SPACE(DESCRIPTORS * 4))
            if not data:
                return
            if not shut:  # only now: until the first run this process is looked at from outside
                self._set_dumpable(False)
                shut = True
            descriptors = array.array("i")
            for level, what, received in ancillary:
                if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS:
                    descriptors.frombytes(received[: len(received) - len(received) % descriptors.itemsize])
            self._serve_one(data, list(descriptors))

    def _serve_one(self, order: bytes, descriptors: list[int]) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reader)
                self._become_run(order, descriptors, writer)
            finally:
                os._exit(1)
        os.close(writer)
        for descriptor in descriptors:
            os.close(descriptor)
        self._control.send(FORKED)
        self._control.send(finish(pid, reader, self._sweeps, self._parent))

    def _become_run(self, order: bytes, descriptors: list[int], report: int) -> None:
        """In the forked process: the run itself."""
        self._control.close()
        os.setsid()
        gate = descriptors.pop()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        if not os.read(gate, 1):  # it is not wanted any more
            return
        os.close(gate)
        head, _, argument = order.partition(b"\n")
        known = json.loads(head)
        self._set_dumpable(True)
        limit_cpu(known["cpu"])
        reseed()
        os.environ["AGENTHUB_RUN_ID"] = known["run_id"]
        if self._kind == "python":
            os.chdir(os.environ["HOME"])
            host.answer(self._entry)
        told = argument.decode("ascii") if known["argued"] else None
        run_script(self._directory, self._entry, told, report, self._baseline)


def finish(pid: int, reader: int, sweeps: str, parent: int) -> bytes:
    """Waits for a run, ends what it left, and tells how it went."""
    _, status, usage = os.wait4(pid, 0)
    if sweeps == "namespace" or (sweeps == "domain" and is_scoped(parent)):
        sweep()
    os.set_blocking(reader, False)
    try:
        told = os.read(reader, 1 << 16)
    except BlockingIOError:
        told = b""
    os.close(reader)
    modules = [name for name in told.decode("utf-8", "replace").split("\n") if name]
    answer = {"status": status, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}
    return json.dumps({**answer, "modules": modules}).encode()


def is_scoped(parent: int) -> bool:
    """Whether signals reach this domain alone: not even the one who started this process, who is the same user."""
    if os.getppid() != parent:
        return False
    try:
        os.kill(parent, 0)
    except PermissionError:
        return True
    return False


def sweep() -> None:
    """Kills all that is left in this sandbox but this process itself."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:  # nobody is left that could be reached
            pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def limit_cpu(seconds: float | None) -> None:
    """As a second line: who holds the deadline counts too."""
    if seconds is None:
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    wanted = int(-(-min(seconds, 1e9) // 1))
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (wanted, wanted + 1))


def reseed() -> None:
    """Libraries that draw random numbers must not draw the same ones in each run; Python's own sees to itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


def run_script(directory: str, entry: str, argument: str | None, report: int, baseline: set[str]) -> None:
    """Runs a script as `python SCRIPT ARGUMENT` would, and tells which modules it has loaded."""
    os.chdir(directory)
    path = os.path.join(directory, entry)  # as the interpreter has it
    sys.argv[:] = [entry] if argument is None else [entry, argument]
    sys.path.insert(0, os.path.dirname(path))
    module = type(os)("__main__")
    module.__dict__.update(__file__=path, __builtins__=__builtins__, __cached__=None)
    sys.modules["__main__"] = module
    status = 0
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        exec(code, module.__dict__)  # noqa: S102 - this is what it is for
    except SystemExit as error:
        status = exit_status(error)
    except BaseException as error:
        show(error)
        status = 1
    status = end_as_interpreter(status)
    names = sorted(name for name in sys.modules if name not in baseline and name != "__main__")
    try:
        os.set_blocking(report, False)
        os.write(report, "\n".join(names).encode("utf-8", "replace")[: 1 << 16])
    except OSError:
        pass
    os._exit(status)


def exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def show(error: BaseException) -> None:
    import traceback

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def end_as_interpreter(status: int) -> int:
    """What the interpreter does at its end: waits for threads, calls exit functions, writes what is buffered."""
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        show(error)
        return status or 1
    return status


def dumpable_setter() -> Callable[[bool], None]:
    """Made once: a fork that loads a library takes long.

    A run must not reach into the memory of this process, of which the next run is a copy.
    """
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def set_dumpable(value: bool) -> None:
        prctl(PR_SET_DUMPABLE, int(value), 0, 0, 0)

    return set_dumpable


def main() -> None:
    number, sweeps, directory, kind, entry = sys.argv[1:6]
    modules = sys.argv[6:]
    control = socket.socket(fileno=int(number))
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != here]
    if kind == "python":
        host.prepare(directory)
    sys.argv[:] = [entry]
    del sys.modules["host"]  # the agent may have one of its own
    before = set(filter(is_open, os.listdir("/proc/self/fd")))
    problem = ""
    try:
        preload(directory, kind, entry, modules)
    except BaseException as error:
        show(error)
        problem = "it cannot be imported: %s" % host.text_of(error)
    unsafe = "" if problem else why_unsafe(before)
    zygote = Zygote(control, sweeps, directory, kind, entry)
    gc.collect()
    gc.freeze()
    flush()
    control.send(json.dumps({"ready": not (problem or unsafe), "problem": problem, "unsafe": unsafe}).encode())
    if not (problem or unsafe):
        nothing = os.open(os.devnull, os.O_RDWR)  # nobody reads any more what this process itself may write
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.close(nothing)
        zygote.serve()
    os._exit(0)


def is_open(name: str) -> bool:
    return os.path.lexists("/proc/self/fd/" + name)


def flush() -> None:
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (OSError, ValueError, AttributeError):  # the agent may have closed or replaced it
            continue


if __name__ == "__main__":
    main()
