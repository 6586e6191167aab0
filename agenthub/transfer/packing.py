"""From installed agents to what travels of them: archives, records, and the wheels of their environments."""

from __future__ import annotations

import base64
import os
from functools import partial
from typing import Any, NamedTuple

from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError
from agenthub.indexes.documents import LARGEST_ARCHIVE
from agenthub.manifest import AgentManifest
from agenthub.packages.locks import hold
from agenthub.packages.pack import PackRules, pack
from agenthub.packages.record import InstallRecord, read_record
from agenthub.packages.sources import file_digest
from agenthub.projects.parallel import in_parallel
from agenthub.transfer.entries import AgentEntry, KeptSignature
from agenthub.transfer.wheels import Wanted, WheelCollector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agenthub.indexes.client import IndexClient
    from agenthub.packages.store import Store
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.environments.pins import Pin

    Say = Callable[[str], None]

_NO_LIMITS = PackRules(max_size=LARGEST_ARCHIVE, heed_lists=False, max_file=LARGEST_ARCHIVE)


class Chosen(NamedTuple):
    """An installed version that travels.

    `pins` are its packages, as a project's lock fixed them; None: those that are installed.
    """

    owner: str
    name: str
    directory: str
    record: InstallRecord
    pins: tuple[Pin, ...] | None = None

    @property
    def label(self) -> str:
        return f"{self.owner}/{self.name}"


class Packed(NamedTuple):
    """What travels: entries, and files by their paths inside."""

    entries: list[AgentEntry]
    files: dict[str, str]

    @property
    def wheels(self) -> list[str]:
        """The paths of the wheels inside."""
        return [path for path in self.files if path.startswith("wheels/")]


def choose_installed(store: Store, agents: Iterable[str]) -> list[Chosen]:
    """Installed agents and those that they need, in their current versions.

    Raises:
        AgentNotFoundError: one of them, or one that is needed, is not installed.
    """
    todo = [store.resolve(agent) for agent in agents]
    found: dict[tuple[str, str], Chosen] = {}
    while todo:
        owner, name = todo.pop()
        if (owner, name) in found:
            continue
        directory = os.path.realpath(store.current_version_dir(owner, name))
        record = read_record(directory)
        found[owner, name] = Chosen(owner, name, directory, record)
        for label in AgentManifest.from_compiled(record.manifest).requires:
            other = tuple(label.split("/", 1))
            if len(other) != 2 or not os.path.lexists(store.agent_dir(*other)):
                raise AgentNotFoundError(
                    f"{owner}/{name} needs {label}, which is not installed", suggestion=f"agenthub install {label}"
                )
            todo.append((other[0], other[1]))
    return sorted(found.values(), key=lambda one: (one.owner, one.name))


class Packer:
    """Packs installed agents.

    Args:
        runtime: whose settings and environments are used.
        scratch: an existing directory of the caller's own, on the store's file system.
        allowed: paths of files that are taken although they look like secrets.
        say: called with a line of what is being done.
    """

    def __init__(self, runtime: AgentRuntime, scratch: str, allowed: Iterable[str] = (), say: Say = print) -> None:
        self._settings = runtime.settings
        self._environments = runtime.environment_manager
        self._scratch = scratch
        self._allowed = frozenset(allowed)
        self._say = say
        self._client: IndexClient | None = None

    def pack(self, agents: Sequence[Chosen], *, wheels: bool) -> Packed:
        """Makes the archives, and gets the wheels.

        Raises:
            PermissionDeniedError: what looks like a secret would travel; names it.
            EnvironmentError: a wheel cannot be had.
            InstallError: an archive cannot be made as it was published.
        """
        files: dict[str, str] = {}
        entries = [self._entry(number, chosen, files) for number, chosen in enumerate(agents)]
        if wheels:
            collector = WheelCollector(self._environments, self._scratch, self._say)
            labels = [chosen.label for chosen in agents]
            collected = in_parallel([partial(self._collect, collector, one) for one in agents], labels)
            entries = [
                entry._replace(python=python_series(one.record) if paths else "", wheels=self._wheels(paths, files))
                for one, entry, paths in zip(agents, entries, collected, strict=True)
            ]
        return Packed(entries, files)

    def _collect(self, collector: WheelCollector, chosen: Chosen) -> list[str]:
        self._say(f"collecting wheels of {chosen.label}")
        manifest = AgentManifest.from_compiled(chosen.record.manifest)
        with hold(chosen.directory):
            return collector.collect(Wanted(chosen.label, chosen.directory, manifest, chosen.record, chosen.pins))

    def _entry(self, number: int, chosen: Chosen, files: dict[str, str]) -> AgentEntry:
        record = chosen.record
        source = {key: value for key, value in record.source.items() if key not in ("signatures", "trust")}
        inside = f"agents/{chosen.owner}/{chosen.name}.agent"
        files[inside] = os.path.join(self._scratch, f"{number}.agent")
        with hold(chosen.directory):
            self._archive(chosen, files[inside])
        return AgentEntry(
            chosen.owner,
            chosen.name,
            record.version,
            record.digest,
            inside,
            source,
            tuple(_signatures(record.source)),
            dict(record.requested),
            environment=record.environment,
        )

    def _archive(self, chosen: Chosen, target: str) -> None:
        """Makes the archive again as it was published, or else what can be unpacked to the same content."""
        published = chosen.record.source.get("archive_digest") if chosen.record.source.get("kind") == "index" else None
        rules = _NO_LIMITS._replace(allowed=self._allowed, checked=not published, directories=not published)
        try:
            packed = pack(chosen.directory, target, rules)
        except AgentRuntimeError as error:
            error.message = error.message.replace(chosen.directory, chosen.label)
            error.args = (error.message,)
            error.suggestion = (error.suggestion or "").partition("or take it with ")[2] or error.suggestion
            raise
        if published and packed.digest != published:
            self._fetch(chosen, str(published), target)
        elif packed.tree_digest != chosen.record.digest:
            raise InstallError(
                f"{chosen.label} is not what was installed",
                suggestion=f"agenthub verify {chosen.label} says what differs; then install it again",
            )

    def _fetch(self, chosen: Chosen, digest: str, target: str) -> None:
        """The published archive, which its signature is of, where packing makes another one of the same content."""
        from agenthub.indexes.client import IndexClient
        from agenthub.indexes.downloads import Archives

        os.unlink(target)
        if Archives(self._settings.paths).take(digest, target):
            return
        if self._client is None:
            self._client = IndexClient(self._settings)
        source = chosen.record.source
        owner, _, name = str(source["location"]).partition("/")
        release = self._client.document(owner, name).releases.get(str(source["version"]))
        if release is None or release.digest != digest:
            raise InstallError(f"{chosen.label} is no longer to be had as it was published, with its signature")
        self._client.fetch_archive(release, target, self._say)

    @staticmethod
    def _wheels(paths: Sequence[str], files: dict[str, str]) -> tuple[str, ...]:
        """Adds wheels to what travels, each of them once however many agents have it; returns their paths inside."""
        inside = []
        for path in paths:
            digest = file_digest(path).removeprefix("sha256:")
            inside.append(f"wheels/{digest[:16]}/{os.path.basename(path)}")
            files.setdefault(inside[-1], path)
        return tuple(sorted(inside))


def python_series(record: InstallRecord) -> str:
    """The series of Python that an environment was made with, `"3.12"`; "" where there is none."""
    version = (record.interpreter or {}).get("version", "")
    return ".".join(version.split(".")[:2])


def _signatures(source: dict[str, Any]) -> Iterable[KeptSignature]:
    for one in source.get("signatures") or ():
        yield KeptSignature(one["kind"], one["key"], base64.b64decode(one["signature"]))
