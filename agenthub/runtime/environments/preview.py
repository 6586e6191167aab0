"""What uv would put into an environment that is not made yet. Nothing is built, so nothing of a stranger's runs."""

from __future__ import annotations

import os
import re

from agenthub.runtime.environments.dependencies import (
    LOCK,
    PROJECT,
    REQUIREMENTS,
    dependency_source,
    python_request,
)
from agenthub.runtime.environments.interpreters import find_interpreter
from agenthub.runtime.environments.state import normalised
from agenthub.runtime.environments.tools import find_uv, run_tool, tool_environment, uv_config_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agenthub.manifest import AgentManifest

_WOULD_INSTALL = re.compile(r" \+ ([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s()]+).*")
_HARMLESS = re.compile(r"[A-Za-z0-9#]|$|(?:-i|--index-url|--extra-index-url|--no-index|--hash)[\s=]", re.ASCII)
_PATIENCE = 120.0  # seconds


def preview(
    agent_dir: str,
    manifest: AgentManifest,
    scratch: str,
    *,
    python: str | None = None,
    preferred: str = "",
    extra: Sequence[str] = (),
    offline: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> list[tuple[str, str]] | None:
    """Name and version of each package that would be installed, sorted; the agent's own project is not among them.

    Args:
        agent_dir: the agent's directory.
        manifest: its manifest.
        scratch: an existing empty directory of the caller's own.
        python: the interpreter, in place of what manifest and project ask for.
        preferred: the version of Python that is taken where several will do.
        extra: further requirements.
        offline: use nothing but caches.
        on_progress: called with each line of uv's output.

    Returns:
        list | None: None where that is known by building only, or cannot be known now.

    Raises:
        EnvironmentError: no interpreter fits.
        InvalidManifestError: the dependencies are declared in a file that is not there.
    """
    source = dependency_source(agent_dir, manifest)
    request = python or python_request(agent_dir, manifest, source)
    python = find_interpreter(request, preferred=preferred, who=manifest.name).path
    common = [*uv_config_options(), *(["--offline"] if offline else [])]
    requirements = [*source.requirements, *extra]
    if any(requirement.lstrip().startswith("-") or "\n" in requirement for requirement in requirements):
        return None  # installing will say what is wrong with it
    found: dict[str, str] = {}
    if source.kind == LOCK:
        # fmt: off
        command = ["sync", *common, "--dry-run", "--frozen", "--no-default-groups", "--no-install-project",
                   "--no-build", "--project", agent_dir, "--python", python]
        # fmt: on
        known = _would_install(command, agent_dir, os.path.join(scratch, "environment"), on_progress)
        if known is None:
            return None
        found.update(known)
    if source.kind == REQUIREMENTS and not _names_packages_only(os.path.join(agent_dir, REQUIREMENTS)):
        return None
    files = ["--requirements", source.kind] if source.kind in (PROJECT, REQUIREMENTS) else []
    wanted = [*files, *(["--", *requirements] if requirements else [])]
    if wanted:
        target = ["--target", os.path.join(scratch, "target"), "--python", python]
        command = ["pip", "install", *common, "--dry-run", "--only-binary", ":all:", *target, *wanted]
        known = _would_install(command, agent_dir, None, on_progress)
        if known is None:
            return None
        found.update(known)
    return sorted(found.items())


def _names_packages_only(path: str) -> bool:
    """Whether a requirements file has nothing but packages and their indexes.

    What is editable is built by uv also where nothing may be, and other files may have more of it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError):
        return False
    lines = (line.strip() for line in re.split(r"[\r\n]", text))
    return all(_HARMLESS.match(line) for line in lines)


def _would_install(
    command: list[str], agent_dir: str, venv: str | None, on_progress: Callable[[str], None] | None
) -> dict[str, str] | None:
    finished = run_tool(
        [find_uv(), *command], cwd=agent_dir, env=tool_environment(venv), on_line=on_progress, timeout=_PATIENCE
    )
    if finished.code:
        return None
    matches = filter(None, map(_WOULD_INSTALL.fullmatch, finished.lines))
    return {normalised(match[1]): match[2] for match in matches}
