"""A worker: an agent's process, loaded and waiting in its sandbox, that forks a fresh process for each run.

It runs the agent's own code and is not believed. What it is asked, what a run takes and how long, and whether anything
of a run is left, is seen to from here; whatever is odd ends the whole worker, and the next run is a cold one.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple

from agenthub.errors import AgentRuntimeError
from agenthub.manifest import AgentManifest
from agenthub.runtime.process_manager import exchange_of, interpreter_of, outcome_of
from agenthub.runtime.processes.cgroups import make_cgroup
from agenthub.runtime.processes.delivery import Delivery
from agenthub.runtime.processes.disk_use import DiskUse
from agenthub.runtime.processes.kill import Reaped, kill_tree
from agenthub.runtime.processes.launch import (
    OPEN_GATE,
    Launch,
    apply_rlimits,
    check_program,
    choose_mark,
    open_doors,
    start_gated,
)
from agenthub.runtime.processes.lines import Log
from agenthub.runtime.processes.process_tree import open_tree, shares_memory
from agenthub.runtime.processes.remains import remove_record, write_record
from agenthub.runtime.processes.run_environment import run_environment
from agenthub.runtime.processes.subreaper import Subreaper
from agenthub.runtime.processes.watch import Watch
from agenthub.runtime.workers.places import Places, make_places, places
from agenthub.runtime.workers.run import NotBegunError, WarmRequest, WarmRun
from agenthub.runtime.workers.stillness import Stillness

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection, Mapping, Sequence

    from agenthub.runtime.processes.cgroups import Cgroup
    from agenthub.runtime.processes.confined import Confinement
    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.processes.process_tree import ProcessTree

_WORKER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "agent_side", "worker.py")
_FIRST_CONTROL = 40  # out of the way of the gate, of bubblewrap, and of what a run inherits
_LONGEST_WORD = 1 << 18
_SPARE_TASKS = 512  # how many more of the same user's may come while it lives
NAMESPACE, DOMAIN = "namespace", "domain"


class WorkerSpec(NamedTuple):
    """What a worker is started with; a run that needs anything else runs cold.

    Attributes:
        directory: the agent's.
        manifest: the agent's.
        python: the interpreter of its environment.
        inherited: the environment of whoever started it, of which the allowed part is passed on.
        variables: as for `ProcessManager.execute_agent`.
        limits: those that hold while it is loaded, of which the kernel holds some for all that it forks.
        sweeps: whether the worker itself may kill all that it can reach, because that is its own sandbox: `NAMESPACE`,
            `DOMAIN` (of Landlock), or empty.
        modules: what a script was seen to load.
    """

    directory: str
    manifest: AgentManifest
    python: str
    inherited: Mapping[str, str]
    variables: Mapping[str, str]
    limits: Limits
    sweeps: str
    modules: tuple[str, ...] = ()


class NotLoadedError(AgentRuntimeError):
    """The agent cannot be kept loaded; runs are cold."""


class Worker:
    """Starts with `start`, serves with `run`, ends with `close`. One run at a time.

    Args:
        spec: what is loaded.
        base: a directory of its own, in which `places` are made and made empty again after each run.
        confinement: what holds it; its policy names these places.
    """

    def __init__(self, spec: WorkerSpec, base: str, confinement: Confinement) -> None:
        self.spec = spec
        self.alive = False
        self.modules: tuple[str, ...] = ()
        """What runs were seen to load beside what was loaded already."""
        self.base = base
        self.kept_bytes = 0
        self._scratch = places(base)[0]
        self._confinement = confinement
        self.isolation = confinement.isolation
        self.control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._room = memoryview(bytearray(_LONGEST_WORD))  # allocated once: so much takes the kernel's help each time
        self.root = 0
        self.tree: ProcessTree
        self.cgroup: Cgroup | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._zygote = 0
        self._places: Places | None = None
        self._stillness: Stillness | None = None
        self._subreaper = Subreaper()
        self._held = False
        self.reaped = Reaped()

    # its life -----------------------------------------------------------------------------------------------

    def start(self, timeout: float) -> None:
        """Starts it, and waits until the agent is loaded.

        Raises:
            NotLoadedError: the agent cannot be imported, or is not safe to fork.
            EnvironmentError: it cannot be started.
        """
        spec = self.spec
        entry = spec.manifest.entrypoint
        python, venv = interpreter_of(spec.directory, spec.python)
        run_id = os.urandom(8).hex()
        make_places(self.base)
        self._subreaper.__enter__()
        self._held = True
        with self._theirs:
            control = fcntl.fcntl(self._theirs.fileno(), fcntl.F_DUPFD, _FIRST_CONTROL)
        try:
            launch = Launch(
                argv=(
                    *(python, _WORKER, str(control), spec.sweeps, spec.directory),
                    *(entry.kind, entry.target, *spec.modules),
                ),
                env=run_environment(spec.inherited, self._scratch, venv, spec.variables),
                cwd=self._scratch if entry.kind == "python" else spec.directory,
                run_id=run_id,
                pass_fds=(control,),
                needs=(os.path.dirname(_WORKER),),
                scratch=self.base,
                record=f"{self.base}.run",
            )
            self._launch(launch)
        finally:
            os.close(control)
        self._await_ready(timeout)

    def _launch(self, launch: Launch) -> None:
        limits = self.spec.limits
        check_program(launch.argv[0], launch.env, launch.cwd)
        if limits.processes is not None:  # and the worker itself
            limits = limits._replace(processes=limits.processes + 1)
        held = (
            limits
            if limits.processes is None
            else limits._replace(processes=limits.processes + self._confinement.tasks)
        )
        self.cgroup = make_cgroup(held.memory, held.processes)
        doors = open_doors(self.cgroup.doors if self.cgroup is not None else ())
        try:
            prepared = self._confinement.prepare(launch, limits, exact_memory=bool(doors))
            self._process = self._confinement.spawn(lambda: start_gated(prepared, doors))
        finally:
            for door in doors:
                os.close(door)
        pid = self.root = self._process.pid
        if held.processes is not None:
            held = held._replace(processes=held.processes + _SPARE_TASKS)
        mark = choose_mark(pid)
        self.tree = open_tree(pid, launch.run_id, mark)
        apply_rlimits(pid, held._replace(cpu=None), mark)  # its own time is that of all its runs together
        write_record(launch.record, pid, mark, launch.run_id)
        assert self._process.stdin is not None
        self._process.stdin.write(OPEN_GATE)
        self._process.stdin.close()

    def _await_ready(self, timeout: float) -> None:
        words = self._listen(timeout)
        answer = self.word()
        if answer.get("ready") is not True:
            killed = self.cgroup is not None and self.cgroup.oom_killed()
            ended = "it exceeds its limit `memory` while it is imported" if killed else "it ended while being imported"
            reason = answer.get("unsafe") or answer.get("problem") or ended
            raise NotLoadedError(str(reason)[:500], details=words.decode("utf-8", "replace").splitlines()[-20:])
        helpers = set(self._confinement.helpers())
        living = [member for member in self.tree.scan() if not member.zombie]
        found = [member for member in living if member.pid not in helpers]
        if len(found) != 1:
            raise NotLoadedError("it starts processes when it is imported")
        if found[0].tasks != 1:
            raise NotLoadedError("it starts threads when it is imported")
        if shares_memory(found[0].pid):
            raise NotLoadedError("it shares memory with what it starts when it is imported")
        try:
            self._places = Places(self.base)
        except (OSError, ValueError) as error:
            raise NotLoadedError(f"what it writes when it is imported cannot be kept: {error}") from None
        self.kept_bytes = DiskUse(self.base, None).measure()
        self._zygote = found[0].pid
        with suppress(OSError):
            self._stillness = Stillness([member.pid for member in living])
        self.alive = True

    def _listen(self, timeout: float) -> bytes:
        """Waits for its first word, takes what it prints meanwhile, and holds it to its limits; returns the print."""
        assert self._process is not None
        deadline = time.monotonic() + timeout
        control = self.control.fileno()
        pipes = [file.fileno() for file in (self._process.stdout, self._process.stderr) if file is not None]
        disk = DiskUse(self.base, self.spec.limits.disk)
        watch = Watch(self.tree, self.root, self.spec.limits, self.cgroup, disk, self._confinement.helpers)
        words = b""
        while time.monotonic() < deadline:
            wait = min(watch.due, deadline) - time.monotonic()
            ready, _, _ = select.select([control, *pipes], [], [], max(0.0, wait))
            for pipe in [pipe for pipe in pipes if pipe in ready]:
                said = os.read(pipe, 65536)
                words = (words + said)[-8192:]
                if not said:
                    pipes.remove(pipe)
            if control in ready:
                return words
            if time.monotonic() >= watch.due and (reason := watch.poll()) is not None:
                raise NotLoadedError(f"it exceeds its limit `{reason}` while it is imported")
        raise NotLoadedError(f"it was still being imported after {timeout:g} s")

    def word(self) -> dict[str, Any]:
        """What it has said; empty where that is nothing sensible, or nothing."""
        try:
            size = self.control.recv_into(self._room, 0, socket.MSG_DONTWAIT)
            answer = json.loads(bytes(self._room[:size]))
        except (OSError, ValueError, RecursionError):
            return {}
        return answer if isinstance(answer, dict) else {}

    def fileno(self) -> int:
        """Readable once the worker has ended by itself."""
        return self.control.fileno()

    def close(self) -> None:
        """Ends it; nothing of it is left."""
        self.alive = False
        self.control.close()
        self._theirs.close()
        if self._stillness is not None:
            self._stillness.close()
        process = self._process
        survivors = False
        if process is not None:
            self._confinement.kill()
            if self.root:
                survivors = not kill_tree(self.tree, self.root, self.cgroup, self.reaped)
            for file in (process.stdin, process.stdout, process.stderr):
                if file is not None:
                    file.close()
            if process.poll() is None and not survivors:
                process.kill()
                process.wait()
            process.returncode = process.returncode or 0
        if not survivors:
            remove_record(f"{self.base}.run")
        if self.cgroup is not None:
            self.cgroup.remove()
        self._confinement.close()
        if self._held:
            self._subreaper.__exit__(None, None, None)

    @property
    def scratch(self) -> str:
        """HOME and TMPDIR of its runs."""
        return self._scratch

    def others(self) -> Collection[int]:
        """The pids that are no run's: the loaded process, and what holds it."""
        return {*self._confinement.helpers(), self._zygote}

    def is_quiet(self) -> bool:
        """Whether nothing is there but the loaded process, which says and does nothing."""
        return (self.is_alone() or self._seems_alone()) and not select.select([self.control], [], [], 0)[0]

    def is_alone(self) -> bool:
        """Whether nobody but the loaded process is there for certain; False where that takes a closer look."""
        return self._stillness is not None and self._stillness.holds()

    def _seems_alone(self) -> bool:
        others = self.others()
        members = [member for member in self.tree.scan() if not member.zombie]
        return all(member.pid in others and (member.pid != self._zygote or member.tasks == 1) for member in members)

    def cpu(self) -> float | None:
        """Seconds that all of it has used so far; None where that takes a closer look."""
        try:
            return None if self._stillness is None else self._stillness.cpu()
        except (OSError, IndexError):  # one of them is gone
            return None

    @property
    def memory(self) -> int:
        """Bytes that the loaded process holds while it waits."""
        helpers = set(self._confinement.helpers())
        return self.tree.memory([member for member in self.tree.scan() if member.pid not in helpers])

    # a run ---------------------------------------------------------------------------------------------------

    def run(
        self,
        request: WarmRequest,
        admit: Callable[[], bool],
        *,
        on_log: Callable[[str, str], None] | None = None,
        on_chunk: Callable[[Any], None] | None = None,
        on_progress: Callable[[float | None, str], None] | None = None,
        stops: Sequence[int] = (),
    ) -> dict[str, Any]:
        """Runs one method in a fresh fork; returns what `ProcessManager.execute_agent` does. `tidy` is to follow.

        Args:
            request: the run.
            admit: called once its process stands ready, and before it does anything; whether it is still wanted.
            on_log, on_chunk, on_progress: as for `ProcessManager.execute_agent`.
            stops: descriptors that become readable when the run is to be stopped.

        Raises:
            NotBegunError: it was not begun, and nothing has happened.
        """
        manifest = self.spec.manifest
        delivery = Delivery()
        log = Log(delivery.through(on_log))
        try:
            exchange, argument = exchange_of(
                manifest,
                request.method,
                dict(request.arguments),
                log,
                request.limits,
                delivery.through(on_chunk),
                delivery.through(on_progress),
                request.tool_context,
                request.watch_network,
            )
        except AgentRuntimeError as error:
            raise NotBegunError(error.message) from None
        if len(exchange.request) > request.limits.result:
            raise NotBegunError("its input is too large")
        run = WarmRun(self, request, exchange, log, argument, stops, delivery)
        try:
            run.begin()
            if not _is_admitted(admit):
                run.take_back()
                raise NotBegunError("nobody wants it any more")
            run.let_go()
            run.loop()
            completion = run.conclude()
            delivery.finish()
        except NotBegunError:
            raise
        except BaseException:
            self.alive = False
            raise
        finally:
            run.close()
            delivery.close()
        return outcome_of(manifest.name, self.spec.directory, completion, exchange, request.limits)

    def tidy(self) -> None:
        """After a run: removes what it wrote; a worker that cannot be made as new is not `alive` any more."""
        if self._places is None or not (self._places.are_untouched() or self._places.make_empty()):
            self.alive = False

    def note_begin(self) -> None:
        """A run begins: what it writes from now on shows."""
        if self._places is not None:
            self._places.note_begin()

    def wrote_nothing(self) -> bool:
        """Whether a run that has ended left no trace where it may write; False where that takes a closer look."""
        return self._places is not None and self._places.are_untouched()


def _is_admitted(admit: Callable[[], bool]) -> bool:
    try:
        return admit()
    except OSError:
        return False
