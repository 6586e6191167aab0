"""`agenthub rollback` and `use`, whole commands, in a store with 20 other agents."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.benchmarks.measure import Row, command, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

AGENTHUB = os.path.join(os.path.dirname(sys.executable), "agenthub")
MANIFEST = """\
name: {name}
version: "{version}"
description: a benchmark
author: agenthub
entrypoint: agent
python_version: ">=3.11"
interface: {{methods: {{go: {{description: does nothing}}}}}}
"""


def version_rows(work: str, env: Mapping[str, str], tool: Callable[[], float]) -> list[Row]:
    """The rows of the table; `tool` runs `uvx --offline` of a trivial tool."""
    env = {**env, "AGENTHUB_HOME": os.path.join(work, "versions-home")}
    others = [write_agent(work, f"other-{number}", "1.0") for number in range(20)]
    for sources in (others, [write_agent(work, "switched", "1.0")], [write_agent(work, "switched", "2.0")]):
        install = [AGENTHUB, "install", "--yes", "--force", "--quiet", *sources]
        subprocess.run(install, env=env, check=True, stdin=subprocess.DEVNULL)
    versions = itertools.cycle([command([AGENTHUB, "use", f"switched@{version}"], env) for version in ("1.0", "2.0")])
    return [
        compare(
            "rollback / uvx --offline of a trivial tool", 0.8, command([AGENTHUB, "rollback", "switched"], env), tool
        ),
        compare("use / uvx --offline of a trivial tool", 0.8, lambda: next(versions)(), tool),
    ]


def write_agent(work: str, name: str, version: str) -> str:
    directory = os.path.join(work, "versions", name, version)
    os.makedirs(directory)
    with open(os.path.join(directory, "agent.yaml"), "w") as file:
        file.write(MANIFEST.format(name=name, version=version))
    with open(os.path.join(directory, "agent.py"), "w") as file:
        file.write(f"def go():\n    return {version}\n")
    return directory
