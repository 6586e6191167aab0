"""Agents that are run without being installed: a directory in its place, an archive or a repository from the cache."""

from __future__ import annotations

import contextlib
import json
import os

from agenthub.errors import StoreError
from agenthub.packages.sources import fetch
from agenthub.packages.spec import Spec, parse_spec
from agenthub.runtime.agents.cached_environments import cached_environment, make_holdable
from agenthub.runtime.agents.run_cache import prepare_cached
from agenthub.runtime.runs.locator import LocatedAgent, locate_directory
from agenthub.runtime.runs.permissions import asked_permissions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.run_cache import Consent


def prepare(
    runtime: AgentRuntime,
    text: str,
    consent: Consent,
    on_progress: Callable[[str], None] | None = None,
) -> LocatedAgent:
    """The agent that a SPEC names, ready to run: fetched and checked, consented to, its environment made.

    Args:
        runtime: whose store, cache and environments are used.
        text: a SPEC.
        consent: asked once for each content of each source, with what is to be known of it; refuses by raising.
        on_progress: called with a line of what is being done.

    Raises:
        InstallError: the source cannot be had or is refused.
        InvalidManifestError: the agent's manifest is missing or wrong.
        EnvironmentError: its environment cannot be made.
        PermissionDeniedError: `consent` refused.
    """
    spec = parse_spec(text)
    if spec.kind == "index":
        return prepare_cached(runtime, spec, consent, on_progress)
    if spec.kind == "directory":
        agent = locate_directory(spec.location, runtime.store)
        content = directory_content(agent)
    else:
        agent, content = _from_cache(runtime, spec, on_progress)
    if agent.record is not None:
        return agent
    place = os.path.realpath(spec.location) if spec.kind == "directory" else spec.location
    if not runtime.store.has_consent(place, content):
        consent(agent, spec, ())
        with contextlib.suppress(StoreError):  # a home that cannot be written: asked again the next time
            runtime.store.add_consent(place, content)
    from agenthub.runtime.agent_runtime import needs_python

    venv = os.path.join(agent.directory, runtime.environment_manager.config.venv_location)
    if needs_python(agent) and not os.path.exists(venv):
        cached_environment(runtime, agent, on_progress)
    return agent


def directory_content(agent: LocatedAgent) -> str:
    """What is consented to of an agent that stays in its place: what it asks for, not each change of its code."""
    asked = asked_permissions(agent.manifest)
    return "directory " + json.dumps(asked, sort_keys=True)


def _from_cache(
    runtime: AgentRuntime, spec: Spec, on_progress: Callable[[str], None] | None
) -> tuple[LocatedAgent, str]:
    sources = os.path.join(runtime.settings.paths.cache, "sources")
    with runtime.store.new_staging() as staging:
        tree = os.path.join(staging, "tree")
        fetched = fetch(spec, tree, on_progress)
        place = os.path.join(sources, fetched.digest.removeprefix("sha256:")[:24])
        if not os.path.isdir(place):
            os.makedirs(sources, mode=0o700, exist_ok=True)
            make_holdable(tree)
            try:
                os.rename(tree, place)
            except OSError:
                if not os.path.isdir(place):  # else another process put the same content there
                    raise
    return locate_directory(place), fetched.digest
