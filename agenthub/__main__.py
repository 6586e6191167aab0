"""`python -m agenthub`, and the `agenthub` command."""

from __future__ import annotations

import sys

from agenthub.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
