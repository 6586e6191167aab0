"""`python -m agenthub`, and the `agenthub` command."""

from __future__ import annotations

import contextlib
import os
import sys

from agenthub.cli.app import main


def run() -> None:
    """Runs the command and ends the process at once: taking Python down in order costs a short command 5 ms."""
    code = main()
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
