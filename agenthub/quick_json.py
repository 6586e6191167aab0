"""JSON by the C functions of the `json` module, without the module, whose patterns and `re` take a start 4 ms.

Errors are the module's own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_c: Any
try:
    import _json as _c
except ImportError:  # a Python that is made otherwise
    _c = None

_SPACE = " \t\n\r"
_CONSTANTS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class _Rules:
    """As `json.loads` has them."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int

    def __init__(self, parse_constant: Callable[[str], Any]) -> None:
        self.parse_constant = parse_constant


_scan = _c and _c.make_scanner(_Rules(_CONSTANTS.__getitem__))


def loads(text: str | bytes | bytearray, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """The value that `json.loads` reads.

    Args:
        text: one JSON document.
        parse_constant: called with `NaN`, `Infinity` and `-Infinity`; None: they are floats.

    Raises:
        ValueError: it is not JSON (a `json.JSONDecodeError`), or not UTF-8.
        RecursionError: it is nested too deep.
    """
    if not isinstance(text, str):
        other = b"\0" in text[:4] or text[:1] in (b"\xef", b"\xfe", b"\xff")  # UTF-16 and such
        text = text if other else text.decode("utf-8", "surrogatepass")
    if _c is None or not isinstance(text, str) or text.startswith("\ufeff"):
        import json

        return json.loads(text, parse_constant=parse_constant)
    scan = _scan if parse_constant is None else _c.make_scanner(_Rules(parse_constant))
    try:
        value, end = scan(text, len(text) - len(text.lstrip(_SPACE)))
    except StopIteration as stop:
        raise _not_json("Expecting value", text, stop.value) from None
    except SystemError:  # the scanner found no module to take JSONDecodeError from
        import json

        return json.loads(text, parse_constant=parse_constant)
    if end != len(text):
        rest = text[end:].lstrip(_SPACE)
        if rest:
            raise _not_json("Extra data", text, len(text) - len(rest))
    return value


def _not_json(message: str, text: str, position: int) -> ValueError:
    from json import JSONDecodeError

    return JSONDecodeError(message, text, position)


def dumps(
    value: object,
    *,
    ensure_ascii: bool = True,
    separators: tuple[str, str] = (", ", ": "),
    sort_keys: bool = False,
    allow_nan: bool = True,
) -> str:
    """The text that `json.dumps` writes.

    Raises:
        TypeError: something in it has no form in JSON.
        ValueError: it contains itself, or what `allow_nan` refuses.
        RecursionError: it is nested too deep.
    """
    if _c is None:
        import json

        return json.dumps(
            value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys, allow_nan=allow_nan
        )
    text = _c.encode_basestring_ascii if ensure_ascii else _c.encode_basestring
    if isinstance(value, str):
        return str(text(value))
    between, after_key = separators
    return "".join(_c.make_encoder({}, _refuse, text, None, after_key, between, sort_keys, False, allow_nan)(value, 0))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
