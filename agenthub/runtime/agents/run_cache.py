"""Agents of indexes that are run without being installed: installed all the same, but into a store in the cache.

There they are built, completed and held exactly as installed ones, and start as fast; no list shows them, and the least
recently used ones go when the cache is larger than `cache_size`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial

from agenthub.config import IN_USE, VENV, Paths
from agenthub.errors import AgentRuntimeError, StoreError
from agenthub.packages.names import is_name
from agenthub.packages.store import Store
from agenthub.runtime.runs.locator import LocatedAgent, locate_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agenthub.packages.spec import Spec
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.installer import Plan

    Consent = Callable[[LocatedAgent, Spec, tuple[str, ...]], None]

LATEST = "latest"


def cached_store(paths: Paths) -> Store:
    """The store in the cache."""
    return Store(Paths({"AGENTHUB_HOME": os.path.join(paths.cache, "runs")}))


def find_cached(runtime: AgentRuntime, text: str) -> LocatedAgent | None:
    """The agent in the cache that `owner/name[@version]` means, ready to run; None where there is none.

    Without a version, whichever was run last; `@latest` is a question to the index, and never found here.
    """
    label, _, wanted = text.partition("@")
    owner, _, name = label.partition("/")
    if wanted == LATEST or not is_name(owner) or not is_name(name):
        return None
    store = cached_store(runtime.settings.paths)
    if not os.path.lexists(store.agent_dir(owner, name)):
        return None
    try:
        place = (
            store.choose_version(owner, name, wanted).directory if wanted else store.current_version_dir(owner, name)
        )
        agent = locate_directory(place, store)
        return _ready(runtime, agent)
    except AgentRuntimeError:  # what is broken is made anew
        return None


def prepare_cached(
    runtime: AgentRuntime, spec: Spec, consent: Consent, on_progress: Callable[[str], None] | None = None
) -> LocatedAgent:
    """The agent that an index has for `spec`, fetched and built in the cache unless it is there.

    Args:
        runtime: whose settings, cache and environments are used.
        spec: of kind `"index"`.
        consent: asked once for each content, with what is to be known of it; refuses by raising.
        on_progress: called with a line of what is being done.

    Raises:
        AgentNotFoundError: no index has it.
        InstallError: it cannot be had or is refused.
        EnvironmentError: its environment cannot be made.
        PermissionDeniedError: `consent` refused, or whose it is may not be believed.
    """
    from agenthub.runtime.agents.cache_limit import limit_cache
    from agenthub.runtime.agents.installer import AgentInstaller, InstallOptions

    found = find_cached(runtime, spec.text)
    if found is not None:
        return found

    ask = partial(_ask, runtime, consent)
    options = InstallOptions(
        python=requested_python(runtime), alone=True, note_wanted=False, consent=ask, on_progress=on_progress
    )
    store = cached_store(runtime.settings.paths)
    installed = AgentInstaller(runtime, store).install_spec(spec, options)
    agent = _ready(runtime, locate_directory(installed.directory, store))
    assert agent is not None
    limit_cache(runtime.settings.paths, runtime.settings["cache_size"], keep=(installed.directory,))
    return agent


def _ask(runtime: AgentRuntime, consent: Consent, plan: Plan) -> None:
    """Asks for each agent whose content was not agreed to before."""
    for each in (*plan.required, plan):
        index, digest = each.fetched.source["index"], each.fetched.digest
        place = f"{index} {each.owner}/{each.name}@{each.manifest.version}"
        if not runtime.store.has_consent(place, digest):
            agent = LocatedAgent(each.directory, each.owner, each.name, each.manifest, None)
            consent(agent, each.spec, (f"published at {index}", *each.fetched.notes))
            with suppress(StoreError):  # a home that cannot be written: asked again the next time
                runtime.store.add_consent(place, digest)


def requested_python(runtime: AgentRuntime) -> str | None:
    """The Python that the user asked for with `--python`, which goes before the manifest's."""
    value, source = runtime.settings.lookup("python")
    return str(value) if source == "flag" else None


def _ready(runtime: AgentRuntime, agent: LocatedAgent) -> LocatedAgent | None:
    """A cached agent that can be run as it is asked for, noted as used now."""
    from agenthub.runtime.agent_runtime import needs_python

    record = agent.record
    if record is None or record.requested.get("python") != requested_python(runtime):
        return None
    if needs_python(agent):
        runtime.environment_manager.get_python_executable(os.path.join(agent.directory, VENV))
    with suppress(OSError):  # a cache that cannot be written is used as it is
        os.utime(os.path.join(agent.directory, IN_USE))
    return agent._replace(wanted=record.version)
