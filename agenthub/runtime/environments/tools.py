"""uv, pip and virtualenv as child processes: where uv is, what they inherit, how they are run and stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import NamedTuple

from agenthub.errors import AgentRuntimeError, EnvironmentError
from agenthub.lifeline import check_stopping, running_tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO

TOOL_TIMEOUT = 30 * 60.0
"""Seconds one tool may take: large wheels over slow lines and long compilations are honest."""
_LINES_KEPT = 2000
_LINE_LIMIT = 4096
_POLL = 0.2

# A build script of a dependency sees what the tools see: keys of model providers are none of its business.
# fmt: off
_KEPT = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "NETRC",
    "SSH_AUTH_SOCK", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
    "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "MAKEFLAGS", "CC", "CXX", "AR", "LD",
    "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH", "LIBRARY_PATH", "LD_LIBRARY_PATH",
    "PKG_CONFIG_PATH", "CARGO_HOME", "RUSTUP_HOME", "RUSTFLAGS", "JAVA_HOME", "SOURCE_DATE_EPOCH",
    "HTTP_TIMEOUT",
})
# fmt: on
_KEPT_PREFIXES = ("UV_", "PIP_", "LC_", "XDG_", "SSL_", "GIT_", "CMAKE_", "CUDA_")

# The user's own settings of uv and pip hold (indexes, certificates, caches, link mode), except those that name another
# environment, interpreter or project, or that change which part of a project is installed.
# fmt: off
_REDIRECTS = frozenset({
    "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_BREAK_SYSTEM_PACKAGES", "UV_PROJECT",
    "UV_NO_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_ENV_FILE", "UV_MANAGED_PYTHON",
    "UV_NO_MANAGED_PYTHON", "UV_PYTHON_PREFERENCE", "UV_VENV_SEED", "UV_VENV_CLEAR", "UV_VENV_RELOCATABLE",
    "UV_FROZEN", "UV_LOCKED", "UV_ISOLATED", "UV_NO_SYNC", "UV_DEV", "UV_NO_DEV", "UV_NO_GROUP",
    "UV_NO_DEFAULT_GROUPS", "UV_NO_EDITABLE", "UV_NO_INSTALL_PROJECT", "UV_NO_INSTALL_WORKSPACE",
    "UV_NO_INSTALL_LOCAL", "UV_ONLY_INSTALL_PROJECT", "UV_ONLY_INSTALL_WORKSPACE", "UV_ONLY_INSTALL_LOCAL",
    "UV_PUBLISH_TOKEN", "UV_PUBLISH_PASSWORD", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER",
    "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_EDITABLE", "PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_REPORT",
    "PIP_QUIET", "PIP_VERBOSE", "PIP_LOG",
})
# fmt: on
# Tools run in the agent's directory, so that its relative paths mean what its author meant; the user's must as well.
_USER_PATHS = ("UV_CACHE_DIR", "UV_CONFIG_FILE", "UV_PYTHON_INSTALL_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_CERT")


class Finished(NamedTuple):
    """What a tool left: its exit status and the last lines of its output, both streams in order."""

    code: int
    lines: list[str]


def find_uv() -> str:
    """The path of uv's binary as the `uv` package brings it; nothing is needed on PATH.

    Raises:
        EnvironmentError: there is none.
    """
    # Beside our interpreter is where pip puts it; the package's own search takes ten times as long.
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    if os.path.isfile(beside):
        return beside
    try:
        from uv import find_uv_bin

        return os.fspath(find_uv_bin())
    except (ImportError, FileNotFoundError):
        raise EnvironmentError(
            "uv, which makes the environments, is missing from agenthub's own installation",
            suggestion=f"{sys.executable} -m pip install --force-reinstall uv   "
            "(or AGENTHUB_USE_UV=false: virtualenv and pip, slower)",
        ) from None


def tool_environment(venv: str | None = None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables a tool runs with; `venv` is the environment it shall work on."""
    environ = os.environ if environ is None else environ
    kept = {
        name: value
        for name, value in environ.items()
        if (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and name not in _REDIRECTS
    }
    for name in _USER_PATHS:
        if kept.get(name):
            kept[name] = os.path.abspath(os.path.expanduser(kept[name]))
    kept.update(NO_COLOR="1", PYTHONUTF8="1", UV_PYTHON_DOWNLOADS="never", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if venv:
        kept.update(VIRTUAL_ENV=venv, UV_PROJECT_ENVIRONMENT=venv)
    return kept


def uv_config_options(environ: Mapping[str, str] | None = None) -> list[str]:
    """Options that make uv read the user's settings and not the agent's.

    uv looks for `uv.toml` and `[tool.uv]` from its working directory upwards, which is the agent's directory: an agent
    could move the cache, trust hosts or turn on credential helpers. `--no-config` and `--config-file` end that search;
    `[tool.uv.sources]` with the indexes they name, and a lock, are part of the project and stay in force under both
    (uv 0.8 to 0.13). Both also end the search for the user's own file, so it is named. Where a user's and a machine's
    file exist, uv would merge them; here the user's wins.
    """
    environ = os.environ if environ is None else environ
    if environ.get("UV_CONFIG_FILE") or environ.get("UV_NO_CONFIG"):
        return []
    home = os.path.expanduser("~/.config")
    folders = [environ.get("XDG_CONFIG_HOME") or home]
    if not environ.get("UV_NO_SYSTEM_CONFIG"):
        folders += [*(environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"), "/etc"]
    for folder in folders:
        path = os.path.join(folder, "uv", "uv.toml")
        if os.path.isfile(path):
            return ["--config-file", path]
    return ["--no-config"]


def run_tool(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
    timeout: float = TOOL_TIMEOUT,
) -> Finished:
    """Run a tool to its end, in a session of its own.

    Whatever interrupts the wait (Ctrl-C, an exception of `on_line`, the deadline) kills its whole process group first,
    and so does our own end. It inherits descriptors that are inheritable: a lock on where it writes is its as well.

    Raises:
        EnvironmentError: it did not start, or was still running after `timeout` seconds.
    """
    lines: list[str] = []
    try:
        with running_tool(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            close_fds=False,
        ) as process:
            ended = _collect(process, lines, on_line, time.monotonic() + timeout)
    except OSError as error:
        if isinstance(error, AgentRuntimeError):  # some of ours are OSErrors as well
            raise
        raise EnvironmentError(f"cannot start {argv[0]}: {error.strerror}") from None
    if not ended:
        raise EnvironmentError(
            f"{os.path.basename(argv[0])} was still running after {timeout:.0f} s and was stopped",
            details=lines[-5:],
        )
    return Finished(process.returncode, lines)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _collect(
    process: subprocess.Popen[bytes], lines: list[str], on_line: Callable[[str], None] | None, deadline: float
) -> bool:
    """Read until the tool has ended; False at the deadline. A leftover child that holds the pipe does not delay it."""
    import selectors

    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    pending = b""
    with process.stdout, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        end_of_output = False
        while True:
            check_stopping()
            ended = _has_ended(process.pid)
            if not end_of_output and (ended or selector.select(_POLL)):
                chunk = _read(process.stdout)
                end_of_output = chunk == b""
                pending = _split(pending + (chunk or b""), lines, on_line, last=end_of_output)
                if chunk:
                    continue
            if ended:
                _split(pending, lines, on_line, last=True)
                return True
            if time.monotonic() >= deadline:
                return False
            if end_of_output:
                time.sleep(0.001)  # the pipe closes an instant before the process ends


def _read(stream: IO[bytes]) -> bytes | None:
    try:
        return os.read(stream.fileno(), 65536)
    except BlockingIOError:
        return None


def _split(data: bytes, lines: list[str], on_line: Callable[[str], None] | None, *, last: bool) -> bytes:
    """Take the complete lines off `data`; what remains is the beginning of the next."""
    *complete, rest = data.split(b"\n")
    if rest and (last or len(rest) > _LINE_LIMIT):
        complete.append(rest)
        rest = b""
    for raw in complete:
        line = raw[:_LINE_LIMIT].decode("utf-8", "replace").rstrip()
        lines.append(line)
        if on_line and line:
            on_line(line)
    del lines[:-_LINES_KEPT]
    return rest
