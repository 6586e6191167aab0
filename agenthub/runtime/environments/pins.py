"""The complete set of an agent's packages, each with its version and the hashes of its files, for every platform."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from agenthub.errors import EnvironmentError
from agenthub.runtime.environments.dependencies import (
    LOCK,
    PROJECT,
    REQUIREMENTS,
    Dependencies,
    read_project,
)
from agenthub.runtime.environments.failures import failed_installation
from agenthub.runtime.environments.tools import find_uv, run_tool, tool_environment, uv_config_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agenthub.manifest import AgentManifest

    Progress = Callable[[str], None] | None

_MOST = 8 * 1024 * 1024  # bytes of pins; the largest sets of scientific packages have a few hundred kB
# A version, or a file: of the agent's own tree, or behind a URL. Nothing else can have a hash, and no option fits.
_REQUIREMENT = re.compile(
    r"""(?: [A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?  (?:\[[A-Za-z0-9,._ -]*\])?
            (?: ==[A-Za-z0-9.+!_-]+ | \ @\ (?P<url>https?://[^\s;]+) )
        | \./(?P<path>[^\s;]+) )
        (?: \ ;\ (?:(?!''')[^\n\\;#])+ )?""",
    re.VERBOSE,
)
_HASH = re.compile(r"sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})")
_INDEX_OPTION = re.compile(r"\s*(?:-i|-f|--index-url|--extra-index-url|--find-links|--no-index)(?:[\s=].*)?")


class Pin(NamedTuple):
    """One package. `requirement` is `name==version`, `name @ URL` or `./FILE`, with a marker after ` ; `."""

    requirement: str
    hashes: tuple[str, ...]

    @property
    def label(self) -> str:
        """What a person calls it: without its marker."""
        return self.requirement.partition(" ; ")[0]


def format_pins(pins: Iterable[Pin]) -> str:
    """As a requirements file that can be installed with `--require-hashes`; the same pins are the same text."""
    lines = (" \\\n    --hash=".join((pin.requirement, *sorted(pin.hashes))) + "\n" for pin in sorted(pins))
    return "".join(lines)


def parse_pins(text: str, who: str) -> tuple[Pin, ...]:
    """The pins in the text of a requirements file; anything else that such a file may have is refused.

    Raises:
        EnvironmentError: a line of it is no package with hashes; names the agent `who` and the line.
    """
    if len(text) > _MOST:
        raise EnvironmentError(f"{who} has more than {_MOST // 1024**2} MB of packages and hashes")
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return tuple(sorted(_pin(line, who) for line in joined.splitlines() if line.strip()))


def _pin(line: str, who: str) -> Pin:
    requirement, *hashes = line.strip().split(" --hash=")
    found = _REQUIREMENT.fullmatch(requirement)
    url, path = (found["url"] or "", found["path"] or "") if found else ("", "")
    if not found:
        raise EnvironmentError(f"{who} depends on '{_cut(line)}', which cannot be locked", suggestion=_WAY_OUT)
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise EnvironmentError(f"{who} depends on a URL with a password in it, which cannot be locked")
    if ".." in path.split("/"):
        raise EnvironmentError(f"{who} depends on {path}, which is outside of it and cannot be locked")
    if not hashes or not all(map(_HASH.fullmatch, hashes)):
        raise EnvironmentError(f"{who} depends on '{_cut(requirement)}', which has no hash", suggestion=_WAY_OUT)
    return Pin(requirement, tuple(sorted(set(hashes))))


_WAY_OUT = "depend on a published version or on a wheel: a hash fixes these, and nothing fixes a directory or a branch"


def _cut(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"


def index_lines(agent_dir: str, source: Dependencies) -> list[str]:
    """The package indexes that the agent itself names, as lines of a requirements file.

    They are part of its content, which a lock fixes by its digest, and so are not repeated in there.
    """
    if source.kind == REQUIREMENTS:
        with open(os.path.join(agent_dir, REQUIREMENTS), encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file.read().splitlines() if _INDEX_OPTION.fullmatch(line)]
    if source.kind not in (LOCK, PROJECT):
        return []
    named = read_project(agent_dir).get("tool", {}).get("uv", {}).get("index", ())
    urls = [one.get("url") for one in named if isinstance(one, dict)]
    return [f"--extra-index-url {url}" for url in urls if isinstance(url, str) and re.fullmatch(r"https?://\S+", url)]


def lock_pins(
    agent_dir: str,
    manifest: AgentManifest,
    source: Dependencies,
    python: str,
    oldest: str,
    scratch: str,
    *,
    known: Iterable[Pin] = (),
    offline: bool = False,
    on_progress: Progress = None,
) -> tuple[Pin, ...]:
    """Resolves what an agent declares, for every platform.

    Args:
        agent_dir: the agent's directory, in which nothing is written.
        manifest: its manifest.
        source: where its dependencies are declared.
        python: an interpreter that it may run on, for what has to be built to be known.
        oldest: the oldest series of Python that it may run on (`"3.11"`).
        scratch: a directory of the caller's own.
        known: pins that are kept where they still fit.
        offline: use nothing but caches.
        on_progress: called with each line of uv's output.

    Raises:
        EnvironmentError: it cannot be resolved, or something in it cannot have a hash.
    """
    from agenthub.runtime.environments.builders import check_requirements

    requirements = check_requirements(manifest.name, source.requirements)
    if source.kind == "none" or (source.kind == "manifest" and not requirements):
        return ()
    result = os.path.join(scratch, "pins.txt")
    if source.kind == LOCK:
        command = ["export", "--frozen", "--no-default-groups", "--no-emit-project", "--format", "requirements.txt"]
        command += ["--project", agent_dir, "--python", python]
    else:
        with open(result, "w", encoding="utf-8") as file:
            file.write(format_pins(known))
        command = ["pip", "compile", "--universal", "--generate-hashes", "--no-strip-extras"]
        command += ["--python", python, "--python-version", oldest, _input(source, requirements, scratch)]
    command += ["--no-header", "--no-annotate", "--quiet", "--output-file", result]
    common = [*uv_config_options(), *(["--offline"] if offline else [])]
    finished = run_tool([find_uv(), *common, *command], cwd=agent_dir, env=tool_environment(), on_line=on_progress)
    if finished.code:
        raise failed_installation(manifest.name, "uv", finished.lines, requirements)
    with open(result, encoding="utf-8") as file:
        return parse_pins(file.read(), manifest.name)


def _input(source: Dependencies, requirements: list[str], scratch: str) -> str:
    if source.kind != "manifest":
        return source.kind
    path = os.path.join(scratch, "requirements.in")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{requirement}\n" for requirement in requirements)
    return path
