"""Agents that need agents, among those that are installed: what an installation brings along, and what must stay."""

from __future__ import annotations

from agenthub.errors import AgentNotFoundError, StoreError
from agenthub.packages.spec import Spec
from agenthub.packages.versions import matching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from agenthub.indexes.client import IndexClient
    from agenthub.indexes.requirements import Known
    from agenthub.packages.store import Store


def needed_specs(
    store: Store,
    client: Callable[[], IndexClient],
    label: str,
    version: str,
    requires: Mapping[str, str],
    *,
    alone: bool = False,
) -> list[Spec]:
    """What has to be installed before an agent, in that order: agents that it needs, or that would lack what they need.

    Args:
        store: what is installed already.
        client: gives access to the indexes, where they have to be asked.
        label: `owner/name` of the agent.
        version: its version.
        requires: what it needs.
        alone: what the agents that are installed need does not count.

    Raises:
        InstallError: it cannot be had, or is against what installed agents need; says why.
    """
    agents = [entry for entry in store.list_agents() if not entry.problem]
    if not requires and (alone or not any(label in entry.requires for entry in agents)):
        return []
    from agenthub.indexes.requirements import Known, resolve

    installed = {
        f"{entry.owner}/{entry.name}": Known(
            f"{entry.owner}/{entry.name}", entry.version, {} if alone else entry.requires, installed=True
        )
        for entry in agents
    }
    # What did not come from an index is never replaced by what has its name there.
    fixed = [
        f"{entry.owner}/{entry.name}"
        for entry in agents
        if entry.source != "index" or store.read_state(entry.owner, entry.name).pinned
    ]
    found = resolve(Known(label, version, requires), installed, lambda agent: _releases(client(), agent), fixed)
    return [
        Spec("index", known.label, known.version, None, known.label.partition("/")[0], f"{known.label}@{known.version}")
        for known in found
    ]


def allowed_versions(store: Store, label: str, wanted: str | None) -> str | None:
    """`wanted`, a range, narrowed to what the installed agents that need this one allow; None: any."""
    from agenthub.packages.versions import parse_range

    ranges = [wanted] if wanted else []
    ranges += [entry.requires[label] for entry in store.list_agents() if entry.requires.get(label)]
    if len(ranges) < 2:
        return ranges[0] if ranges else None
    return ",".join(filter(None, (str(parse_range(each)) for each in ranges))) or None


def check_not_needed(store: Store, going: Collection[tuple[str, str]]) -> None:
    """Whether agents may go, all of them together.

    Raises:
        StoreError: an agent that stays needs one of them.
    """
    labels = {f"{owner}/{name}" for owner, name in going}
    for entry in store.list_agents():
        if (entry.owner, entry.name) not in going:
            for label in sorted(labels & entry.requires.keys()):
                raise StoreError(
                    f"{label} is needed by {entry.owner}/{entry.name} {entry.version}",
                    suggestion=f"uninstall {entry.owner}/{entry.name} as well; or --force removes it nevertheless",
                )


def _releases(client: IndexClient, label: str) -> list[Known]:
    from agenthub.indexes.requirements import Known

    owner, _, name = label.partition("/")
    source = client.source(owner, name)
    if source.kind == "git":
        raise AgentNotFoundError(
            f"{source.name}, where {owner} belongs, is a git host and has no releases",
            suggestion=f"agenthub install {label}, then again",
        )
    releases = client.document(owner, name).releases
    offered = {version: release for version, release in releases.items() if release.yanked is None}
    return [Known(label, version, offered[version].requires) for version in matching("latest", offered)]
