"""Reads `agent.yaml`: every complaint names file, line and key, and says what would be right."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from agenthub.config import parse_duration, parse_size
from agenthub.errors import InvalidManifestError, nearest
from agenthub.manifest.build import build, methods_of, parameter_schema, python_specifier
from agenthub.manifest.check import Violation, describe, schema_problems, violations
from agenthub.manifest.model import AgentManifest
from agenthub.manifest.schema import METHOD, PARAMETER, SCHEMA
from agenthub.manifest.yaml_tree import MAX_BYTES, YamlError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SPECIFIERS = re.compile(
    r"\s*(~=|===?|!=|<=|>=|<|>)\s*\d+(\.\d+)*(\.\*)?\s*(,\s*(~=|===?|!=|<=|>=|<|>)\s*\d+(\.\d+)*(\.\*)?\s*)*"
)

_RELEASE = (
    r"(?:\d+!)?\d+(?:\.\d+)*(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview|post|rev|r|dev)[-_.]?\d*)*(?:\+[a-z0-9.]+)?"
)
_COMPARISON = rf"\s*(?:~=|===?|!=|<=|>=|<|>)\s*{_RELEASE}(?:\.\*)?\s*"
_RANGE = re.compile(rf"\s*(?:\*|latest|{_RELEASE}|{_COMPARISON}(?:,{_COMPARISON})*)?\s*", re.IGNORECASE)


class Problem(NamedTuple):
    """`severity` is `"error"` or `"warning"`; `key` is dotted, and empty for the file itself."""

    severity: str
    line: int
    key: str
    message: str


class Reading(NamedTuple):
    """What a manifest file says. `manifest` is None where there are errors."""

    path: str
    manifest: AgentManifest | None
    problems: list[Problem]
    data: dict[str, Any]


def read(directory: str) -> AgentManifest:
    """The manifest of a directory.

    Raises:
        InvalidManifestError: it is missing or wrong.
    """
    reading = examine(directory)
    if reading.manifest is None:
        errors = [problem for problem in reading.problems if problem.severity == "error"]
        name = os.path.basename(reading.path)
        lines = [f"{name}:{problem.line}: {problem.message}" for problem in errors]
        raise InvalidManifestError(
            f"{reading.path}:{errors[0].line}: {errors[0].message}",
            suggestion=f"agenthub validate {directory} checks it again",
            details=lines[1:],
        )
    return reading.manifest


def find(directory: str) -> str:
    """The path of a directory's manifest.

    Raises:
        InvalidManifestError: it has none.
    """
    names = ("agent.yaml", "agent.yml")
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            return path
    raise InvalidManifestError(
        f"there is no agent.yaml in {directory}", suggestion=f"agenthub init {directory} writes one to start from"
    )


def examine(directory: str) -> Reading:
    """Reads the manifest and collects everything that is wrong or doubtful about it.

    Raises:
        InvalidManifestError: there is none, or it cannot be read at all.
    """
    path = find(directory)
    try:
        with open(path, "rb") as file:
            tree = parse(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise InvalidManifestError(f"cannot read {path}: {error.strerror}") from None
    except YamlError as error:
        raise InvalidManifestError(f"{path}:{error.line}: {error.message}") from None
    lines = tree.lines

    def line_of(place: tuple[Any, ...]) -> int:
        while place not in lines:
            place = place[:-1]
        return lines[place]

    problems = [
        Problem(severity, line_of(violation.path), ".".join(map(str, violation.path)), _sentence(violation))
        for severity, violation in _findings(tree.value)
    ]
    problems.sort(key=lambda problem: (problem.severity, problem.line))
    wrong = any(problem.severity == "error" for problem in problems)
    data = tree.value if isinstance(tree.value, dict) else {}
    return Reading(path, None if wrong else build(data), problems, data)


def _sentence(violation: Violation) -> str:
    key = ".".join(map(str, violation.path))
    return f"{key}: {violation.message}" if key else violation.message


def _findings(data: Any) -> Iterator[tuple[str, Violation]]:
    if not isinstance(data, dict):
        yield "error", Violation((), f"it is {describe(data)}, not a mapping of keys such as name and version", "type")
        return
    unknown = dict(_unknown_keys(data))
    for violation in violations(data, SCHEMA):
        yield "error", _with_advice(violation, data, unknown)
    for found in (_limit_problems, _python_problems, _requires_problems, _method_problems):
        for violation in found(data):
            yield ("warning" if violation.keyword in ("unsupported", "doubtful") else "error"), violation
    for place, near in unknown.items():
        hint = f"; did you mean '{near}'?" if near else ""
        yield "warning", Violation(place, f"agenthub does not know this key{hint}", "unknown")


def _with_advice(violation: Violation, data: dict[str, Any], unknown: dict[tuple[Any, ...], str | None]) -> Violation:
    """Adds what would be right: the word that was probably meant, or an example."""
    path, message = violation.path, violation.message
    schema, value = _schema_at(path), _value_at(data, path)
    if violation.keyword == "required":
        for place, near in unknown.items():
            if near == path[-1] and place[:-1] == path[:-1]:
                return violation._replace(message=f"did you mean '{near}'? It is missing", path=place)
    elif violation.keyword == "additionalProperties":
        near = nearest(str(path[-1]), _schema_at(path[:-1]).get("properties", {}))
        return violation._replace(message=f"{message}; did you mean '{near}'?") if near else violation
    elif violation.keyword == "enum" and (near := nearest(str(value), _choices(schema))):
        return violation._replace(message=f"there is no {path[-1]} {value!r}; did you mean '{near}'?")
    examples = schema.get("examples")
    if schema.get("type") == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        examples = [str(value)]
    if examples:
        return violation._replace(message=f"{message}; for example {path[-1]}: {_as_yaml(examples[0])}")
    return violation


def _choices(schema: dict[str, Any]) -> list[str]:
    choices = [schema, *schema.get("anyOf", ())]
    return [word for choice in choices for word in choice.get("enum", ())]


def _value_at(data: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data


def _as_yaml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _schema_at(path: tuple[Any, ...]) -> dict[str, Any]:
    schema: dict[str, Any] = SCHEMA
    for step in path:
        inner = schema.get("items") if isinstance(step, int) else schema.get("properties", {}).get(step)
        if inner is None:
            inner = schema.get("additionalProperties")
        if not isinstance(inner, dict):
            return {}
        schema = inner
    return schema


def _unknown_keys(data: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], str | None]]:
    """Keys that no schema names, each with the known one that it resembles."""
    places: list[tuple[tuple[Any, ...], Any, dict[str, Any]]] = [((), data, SCHEMA)]
    places += [((name,), data.get(name), SCHEMA["properties"][name]) for name in ("interface", "permissions")]
    places += [(("interface", "methods", name), method, METHOD) for name, method in methods_of(data)]
    for place, value, schema in places:
        if isinstance(value, dict):
            known = schema["properties"]
            for key in value:
                if key not in known:
                    yield (*place, key), nearest(key, [name for name in known if name not in value])


def _limit_problems(data: dict[str, Any]) -> Iterator[Violation]:
    places: list[tuple[tuple[Any, ...], Any]] = []
    limits = data.get("limits")
    if isinstance(limits, dict):
        places += [(("limits", key), value) for key, value in limits.items()]
    for name, method in methods_of(data):
        if "timeout" in method:
            places.append((("interface", "methods", name, "timeout"), method["timeout"]))
    readers = {
        "timeout": parse_duration,
        "cpu": parse_duration,
        "memory": parse_size,
        "output": parse_size,
        "disk": parse_size,
    }
    for place, value in places:
        if place[-1] in readers and isinstance(value, (str, int, float)):
            try:
                amount = readers[place[-1]](value)
            except ValueError as error:
                yield Violation(place, str(error), "format")
            else:
                if amount <= 0:
                    yield Violation(place, "must be more than 0", "format")


def _python_problems(data: dict[str, Any]) -> Iterator[Violation]:
    text = data.get("python_version")
    if isinstance(text, str) and text.strip() and not _SPECIFIERS.fullmatch(python_specifier(text)):
        yield Violation(
            ("python_version",), f"{describe(text)} is not a range of versions; for example '>=3.11'", "format"
        )


def _requires_problems(data: dict[str, Any]) -> Iterator[Violation]:
    wanted = data.get("requires")
    for agent, text in (wanted if isinstance(wanted, dict) else {}).items():
        if isinstance(text, str) and not _RANGE.fullmatch(text):
            complaint = f"{describe(text)} is neither a version nor a range of versions; for example '>=1,<2'"
            yield Violation(("requires", agent), complaint, "format")


def _method_problems(data: dict[str, Any]) -> Iterator[Violation]:
    interface = data.get("interface")
    if isinstance(interface, dict) and interface.get("methods") == {}:
        yield Violation(("interface", "methods"), "there must be at least one method", "minProperties")
    for name, method in methods_of(data):
        parameters = method.get("parameters")
        for key, parameter in (parameters if isinstance(parameters, dict) else {}).items():
            if isinstance(parameter, dict) and not list(violations(parameter, PARAMETER)):
                yield from _parameter_problems(parameter, ("interface", "methods", name, "parameters", key))


def _parameter_problems(parameter: dict[str, Any], place: tuple[Any, ...]) -> Iterator[Violation]:
    schema = parameter_schema(parameter)
    wrong = list(schema_problems(schema, place))
    yield from wrong
    if "default" in parameter and not any(violation.keyword != "unsupported" for violation in wrong):
        for violation in violations(parameter["default"], schema, (*place, "default")):
            # null is how existing manifests say "none", whatever the type
            if parameter["default"] is not None or len(violation.path) > len(place) + 1:
                yield violation
