"""Ctrl-C, SIGTERM and SIGHUP, put off where half a step would leave something behind."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Puts interrupts off until the context ends. For what takes milliseconds, or is the cleaning up after one.

    They are not blocked, since a program that is started inside would inherit that.
    """
    if threading.current_thread() is not threading.main_thread():  # where no interrupt arrives
        yield
        return
    arrived: list[int] = []
    earlier: dict[int, Any] = {number: signal.getsignal(number) for number in _INTERRUPTS}
    handlers = {number: handler for number, handler in earlier.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda received, _: arrived.append(received))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            handlers[number](number, None)
