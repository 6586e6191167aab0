"""The friendly face in Python: an installed agent as an object whose methods are the agent's."""

from __future__ import annotations

import base64
import contextlib
import os

from agenthub.config import Settings
from agenthub.errors import AgentRuntimeError, error_class
from agenthub.runtime.agent_runtime import AgentRuntime, find_method
from agenthub.runtime.runs.permissions import Changes, checked_items
from agenthub.runtime.runs.plan import RunOptions
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        Callable,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from typing import Any

    from agenthub.runtime.batches.batch import Batch, RowResult
    from agenthub.runtime.processes.cancellation import Cancellation
    from agenthub.runtime.runs.locator import LocatedAgent
    from agenthub.runtime.runs.stream import AsyncRunStream, RunStream


class FileResult(NamedTuple):
    """A file that an agent made."""

    name: str
    media_type: str
    data: bytes

    def save(self, path: str | os.PathLike[str] | None = None) -> str:
        """Writes the file to `path` (by default under its own name, here) and returns the path."""
        target = os.fspath(path) if path is not None else self.name
        with open(target, "wb") as file:
            file.write(self.data)
        return target


def load_agent(
    agent: str,
    *,
    timeout: float | str | None = None,
    memory: int | str | None = None,
    env: Sequence[str] = (),
    allow: Mapping[str, Sequence[str]] | None = None,
    deny: Mapping[str, Sequence[str]] | None = None,
    sandbox: str | None = None,
    on_log: Callable[[str, str], None] | None = None,
    on_progress: Callable[[float | None, str], None] | None = None,
) -> Agent:
    """Loads an agent; its methods become methods of the object.

    Args:
        agent: `owner/name`, `name` where only one owner has it, or a path.
        timeout: deadline of each call, in seconds or as `"2min"`; None: the manifest's.
        memory: cap of each call, in bytes or as `"512MB"`; None: the manifest's.
        env: environment variables to pass, each `"NAME=value"` or `"NAME"`.
        allow: what each call may do besides, by kind (`network read write run environment`), as `--allow-…` takes it:
            `{"network": ["api.example.com"]}`; a relative path is one of the working directory.
        deny: what it may not although it could; goes before `allow`.
        sandbox: `auto`, `strict`, or `off`, which runs it with your rights; None: as the settings say.
        on_log: called with each line of the agent's log and its level.
        on_progress: called with a fraction (or None) and a message.

    Raises:
        AgentNotFoundError: there is no such agent.
        InvalidManifestError: a path's manifest is missing or wrong.
        InvalidInputError: a permission that cannot be one.
    """
    runtime = AgentRuntime(Settings({"timeout": timeout, "memory": memory, "sandbox": sandbox}))
    options = RunOptions(
        variables=tuple(env),
        changes=Changes(checked_items(allow or {}), checked_items(deny or {})),
        consent=(lambda sentence: None) if sandbox == "off" else None,
        on_log=on_log,
        on_progress=on_progress,
    )
    return Agent(runtime, runtime.locate(agent), options)


class Agent:
    """An agent; made by `load_agent`.

    `agent.query(file="sales.csv", sql="…")` runs a method in a process of its own and returns its result. A method
    whose name is taken here, or is no identifier, is reached by `agent.call("name", …)`.
    """

    def __init__(self, runtime: AgentRuntime, located: LocatedAgent, options: RunOptions) -> None:
        self._runtime = runtime
        self._located = located
        self._options = options

    @property
    def manifest(self) -> Any:
        """The agent's `AgentManifest`."""
        return self._located.manifest

    def call(self, method: str, /, **parameters: Any) -> Any:
        """Runs a method and returns its result; a file as a `FileResult`.

        Raises:
            MethodNotFoundError: the agent has no such method.
            InvalidInputError: the parameters do not fit, or a variable that the agent needs is not set.
            EnvironmentError: its environment is broken.
            ExecutionError: the agent failed; a subclass such as `TimeoutError` where a cap was hit.
        """
        return _result_of(self._runtime.run(self._located, method, parameters, self._options))

    def stream(self, method: str, /, **parameters: Any) -> RunStream:
        """Runs a method and iterates over what it yields, as it comes: `for chunk in agent.stream("write", …)`.

        The agent waits for its reader. Closing the iterator, leaving its `with`, or leaving the loop and forgetting it
        stops the run. A method that returns a value and yields none gives just that.

        Raises:
            MethodNotFoundError: the agent has no such method. Everything else that `call` raises, the iterator does.
        """
        from agenthub.runtime.runs.stream import RunStream

        return RunStream(self._streamed(method, parameters))

    def astream(self, method: str, /, **parameters: Any) -> AsyncRunStream:
        """`stream` for asyncio: `async for chunk in agent.astream("write", …)`; leave it early by `aclose`."""
        from agenthub.runtime.runs.stream import AsyncRunStream

        return AsyncRunStream(self._streamed(method, parameters))

    def _streamed(
        self, method: str, parameters: dict[str, Any]
    ) -> Callable[[Callable[[Any], None], Cancellation], None]:
        find_method(self._located, method)

        def run(on_chunk: Callable[[Any], None], cancellation: Cancellation) -> None:
            options = self._options._replace(on_chunk=on_chunk, cancellation=cancellation)
            envelope = self._runtime.run(self._located, method, parameters, options)
            result = _result_of(envelope)
            if "chunks" not in envelope:
                on_chunk(result)

        return run

    def map(
        self,
        method: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        jobs: int = 8,
        ordered: bool = True,
        retry: int = 0,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Runs a method over many inputs, several at a time, and returns an iterator of their results.

        It runs ahead of whoever iterates by at most four rows for each job. Closing it stops the rows that run.

        Args:
            method: the method's name.
            rows: inputs by parameter name; read in the batch's own threads, one at a time, as results are taken.
            jobs: rows at a time, at most 64.
            ordered: results in the order of `rows`; else as they come.
            retry: how often a row is run again whose agent failed or timed out, after a pause.
            return_exceptions: a row that fails gives its error as its result; else the error is raised, and ends all.

        Raises:
            MethodNotFoundError: the agent has no such method.
            InvalidInputError: `jobs` or `retry` cannot be.
        """
        from agenthub.runtime.batches.batch import numbered

        batch = self._batch(method, jobs, ordered, retry)
        return _results(batch.results(numbered(rows)), return_exceptions)

    async def amap(
        self,
        method: str,
        rows: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        jobs: int = 8,
        ordered: bool = True,
        retry: int = 0,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """`map` for `async for`; `rows` may be an asynchronous iterable, which is read in the event loop.

        Cancelling the task that iterates, or `aclose`, stops the rows that run.
        """
        from agenthub.runtime.batches.asynchronous import iterate

        batch = self._batch(method, jobs, ordered, retry)
        async with contextlib.aclosing(iterate(batch, rows)) as finished:
            async for one in finished:
                yield _result_or_error(one.envelope, return_exceptions)

    def _batch(self, method: str, jobs: int, ordered: bool, retry: int) -> Batch:
        from agenthub.runtime.batches.batch import Batch, BatchOptions

        options = BatchOptions(jobs=jobs, ordered=ordered, retry=retry)
        return Batch(self._runtime, self._located, method, self._options, options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        methods = self._located.manifest.methods
        spelled = name if name in methods else name.replace("_", "-")
        if spelled not in methods:
            if name.startswith("_"):
                raise AttributeError(name)
            find_method(self._located, name)  # raises, naming the nearest

        def method(**parameters: Any) -> Any:
            return self.call(spelled, **parameters)

        method.__name__ = name
        method.__doc__ = methods[spelled].description
        return method

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._located.manifest.methods})

    def __repr__(self) -> str:
        return f"<agent {self._located.label} {self._located.manifest.version}>"


def _result_or_error(envelope: dict[str, Any], return_exceptions: bool) -> Any:
    try:
        return _result_of(envelope)
    except AgentRuntimeError as error:
        if not return_exceptions:
            raise
        return error


def _results(finished: Generator[RowResult, None, None], return_exceptions: bool) -> Iterator[Any]:
    with contextlib.closing(finished):
        for one in finished:
            yield _result_or_error(one.envelope, return_exceptions)


def _result_of(envelope: dict[str, Any]) -> Any:
    """Raises what an envelope says went wrong."""
    if "error" in envelope:
        raise error_class(envelope["error_type"])(envelope["error"], suggestion=envelope.get("suggestion"))
    result = envelope["result"]
    if isinstance(result, dict) and result.get("encoding") == "base64" and "file" in result:
        return FileResult(result["file"], result["media_type"], base64.b64decode(result["data"]))
    return result
