"""`agenthub runs`, `logs`, `rerun` and `stop`."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from agenthub.cli.call_words import RUN_OPTIONS, add_run_options
from agenthub.cli.output import printable, printable_values
from agenthub.config import Settings, format_size, parse_duration
from agenthub.errors import AgentNotFoundError, ExecutionError, InvalidInputError, PermissionDeniedError
from agenthub.observability.history import STATUSES, Filter, History

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agenthub.cli.output import Output
    from agenthub.observability.history import RunRecord
    from agenthub.observability.log_reader import LogLine

_LOOK = 0.1  # seconds between two looks at what others write
_STARTING = 3.0  # seconds between a run's first line in the journal and its stop pipe, at most
_ENDING = 10.0  # seconds more than the setting `grace` that a run may take to end
_STYLES = {"failed": "red", "running": "yellow", "lost": "red"}
_INTERRUPTED = 130
_RUN = "its id, or the beginning of it"
_JSON = "print a JSON document"
_EVERYWHERE = frozenset(("-q", "--quiet", "-v", "--verbose", "--color", "--no-progress"))


def configure_runs(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="show", help="show RUN: all that is known of a run")
    showing = actions.add_parser("show")
    showing.add_argument("run", metavar="RUN", help=_RUN)
    showing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=_JSON)
    parser.add_argument("--agent", metavar="AGENT", help="of this agent: owner/name, or name")
    parser.add_argument("--method", metavar="METHOD", help="of this method")
    parser.add_argument("--status", choices=STATUSES, help="that went this way")
    parser.add_argument("--since", metavar="TIME", help="not older than this, such as 2h or 7d")
    parser.add_argument("--limit", metavar="N", type=int, default=20, help="the newest N; 0: all; default: 20")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what starts and ends from now on")
    parser.add_argument("--json", action="store_true", help="print a JSON document; with --follow one a line")


def runs(arguments: argparse.Namespace, output: Output) -> int:
    """One line a run, the newest first; followed, as they come."""
    with _history(output) as history:
        if arguments.action:
            _show(_find(history, arguments.run), arguments.json, output)
            return 0
        wanted, limit = _filter(arguments), arguments.limit or -1
        if arguments.follow:
            return _interruptible(lambda: _follow(history, wanted, limit, arguments.json, output))
        records = history.runs(wanted, limit)
    if arguments.json:
        output.json({"runs": [_summary(record) for record in records]})
    elif records:
        output.page("\n".join(_line(record, output) for record in records))
    else:
        output.note("no runs are recorded" + (" that fit" if wanted != Filter() else ""))
    return 0


def _history(output: Output) -> History:
    from agenthub.observability.recorder import sweep_sometimes

    directory = Settings().paths.history
    sweep_sometimes(directory)
    return History(directory, output.warning)


def _find(history: History, prefix: str) -> RunRecord:
    if not prefix:
        raise InvalidInputError("RUN is empty", suggestion="see: agenthub runs")
    return history.find(prefix)


def _filter(arguments: argparse.Namespace) -> Filter:
    if arguments.limit < 0:
        raise InvalidInputError("--limit is a number of runs, or 0 for all")
    since = None
    if arguments.since is not None:
        try:
            since = time.time() - parse_duration(arguments.since)
        except ValueError as error:
            raise InvalidInputError(f"--since: {error}") from None
    return Filter(arguments.agent, arguments.method, arguments.status, since)


def _follow(history: History, wanted: Filter, limit: int, as_json: bool, output: Output) -> int:
    """The newest runs, and then each that starts or ends, until it is interrupted."""
    last = max((record.seq for record in history.runs(Filter(), 1)), default=0)
    shown = history.runs(wanted, limit)[::-1]
    running = [record for record in history.runs(wanted._replace(status="running"), -1) if record.seq <= last]
    anything = wanted._replace(status=None)
    while True:
        for record in shown:
            if wanted.status in (None, record.status):
                output.page(json.dumps(_summary(record)) if as_json else _line(record, output))
        time.sleep(_LOOK)
        fresh = history.runs(anything._replace(after=last), -1)[::-1]
        ended = [record for record in history.again(running) if record.status != "running"]
        shown = ended + fresh
        last = max((record.seq for record in fresh), default=last)
        gone = {record.seq for record in ended}
        running = [record for record in [*running, *fresh] if record.status == "running" and record.seq not in gone]


def _interruptible(follow: Callable[[], int]) -> int:
    """Ctrl-C is how a person ends what goes on for ever, and no error."""
    try:
        return follow()
    except KeyboardInterrupt:
        return _INTERRUPTED


def _summary(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "agent": {"owner": record.owner or None, "name": record.agent, "version": record.version},
        "method": record.method,
        "status": record.status,
        "started": _iso(record.started),
        "ended": _iso(record.ended),
        "execution_time": record.execution_time,
        "exit_code": record.exit_code,
        "error_type": record.error_type,
        "error": record.error,
        "isolation": record.isolation,
        "environment": record.environment,
    }


def _line(record: RunRecord, output: Output) -> str:
    status = output.style(f"{record.status:<7}", _STYLES[record.status]) if record.status in _STYLES else record.status
    took = "" if record.execution_time is None else _duration(record.execution_time)
    what = printable(f"{record.label} {record.method}") + (f"  {record.error_type}" if record.error_type else "")
    return f"{record.run_id:<12}  {_when(record.started):<12}  {status:<7}  {took:>7}  {what}"


def _when(seconds: float) -> str:
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%b %d %H:%M", then)


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"


def _duration(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _show(record: RunRecord, as_json: bool, output: Output) -> None:
    if as_json:
        more = ("inputs", "result", "usage", "masked", "suggestion", "directory", "digest")
        output.json({**_summary(record), **{key: getattr(record, key) for key in more}})
        return
    for name, text in _fields(record):
        if text:
            output.page(f"{name:<11} {printable_values(text)}")


def _fields(record: RunRecord) -> Iterator[tuple[str, str]]:
    code = "" if record.exit_code is None else f", exit code {record.exit_code}"
    yield "run", f"{record.run_id}  {record.status}{code}"
    yield "agent", f"{record.label} {record.version or ''}  {(record.digest or record.directory or '')[:19]}"
    yield "method", record.method
    took = "" if record.execution_time is None else f", took {_duration(record.execution_time)}"
    yield "started", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started)) + took
    yield "inputs", _kept(record.inputs)
    yield "result", "" if record.result is None else _kept(record.result)
    yield "error", f"{record.error_type}: {record.error}" if record.error else ""
    yield "suggestion", record.suggestion or ""
    usage = record.usage or {}
    parts = [f"{usage['cpu']:.2g} s of CPU", f"{format_size(usage['peak_memory'])} of memory"] if usage else []
    parts += [f"{usage['processes']} processes"] if usage else []
    yield "used", " · ".join(parts)
    yield "held by", record.isolation or ""
    yield "environment", record.environment or ""


def _kept(value: dict[str, Any]) -> str:
    if "value" in value:
        return json.dumps(value["value"], ensure_ascii=False)
    return f"not kept: {value['lost']}" if "lost" in value else str(value.get("digest"))


def configure_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_RUN)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser.add_argument("--json", action="store_true", help="print a JSON document; with --follow one a line")


def logs(arguments: argparse.Namespace, output: Output) -> int:
    """What a run's agent printed and logged."""
    from agenthub.observability.log_reader import LogReader

    with _history(output) as history:
        record = _find(history, arguments.run)
        reader = LogReader(history.directory, record.run_id)
        if arguments.follow:
            return _interruptible(lambda: _follow_log(history, record, reader.new_lines, arguments.json, output))
        lines = list(reader.new_lines())
    if arguments.json:
        output.json({"run_id": record.run_id, "lines": [_log_document(line) for line in lines]})
    elif lines:
        output.result("\n".join(line.text for line in lines))
    else:
        output.note(f"{record.run_id} has logged nothing")
    return 0


def _follow_log(
    history: History, record: RunRecord, new_lines: Callable[[], Iterator[LogLine]], as_json: bool, output: Output
) -> int:
    while True:
        history.refresh()
        ended = all(found.status != "running" for found in history.again([record]))
        lines = list(new_lines())  # after it was seen to have ended: then these are the last
        if lines:
            output.result("\n".join(json.dumps(_log_document(line)) if as_json else line.text for line in lines))
        if ended:
            return 0
        time.sleep(_LOOK)


def _log_document(line: LogLine) -> dict[str, Any]:
    return {"time": _iso(line.time), "level": line.level, "text": line.text}


def configure_rerun(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser, _EVERYWHERE)
    parser.add_argument("run", metavar="RUN", help=_RUN)


def rerun(arguments: argparse.Namespace, output: Output) -> int:
    """Runs what was run, with the options given now."""
    from agenthub.cli.run_commands import run

    with _history(output) as history:
        record = _find(history, arguments.run)
    if "value" not in record.inputs or "lost" in record.inputs:
        reason = record.inputs.get("lost") or "only their digest was kept"
        raise InvalidInputError(
            f"{record.run_id} cannot be run again, for want of its inputs: {reason}",
            suggestion=f"agenthub run {record.label} {record.method} …",
        )
    directory = _same_version(record)
    return run([*_option_words(arguments), directory, record.method, json.dumps(record.inputs["value"])], output)


def _option_words(arguments: argparse.Namespace) -> Iterator[str]:
    """The options of `run` among them, as words again."""
    for names, definition in RUN_OPTIONS:
        value = getattr(arguments, names[-1].lstrip("-").replace("-", "_"), None)
        if definition.get("action") == "store_true":
            yield from names[-1:] if value and names[0] not in _EVERYWHERE else ()
        elif value is not None and names[0] not in _EVERYWHERE:
            yield from (f"{names[-1]}={one}" for one in (value if isinstance(value, list) else [value]))


def _same_version(record: RunRecord) -> str:
    """Where the version that was run is.

    Raises:
        AgentNotFoundError: it is not there any more.
    """
    from agenthub.config import Settings
    from agenthub.packages.store import Store
    from agenthub.runtime.runs.locator import locate_directory

    directory, found = record.directory or "", ""
    if os.path.isdir(directory):
        agent = locate_directory(directory, Store(Settings().paths))
        digest = None if agent.record is None else agent.record.digest
        if (agent.manifest.version, digest) == (record.version, record.digest):
            return directory
        found = f"; there is {agent.manifest.version}"
    raise AgentNotFoundError(
        f"{record.label} {record.version}, which {record.run_id} was a run of, is no longer at {directory}{found}",
        suggestion=f"install it again, or: agenthub run {record.label} {record.method} …",
    )


def configure_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN|AGENT", help=f"{_RUN}; or an agent that is kept loaded")
    parser.add_argument("--json", action="store_true", help=_JSON)


def stop(arguments: argparse.Namespace, output: Output) -> int:
    """Asks a run, or an agent's workers, to end, and waits until they have."""
    from agenthub.cli.warm_commands import stop_workers

    paths = Settings().paths
    if os.path.isdir(paths.workers) and (number := stop_workers(arguments.run, paths)):
        output.note(f"✓ {arguments.run} is not kept loaded any more")
        if arguments.json:
            output.json({"agent": arguments.run, "workers": number})
        return 0
    return _stop_run(arguments, output)


def _stop_run(arguments: argparse.Namespace, output: Output) -> int:
    from agenthub.runtime.processes.cancellation import STOP_PIPE, is_listening, request_stop

    path, run_id = _stop_pipe(arguments.run, output), ""
    if path:
        run_id = os.path.basename(path).removesuffix(STOP_PIPE)
        try:
            request_stop(path)
        except OSError as error:
            raise PermissionDeniedError(f"cannot stop {run_id}: {error.strerror}") from None
        if not _in_time(lambda: not is_listening(path), Settings()["grace"] + _ENDING):
            raise ExecutionError(f"{run_id} was asked to end, and has not", suggestion="see: agenthub runs")
        output.note(f"✓ stopped {run_id}")
    if arguments.json:
        output.json({"run_id": run_id or arguments.run, "stopped": bool(path)})
    return 0


def _stop_pipe(prefix: str, output: Output) -> str:
    """The pipe of a run that is going on; empty where it has ended."""
    from agenthub.config import scratch_base
    from agenthub.runtime.processes.cancellation import STOP_PIPE, is_listening

    base = scratch_base()
    names = os.listdir(base) if prefix and os.path.isdir(base) else []
    pipes = [os.path.join(base, name) for name in names if name.startswith(prefix) and name.endswith(STOP_PIPE)]
    running = [path for path in pipes if is_listening(path)]
    if len(running) == 1:
        return running[0]
    with _history(output) as history:  # raises where several begin so; knows those with another TMPDIR
        record = _find(history, prefix)
        path = record.stop or ""
        if record.status == "running" and _in_time(lambda: is_listening(path) or not _runs(history, record), _STARTING):
            if is_listening(path):
                return path
            (record,) = history.again([record])
    if record.status == "running":
        raise ExecutionError(f"{record.run_id} cannot be reached at {path}", suggestion="see: agenthub runs")
    output.note(f"{record.run_id} had ended before: {record.status}")
    return ""


def _runs(history: History, record: RunRecord) -> bool:
    history.refresh()
    return any(found.status == "running" for found in history.again([record]))


def _in_time(holds: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK / 5)
    return True
