"""A call's inputs: converted and checked against the method's parameters, before anything starts."""

from __future__ import annotations

import os

from agenthub.config import parse_flag
from agenthub.errors import InvalidInputError, nearest
from agenthub.quick_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from agenthub.manifest.model import Method, Parameter

# Existing agents declare paths as plain strings; these names say that one is meant.
_PATH_WORDS = ("path", "file", "filename", "filepath", "dir", "directory", "folder")


def check_inputs(method: Method, given: Mapping[str, Any], directory: str) -> dict[str, Any]:
    """The arguments to call `method` with: checked, defaults filled in, paths absolute.

    Args:
        method: the method as its manifest declares it.
        given: JSON values by parameter name.
        directory: what relative paths are relative to (the caller's working directory).

    Raises:
        InvalidInputError: a parameter is missing, unknown or does not fit.
    """
    _check_names(method, given)
    arguments = {}
    for name, parameter in method.parameters.items():
        if name in given:
            arguments[name] = _checked(method, parameter, given[name], directory)
        elif parameter.has_default:
            arguments[name] = parameter.default
    return arguments


def _check_names(method: Method, given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in method.parameters:
            near = nearest(name, method.parameters)
            known = ", ".join(method.parameters) or "none"
            raise InvalidInputError(
                f"{method.name} has no parameter '{name}'" + (f". Did you mean '{near}'?" if near else ""),
                suggestion=f"parameters: {known}",
            )
    missing = [
        name
        for name, parameter in method.parameters.items()
        if parameter.required and name not in given and not parameter.has_default
    ]
    if missing:
        raise InvalidInputError(
            f"{method.name} needs {' and '.join(repr(name) for name in missing)}",
            suggestion="give it as "
            + " ".join(f"--{name.replace('_', '-')} {_placeholder(method, name)}" for name in missing),
        )


def _placeholder(method: Method, name: str) -> str:
    parameter = method.parameters[name]
    kind = parameter.kind if parameter.kind != "value" else parameter.schema["type"]
    return (kind if isinstance(kind, str) else kind[0]).upper()


def _checked(method: Method, parameter: Parameter, value: Any, directory: str) -> Any:
    if value is None and not parameter.required and (parameter.default is None):
        return None
    schema = parameter.schema
    if schema["type"] == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    from agenthub.manifest.check import violations  # what has no inputs does without

    for violation in violations(value, schema, (parameter.name,)):
        where = ".".join(map(str, violation.path))
        raise InvalidInputError(
            f"{method.name}: {where}: {violation.message}", suggestion=parameter.description or None
        )
    if parameter.kind != "value":
        return _checked_path(method, parameter, value, directory)
    if names_path(parameter):
        return _meaningful_path(value, directory)
    return value


def names_path(parameter: Parameter) -> bool:
    """Whether the values of a parameter are paths: it is declared as one, or is text and called so."""
    if parameter.kind != "value":
        return True
    return parameter.schema["type"] == "string" and parameter.name.lower().rpartition("_")[2] in _PATH_WORDS


def _checked_path(method: Method, parameter: Parameter, value: str, directory: str) -> str:
    path = os.path.normpath(os.path.join(directory, os.path.expanduser(value)))
    complaint = None
    if "\0" in path or not value:
        from agenthub.manifest.check import describe

        complaint = f"{describe(value)} is not a path"
    elif parameter.access == "write":
        if not os.path.isdir(os.path.dirname(path)):
            complaint = f"the directory of {path} does not exist"
    elif not os.path.lexists(path):
        complaint = f"{path} does not exist"
    elif parameter.kind == "file" and os.path.isdir(path):
        complaint = f"{path} is a directory, not a file"
    elif parameter.kind == "directory" and not os.path.isdir(path):
        complaint = f"{path} is not a directory"
    if complaint:
        raise InvalidInputError(
            f"{method.name}: {parameter.name}: {complaint}", suggestion=parameter.description or None
        )
    return path


def _meaningful_path(value: str, directory: str) -> str:
    """A relative path that names something in the caller's directory, made absolute: the agent runs elsewhere."""
    if value and "\0" not in value and not os.path.isabs(value):
        path = os.path.normpath(os.path.join(directory, value))
        if os.path.exists(path):
            return path
    return value


def convert_text(method: Method, name: str, texts: list[str]) -> Any:
    """A JSON value from what was typed for a parameter; several texts, or commas, make a list.

    Raises:
        InvalidInputError: it cannot be read as the parameter's type.
    """
    parameter = method.parameters[name]
    declared = parameter.schema["type"]
    types = declared if isinstance(declared, list) else [declared]
    if "array" in types and (len(texts) > 1 or not texts[0].lstrip().startswith("[")):
        items = parameter.schema.get("items", {}).get("type", "string")
        words = texts if len(texts) > 1 else [word.strip() for word in texts[0].split(",") if word.strip()]
        return [_converted(method, name, [items] if isinstance(items, str) else items, word) for word in words]
    if len(texts) > 1:
        raise InvalidInputError(f"{method.name}: {name} is given {len(texts)} times, and is not a list")
    return _converted(method, name, types, texts[0])


def _converted(method: Method, name: str, types: list[str], text: str) -> Any:
    for kind in sorted(types, key=_ORDER.index):
        try:
            return _CONVERTERS[kind](text)
        except (ValueError, RecursionError):
            continue
    from agenthub.manifest.check import describe

    expected = " or ".join(_NAMES[kind] for kind in types)
    raise InvalidInputError(
        f"{method.name}: {name}: {describe(text)} is not {expected}",
        suggestion=method.parameters[name].description or None,
    )


def _null(text: str) -> None:
    if text != "null":
        raise ValueError(text)


def _integer(text: str) -> int:
    return int(text.replace("_", "")) if len(text) < 4000 else int("x")


def _number(text: str) -> float:
    number = float(text)
    if number != number or abs(number) == float("inf"):
        raise ValueError(text)
    digits = text[1:] if text.startswith(("+", "-")) else text
    return int(text) if digits.isdecimal() and len(digits) <= 300 else number


def _structure(kind: type) -> Any:
    def convert(text: str) -> Any:
        value = loads(text)
        if not isinstance(value, kind):
            raise ValueError(text)
        return value

    return convert


# From the narrowest type to the widest: where several are allowed, the first that fits is meant.
_ORDER = ["null", "boolean", "integer", "number", "array", "object", "string"]
_CONVERTERS = {
    "null": _null,
    "boolean": parse_flag,
    "integer": _integer,
    "number": _number,
    "array": _structure(list),
    "object": _structure(dict),
    "string": str,
}
_NAMES = {
    "null": "null",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "array": "a JSON list",
    "object": "a JSON object",
    "string": "text",
}
