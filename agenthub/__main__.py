"""`python -m agenthub`, and the commands `agenthub` and `agenthubx`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys

gc.set_threshold(20_000, 20, 20)  # what is imported is no garbage; to look for some takes a start 2 to 3 ms

from agenthub.cli.app import main  # noqa: E402 - after the line above, which is for it


def run(words: list[str] | None = None) -> None:
    """Runs the command and ends the process at once: taking Python down in order costs a short command 5 ms."""
    code = main(words)
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.flush()
    os._exit(code)


def run_agent() -> None:
    """`agenthubx AGENT METHOD …` is `agenthub run AGENT METHOD …`."""
    run(["run", *sys.argv[1:]])


if __name__ == "__main__":
    run()
