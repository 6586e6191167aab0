"""Newer versions of installed agents: which there are, and what they change. Each agent's recorded source is asked."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from agenthub.errors import AgentRuntimeError, InstallError, PermissionDeniedError
from agenthub.packages.record import InstallRecord
from agenthub.packages.spec import Spec, parse_spec
from agenthub.packages.states import AgentState
from agenthub.packages.versions import newer
from agenthub.runtime.agents.changes import Changes, changes_between
from agenthub.runtime.agents.installer import AgentInstaller, InstallOptions, Plan
from agenthub.runtime.agents.needs import allowed_versions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_AT_ONCE = 8  # sources that are asked at the same time
UNVERSIONED = "changed"
"""What `Candidate.available` is where a source has other content, and not another version."""


class Candidate(NamedTuple):
    """What an installed agent could become.

    Attributes:
        owner: the agent's owner.
        name: its name.
        version: the installed one.
        available: the newest one that it may become; `"changed"` or a commit where the version says nothing; None:
            it is that already.
        latest: the newest one that its index has, which may be outside of what was asked for.
        source: the kind of its source.
        location: where that is.
        pinned: whether upgrades leave it alone.
        problem: why its source could not be asked.
    """

    owner: str
    name: str
    version: str
    available: str | None
    latest: str | None
    source: str
    location: str
    pinned: bool
    problem: str = ""


class Upgraded(NamedTuple):
    """What an upgrade did; `changes` is None where there was nothing to do."""

    owner: str
    name: str
    record: InstallRecord
    directory: str
    changed: bool
    changes: Changes | None


class Upgrader:
    """Looks for newer versions, and installs them.

    Args:
        installer: installs them.
    """

    def __init__(self, installer: AgentInstaller) -> None:
        self.installer = installer
        self.store = installer.store

    def candidates(self, agents: Iterable[tuple[str, str]]) -> list[Candidate]:
        """What each of these installed agents could become, in the order given; several sources are asked at once."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda agent: self.candidate(*agent), agents))

    def candidate(self, owner: str, name: str) -> Candidate:
        """What an installed agent could become; a source that cannot be asked is a `problem`."""
        found = Candidate(owner, name, "", None, None, "", "", False)
        try:
            record = self.store.read_record(owner, name)
            state = self.store.read_state(owner, name)
            kind, location = str(record.source.get("kind")), str(record.source.get("location"))
            found = found._replace(version=record.version, source=kind, location=location, pinned=state.pinned)
            return found._replace(**self._newest(record, state))
        except AgentRuntimeError as error:
            return found._replace(problem=error.message)

    def upgrade(
        self,
        owner: str,
        name: str,
        options: InstallOptions,
        consent: Callable[[Plan, Changes], None],
        wanted: str | None = None,
    ) -> Upgraded:
        """Installs what an agent's source has now, where that is another content.

        Args:
            owner: the agent's owner.
            name: its name.
            options: of the installation; what the user asked for when it was installed is kept.
            consent: called with what would change, before anything is; refuses by raising.
            wanted: the versions that it may become from now on, of an index or a git repository; None: as before.

        Raises:
            PermissionDeniedError: it is pinned, or `consent` refused.
            AgentRuntimeError: as `AgentInstaller.install`.
        """
        record, state = self.store.read_record(owner, name), self.store.read_state(owner, name)
        if state.pinned:
            raise PermissionDeniedError(
                f"{owner}/{name} is pinned to {record.version}", suggestion=f"agenthub unpin {owner}/{name}"
            )
        if wanted is None and self._newest(record, state)["available"] is None:
            return Upgraded(owner, name, record, self.store.current_version_dir(owner, name), False, None)
        spec = _spec(record, state, wanted)
        if wanted is None and spec.kind == "index":
            spec = spec._replace(ref=allowed_versions(self.store, f"{owner}/{name}", state.wanted))
        found: list[Changes] = []

        def show(plan: Plan) -> None:
            found.append(self._changes(record, plan, options))
            consent(plan, found[0])

        installed = self.installer.install_spec(
            spec,
            options._replace(
                identity=f"{owner}/{name}",
                python=options.python or record.requested.get("python"),
                extra=(*record.requested.get("with", ()), *options.extra),
                consent=show,
                note_wanted=wanted is not None and options.note_wanted,
            ),
        )
        changes = found[0] if found else None
        return Upgraded(owner, name, installed.record, installed.directory, installed.changed, changes)

    def _changes(self, record: InstallRecord, plan: Plan, options: InstallOptions) -> Changes:
        from agenthub.runtime.environments.dependencies import project_name
        from agenthub.runtime.environments.preview import preview
        from agenthub.runtime.environments.state import normalised

        environments, asked = self.installer.environments, record.requested
        packages = None
        with suppress(AgentRuntimeError), self.store.new_staging() as scratch:  # building it will say what is wrong
            if environments.use_uv:
                packages = preview(
                    plan.directory,
                    plan.manifest,
                    scratch,
                    python=options.python or asked.get("python"),
                    preferred=environments.config.python_version,
                    extra=(*asked.get("with", ()), *options.extra),
                    offline=environments.offline,
                    on_progress=options.on_progress,
                )
        own = {normalised(project_name(plan.directory) or plan.name), normalised(plan.name)}
        return changes_between(record, plan.manifest, plan.fetched.source, packages, own)

    def _newest(self, record: InstallRecord, state: AgentState) -> dict[str, Any]:
        """`available` and `latest` of a candidate."""
        kind = record.source.get("kind")
        if kind == "bundle":  # another one may come, and nobody knows from where
            return {"available": None, "latest": None}
        if kind == "index" and not record.source.get("url"):
            return self._newest_release(record, state)
        if kind == "index":
            available = self._newest_tag(record, state)
        elif kind == "git":
            from agenthub.packages.git import newest_commit

            commit = newest_commit(_spec(record, state, None))
            available = None if commit in (None, record.source.get("commit")) else str(commit)[:12]
        else:
            available = self._newest_content(record, state)
        return {"available": available, "latest": available}

    def _newest_release(self, record: InstallRecord, state: AgentState) -> dict[str, Any]:
        owner, _, name = str(record.source["location"]).partition("/")
        allowed = allowed_versions(self.store, f"{record.owner}/{record.name}", state.wanted)
        latest = self.installer.client.resolve(owner, name, None)
        release = latest if allowed is None else self.installer.client.resolve(owner, name, allowed)
        have = str(record.source.get("version") or record.version)
        return {
            "available": release.version if newer(release.version, have) else None,
            "latest": latest.version if newer(latest.version, have) else None,
        }

    def _newest_tag(self, record: InstallRecord, state: AgentState) -> str | None:
        """Of a git host that is mapped as an index."""
        from agenthub.packages.git import newest_commit
        from agenthub.runtime.agents.from_index import git_spec

        owner, _, name = str(record.source["location"]).partition("/")
        spec = git_spec(self.installer.client.source(owner, name), owner, name, state.wanted)
        commit = newest_commit(spec)
        return None if commit in (None, record.source.get("commit")) else spec.ref or str(commit)[:12]

    def _newest_content(self, record: InstallRecord, state: AgentState) -> str | None:
        """Of a directory or an archive: what version it has now, if its content is another one."""
        from agenthub.manifest import read_manifest
        from agenthub.packages.sources import digest_of, file_digest

        spec = _spec(record, state, None)
        if spec.kind == "archive":
            return None if file_digest(spec.location) == record.source.get("archive_digest") else UNVERSIONED
        if digest_of(spec) == record.digest:
            return None
        version = read_manifest(spec.location).version
        return version if version != record.version else UNVERSIONED


def _spec(record: InstallRecord, state: AgentState, wanted: str | None) -> Spec:
    """Where an installed agent comes from, as it can be asked again."""
    source = record.source
    kind, location = source.get("kind"), str(source.get("location"))
    label = f"{record.owner}/{record.name}"
    if wanted is not None and kind not in ("index", "git"):
        raise InstallError(
            f"{label} comes from {location}, which has one version", suggestion=f"agenthub upgrade {label}"
        )
    if kind in ("directory", "archive"):
        spec = parse_spec(location)
        if spec.kind != kind:
            raise InstallError(f"{label} was installed from the {kind} {location}, and there is a {spec.kind} now")
        return spec
    if kind == "git":
        ref, subdirectory = wanted or source.get("ref"), source.get("subdirectory")
        at, inside = f"@{ref}" if ref else "", f"#subdirectory={subdirectory}" if subdirectory else ""
        return Spec("git", location, ref, subdirectory, record.owner, f"git+{location}{at}{inside}")
    if kind == "index":
        ref = wanted or state.wanted
        return Spec("index", location, ref, None, location.partition("/")[0], location + (f"@{ref}" if ref else ""))
    raise InstallError(f"{label} was installed from a {kind}, which is not asked for newer versions")
