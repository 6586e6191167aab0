"""What a run is held to on this machine: each guarantee tried, not guessed from versions."""

from __future__ import annotations

import sys
from typing import NamedTuple

from agenthub.config import MB
from agenthub.runtime.cgroups import make_cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Guarantee(NamedTuple):
    """`state` is `"ok"` where it holds, `"warning"` where it holds in part or not; `remedy` would change that."""

    name: str
    state: str
    message: str
    remedy: str = ""


def probe() -> Iterator[Guarantee]:
    """Every guarantee, strongest first."""
    yield Guarantee("deadline", "ok", "the whole process tree is killed at it")
    exact = _cgroup_can_be_made()
    if exact:
        yield Guarantee("memory", "ok", "exact, by a cgroup for each run")
        yield Guarantee("no survivors", "ok", "every process of a run is known by its cgroup, and killed")
    else:
        yield Guarantee(
            "memory",
            "warning",
            "by polling every 10 ms, with rlimits behind it: a fast allocation may overshoot",
            "systemd-run --user --scope -p Delegate=yes agenthub …   makes it exact",
        )
        linux = sys.platform == "linux"
        yield Guarantee(
            "no survivors",
            "ok" if linux else "warning",
            "daemons are adopted and killed with the rest" if linux else "a daemon that leaves its session may survive",
        )
    yield Guarantee("environment variables", "ok", "an allow-list, and what the manifest declares")
    yield Guarantee(
        "files and network",
        "warning",
        "not restricted: an agent runs with your rights",
        "install agents that you trust, or run agenthub as a user of its own",
    )


def _cgroup_can_be_made() -> bool:
    cgroup = make_cgroup(64 * MB, None)
    if cgroup is None:
        return False
    cgroup.remove()
    return True
