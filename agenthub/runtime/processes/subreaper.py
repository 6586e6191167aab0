"""While runs last, this process adopts their orphans: a daemon cannot slip away to init."""

from __future__ import annotations

import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_SET, _GET = 36, 37  # PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
_lock = threading.Lock()
_holders = 0
_before = 0


class Subreaper:
    """Holds the attribute for a `with` block; the last of several holders puts back what was before."""

    def __enter__(self) -> None:
        global _holders, _before
        with _lock:
            if _holders == 0:
                _before = _get()
                if not _before:
                    _set(1)
            _holders += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _holders
        with _lock:
            _holders -= 1
            if _holders == 0 and not _before:
                _set(0)


def _get() -> int:
    if sys.platform != "linux":
        return 1  # nothing to set, nothing to put back
    import ctypes

    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(_GET, ctypes.byref(value), 0, 0, 0)
    return value.value


def _set(value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_SET, ctypes.c_ulong(value), 0, 0, 0)
