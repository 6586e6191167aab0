"""A batch for an event loop: the same threads, iterated from one of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterable
from typing import Any

from agenthub.runtime.batches.batch import numbered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping

    from agenthub.runtime.batches.batch import Batch, RowResult

_END: Any = object()


async def iterate(
    batch: Batch, rows: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]
) -> AsyncGenerator[RowResult, None]:
    """What `batch.results` yields.

    Args:
        batch: to be run.
        rows: inputs by parameter name; an asynchronous iterable is read in this event loop.
    """
    loop = asyncio.get_running_loop()
    source = _Pump(rows, loop) if isinstance(rows, AsyncIterable) else rows
    results = batch.results(numbered(source))
    with concurrent.futures.ThreadPoolExecutor(1, "agenthub-batch") as thread:
        waiting = None
        try:
            while True:
                waiting = loop.run_in_executor(thread, next, results, _END)
                one = await asyncio.shield(waiting)  # a thread cannot be cancelled; it is told to end, below
                if one is _END:
                    return
                yield one
        finally:
            batch.cancel()
            if isinstance(source, _Pump):
                source.cancel()
            if waiting is not None:
                await asyncio.wait([waiting])
                waiting.cancelled() or waiting.exception()  # seen, whether or not anybody awaits it any more
            await loop.run_in_executor(thread, results.close)


class _Pump:
    """An asynchronous iterable of an event loop, read from another thread."""

    def __init__(self, rows: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._rows = aiter(rows)
        self._loop = loop
        self._waiting: concurrent.futures.Future[Any] | None = None
        self._cancelled = False

    def __iter__(self) -> Iterator[Any]:
        while not self._cancelled:
            self._waiting = asyncio.run_coroutine_threadsafe(_next(self._rows), self._loop)
            if self._cancelled:
                self._waiting.cancel()
            try:
                row = self._waiting.result()
            except concurrent.futures.CancelledError:
                return
            if row is _END:
                return
            yield row

    def cancel(self) -> None:
        """Waits for no further row."""
        self._cancelled = True
        if self._waiting is not None:
            self._waiting.cancel()


async def _next(rows: AsyncIterator[Any]) -> Any:
    return await anext(rows, _END)
