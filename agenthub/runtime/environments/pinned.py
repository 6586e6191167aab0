"""Fills an environment with what a lock fixes, and with nothing else."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from agenthub.runtime.environments.dependencies import (
    LOCK,
    PROJECT,
    REQUIREMENTS,
    Dependencies,
    needs_project,
    read_project,
)
from agenthub.runtime.environments.linking import link_environment
from agenthub.runtime.environments.pins import Pin, format_pins
from agenthub.runtime.environments.replacing import remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.manifest import AgentManifest
    from agenthub.runtime.environments.builders import Builder

    Progress = Callable[[str], None] | None

_INDEX_OPTION = re.compile(r"\s*(?:-i|-f|--index-url|--extra-index-url|--find-links|--no-index)(?:[\s=].*)?")


class Pins(NamedTuple):
    """What an environment is made from.

    Attributes:
        pins: its packages, each with hashes.
        kind: what fixed them, as `Environment.kind`.
        like: an environment that was made from the same pins, whose files can be shared; None: there is none.
        like_python: the interpreter that it was made from.
        wheels: a directory with a wheel of each of `pins`, the agent's own project among them: nothing else is asked,
            and nothing is built; "": indexes are.
        cache: for `wheels`, a directory for uv's cache, which need not outlast the environment.
    """

    pins: tuple[Pin, ...]
    kind: str
    like: str | None = None
    like_python: str = ""
    wheels: str = ""
    cache: str = ""


def install_pins(
    builder: Builder,
    venv: str,
    agent_dir: str,
    manifest: AgentManifest | None,
    source: Dependencies,
    python: str,
    pins: Pins,
    on_progress: Progress,
) -> None:
    """Installs pins into a fresh environment.

    Args:
        builder: does it.
        venv: the environment.
        agent_dir: the agent's directory, which paths in pins are relative to.
        manifest: its manifest; says whether its own project is installed as well.
        source: where it declares its dependencies; the package indexes named there are asked.
        python: the interpreter that the environment is made from.
        pins: what to install.
        on_progress: called with each line of the tools' output.

    Raises:
        EnvironmentError: a package cannot be had, or has another hash.
    """
    own_project = needs_project(agent_dir, manifest) and not pins.wheels
    if pins.like is not None and pins.like_python == python and not own_project:
        if link_environment(pins.like, venv):
            return
        remove(venv)
        builder.create(venv, python, on_progress)
    path = os.path.join(venv, "pins.txt")
    lines = index_lines(agent_dir, source) if pins.pins and not pins.wheels else []
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines) + format_pins(pins.pins))
    if pins.wheels and pins.pins:
        builder.install_wheels(venv, pins.wheels, pins.cache, path, on_progress)
    elif not pins.wheels:
        builder.install_pins(venv, agent_dir, path if pins.pins else None, own_project, on_progress)
    os.unlink(path)


def index_lines(agent_dir: str, source: Dependencies) -> list[str]:
    """The package indexes that the agent itself names, as lines of a requirements file.

    They are part of its content, which a lock fixes by its digest, and so are not repeated in there.
    """
    if source.kind == REQUIREMENTS:
        with open(os.path.join(agent_dir, REQUIREMENTS), encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file.read().splitlines() if _INDEX_OPTION.fullmatch(line)]
    if source.kind not in (LOCK, PROJECT):
        return []
    named = read_project(agent_dir).get("tool", {}).get("uv", {}).get("index", ())
    urls = [one.get("url") for one in named if isinstance(one, dict)]
    return [f"--extra-index-url {url}" for url in urls if isinstance(url, str) and re.fullmatch(r"https?://\S+", url)]
