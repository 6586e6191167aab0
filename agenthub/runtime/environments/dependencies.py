"""What an agent depends on: the one source that counts, and what is in it."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from agenthub.errors import InvalidManifestError
from agenthub.runtime.environments.state import normalised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.manifest import AgentManifest

LOCK = "uv.lock"
PROJECT = "pyproject.toml"
REQUIREMENTS = "requirements.txt"

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


class Dependencies(NamedTuple):
    """Where an agent's dependencies are declared.

    kind: `"uv.lock"`, `"pyproject.toml"`, `"requirements.txt"`, `"manifest"` or `"none"`.
    requirements: requirement strings, for kind `"manifest"` only; the files are read by the installing tool.
    """

    kind: str
    requirements: tuple[str, ...] = ()


def dependency_source(agent_dir: str, manifest: AgentManifest | None) -> Dependencies:
    """The source that counts: the manifest's list, the file it names, else the first of lock, project, requirements.

    An empty list in the manifest says that there are none. A lock counts together with its project file only, and
    wherever the project file would count.

    Raises:
        InvalidManifestError: the manifest names a file that is not there, or of another kind.
    """
    declared = manifest.dependencies if manifest else None
    present = [name for name in (LOCK, PROJECT, REQUIREMENTS) if os.path.isfile(os.path.join(agent_dir, name))]
    if isinstance(declared, str):
        name = LOCK if declared == PROJECT and LOCK in present else declared
        if name not in (LOCK, PROJECT, REQUIREMENTS):
            raise InvalidManifestError(
                f"{_named(manifest, agent_dir)}: dependencies is '{declared}', neither a list nor a known file",
                suggestion=f"list requirements, or name {PROJECT} or {REQUIREMENTS}",
            )
        missing = [needed for needed in {declared, name} if needed not in present]
        if name == LOCK and PROJECT not in present:
            missing = [PROJECT]
        if missing:
            raise InvalidManifestError(
                f"{_named(manifest, agent_dir)}: its dependencies are in {missing[0]}, which is not there",
                suggestion=f"add {missing[0]} beside agent.yaml, or list the dependencies in agent.yaml",
            )
        return Dependencies(name)
    if declared is not None:
        return Dependencies("manifest", declared)
    if LOCK in present and PROJECT in present:
        return Dependencies(LOCK)
    files = [name for name in present if name != LOCK]
    return Dependencies(files[0] if files else "none")


def _named(manifest: AgentManifest | None, agent_dir: str) -> str:
    return manifest.name if manifest else os.path.basename(os.path.abspath(agent_dir))


def read_project(agent_dir: str) -> dict[str, Any]:
    """The content of `pyproject.toml`; empty where there is none.

    Raises:
        InvalidManifestError: it is not TOML.
    """
    return _read_toml(os.path.join(agent_dir, PROJECT))


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidManifestError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise InvalidManifestError(f"cannot read {path}: {error.strerror}") from None


def python_request(agent_dir: str, manifest: AgentManifest | None, source: Dependencies) -> str:
    """The range of Python versions that manifest and project file ask for together; "" where neither does.

    Raises:
        InvalidManifestError: the project file names a program in place of versions.
    """
    ranges = [manifest.python_version] if manifest and manifest.python_version else []
    if source.kind in (LOCK, PROJECT):
        declared = read_project(agent_dir).get("project", {}).get("requires-python", "")
        if os.sep in str(declared):  # it would be started, before anybody was asked
            raise InvalidManifestError(
                f"{PROJECT}: requires-python is a range of versions, and {declared!r} is none",
                suggestion="write for example >=3.11",
            )
        if isinstance(declared, str) and declared.strip() and declared.strip() not in ranges:
            ranges.append(declared.strip())
    return ",".join(ranges)


def needs_project(agent_dir: str, manifest: AgentManifest | None) -> bool:
    """Whether the agent's own project has to be installed for its entry point to be found.

    See docs/decisions/0003-project-itself.md.
    """
    if manifest is None:
        return False
    kind, target, argv = manifest.entrypoint
    if kind == "python":
        top = target.partition(":")[0].partition(".")[0]
        found = any(os.path.exists(os.path.join(agent_dir, name)) for name in (top, f"{top}.py"))
        return not found and "build-system" in read_project(agent_dir)
    if kind == "command" and argv and not os.path.exists(os.path.join(agent_dir, argv[0])):
        project = read_project(agent_dir)
        return "build-system" in project and argv[0] in project.get("project", {}).get("scripts", {})
    return False


def project_name(agent_dir: str) -> str:
    """The name of the agent's own project, "" where it has none."""
    return str(read_project(agent_dir).get("project", {}).get("name", ""))


def locked_constraints(agent_dir: str) -> list[str]:
    """`name==version` for each registry package of which `uv.lock` holds exactly one version.

    A package locked in several versions (one for each platform or Python) stays open: only uv can tell them apart.
    """
    versions: dict[str, set[str]] = {}
    for package in _read_toml(os.path.join(agent_dir, LOCK)).get("package", ()):
        if "registry" in package.get("source", {}) and "version" in package:
            versions.setdefault(package["name"], set()).add(package["version"])
    return [f"{name}=={found.pop()}" for name, found in sorted(versions.items()) if len(found) == 1]


def requirement_name(requirement: str) -> str:
    """The normalised name in a requirement; "" for a path or a URL."""
    if "://" in requirement.partition("@")[0] or requirement.startswith((".", "/")):
        return ""
    match = _NAME.match(requirement)
    return normalised(match.group(1)) if match else ""
