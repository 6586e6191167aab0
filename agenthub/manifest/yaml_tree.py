"""YAML to plain JSON values, remembering the line of each: safe for files that nobody has vouched for.

PyYAML's own loaders lose the lines, keep the last of duplicate keys, recurse as deep as the file says and make dates
out of strings; this walks its events instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 60
MAX_VALUES = 50_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"


class YamlError(Exception):
    """`line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class Tree(NamedTuple):
    """`lines` maps the path of each value to the line where its key stands."""

    value: Any
    lines: dict[tuple[Any, ...], int]


def parse(text: bytes) -> Tree:
    """The document's value and lines.

    Raises:
        YamlError: not YAML, or not of the kind that JSON can hold.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(1, f"it is larger than {MAX_BYTES} bytes")
    try:
        loader = _Loader(text)
        try:
            return _Composer(loader).document()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"it is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise YamlError(1, f"it is not YAML: {str(error).splitlines()[0]}") from None


class _Composer:
    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.lines: dict[tuple[Any, ...], int] = {}
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.values = 0

    def document(self) -> Tree:
        loader = self.loader
        loader.get_event()  # the stream's start
        if loader.check_event(yaml.StreamEndEvent):
            raise YamlError(1, "it is empty")
        loader.get_event()  # the document's start
        value = self.node((), 0)
        loader.get_event()
        if not loader.check_event(yaml.StreamEndEvent):
            raise YamlError(loader.peek_event().start_mark.line + 1, "it holds more than one document")
        return Tree(value, self.lines)

    def node(self, path: tuple[Any, ...], depth: int) -> Any:
        event = self.loader.get_event()
        line = event.start_mark.line + 1
        self.lines.setdefault(path, line)
        before = self.values
        self.values += 1
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, line)
        if depth > MAX_DEPTH:
            raise YamlError(line, f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, line)
        elif event.tag not in (None, "!", _TAG + "seq", _TAG + "map"):
            raise YamlError(line, f"the tag {event.tag} is not allowed")
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(path, depth)
        else:
            value = self.mapping(path, depth)
        if self.values > MAX_VALUES:
            raise YamlError(line, f"it holds more than {MAX_VALUES} values")
        if event.anchor:
            self.anchors[event.anchor] = (value, self.values - before)
        return value

    def alias(self, event: Any, line: int) -> Any:
        if event.anchor not in self.anchors:
            raise YamlError(line, f"*{event.anchor} refers to nothing before it")
        value, size = self.anchors[event.anchor]
        self.values += size
        if self.values > MAX_VALUES:
            raise YamlError(line, f"it holds more than {MAX_VALUES} values")
        return value

    def sequence(self, path: tuple[Any, ...], depth: int) -> list[Any]:
        items: list[Any] = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self.node((*path, len(items)), depth + 1))
        self.loader.get_event()
        return items

    def mapping(self, path: tuple[Any, ...], depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            event = self.loader.get_event()
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlError(line, "a key must be plain text")
            key = event.value
            if key in members:
                raise YamlError(line, f"the key '{key}' stands here twice")
            self.lines[(*path, key)] = line
            value = self.node((*path, key), depth + 1)
            if key == "<<":
                for base in value if isinstance(value, list) else [value]:
                    merged = {**(base if isinstance(base, dict) else {}), **merged}
            else:
                members[key] = value
        self.loader.get_event()
        return {**merged, **members}

    def scalar(self, event: Any, line: int) -> Any:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix(_TAG)
        node = yaml.ScalarNode(tag, event.value)
        if kind in ("null", "bool", "int", "float"):
            try:
                value = getattr(self.loader, f"construct_yaml_{kind}")(node)
            except (ValueError, KeyError, IndexError, yaml.YAMLError):
                raise YamlError(line, f"{event.value!r} is not a valid {kind}") from None
            if isinstance(value, float) and not abs(value) < float("inf"):
                raise YamlError(line, f"{event.value} cannot be said in JSON")
            return value
        if kind in ("str", "timestamp", "value", "merge"):
            return event.value
        raise YamlError(line, f"the tag {event.tag or tag} is not allowed")
