"""The façade of installing: source, manifest, environment and store in one change that succeeds or leaves nothing."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from agenthub import __version__
from agenthub.errors import AgentNotFoundError, InstallError, InvalidManifestError, PermissionDeniedError, StoreError
from agenthub.manifest import AgentManifest, read_manifest
from agenthub.packages.names import check_name
from agenthub.packages.record import InstallRecord, environment_digest, now
from agenthub.packages.sources import Fetched, fetch
from agenthub.packages.spec import Spec, parse_spec
from agenthub.packages.store import Store
from agenthub.runtime.agent_runtime import AgentRuntime, needs_python
from agenthub.runtime.runs.locator import LocatedAgent, locate_directory
from agenthub.runtime.runs.permissions import asked_permissions
from agenthub.runtime.runs.variables import undeclared_hints

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.runtime.environment_manager import Environment


class InstallOptions(NamedTuple):
    """What a caller may say of one installation.

    Attributes:
        identity: `owner/name` to install as; None: the source's owner and the manifest's name.
        python: interpreter to use instead of what the manifest asks for: range, version or path.
        extra: further requirements for its environment.
        force: install although the same content is installed already.
        allow_commands: run the manifest's installation commands, where nothing declarative describes the environment.
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
    consent: Callable[[Plan], None] | None = None
    on_progress: Callable[[str], None] | None = None


class Plan(NamedTuple):
    """What an installation would do; `current` is the installed version that it replaces."""

    spec: Spec
    owner: str
    name: str
    manifest: AgentManifest
    fetched: Fetched
    directory: str
    dependencies: str
    current: InstallRecord | None


class Installed(NamedTuple):
    """What an installation did; `changed` is False where the same content was there already."""

    record: InstallRecord
    directory: str
    changed: bool


class AgentInstaller:
    """Installs agents, and repairs them.

    Args:
        runtime: whose store and environments are used.
    """

    def __init__(self, runtime: AgentRuntime) -> None:
        self.runtime = runtime
        self.store = Store(runtime.settings.paths)  # the user's own, also inside a project
        self.environments = runtime.environment_manager

    def install(self, text: str, options: InstallOptions, cwd: str | None = None) -> Installed:
        """Installs the agent that a SPEC names.

        Raises:
            InstallError: the source cannot be had or is refused, or the store cannot be written.
            InvalidManifestError: the agent's manifest is missing or wrong.
            EnvironmentError: its environment cannot be made.
            PermissionDeniedError: `consent` refused, or its installation commands are not allowed.
        """
        spec = parse_spec(text, cwd)
        self.store.sweep()
        with self.store.new_staging() as staging:
            tree = os.path.join(staging, "tree")
            fetched = fetch(spec, tree, options.on_progress)
            manifest = _manifest(tree, spec)
            asked_permissions(manifest)  # refuses what cannot be held
            owner, name = _identity(spec, manifest, options.identity)
            current = self._current(owner, name)
            if not options.force and self._is_same(current, fetched):
                assert current is not None
                return Installed(current, self.store.current_version_dir(owner, name), False)
            kind = self.environments.dependency_source(tree, manifest).kind
            plan = Plan(spec, owner, name, manifest, fetched, tree, kind, current)
            if options.consent is not None:
                options.consent(plan)
            return self._commit(plan, options)

    def _commit(self, plan: Plan, options: InstallOptions) -> Installed:
        say = options.on_progress or (lambda line: None)
        owner, name = plan.owner, plan.name

        def waiting() -> None:
            say(f"waiting for another installation of {owner}/{name}")

        with self.store.agent_lock(owner, name, waiting):
            current = self._current(owner, name)
            if current != plan.current and self._is_same(current, plan.fetched):  # another one was faster
                assert current is not None
                return Installed(current, self.store.current_version_dir(owner, name), False)
            version, digest = plan.manifest.version, plan.fetched.digest
            with self.store.prepare_version(owner, name, version, digest, plan.directory) as place:
                record = self._build(plan, place, options)
                self.store.complete_version(place, record)
                self.store.activate(place)
            if self.environments.config.auto_cleanup:
                for superseded in self.store.superseded(owner, name):
                    self.store.remove_version(superseded)
        return Installed(record, place, True)

    def _current(self, owner: str, name: str) -> InstallRecord | None:
        try:
            return self.store.read_record(owner, name)
        except AgentNotFoundError:
            return None
        except StoreError as error:
            if "newer" in error.message:
                raise
            return None  # broken: installing again is the repair

    def _is_same(self, current: InstallRecord | None, fetched: Fetched) -> bool:
        """Whether exactly this content is installed, and its environment is sound."""
        if current is None or current.digest != fetched.digest:
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
            environment = self.environments.build(agent.directory, agent.manifest, on_progress=on_progress)
            self.store.complete_version(agent.directory, record._replace(**_environment_fields(record, environment)))
            self.store.forget_summary()


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
