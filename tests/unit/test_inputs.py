"""A call's inputs: conversion of typed text, and the check against the method's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agenthub.errors import InvalidInputError
from agenthub.manifest.build import build
from agenthub.manifest.inputs import check_inputs, convert_text

if TYPE_CHECKING:
    from pathlib import Path

    from agenthub.manifest import Method


def method(**parameters: dict[str, Any]) -> Method:
    manifest = build(
        {
            "name": "a",
            "version": "1",
            "description": "d",
            "author": "x",
            "interface": {"methods": {"go": {"description": "goes", "parameters": parameters}}},
        }
    )
    return manifest.methods["go"]


def test_defaults_are_filled_in_and_optional_ones_left_out() -> None:
    go = method(a={"default": 1, "type": "integer"}, b={"default": None}, c={})
    assert check_inputs(go, {}, "/") == {"a": 1, "b": None}


@pytest.mark.parametrize(
    ("given", "says", "suggests"),
    [
        ({}, "go needs 'text'", "--text STRING"),
        ({"text": "x", "nmber": 1}, "no parameter 'nmber'. Did you mean 'number'?", "parameters: text, number"),
        ({"text": 1}, "text: 1 is not a string", None),
        ({"text": "x", "number": "1"}, "number: '1' is not an integer", None),
        ({"text": "x", "number": True}, "number: true is not an integer", None),
        ({"text": "x", "number": 99}, "number: 99 is more than 10", None),
        ({"text": "x", "number": 1.5}, "number: 1.5 is not an integer", None),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], says: str, suggests: str | None) -> None:
    go = method(text={"required": True}, number={"type": "integer", "maximum": 10})
    with pytest.raises(InvalidInputError) as caught:
        check_inputs(go, given, "/")
    assert says in caught.value.message
    assert suggests is None or suggests in (caught.value.suggestion or "")


def test_a_whole_number_is_an_integer() -> None:
    arguments = check_inputs(method(n={"type": "integer"}), {"n": 3.0}, "/")
    assert arguments == {"n": 3}
    assert isinstance(arguments["n"], int)


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        ({"type": "string", "enum": ["a", "b"]}, "c", "'c' is not one of: a, b"),
        ({"type": "array", "items": {"type": "integer"}}, [1, "x"], "p.1: 'x' is not an integer"),
        ({"type": "list", "minItems": 2}, [1], "fewer than 2"),
        ({"type": "array", "uniqueItems": True}, [1, 1], "stands there twice"),
        ({"type": "dict", "properties": {"k": {"type": "str"}}}, {"k": 1}, "p.k: 1 is not a string"),
        ({"type": "object", "required": ["k"]}, {}, "p.k: is missing"),
        ({"type": "object", "additionalProperties": False}, {"k": 1}, "p.k: is not known here"),
        ({"type": "string", "pattern": "^a+$"}, "b", "does not match"),
        ({"type": "string", "maxLength": 2}, "abc", "more than 2"),
        ({"type": "number", "exclusiveMinimum": 0}, 0, "is not more than 0"),
        ({"type": "number", "multipleOf": 3}, 4, "not a multiple of 3"),
        ({"type": ["string", "null"]}, 1, "is not a string or null"),
        ({"type": "string", "const": "x"}, "y", "'y' is not 'x'"),
        ({"type": ["string", "integer"], "anyOf": [{"type": "integer"}, {"maxLength": 1}]}, "ab", "more than 1"),
    ],
)
def test_json_schema_keywords_hold(schema: dict[str, Any], value: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_inputs(method(p=schema), {"p": value}, "/")
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("schema", "texts", "value"),
    [
        ({"type": "integer"}, ["3"], 3),
        ({"type": "number"}, ["3"], 3),
        ({"type": "number"}, ["3e2"], 300.0),
        ({"type": "boolean"}, ["yes"], True),
        ({"type": "boolean"}, ["0"], False),
        ({"type": "array"}, ["a, b"], ["a", "b"]),
        ({"type": "array", "items": {"type": "integer"}}, ["1", "2"], [1, 2]),
        ({"type": "array"}, ["[1, {}]"], [1, {}]),
        ({"type": "object"}, ['{"a": 1}'], {"a": 1}),
        ({"type": "string"}, ["3"], "3"),
        ({"type": ["integer", "string"]}, ["3"], 3),
        ({"type": ["integer", "string"]}, ["x"], "x"),
        ({"type": ["integer", "null"]}, ["null"], None),
    ],
)
def test_typed_text_becomes_the_declared_type(schema: dict[str, Any], texts: list[str], value: Any) -> None:
    converted = convert_text(method(p=schema), "p", texts)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("schema", "texts", "says"),
    [
        ({"type": "integer"}, ["x"], "'x' is not an integer"),
        ({"type": "integer"}, ["9" * 5000], "is not an integer"),
        ({"type": "number"}, ["nan"], "'nan' is not a number"),
        ({"type": "number"}, ["1e999"], "is not a number"),
        ({"type": "boolean"}, ["maybe"], "is not true or false"),
        ({"type": "object"}, ["[1]"], "is not a JSON object"),
        ({"type": "object"}, ["{" * 5000], "is not a JSON object"),
        ({"type": "string"}, ["a", "b"], "is given 2 times"),
    ],
)
def test_text_of_another_type_is_refused(schema: dict[str, Any], texts: list[str], says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        convert_text(method(p=schema), "p", texts)
    assert says in caught.value.message


def test_paths_become_absolute_and_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    go = method(f={"type": "file"}, d={"type": "directory"}, out={"type": "file", "access": "write"})
    found = check_inputs(go, {"f": "a.csv", "d": ".", "out": "new.csv"}, str(tmp_path))
    assert found == {"f": str(tmp_path / "a.csv"), "d": str(tmp_path), "out": str(tmp_path / "new.csv")}
    for bad, says in (
        ({"f": "b.csv"}, "does not exist"),
        ({"f": "."}, "is a directory, not a file"),
        ({"d": "a.csv"}, "is not a directory"),
        ({"out": "no/where.csv"}, "does not exist"),
        ({"f": "a\0b"}, "is not a path"),
        ({"f": ""}, "is not a path"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            check_inputs(go, bad, str(tmp_path))


def test_existing_agents_paths_keep_their_meaning(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    go = method(file_path={}, prompt={})
    found = check_inputs(go, {"file_path": "notes.txt", "prompt": "notes.txt"}, str(tmp_path))
    assert found == {"file_path": str(tmp_path / "notes.txt"), "prompt": "notes.txt"}
    assert check_inputs(go, {"file_path": "elsewhere"}, str(tmp_path)) == {"file_path": "elsewhere"}
