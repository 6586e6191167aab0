"""What a run came to: the result, or one sentence on what went wrong and what to do about it."""

from __future__ import annotations

import signal

from agenthub.config import format_size
from agenthub.errors import (
    AgentRuntimeError,
    CpuLimitError,
    DiskLimitError,
    EnvironmentError,
    ExecutionError,
    FileSizeLimitError,
    InterruptedError,
    MemoryLimitError,
    OpenFilesLimitError,
    OutputLimitError,
    ProcessLimitError,
    TimeoutError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from agenthub.runtime.processes.limits import Limits
    from agenthub.runtime.processes.protocol import Exchange, Failure
    from agenthub.runtime.processes.supervisor import Completion

_SHOWN_LOG = 20
_LONGEST_KIND = 100  # characters of an exception's name
# How runtimes say, in the last lines of a log, that they got no memory.
_OUT_OF_MEMORY = ("MemoryError", "std::bad_alloc", "heap out of memory", "Cannot allocate memory", "out of memory")
_NO_PROCESS = ("can't start new thread", "Resource temporarily unavailable", "Cannot fork", "EAGAIN")
_SIGNALS = {
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGABRT: "it aborted itself",
    signal.SIGKILL: "somebody killed it; perhaps the system, for want of memory",
    signal.SIGILL: "an illegal instruction",
    signal.SIGBUS: "a bus error",
    signal.SIGFPE: "an arithmetic error",
    signal.SIGXFSZ: "a file grew over its cap",
}


def result_of(agent: str, completion: Completion, exchange: Exchange, limits: Limits) -> Any:
    """The result of a run that has ended.

    Args:
        agent: its name, the subject of every sentence.
        completion: how its processes ended.
        exchange: what it said.
        limits: the caps that it ran under.

    Raises:
        AgentRuntimeError: it did not give one; says why.
    """
    reply = exchange.reply
    answered = reply is not None and (exchange.interactive or completion.reason == "exited")
    if completion.reason != "exited" and not (answered and completion.reason == "timeout"):
        raise _killed(agent, completion, limits)
    if reply is None:
        raise _unanswered(agent, completion, exchange, limits)
    if reply.failure is not None:
        raise _failed(agent, reply.failure, completion, limits)
    return reply.value


def oddities(completion: Completion, exchange: Exchange) -> list[str]:
    """What is odd about a run that gave a result."""
    warnings = list(exchange.warnings)
    if completion.status and not exchange.interactive:
        warnings.append(f"gave a result, but ended with exit code {completion.status}")
    if completion.signal is not None:
        warnings.append(f"gave a result, but did not end by itself ({_signal_name(completion.signal)})")
    if completion.survivors:
        warnings.append("left a process that could not be killed")
    return warnings


def _killed(agent: str, completion: Completion, limits: Limits) -> AgentRuntimeError:
    after = f"after {completion.wall:.1f} s"
    details = _details(completion)
    if completion.reason == "timeout":
        return TimeoutError(
            f"{agent} was killed: it was still running at its deadline of {limits.timeout:g} s",
            suggestion=f"more time: --timeout {2 * (limits.timeout or 0):g}",
            details=details,
        )
    if completion.reason == "memory":
        return _memory_error(agent, completion, limits)
    if completion.reason == "cancelled":
        return InterruptedError(f"{agent} was stopped {after}", details=details)
    if completion.reason == "output":
        return OutputLimitError(
            f"{agent} was killed: it wrote more than the {format_size(limits.output)} that it may write",
            suggestion="raise `limits.output` in its manifest, or let it write a file",
            details=details,
        )
    if completion.error is not None:
        error = completion.error
        return type(error)(f"{agent}: {error.message}", suggestion=error.suggestion, details=details)
    return _over_cap(agent, completion, limits)


def _over_cap(agent: str, completion: Completion, limits: Limits) -> AgentRuntimeError:
    kind: type[ExecutionError]
    if completion.reason == "cpu":
        used = max(completion.cpu, limits.cpu or 0)  # the kernel's two ways to count differ
        kind, cap = CpuLimitError, f"used {used:.1f} s of its {limits.cpu:g} s of CPU time"
    elif completion.reason == "disk":
        size, allowed = format_size(completion.disk), format_size(limits.disk or 0)
        kind, cap = DiskLimitError, f"put {size} into its working directory, of {allowed} that it may"
    else:
        kind = ProcessLimitError
        cap = f"had {completion.peak_tasks} of the {limits.processes} processes and threads that it may have"
    return kind(
        f"{agent} was killed after {completion.wall:.1f} s: it {cap}",
        suggestion=f"raise `limits.{completion.reason}` in its manifest",
        details=_details(completion),
    )


def _refused(agent: str, said: Sequence[str], completion: Completion, limits: Limits) -> AgentRuntimeError | None:
    """What the kernel refused an agent that then failed; None where that is not known."""
    text = "\n".join(said)
    if limits.file_size is not None and (completion.signal == signal.SIGXFSZ or "File too large" in text):
        kind: type[ExecutionError] = FileSizeLimitError
        key, what = "file_size", f"a file grew over its cap of {format_size(limits.file_size)}"
        if limits.disk == limits.file_size:
            key = "disk"
    elif limits.open_files is not None and "Too many open files" in text:
        kind, key = OpenFilesLimitError, "open_files"
        what = f"it wanted more than the {limits.open_files} open files that each of its processes may have"
    elif limits.processes is not None and any(mark in text for mark in _NO_PROCESS):
        kind, key = ProcessLimitError, "processes"
        what = f"it wanted more than the {limits.processes} processes and threads that it may have"
    else:
        return None
    return kind(
        f"{agent} failed: {what}",
        suggestion=f"raise `limits.{key}` in its manifest",
        details=_details(completion),
    )


def _memory_error(agent: str, completion: Completion, limits: Limits) -> MemoryLimitError:
    cap = limits.memory or 0
    if completion.reason == "memory":
        used = format_size(max(completion.peak_memory, cap))
        what = f"was killed: it used {used} of its {format_size(cap)} memory cap after {completion.wall:.1f} s"
    else:
        what = f"ran out of memory: its memory cap is {format_size(cap)}"
    return MemoryLimitError(
        f"{agent} {what}",
        suggestion=f"more: --memory {format_size(2 * cap).replace(' ', '')}",
        details=_details(completion),
    )


def _failed(agent: str, failure: Failure, completion: Completion, limits: Limits) -> AgentRuntimeError:
    if failure.kind.endswith("MemoryError") and limits.memory is not None:
        return _memory_error(agent, completion, limits)
    refused = _refused(agent, (failure.message,), completion, limits)
    if refused is not None:
        return refused
    named = failure.kind and failure.kind != "ExecutionError" and not failure.message.startswith(failure.kind)
    message = f"{' '.join(failure.kind.split())[:_LONGEST_KIND]}: {failure.message}" if named else failure.message
    return ExecutionError(message, details=_details(completion))


def _unanswered(agent: str, completion: Completion, exchange: Exchange, limits: Limits) -> AgentRuntimeError:
    failed = completion.status not in (0, None)
    if _never_started(completion):
        return EnvironmentError(
            f"{agent} cannot be started: its interpreter or program is damaged",
            suggestion="agenthub doctor --fix rebuilds its environment",
            details=_details(completion),
        )
    if (failed or completion.signal is not None) and limits.memory is not None and _ran_out_of_memory(completion):
        return _memory_error(agent, completion, limits)
    if completion.isolation == "bubblewrap" and completion.status == 1 and _bubblewrap_failed(completion):
        return EnvironmentError(
            f"{agent} did not start in its sandbox, or says so itself: {completion.log[-1]}",
            suggestion="agenthub doctor says what this machine can enforce",
        )
    refused = _refused(agent, completion.log[-5:], completion, limits) if failed or completion.signal else None
    if refused is not None:
        return refused
    if completion.signal is not None:
        known = _SIGNALS.get(signal.Signals(completion.signal)) if completion.signal < signal.SIGRTMIN else None
        meaning = f" ({known})" if known else ""
        message = f"{agent} died of {_signal_name(completion.signal)}{meaning} without a result"
    elif exchange.complaint is not None:
        message = f"{agent} gave no result: {exchange.complaint.message}"
    elif failed:
        message = f"{agent} ended with exit code {completion.status} without a result"
    else:
        wrote = "its output holds none" if completion.output else "it wrote nothing"
        message = f"{agent} ended without a result: {wrote}"
    return ExecutionError(message, suggestion=_advice(exchange), details=_details(completion))


def _never_started(completion: Completion) -> bool:
    """Whether the gate's shell could not become the program: the kernel refused a file that looked like one."""
    return completion.status == 126 and len(completion.log) == 1 and "exec: " in completion.log[0]


def _advice(exchange: Exchange) -> str | None:
    if exchange.interactive:
        return None
    if getattr(exchange, "argument", "") is None:
        size = format_size(len(exchange.request))
        return f"its input of {size} is too long for an argument and came on standard input; it may not read that"
    return 'a result is one line of JSON on stdout: {"result": …} or {"error": "…"}'


def _ran_out_of_memory(completion: Completion) -> bool:
    return any(mark in line for line in completion.log[-5:] for mark in _OUT_OF_MEMORY)


def _bubblewrap_failed(completion: Completion) -> bool:
    return len(completion.log) == 1 and completion.log[0].startswith("bwrap: ")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _details(completion: Completion) -> tuple[str, ...]:
    return completion.log[-_SHOWN_LOG:]
