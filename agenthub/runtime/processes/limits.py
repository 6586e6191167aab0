"""What a run may use, and how a manifest narrows or widens it."""

from __future__ import annotations

from agenthub.config import MB, SETTINGS, parse_duration, parse_size
from agenthub.errors import InvalidManifestError, nearest
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agenthub.config import RuntimeConfig


class Limits(NamedTuple):
    """Caps of one run; None means none.

    Attributes:
        timeout: wall-clock seconds.
        memory: bytes of the whole process tree.
        cpu: CPU seconds of the whole process tree.
        processes: processes and threads of the whole tree together, as the kernel counts them.
        open_files: descriptors of each process.
        file_size: bytes of each file written.
        output: bytes of stdout and stderr together.
        result: bytes of the result as JSON.
        grace: seconds a process may take to end once it was asked to, or has answered.
        disk: bytes in the working directory, all files together.
    """

    timeout: float | None = SETTINGS["timeout"].default
    memory: int | None = SETTINGS["memory"].default
    cpu: float | None = None
    processes: int | None = None
    open_files: int | None = None
    file_size: int | None = None
    output: int = SETTINGS["output"].default
    result: int = SETTINGS["result"].default
    grace: float = SETTINGS["grace"].default
    disk: int | None = None

    @classmethod
    def from_config(cls, config: RuntimeConfig) -> Limits:
        """The caps that a runtime's configuration gives to agents that declare none."""
        return cls(
            timeout=config.max_execution_time or None,
            memory=int(config.max_memory_usage * MB) or None,
            grace=config.subprocess_timeout,
        )


_HIGHEST = 1 << 60  # what a manifest may say has no bound, what the kernel takes has
# Manifest key -> (field, reader).
_DECLARED: dict[str, tuple[str, Callable[[object], float]]] = {
    "timeout": ("timeout", parse_duration),
    "memory": ("memory", parse_size),
    "cpu": ("cpu", parse_duration),
    "processes": ("processes", lambda value: _parse_count(value)),
    "output": ("output", parse_size),
    "disk": ("disk", parse_size),
    "open_files": ("open_files", lambda value: _parse_count(value)),
    "file_size": ("file_size", parse_size),
}


def merge_limits(base: Limits, declared: Mapping[str, object]) -> Limits:
    """`base` with the keys of a manifest's `limits` in place of its own.

    Args:
        base: the caps that hold where the manifest is silent.
        declared: `timeout memory cpu processes output disk open_files file_size`; None counts as absent.

    Raises:
        InvalidManifestError: an unknown key, or a value that is no size, duration or count above 0.
    """
    changes: dict[str, float] = {}
    for key, value in declared.items():
        if key not in _DECLARED:
            close = nearest(str(key), _DECLARED)
            hint = f"did you mean '{close}'?" if close else f"known limits: {', '.join(_DECLARED)}"
            raise InvalidManifestError(f"limits: there is no limit '{key}'", suggestion=hint)
        if value is None:
            continue
        field, read = _DECLARED[key]
        try:
            amount = min(read(value), _HIGHEST)
            if not amount:
                raise ValueError("must be above 0")
        except ValueError as error:
            raise InvalidManifestError(f"limits.{key}: {error}") from None
        changes[field] = amount
    if "disk" in changes:  # the kernel holds no file that is larger than all may be together
        changes["file_size"] = min(changes["disk"], changes.get("file_size", changes["disk"]))
    return Limits(**{**base._asdict(), **changes})


def _parse_count(value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
        raise ValueError(f"{value!r} is not a count; write for example 64")
    return int(text)
