"""From a manifest's checked data to the typed model."""

from __future__ import annotations

import re
from typing import Any

from agenthub.config import parse_duration
from agenthub.manifest.model import AgentManifest, Entrypoint, Method, Parameter, Variable
from agenthub.manifest.schema import SCHEMA, TYPE_NAMES


def python_specifier(text: str) -> str:
    """`"3.11+"` → `">=3.11"`, `"3.12"` → `"==3.12.*"`; ranges as they are."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)*\+", text):
        return ">=" + text[:-1]
    if re.fullmatch(r"\d+\.\d+", text):
        return f"=={text}.*"
    if re.fullmatch(r"\d+(\.\d+)*", text):
        return f"=={text}"
    return text


def parameter_schema(parameter: dict[str, Any]) -> dict[str, Any]:
    schema = {
        key: value
        for key, value in parameter.items()
        if key not in ("description", "default", "access") and not (key == "required" and isinstance(value, bool))
    }
    declared = schema.get("type", "string")
    names = declared if isinstance(declared, list) else [declared]
    types = list(dict.fromkeys(TYPE_NAMES[name] for name in names))
    schema["type"] = types if len(types) > 1 else types[0]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _inner_schema(schema[key])
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {name: _inner_schema(member) for name, member in schema["properties"].items()}
    return schema


def _inner_schema(schema: Any) -> Any:
    """An inner schema with the spellings of types that parameters have."""
    if not isinstance(schema, dict) or "type" not in schema:
        return schema
    declared = schema["type"]
    names = declared if isinstance(declared, list) else [declared]
    if not all(isinstance(name, str) and name in TYPE_NAMES for name in names):
        return schema
    return parameter_schema(schema)


def methods_of(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    interface = data.get("interface")
    methods = interface.get("methods") if isinstance(interface, dict) else None
    if not isinstance(methods, dict):
        return []
    return [(name, method) for name, method in methods.items() if isinstance(method, dict)]


def build(data: dict[str, Any]) -> AgentManifest:
    dependencies = data.get("dependencies")
    installation = data.get("installation") or {}
    return AgentManifest(
        name=data["name"],
        version=data["version"],
        description=data["description"].strip(),
        author=data["author"],
        license=data.get("license", ""),
        tags=tuple(data.get("tags", ())),
        schema_version=str(data.get("schema_version", "")),
        python_version=python_specifier(data.get("python_version", "")).replace(" ", ""),
        methods={name: _method(name, method) for name, method in methods_of(data)},
        entrypoint=_entrypoint(data.get("entrypoint")),
        dependencies=tuple(dependencies) if isinstance(dependencies, list) else dependencies,
        commands=tuple(installation.get("commands", ())),
        limits=data.get("limits") or {},
        permissions=data.get("permissions"),
        environment=_variables(data.get("environment") or {}),
        requires={agent: text.strip() for agent, text in (data.get("requires") or {}).items()},
        extra={key: value for key, value in data.items() if key not in SCHEMA["properties"]},
    )


def _entrypoint(declared: Any) -> Entrypoint:
    if declared is None:
        return Entrypoint("script", "agent.py")
    if isinstance(declared, dict):
        return Entrypoint("command", argv=tuple(declared["command"]))
    return Entrypoint("script" if declared.endswith(".py") else "python", declared)


def _method(name: str, declared: dict[str, Any]) -> Method:
    timeout = declared.get("timeout")
    return Method(
        name,
        declared["description"].strip(),
        {key: _parameter(key, parameter) for key, parameter in (declared.get("parameters") or {}).items()},
        declared.get("returns") or {},
        None if timeout is None else parse_duration(timeout),
        bool(declared.get("stream", False)),
    )


def _parameter(name: str, declared: dict[str, Any]) -> Parameter:
    kind = declared.get("type", "string")
    return Parameter(
        name=name,
        description=declared.get("description", "").strip(),
        required=declared.get("required") is True,
        has_default="default" in declared,
        default=declared.get("default"),
        schema=parameter_schema(declared),
        kind=_kind(kind),
        access=declared.get("access", "read"),
    )


def _kind(declared: str | list[str]) -> str:
    """`"file"`, `"directory"`, `"path"` where either will do, else `"value"`."""
    kinds = {declared} if isinstance(declared, str) else set(declared)
    if kinds == {"file", "directory"}:
        return "path"
    only = kinds.pop() if len(kinds) == 1 else ""
    return only if only in ("file", "directory") else "value"


def _variables(declared: dict[str, Any]) -> tuple[Variable, ...]:
    groups = {
        group: dict.fromkeys(names, "")
        if isinstance(names, list)
        else {name: text or "" for name, text in names.items()}
        for group, names in declared.items()
    }
    everything: dict[str, str] = {}
    for names in groups.values():
        for name, text in names.items():
            everything[name] = everything.get(name) or text
    optional, secret = groups.get("optional", {}), groups.get("secret", {})
    return tuple(Variable(name, text, name not in optional, name in secret) for name, text in everything.items())
