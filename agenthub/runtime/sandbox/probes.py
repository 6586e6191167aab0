"""Trying each tier of isolation, as a run would use it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

from agenthub.runtime.sandbox import bubblewrap, landlock, seccomp
from agenthub.runtime.sandbox.policy import BUBBLEWRAP, LANDLOCK, RLIMITS
from agenthub.runtime.sandbox.tiers import Tiers, read_setting

_PROBE_TIMEOUT = 10.0


def probe() -> Tiers:
    """Tries each tier now."""
    bwrap = bubblewrap.find_bubblewrap()
    if sys.platform != "linux":
        return Tiers(RLIMITS, reason="its system is not Linux", remedy="run agenthub in a Linux virtual machine")
    problem, remedy = _bubblewrap_problem(bwrap)
    abi, landlock_problem = _landlock_abi()
    if not problem:
        return Tiers(BUBBLEWRAP, bwrap=bwrap or "", abi=abi)
    if abi:
        return Tiers(LANDLOCK, abi=abi, gaps=_gaps(abi), reason=problem, remedy=remedy)
    return Tiers(RLIMITS, reason=f"{problem}; {landlock_problem}", remedy=remedy)


def _gaps(abi: int) -> tuple[str, ...]:
    if abi >= landlock.COMPLETE_ABI:
        return ()
    return ("signals to your other processes", "processes that hide from the end of their run")


def _bubblewrap_problem(bwrap: str | None) -> tuple[str, str]:
    """Why bubblewrap does not work, and what would change it; both empty where it does."""
    if bwrap is None:
        return "bubblewrap is not installed", "install bubblewrap: apt install bubblewrap, or dnf install bubblewrap"
    try:
        program = seccomp.make_filter(seccomp.Profile("none", namespaces=True, exact_memory=False))
    except ValueError as error:
        return str(error), ""
    descriptor = os.memfd_create("agenthub")
    try:
        os.write(descriptor, program)
        os.lseek(descriptor, 0, os.SEEK_SET)
        command = bubblewrap.base_command(bwrap, network=False)
        command += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/proc"]
        command += ["--seccomp", str(descriptor), "--", "/bin/sh", "-c", "[ $$ -lt 9 ] && echo held"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_TIMEOUT,
            pass_fds=(descriptor,),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap cannot be started ({type(error).__name__})", "reinstall bubblewrap"
    finally:
        os.close(descriptor)
    if done.returncode == 0 and done.stdout == b"held\n":
        return "", ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"bubblewrap does not work here: {said[-1] if said else done.returncode}", _userns_remedy()


def _userns_remedy() -> str:
    for path, wrong, remedy in (
        ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap",
        ),
    ):
        if read_setting(path) == wrong:
            return remedy
    return "run agenthub where user namespaces may be made; containers need --security-opt for that"


def _landlock_abi() -> tuple[int, str]:
    """The ABI where restriction really works, else 0 and why."""
    version = landlock.abi()
    if version < 1:
        return 0, "the kernel has no Landlock"
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(_try_landlock(version)))
    thread.start()
    thread.join()
    problem = outcome[0] if outcome else "the probe failed"
    return (0, f"Landlock does not work here: {problem}") if problem else (version, "")


def _try_landlock(version: int) -> str:
    """In a thread of its own, which is lost afterwards: what does not hold; empty where all does."""
    from agenthub.runtime.sandbox.restricted_thread import drop_capabilities

    try:
        program = seccomp.make_filter(seccomp.Profile("none", namespaces=False, exact_memory=False, abi=version))
        drop_capabilities()
        seccomp.forbid_new_privileges()
        landlock.restrict_thread((), version, network=False)
        seccomp.install(program)
    except (OSError, ValueError) as error:
        return str(error)
    try:
        os.close(os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC))
        return "files stay readable"
    except PermissionError:
        pass
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.socket(seccomp.AF_INET, 1, 0)
    if descriptor >= 0:
        os.close(descriptor)
        return "the filter does not hold"
    if version >= landlock.SIGNALS_ABI and _may_signal_parent():
        return "signals are not held back"
    return ""


def _may_signal_parent() -> bool:
    try:
        os.kill(os.getppid(), 0)
    except (PermissionError, ProcessLookupError):
        return False
    return os.getppid() > 0
