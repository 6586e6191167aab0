"""From a policy to what holds a run: one confinement for each tier."""

from __future__ import annotations

import os
import resource
import select
import signal
import threading

from agenthub.errors import AgentRuntimeError, EnvironmentError, PermissionDeniedError
from agenthub.runtime.processes.confined import Unconfined
from agenthub.runtime.processes.launch import move_descriptor
from agenthub.runtime.sandbox import bubblewrap, seccomp
from agenthub.runtime.sandbox.policy import BUBBLEWRAP, LANDLOCK, RLIMITS
from agenthub.runtime.sandbox.visible import visible_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection

    from agenthub.runtime.processes.confined import Confinement
    from agenthub.runtime.processes.launch import Launch
    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.sandbox.attachment import NetworkAttachment
    from agenthub.runtime.sandbox.policy import SandboxPolicy
    from agenthub.runtime.sandbox.restricted_thread import RestrictedThread
    from agenthub.runtime.sandbox.tiers import Tiers

_FIRST_PASSED = 18  # above those that belong to a shell


def confine(policy: SandboxPolicy, tiers: Tiers, network: NetworkAttachment | None = None) -> Confinement:
    """What holds one run to its policy, on the best tier that this machine has.

    Args:
        policy: what the run may touch.
        tiers: what `available_tiers` found.
        network: the door to declared hosts; without one, `hosts` is no network at all.

    Raises:
        PermissionDeniedError: the policy is strict, and neither bubblewrap nor all of Landlock works here.
    """
    if policy.level == "off":
        return Unconfined()
    tier = tiers.best
    if policy.level == "strict" and (tier == RLIMITS or tiers.gaps):
        missing = f"; Landlock of this kernel does not stop {', '.join(tiers.gaps)}" if tiers.gaps else ""
        raise PermissionDeniedError(
            f"the sandbox is strict, and this machine cannot hold an agent: {tiers.reason}{missing}",
            suggestion=tiers.remedy or None,
        )
    if tier == BUBBLEWRAP:
        return Bubblewrapped(policy, tiers.bwrap, network)
    if tier == LANDLOCK:
        return Landlocked(policy, tiers.abi, network)
    return Unconfined()


class Bubblewrapped:
    """Namespaces in which only what the run may see exists, and a filter of system calls.

    Args:
        policy: what the run may touch.
        bwrap: bubblewrap's path.
        network: the door to declared hosts.
    """

    isolation = BUBBLEWRAP
    tasks = 2  # the one that waits outside, and the one that reaps inside
    relays_exit = True
    failure: AgentRuntimeError | None = None

    def __init__(self, policy: SandboxPolicy, bwrap: str, network: NetworkAttachment | None) -> None:
        self._policy = policy
        self._bwrap = bwrap
        self._network = network
        self._passed: list[int] = []  # descriptors for bubblewrap alone
        self._info = -1
        self._hold = -1
        self._root = 0
        self._init = 0
        self._tasks: int | None = None
        self._said = b""
        self._holder: threading.Thread | None = None

    def prepare(self, launch: Launch, limits: Limits, *, exact_memory: bool) -> Launch:
        policy = self._policy
        seen = visible_files(policy, launch.argv, launch.needs, launch.env, launch.cwd)
        shared = policy.network.kind == "any"
        kept = bool(policy.temporary)
        profile = seccomp.Profile(policy.network.kind, namespaces=True, exact_memory=exact_memory, kept=kept)
        files = {
            path: self._pass_data(data) for path, data in bubblewrap.accounts(seen, policy.scratch, shared).items()
        }
        env, options = bubblewrap.split_environment(launch.env)
        command = bubblewrap.base_command(self._bwrap, network=shared)
        command += bubblewrap.mounts(seen, limits.memory, files, policy.temporary)
        command += [*options, "--chdir", launch.cwd]
        command += ["--seccomp", str(self._pass_data(seccomp.make_filter(profile)))]
        self._info, writer = os.pipe()
        os.set_blocking(self._info, False)
        writer = self._pass(writer)
        command += ["--info-fd", str(writer)]
        if limits.processes is not None and not exact_memory and os.geteuid() != 0:
            self._tasks = limits.processes
        if self._attached or self._tasks is not None:
            reader, self._hold = os.pipe()
            reader = self._pass(reader)
            command += ["--block-fd", str(reader)]
        # Arguments can be seen by everybody: those that are no program's go another way.
        program, *options = command
        arguments = self._pass_data(b"".join(os.fsencode(word) + b"\0" for word in options))
        argv = (program, "--args", str(arguments), "--", *launch.argv)
        return launch._replace(argv=argv, env=env, pass_fds=(*launch.pass_fds, *self._passed))

    @property
    def _attached(self) -> bool:
        return self._network is not None and self._policy.network.kind == "hosts"

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        try:
            process = start()
        finally:
            for descriptor in self._passed:
                os.close(descriptor)
            self._passed.clear()
        self._root = process.pid
        if self._hold >= 0:
            self._holder = threading.Thread(target=self._attach, daemon=True)
            self._holder.start()
        return process

    def helpers(self) -> Collection[int]:
        return {self._root, self._first_inside()}

    def terminate(self, root: int) -> None:
        init = self._first_inside()
        # Inside, the first process leads the session. Itself it does not notice; the program does.
        group = init if init and _process_group(init) == init else root
        os.killpg(group, signal.SIGTERM)

    def kill(self) -> None:
        init = self._first_inside()
        if init and hasattr(os, "pidfd_open"):
            try:
                handle = os.pidfd_open(init)
            except OSError:  # has ended
                return
            try:
                # Its number was not given away meanwhile: only ours have these parents.
                if _parent(init) in (self._root, os.getpid()):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                return
            finally:
                os.close(handle)

    def close(self) -> None:
        for descriptor in self._passed:
            os.close(descriptor)
        self._passed.clear()
        if self._holder is not None:
            self._holder.join()
        for name in ("_info", "_hold"):
            descriptor = getattr(self, name)
            setattr(self, name, -1)
            if descriptor >= 0:
                os.close(descriptor)

    def _pass(self, descriptor: int) -> int:
        moved = move_descriptor(descriptor, self._passed[-1] if self._passed else _FIRST_PASSED)
        self._passed.append(moved)
        return moved

    def _pass_data(self, data: bytes) -> int:
        descriptor = self._pass(os.memfd_create("agenthub"))
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def _first_inside(self) -> int:
        """The pid of the first process inside; 0: none yet. Where a thread waits for it, only that one reads."""
        if self._init or self._info < 0 or self._holder not in (None, threading.current_thread()):
            return self._init
        try:
            while b"}" not in self._said and (data := os.read(self._info, 4096)):
                self._said += data
        except BlockingIOError:
            return 0
        _, found, rest = self._said.partition(b'"child-pid": ')
        if found and b"}" in rest:
            self._init = int(rest[: len(rest) - len(rest.lstrip(b"0123456789"))])
        return self._init

    def _attach(self) -> None:
        """Does what has to be done between the making of the namespaces and the start of the program."""
        while not (init := self._first_inside()):
            if not self._wait_for_info():
                return  # bubblewrap failed, and says why itself
        try:
            if self._tasks is not None:  # in a user namespace of its own, it counts this run alone
                most, ceiling = self._tasks + 1, resource.prlimit(init, resource.RLIMIT_NPROC)[1]
                most = most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)
                resource.prlimit(init, resource.RLIMIT_NPROC, (most, most))
            if self._network is not None and self._attached:
                self._network.enter_namespace(init)
            os.write(self._hold, b"!")
        except (ProcessLookupError, BrokenPipeError):  # killed meanwhile
            return
        except (AgentRuntimeError, OSError) as error:
            if not isinstance(error, AgentRuntimeError):
                error = EnvironmentError(f"cannot attach the run's network: {error}")
            self.failure = error
            self.kill()  # bubblewrap would take the end of the pipe for permission
        except BaseException:
            self.kill()
            raise

    def _wait_for_info(self) -> bool:
        """Waits for more from bubblewrap; False at the end."""
        waiting = select.poll()
        waiting.register(self._info, select.POLLIN)
        return any(event & select.POLLIN for _, event in waiting.poll())


class Landlocked:
    """A thread that gave up what the run may not do, and starts it.

    Args:
        policy: what the run may touch.
        abi: of the kernel's Landlock.
        network: the door to declared hosts.
    """

    isolation = LANDLOCK
    tasks = 0
    relays_exit = False
    failure: AgentRuntimeError | None = None

    def __init__(self, policy: SandboxPolicy, abi: int, network: NetworkAttachment | None) -> None:
        self._policy = policy
        self._abi = abi
        self._network = network
        self._thread: RestrictedThread | None = None

    def prepare(self, launch: Launch, limits: Limits, *, exact_memory: bool) -> Launch:
        policy = self._policy
        seen = visible_files(policy, launch.argv, (*launch.needs, "/bin/sh"), launch.env, launch.cwd)
        profile = seccomp.Profile(policy.network.kind, namespaces=False, exact_memory=exact_memory, abi=self._abi)
        hook = self._network.restrict_thread if self._network is not None and policy.network.kind == "hosts" else None
        from agenthub.runtime.sandbox.restricted_thread import RestrictedThread

        self._thread = RestrictedThread(seen, seccomp.make_filter(profile), self._abi, policy.network.kind, hook)
        return launch

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        assert self._thread is not None
        return self._thread.spawn(start)

    def helpers(self) -> Collection[int]:
        return ()

    def terminate(self, root: int) -> None:
        os.killpg(root, signal.SIGTERM)

    def kill(self) -> None:
        if self._thread is not None:
            self._thread.kill_domain()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.close()


def _process_group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
