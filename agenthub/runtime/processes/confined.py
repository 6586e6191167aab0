"""What the supervisor asks of whatever holds a run in its place."""

from __future__ import annotations

from agenthub.values import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection

    from agenthub.errors import AgentRuntimeError
    from agenthub.runtime.processes.launch import Launch
    from agenthub.runtime.processes.limits import Limits


class Confinement(Protocol):
    """Holds one run; made new for each.

    Attributes:
        isolation: what really holds it, for the envelope: `bubblewrap`, `landlock`, `rlimits`.
        tasks: how many tasks of its own count among the run's.
        failure: why the run could not be started after all, where that shows late; it is over then.
        relays_exit: whether the first process ends with 128 + n where the program was ended by signal n.
    """

    isolation: str
    tasks: int
    relays_exit: bool
    failure: AgentRuntimeError | None

    def prepare(self, launch: Launch, limits: Limits, *, exact_memory: bool) -> Launch:
        """What to start in place of `launch`.

        Args:
            launch: the program.
            limits: its caps.
            exact_memory: whether a cgroup counts all of its memory.

        Raises:
            PermissionDeniedError: it cannot be held.
        """

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Calls `start` from where the process inherits what holds it."""

    def helpers(self) -> Collection[int]:
        """The pids of its own processes among the run's, as far as they are known."""

    def terminate(self, root: int) -> None:
        """Asks the program to end; `root` is the pid of the first process, not yet reaped."""

    def kill(self) -> None:
        """Ends every process of the run at once, where it can; the supervisor looks for survivors afterwards."""

    def close(self) -> None:
        """Frees what it holds. Called once, after everything has ended, also where nothing was started."""


class Unconfined:
    """No confinement: rlimits, and what the supervisor does itself."""

    isolation = "rlimits"
    tasks = 0
    relays_exit = False
    failure: AgentRuntimeError | None = None

    def prepare(self, launch: Launch, limits: Limits, *, exact_memory: bool) -> Launch:
        return launch

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        return start()

    def helpers(self) -> Collection[int]:
        return ()

    def terminate(self, root: int) -> None:
        import os
        import signal

        os.killpg(root, signal.SIGTERM)

    def kill(self) -> None:
        return

    def close(self) -> None:
        return
