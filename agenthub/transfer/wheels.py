"""The wheels of an environment, for the machine that it is on: downloaded, or built where there is none."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
from contextlib import suppress
from typing import NamedTuple

from agenthub.config import VENV
from agenthub.errors import EnvironmentError, InstallError
from agenthub.packages.files import storing
from agenthub.packages.tree import copy_tree
from agenthub.runtime.environments.builders import PipBuilder
from agenthub.runtime.environments.dependencies import needs_project
from agenthub.runtime.environments.failures import failed_installation
from agenthub.runtime.environments.pinned import index_lines
from agenthub.runtime.environments.pins import format_pins
from agenthub.runtime.environments.state import normalised, python_path, site_packages
from agenthub.runtime.environments.tools import run_tool, tool_environment
from agenthub.transfer.platforms import parse_wheel_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agenthub.manifest import AgentManifest
    from agenthub.packages.record import InstallRecord
    from agenthub.runtime.environment_manager import EnvironmentManager
    from agenthub.runtime.environments.pins import Pin

    Say = Callable[[str], None]

# Builds that heed it (https://reproducible-builds.org) give the same wheel again.
_BUILD_TIME = "315532800"
_MOST_METADATA = 1 << 20


class Wanted(NamedTuple):
    """What an agent's wheels are collected from.

    Attributes:
        label: what messages call the agent.
        directory: the agent's, installed.
        manifest: its manifest.
        record: its record.
        pins: what a lock fixed; None: exactly what is installed.
    """

    label: str
    directory: str
    manifest: AgentManifest
    record: InstallRecord
    pins: tuple[Pin, ...] | None = None


class WheelCollector:
    """Gets the wheels of agents' environments. May be used from several threads.

    Args:
        environments: knows where dependencies are declared, and whether the network may be used.
        scratch: an existing directory of the caller's own, in which the wheels are put.
        say: called with each line of pip's output.
    """

    def __init__(self, environments: EnvironmentManager, scratch: str, say: Say) -> None:
        self._environments = environments
        self._scratch = scratch
        self._say = say
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._tools: dict[str, str] = {}  # environments with pip, by interpreter

    def collect(self, wanted: Wanted) -> list[str]:
        """The paths of wheels of all packages that an agent's environment has, by name.

        Raises:
            EnvironmentError: one of them cannot be had or built, or is not what is installed.
            InstallError: the environment was made by the agent's own commands.
        """
        source = self._environments.dependency_source(wanted.directory, wanted.manifest)
        if wanted.manifest.commands and source.kind == "none":
            raise InstallError(f"{wanted.label} was installed by its own commands, which no bundle can repeat")
        if not wanted.record.dependencies:
            return []
        scratch = self._new_directory()
        lines, own = _requirements(wanted)
        indexes = [*_uv_indexes(os.environ), *index_lines(wanted.directory, source)]
        if lines:
            path = os.path.join(scratch, "requirements.txt")
            with storing("write", path), open(path, "w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in indexes) + lines)
            hashes = ["--require-hashes"] if wanted.pins is not None else []
            self._pip_wheel(wanted, scratch, ["--requirement", path, *hashes])
        for place in own:
            if place.endswith(".whl"):
                self._copy(wanted, place, scratch)
            else:
                self._pip_wheel(wanted, scratch, ["--", self._source(place)])
        wheels = [os.path.join(scratch, name) for name in sorted(os.listdir(scratch)) if name.endswith(".whl")]
        _check_complete(wanted, wheels)
        return wheels

    def _pip_wheel(self, wanted: Wanted, target: str, arguments: Sequence[str]) -> None:
        tools = self._tools_for(str((wanted.record.interpreter or {}).get("path")))
        options = ["--no-index"] if self._environments.offline else []
        options += [] if self._environments.config.dependency_cache else ["--no-cache-dir"]
        command = [python_path(tools), "-I", "-m", "pip", "--no-input", "wheel", *options, "--no-deps"]
        command += ["--progress-bar", "off", "--wheel-dir", target, *arguments]
        env = {"SOURCE_DATE_EPOCH": _BUILD_TIME, **tool_environment(tools)}
        finished = run_tool(command, cwd=wanted.directory, env=env, on_line=self._say)
        if finished.code:
            raise failed_installation(wanted.label, "pip", finished.lines)

    def _tools_for(self, interpreter: str) -> str:
        with self._lock:
            if interpreter not in self._tools:
                tools = os.path.join(self._new_directory(), "tools")
                config = self._environments.config
                builder = PipBuilder("agenthub bundle", offline=False, cache=config.dependency_cache)
                builder.create(tools, interpreter, None)
                self._tools[interpreter] = tools
            return self._tools[interpreter]

    @staticmethod
    def _copy(wanted: Wanted, wheel: str, target: str) -> None:
        import shutil

        with storing("write", target):
            try:
                shutil.copyfile(wheel, os.path.join(target, os.path.basename(wheel)))
            except FileNotFoundError:
                raise EnvironmentError(
                    f"{wanted.label} was installed with {wheel}, which is not there any more",
                    suggestion=f"agenthub upgrade {wanted.label}, then bundle it again",
                ) from None

    def _source(self, place: str) -> str:
        """What is built from: a file, or a copy of a directory, in which builds write."""
        if not os.path.isdir(place):
            return place
        copy = os.path.join(self._new_directory(), os.path.basename(place))
        copy_tree(place, copy)
        return copy

    def _new_directory(self) -> str:
        path = os.path.join(self._scratch, f"wheels-{next(self._numbers)}")
        with storing("write", path):
            os.mkdir(path)
        return path


def _requirements(wanted: Wanted) -> tuple[str, list[str]]:
    """Lines of a requirements file, and what is built of the agent's own directory."""
    if wanted.pins is not None:
        project = needs_project(wanted.directory, wanted.manifest)
        return format_pins(wanted.pins), [wanted.directory] if project else []
    installed, lines, own = _direct_urls(wanted.directory), [], []
    for package in wanted.record.dependencies:
        name, version = normalised(package["name"]), package["version"]
        direct = installed.get(name)
        if direct is None:
            lines.append(f"{name}=={version}\n")
        elif direct.get("url", "").startswith("file://"):
            own.append(_path_of(direct))
        else:
            lines.append(f"{name} @ {_address(direct, wanted.label, name)}\n")
    return "".join(lines), own


def _direct_urls(directory: str) -> dict[str, dict[str, str]]:
    """What was not installed from an index, by name: `direct_url.json` of each package, as PEP 610 has it."""
    found = {}
    packages = site_packages(os.path.join(directory, VENV))
    for leaf in os.listdir(packages):
        if leaf.endswith(".dist-info"):
            with suppress(OSError, ValueError), open(os.path.join(packages, leaf, "direct_url.json"), "rb") as file:
                value = json.loads(file.read(_MOST_METADATA))
                if isinstance(value, dict) and isinstance(value.get("url"), str):
                    found[normalised(leaf.partition("-")[0])] = value
    return found


def _path_of(direct: Mapping[str, object]) -> str:
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(str(direct["url"])).path)


def _address(direct: Mapping[str, object], label: str, name: str) -> str:
    """Where a package that was named by its address comes from, as pip writes that."""
    url, vcs, archive = str(direct["url"]), direct.get("vcs_info"), direct.get("archive_info")
    inside = f"subdirectory={direct['subdirectory']}" if direct.get("subdirectory") else ""
    if isinstance(vcs, dict) and vcs.get("commit_id"):
        return f"{vcs.get('vcs')}+{url}@{vcs['commit_id']}" + (f"#{inside}" if inside else "")
    if not isinstance(archive, dict):
        raise EnvironmentError(f"{label}: it is not known where its package {name} came from")
    hashes = archive.get("hashes")
    digest = f"sha256={hashes['sha256']}" if isinstance(hashes, dict) and hashes.get("sha256") else ""
    fragment = "&".join(filter(None, (digest, inside)))
    return url + (f"#{fragment}" if fragment else "")


def _check_complete(wanted: Wanted, wheels: Sequence[str]) -> None:
    """Whether the wheels are what the environment has, in these very versions."""
    have = {}
    for path in wheels:
        wheel = parse_wheel_name(os.path.basename(path))
        if wheel is not None:
            have[normalised(wheel.name)] = _canonical(wheel.version)
    expected = {normalised(package["name"]): package["version"] for package in wanted.record.dependencies}
    for name, version in sorted(expected.items()):
        if have.get(name) != _canonical(version):
            got = have.get(name) or "nothing"
            raise EnvironmentError(
                f"{wanted.label} has {name} {version}, and its source gives {got} now",
                suggestion=f"agenthub upgrade {wanted.label}, then bundle it again",
            )


def _canonical(version: str) -> str:
    from packaging.utils import canonicalize_version

    return canonicalize_version(version)


def _uv_indexes(environ: Mapping[str, str]) -> list[str]:
    """The package indexes that uv is told to ask, as pip is told, where pip is told of none by name.

    pip's own configuration holds besides.
    """
    if environ.get("PIP_INDEX_URL"):
        return []
    first = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    # An index may have a name, which stands before it: name=https://…
    more = [re.sub(r"^[^/:=]+=", "", word) for word in _words(environ, "UV_INDEX")]
    lines = [f"--index-url {first}"] if first else []
    lines += [f"--extra-index-url {url}" for url in (*more, *_words(environ, "UV_EXTRA_INDEX_URL"))]
    return lines + [f"--find-links {place}" for place in environ.get("UV_FIND_LINKS", "").replace(",", " ").split()]


def _words(environ: Mapping[str, str], name: str) -> list[str]:
    return environ.get(name, "").split()
