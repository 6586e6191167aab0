"""The complete set of an agent's packages, each with its version and the hashes of its files, for every platform."""

from __future__ import annotations

import os
import re
import tempfile
from typing import NamedTuple

from agenthub.errors import EnvironmentError
from agenthub.runtime.environments.builders import check_requirements
from agenthub.runtime.environments.dependencies import LOCK, Dependencies, dependency_source, python_request
from agenthub.runtime.environments.failures import failed_installation
from agenthub.runtime.environments.interpreters import DEFAULT_RANGE, find_interpreter, oldest_series
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


def lock_pins(
    agent_dir: str,
    manifest: AgentManifest,
    python: str,
    *,
    preferred: str,
    known: Iterable[Pin] = (),
    offline: bool = False,
    on_progress: Progress = None,
) -> tuple[str, tuple[Pin, ...]]:
    """The Python and the packages that an agent needs: the same answer on every machine, for all of them.

    Args:
        agent_dir: the agent's directory, in which nothing is written.
        manifest: its manifest.
        python: a range that is asked for besides the agent's own; "": none.
        preferred: the version of Python that is taken where several fit, for what has to be built to be known.
        known: pins that are kept where they still fit.
        offline: use nothing but caches.
        on_progress: called with each line of uv's output.

    Returns:
        tuple: the range of Python versions, and the pins, sorted.

    Raises:
        EnvironmentError: no interpreter fits, the dependencies do not, or one of them cannot have a hash.
    """
    source = dependency_source(agent_dir, manifest)
    request = ",".join(filter(None, (python_request(agent_dir, manifest, source), python))) or DEFAULT_RANGE
    oldest = oldest_series(request)
    requirements = check_requirements(manifest.name, source.requirements)
    if source.kind == "none" or (source.kind == "manifest" and not requirements):
        return request, ()
    interpreter = find_interpreter(request, preferred=preferred, who=manifest.name).path
    with tempfile.TemporaryDirectory(prefix="agenthub-lock-") as scratch:
        result = os.path.join(scratch, "pins.txt")
        if source.kind == LOCK:
            command = ["export", "--frozen", "--no-default-groups", "--no-emit-project", "--format", "requirements.txt"]
            command += ["--project", agent_dir, "--python", interpreter]
        else:
            with open(result, "w", encoding="utf-8") as file:
                file.write(format_pins(known))
            command = ["pip", "compile", "--universal", "--generate-hashes", "--no-strip-extras"]
            command += ["--python", interpreter, "--python-version", oldest, _input(source, requirements, scratch)]
        command += ["--no-header", "--no-annotate", "--quiet", "--output-file", result]
        common = [*uv_config_options(), *(["--offline"] if offline else [])]
        finished = run_tool([find_uv(), *common, *command], cwd=agent_dir, env=tool_environment(), on_line=on_progress)
        if finished.code:
            raise failed_installation(manifest.name, "uv", finished.lines, requirements)
        with open(result, encoding="utf-8") as file:
            return request, parse_pins(file.read(), manifest.name)


def _input(source: Dependencies, requirements: list[str], scratch: str) -> str:
    if source.kind != "manifest":
        return source.kind
    path = os.path.join(scratch, "requirements.in")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{requirement}\n" for requirement in requirements)
    return path
