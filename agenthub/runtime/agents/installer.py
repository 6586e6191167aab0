"""The façade of installing: source, manifest, environment and store in one change that succeeds or leaves nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any, NamedTuple

from agenthub.errors import AgentNotFoundError, InstallError, InvalidManifestError, StoreError
from agenthub.manifest import AgentManifest, read_manifest
from agenthub.packages.names import check_name
from agenthub.packages.record import InstallRecord
from agenthub.packages.sources import Fetched, fetch
from agenthub.packages.spec import Spec, parse_spec
from agenthub.packages.store import Store
from agenthub.packages.versions import LATEST
from agenthub.runtime.agent_runtime import AgentRuntime
from agenthub.runtime.agents.building import build_version, environment_fields, requested
from agenthub.runtime.runs.locator import LocatedAgent, locate_directory
from agenthub.runtime.runs.permissions import asked_permissions
from agenthub.trust.contents import relist_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.indexes.client import IndexClient
    from agenthub.runtime.environments.pinned import Pins


class InstallOptions(NamedTuple):
    """What a caller may say of one installation.

    Attributes:
        identity: `owner/name` to install as; None: the source's owner and the manifest's name.
        python: interpreter to use instead of what the manifest asks for: range, version or path.
        extra: further requirements for its environment.
        force: install although the same content is installed already.
        allow_commands: run the manifest's installation commands, where nothing declarative describes the environment.
        note_wanted: an index's version that was asked for is the one that upgrades stay with.
        alone: what installed agents need of it does not count.
        compile_bytecode: now, and not at the first run: for the images of containers.
        consent: called with the plan before anything of the agent runs or is installed; refuses by raising.
        on_progress: called with a line of what is being done.
    """

    identity: str | None = None
    python: str | None = None
    extra: tuple[str, ...] = ()
    force: bool = False
    allow_commands: bool = False
    compile_bytecode: bool = False
    note_wanted: bool = True
    alone: bool = False
    consent: Callable[[Plan], None] | None = None
    on_progress: Callable[[str], None] | None = None


class Plan(NamedTuple):
    """What an installation would do.

    `current` is the installed version that it replaces; `required` are agents that are installed before it. `pins` are
    the packages of its environment, where somebody has fixed them, and `python` is the interpreter then.
    """

    spec: Spec
    owner: str
    name: str
    manifest: AgentManifest
    fetched: Fetched
    directory: str
    dependencies: str
    current: InstallRecord | None
    required: tuple[Plan, ...] = ()
    pins: Pins | None = None
    python: str | None = None


class Installed(NamedTuple):
    """What an installation did; `changed` is False where the same content was there already."""

    record: InstallRecord
    directory: str
    changed: bool


class AgentInstaller:
    """Installs agents, and repairs them.

    Args:
        runtime: whose settings and environments are used.
        store: where agents are installed, and superseded versions stay; None: the user's own, also inside a project.
    """

    def __init__(self, runtime: AgentRuntime, store: Store | None = None) -> None:
        self.runtime = runtime
        self.store = store or Store(runtime.settings.paths)
        self._prunes = store is None
        self.environments = runtime.environment_manager
        self._client: IndexClient | None = None

    @property
    def client(self) -> IndexClient:
        """Asks the indexes; made when it is needed."""
        if self._client is None:
            from agenthub.indexes.client import IndexClient

            self._client = IndexClient(self.runtime.settings)
        return self._client

    def install(self, text: str, options: InstallOptions, cwd: str | None = None) -> Installed:
        """Installs the agent that a SPEC names.

        Raises:
            InstallError: the source cannot be had or is refused, or the store cannot be written.
            InvalidManifestError: the agent's manifest is missing or wrong.
            EnvironmentError: its environment cannot be made.
            PermissionDeniedError: `consent` refused, or its installation commands are not allowed.
        """
        return self.install_spec(parse_spec(text, cwd), options)

    def install_spec(self, spec: Spec, options: InstallOptions) -> Installed:
        """Installs the agent from a source; raises as `install` does."""
        self.store.sweep()
        with ExitStack() as stack:
            plan = self._plan(spec, options, stack)
            plan = plan._replace(required=self._required(plan, options, stack))
            if options.force or plan.required or not self.is_same(plan, options):
                if options.consent is not None:
                    options.consent(plan)
            elif not _is_newer_source(plan):
                return self._unchanged(plan)
            for required in plan.required:
                self.commit(required, _options_of(required, options))
            return self.commit(plan, options)

    def _plan(self, spec: Spec, options: InstallOptions, stack: ExitStack) -> Plan:
        """Fetches an agent into a directory that is there as long as `stack`, and says what installing it would do."""
        tree = os.path.join(stack.enter_context(self.store.new_staging()), "tree")
        fetch_index = None
        if spec.kind == "index":
            from agenthub.runtime.agents.from_index import index_fetcher

            fetch_index = index_fetcher(self.runtime.settings, self.client)
        fetched = fetch(spec, tree, options.on_progress, fetch_index=fetch_index)
        return self.plan_for(spec, tree, fetched, options)

    def plan_for(self, spec: Spec, tree: str, fetched: Fetched, options: InstallOptions) -> Plan:
        """What installing a tree that was fetched would do; raises as `install` does."""
        manifest = _manifest(tree, spec)
        asked_permissions(manifest)  # refuses what cannot be held
        owner, name = _identity(spec, manifest, options.identity)
        kind = self.environments.dependency_source(tree, manifest).kind
        return Plan(spec, owner, name, manifest, fetched, tree, kind, self._current(owner, name))

    def _required(self, plan: Plan, options: InstallOptions, stack: ExitStack) -> tuple[Plan, ...]:
        """What is installed with an agent, because it needs that, or others do once it is there."""
        from agenthub.runtime.agents.needs import needed_specs

        label, version = f"{plan.owner}/{plan.name}", plan.manifest.version
        if plan.current is not None and plan.current.digest == plan.fetched.digest and not plan.manifest.requires:
            return ()
        specs = needed_specs(
            self.store, lambda: self.client, label, version, plan.manifest.requires, alone=options.alone
        )
        return tuple(self._plan(spec, options._replace(identity=spec.location), stack) for spec in specs)

    def commit(self, plan: Plan, options: InstallOptions) -> Installed:
        """Does what a plan says, whose tree may be moved away; raises as `install` does."""
        say = options.on_progress or (lambda line: None)
        owner, name = plan.owner, plan.name

        def waiting() -> None:
            say(f"waiting for another installation of {owner}/{name}")

        with self.store.agent_lock(owner, name, waiting):
            now = plan._replace(current=self._current(owner, name))
            if options.note_wanted:
                self._note_wanted(plan)
            faster = now.current != plan.current  # another one was
            if (faster or not options.force) and self.is_same(now, options):
                return self._unchanged(now)
            if plan.fetched.accepted is not None:
                plan.fetched.accepted()
            installed = None if options.force else self._kept(plan, options)
            if installed is None:
                version, digest = plan.manifest.version, plan.fetched.digest
                with self.store.prepare_version(owner, name, version, digest, plan.directory) as place:
                    record = build_version(self.environments, plan, place, options)
                    self.store.complete_version(place, record)
                    self.store.activate(place)
                installed = Installed(record, place, True)
            if self._prunes and self.environments.config.auto_cleanup:
                self.store.prune(owner, name, self.runtime.settings["keep_versions"])
        return installed

    def _kept(self, plan: Plan, options: InstallOptions) -> Installed | None:
        """Goes to an earlier version with exactly this content from this place, where there is one that is sound."""
        for kept in self.store.versions(plan.owner, plan.name):
            record = kept.record
            if (
                not kept.current
                and record.digest == plan.fetched.digest
                and _same_place(record.source, plan.fetched.source)
                and record.requested == requested(options)
                and not self.problems(locate_directory(kept.directory, self.store))
            ):
                record = record._replace(source=plan.fetched.source)
                if record != kept.record:
                    self.store.complete_version(kept.directory, record)
                self.store.activate(kept.directory)
                return Installed(record, kept.directory, True)
        return None

    def _unchanged(self, plan: Plan) -> Installed:
        """The installed version, whose content is what was asked for; its record learns of a commit that is newer."""
        current = plan.current
        assert current is not None
        directory = self.store.current_version_dir(plan.owner, plan.name)
        if _is_newer_source(plan):
            if plan.fetched.accepted is not None:
                plan.fetched.accepted()
            current = current._replace(source=plan.fetched.source)
            self.store.complete_version(directory, current)
            self.store.forget_summary()
        return Installed(current, directory, False)

    def _note_wanted(self, plan: Plan) -> None:
        """Remembers which versions the user asked an index for: upgrades stay among them."""
        if plan.spec.kind != "index":
            return
        wanted = None if plan.spec.ref in (None, LATEST) else plan.spec.ref
        state = self.store.read_state(plan.owner, plan.name)
        if state.wanted != wanted:
            self.store.write_state(plan.owner, plan.name, state._replace(wanted=wanted))

    def _current(self, owner: str, name: str) -> InstallRecord | None:
        try:
            return self.store.read_record(owner, name)
        except AgentNotFoundError:
            return None
        except StoreError as error:
            if "newer" in error.message:
                raise
            return None  # broken: installing again is the repair

    def is_same(self, plan: Plan, options: InstallOptions) -> bool:
        """Whether exactly what a plan has is installed, with what the user asks for besides, and sound."""
        current, asked = plan.current, requested(options)
        if current is None or current.digest != plan.fetched.digest or (asked and asked != current.requested):
            return False
        return not self.problems(
            locate_directory(self.store.current_version_dir(current.owner, current.name), self.store)
        )

    def problems(self, agent: LocatedAgent, *, deep: bool = False) -> list[str]:
        """What is wrong with an installed agent's environment; empty where nothing is."""
        record = agent.record
        if record is None or record.interpreter is None:
            return []
        venv = os.path.join(agent.directory, self.environments.config.venv_location)
        expected = [(package["name"], package["version"]) for package in record.dependencies]
        return self.environments.check(venv, expected, deep=deep)

    def repair(self, agent: LocatedAgent, on_progress: Callable[[str], None] | None = None) -> None:
        """Builds an installed agent's environment again, with the same versions where they are still to be had.

        Raises:
            EnvironmentError: it cannot be built; the broken one stays.
        """
        record = agent.record
        assert record is not None
        with self.store.agent_lock(record.owner, record.name):
            environment = self.environments.build(
                agent.directory,
                agent.manifest,
                python=record.requested.get("python"),
                extra=record.requested.get("with", ()),
                on_progress=on_progress,
            )
            files = relist_environment(agent.directory, self.environments.config.venv_location)
            fields = {**environment_fields(record, environment), "environment_files": files}
            self.store.complete_version(agent.directory, record._replace(**fields))
            self.store.forget_summary()


def _options_of(required: Plan, options: InstallOptions) -> InstallOptions:
    """How an agent is installed that another one needs: as it was before, where it was."""
    asked = required.current.requested if required.current else {}
    return options._replace(
        identity=f"{required.owner}/{required.name}",
        python=asked.get("python"),
        extra=tuple(asked.get("with", ())),
        force=False,
        note_wanted=False,
    )


def _is_newer_source(plan: Plan) -> bool:
    """Whether the same place has the installed content under another commit or version."""
    source = plan.current.source if plan.current else {}
    return source != plan.fetched.source and _same_place(source, plan.fetched.source)


def _same_place(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sources are the same repository, index or path, be it at other times."""
    return all(one.get(key) == other.get(key) for key in ("kind", "location", "subdirectory", "index"))


def _manifest(tree: str, spec: Spec) -> AgentManifest:
    """The manifest of a fetched tree; complaints name the source, not the staging directory."""
    try:
        return read_manifest(tree)
    except InvalidManifestError as error:
        message = error.message.replace(f"{tree}/", "").replace(tree, spec.text)
        raise InvalidManifestError(
            f"{spec.text}: {message}" if spec.text not in message else message,
            suggestion=f"agenthub validate {spec.text} checks it again" if spec.kind == "directory" else None,
            details=error.details,
        ) from None


def _identity(spec: Spec, manifest: AgentManifest, wanted: str | None) -> tuple[str, str]:
    if wanted is None:
        return check_name(spec.owner, "owner"), check_name(manifest.name.lower())
    owner, slash, name = wanted.partition("/")
    if not slash:
        raise InstallError(f"--as {wanted!r} is not owner/name")
    return check_name(owner, "owner"), check_name(name)
