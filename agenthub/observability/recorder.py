"""Records runs while they happen: what starts, what it logs, how it ended. Costs little, and never breaks a run."""

from __future__ import annotations

import contextlib
import os
import time

from agenthub.errors import AgentRuntimeError, InternalError, InterruptedError
from agenthub.observability.journal import Journal
from agenthub.observability.liveness import this_process
from agenthub.quick_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any

    from agenthub.config import Settings
    from agenthub.observability.run_log import RunLog

KEPT = 64 * 1024
"""Characters of inputs, and of a result, that are kept; of larger ones it is only known that they were larger."""
_ERROR = 4096  # characters of an error's message
_SWEEP_INTERVAL = 3600.0
# What a run's envelope says that its row says as well.
_OUTCOME = ("exit_code", "error_type", "suggestion", "execution_time", "usage", "masked")


class Recorder:
    """Where runs are recorded.

    Args:
        directory: of the history.
        enabled: whether anything is.
        full: whether inputs and results are kept; else their digests.
    """

    def __init__(self, directory: str, *, enabled: bool = True, full: bool = True) -> None:
        self.directory = directory
        self.journal = Journal(os.path.join(directory, "journal")) if enabled else None
        self.full = full
        self._failed = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Recorder:
        """What the settings `history` and `history_values` say."""
        return cls(settings.paths.history, enabled=settings["history"], full=settings["history_values"] == "full")

    def begin(
        self,
        run_id: str,
        facts: Mapping[str, Any],
        inputs: Mapping[str, Any],
        *,
        hidden: bool = False,
        mask: Callable[[str], str] | None = None,
    ) -> Recording:
        """Records that a run starts. Raises nothing.

        Args:
            run_id: its name.
            facts: JSON values that describe it, by the columns' names.
            inputs: its inputs, with what is secret masked.
            hidden: whether something in `inputs` was masked, so that they are not what was given.
            mask: takes secrets out of a text.
        """
        recording = Recording(self, run_id, mask)
        if self.journal is not None:
            recording.start(facts, inputs, hidden)
        return recording

    def kept(self, value: object) -> dict[str, Any]:
        """What is kept of inputs or of a result: `value`, or `digest`, or `lost` with the reason."""
        try:
            if not self.full:
                return {"digest": digest(value)}
            if not _is_small(value) or len(dumps(value)) > KEPT:
                return {"lost": "too large"}
        except (TypeError, ValueError, RecursionError):
            return {"lost": "not JSON"}
        return {"value": value}

    def write(self, record: dict[str, Any]) -> Exception | None:
        """Appends to the journal; returns what went wrong."""
        assert self.journal is not None
        try:
            self.journal.append(record)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            return error
        return None

    def warning(self, error: Exception) -> str | None:
        """A sentence about a run that could not be recorded; None after the first time."""
        if self._failed:
            return None
        self._failed = True
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"this run is not in the history: cannot write {self.directory}: {reason}"


class Recording:
    """One run, being recorded. As a context it records what is raised inside."""

    def __init__(self, recorder: Recorder, run_id: str, mask: Callable[[str], str] | None) -> None:
        self._recorder = recorder
        self._run_id = run_id
        self._mask = mask or str
        self._unwritten: dict[str, Any] = {}
        self._warning: str | None = None
        self._log: RunLog | None = None
        self._chunks: list[Any] | None = []  # None once there are too many to keep
        self._room = KEPT
        self._ended = recorder.journal is None

    def start(self, facts: Mapping[str, Any], inputs: Mapping[str, Any], hidden: bool) -> None:
        """Writes the first of its two lines."""
        kept = {"lost": "a secret in them was masked"} if hidden and self._recorder.full else None
        record = {
            "run": self._run_id,
            "start": {
                **facts,
                "at": time.time(),
                "inputs": {**self._recorder.kept(inputs), **(kept or {})},
                "supervisor": this_process(),
            },
        }
        if problem := self._recorder.write(record):  # then the last line says all, if there is room by then
            self._unwritten = record
            self._warning = self._recorder.warning(problem)

    def listening(self, on_log: Callable[[str, str], None] | None) -> Callable[[str, str], None] | None:
        """`on_log`, for lines that are kept as well."""
        if self._ended:
            return on_log

        def listen(line: str, level: str) -> None:
            if self._log is None:
                from agenthub.observability.run_log import RunLog

                self._log = RunLog(self._recorder.directory, self._run_id)
            self._log.write(line, level)
            if on_log is not None:
                on_log(line, level)

        return listen

    def collecting(self, on_chunk: Callable[[Any], None] | None) -> Callable[[Any], None] | None:
        """`on_chunk`, for a streamed result that is kept as well, as long as it is short."""
        if self._ended or on_chunk is None:
            return on_chunk

        def take(chunk: Any) -> None:
            if self._chunks is not None:
                self._room -= len(chunk) if isinstance(chunk, str) else len(dumps(chunk))
                if self._room >= 0:
                    self._chunks.append(chunk)
                else:
                    self._chunks = None
            on_chunk(chunk)

        return take

    def finish(self, envelope: dict[str, Any]) -> dict[str, Any]:
        """Records how it ended; returns the envelope, with a warning where that cannot be recorded."""
        if self._ended:
            return envelope
        outcome = {key: envelope[key] for key in _OUTCOME if key in envelope}
        if "error" in envelope:
            outcome["error"] = envelope["error"][:_ERROR]
        elif "chunks" in envelope:  # they went to whoever listened
            outcome["result"] = {"lost": "too large"} if self._chunks is None else self._recorder.kept(self._chunks)
        else:
            outcome["result"] = self._recorder.kept(envelope["result"])
        self._end(outcome)
        if self._warning is not None:
            return {**envelope, "warnings": [*envelope.get("warnings", ()), self._warning]}
        return envelope

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or self._ended:
            return
        if not isinstance(error, AgentRuntimeError):
            interrupted = isinstance(error, KeyboardInterrupt)
            error = InterruptedError("interrupted") if interrupted else InternalError(f"{kind}: {error}")
        failure = error.to_dict()
        for key in ("error", "suggestion"):
            if key in failure:
                failure[key] = self._mask(failure[key])[:_ERROR]
        self._end(failure)

    def _end(self, outcome: dict[str, Any]) -> None:
        self._ended = True
        problem: Exception | None = None
        if self._log is not None:
            problem = self._log.close()
        record = {**self._unwritten, "run": self._run_id, "end": {"at": time.time(), **outcome}}
        problem = self._recorder.write(record) or problem
        if problem is not None:
            self._warning = self._recorder.warning(problem) or self._warning
        else:
            sweep_sometimes(self._recorder.directory)


def digest(value: object) -> str:
    """`"blake2b:…"` of a JSON value, whatever the order of its keys."""
    try:
        from _blake2 import blake2b  # which `hashlib` has it from; OpenSSL, which that loads, takes several ms
    except ImportError:
        from hashlib import blake2b
    return "blake2b:" + blake2b(dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def sweep_sometimes(directory: str) -> None:
    """Once an hour starts what takes the journal in and removes what is old: a process of its own, not waited for."""
    if is_due(directory):
        with contextlib.suppress(OSError):
            _start_sweep(os.path.dirname(directory))


def is_due(directory: str) -> bool:
    """Whether a history is to be swept; then nobody else hears so for an hour."""
    stamp = os.path.join(directory, ".swept")
    try:
        due = abs(time.time() - os.stat(stamp).st_mtime) >= _SWEEP_INTERVAL
        if due:
            os.utime(stamp)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            os.close(os.open(stamp, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return False
    except OSError:
        return False
    return due


def _start_sweep(home: str) -> None:
    import subprocess
    import sys

    null = subprocess.DEVNULL
    # The shell ends at once, so that nobody has a child to wait for.
    command = ["/bin/sh", "-c", '"$@" &', "sh", sys.executable or "python3", "-m", "agenthub.observability.retention"]
    env = {**os.environ, "AGENTHUB_HOME": home}
    subprocess.run(command, stdin=null, stdout=null, stderr=null, env=env, cwd="/", start_new_session=True, check=False)


def _is_small(value: object) -> bool:
    """Whether a value is worth writing out to see how long it is."""
    room = KEPT
    waiting = [value]
    while waiting and room >= 0:
        item = waiting.pop()
        if isinstance(item, str):
            room -= len(item)
        elif isinstance(item, (list, tuple, dict)):
            room -= 4 * len(item)
            if room >= 0:
                waiting.extend(item)
                waiting.extend(item.values() if isinstance(item, dict) else ())
        else:
            room -= 4
    return room >= 0
