"""Checks a value against JSON Schema: the part of it that manifests and their parameters use.

A library would cost a run more than the rest of its preparation (docs/decisions/0002-manifest-checks.md). Keywords that
are not in `KEYWORDS` are not checked, and `agenthub validate` says so.
"""

from __future__ import annotations

from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Path = tuple[Any, ...]


TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "string": ("a string", lambda value: isinstance(value, str)),
    "integer": (
        "an integer",
        lambda value: (
            (isinstance(value, int) and not isinstance(value, bool))
            or (isinstance(value, float) and value.is_integer())
        ),
    ),
    "number": ("a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "array": ("a list", lambda value: isinstance(value, (list, tuple))),
    "object": ("a mapping", lambda value: isinstance(value, dict)),
    "null": ("null", lambda value: value is None),
}


class Violation(NamedTuple):
    """`path` leads to the value that is wrong; `keyword` is the schema's keyword that it breaks."""

    path: Path
    message: str
    keyword: str


def violations(value: Any, schema: dict[str, Any], path: Path = ()) -> Iterator[Violation]:
    """Yields what is wrong with `value`, outermost first; nothing inside a value of the wrong type."""
    declared = schema.get("type")
    if declared is not None:
        types = declared if isinstance(declared, list) else [declared]
        if not any(TYPES[name][1](value) for name in types):
            expected = " or ".join(TYPES[name][0] for name in types)
            yield Violation(path, f"{describe(value)} is not {expected}", "type")
            return
    for keyword, check in KEYWORDS.items():
        if keyword in schema:
            yield from check(value, schema[keyword], schema, path)


def describe(value: Any) -> str:
    """A short JSON-like picture of a value, for a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + " …" + text[0]


def same(left: Any, right: Any) -> bool:
    """Equality as JSON has it: true is not 1."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _fails(
    test: Callable[[Any, Any], bool], kinds: tuple[type, ...], complaint: str
) -> Callable[..., Iterator[Violation]]:
    """A keyword that holds for values of some types only, as JSON Schema has it."""
    keyword_complaint = complaint

    def check(value: Any, limit: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
        if isinstance(value, kinds) and not isinstance(value, bool) and test(value, limit):
            message = keyword_complaint.format(value=describe(value), limit=limit, size=_size(value))
            yield Violation(path, message, complaint)

    return check


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _enum(value: Any, allowed: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if not any(same(value, choice) for choice in allowed):
        choices = ", ".join(describe(choice).strip("'") for choice in allowed)
        yield Violation(path, f"{describe(value)} is not one of: {choices}", "enum")


def _const(value: Any, wanted: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if not same(value, wanted):
        yield Violation(path, f"{describe(value)} is not {describe(wanted)}", "const")


def _items(value: Any, item_schema: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from violations(item, item_schema, (*path, position))


def _unique(value: Any, wanted: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if wanted and isinstance(value, list):
        for position, item in enumerate(value):
            if any(same(item, earlier) for earlier in value[:position]):
                yield Violation((*path, position), f"{describe(item)} stands there twice", "uniqueItems")


def _properties(value: Any, members: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if isinstance(value, dict):
        for name, member_schema in members.items():
            if name in value:
                yield from violations(value[name], member_schema, (*path, name))


def _required(value: Any, names: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if isinstance(value, dict) and isinstance(names, list):
        for name in names:
            if name not in value:
                yield Violation((*path, name), "is missing", "required")


def _additional(value: Any, rule: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if not isinstance(value, dict) or rule is True:
        return
    for name, member in value.items():
        if name in schema.get("properties", {}):
            continue
        if rule is False:
            yield Violation((*path, name), "is not known here", "additionalProperties")
        else:
            yield from violations(member, rule, (*path, name))


def _names(value: Any, rule: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    if isinstance(value, dict):
        for name in value:
            for violation in violations(name, rule, (*path, name)):
                yield violation._replace(keyword="propertyNames")


def _any_of(value: Any, choices: Any, schema: dict[str, Any], path: Path) -> Iterator[Violation]:
    found = [list(violations(value, choice, path)) for choice in choices]
    if all(found):
        # The choice that was meant is the one whose type fits; its complaint is the useful one.
        best = next((these for these in found if these[0].keyword != "type" or these[0].path != path), None)
        if best is not None:
            yield from best
        else:
            expected = " or ".join(TYPES[choice["type"]][0] for choice in choices if choice.get("type") in TYPES)
            yield Violation(path, f"{describe(value)} is not {expected or 'of any kind allowed here'}", "anyOf")


_NUMBERS = (int, float)
KEYWORDS: dict[str, Callable[..., Iterator[Violation]]] = {
    "enum": _enum,
    "const": _const,
    "minimum": _fails(lambda value, limit: value < limit, _NUMBERS, "{value} is less than {limit}"),
    "maximum": _fails(lambda value, limit: value > limit, _NUMBERS, "{value} is more than {limit}"),
    "exclusiveMinimum": _fails(lambda value, limit: value <= limit, _NUMBERS, "{value} is not more than {limit}"),
    "exclusiveMaximum": _fails(lambda value, limit: value >= limit, _NUMBERS, "{value} is not less than {limit}"),
    "multipleOf": _fails(lambda value, limit: value % limit != 0, _NUMBERS, "{value} is not a multiple of {limit}"),
    "minLength": _fails(lambda value, limit: len(value) < limit, (str,), "{value} is shorter than {limit} characters"),
    "maxLength": _fails(lambda value, limit: len(value) > limit, (str,), "it has {size} characters, more than {limit}"),
    "pattern": _fails(lambda value, limit: not _found(limit, value), (str,), "{value} does not match {limit}"),
    "minItems": _fails(lambda value, limit: len(value) < limit, (list,), "it has {size} items, fewer than {limit}"),
    "maxItems": _fails(lambda value, limit: len(value) > limit, (list,), "it has {size} items, more than {limit}"),
    "uniqueItems": _unique,
    "items": _items,
    "properties": _properties,
    "required": _required,
    "propertyNames": _names,
    "additionalProperties": _additional,
    "anyOf": _any_of,
}
ANNOTATIONS = frozenset(
    {"type", "title", "description", "default", "examples", "deprecated", "format", "$comment", "$schema", "$id"}
)


def schema_problems(schema: Any, path: Path = ()) -> Iterator[Violation]:
    """Yields what keeps an agent's own schema from being checkable: values of the wrong type, keywords not supported.

    The keyword of a violation is `"unsupported"` where the schema may be right but is not checked.
    """
    if not isinstance(schema, dict):
        yield Violation(path, f"{describe(schema)} is not a schema", "type")
        return
    wrong = list(violations(schema, _META, path))
    if wrong:
        yield from wrong
        return
    for keyword, value in schema.items():
        if keyword not in KEYWORDS and keyword not in ANNOTATIONS:
            yield Violation((*path, keyword), "is not checked by agenthub", "unsupported")
        elif keyword == "pattern":
            yield from _pattern_problems(value, (*path, keyword))
        else:
            for inner_path, inner in _inner_schemas(keyword, value):
                yield from schema_problems(inner, (*path, keyword, *inner_path))


def _inner_schemas(keyword: str, value: Any) -> Iterator[tuple[Path, Any]]:
    if keyword in ("items", "propertyNames") or (keyword == "additionalProperties" and isinstance(value, dict)):
        yield (), value
    elif keyword == "properties":
        for name, member in value.items():
            yield (name,), member
    elif keyword == "anyOf":
        for position, choice in enumerate(value):
            yield (position,), choice


def _found(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None


def _pattern_problems(pattern: str, path: Path) -> Iterator[Violation]:
    import re

    try:
        re.compile(pattern)
    except re.error as error:
        yield Violation(path, f"{describe(pattern)} is not a regular expression: {error}", "pattern")


_NUMBER, _COUNT, _LIST = {"type": "number"}, {"type": "integer", "minimum": 0}, {"type": "array"}
_TYPE_NAME = {"type": "string", "enum": list(TYPES)}
_META: dict[str, Any] = {
    "properties": {
        "type": {"anyOf": [_TYPE_NAME, {"type": "array", "items": _TYPE_NAME, "minItems": 1}]},
        "enum": {"type": "array", "minItems": 1},
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
        "multipleOf": {"type": "number", "exclusiveMinimum": 0},
        **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _COUNT),
        "pattern": {"type": "string"},
        "uniqueItems": {"type": "boolean"},
        "properties": {"type": "object"},
        "required": {"type": "array", "items": {"type": "string"}},
        "additionalProperties": {"anyOf": [{"type": "boolean"}, {"type": "object"}]},
        "anyOf": {"type": "array", "minItems": 1},
    }
}
