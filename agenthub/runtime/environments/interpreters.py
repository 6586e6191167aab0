"""Choosing the Python interpreter an agent's environment is made from. None is ever downloaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import NamedTuple

from agenthub.errors import EnvironmentError, InvalidInputError
from agenthub.runtime.environments.tools import find_uv, tool_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Version = tuple[int, int, int]

OLDEST = 8
"""Minor version of the oldest Python 3 that the agent side runs on."""
_NEWEST = 30  # far enough ahead for names on PATH
DEFAULT_RANGE = ">=3.11"
PROBE_TIMEOUT = 10.0
SEARCH_TIMEOUT = 60.0
"""Seconds for uv's own search, which starts every interpreter it does not know yet."""

_PROBE = (
    "import sys; v = sys.version_info; "
    "print('%d.%d.%d' % v[:3], v[3], getattr(sys, '_base_executable', None) or sys.executable, sep='\\n')"
)
_CLAUSE = re.compile(r"(===|==|!=|~=|>=|<=|>|<|)\s*v?(\d+(?:\.\d+){0,2})(\.\*)?(\+)?")
_INSTALLED_NAME = re.compile(r"(?:cpython-)?3\.(\d+)(?:\.\d+)?(?:$|-(?!.*freethreaded))")


class Interpreter(NamedTuple):
    """An interpreter: absolute path and version (`"3.12.4"`)."""

    path: str
    version: str


def find_interpreter(request: str = "", *, preferred: str = "3.12", who: str = "the agent") -> Interpreter:
    """The interpreter for a request, the running one where it fits (then no process is started).

    Args:
        request: a PEP 440 range, `"3.12"`, `"3.11.7"`, a path, or "" for `preferred` where it is available and
            anything from 3.11 on otherwise.
        preferred: which version to take where several fit.
        who: whom an error message names.

    Raises:
        InvalidInputError: the request is none of these.
        EnvironmentError: this machine has none that fits.
    """
    request = request.strip()
    if os.sep in request:
        return _at_path(request)
    own = own_interpreter()
    if not request:
        return _default(own, preferred)
    accepts = matcher(request)
    if accepts(_release(own.version)):
        return own
    found = _search(accepts, _minor_of(preferred)) or _ask_uv(request, accepts)
    if found is None:
        raise _none_fits(who, request, accepts, preferred)
    return found


def own_interpreter() -> Interpreter:
    """The interpreter that runs agenthub, outside its virtual environment."""
    path = getattr(sys, "_base_executable", None) or sys.executable
    return Interpreter(os.path.abspath(path), ".".join(map(str, sys.version_info[:3])))


def available_interpreters() -> list[Interpreter]:
    """Every interpreter found, newest first. Starts each of them: for `doctor`, not for a run."""
    found = {interpreter.path: interpreter for interpreter in _all_found()}
    return sorted(found.values(), key=lambda interpreter: _release(interpreter.version), reverse=True)


def matcher(request: str) -> Callable[[Version], bool]:
    """A predicate for the versions that a range or a version accepts.

    Raises:
        InvalidInputError: neither a range nor a version.
    """
    clauses = [_CLAUSE.fullmatch(part.strip()) for part in request.split(",") if part.strip()]
    if clauses and all(clauses):
        tests = [_clause(*clause.groups()) for clause in clauses if clause]
        return lambda version: all(test(version) for test in tests)
    # Pre-releases, epochs and the like: rare, and importing `packaging` takes some 15 ms.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        specifiers = SpecifierSet(request)
    except InvalidSpecifier:
        raise InvalidInputError(
            f"'{request}' is not a Python version, range or path", suggestion="write for example >=3.11 or 3.12"
        ) from None
    return lambda version: specifiers.contains(".".join(map(str, version)))


def _clause(operator: str, text: str, wildcard: str | None, plus: str | None) -> Callable[[Version], bool]:
    parts = tuple(map(int, text.split(".")))
    padded = (*parts, 0, 0)[:3]
    if plus:
        operator = ">="
    if not operator and len(parts) < 3:
        wildcard = ".*"
    if operator == "~=":
        series = parts[:-1]
        return lambda version: version >= padded and version[: len(series)] == series
    if operator in ("", "==", "===", "!="):
        length = len(parts) if wildcard else 3
        equal = operator != "!="
        return lambda version: (version[:length] == padded[:length]) is equal
    comparisons: dict[str, Callable[[Version], bool]] = {
        ">=": lambda version: version >= padded,
        "<=": lambda version: version <= padded,
        ">": lambda version: version > padded,
        "<": lambda version: version < padded,
    }
    return comparisons[operator]


def oldest_series(request: str) -> str:
    """The oldest series of Python 3 (`"3.11"`) of which a request accepts a release.

    Raises:
        EnvironmentError: it accepts none.
    """
    accepts = matcher(request)
    for minor in range(OLDEST, _NEWEST):
        if _minor_may_fit(accepts, minor):
            return f"3.{minor}"
    raise EnvironmentError(f"no Python fits {request}: the agent's and the project's ranges exclude each other")


def _release(version: str) -> Version:
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


def _minor_of(preferred: str) -> int:
    found = re.search(r"3\.(\d+)", preferred)
    return int(found.group(1)) if found else sys.version_info[1]


def _default(own: Interpreter, preferred: str) -> Interpreter:
    if os.sep in preferred:
        return _at_path(preferred)
    wanted = matcher(preferred)
    if wanted(_release(own.version)):
        return own
    # A preference is not worth uv's slow search: only what lies at hand counts.
    return _search(wanted, _minor_of(preferred)) or find_interpreter(DEFAULT_RANGE, preferred=preferred)


def _at_path(request: str) -> Interpreter:
    path = os.path.abspath(os.path.expanduser(request))
    own = own_interpreter()
    found = own if path == own.path else probe(path)
    if found is None:
        raise EnvironmentError(f"there is no working Python interpreter at {path}")
    return found


def probe(path: str, *, final: bool = False) -> Interpreter | None:
    """Start an interpreter and ask for its version and its base; None where that fails.

    Args:
        path: the executable.
        final: whether pre-releases count as failing.
    """
    try:
        answer = subprocess.run(
            [path, "-I", "-S", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.decode("utf-8", "surrogateescape").splitlines()
    if len(lines) != 3 or (final and lines[1] != "final"):
        return None
    return Interpreter(lines[2], lines[0])


def _search(accepts: Callable[[Version], bool], preferred: int) -> Interpreter | None:
    """The fitting interpreter nearest to the preferred version: that is the one most packages have wheels for."""
    minors = [minor for minor in range(OLDEST, _NEWEST) if _minor_may_fit(accepts, minor)]
    installed = list(_version_managers())
    for minor in sorted(minors, key=lambda minor: (abs(minor - preferred), -minor)):
        for path in (*_on_path(minor), *(path for found, path in installed if found == minor)):
            interpreter = probe(path, final=True)
            if interpreter and accepts(_release(interpreter.version)):
                return interpreter
    return None


def _minor_may_fit(accepts: Callable[[Version], bool], minor: int) -> bool:
    return any(accepts((3, minor, patch)) for patch in range(40))


def _on_path(minor: int) -> Iterator[str]:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, f"python3.{minor}")
        if os.path.isabs(path) and os.access(path, os.X_OK) and not _is_shim(path):
            yield path


def _is_shim(path: str) -> bool:
    """Whether this is a version manager's stand-in, which takes 50 ms and may refuse."""
    if f"{os.sep}shims{os.sep}" in path:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


def _version_managers() -> Iterator[tuple[int, str]]:
    """Minor version and path of what uv, pyenv, asdf and mise installed, newest patch first."""
    environ = os.environ
    data = environ.get("XDG_DATA_HOME") or "~/.local/share"
    for root in (
        environ.get("UV_PYTHON_INSTALL_DIR") or f"{data}/uv/python",
        f"{environ.get('PYENV_ROOT') or '~/.pyenv'}/versions",
        f"{environ.get('ASDF_DATA_DIR') or '~/.asdf'}/installs/python",
        f"{environ.get('MISE_DATA_DIR') or f'{data}/mise'}/installs/python",
    ):
        root = os.path.expanduser(root)
        try:
            names = os.listdir(root)
        except OSError:
            continue
        for name in sorted(names, key=_natural, reverse=True):
            match = _INSTALLED_NAME.match(name)
            path = os.path.join(root, name, "bin", f"python3.{match.group(1)}") if match else ""
            if match and os.access(path, os.X_OK):
                yield int(match.group(1)), path


def _natural(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _ask_uv(request: str, accepts: Callable[[Version], bool]) -> Interpreter | None:
    """What uv's own search finds (conda, framework builds, its registry)."""
    try:
        answer = subprocess.run(
            [find_uv(), "python", "find", request, "--no-python-downloads", "--no-config", "--no-project", "--system"],
            env=tool_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SEARCH_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, EnvironmentError):
        return None
    found = probe(os.fsdecode(answer.stdout.strip()), final=True)
    return found if found and accepts(_release(found.version)) else None


def _all_found() -> Iterator[Interpreter]:
    yield own_interpreter()
    paths = [path for minor in range(OLDEST, _NEWEST) for path in _on_path(minor)]
    paths += [path for minor, path in _version_managers() if minor >= OLDEST]
    for path in dict.fromkeys(map(os.path.realpath, [*paths, *_listed_by_uv()])):
        found = probe(path)
        if found:
            yield Interpreter(os.path.realpath(found.path), found.version)


def _listed_by_uv() -> list[str]:
    import json

    try:
        answer = subprocess.run(
            [find_uv(), "python", "list", "--only-installed", "--output-format", "json", "--no-config"],
            env=tool_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SEARCH_TIMEOUT,
            check=True,
        )
        listed = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, EnvironmentError, ValueError):
        return []
    return [
        entry["path"]
        for entry in listed
        if entry.get("path") and entry.get("implementation") == "cpython" and not _is_shim(entry["path"])
    ]


def _none_fits(who: str, request: str, accepts: Callable[[Version], bool], preferred: str) -> EnvironmentError:
    here = list(dict.fromkeys(interpreter.version for interpreter in available_interpreters()))
    minors = [minor for minor in range(OLDEST, _NEWEST) if _minor_may_fit(accepts, minor)]
    suggestion = None
    if minors:
        nearest = min(minors, key=lambda minor: abs(minor - _minor_of(preferred)))
        exact = re.fullmatch(r"(?:===?)?\s*(3\.\d+\.\d+)", request)
        suggestion = f"{sys.executable} -m uv python install {exact.group(1) if exact else f'3.{nearest}'}"
    wanted = request if not request[0].isdigit() else f" {request}"
    return EnvironmentError(
        f"{who} needs Python {wanted.strip()}; this machine has {', '.join(here)}", suggestion=suggestion
    )
