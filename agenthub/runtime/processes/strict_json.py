"""JSON from an agent is hostile input: this reads it strictly, and bounds what it may cost."""

from __future__ import annotations

from agenthub.config import format_size
from agenthub.errors import ExecutionError, OutputLimitError
from agenthub.quick_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

MAX_DEPTH = 256
# An empty object takes 72 bytes for 3 of input and a float 32 for 2, so memory is bounded by their numbers.
MAX_CONTAINERS = 2_000_000
MAX_VALUES = 10_000_000

# Possessive, and content without an end: whatever the bytes, each is looked at once.
_STRING = rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+"?'


def parse_json(data: bytes, what: str, limit: int | None = None) -> Any:
    """The value that `data` spells, which is then plain, finite, encodable and not too deep.

    Of duplicate keys the last one counts. Errors name `what`, for example `"the result"`.

    Args:
        data: one JSON document in UTF-8.
        what: subject of the error's sentence.
        limit: bytes that `data` may have.

    Raises:
        OutputLimitError: more bytes, values or levels than are accepted.
        ExecutionError: not JSON: NaN, Infinity, numbers too large for a float, lone surrogates, invalid UTF-8, …
    """
    if limit is not None and len(data) > limit:
        raise OutputLimitError(f"{what} is {format_size(len(data))}; at most {format_size(limit)} are accepted")
    _check_counts(data, what)
    try:
        value = loads(data.decode("utf-8"), _refuse_constant)
        _check_tree(value, strings=b"\\ud" in data or b"\\uD" in data)
    except UnicodeDecodeError as error:
        raise ExecutionError(f"{what} is not valid UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ExecutionError(f"{what} holds a lone surrogate, which is no Unicode text") from None
    except RecursionError:
        raise OutputLimitError(f"{what} is nested too deeply; at most {MAX_DEPTH} levels are accepted") from None
    except ValueError as error:
        raise ExecutionError(f"{what} is not JSON: {_reason(error)}") from None
    return value


def _reason(error: ValueError) -> str:
    position = getattr(error, "pos", None)
    if position is not None:  # json.JSONDecodeError
        return f"{getattr(error, 'msg', '')} (character {position})"
    return "a whole number of over 4,300 digits" if "digits" in str(error) else str(error)


def _check_counts(data: bytes, what: str) -> None:
    """Refuses a bomb before it is parsed; counts at C speed, and exactly only where strings could mislead."""
    for exact in (False, True):
        if exact:
            import re

            data = re.sub(_STRING, b"", data)
        containers = data.count(b"{") + data.count(b"[")
        values = data.count(b",") + containers
        if containers <= MAX_CONTAINERS and values <= MAX_VALUES:
            return
    raise OutputLimitError(
        f"{what} holds {values:,} values, {containers:,} of them arrays or objects; at most {MAX_VALUES:,} and "
        f"{MAX_CONTAINERS:,} are accepted",
        suggestion="let the method write a file and return its path",
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_tree(value: Any, *, strings: bool) -> None:
    """Level by level, so that depth costs no stack: finite floats, and encodable strings where `strings` asks."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Any] = []
        for container in level:
            if strings and type(container) is dict:
                "".join(container).encode()
            _check_items(container.values() if type(container) is dict else container, strings, deeper)
        if not deeper:
            return
        level = deeper
    raise RecursionError


def _check_items(items: Iterable[Any], strings: bool, deeper: list[Any]) -> None:
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            if item:
                deeper.append(item)
        elif kind is float:
            if item - item != 0.0:
                raise ValueError("a number too large for a float")
        elif strings and kind is str:
            item.encode()
