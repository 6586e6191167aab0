"""From what a person calls an agent (`owner/name`, `name`, a path) to its directory, manifest and record."""

from __future__ import annotations

import os
from contextlib import suppress

from agenthub.config import RECORD
from agenthub.errors import AgentNotFoundError
from agenthub.manifest import AgentManifest, read_manifest
from agenthub.packages.locks import Hold, hold
from agenthub.packages.record import InstallRecord, read_record
from agenthub.packages.store import Store
from agenthub.values import NamedTuple


class LocatedAgent(NamedTuple):
    """An agent that can be run.

    `directory` is the real one, never a link that an upgrade may move; for an agent that is not installed `owner` is
    empty and `record` None. `name` is the one in the store, which `--as` may have changed. `wanted` is what stood
    behind an `@`: the version is then not the current one, or not for being it.
    """

    directory: str
    owner: str
    name: str
    manifest: AgentManifest
    record: InstallRecord | None
    wanted: str = ""

    @property
    def variant(self) -> str:
        """The name of its version directory where that is a project's, and not the user's; else empty."""
        return os.path.basename(self.directory) if self.record is not None and self.record.locked else ""

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.owner}/{self.name}" if self.owner else self.directory

    @property
    def call_name(self) -> str:
        """What a person types for it."""
        if self.owner:
            return f"{self.owner}/{self.name}"
        relative = os.path.relpath(self.directory)
        return relative if relative.startswith("..") else os.path.join(".", relative)


def working_directory() -> str:
    """The working directory; one that was removed meanwhile still has a name, where nothing is found."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.environ.get("PWD") or "/"


def is_path(agent: str) -> bool:
    """Whether AGENT is meant as a path and not as a name."""
    return agent in (".", "..", "~") or agent.startswith(("./", "../", "/", "~/"))


def locate(store: Store, agent: str, directory: str | None = None) -> LocatedAgent:
    """Finds an agent.

    Args:
        store: where names are looked up.
        agent: `owner/name`, `name`, either with `@version` for one that is installed, or a path.
        directory: what a relative path is relative to; None: the working directory.

    Raises:
        AgentNotFoundError: nothing is called so, or several agents are.
        InvalidManifestError: a path's manifest is missing or wrong.
    """
    if is_path(agent):
        return locate_directory(os.path.join(directory or working_directory(), os.path.expanduser(agent)), store)
    agent, at, wanted = agent.partition("@")
    owner, name = store.resolve(agent)
    if at:
        located = locate_directory(store.choose_version(owner, name, wanted).directory, store)
        return located._replace(wanted=wanted)
    return locate_directory(store.current_version_dir(owner, name), store)


def hold_located(store: Store, agent: LocatedAgent) -> tuple[LocatedAgent, Hold | None]:
    """Keeps an installed version from being removed; takes the newer one where it was removed just now.

    Raises:
        AgentNotFoundError: it was removed just now, and was asked for by its version.
    """
    held = None
    with suppress(AgentNotFoundError):
        held = hold(agent.directory)
    if (held is None or not held.held) and agent.record is not None and not os.path.isdir(agent.directory):
        if agent.wanted:
            raise AgentNotFoundError(f"{agent.label} {agent.record.version} was removed a moment ago")
        place, held = store.hold_current(agent.owner, agent.name)
        agent = locate_directory(place, store)
    return agent, held


def locate_directory(path: str, store: Store | None = None) -> LocatedAgent:
    """The agent in a directory, installed or not.

    Args:
        path: the directory.
        store: whose records are believed. Elsewhere anybody can have written one, and with it the name of an agent that
            was consented to, and that has grants and secrets.
    """
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise AgentNotFoundError(
            f"there is no agent directory {path}", suggestion="agenthub list shows what is installed"
        )
    if store is not None and _is_kept(store, real) and os.path.exists(os.path.join(real, RECORD)):
        record = read_record(real)
        return LocatedAgent(real, record.owner, record.name, AgentManifest.from_compiled(record.manifest), record)
    manifest = read_manifest(real)
    return LocatedAgent(real, "", manifest.name, manifest, None)


def _is_kept(store: Store, real: str) -> bool:
    kept = (store.paths.versions, store.paths.agents)
    return any(real.startswith(os.path.realpath(place) + os.sep) for place in kept)
