"""From what `agents.toml` asks for to what `agents.lock` fixes. What is fixed stays, unless it is asked to move."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from agenthub.errors import EnvironmentError, InstallError
from agenthub.projects.home import content_digest
from agenthub.projects.lock_file import Lock, LockedAgent
from agenthub.projects.parallel import in_parallel
from agenthub.runtime.agent_runtime import needs_python
from agenthub.runtime.environments.pins import lock_pins
from agenthub.runtime.runs.locator import LocatedAgent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agenthub.projects.project_file import Project, Wanted
    from agenthub.projects.trees import Tree, Trees
    from agenthub.runtime.environment_manager import EnvironmentManager
    from agenthub.runtime.environments.pins import Pin

    Say = Callable[[str], None]
    # Asked before anything that these agents bring may run; refuses by raising.
    Consent = Callable[[Sequence[tuple[str, Tree]]], None]


class Job(NamedTuple):
    """An agent that has to be locked: what is wanted, its content, and what the lock had of it.

    Attributes:
        wanted: what is asked for.
        tree: its content.
        keep: what is locked of its source; None: that is chosen anew.
        known: packages that are kept where they still fit.
    """

    wanted: Wanted
    tree: Tree
    keep: LockedAgent | None
    known: tuple[Pin, ...]


def lock_project(
    project: Project,
    lock: Lock | None,
    trees: Trees,
    environments: EnvironmentManager,
    consent: Consent,
    *,
    upgrade: Collection[str] | None = (),
    say: Say = lambda line: None,
) -> tuple[LockedAgent, ...]:
    """What the lock of a project is now.

    Args:
        project: what is wanted.
        lock: what there is; what still fits is kept, with each of its packages.
        trees: where content is fetched.
        environments: resolves dependencies.
        consent: asked once for all agents whose dependencies have to be resolved: that may build packages.
        upgrade: labels of agents whose versions, commits and packages are chosen anew; None: all of them.
        say: called with a line of what is being done.

    Raises:
        InstallError: a source cannot be had, or two of them do not go together.
        EnvironmentError: dependencies cannot be resolved, or cannot be fixed.
        PermissionDeniedError: `consent` refused.
    """
    same_python = lock is not None and lock.python == project.python
    jobs, kept = [], []
    for wanted in project.agents:
        old = None if upgrade is None or wanted.label in upgrade else lock and lock.find(wanted.owner, wanted.name)
        keep = _kept(wanted, old) if old else None
        if keep is not None and same_python and _is_as_locked(project, keep):
            kept.append(keep)
        else:
            jobs.append((wanted, keep, old.pins if old else ()))
    fetched = in_parallel(
        [partial(_fetch, trees, *job) for job in jobs],
        [wanted.label for wanted, *_ in jobs],
    )
    resolving = [job for job in fetched if not (same_python and _is_unmoved(job))]
    if to_ask := [(job.wanted.label, job.tree) for job in resolving if _has_dependencies(environments, job.tree)]:
        consent(to_ask)
    locked = in_parallel(
        [partial(lock_one, job, project.python, environments, say) for job in resolving],
        [job.wanted.label for job in resolving],
    )
    unmoved = [job.keep for job in fetched if job not in resolving and job.keep is not None]
    agents = tuple(sorted((*kept, *unmoved, *locked), key=lambda one: (one.owner, one.name)))
    check_requirements(agents)
    return agents


def _kept(wanted: Wanted, old: LockedAgent) -> LockedAgent | None:
    """What is locked, where it is still what is wanted."""
    if old.source == wanted.source or ("path" in old.source and "path" in wanted.source):
        return old._replace(source=wanted.source)
    if "version" in old.source and "version" in wanted.source:
        from agenthub.packages.versions import matching

        if matching(wanted.source["version"], [old.version]):
            return old._replace(source=wanted.source)
    return None


def _is_as_locked(project: Project, known: LockedAgent) -> bool:
    """Whether an agent is known to be what was locked without looking further than this machine."""
    path = known.source.get("path")
    return path is None or content_digest(project.directory, path) == (known.archive or known.digest)


def _fetch(trees: Trees, wanted: Wanted, keep: LockedAgent | None, known: tuple[Pin, ...]) -> Job:
    return Job(wanted, trees.wanted(wanted, keep), keep, known)


def _is_unmoved(job: Job) -> bool:
    """Whether what was fetched is just what is locked: so are its packages."""
    keep = job.keep
    return keep is not None and keep == _unlocked(job)._replace(python=keep.python, pins=keep.pins)


def _has_dependencies(environments: EnvironmentManager, tree: Tree) -> bool:
    return environments.dependency_source(tree.directory, tree.manifest).kind != "none"


def _unlocked(job: Job) -> LockedAgent:
    """All that is fixed of an agent but its packages."""
    wanted, (_, fetched, manifest, _) = job.wanted, job.tree
    return LockedAgent(
        wanted.owner,
        wanted.name,
        str(fetched.source.get("version") or manifest.version),
        wanted.source,
        fetched.digest,
        fetched.source.get("archive_digest"),
        fetched.commit,
        None,
        dict(manifest.requires),
        (),
    )


def lock_one(job: Job, python: str, environments: EnvironmentManager, say: Say) -> LockedAgent:
    """Fixes an agent's Python and packages.

    Raises:
        EnvironmentError: they cannot be resolved, or only its own commands say what they are.
    """
    directory, _, manifest, _ = job.tree
    label = job.wanted.label
    if manifest.commands and environments.dependency_source(directory, manifest).kind == "none":
        raise EnvironmentError(
            f"{label} is installed by its own commands, and no lock can fix what they do",
            suggestion="declare its dependencies in agent.yaml, requirements.txt or pyproject.toml",
        )
    located = LocatedAgent(directory, "", manifest.name, manifest, None)
    unlocked = _unlocked(job)
    if not needs_python(located) and environments.dependency_source(directory, manifest).kind == "none":
        return unlocked
    say(f"resolving {label}")
    request, pins = lock_pins(
        directory,
        manifest,
        python,
        preferred=environments.config.python_version,
        known=job.known,
        offline=environments.offline,
        on_progress=say,
    )
    return unlocked._replace(python=request, pins=pins)


def check_requirements(agents: Sequence[LockedAgent]) -> None:
    """Raises InstallError where an agent requires another that the project does not have, or not in such a version."""
    from agenthub.packages.versions import matching

    versions = {one.label: one.version for one in agents}
    for one in agents:
        for label, wanted in one.requires.items():
            if label not in versions:
                raise InstallError(
                    f"{one.label} requires {label} {wanted}, which is not in agents.toml",
                    suggestion=f"agenthub add '{label}@{wanted}'",
                )
            if not matching(wanted, [versions[label]]):
                raise InstallError(
                    f"{one.label} {one.version} requires {label} {wanted}, and {versions[label]} is locked",
                    suggestion=f"change what agents.toml asks for, or: agenthub lock --upgrade {label}",
                )
