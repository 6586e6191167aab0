"""`agenthub map`."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time

from agenthub.cli.call_words import CallWords, add_run_options, permission_changes, read_env_files
from agenthub.cli.map_inputs import Lines, Rows
from agenthub.cli.output import discard_stdout
from agenthub.cli.run_commands import UNREAD, _agent, _cancelled_by_signals, _settings, explain
from agenthub.errors import ExecutionError, InterruptedError, InvalidInputError
from agenthub.runtime.agent_runtime import AgentRuntime, find_method
from agenthub.runtime.batches.batch import MOST_JOBS, Batch, BatchOptions
from agenthub.runtime.batches.results import ResultsFile, result_line
from agenthub.runtime.runs.locator import working_directory
from agenthub.runtime.runs.plan import RunOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agenthub.cli.output import Output
    from agenthub.cli.progress import Progress
    from agenthub.runtime.batches.batch import Row, RowResult
    from agenthub.runtime.processes.cancellation import Cancellation
    from agenthub.runtime.runs.locator import LocatedAgent

_WINDOW = 32  # rows for each job that may wait, on the way to standard output, for one that takes long
_LOOK_BACK = 20.0  # seconds over which the rate is taken
_EXAMPLES = 3  # of failures that are told apart at the end
_EVERYWHERE = frozenset(("-q", "--quiet", "-v", "--verbose", "--color", "--no-progress"))
_INPUTS = """\
INPUTS holds one input of METHOD a line, as a JSON object; or it is CSV whose header names parameters. - is standard
input. Each result is a line of JSON: {"index": 0, "input": DIGEST, "result": …} or {…, "error": …, "error_type": …}.
Exit code: 0 if every row succeeded, 1 if some failed."""


def configure_map(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _INPUTS
    parser.add_argument("agent", metavar="AGENT", help="owner/name, name, or a path")
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("inputs", metavar="INPUTS", help="a file of JSON lines or CSV, or -")
    group = parser.add_argument_group("the batch")
    group.add_argument("-j", "--jobs", type=_positive, default=8, metavar="N", help="rows at a time; default: 8")
    group.add_argument("-o", "--out", metavar="FILE", help="write the results there, which can be resumed")
    group.add_argument("--resume", action="store_true", help="go on with --out: what is there is not run again")
    group.add_argument("--resume-failed", action="store_true", help="the same, but rows that failed are run again")
    group.add_argument("--unordered", action="store_true", help="results as they come, not in input order")
    group.add_argument("--retry", type=_number, default=0, metavar="N", help="run a row again that failed or timed out")
    group.add_argument("--max-failures", type=_positive, metavar="N", help="begin no more rows once N have failed")
    add_run_options(parser, _EVERYWHERE)


def _number(text: str) -> int:
    if not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _positive(text: str) -> int:
    number = _number(text)
    if not number:
        raise argparse.ArgumentTypeError("it has to be 1 at least")
    return number


def map_(arguments: argparse.Namespace, output: Output) -> int:
    """Runs a method over many inputs."""
    whole, output.as_json = output.as_json, False
    if arguments.jobs > MOST_JOBS:
        raise InvalidInputError(f"-j {arguments.jobs}: it can be 1 to {MOST_JOBS}")
    resume = arguments.resume or arguments.resume_failed
    to_file = arguments.out not in (None, "-")
    if resume and not to_file:
        raise InvalidInputError("--resume needs the --out FILE that it goes on with")
    runtime = AgentRuntime(_settings(arguments))
    agent = _agent(runtime, CallWords(arguments, arguments.agent, arguments.method, []), output)
    find_method(agent, arguments.method)
    with contextlib.ExitStack() as stack:
        results = None
        if to_file and not getattr(arguments, "explain", False):
            results = ResultsFile(arguments.out, resume=resume, again=arguments.resume_failed)
            stack.enter_context(results)
        return _Command(runtime, agent, arguments, output, whole).run(results)


class _Command:
    """One call of `agenthub map`."""

    def __init__(
        self, runtime: AgentRuntime, agent: LocatedAgent, arguments: argparse.Namespace, output: Output, whole: bool
    ) -> None:
        self._runtime = runtime
        self._agent = agent
        self._arguments = arguments
        self._output = output
        self._whole = whole

    def run(self, results: ResultsFile | None) -> int:
        arguments, output = self._arguments, self._output
        method, limit = find_method(self._agent, arguments.method), self._runtime.settings["result"]
        label = f"{self._agent.manifest.name} {method.name}"
        with output.progress(label) as progress, _cancelled_by_signals() as cancellation:
            lines = Lines(arguments.inputs, cancellation, limit)
            with contextlib.closing(lines):
                rows = Rows(lines, method, self._agent.manifest.name, limit)
                options = self._options(progress, cancellation)
                tally = _Tally(lines, results)
                source = self._checked(_left(iter(rows), results, lines, tally), options)
                if getattr(arguments, "explain", False):
                    first = next(source, None)
                    inputs = first.inputs if first is not None else {}
                    output.as_json = self._whole
                    return explain(self._runtime.plan(self._agent, method.name, inputs, options), output)
                batch = Batch(self._runtime, self._agent, method.name, options, self._batch_options(results))
                if not self._take(batch, source, results, tally, progress) or cancellation.reader_gone:
                    discard_stdout()
                    return UNREAD
        self._conclude(rows, results, tally, interrupted=cancellation.cancelled)
        return 0

    def _options(self, progress: Progress, cancellation: Cancellation) -> RunOptions:
        arguments, output = self._arguments, self._output

        def consent(sentence: str) -> None:
            if not getattr(arguments, "yes", False):
                with progress.paused():
                    output.confirm(f"{sentence}. Run it?", "--yes")

        def ask_passphrase(new: bool) -> str:
            from agenthub.cli.secret_commands import passphrase_prompt

            ask = passphrase_prompt(output)
            with progress.paused():
                return ask(new) if ask is not None else ""

        files, given = getattr(arguments, "env_file", None) or [], getattr(arguments, "env", None) or []
        return RunOptions(
            variables=[*read_env_files(files), *given],
            changes=permission_changes(arguments, working_directory()),
            consent=consent,
            cancellation=cancellation,
            ask_passphrase=ask_passphrase,
        )

    def _batch_options(self, results: ResultsFile | None) -> BatchOptions:
        arguments, output = self._arguments, self._output
        # A file is put in order at the end: no finished row has to wait for another to be kept.
        ordered = not arguments.unordered and (results is None or not results.regular)
        on_log: Callable[[int, str, str], None] | None = None
        if output.verbose:

            def on_log(index: int, line: str, level: str) -> None:
                output.agent_line(f"[{index}] {line}")

        return BatchOptions(arguments.jobs, ordered, arguments.retry, _WINDOW * arguments.jobs, on_log)

    def _checked(self, rows: Iterator[Row], options: RunOptions) -> Iterator[Row]:
        """The rows. A first one that cannot be run says that the file is another, or the agent: that is an error."""
        first = next(rows, None)
        if first is None or first.number > 0:
            return rows if first is None else itertools.chain((first,), rows)
        if first.problem is not None:
            name = "standard input" if self._arguments.inputs == "-" else self._arguments.inputs
            raise InvalidInputError(f"{name}: its first row: {first.problem}", suggestion=first.problem.suggestion)
        self._runtime.plan(self._agent, self._arguments.method, first.inputs, options)
        return itertools.chain((first,), rows)

    def _take(
        self, batch: Batch, rows: Iterator[Row], results: ResultsFile | None, tally: _Tally, progress: Progress
    ) -> bool:
        """Takes what comes of the rows to where it belongs; False where nobody reads it any more."""
        most = self._arguments.max_failures
        with contextlib.suppress(BrokenPipeError), contextlib.closing(batch.results(rows)) as finished:
            for one in finished:
                line = result_line(one.row.number, one.row.digest, one.envelope, one.attempts, whole=self._whole)
                if results is None:
                    self._output.result(line)
                else:
                    results.append(one.row.number, line)
                tally.add(one)
                if tally.due():
                    progress.update(tally.text(), tally.fraction)
                if most is not None and tally.failed_now >= most:
                    tally.stopped = True
                    batch.stop()
            return True
        return False

    def _conclude(self, rows: Rows, results: ResultsFile | None, tally: _Tally, *, interrupted: bool) -> None:
        """Says how it went; raises where it did not go well."""
        resume = None if results is None or not results.regular else "--resume goes on where this stopped"
        if interrupted:
            raise InterruptedError(f"interrupted after {_count(tally.done, 'row')}", suggestion=resume)
        if results is not None:
            if rows.count is not None and results.reaches_beyond(rows.count):
                raise InvalidInputError(
                    f"{results.path} has results of more rows than the {rows.count} of {self._arguments.inputs}: "
                    "the input is another",
                    suggestion="write to another file",
                )
            if not self._arguments.unordered and not tally.stopped:
                results.put_in_order()
        if tally.failed:
            suggestion = resume if tally.stopped else resume and "--resume-failed runs them again"
            raise ExecutionError(tally.verdict(), details=tally.examples, suggestion=suggestion)
        if results is not None:
            self._output.note(f"{_count(tally.done, 'row')} in {tally.seconds:.1f} s → {results.path}")


def _left(rows: Iterator[Row], results: ResultsFile | None, lines: Lines, tally: _Tally) -> Iterator[Row]:
    """The rows that have no result yet."""
    for row in rows:
        if results is not None and results.has(row.number, row.digest):
            tally.passed_over = lines.consumed
        else:
            yield row


class _Tally:
    """Counts what came: for the display, and for the end."""

    def __init__(self, lines: Lines, results: ResultsFile | None) -> None:
        self.done = 0
        self.failed = self._failed_before = failed = results.failed if results is not None else 0
        self._before = results.rows if results is not None else 0
        self.passed_over = 0
        self.stopped = False
        self.examples: list[str] = []
        self._lines = lines
        self._kinds: dict[str, int] = {"failed before": failed} if failed else {}
        self._started = self._shown = time.monotonic()
        self._points = [(self._started, 0)]

    def add(self, one: RowResult) -> None:
        self.done += 1
        if one.failed:
            self.failed += 1
            kind = one.envelope["error_type"]
            if kind not in self._kinds and len(self.examples) < _EXAMPLES:
                self.examples.append(f"row {one.row.number}: {kind}: {one.envelope['error']}")
            self._kinds[kind] = self._kinds.get(kind, 0) + 1

    @property
    def failed_now(self) -> int:
        """Rows that failed, without those of an earlier batch that is resumed."""
        return self.failed - self._failed_before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def due(self) -> bool:
        """Whether the display is old."""
        now = time.monotonic()
        if now - self._shown < 0.25:
            return False
        self._shown = now
        self._points = [(at, done) for at, done in self._points if now - at <= _LOOK_BACK][-200:]
        self._points.append((now, self.done))
        return True

    @property
    def fraction(self) -> float | None:
        """Of the input, where its size is known."""
        return self._lines.consumed / self._lines.size if self._lines.size else None

    def text(self) -> str:
        """Rows, rate, time left where the size of the input is known, failures."""
        (began, before), (now, done) = self._points[0], self._points[-1]
        rate = (done - before) / max(now - began, 1e-6)
        parts = [_count(done, "row"), f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"]
        read = self._lines.consumed - self.passed_over
        if self._lines.size and read > 0:
            left = (self._lines.size - self._lines.consumed) / read * (now - self._started)
            parts.append(f"{_span(left)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return " · ".join(parts)

    def verdict(self) -> str:
        """What failed, in one line."""
        kinds = ", ".join(f"{times} {kind}" for kind, times in sorted(self._kinds.items(), key=lambda one: -one[1]))
        early = ", and no more were begun" if self.stopped else ""
        return f"{self.failed:,} of {_count(self.done + self._before, 'row')} failed: {kinds}{early}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
