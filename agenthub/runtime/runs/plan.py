"""A run before it starts: its inputs checked, and what it may see, take and touch decided.

Whatever carries a run out, a fresh process or one that was loaded before, holds it to this and to nothing else.
"""

from __future__ import annotations

import os

from agenthub.config import SANDBOX_LEVELS, scratch_base
from agenthub.errors import InvalidInputError, PermissionDeniedError
from agenthub.manifest.inputs import check_inputs
from agenthub.runtime.runs.locator import working_directory
from agenthub.runtime.runs.permissions import ANY, KINDS, Changes, check_paths, effective_permissions, input_paths
from agenthub.runtime.runs.variables import run_variables
from agenthub.runtime.sandbox.policy import BUBBLEWRAP, LANDLOCK, RLIMITS, Network, SandboxPolicy
from agenthub.runtime.sandbox.tiers import Tiers, available_tiers
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from agenthub.config import Paths, Settings
    from agenthub.manifest import AgentManifest, Method
    from agenthub.packages.store import Store
    from agenthub.runtime.processes.cancellation import Cancellation
    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.processes.masking import Masker
    from agenthub.runtime.runs.locator import LocatedAgent
    from agenthub.runtime.runs.permissions import Permissions

_STRENGTH = {RLIMITS: 0, LANDLOCK: 1, BUBBLEWRAP: 2}
OFF = "off"


class RunOptions(NamedTuple):
    """What a caller may say of one run.

    Attributes:
        directory: what relative paths in inputs are relative to; None: the working directory.
        variables: environment variables to pass, each `NAME=value` or `NAME`.
        changes: to the agent's permissions, for this run; items as `permissions.check_item` returns them.
        sandbox: `strict auto off`; None: as the settings say.
        consent: called with a sentence where a run would be held less than was asked; refuses by raising. None: it is
            refused.
        tool_context: tools that the agent may know of, as the script contract has it.
        on_log: called with each line of the agent's log and its level.
        on_chunk: called with each piece of a streamed result.
        on_progress: called with a fraction (or None) and a message.
        cancellation: stops the run from another thread or a signal handler.
        ask_passphrase: asks for what opens the user's secrets, where that is needed; None: nobody can be asked.
        line: to a worker that is asked first, as `workers.client.Line`, by one who asks for many runs.
    """

    directory: str | None = None
    variables: Sequence[str] = ()
    changes: Changes = Changes()
    sandbox: str | None = None
    consent: Callable[[str], None] | None = None
    tool_context: Mapping[str, Any] | None = None
    on_log: Callable[[str, str], None] | None = None
    on_chunk: Callable[[Any], None] | None = None
    on_progress: Callable[[float | None, str], None] | None = None
    cancellation: Cancellation | None = None
    ask_passphrase: Callable[[bool], str] | None = None
    line: object = None


class RunPlan(NamedTuple):
    """One run, decided.

    Attributes:
        agent: whose method it is.
        method: what is called.
        arguments: its inputs, defaults filled in.
        permissions: what it may touch.
        outputs: paths among its inputs that it writes.
        variables: added to the environment that every run has.
        secrets: those of `variables` that come from the user's secrets.
        limits: what it may take.
        level: `strict auto off`.
        tiers: what this machine can enforce.
        weakness: why it would be held less than was asked, as the end of "it would run …"; empty where it is not.
    """

    agent: LocatedAgent
    method: Method
    arguments: Mapping[str, Any]
    permissions: Permissions
    outputs: tuple[str, ...]
    variables: Mapping[str, str]
    secrets: Mapping[str, str]
    limits: Limits
    level: str
    tiers: Tiers
    weakness: str

    @property
    def tier(self) -> str:
        """What will hold it: `bubblewrap`, `landlock` or `rlimits`."""
        return RLIMITS if self.level == OFF else self.tiers.best

    @property
    def network(self) -> Network:
        """What it may reach."""
        return network_of(self.permissions)

    @property
    def watch_network(self) -> bool:
        """Whether the agent is to say which hosts it tried to reach: where no proxy hears of it."""
        return self.network.kind == "none" and self.tier != RLIMITS

    def masker(self) -> Masker | None:
        """What hides its secrets; None where it has none."""
        if not self.agent.manifest.environment:
            return None
        from agenthub.runtime.secrets.resolve import masker_for

        return masker_for(self.agent.manifest, self.variables, self.secrets)

    def policy(self, scratch: str) -> SandboxPolicy:
        """What its confinement holds it to."""
        return make_policy(self.agent, self.permissions, scratch, self.level)

    def require_consent(self, consent: Callable[[str], None] | None) -> None:
        """Sees that somebody agrees to less isolation than was asked.

        Raises:
            PermissionDeniedError: nobody does.
        """
        if not self.weakness:
            return
        sentence = f"{self.agent.manifest.name} would run {self.weakness}"
        if consent is not None:
            consent(sentence)
            return
        always = f"; always: agenthub grant {self.agent.call_name} sandbox {OFF if self.level == OFF else self.tier}"
        raise PermissionDeniedError(
            sentence, suggestion="to accept that: --yes" + (always if self.agent.record is not None else "")
        )


def plan_run(
    agent: LocatedAgent,
    method: Method,
    parameters: Mapping[str, Any],
    options: RunOptions,
    *,
    store: Store,
    settings: Settings,
    limits: Limits,
) -> RunPlan:
    """Decides everything about a run that can be decided before it starts.

    Raises:
        InvalidInputError: the parameters do not fit, a variable that it needs is not set, or a level is none.
        PermissionDeniedError: a path or a secret that it cannot be given, or a sandbox that is not to be had here.
        StoreError: grants or secrets cannot be read.
    """
    arguments = check_inputs(method, parameters, options.directory or working_directory())
    given = {name: arguments[name] for name in parameters}
    return _decide(agent, method, arguments, input_paths(method, given), options, store, settings, limits)


def plan_worker(
    agent: LocatedAgent, options: RunOptions, *, store: Store, settings: Settings, limits: Limits
) -> RunPlan:
    """The same for a process that is to serve runs of any method, with inputs that are not known yet.

    Raises:
        InvalidInputError, PermissionDeniedError, StoreError: as `plan_run`.
    """
    method = next(iter(agent.manifest.methods.values()))
    return _decide(agent, method, {}, ([], []), options, store, settings, limits)


def _decide(
    agent: LocatedAgent,
    method: Method,
    arguments: Mapping[str, Any],
    paths: tuple[Sequence[str], Sequence[str]],
    options: RunOptions,
    store: Store,
    settings: Settings,
    limits: Limits,
) -> RunPlan:
    manifest = agent.manifest
    grants = stored_grants(agent, store)
    read, write = paths
    permissions = effective_permissions(manifest, (stored_changes(grants), options.changes), (read, write))
    check_paths(permissions, (settings.paths.home, scratch_base()), agent.directory, manifest.name)
    secrets = _secrets(agent, grants.get("secrets", ()), options, settings.paths)
    variables = run_variables(manifest, options.variables, permissions.environment, {**os.environ, **secrets})
    level = _checked_level(options.sandbox or settings["sandbox"])
    tiers = Tiers(RLIMITS) if level == OFF else tiers_here(settings.paths)
    weakness = _weakness(manifest, level, tiers, grants.get("sandbox", ()))
    return RunPlan(
        agent,
        method,
        arguments,
        permissions,
        tuple(write),
        variables,
        {name: value for name, value in secrets.items() if variables.get(name) == value},
        limits,
        level,
        tiers,
        weakness,
    )


def tiers_here(paths: Paths) -> Tiers:
    """What this machine can enforce, probed once for each state of it."""
    return available_tiers(os.path.join(paths.cache, "isolation.json"))


def stored_grants(agent: LocatedAgent, store: Store) -> dict[str, list[str]]:
    """What the user allowed an agent; a project's version has nothing but what was granted in that project."""
    if agent.record is None or (agent.record.locked and not store.is_projects(agent.owner, agent.name)):
        return {}
    return store.read_grants(agent.owner, agent.name)


def stored_changes(grants: Mapping[str, Sequence[str]]) -> Changes:
    """What was granted and revoked for good, as `Store.read_grants` returns it."""
    return Changes(
        {kind: grants.get(kind, ()) for kind in KINDS}, {kind: grants.get(f"denied_{kind}", ()) for kind in KINDS}
    )


def network_of(permissions: Permissions) -> Network:
    """The sandbox's word for what may be reached."""
    hosts = permissions.network
    return Network("any") if ANY in hosts else Network("hosts", hosts) if hosts else Network("none")


def make_policy(agent: LocatedAgent, permissions: Permissions, scratch: str, level: str) -> SandboxPolicy:
    """What a confinement holds a process of an agent to."""
    return SandboxPolicy(
        level=level,
        agent_dir=agent.directory,
        scratch=scratch,
        read=permissions.read,
        write=permissions.write,
        network=network_of(permissions),
        programs=None if ANY in permissions.run else permissions.run,
    )


def _checked_level(level: str) -> str:
    if level not in SANDBOX_LEVELS:
        raise InvalidInputError(f"sandbox: {level!r} is not one of {', '.join(SANDBOX_LEVELS)}")
    return level


def _weakness(manifest: AgentManifest, level: str, tiers: Tiers, accepted: Iterable[str]) -> str:
    """Raises PermissionDeniedError where the level is strict and what the manifest demands is not to be had."""
    if level == OFF:
        return "" if OFF in accepted else "without a sandbox, with your rights: files, network and processes are open"
    demanded = (manifest.permissions or {}).get("isolation", RLIMITS)
    if _STRENGTH[tiers.best] >= _STRENGTH[demanded]:
        return ""
    if level == "strict":
        raise PermissionDeniedError(
            f"{manifest.name} demands {demanded}, and this machine has only {tiers.best}: {tiers.reason}",
            suggestion=tiers.remedy or None,
        )
    if tiers.best in accepted:
        return ""
    return f"by {tiers.best}, and demands {demanded}, which is not to be had here: {tiers.reason}"


def _secrets(agent: LocatedAgent, granted: Sequence[str], options: RunOptions, paths: Paths) -> Mapping[str, str]:
    """What the user keeps for this agent and did not set for this run."""
    if not agent.manifest.environment:
        return {}
    from agenthub.runtime.secrets.resolve import secrets_for_run

    return secrets_for_run(
        agent.manifest,
        agent.label,
        granted=granted,
        passed=options.variables,
        environ=os.environ,
        paths=paths,
        ask=options.ask_passphrase,
    )
