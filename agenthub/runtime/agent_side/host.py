"""Runs one method of an agent: `python host.py AGENT_DIRECTORY ENTRY`, a JSON-RPC request on stdin.

Standard library only, and little of it: this is part of every start. Python 3.8 or newer. The protocol's descriptors
are moved out of reach first: what the agent prints, and what its children write, goes to stderr.
docs/reference/protocol.md is the specification.
"""

from __future__ import annotations

import _thread
import atexit
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Any

METHOD_NOT_FOUND = -32601
AGENT_ERROR = -32000
MAX_DEPTH = 256
MAX_CONTAINERS = 100000
MAX_ATTEMPTS = 8

attempts: list[str] = []  # hosts that the agent asked for, where that is watched
current: list[Channel] = []  # the run's one; none while an agent is loaded for later runs


class Channel:
    """The protocol's end on this side."""

    def __init__(self) -> None:
        self.reader = os.dup(0)
        self._writer = os.dup(1)
        self._owner = os.getpid()
        self._lock = _thread.allocate_lock()
        self._cancelled = self._heeds = False
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def read(self) -> dict[str, Any]:
        parts: list[bytes] = []
        while True:
            part = os.read(self.reader, 1 << 16)
            line, feed, rest = part.partition(b"\n")
            parts.append(line)
            if feed or not part:
                self._cancelled = bool(rest)
                break
        request: dict[str, Any] = json.loads(b"".join(parts))
        return request

    @property
    def cancelled(self) -> bool:
        """Whether there is word after the request, which is `cancel`. It is not read, so that forks may ask too."""
        if not self._cancelled:
            import select

            poller = select.poll()
            poller.register(self.reader, select.POLLIN)
            self._cancelled = any(event & select.POLLIN for _, event in poller.poll(0))
        return self._cancelled

    def heed_cancel(self) -> None:
        """Says once that this agent ends by itself when it is asked to, so that it is not sent a signal at once."""
        if not self._heeds:
            self._heeds = True
            self.notify("cancellable")

    def send(self, message: dict[str, Any]) -> None:
        if os.getpid() != self._owner:  # a fork that came back: it has no say here
            os._exit(0)
        message = {"jsonrpc": "2.0", **message}
        data = memoryview(json.dumps(message, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._writer, data) :]

    def notify(self, method: str, **params: Any) -> None:
        if os.getpid() == self._owner:
            self.send({"method": method, "params": params})


class NotJson(Exception):
    """A result that JSON cannot hold; the message names where."""


class Check:
    """Raises NotJson unless a value survives JSON unchanged (a tuple becomes an array)."""

    def __init__(self, value: Any, path: str) -> None:
        self._parents: set[int] = set()
        self._visit(value, path)

    def _visit(self, value: Any, path: str) -> None:
        if isinstance(value, (dict, list, tuple)):
            self._enter(value, path)
        elif type(value) is float:
            if value - value != 0.0:
                raise NotJson("%s is %r, which JSON cannot hold" % (path, value))
        elif isinstance(value, str):
            if encodable(value) != value:
                raise NotJson("%s holds a lone surrogate, which is no Unicode text" % path)
        elif value is not None and not isinstance(value, int):
            raise NotJson("%s is of type %s, which JSON cannot hold" % (path, type_name(type(value))))

    def _enter(self, container: Any, path: str) -> None:
        if id(container) in self._parents:
            raise NotJson("%s contains itself" % path)
        if len(self._parents) >= MAX_DEPTH:
            raise NotJson("%s… is nested too deeply; at most %d levels are accepted" % (path[:80], MAX_DEPTH))
        self._parents.add(id(container))
        if isinstance(container, dict):
            for key, item in container.items():
                if not isinstance(key, str) or encodable(key) != key:
                    raise NotJson("%s has the key %r; keys in JSON are Unicode text" % (path, key))
                self._visit(item, "%s.%s" % (path, key) if key.isidentifier() else "%s[%r]" % (path, key))
        else:
            for index, item in enumerate(container):
                self._visit(item, "%s[%d]" % (path, index))
        self._parents.discard(id(container))


def looks_fine(value: Any) -> bool:
    """Whether `Check` can be spared: fast for what is large, and wrong only on the safe side.

    NaN and lone surrogates are left to the encoder, which refuses them.
    """
    scalars = {str, int, bool, float, type(None)}
    pending = [[value]]
    for _ in range(MAX_CONTAINERS):
        if not pending:
            return True
        container: Any = pending.pop()
        if type(container) is dict:
            if container and set(map(type, container)) != {str}:
                return False
            container = container.values()
        elif type(container) not in (list, tuple):
            return False
        if not set(map(type, container)) <= scalars:
            pending.extend(item for item in container if type(item) not in scalars)
    return False  # large, or a cycle


def type_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else "%s.%s" % (kind.__module__, kind.__name__)


def send_value(channel: Channel, value: Any, path: str, wrap: Callable[[Any], dict[str, Any]]) -> None:
    """Sends what `wrap` makes of `value`, once it is known to be JSON."""
    if not looks_fine(value):
        Check(value, path)
    try:
        channel.send(wrap(value))
    except (ValueError, RecursionError, UnicodeEncodeError):
        Check(value, path)
        raise


def load(entry: str) -> Any:
    """The object whose callables are the methods."""
    import importlib

    name, _, attribute = entry.partition(":")
    found: Any = importlib.import_module(name)
    if not attribute:
        return found
    for part in attribute.split("."):
        found = getattr(found, part)
    return found() if isinstance(found, type) else found


def is_public(owner: Any, name: str) -> bool:
    """Whether `name` is a method: no private name, and nothing that a module merely imported."""
    if name.startswith("_"):
        return False
    found = getattr(owner, name, None)
    if isinstance(owner, type(os)):
        return callable(found) and getattr(found, "__module__", None) == owner.__name__
    return callable(found)


def run(channel: Channel, request: dict[str, Any], entry: str) -> None:
    params = request["params"]
    if params.get("watch_network"):
        sys.addaudithook(note_attempt)
    owner = load(entry)
    name = params["method"]
    if name.startswith("_") or not callable(getattr(owner, name, None)):
        error = {"code": METHOD_NOT_FOUND, "message": "%s has no method '%s'" % (entry, name)}
        channel.send({"id": request["id"], "error": error})
        return
    result = getattr(owner, name)(**params["parameters"])
    if hasattr(type(result), "__await__"):
        result = wait_for(channel, result)
    if hasattr(type(result), "__anext__"):
        result = synchronous(channel, result)
    if hasattr(type(result), "__next__") and not hasattr(result, "read"):
        channel.send({"id": request["id"], "result": {"chunks": stream(channel, result)}})
    else:
        send_value(channel, result, "result", lambda value: {"id": request["id"], "result": {"value": value}})


def note_attempt(event: str, args: tuple[Any, ...]) -> None:
    """Notes a host, so that a failure can name it. What holds the agent is its sandbox."""
    if event == "socket.getaddrinfo":
        host, port = args[0], args[1]
    elif event == "socket.connect" and isinstance(args[1], tuple):
        host, port = args[1][0], args[1][1]
    else:
        return
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    number = {"https": 443, "http": 80}.get(str(port), port)
    attempt = ("[%s]:%s" if ":" in name else "%s:%s") % (name, number)
    if attempt not in attempts and len(attempts) < MAX_ATTEMPTS:
        attempts.append(attempt)


def stream(channel: Channel, chunks: Iterator[Any]) -> int:
    """Sends each value of a generator as it comes, and closes it when the run is cancelled; returns their number."""
    channel.heed_cancel()
    count = 0
    for chunk in chunks:
        send_value(channel, chunk, "chunk[%d]" % count, lambda value: {"method": "chunk", "params": {"value": value}})
        count += 1
        if channel.cancelled:
            getattr(chunks, "close", bool)()
            break
    return count


def wait_for(channel: Channel, awaitable: Awaitable[Any]) -> Any:
    import asyncio

    async def main() -> Any:
        cancel_with(channel, asyncio.get_running_loop(), [asyncio.current_task()])
        return await awaitable

    return asyncio.run(main())


def synchronous(channel: Channel, generator: Any) -> Iterator[Any]:
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    tasks: list[Any] = []
    cancel_with(channel, loop, tasks)
    try:
        while True:
            tasks[:] = [asyncio.ensure_future(generator.__anext__(), loop=loop)]
            try:
                yield loop.run_until_complete(tasks[0])
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def cancel_with(channel: Channel, loop: Any, tasks: list[Any]) -> None:
    """Cancels asynchronous tasks, wherever they wait, once the run is cancelled."""

    def look() -> None:
        loop.remove_reader(channel.reader)
        if channel.cancelled:
            for task in tasks:
                task.cancel()

    try:
        loop.add_reader(channel.reader, look)
    except (OSError, ValueError, NotImplementedError):  # not every loop, nor every kind of standard input
        return
    channel.heed_cancel()


def describe(channel: Channel, request: dict[str, Any], entry: str) -> None:
    import inspect

    owner = load(entry)
    names = [name for name in dir(owner) if is_public(owner, name)]
    methods = {name: describe_method(inspect, getattr(owner, name)) for name in names}
    channel.send({"id": request["id"], "result": {"value": methods}})


def describe_method(inspect: Any, method: Any) -> dict[str, Any]:
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return {"description": "", "parameters": None}
    parameters = {}
    for parameter in signature.parameters.values():
        annotation = "" if parameter.annotation is parameter.empty else inspect.formatannotation(parameter.annotation)
        required = parameter.default is parameter.empty and parameter.kind not in (2, 4)
        kind = parameter.kind.name.lower()
        parameters[parameter.name] = {"required": required, "kind": kind, "annotation": annotation}
    return {"description": (inspect.getdoc(method) or "").partition("\n")[0], "parameters": parameters}


def report(channel: Channel, request: dict[str, Any], error: BaseException) -> None:
    """Answers with an exception, as the agent's author needs to see it: without the frames of this file."""
    data: dict[str, Any] = {"attempts": attempts} if attempts else {}
    if isinstance(error, NotJson):
        message = str(error)
    elif isinstance(error, SystemExit):
        message = "called sys.exit(%s) instead of returning a result" % ("" if error.code is None else error.code)
    else:
        import traceback

        message = text_of(error)
        data["type"] = type(error).__name__
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        lines = traceback.format_exception(type(error), error, trace)
        data["traceback"] = encodable("".join(line for line in lines if "<frozen importlib" not in line))
    failure = {"code": AGENT_ERROR, "message": encodable(message), "data": data}
    channel.send({"id": request["id"], "error": failure})


def encodable(text: str) -> str:
    """`text`, with a question mark for what UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def text_of(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def offer_module() -> None:
    """`import agenthub_agent` inside an agent: `progress(fraction, message)`, `log(message, level)`, `cancelled()`."""
    module = type(os)("agenthub_agent", "What an agent may tell its runner.")

    def progress(fraction: float | None, message: str = "") -> None:
        for channel in current:
            channel.notify("progress", fraction=None if fraction is None else float(fraction), message=str(message))

    def log(message: str, level: str = "info") -> None:
        for channel in current:
            channel.notify("log", message=str(message), level=str(level))

    def cancelled() -> bool:
        for channel in current:
            channel.heed_cancel()
        return any(channel.cancelled for channel in current)

    module.__dict__.update(progress=progress, log=log, cancelled=cancelled)
    sys.modules["agenthub_agent"] = module


def prepare(directory: str) -> None:
    """Makes this process one that an agent can be imported in; what it prints is log, and comes line by line."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [directory] + [path for path in sys.path if path and os.path.abspath(path) != here]
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    offer_module()


def main() -> None:
    directory, entry = sys.argv[1:3]
    prepare(directory)
    sys.argv[:] = [entry]
    answer(entry)


def answer(entry: str) -> None:
    """Answers one request. Does not return."""
    current.append(channel := Channel())
    request = channel.read()
    try:
        handler = {"run": run, "describe": describe}.get(request["method"])
        if handler is None:
            error = {"code": METHOD_NOT_FOUND, "message": "unknown request '%s'" % request["method"]}
            channel.send({"id": request["id"], "error": error})
        else:
            handler(channel, request, entry)
    except BaseException as error:
        if not channel.cancelled:  # nobody waits for an answer then
            report(channel, request, error)
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)  # a thread that the agent left must not hold the run


if __name__ == "__main__":
    main()
