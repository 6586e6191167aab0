"""Every command that the documentation shows is run, in order, in a fresh home; output that it shows comes out.

In a `console` block a line that begins with `$ ` is a command; `# exit N` after it says its exit code, else 0. The
lines under it, if there are any, are its whole stdout. A `python` block runs after the commands above it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "sample_agents").rglob("*.md")]
    if "```console" in page.read_text(encoding="utf-8")
)
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    language: str
    text: str
    status: int
    shown: str


def steps(page: str) -> list[Step]:
    found = []
    for language, body in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if language == "python":
            found.append(Step(language, body, 0, ""))
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            status = re.search(r"# exit (\d+)$", command)
            found.append(Step(language, command, int(status[1]) if status else 0, shown))
    return found


_DAILY = ("README.md", "docs/tutorial.md", "docs/how-to/install.md")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page in _DAILY else pytest.mark.slow) for page in PAGES]
)
def test_the_commands_of_a_page_do_what_it_says(page: str, tmp_path: Path) -> None:
    if shutil.which("node") is None and "text-tools" in (ROOT / page).read_text(encoding="utf-8"):
        pytest.skip("there is no node, which the text-tools agent runs on")
    place = tmp_path / "place"
    place.mkdir()
    shutil.copytree(ROOT / "sample_agents", place / "sample_agents", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", place)
    shutil.copy(ROOT / "sample_agents/data-analyst/examples/sales.csv", place)
    make_repository(place)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AGENTHUB_", "OPENAI_"))},
        "AGENTHUB_HOME": str(tmp_path / "home"),
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "CI": "1",
    }
    exports = ""
    for step in steps(page):
        if step.language == "python":
            argv = [sys.executable, "-c", step.text]
        elif step.text.startswith("export "):
            exports += step.text + "\n"
            continue
        else:
            argv = ["bash", "-c", exports + step.text]
        done = subprocess.run(
            argv, cwd=place, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == step.status, f"{step.text}\n{done.stdout}\n{done.stderr}"
        if step.shown:
            assert done.stdout == step.shown, step.text


def make_repository(place: Path) -> None:
    """The repository that the pages install from."""
    repository = place / "repository"
    repository.mkdir()
    shutil.copytree(place / "sample_agents", repository / "sample_agents")
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        [*identity, "commit", "--quiet", "-m", "agents"],
    ):
        subprocess.run(["git", *words], cwd=repository, check=True)


def test_every_page_has_its_commands_found() -> None:
    assert {"README.md", "docs/tutorial.md", "docs/how-to/install.md"} <= set(PAGES)
    assert sum(len(steps(page)) for page in PAGES) > 40
