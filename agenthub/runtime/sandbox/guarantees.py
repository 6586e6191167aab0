"""What each tier holds, guarantee by guarantee, in a person's words: for `doctor` and `run --explain`."""

from __future__ import annotations

from typing import NamedTuple

from agenthub.runtime.sandbox.landlock import COMPLETE_ABI
from agenthub.runtime.sandbox.policy import BUBBLEWRAP, LANDLOCK, RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agenthub.runtime.sandbox.tiers import Tiers

_DELEGATE = "systemd-run --user --scope -p Delegate=yes agenthub …   gives each run a cgroup"


class Guarantee(NamedTuple):
    """One guarantee on this machine.

    Attributes:
        name: what is guaranteed.
        state: `ok` where it holds, `warning` where it holds in part or not.
        message: how, or what is missing.
        remedy: what would change that; empty where nothing has to.
    """

    name: str
    state: str
    message: str
    remedy: str = ""


def guarantees(tiers: Tiers, *, cgroup: bool, root: bool) -> Iterator[Guarantee]:
    """Every guarantee of a confined run.

    Args:
        tiers: what `available_tiers` found.
        cgroup: whether each run gets a cgroup.
        root: whether agenthub runs as root.
    """
    tier = tiers.best
    confined = tier != RLIMITS
    signals = tier == BUBBLEWRAP or (tier == LANDLOCK and tiers.abi >= COMPLETE_ABI)
    yield _row("sandbox", tier == BUBBLEWRAP, tier if tier == BUBBLEWRAP else f"{tier}: {tiers.reason}", tiers.remedy)
    files = {
        BUBBLEWRAP: "what is not declared does not exist",
        LANDLOCK: "what is not declared cannot be opened or changed; that it exists can be seen",
        RLIMITS: "not restricted: an agent runs with your rights",
    }
    yield _row("files", confined, files[tier], tiers.remedy)
    yield _row("network off", confined, "no socket of any family" if confined else "not restricted", tiers.remedy)
    hosts = "through a proxy, and nothing else" if confined else "not restricted"
    yield _row("declared hosts only", confined, hosts, tiers.remedy)
    sockets = "out of reach" if confined else "within reach: Docker, D-Bus, keyrings"
    yield _row("unix sockets of the host", confined, sockets, tiers.remedy)
    others = "cannot be signalled, read or changed" if signals else "an agent can signal what you can"
    yield _row("other processes", signals, others, tiers.remedy or "Linux 6.12 or newer, or bubblewrap")
    yield _survivors(tier, tiers, cgroup=cgroup, root=root)
    dies = "the agent ends with it" if tier == BUBBLEWRAP else "the next agenthub command ends the agent"
    yield _row("agenthub itself is killed", tier == BUBBLEWRAP, dies, tiers.remedy)
    exact = "exact, by a cgroup for each run" if cgroup else "by polling every 10 ms: a fast allocation may overshoot"
    yield _row("memory", cgroup, exact, _DELEGATE)
    own = tier == BUBBLEWRAP and not root
    count = "exact" if cgroup or own else "by polling" + ("" if root else ", and within the budget of your user")
    yield _row("number of processes", cgroup or own, count, _DELEGATE)


def _survivors(tier: str, tiers: Tiers, *, cgroup: bool, root: bool) -> Guarantee:
    domain = tier == LANDLOCK and tiers.abi >= COMPLETE_ABI and not root
    sure = tier == BUBBLEWRAP or cgroup or domain
    message = "every process of a run ends with it" if sure else "daemons are found and killed; a fast chain may escape"
    return _row("no survivors", sure, message, tiers.remedy or _DELEGATE)


def _row(name: str, holds: bool, message: str, remedy: str) -> Guarantee:
    return Guarantee(name, "ok" if holds else "warning", message, "" if holds else remedy)
