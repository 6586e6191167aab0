"""Installs what a bundle has: after one consent, agent by agent, each of them as any installation is."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import NamedTuple

from agenthub.errors import InstallError, InvalidInputError, PermissionDeniedError
from agenthub.packages.project_links import LOCK_FILE, find_project
from agenthub.packages.sources import Fetched
from agenthub.packages.spec import Spec
from agenthub.packages.versions import matching
from agenthub.projects.files import LARGEST, read_bytes
from agenthub.runtime.agents.installer import AgentInstaller, Installed, InstallOptions, Plan
from agenthub.runtime.agents.versions import unmet_needs
from agenthub.transfer.opening import (
    BUNDLE,
    Opened,
    check_platform,
    fetch_entry,
    has_packages,
    interpreter_for,
    open_container,
    pins_for,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agenthub.packages.store import Store
    from agenthub.projects.lock_file import LockedAgent
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.environments.pinned import Pins
    from agenthub.transfer.entries import AgentEntry

    Say = Callable[[str], None]


class Job(NamedTuple):
    """An agent that a file has: what installing it would do, and whether there is anything to do."""

    entry: AgentEntry
    plan: Plan
    options: InstallOptions
    todo: bool


@contextmanager
def opened_bundle(runtime: AgentRuntime, path: str, store: Store) -> Iterator[Opened]:
    """A bundle that may be installed on this machine, checked whole.

    Raises:
        AgentNotFoundError: there is no such file.
        InstallError: it is damaged or refused.
        EnvironmentError: it is for another platform.
    """
    store.sweep()
    with store.new_staging() as scratch:
        opened = open_container(path, scratch, BUNDLE)
        check_platform(opened)
        yield opened


def install_entries(
    installer: AgentInstaller,
    opened: Opened,
    entries: Sequence[AgentEntry],
    options: InstallOptions,
    consent: Callable[[Sequence[Plan]], None],
) -> list[tuple[AgentEntry, Installed]]:
    """Installs agents of a file, those that others need first.

    Args:
        installer: does it.
        opened: the file.
        entries: which of its agents.
        options: of the installation, for all of them; with `force` all are made anew, and what agents need does not
            count, nor with `alone`.
        consent: called once with what would be done, unless that is nothing; refuses by raising.

    Raises:
        InstallError: an agent is not what the file says, or agents would lack what they need.
        PermissionDeniedError: `consent` refused, or an agent may not be believed.
        EnvironmentError: there is no such Python here, or an environment cannot be made.
    """
    jobs = _needed_first([_job(installer, opened, entry, options) for entry in entries])
    if not options.force and not options.alone:
        _check_needs(installer.store, [job.plan for job in jobs])
    todo = [job.plan for job in jobs if job.todo]
    if todo:
        consent(todo)
    return [(job.entry, installer.commit(job.plan, job.options)) for job in jobs]


def _job(installer: AgentInstaller, opened: Opened, entry: AgentEntry, options: InstallOptions) -> Job:
    if options.on_progress:
        options.on_progress(f"unpacking {entry.label}")
    settings = installer.runtime.settings
    tree = os.path.join(opened.scratch, f"{entry.owner}+{entry.name}.tree")
    fetched = fetch_entry(settings, opened, entry, tree)
    asked = entry.requested.get("python")
    options = options._replace(
        identity=entry.label,
        python=None if asked and os.sep in asked else asked,  # a program of another machine
        extra=tuple(entry.requested.get("with", ())),
        note_wanted=False,
        alone=True,
    )
    spec = Spec("archive", opened.path, None, None, entry.owner, f"{entry.label} of {opened.path}")
    plan = installer.plan_for(spec, tree, fetched, options)
    if options.extra:
        told = f"was installed with {', '.join(options.extra)} besides"
        plan = plan._replace(fetched=fetched._replace(notes=(*fetched.notes, told)))
    plan = plan._replace(
        pins=pins_for(opened, entry),
        python=interpreter_for(opened, entry, installer.environments.config.python_version),
    )
    same = installer.is_same(plan, options) and plan.current is not None and has_packages(plan.current, plan.pins)
    anew = options.force or (not same and plan.current is not None and plan.current.digest == fetched.digest)
    return Job(entry, plan, options._replace(force=anew), anew or not same)


def _needed_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs in an order in which each agent comes after those that it needs, as far as there is one."""
    by_label = {job.entry.label: job for job in jobs}
    ordered: dict[str, Job] = {}
    begun: set[str] = set()

    def take(job: Job) -> None:
        begun.add(job.entry.label)
        for label in sorted(job.plan.manifest.requires):
            if label in by_label and label not in begun:
                take(by_label[label])
        ordered[job.entry.label] = job

    for job in jobs:
        if job.entry.label not in begun:
            take(job)
    return list(ordered.values())


def _check_needs(store: Store, plans: Sequence[Plan]) -> None:
    """Whether each agent finds what it needs, and those that are installed still do."""
    versions = {f"{entry.owner}/{entry.name}": entry.version for entry in store.list_agents()}
    versions.update({f"{plan.owner}/{plan.name}": plan.manifest.version for plan in plans})
    for plan in plans:
        label = f"{plan.owner}/{plan.name}"
        for needed, wanted in sorted(plan.manifest.requires.items()):
            have = versions.get(needed)
            if have is None or not matching(wanted, [have]):
                raise InstallError(
                    f"{label} needs {needed} {wanted}, and there is {have or 'none'}",
                    suggestion="--force installs it nevertheless",
                )
        coming = {f"{other.owner}/{other.name}" for other in plans}
        unmet = unmet_needs(store, plan.owner, plan.name, plan.manifest.version)
        unmet = [sentence for sentence in unmet if sentence.split(" ", 1)[0] not in coming]
        if unmet:
            raise InstallError(
                f"{label} {plan.manifest.version} is not what others need: {unmet[0]}",
                suggestion="--force installs it nevertheless",
            )


def bundled_project(opened: Opened) -> str | None:
    """The project that the working directory is in, where the bundle is of one; its lock has to be the same.

    Raises:
        InvalidInputError: it is another lock.
    """
    inside = opened.values.get("lock")
    directory = find_project() if isinstance(inside, str) and inside in opened.places else None
    if directory is None:
        return None
    path = os.path.join(directory, LOCK_FILE)
    with open(opened.places[str(inside)], "rb") as file:
        same = file.read(LARGEST + 1) == read_bytes(path)
    if not same:
        raise InvalidInputError(
            f"{path} is not the lock that {opened.path} was made from",
            suggestion="take the lock that goes with the bundle, or bundle the project again",
        )
    return directory


class BundleSupply:
    """Has a project's locked agents from a bundle; see `agenthub.projects.supply`.

    Args:
        runtime: whose settings are used.
        opened: the bundle.
        built: take wheels that the lock has no hash of, because they were built where the bundle was made.
    """

    def __init__(self, runtime: AgentRuntime, opened: Opened, *, built: bool = False) -> None:
        self._built = built
        self._settings = runtime.settings
        self._preferred = runtime.environment_manager.config.python_version
        self._opened = opened
        self._entries = {(entry.owner, entry.name, entry.digest): entry for entry in opened.entries}

    def tree(self, locked: LockedAgent, directory: str) -> Fetched | None:
        """Puts an agent's content into `directory`."""
        entry = self._entries.get((locked.owner, locked.name, locked.digest))
        if entry is None:
            return None
        fetched = fetch_entry(self._settings, self._opened, entry, directory)
        if locked.archive and fetched.source.get("archive_digest") is None:
            # Of an archive in the project only the content came along, which is what was locked.
            fetched = fetched._replace(source={**fetched.source, "archive_digest": locked.archive})
        return fetched

    def environment(self, locked: LockedAgent) -> tuple[Pins, str] | None:
        """An agent's packages and interpreter.

        Raises:
            PermissionDeniedError: the lock does not have a package, or no hash of its wheel, and `built` is off.
        """
        entry = self._entries.get((locked.owner, locked.name, locked.digest))
        pins = pins_for(self._opened, entry) if entry is not None else None
        if entry is None or pins is None:
            return None
        hashes = {digest for pin in locked.pins for digest in pin.hashes}
        foreign = [pin.label for pin in pins.pins if not hashes.issuperset(pin.hashes)]
        if foreign and not self._built:
            raise PermissionDeniedError(
                f"{locked.label}: agents.lock has no hash of {', '.join(foreign[:5])}, "
                "which may have been built where the bundle was made",
                suggestion="--force --yes takes them, if you trust whoever made it",
            )
        return pins._replace(kind=LOCK_FILE), interpreter_for(self._opened, entry, self._preferred) or ""
