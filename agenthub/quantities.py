"""Sizes, durations and switches as people write them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MB = 1024 * 1024

_SIZE_UNITS = {"": 1, "B": 1, "K": 1024, "KB": 1024, "M": MB, "MB": MB, "G": 1024 * MB, "GB": 1024 * MB, "T": MB * MB}
_TIME_UNITS = {"": 1.0, "S": 1.0, "MS": 0.001, "M": 60.0, "MIN": 60.0, "H": 3600.0, "D": 86400.0}


def parse_size(value: object) -> int:
    """Bytes from `268435456`, `"256MB"`, `"1.5 GiB"` (units are powers of 1,024).

    Raises:
        ValueError: not a size.
    """
    return int(_quantity(value, _SIZE_UNITS, "a size", "256MB"))


def parse_duration(value: object) -> float:
    """Seconds from `30`, `"1.5"`, `"500ms"`, `"2min"`, `"1h"`, `"30d"`.

    Raises:
        ValueError: not a duration.
    """
    return _quantity(value, _TIME_UNITS, "a duration", "30s")


def _quantity(value: object, units: Mapping[str, float], what: str, example: str) -> float:
    complaint = f"{value!r} is not {what}; write for example {example}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(complaint)
    text = str(value).strip().upper().replace("IB", "B")
    number = text.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(number) :].strip()
    try:
        amount = float(number) * units[unit]
    except (ValueError, KeyError):
        raise ValueError(complaint) from None
    if not 0 <= amount < float("inf"):
        raise ValueError(complaint)
    return amount


def format_size(size: float) -> str:
    """`"58 MB"` from bytes, in units of 1,024 with at most three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TB"


def parse_flag(value: object) -> bool:
    """A boolean from the spellings people use.

    Raises:
        ValueError: none of them.
    """
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{value!r} is not a yes or a no; write true or false")
