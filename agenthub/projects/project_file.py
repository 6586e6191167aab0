"""`agents.toml`: which agents a project wants."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InvalidInputError
from agenthub.packages.names import is_name
from agenthub.packages.project_links import PROJECT_FILE
from agenthub.packages.spec import Spec, parse_spec, redacted
from agenthub.projects.conflicts import refuse_conflicts
from agenthub.projects.files import read_bytes

_KEYS = {
    "path": {"path"},
    "git": {"git", "ref", "subdirectory"},
    "index": {"index", "version"},
}


class Wanted(NamedTuple):
    """One agent that a project wants.

    Attributes:
        owner: what it is called in this project, whatever its source says.
        name: the same.
        source: what is asked for, as it stands in a lock too: `{"version": range}`, `{"path": …}` relative to the
            project, or `{"git": …}` with `ref` and `subdirectory` where they are given.
        at: the index to take it from, for `version`; None: the one that the owner belongs to.
    """

    owner: str
    name: str
    source: dict[str, str]
    at: str | None = None

    @property
    def label(self) -> str:
        return f"{self.owner}/{self.name}"


class Project(NamedTuple):
    """A project: its real directory, the Python that it asks for besides what agents do ("": any), its agents."""

    directory: str
    python: str
    agents: tuple[Wanted, ...]

    @property
    def path(self) -> str:
        """Its `agents.toml`."""
        return os.path.join(self.directory, PROJECT_FILE)


def read_project(directory: str) -> Project:
    """The project in `directory`; raises as `parse_project` does."""
    return parse_project(directory, read_bytes(os.path.join(directory, PROJECT_FILE)))


def parse_project(directory: str, data: bytes) -> Project:
    """The project in `directory`, whose `agents.toml` holds `data`.

    Raises:
        InvalidInputError: something in it is not understood; says what.
    """
    import tomllib

    path = os.path.join(directory, PROJECT_FILE)
    try:
        text = data.decode()
        refuse_conflicts(text, path)
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number with more digits than Python reads
        raise InvalidInputError(f"{path} is not valid TOML: {error}") from None
    _refuse_unknown(values, {"project", "agents"}, path, "")
    project, agents = values.get("project", {}), values.get("agents", {})
    if not isinstance(project, dict) or not isinstance(agents, dict):
        raise InvalidInputError(f"{path}: [project] and [agents] are tables")
    _refuse_unknown(project, {"python"}, path, "project.")
    python = project.get("python", "")
    if not isinstance(python, str):
        raise InvalidInputError(f'{path}: project.python is a text, such as ">=3.12"')
    if python:
        check_python(python, path, "project.python")
    wanted = [_wanted(directory, key, entry, path) for key, entry in agents.items()]
    return Project(directory, python.strip(), tuple(sorted(wanted, key=lambda one: (one.owner, one.name))))


def _refuse_unknown(values: dict[str, Any], known: set[str], path: str, prefix: str) -> None:
    for key in values:
        if key not in known:
            raise InvalidInputError(
                f"{path}: '{prefix}{key}' is not understood", suggestion=f"known here: {', '.join(sorted(known))}"
            )


def check_python(python: str, path: str, what: str) -> None:
    """Raises InvalidInputError where `python` is not a range of versions: a program of whoever wrote `path`, say."""
    from agenthub.runtime.environments.interpreters import matcher

    if os.sep in python:
        raise InvalidInputError(f"{path}: {what} is a version or a range, and no program of this machine")
    try:
        matcher(python)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.message}", suggestion=error.suggestion) from None


def _wanted(directory: str, key: str, entry: Any, path: str) -> Wanted:
    owner, _, name = key.partition("/")
    if not (is_name(owner) and is_name(name)):
        raise InvalidInputError(f"{path}: '{key}' is not owner/name", suggestion='write "owner/name" = ">=1,<2"')
    where = f"{path}: {key}"
    if isinstance(entry, str):
        entry = {"version": entry}
    if not isinstance(entry, dict) or not all(isinstance(value, str) and value for value in entry.values()):
        raise InvalidInputError(f"{where} is neither a range of versions nor a table of texts")
    kind = next((kind for kind in ("path", "git") if kind in entry), "index")
    _refuse_unknown(entry, _KEYS[kind], path, f"{key}.")
    if kind == "index":
        return Wanted(owner, name, {"version": _range(entry.get("version", "*"), where)}, entry.get("index"))
    if kind == "path":
        return Wanted(owner, name, {"path": relative_to(directory, entry["path"])})
    return Wanted(owner, name, _git_source(directory, entry, where))


def _range(text: str, where: str) -> str:
    from agenthub.packages.versions import parse_range

    try:
        parse_range(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error.message}", suggestion=error.suggestion) from None
    return text.strip()


def relative_to(directory: str, path: str) -> str:
    """A path as it means the same on every machine: relative to the project."""
    whole = os.path.join(directory, os.path.expanduser(path))
    return os.path.relpath(os.path.realpath(os.path.dirname(whole)) + os.sep + os.path.basename(whole), directory)


def _git_source(directory: str, entry: dict[str, str], where: str) -> dict[str, str]:
    try:
        return git_source(directory, git_spec(directory, entry))
    except AgentRuntimeError as error:
        if isinstance(error, AgentNotFoundError):  # a repository that is not there now: said when it is fetched
            return {**entry, "git": relative_to(directory, entry["git"])}
        raise InvalidInputError(f"{where}: {error.message}", suggestion=error.suggestion) from None


def git_source(directory: str, spec: Spec) -> dict[str, str]:
    """A git source as agents.toml and the lock have it.

    Raises:
        InvalidInputError: its URL has a password in it.
    """
    location = spec.location.removeprefix("file://")
    if redacted(location) != location:
        raise InvalidInputError(
            f"{redacted(location)} has a password in it, which everybody could read in {PROJECT_FILE}",
            suggestion="leave it out, and let git ask its credential helper",
        )
    source = {"git": relative_to(directory, location) if location.startswith(os.sep) else location}
    source |= {"ref": spec.ref} if spec.ref else {}
    return source | ({"subdirectory": spec.subdirectory} if spec.subdirectory else {})


def git_spec(directory: str, source: dict[str, str], ref: str | None = None) -> Spec:
    """What to fetch of a git source; `ref`, if given, in place of its own.

    Raises:
        InstallError: the URL, the ref or the subdirectory is refused.
        AgentNotFoundError: it is a path, and there is no repository.
    """
    address = source["git"]
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:[\w.][\w.-]*@)?[\w.][\w.-]*:", address):
        address = os.path.join(directory, address)
    ref = ref or source.get("ref")
    text = f"git+{address}" + (f"@{ref}" if ref else "")
    if "subdirectory" in source:
        text += f"#subdirectory={source['subdirectory']}"
    return parse_spec(text, directory)
