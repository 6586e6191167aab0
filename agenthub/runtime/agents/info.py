"""What an agent is, as values: for `info`, for consent at install, and for programs."""

from __future__ import annotations

import json
import os
import shlex

from agenthub.runtime.runs.locator import LocatedAgent
from agenthub.runtime.runs.permissions import ANY, effective_permissions, is_silent, phrases, prohibitions
from agenthub.runtime.runs.plan import OFF, stored_changes, stored_grants, tiers_here
from agenthub.runtime.runs.variables import KNOWN_VARIABLES
from agenthub.runtime.sandbox.policy import RLIMITS
from agenthub.runtime.sandbox.tiers import Tiers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from agenthub.manifest import AgentManifest, Method, Parameter
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.runs.permissions import Changes

_SAMPLES = {"integer": 3, "number": 1.5, "boolean": True, "array": ["a", "b"], "object": {"key": "value"}, "null": None}


def describe_agent(runtime: AgentRuntime, agent: LocatedAgent) -> dict[str, Any]:
    """Everything that a person needs to decide about an agent and to call it.

    Returns:
        dict: identity (`name version owner description author license tags`), `methods` (each with `parameters`,
        `returns`, `timeout` in seconds and `example`, a command line), `source`, `commit`, `digest`, `provenance` (see
        there), `installed_at`, `interpreter`, `dependencies`, `size` (bytes of `code` and `environment`), `limits`,
        `permissions` (see `permission_words`), `isolation` (what holds a run here), `cold` (why it cannot be kept
        loaded, or None), `variables` (each with `set`), `path`; `requires`, `pinned`, and `versions`, all that are
        installed of it (each with `version`, `current`, `path`).
    """
    from agenthub.runtime.runs.documents import manifest_document
    from agenthub.runtime.workers.control import why_cold

    manifest, record = agent.manifest, agent.record
    document = manifest_document(agent)
    changes = stored_changes(stored_grants(agent, runtime.store))
    granted = changes.allow["environment"]
    info: dict[str, Any] = {
        key: document[key]
        for key in ("name", "version", "description", "author", "license", "tags", "python_version", "interface")
    }
    info.update(
        owner=agent.owner or None,
        path=agent.directory,
        installed=record is not None,
        methods={name: _method(agent, method, document) for name, method in manifest.methods.items()},
        limits=limits_here(runtime, manifest),
        permissions=permission_words(manifest, (changes,)),
        isolation=isolation_here(runtime),
        cold=why_cold(runtime.settings.paths, agent) or None,
        variables=_variables(manifest, record.hints if record else (), granted, changes.deny["environment"]),
    )
    if record is not None:
        info.update(
            source=record.source,
            commit=record.source.get("commit"),
            digest=record.digest,
            provenance=provenance(record.source),
            installed_at=record.installed_at,
            interpreter=record.interpreter,
            dependencies=record.dependencies,
            size=record.size,
            requires=manifest.requires,
            pinned=runtime.store.read_state(record.owner, record.name).pinned,
            versions=[
                {"version": each.record.version, "current": each.current, "path": each.directory}
                for each in runtime.store.versions(record.owner, record.name)
            ],
        )
    return info


def provenance(source: dict[str, Any]) -> dict[str, Any]:
    """Where an installed agent came from, and who vouches for it.

    Returns:
        dict: `kind`, `location`, `index`, `version` and `archive_digest` (of an index's release), `commit`; `trust`:
        `"signed"`, `"first use"`, `"unsigned"`, `"accepted by you"` or `"not checked"`; `signers`, each with `kind`
        (`"ssh"`, `"sigstore"`), `key` (a fingerprint, or an identity) and `issuer`; `attested`, whether a transparency
        log has it.
    """
    signers = [
        {key: str(one.get(key, "")) for key in ("kind", "key", "issuer")}
        for one in source.get("signatures") or ()
        if isinstance(one, dict)
    ]
    known = {key: source.get(key) for key in ("kind", "location", "index", "version", "archive_digest", "commit")}
    attested = any(signer["kind"] == "sigstore" for signer in signers)
    return {**known, "trust": source.get("trust") or "unsigned", "signers": signers, "attested": attested}


def _method(agent: LocatedAgent, method: Method, document: dict[str, Any]) -> dict[str, Any]:
    declared = document["interface"]["methods"][method.name]
    return {**declared, "example": example_command(agent.call_name, method)}


def example_command(call_name: str, method: Method) -> str:
    """A command line that calls a method with plausible inputs, ready to be pasted."""
    words = ["agenthub", "run", call_name, method.name]
    for parameter in method.parameters.values():
        if parameter.required:
            words += [f"--{parameter.name.replace('_', '-')}", _sample_text(parameter)]
    line = " ".join(shlex.quote(word) for word in words)
    if method.returns.get("type") == "file":
        extension = str(method.returns.get("media_type", "")).rpartition("/")[2].partition("+")[0]
        line += f" > {method.name}.{extension or 'out'}"
    return line


def _sample_text(parameter: Parameter) -> str:
    schema = parameter.schema
    if parameter.kind != "value":
        return {"file": "FILE", "directory": "DIR", "path": "PATH"}[parameter.kind]
    if "enum" in schema:
        value = schema["enum"][0]
    elif parameter.has_default and parameter.default is not None:
        value = parameter.default
    else:
        kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
        value = _SAMPLES.get(kind, "…" if kind == "string" else None)
    return value if isinstance(value, str) else json.dumps(value)


def limits_here(runtime: AgentRuntime, manifest: AgentManifest) -> dict[str, Any]:
    """The caps of an agent's runs, where a method says nothing else: seconds, bytes, numbers; None for none."""
    method = next(iter(manifest.methods.values()))
    agent = LocatedAgent("", "", manifest.name, manifest, None)
    limits = runtime.limits(agent, method._replace(timeout=None))._asdict()
    shown = ("timeout", "memory", "cpu", "processes", "open_files", "output", "disk", "file_size")
    return {key: limits[key] for key in shown}


def _variables(
    manifest: AgentManifest, hints: Any, granted: Sequence[str], denied: Sequence[str]
) -> list[dict[str, Any]]:
    variables = [
        {
            **variable._asdict(),
            "declared": True,
            "set": variable.name in os.environ,
            "passed": variable.name in granted or not {variable.name, ANY} & set(denied),
        }
        for variable in manifest.environment
    ]
    declared = {variable.name for variable in manifest.environment}
    variables += [
        {
            "name": name,
            "description": "seen in its code" if name in hints else "granted by you",
            "required": False,
            "secret": name in KNOWN_VARIABLES and name.endswith(("_KEY", "_ID")),
            "declared": False,
            "set": name in os.environ,
            "passed": name in granted,
        }
        for name in dict.fromkeys([*hints, *granted])
        if name not in declared
    ]
    return variables


def permission_words(manifest: AgentManifest, changes: Iterable[Changes] = ()) -> dict[str, Any]:
    """What an agent may do, by its manifest and by what the user changed since.

    Returns:
        dict: `may` and `may_not`, phrases that follow these words; `silent`, whether it is of the older format and
        has a profile in place of permissions; `allowed`, by kind; `isolation`, the weakest sandbox that it demands.
    """
    permissions = effective_permissions(manifest, changes)
    return {
        "may": phrases(permissions, manifest),
        "may_not": prohibitions(permissions),
        "silent": is_silent(manifest),
        "allowed": {kind: list(items) for kind, items in permissions._asdict().items()},
        "isolation": (manifest.permissions or {}).get("isolation"),
    }


def isolation_here(runtime: AgentRuntime) -> dict[str, str]:
    """What would hold a run on this machine: `level`, `tier`, and `reason` where a stronger one is not to be had."""
    level = runtime.settings["sandbox"]
    tiers = Tiers(RLIMITS) if level == OFF else tiers_here(runtime.settings.paths)
    return {"level": level, "tier": tiers.best, "reason": "turned off" if level == OFF else tiers.reason}
