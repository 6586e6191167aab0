"""`signal` and `socket` as C has them: what their modules in Python add, enumerations above all, takes a start 3 ms.

For what has to start at once, and needs numbers, handlers and a socket's own methods alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
else:
    try:
        import _signal as signal
        import _socket as socket
    except ImportError:  # a Python that is made otherwise
        import signal
        import socket

__all__ = ["signal", "socket"]
