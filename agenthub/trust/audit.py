"""What is known against the packages that installed agents run with."""

from __future__ import annotations

from typing import Any

from agenthub.config import Settings
from agenthub.packages.record import InstallRecord
from agenthub.trust.advisories import Package, Vulnerability, normalised
from agenthub.trust.databases import look_up
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class AuditedAgent(NamedTuple):
    """One agent.

    Attributes:
        label: `owner/name`.
        version: of the agent.
        packages: how many packages it has.
        found: what is known against them, by package.
        notes: what could not be looked up, and why.
    """

    label: str
    version: str
    packages: int
    found: tuple[tuple[Package, Vulnerability], ...]
    notes: tuple[str, ...]


class AuditReport(NamedTuple):
    """All that were looked at.

    Attributes:
        agents: each of them.
        packages: how many different packages they have together.
        ignored: how many findings were left out, as the user wanted.
        database: what was asked, in words.
    """

    agents: tuple[AuditedAgent, ...]
    packages: int
    ignored: int
    database: str

    @property
    def vulnerable(self) -> bool:
        """Whether anything is known that is not ignored."""
        return any(agent.found for agent in self.agents)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        agents = [
            {
                "agent": agent.label,
                "version": agent.version,
                "packages": agent.packages,
                "notes": list(agent.notes),
                "vulnerabilities": [
                    {"package": package.name, "version": package.version, **known._asdict()}
                    for package, known in agent.found
                ],
            }
            for agent in self.agents
        ]
        return {
            "vulnerable": self.vulnerable,
            "packages": self.packages,
            "ignored": self.ignored,
            "database": self.database,
            "agents": agents,
        }


def audit_agents(
    settings: Settings,
    records: Sequence[InstallRecord],
    database: str | None = None,
    ignored: frozenset[str] = frozenset(),
    on_progress: Callable[[str], None] | None = None,
) -> AuditReport:
    """Looks up every package of installed agents; each one once, however many agents have it.

    Args:
        settings: of the command.
        records: of the agents.
        database: see `databases.look_up`.
        ignored: ids, or aliases, of advisories that do not count.
        on_progress: called with a line of what is being done.

    Raises:
        UnreachableError: the database cannot be asked.
    """
    wanted = sorted({package for record in records for package in _packages(record)})
    answer = look_up(settings, wanted, database, on_progress)
    left_out: set[tuple[Package, str]] = set()
    agents = []
    for record in records:
        found = []
        for package in _packages(record):
            for known in answer.found[package]:
                if ignored.isdisjoint((known.id, *known.aliases)):
                    found.append((package, known))
                else:
                    left_out.add((package, known.id))
        agents.append(
            AuditedAgent(
                f"{record.owner}/{record.name}",
                record.version,
                len(record.dependencies),
                tuple(found),
                tuple(_notes(record)),
            )
        )
    place = database or str(settings["osv_url"])
    size = f", {answer.entries:,} advisor{'y' if answer.entries == 1 else 'ies'}" if answer.entries is not None else ""
    newest = f", the newest of {answer.newest[:10]}" if answer.newest and answer.entries is not None else ""
    return AuditReport(tuple(agents), len(wanted), len(left_out), f"{place}{size}{newest}")


def _packages(record: InstallRecord) -> list[Package]:
    return [Package(normalised(str(one["name"])), str(one["version"])) for one in record.dependencies]


def _notes(record: InstallRecord) -> list[str]:
    from packaging.version import InvalidVersion, Version

    if record.interpreter is None:
        return ["it has no Python environment: what else it brings is not looked up"]
    notes = []
    for package in _packages(record):
        try:
            Version(package.version)
        except InvalidVersion:
            notes.append(f"{package.name} {package.version} is no version that ranges can be compared with")
    return notes
