"""Which project the working directory belongs to, and the versions that projects use.

A project's links lie in our home, by the project's path: a repository that somebody wrote cannot bring any.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agenthub.config import Paths

PROJECT_FILE = "agents.toml"
LOCK_FILE = "agents.lock"
_LONGEST = 200  # bytes of a directory's name; file systems take 255


def current_project(paths: Paths, directory: str | None = None) -> str | None:
    """The home (see `project_home`) of the project that `directory` is in, if it was ever synced.

    One look at the disk where no project ever was.

    Args:
        paths: of the store.
        directory: None: the working directory.
    """
    if not os.path.isdir(paths.projects):
        return None
    project = find_project(directory)
    home = project and project_home(paths, project)
    return home if home and os.path.isdir(home) else None


def find_project(directory: str | None = None) -> str | None:
    """The nearest directory, upwards from `directory` (None: the working directory), with an `agents.toml`."""
    try:
        here = os.path.realpath(directory) if directory else os.getcwd()
    except FileNotFoundError:  # the working directory was removed under us
        return None
    while not os.path.isfile(os.path.join(here, PROJECT_FILE)):
        here, last = os.path.dirname(here), here
        if here == last:
            return None
    return here


def require_project() -> str:
    """The directory of the project that the working directory is in.

    Raises:
        AgentNotFoundError: it is in none.
    """
    found = find_project()
    if found is None:
        from agenthub.errors import AgentNotFoundError

        raise AgentNotFoundError(
            f"there is no {PROJECT_FILE} here or above",
            suggestion="agenthub add SPEC makes one; for you alone, without a project: agenthub install and uninstall",
        )
    return found


def project_home(paths: Paths, project: str) -> str:
    """Where a project's links and its stamp are kept; `project` is its real path. Made by nobody but `sync`."""
    name = project.replace(os.sep, "+")
    if "+" in project or len(os.fsencode(name)) > _LONGEST:
        import hashlib

        name = hashlib.sha256(os.fsencode(project)).hexdigest()[:40]
    return os.path.join(paths.projects, name)


def links_of(home: str) -> str:
    """The directory of a project's links: `<owner>/<name>`, as `agents/` is for the user."""
    return os.path.join(home, "agents")


def grants_of(home: str) -> str:
    """Where it is kept what the user granted a project's agents: not what the user's own of the same names have."""
    return os.path.join(home, "grants")


def link_target(link: str) -> str | None:
    """The version that a link names, whether it is there or not; None where there is no link."""
    try:
        return os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    except OSError:
        return None


def project_links(home: str) -> Iterator[tuple[str, str, str]]:
    """Owner, name and version of each of a project's links."""
    root = links_of(home)
    for owner in _names(root):
        for name in _names(os.path.join(root, owner)):
            target = link_target(os.path.join(root, owner, name))
            if target is not None:
                yield owner, name, target


def referenced_versions(paths: Paths) -> set[str]:
    """The version directories that projects use. Under an agent's lock none of its versions joins or leaves them."""
    homes = [os.path.join(paths.projects, name) for name in _names(paths.projects)]
    return {target for home in homes for _, _, target in project_links(home)}


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
