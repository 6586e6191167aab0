"""A run as an iterator over what it yields, and the same for asyncio."""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any

from agenthub.runtime.processes.cancellation import Cancellation

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator

_unfinished: weakref.WeakSet[RunStream] = weakref.WeakSet()


class _Handover:
    """One value at a time, from the run's thread to whoever takes it. The run waits meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._values: list[Any] = []
        self._refused = False
        self._over = False
        self.failure: BaseException | None = None
        self.on_change: Callable[[], object] = bool

    def put(self, value: Any) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._refused or not self._values)
            if not self._refused:
                self._values.append(value)
                self._tell()

    def end(self, failure: BaseException | None) -> None:
        with self._changed:
            self.failure = failure
            self._over = True
            self._tell()

    def take(self, *, wait: bool) -> tuple[list[Any], bool]:
        """The next value, alone in a list, or an empty one where there is none; and whether none will come."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._values or self._over)
            taken, self._values = self._values, []
            self._changed.notify_all()
            return taken, self._over and not taken

    def refuse(self) -> None:
        with self._changed:
            self._refused = True
            self._values.clear()
            self._changed.notify_all()

    def _tell(self) -> None:
        self._changed.notify_all()
        with suppress(RuntimeError):  # the loop that it would wake is closed
            self.on_change()


class RunStream:
    """The values of a run, as it yields them; raises at the end what went wrong.

    The run starts with the first `next`, and waits for its reader. `close`, the end of a `with`, or forgetting the
    iterator stops it.

    Args:
        run: drives the run in a thread of its own, given a listener for values and what may stop it.
    """

    def __init__(self, run: Callable[[Callable[[Any], None], Cancellation], None]) -> None:
        self._run = run
        self._handover = _Handover()
        self._cancellation: Cancellation | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            taken = self.poll(wait=True)
        except BaseException:  # an interrupt, too
            self.close()
            raise
        if not taken:
            raise StopIteration
        return taken[0]

    def poll(self, *, wait: bool) -> list[Any]:
        """The next value in a list; an empty one at the end, or where it is not there yet. Raises what went wrong."""
        if self._closed:
            return []
        if self._thread is None:
            self._start()
        taken, over = self._handover.take(wait=wait)
        if over:
            failure = self._handover.failure
            self.close()
            if failure is not None:
                raise failure
        return taken

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    def _start(self) -> None:
        _unfinished.add(self)
        self._cancellation = Cancellation()
        drive = (self._run, self._handover, self._cancellation)  # and not this object, which may be forgotten
        self._thread = threading.Thread(target=_drive, args=drive, name="agenthub stream", daemon=True)
        self._thread.start()

    def wake_with(self, on_change: Callable[[], object]) -> None:
        """Has `on_change` called, from another thread, when `poll` may find something."""
        self._handover.on_change = on_change

    def cancel(self) -> None:
        """Asks the run to stop, and does not wait for it."""
        self._handover.refuse()
        if self._cancellation is not None:
            self._cancellation.cancel()

    def close(self) -> None:
        """Stops the run, where it is not over, and waits until nothing of it is left."""
        self._closed = True
        self.cancel()
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._thread.join()
        if self._cancellation is not None:
            self._cancellation.close()
        _unfinished.discard(self)

    def __enter__(self) -> RunStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and not sys.is_finalizing():
            self.close()


class AsyncRunStream:
    """`RunStream` for asyncio; `aclose`, the end of an `async with`, or cancelling whoever waits for it stops the run.

    Args:
        run: as for `RunStream`.
    """

    def __init__(self, run: Callable[[Callable[[Any], None], Cancellation], None]) -> None:
        self._stream = RunStream(run)
        self._event: asyncio.Event | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        import asyncio

        if self._event is None:
            event = self._event = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._stream.wake_with(lambda: loop.call_soon_threadsafe(event.set))
        try:
            while True:
                self._event.clear()
                if taken := self._stream.poll(wait=False):
                    return taken[0]
                if self._stream.closed:
                    raise StopAsyncIteration
                await self._event.wait()
        except asyncio.CancelledError:
            self._stream.cancel()
            raise

    async def aclose(self) -> None:
        """Stops the run, where it is not over, and waits until nothing of it is left."""
        import asyncio

        self._stream.cancel()
        await asyncio.to_thread(self._stream.close)

    async def __aenter__(self) -> AsyncRunStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _drive(
    run: Callable[[Callable[[Any], None], Cancellation], None], handover: _Handover, cancellation: Cancellation
) -> None:
    failure: BaseException | None = None
    try:
        run(handover.put, cancellation)
    except BaseException as error:  # noqa: BLE001 - raised again by whoever iterates
        failure = error
    handover.end(failure)


@atexit.register
def _close_all() -> None:
    for stream in list(_unfinished):
        stream.close()
