"""What is in an environment, read from its files without starting it; and what is wrong with it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PROBE_TIMEOUT = 20.0
"""Seconds an environment's interpreter may take to start."""
BYTECODE = "__pycache__"
_SHOWN = 3


def normalised(name: str) -> str:
    """A project's name as indexes compare it: runs of `-_.` are one `-`."""
    words = name.replace("_", "-").replace(".", "-").lower().split("-")
    inner = [word for word in words[1:-1] if word]
    return "-".join([words[0], *inner, words[-1]]) if len(words) > 1 else words[0]


def python_path(venv: str) -> str:
    """Where an environment's interpreter is."""
    return os.path.join(venv, "bin", "python")


def looks_like_environment(path: str) -> bool:
    """Whether a directory is an environment, perhaps a broken one; only such a directory is ever replaced."""
    return os.path.isfile(os.path.join(path, "pyvenv.cfg")) or os.path.lexists(python_path(path))


def site_packages(venv: str) -> str:
    """The directory its packages are in; "" where there is none."""
    lib = os.path.join(venv, "lib")
    try:
        names = sorted(name for name in os.listdir(lib) if name.startswith(("python3", "pypy3")))
    except OSError:
        return ""
    folders = [os.path.join(lib, name, "site-packages") for name in names]
    return next(filter(os.path.isdir, folders), "")


def distributions(venv: str) -> list[tuple[str, str]]:
    """Name and version of each installed distribution, sorted, from the names of the `*.dist-info` directories."""
    folder = site_packages(venv)
    stems = [name[: -len(".dist-info")] for name in os.listdir(folder) if name.endswith(".dist-info")] if folder else []
    pairs = (stem.rpartition("-")[::2] for stem in stems)
    return sorted((normalised(name), version) for name, version in pairs if name)


def directory_size(path: str, *, without: str = "") -> int:
    """Bytes in the files of a tree; links count nothing, files shared with a cache count in full.

    Args:
        path: its top.
        without: the name of directories that do not count.
    """
    total = 0
    folders = [path]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != without:
                        folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def problems(venv: str, expected: Iterable[tuple[str, str]], *, deep: bool) -> list[str]:
    """What is wrong with an environment, one sentence each; empty where nothing is.

    Args:
        venv: the environment.
        expected: name and version of the distributions that were installed.
        deep: also start the interpreter, and look for each file that was installed.
    """
    if not os.path.isdir(venv):
        return [f"there is no environment at {venv}"]
    found = []
    if not os.path.isfile(os.path.join(venv, "pyvenv.cfg")):
        found.append("its pyvenv.cfg is missing")
    found += _interpreter_problems(python_path(venv))
    if not site_packages(venv):
        return [*found, "its site-packages directory is missing"]
    found += _missing_distributions(venv, expected)
    if deep and not found:
        found += _missing_files(site_packages(venv)) + _start_problems(venv)
    return found


def _interpreter_problems(python: str) -> list[str]:
    if os.access(python, os.X_OK):
        return []
    if not os.path.lexists(python):
        return ["its bin/python is missing"]
    try:
        os.stat(python)
    except (FileNotFoundError, NotADirectoryError):
        return [f"its interpreter {_link_end(python)} is gone"]
    except OSError as error:
        return [f"its interpreter {_link_end(python)} cannot be used: {error.strerror}"]
    return ["its bin/python cannot be executed"]


def _link_end(path: str) -> str:
    for _ in range(8):
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return path


def _missing_distributions(venv: str, expected: Iterable[tuple[str, str]]) -> list[str]:
    wanted = {normalised(name): version for name, version in expected}
    if not wanted:
        return []
    present = dict(distributions(venv))
    missing = [f"{name} {version}" for name, version in wanted.items() if name not in present]
    other = [
        f"{name} is {present[name]} instead of {version}"
        for name, version in wanted.items()
        if present.get(name, version) != version
    ]
    return ([f"{_listed(missing)} missing"] if missing else []) + other


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def _missing_files(folder: str) -> list[str]:
    import csv

    missing = []
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".dist-info"):
            continue
        try:
            with open(os.path.join(folder, name, "RECORD"), encoding="utf-8", newline="") as file:
                paths = [row[0] for row in csv.reader(file) if row]
        except (OSError, UnicodeDecodeError, csv.Error):
            missing.append(f"{name} has no readable RECORD")
            continue
        # Bytecode comes and goes; everything else that was installed stays.
        kept = (path for path in paths if BYTECODE not in path and not path.endswith(".pyc"))
        gone = [path for path in kept if not os.path.lexists(os.path.join(folder, path))]
        if gone:
            missing.append(f"{name[: -len('.dist-info')]} lacks {len(gone)} of its files ({gone[0]})")
    return missing


def _start_problems(venv: str) -> list[str]:
    import subprocess

    from agenthub.runtime.environments.tools import tool_environment

    code = "import sys; print(sys.prefix); print('python%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [python_path(venv), "-I", "-c", code],
            env=tool_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"its interpreter does not start: {error}"]
    if answer.returncode:
        reason = answer.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return [f"its interpreter does not start: {reason or f'exit status {answer.returncode}'}"]
    prefix, _, series = os.fsdecode(answer.stdout).rstrip("\n").rpartition("\n")
    if os.path.realpath(prefix) != os.path.realpath(venv):
        return ["its interpreter does not use it"]
    installed = os.path.basename(os.path.dirname(site_packages(venv)))
    return [] if series == installed else [f"its interpreter is {series} now, its packages are for {installed}"]
