"""Which tiers of isolation work on this machine: each is tried, never guessed from versions."""

from __future__ import annotations

import os

from agenthub.quick_json import dumps, loads
from agenthub.runtime.sandbox.bubblewrap import find_bubblewrap
from agenthub.runtime.sandbox.policy import BUBBLEWRAP, LANDLOCK, RLIMITS
from agenthub.values import NamedTuple

_FORMAT = 1  # of the cached answer


class Tiers(NamedTuple):
    """What the probes found.

    Attributes:
        best: `bubblewrap`, `landlock` or `rlimits`.
        bwrap: bubblewrap's path, where it works.
        abi: of Landlock, where that works; 0: it does not.
        gaps: what the best tier does not stop here although it should, in a person's words.
        reason: why the tiers above the best do not work; empty where none is above.
        remedy: what would change that.
    """

    best: str
    bwrap: str = ""
    abi: int = 0
    gaps: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""


_found: dict[str, Tiers] = {}


def available_tiers(cache: str | None = None) -> Tiers:
    """The tiers of this machine. Probed once per state of the machine.

    Args:
        cache: a file in which the answer is kept for other processes; None: only for this one.
    """
    state = _machine_state()
    if state not in _found:
        kept = _load(cache, state) if cache else None
        _found[state] = kept or probe_tiers()
        if cache and kept is None:
            _save(cache, state, _found[state])
    return _found[state]


def probe_tiers() -> Tiers:
    """Tries each tier now."""
    from agenthub.runtime.sandbox.probes import probe

    return probe()


def _machine_state() -> str:
    """All that the answer depends on."""
    bwrap = find_bubblewrap()
    parts = [str(_FORMAT), read_setting("/proc/sys/kernel/random/boot_id"), str(os.geteuid())]
    parts += [
        read_setting(path)
        for path in (
            "/proc/sys/user/max_user_namespaces",
            "/proc/sys/kernel/unprivileged_userns_clone",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        )
    ]
    try:
        parts.append(os.readlink("/proc/self/ns/user"))
        parts.append(os.readlink("/proc/self/ns/mnt"))
    except OSError:
        parts.append("")
    parts += [
        line
        for line in read_setting("/proc/self/status").splitlines()
        if line.startswith(("NoNew", "Seccomp", "CapEff"))
    ]
    if bwrap is not None:
        found = os.stat(bwrap)
        parts += [bwrap, str(found.st_mtime_ns), str(found.st_size), str(found.st_mode)]
    return "\n".join(parts)


def _load(cache: str, state: str) -> Tiers | None:
    try:
        with open(cache, encoding="utf-8") as file:
            kept = loads(file.read())
        if kept["state"] != state:
            return None
        tiers = Tiers(**{**kept["tiers"], "gaps": tuple(kept["tiers"]["gaps"])})
        # Whoever wrote it, it names nothing that is not there.
        sound = tiers.best in (BUBBLEWRAP, LANDLOCK, RLIMITS) and tiers.bwrap in ("", find_bubblewrap())
        return tiers if sound and isinstance(tiers.abi, int) else None
    except (OSError, ValueError, KeyError, TypeError):  # absent, or not of this version
        return None


def _save(cache: str, state: str, tiers: Tiers) -> None:
    mine = f"{cache}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        with open(mine, "w", encoding="utf-8") as file:
            file.write(dumps({"state": state, "tiers": tiers._asdict()}))
        os.replace(mine, cache)
    except OSError:  # it is probed again next time
        return


def read_setting(path: str) -> str:
    """What the kernel says in a file; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
