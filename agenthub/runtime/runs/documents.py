"""What callers are given as JSON: a manifest, and the envelope of a run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agenthub.errors import AgentRuntimeError
    from agenthub.manifest import Method
    from agenthub.runtime.runs.locator import LocatedAgent

SCHEMA_VERSION = 1


def manifest_document(agent: LocatedAgent) -> dict[str, Any]:
    """A manifest as JSON, in the shape of `agent.yaml` with what was left out filled in."""
    manifest = agent.manifest
    document = manifest._asdict()
    del document["methods"], document["extra"], document["commands"]
    document["entrypoint"] = manifest.entrypoint._asdict()
    document["permissions"] = manifest.permissions or {}
    document["environment"] = [variable._asdict() for variable in manifest.environment]
    document["interface"] = {
        "methods": {
            name: {
                "description": method.description,
                "parameters": {key: _parameter_document(value) for key, value in method.parameters.items()},
                "returns": method.returns,
                "timeout": method.timeout,
                "stream": method.stream,
            }
            for name, method in manifest.methods.items()
        }
    }
    if manifest.commands:
        document["installation"] = {"commands": list(manifest.commands)}
    return {**manifest.extra, **document}


def _parameter_document(parameter: Any) -> dict[str, Any]:
    document = {**parameter.schema, "description": parameter.description, "required": parameter.required}
    if parameter.kind != "value":
        document.update(type=parameter.kind, access=parameter.access)
    if parameter.has_default:
        document["default"] = parameter.default
    return document


def refusal_envelope(
    error: AgentRuntimeError, agent: LocatedAgent | None, name: str, method: str | None
) -> dict[str, Any]:
    """The envelope of a call that was refused before anything ran; `name` and `method` are what the caller wrote."""
    known: dict[str, Any] = {"name": name, "version": None}
    if agent is not None:
        known = identity(agent)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": None,
        "agent": known,
        "method": method,
        **error.to_dict(),
        "execution_time": 0.0,
    }


def run_envelope(agent: LocatedAgent, method: Method, run_id: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """The envelope of a run; `outcome` is what `ProcessManager.execute_agent` returned."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "agent": identity(agent),
        "method": method.name,
        "exit_code": 0,
        **outcome,
    }


def identity(agent: LocatedAgent) -> dict[str, Any]:
    """What an envelope says of the agent."""
    known = {"name": agent.manifest.name, "version": agent.manifest.version}
    return {**known, "owner": agent.owner} if agent.owner else known
