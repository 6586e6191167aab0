"""What a command prints: results and nothing else on stdout, everything else on stderr.

Plain when piped; colour, spinner and questions only on a terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from agenthub.bare import signal
from agenthub.cli.progress import Progress
from agenthub.errors import InvalidInputError, PermissionDeniedError
from agenthub.quick_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from agenthub.errors import AgentRuntimeError

SCHEMA_VERSION = 1

# What could move the cursor, recolour or retitle a terminal; agents' text is not trusted with it.
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0001-\U000e007f]"
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Output:
    """Where one command prints to: decided by its options and by what the streams are."""

    def __init__(self, words: Sequence[str]) -> None:
        options = set(words)
        self.quiet = bool(options & {"-q", "--quiet"})
        self.verbose = bool(options & {"-v", "--verbose"})
        self.as_json = "--json" in options
        self.interactive = _is_terminal(sys.stdin) and _is_terminal(sys.stderr) and not os.environ.get("CI")
        self._terminal = {1: _is_terminal(sys.stdout), 2: _is_terminal(sys.stderr)}
        self._progress: Progress | None = None
        self._within_line = False
        moves = self._terminal[2] and os.environ.get("TERM") != "dumb"
        self._progress_wanted = moves and not self.quiet and "--no-progress" not in options
        self._color = _color_choice(list(words))

    # results ---------------------------------------------------------------------------------------------------

    def result(self, text: str) -> None:
        """Prints a result: on a terminal without what could act on it."""
        self.page(printable(text) if self._terminal[1] else text)

    def page(self, text: str) -> None:
        """Prints what is agenthub's own, in its styles; what strangers wrote in it is `printable` already."""
        text = text if text.endswith("\n") else text + "\n"
        with _writing(), self._aside(1):
            try:
                sys.stdout.write(text)
            except UnicodeEncodeError:  # a terminal of another encoding
                sys.stdout.buffer.write(text.encode("utf-8", "replace"))
            sys.stdout.flush()

    def result_bytes(self, data: bytes) -> None:
        """Passes a file's bytes on."""
        with _writing():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def stream(self, text: str) -> None:
        """Prints a piece of a text at once, as it is; `end_stream` ends its last line."""
        if not text:
            return
        text = printable(text) if self._terminal[1] else text
        ends = text.endswith("\n")
        if self._terminal[1] and self._progress is not None and ends == self._within_line:
            self._progress.hide(not ends)  # it would wipe a line that is not complete
        self._within_line = not ends
        with _writing(), self._aside(1):
            _write_through(text)

    def end_stream(self) -> None:
        """Ends the line that `stream` has begun, if it has."""
        if self._within_line:
            self.stream("\n")

    def json(self, document: Any) -> None:
        """Prints one JSON document; mappings get the schema's version."""
        if isinstance(document, dict):
            document = {"schema_version": SCHEMA_VERSION, **document}
        self.result(dumps(document, ensure_ascii=False, sort_keys=True))

    @property
    def to_terminal(self) -> bool:
        """Whether a person reads the results."""
        return self._terminal[1]

    # everything else -------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A line for the person, unless they asked for quiet."""
        if not self.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        """A line for a person who asked for details."""
        if self.verbose:
            self._say(self.style(text, "dim", 2))

    def warning(self, text: str) -> None:
        """A line that says what the person should know, `-q` or not."""
        self._say(f"{self.style('warning:', 'yellow', 2)} {text}")

    def agent_line(self, text: str) -> None:
        """A line of an agent's log."""
        if not self.quiet:
            self._say(printable(text))

    def failure(self, error: AgentRuntimeError) -> int:
        """Prints an error in at most four lines (`-v`: all of it) and returns the exit code."""
        if self.as_json:
            self.json(error.to_dict())
        self._say(f"{self.style('error:', 'red', 2)} {printable(error.message)}")
        details = [printable(line) for line in error.details if line.strip()]
        shown = details if self.verbose else details[:2]
        for line in shown:
            self._say(f"  {line}")
        if error.suggestion:
            self._say(f"  {printable(error.suggestion)}")
        if len(shown) < len(details) and not error.suggestion:
            self._say("  -v shows more")
        if self.verbose and error.__traceback__ is not None:
            import traceback

            self._say("".join(traceback.format_exception(error)).rstrip())
        return error.exit_code

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError), self._aside(2):  # nobody reads stderr any more: no reason to fail
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def style(self, text: str, style: str, stream: int = 1) -> str:
        """`text` in a style, where the stream shows it."""
        colored = self._color if self._color is not None else self._terminal[stream]
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colored else text

    def confirm(self, question: str, consenting_flag: str) -> None:
        """Asks, where somebody can answer.

        Raises:
            PermissionDeniedError: the answer was no, or nobody could be asked; says which flag consents.
        """
        if not self.interactive:
            raise PermissionDeniedError(
                f"{question.rstrip('? ')}: needs your consent, and there is no terminal to ask on",
                suggestion=f"{consenting_flag} consents",
            )
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise PermissionDeniedError(
                "not done, as you said", suggestion=f"{consenting_flag} consents without asking"
            )

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Shows a spinner with the newest message, once it takes longer than two seconds, or a bar."""
        progress = self._progress = Progress(printable(label), shown=self._progress_wanted)
        try:
            yield progress
        finally:
            self._progress = None
            progress.stop()

    def _aside(self, stream: int) -> contextlib.AbstractContextManager[None]:
        """Makes room for what is written above a progress display, where that is on the same screen."""
        if self._progress is None or not self._terminal[stream]:
            return contextlib.nullcontext()
        return self._progress.aside()

    # the process -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def termination_as_interrupt(self) -> Iterator[None]:
        """SIGTERM and SIGHUP unwind as Ctrl-C does, so that nothing half-made is left behind."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = {}
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                earlier[number] = signal.signal(number, signal.default_int_handler)
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Flushes; a reader that has gone is not an error by now."""
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            discard_stdout()


def printable(text: str) -> str:
    """`text` without what could act on a terminal."""
    if text.isprintable():
        return text
    import re

    return re.sub(_CONTROL, "\ufffd", text)


def printable_values(value: Any) -> Any:
    """A JSON value with every text in it `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): printable_values(item) for key, item in value.items()}
    return [printable_values(item) for item in value] if isinstance(value, (list, tuple)) else value


def open_missing_streams() -> None:
    """A program started with a closed stream would give its number to the next file that it opens."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def discard_stdout() -> None:
    """Lets what is buffered go nowhere, so that Python does not fail again while it shuts down."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_through(text: str) -> None:
    """Writes without a buffer, whose lock a reader that has stopped would hold for ever."""
    try:
        data = memoryview(text.encode(sys.stdout.encoding or "utf-8"))
    except UnicodeEncodeError:  # a terminal of another encoding
        data = memoryview(text.encode("utf-8", "replace"))
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # standard output is an object of this program's, as in tests
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    sys.stdout.flush()
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody else made it so
            import select

            select.select([], [descriptor], [])


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise InvalidInputError(
            f"cannot write to standard output: {error.strerror}", suggestion="see where it is redirected to"
        ) from None


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _color_choice(words: list[str]) -> bool | None:
    """True or False where the user said so, else None."""
    for position, word in enumerate(words):
        choice = word.partition("=")[2] if word.startswith("--color=") else ""
        if word == "--color" and position + 1 < len(words):
            choice = words[position + 1]
        if choice in ("always", "never"):
            return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None
