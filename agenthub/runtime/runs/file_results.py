"""A result that is a file: taken out of the run's scratch directory before that is removed."""

from __future__ import annotations

import os
import stat

from agenthub.config import format_size
from agenthub.errors import ExecutionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agenthub.manifest import Method


def returns_file(method: Method) -> bool:
    """Whether the manifest says that the method's result is a file that it wrote."""
    return method.returns.get("type") == "file"


def collect_file(method: Method, result: Any, scratch: str, limit: int) -> dict[str, Any]:
    """The file that a method's result names, as JSON: `file`, `media_type`, `size`, `encoding` (base64) and `data`.

    Args:
        method: whose `returns` may give the media type.
        result: the path that the agent returned, absolute or relative to `scratch`.
        scratch: nothing outside of it is read.
        limit: bytes that the file may have.

    Raises:
        ExecutionError: the result names no regular file inside the scratch directory, or one that is too large.
    """
    import base64

    if not isinstance(result, str) or "\0" in result:
        raise ExecutionError(
            f"{method.name} should return the path of the file that it wrote, and returned something else"
        )
    path = os.path.realpath(os.path.join(scratch, result))
    if os.path.commonpath([path, os.path.realpath(scratch)]) != os.path.realpath(scratch):
        raise ExecutionError(
            f"{method.name} returned the path {result!r}, which is outside of its scratch directory",
            suggestion="write the file into the working directory or TMPDIR, and return its path",
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ExecutionError(f"{method.name} returned the path {result!r}: {error.strerror}") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ExecutionError(f"{method.name} returned the path {result!r}, which is not a file")
    with open(descriptor, "rb") as file:
        if found.st_size > limit:
            raise ExecutionError(
                f"{method.name} returned a file of {format_size(found.st_size)}, more than {format_size(limit)}",
                suggestion="raise the setting 'result' (AGENTHUB_RESULT=…)",
            )
        data = file.read(limit)
    return {
        "file": os.path.basename(path),
        "media_type": method.returns.get("media_type", "application/octet-stream"),
        "size": len(data),
        "encoding": "base64",
        "data": base64.b64encode(data).decode("ascii"),
    }


def with_file(outcome: dict[str, Any], method: Method, scratch: str, limit: int) -> dict[str, Any]:
    """The outcome of a run with the file in place of its path, where the method returns one."""
    if "result" not in outcome or not returns_file(method):
        return outcome
    try:
        return {**outcome, "result": collect_file(method, outcome["result"], scratch, limit)}
    except ExecutionError as error:
        return {**{key: value for key, value in outcome.items() if key != "result"}, **error.to_dict()}
