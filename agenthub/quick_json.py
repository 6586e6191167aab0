"""JSON by the C functions of the `json` module, without the module, whose patterns and `re` take a start 4 ms.

What they do not read is left to the module, which says what is wrong with it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_c: Any
try:
    import _json as _c
except ImportError:  # a Python that is made otherwise
    _c = None

_SPACE = " \t\n\r"


class _Rules:
    """As `json.loads` has them."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


_scan = _c and _c.make_scanner(_Rules)


def loads(text: str | bytes | bytearray) -> Any:
    """The value that `json.loads` reads.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deep.
    """
    try:
        plain = (text if isinstance(text, str) else text.decode()).strip(_SPACE)
        value, end = _scan(plain, 0)
        if end == len(plain):
            return value
    except (StopIteration, ValueError, TypeError, SystemError):  # the last: no module to take JSONDecodeError from
        pass
    import json

    return json.loads(text)


def dumps(
    value: object,
    *,
    ensure_ascii: bool = True,
    separators: tuple[str, str] = (", ", ": "),
    sort_keys: bool = False,
) -> str:
    """The text that `json.dumps` writes.

    Raises:
        TypeError: something in it has no form in JSON.
        ValueError: it contains itself.
        RecursionError: it is nested too deep.
    """
    if _c is None:
        import json

        return json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
    text = _c.encode_basestring_ascii if ensure_ascii else _c.encode_basestring
    if isinstance(value, str):
        return str(text(value))
    between, after_key = separators
    return "".join(_c.make_encoder({}, _refuse, text, None, after_key, between, sort_keys, False, True)(value, 0))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
