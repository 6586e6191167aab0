"""What the user is shown and asked before code that was never seen here is installed or runs."""

from __future__ import annotations

from typing import Any

from agenthub.cli.inspect_commands import held_text, limits_text
from agenthub.config import format_size
from agenthub.errors import PermissionDeniedError
from agenthub.manifest import AgentManifest
from agenthub.runtime.agents.info import isolation_here, limits_here, permission_words
from agenthub.runtime.runs.permissions import asked_permissions, phrases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output
    from agenthub.packages.spec import Spec
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.installer import Plan
    from agenthub.runtime.runs.locator import LocatedAgent

_LONGEST = 200  # characters of one thing that an author wrote
_SOURCES = {"directory": "local directory", "archive": "archive", "git": "git", "index": "an index"}


def describe(manifest: AgentManifest, origin: str, runtime: AgentRuntime) -> list[str]:
    """What an agent is, and what it may do. What its author wrote stays on its line, and is all to be seen.

    Args:
        manifest: the agent's.
        origin: where it comes from, in a few words.
        runtime: would run it.
    """
    lines = [f"{manifest.name} {manifest.version}  {plain(manifest.description)}     ({origin})"]
    if isinstance(manifest.dependencies, tuple) and manifest.dependencies:
        shown = ", ".join(map(plain, manifest.dependencies[:5])) + (" …" if len(manifest.dependencies) > 5 else "")
        lines.append(f"needs          {shown}")
    words = permission_words(manifest)
    lines += [f"may            {phrase}" for phrase in words["may"]]
    lines.append(f"may not        {', '.join(words['may_not'])}")
    if words["isolation"]:
        lines.append(f"demands        {words['isolation']}")
    lines.append(f"held by        {held_text(isolation_here(runtime), words['silent'])}")
    lines.append(f"limits         {limits_text(limits_here(runtime, manifest))}")
    return ["  " + line for line in lines]


def more_than_before(plan: Plan) -> list[str]:
    """What an installation asks for that the installed version does not, each to follow "may"."""
    if plan.current is None:
        return []
    earlier = AgentManifest.from_compiled(plan.current.manifest)
    more = phrases(asked_permissions(plan.manifest).beyond(asked_permissions(earlier)))
    demanded = (earlier.permissions or {}).get("isolation")
    if demanded and (plan.manifest.permissions or {}).get("isolation") != demanded:
        more.append(f"run where there is no {demanded}")
    return more


def ask_to_install(plan: Plan, runtime: AgentRuntime, output: Output, *, yes: bool, force: bool) -> None:
    """Shows what would be installed, and asks unless the options answer.

    Raises:
        PermissionDeniedError: refused, or nobody could be asked.
    """
    origin = plain(plan.fetched.source.get("index") or _SOURCES[plan.spec.kind])
    if plan.fetched.commit:
        origin += f" {plan.fetched.commit[:12]}"
    origin += f", {plan.fetched.files} files, {format_size(plan.fetched.bytes)}"
    for line in describe(plan.manifest, origin, runtime):
        output.note(line)
    label = f"{plan.owner}/{plan.name}"
    more = more_than_before(plan)
    for line in inherited(plan):
        output.note(line)
    for note in plan.fetched.notes:
        output.note(f"  note           {plain(note)}")
    for phrase in more:
        output.note(f"  asks for more  it may now also {phrase}")
    for line in required_lines(plan, runtime):
        output.note(line)
    more += [phrase for required in plan.required for phrase in more_than_before(required)]
    if plan.current is not None and plan.current.digest != plan.fetched.digest and not force:
        output.note(f"  replaces       {plan.current.version} from {plan.current.source.get('location')}")
        question = "with other content" if not more else "with other content, and this asks for more"
        output.confirm(f"{label} is installed {question}. Replace it?", "--force" if not more else "--force --yes")
        return
    if not yes or (any(map(more_than_before, plan.required)) and not force):
        besides = f", and {len(plan.required)} more that it needs" if plan.required else ""
        output.confirm(f"Install {label}{besides}?", "--yes" if not more or force else "--force --yes")


def required_lines(plan: Plan, runtime: AgentRuntime) -> list[str]:
    """What would be installed with an agent because it needs that."""
    lines = []
    for required in plan.required:
        label = f"{required.owner}/{required.name}"
        current = required.current
        change = f"{current.version} → {required.manifest.version}" if current else "is not installed yet"
        lines.append(f"  and with it    {label}: {plain(change)}")
        if current is None:
            lines += describe(required.manifest, plain(required.fetched.source.get("index") or "index"), runtime)
        lines += [f"  note           {plain(note)}" for note in required.fetched.notes]
        lines += [f"  asks for more  {label} may now also {phrase}" for phrase in more_than_before(required)]
    return lines


def inherited(plan: Plan) -> list[str]:
    """What code from another place would have, because the user gave it to code that was there before."""
    if plan.current is None:
        return []
    before, now = plan.current.source, plan.fetched.source
    if all(before.get(key) == now.get(key) for key in ("location", "index")):
        return []
    from agenthub.config import Settings
    from agenthub.packages.store import Store

    grants = Store(Settings().paths).read_grants(plan.owner, plan.name)
    given = [f"{kind} {value}" for kind, values in grants.items() if not kind.startswith("denied_") for value in values]
    came = " at ".join(str(before[key]) for key in ("location", "index") if before.get(key))
    lines = [f"  other source   it came from {plain(came)} before"]
    return [*lines, f"  gets           what you granted that one: {plain(', '.join(given))}"] if given else lines


def plain(text: str, longest: int = _LONGEST) -> str:
    """A stranger's text on one line, without what acts on a terminal, hides, or turns the direction of reading."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def prepare_uninstalled(runtime: AgentRuntime, text: str, options: Any, output: Output) -> LocatedAgent:
    """An agent that is not installed, made ready to run after consent.

    Raises:
        PermissionDeniedError: refused, or nobody could be asked.
    """
    from agenthub.runtime.agents.uninstalled import prepare

    def consent(agent: LocatedAgent, spec: Spec, notes: tuple[str, ...]) -> None:
        for line in describe(agent.manifest, _SOURCES[spec.kind], runtime):
            output.note(line)
        for note in notes:
            output.note(f"  note           {plain(note)}")
        if not getattr(options, "yes", False):
            output.confirm(f"Run {text}?", "--yes")

    with output.progress(f"preparing {text}") as progress:
        return prepare(runtime, text, consent, progress.update)


def offer_variables(runtime: AgentRuntime, agent: LocatedAgent, passed: list[str], output: Output) -> None:
    """For an agent of the older format, which declares no variables: asks once whether those it reads are passed on.

    Where nobody can be asked, says how to pass them.
    """
    assert agent.record is not None
    import os

    grants = runtime.store.read_grants(agent.owner, agent.name)
    known = {text.partition("=")[0] for text in passed} | set(grants["environment"])
    wanted = [name for name in agent.record.hints if name in os.environ and name not in known]
    if not wanted:
        return
    names = ", ".join(wanted)
    if not output.interactive:
        flags = " ".join(f"--env {name}" for name in wanted)
        output.note(f"note: {agent.name} reads {names}, which are set here and are not passed on: {flags}")
        return
    try:
        output.confirm(f"{agent.name} reads {names}. Pass them on, now and later?", f"agenthub grant {agent.name}")
    except PermissionDeniedError:
        return
    grants["environment"] = sorted({*grants["environment"], *wanted})
    with runtime.store.agent_lock(agent.owner, agent.name):
        runtime.store.write_grants(agent.owner, agent.name, grants)
    passed += wanted
