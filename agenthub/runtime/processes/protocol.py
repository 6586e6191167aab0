"""The two contracts as exchanges: what an agent is asked, and what its output means.

docs/reference/protocol.md is the specification. An exchange knows nothing of processes: a supervisor writes `request`
to the agent's stdin, hands what comes from its stdout to `feed`, and calls `finish` at the end.
"""

from __future__ import annotations

from agenthub.config import format_size
from agenthub.errors import AgentRuntimeError, ExecutionError, InvalidInputError, OutputLimitError
from agenthub.quick_json import dumps
from agenthub.runtime.processes.lines import LOG_LINE, LineSplitter
from agenthub.runtime.processes.strict_json import MAX_CONTAINERS, parse_json
from agenthub.values import NamedTuple, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from agenthub.runtime.processes.lines import Log

PROTOCOL_VERSION = 1
# Linux: MAX_ARG_STRLEN, 32 pages, less the final NUL.
MAX_ARGUMENT = 131_071
METHOD_NOT_FOUND = -32601
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_REQUEST_ID = 1
_PREVIEW = 120
_LONGEST = 4_000
_LONGEST_LOG = 1 << 20  # characters of one message; each of its lines costs more than its letters
_HOST = r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}"
_MOST_ATTEMPTS = 8


class Failure(NamedTuple):
    """What an agent says of its failure.

    `kind` is its exception's name, empty where it gave none; `attempts` are hosts that it tried to reach.
    """

    message: str
    kind: str = ""
    attempts: tuple[str, ...] = ()


class Reply(NamedTuple):
    """An agent's answer: `value`, unless `failure` is set."""

    value: Any = None
    failure: Failure | None = None


class Exchange(Protocol):
    """One request and its answer.

    Attributes:
        request: what to write to stdin first.
        interactive: stdin stays open after the request, until the answer.
        cooperative: the agent heeds the farewell, and is given a moment for it before it is sent a signal.
        handed: bytes of chunks that a listener was given, of which nothing is kept.
        chunks: how many these were; None where the agent does not stream, or nobody listens.
        reply: the answer, once there is one; an interactive agent has nothing more to do then.
        complaint: why the output so far is no answer, where there is something to say.
        warnings: oddities that do not spoil the answer.
    """

    request: bytes
    interactive: bool
    cooperative: bool
    handed: int
    chunks: int | None
    reply: Reply | None
    complaint: AgentRuntimeError | None
    warnings: list[str]

    def feed(self, data: bytes) -> bytes:
        """Takes what the agent wrote; returns what to write back.

        Raises:
            AgentRuntimeError: the agent broke the contract; there is no point in going on.
        """

    def farewell(self) -> bytes:
        """What to write to stdin when the run is stopped early; from here on answers and chunks count no more."""

    def finish(self) -> None:
        """Says that the agent will write no more."""


class ScriptExchange:
    """The script contract: the last line of stdout that is a JSON object with `result` or `error`.

    Args:
        method: the method's name.
        parameters: its inputs, as JSON values.
        log: takes every other line.
        limit: bytes that the line with the result may have.
        tool_context: what the request says of tools, where there are any.

    Raises:
        InvalidInputError: the parameters are not JSON.
    """

    interactive = False
    cooperative = False
    handed = 0
    chunks: int | None = None

    def __init__(
        self,
        method: str,
        parameters: Mapping[str, Any],
        log: Log,
        limit: int,
        tool_context: Mapping[str, Any] | None = None,
    ) -> None:
        request: dict[str, Any] = {"method": method, "parameters": parameters}
        if tool_context is not None:
            request["tool_context"] = tool_context
        self.request = _encode(request, ascii_only=True)  # an argument must survive any locale
        self.argument = self.request.decode("ascii") if len(self.request) <= MAX_ARGUMENT else None
        """The request as the agent's argument; None where it is too long for one."""
        self.reply: Reply | None = None
        self.complaint: AgentRuntimeError | None = None
        self.warnings: list[str] = []
        self._log = log
        self._limit = limit
        self._lines = LineSplitter()
        self._within_line = False
        self._results = 0

    def feed(self, data: bytes) -> bytes:
        for line in self._lines.feed(data):
            self._take(line)
            self._within_line = False
        if self._lines.pending > LOG_LINE and not self._may_be_result(self._lines.head):
            self._log.write(self._lines.finish())
            self._within_line = True
        elif self._lines.pending > self._limit:
            raise OutputLimitError(f"the result is larger than the {format_size(self._limit)} that are accepted")
        return b""

    def farewell(self) -> bytes:
        return b""

    def finish(self) -> None:
        if self._lines.pending:
            self._take(self._lines.finish())
        if self._results > 1:
            self.warnings.append(f"wrote {self._results} results; the last one counts")

    def _may_be_result(self, line: bytes) -> bool:
        return not self._within_line and line[:64].lstrip()[:1] == b"{"

    def _take(self, line: bytes) -> None:
        if not self._may_be_result(line) or not (b'"result"' in line or b'"error"' in line):
            if line or not self._within_line:
                self._log.write(line)
            return
        try:
            answer = parse_json(line, "the result", self._limit)
        except AgentRuntimeError as error:
            self.complaint = error
            self._log.write(line[:LOG_LINE])
            return
        if "result" not in answer and "error" not in answer:
            self._log.write(line)
            return
        self._results += 1
        self.reply = _script_reply(answer)


def _script_reply(answer: dict[str, Any]) -> Reply:
    error = answer.get("error")
    if "error" not in answer or (error is None and "result" in answer):
        return Reply(answer["result"])
    kind = answer.get("error_type")
    return Reply(failure=Failure(_one_line(error), kind if isinstance(kind, str) else ""))


class RpcExchange:
    """The method contract: JSON-RPC 2.0, one message a line.

    Args:
        request: the method's name in the protocol: `run` or `describe`.
        params: its parameters, as JSON values.
        log: takes what the agent logs.
        limit: bytes that one message, or all chunks together, may have.
        on_chunk: called with each value that a generator yields; they are not collected then, and the result is None.
        on_progress: called with a fraction of 1 (or None) and a message.

    Raises:
        InvalidInputError: the parameters are not JSON.
    """

    interactive = True

    def __init__(
        self,
        request: str,
        params: Mapping[str, Any],
        log: Log,
        limit: int,
        on_chunk: Callable[[Any], None] | None = None,
        on_progress: Callable[[float | None, str], None] | None = None,
    ) -> None:
        params = {"protocol": PROTOCOL_VERSION, **params}
        message = {"jsonrpc": "2.0", "id": _REQUEST_ID, "method": request, "params": params}
        self.request = _encode(message) + b"\n"
        self.reply: Reply | None = None
        self.complaint: AgentRuntimeError | None = None
        self.warnings: list[str] = []
        self._log = log
        self._limit = limit
        self._on_chunk = on_chunk
        self._on_progress = on_progress
        self.cooperative = False
        self.handed = 0
        self.chunks: int | None = None
        self._dismissed = False
        self._lines = LineSplitter()
        self._chunks: list[Any] = []
        self._chunk_bytes = 0
        self._chunk_containers = 0

    def feed(self, data: bytes) -> bytes:
        answers = b"".join([self._take(line) for line in self._lines.feed(data) if line.strip()])
        if self._lines.pending > self._limit:
            raise self._too_large()
        return answers

    def farewell(self) -> bytes:
        self._dismissed = self.reply is None
        return b'{"jsonrpc":"2.0","method":"cancel"}\n'

    def finish(self) -> None:
        rest = self._lines.finish()
        if rest.strip() and self.reply is None:
            self.complaint = ExecutionError(f"stopped in the middle of a message: {_preview(rest)}")

    def _too_large(self) -> OutputLimitError:
        return OutputLimitError(f"the result is larger than the {format_size(self._limit)} that are accepted")

    def _take(self, line: bytes) -> bytes:
        if len(line) > self._limit:
            raise self._too_large()
        message = _parse_message(line)
        if "method" not in message:
            if not self._dismissed:
                self._respond(message)
        elif "id" in message:
            return _refuse(message)
        else:
            params = message.get("params")
            self._notice(message["method"], params if isinstance(params, dict) else {}, line)
        return b""

    def _respond(self, message: dict[str, Any]) -> None:
        if message.get("id") != _REQUEST_ID:
            raise ExecutionError(f"answered a request that was not made (id {_one_line(message.get('id'))[:40]})")
        if self.reply is not None:
            if not self.warnings:  # it may go on like this
                self.warnings.append("answered twice; the first answer counts")
            return
        error = message.get("error")
        result = message.get("result")
        if isinstance(error, dict):
            self.reply = Reply(failure=self._failure(error))
        elif isinstance(result, dict) and "value" in result:
            self.reply = Reply(result["value"])
        elif isinstance(result, dict) and result.get("chunks") == (self.chunks or len(self._chunks)):
            self.reply = Reply(self._chunks if self._on_chunk is None else None)
            self.chunks = None if self._on_chunk is None else self.chunks or 0
        else:
            raise ExecutionError("gave an answer that is not the protocol: neither `value`, `chunks` nor `error`")

    def _failure(self, error: dict[str, Any]) -> Failure:
        data = error.get("data")
        data = data if isinstance(data, dict) else {}
        for line in str(data.get("traceback") or "")[:_LONGEST_LOG].splitlines():
            self._log.write(line, "ERROR")
        tried = data.get("attempts")
        tried = _hosts(tried) if isinstance(tried, list) else []
        return Failure(_one_line(error.get("message")), str(data.get("type") or ""), tuple(tried[:_MOST_ATTEMPTS]))

    def _notice(self, method: Any, params: dict[str, Any], line: bytes) -> None:
        if method == "log":
            level = str(params.get("level", "INFO")).upper()
            for text in _text(params.get("message"))[:_LONGEST_LOG].split("\n"):
                self._log.write(text, level if level in LEVELS else "INFO")
        elif method == "progress":
            fraction = params.get("fraction")
            if self._on_progress is not None:
                known = isinstance(fraction, (int, float)) and not isinstance(fraction, bool)
                self._on_progress(fraction if known else None, _text(params.get("message")))
        elif method == "cancellable":
            self.cooperative = True
        elif method == "chunk" and self.reply is None and not self._dismissed:
            if self._on_chunk is None:
                self._collect(params.get("value"), line)
            else:
                self.handed += len(line)
                self.chunks = (self.chunks or 0) + 1
                self._on_chunk(params.get("value"))

    def _collect(self, value: Any, line: bytes) -> None:
        self._chunk_bytes += len(line)
        self._chunk_containers += line.count(b"{") + line.count(b"[") - 2
        if self._chunk_bytes > self._limit or self._chunk_containers > MAX_CONTAINERS:
            raise self._too_large()
        self._chunks.append(value)


def _parse_message(line: bytes) -> dict[str, Any]:
    try:
        message = parse_json(line, "its answer")
    except ExecutionError as error:
        if line.lstrip().startswith(b'{"jsonrpc"'):
            raise
        raise _not_protocol(line) from error
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise _not_protocol(line)
    return message


def _not_protocol(line: bytes) -> ExecutionError:
    return ExecutionError(
        f"wrote something that is not the protocol: {_preview(line)}",
        suggestion="print to sys.stdout or sys.stderr: both go to the log",
    )


def _refuse(message: dict[str, Any]) -> bytes:
    error = {"code": METHOD_NOT_FOUND, "message": f"{_one_line(message['method'])[:80]} is not available here"}
    request = message["id"] if isinstance(message["id"], (int, str)) else None
    return _encode({"jsonrpc": "2.0", "id": request, "error": error}) + b"\n"


def _encode(value: Any, *, ascii_only: bool = False) -> bytes:
    try:
        return dumps(value, allow_nan=False, ensure_ascii=ascii_only, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"the parameters are not JSON: {error}") from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else dumps(value)


def _hosts(tried: list[Any]) -> list[str]:
    import re

    return [host for host in tried if re.fullmatch(_HOST, str(host))]


def _one_line(value: Any) -> str:
    return " ".join(_text(value)[:_LONGEST].split()) or "no reason given"


def _preview(line: bytes) -> str:
    return repr(line[:_PREVIEW].decode("utf-8", "replace")) + (" …" if len(line) > _PREVIEW else "")
