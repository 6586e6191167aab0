"""Every setting, declared once, with where its value came from; and every path on disk.

Precedence: flag > environment (`AGENTHUB_<NAME>`) > project file (`agenthub.toml` in the working directory or a parent)
> user file (`$AGENTHUB_HOME/config.toml`) > default.
"""

from __future__ import annotations

import os

from agenthub.errors import InvalidInputError, nearest
from agenthub.quantities import MB as MB
from agenthub.quantities import format_size as format_size
from agenthub.quantities import parse_duration as parse_duration
from agenthub.quantities import parse_flag as parse_flag
from agenthub.quantities import parse_size as parse_size
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Setting(NamedTuple):
    name: str
    kind: str
    default: Any
    help: str


class Value(NamedTuple):
    value: Any
    source: str


# RuntimeConfig and EnvironmentConfig of the interface document take their defaults from here.
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("timeout", "duration", 30.0, "seconds a run may take, where neither flag nor manifest says"),
        Setting("memory", "size", 1024 * MB, "memory a process tree may use, where neither flag nor manifest says"),
        Setting("output", "size", 256 * MB, "bytes a run may write to stdout and stderr together"),
        Setting("result", "size", 128 * MB, "size of a result that is still accepted, and of an input"),
        Setting("grace", "duration", 5.0, "seconds a process may take to end or to answer once it was asked to"),
        Setting("cleanup_interval", "duration", 60.0, "seconds between two sweeps for what killed programs left"),
        Setting("log_level", "level", "INFO", "lowest level of an agent's log lines that are shown"),
        Setting("python", "text", "3.12", "Python for agents that declare none, where it is available"),
        Setting("use_uv", "flag", True, "make environments with uv; off: virtualenv and pip"),
        Setting("dependency_cache", "flag", True, "let uv and pip use their caches"),
        Setting(
            "auto_cleanup",
            "flag",
            True,
            "remove failed environments, and superseded versions beyond keep_versions, at once",
        ),
        Setting(
            "keep_versions",
            "count",
            2,
            "superseded versions of an agent that stay, for rollback, beside its current one",
        ),
        Setting("max_venv_size", "size", 500 * MB, "size that an agent's environment may have; 0: any"),
        Setting("offline", "flag", False, "use nothing but caches: of indexes, and to make environments"),
        Setting("index", "text", "", "address or name of an index that is asked before the configured ones"),
        Setting("index_timeout", "duration", 30.0, "seconds that an index may take to answer, or to send 16 kB"),
        Setting("cache_size", "size", 2048 * MB, "bytes of agents run without installing that are kept; 0: any"),
        Setting(
            "sandbox", "sandbox", "auto", "auto: the best that is to be had; strict: a sandbox, or no run; off: none"
        ),
        Setting("signatures", "signatures", "first-use", "known: take from indexes only what a key you named signed"),
        Setting("sigstore_root", "text", "", "file with the trusted root of a Sigstore of one's own"),
        Setting("osv_url", "text", "https://api.osv.dev", "database of known vulnerabilities: agenthub audit"),
        Setting("warm", "warm", "off", "auto: keep an agent loaded after its first run; off: agenthub warm alone does"),
        Setting("warm_idle", "duration", 900.0, "seconds without a run after which a loaded agent ends"),
        Setting("history", "flag", True, "record every run: agenthub runs"),
        Setting("history_values", "values", "full", "of inputs and results, full: keep up to 64 kB; digest: keep none"),
        Setting("history_age", "duration", 30 * 86400.0, "time after which a run is forgotten"),
        Setting("history_size", "size", 256 * MB, "bytes that the history may take on disk"),
    )
}

SANDBOX_LEVELS = ("auto", "strict", "off")
HISTORY_VALUES = ("full", "digest")
WARM_CHOICES = ("off", "auto")
SIGNATURE_POLICIES = ("first-use", "known")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def out_of_the_way(descriptor: int) -> int:
    """Moves a descriptor that stays open during a run above those that a shell can name.

    The gate of a run enters its cgroup by a descriptor below 10; entering from outside takes the kernel 10 ms.
    """
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 32)
    os.close(descriptor)
    return moved


def _parse_level(value: object) -> str:
    level = str(value).strip().upper()
    if level not in _LEVELS:
        raise ValueError(f"{value!r} is not a level; one of {', '.join(_LEVELS)}")
    return level


def _parse_sandbox(value: object) -> str:
    return _one_of(SANDBOX_LEVELS, value)


def _parse_values(value: object) -> str:
    return _one_of(HISTORY_VALUES, value)


def _one_of(choices: tuple[str, ...], value: object) -> str:
    choice = str(value).strip().lower()
    if choice not in choices:
        raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
    return choice


def _parse_count(value: object) -> int:
    text = str(value).strip()
    if not text.isdecimal() or len(text) > 6:
        raise ValueError(f"{value!r} is not a number of 0 or more")
    return int(text)


_PARSERS: dict[str, Callable[[object], Any]] = {
    "count": _parse_count,
    "duration": parse_duration,
    "size": parse_size,
    "flag": parse_flag,
    "level": _parse_level,
    "sandbox": _parse_sandbox,
    "warm": lambda value: _one_of(WARM_CHOICES, value),
    "values": _parse_values,
    "signatures": lambda value: _one_of(SIGNATURE_POLICIES, value),
    "text": str,
}


class Settings:
    """The settings of one command or one embedding program.

    Args:
        flags: values given on the command line; None counts as not given.
        environ: where `AGENTHUB_*` is looked up.
        directory: where the search for a project file starts; None: the working directory.

    Raises:
        InvalidInputError: a value that does not parse, or a file that does not, with where it stands.
    """

    def __init__(
        self,
        flags: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self.paths = Paths(self._environ)
        self._flags = {name: value for name, value in (flags or {}).items() if value is not None}
        self._files: list[tuple[str, dict[str, Any]]] = []
        for path in (_project_file(directory), self.paths.user_config):
            if path and os.path.exists(path):
                self._files.append((path, read_settings_file(path)))
                if path != self.paths.user_config:
                    _check_project(path, self._files[-1][1])

    def __getitem__(self, name: str) -> Any:
        return self.lookup(name).value

    def is_set(self, name: str) -> bool:
        """Whether anything but the default speaks for this setting."""
        return self.lookup(name).source != "default"

    def lookup(self, name: str) -> Value:
        """A setting's value and where it came from (`"flag"`, `"AGENTHUB_…"`, a file's path or `"default"`)."""
        setting = SETTINGS[name]
        if name in self._flags:
            return self._parsed(setting, self._flags[name], "flag")
        variable = f"AGENTHUB_{name.upper()}"
        if self._environ.get(variable):
            return self._parsed(setting, self._environ[variable], variable)
        for path, values in self._files:
            if name in values:
                return self._parsed(setting, values[name], path)
        return Value(setting.default, "default")

    @staticmethod
    def _parsed(setting: Setting, raw: object, source: str) -> Value:
        try:
            return Value(_PARSERS[setting.kind](raw), source)
        except ValueError as error:
            raise InvalidInputError(f"{setting.name} ({source}): {error}") from None


def _project_file(directory: str | None) -> str | None:
    try:
        here = os.path.abspath(directory or os.getcwd())
    except FileNotFoundError:  # the working directory was removed under us
        return None
    while True:
        candidate = os.path.join(here, "agenthub.toml")
        if os.path.isfile(candidate):
            return candidate
        parent = os.path.dirname(here)
        if parent == here:
            return None
        here = parent


def read_settings_file(path: str) -> dict[str, Any]:
    """The settings in a file, by name, as they stand there.

    Raises:
        InvalidInputError: it cannot be read, is no TOML, or names what is no setting.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also a number with more digits than Python reads
        raise InvalidInputError(f"{path} is not valid TOML: {error}") from None
    for name in values:
        check_setting_name(name, path)
    return values


# What a project may set to one value alone, and what not at all, with the reason.
_PROJECT_MAY_ONLY = {"sandbox": "strict", "history_values": "digest", "signatures": "known"}
_PROJECT_MAY_NOT = {
    **dict.fromkeys(("history", "history_age", "history_size"), "the history is yours"),
    **dict.fromkeys(("index", "osv_url"), "which servers are asked is yours to say"),
    "sigstore_root": "whom you trust is yours to say",
    "keep_versions": "the agents that it would remove are yours",
}


def _check_project(path: str, values: Mapping[str, Any]) -> None:
    """A project comes from elsewhere as often as not: it may ask for more safety, and not for less."""
    for name, value in values.items():
        only = _PROJECT_MAY_ONLY.get(name)
        if only is not None and str(value).strip().lower() != only:
            raise InvalidInputError(
                f"{path}: a project may set {name} to {only}, and to nothing else",
                suggestion=f"take it out; agenthub config set {name} … sets it for you alone",
            )
        if name in _PROJECT_MAY_NOT:
            raise InvalidInputError(
                f"{path}: a project may not set {name}: {_PROJECT_MAY_NOT[name]}",
                suggestion="take it out, or set it for you alone: agenthub config",
            )
    if os.sep in str(values.get("python", "")):
        raise InvalidInputError(
            f"{path}: a project may name a version of Python, and no program to start in its place",
            suggestion="write a version, such as 3.12; or name the program with --python",
        )


def check_setting_name(name: str, where: str) -> Setting:
    """The setting called `name`.

    Raises:
        InvalidInputError: there is none; names the nearest one.
    """
    if name not in SETTINGS:
        close = nearest(name, SETTINGS)
        hint = f"did you mean '{close}'?" if close else "see: agenthub config"
        raise InvalidInputError(f"{where}: there is no setting '{name}'", suggestion=hint)
    return SETTINGS[name]


def scratch_base() -> str:
    """Where runs have their scratch directories: one private directory for each user."""
    shared = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the owner and mode of what is made there are checked
    return os.path.join(shared, f"agenthub-{os.getuid()}")


class Paths:
    """Where everything is on disk; one root, `AGENTHUB_HOME`, by default `~/.agenthub`."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.home = os.path.abspath(os.path.expanduser(environ.get("AGENTHUB_HOME") or "~/.agenthub"))
        join = os.path.join
        self.marker = join(self.home, "store.json")
        self.user_config = join(self.home, "config.toml")
        self.agents = join(self.home, "agents")
        """`agents/<owner>/<name>`: a symbolic link to the current version."""
        self.versions = join(self.home, "versions")
        """`versions/<owner>/<name>/<version>-<digest>`: one installed version, complete and never changed."""
        self.staging = join(self.home, "staging")
        """Work in progress; whatever no living process holds is rubbish."""
        self.locks = join(self.home, "locks")
        self.states = join(self.home, "states")
        """`states/<owner>/<name>.json`: whether an agent is pinned, which versions it may become, which it had."""
        self.grants = join(self.home, "grants")
        """`grants/<owner>/<name>.json`: what the user allowed an agent."""
        self.cache = join(self.home, "cache")
        """May be deleted at any time: environments and checkouts of agents that are run without installing."""
        self.workshop = join(self.cache, "workshop")
        """Where environments are built before they move to their places; uv is faster in a place that it knows."""
        self.history = join(self.home, "history")
        """What was run: a journal, a database made of it, and the runs' logs."""
        self.projects = join(self.home, "projects")
        """`projects/<path>/agents/<owner>/<name>`: links to the versions that a project's lock names."""
        self.workers = join(self.home, "workers")
        """`workers/<owner>/<name>/`: the sockets of agents that are kept loaded."""
        self.indexes = join(self.home, "indexes.json")
        """The indexes that the user configured, in their order."""
        self.owners = join(self.home, "owners.json")
        """Which index each owner was first seen at, and how far its agents' documents had come."""
        self.index_cache = join(self.cache, "index")
        """Documents of indexes, archives, and downloads that were cut short."""
        self.logs = join(self.home, "logs")
        self.index = join(self.home, "index.json")
        """A summary of the store for `list`; rebuilt when it is out of date."""

    def workers_of(self, owner: str, name: str, variant: str = "") -> str:
        """Where an agent's workers are; of one that is not installed, in here. `variant` is a project's version."""
        leaf = f"{name}+{variant}" if variant else name
        return os.path.join(self.workers, owner, leaf) if owner else os.path.join(self.workers, "-")

    def current_link(self, owner: str, name: str) -> str:
        """The link to an agent's current version."""
        return os.path.join(self.agents, owner, name)


# Inside an installed version (and, for `VENV`, inside any agent directory that the runtime prepared).
VENV = "venv"
RECORD = os.path.join(".agenthub", "record.json")
IN_USE = os.path.join(".agenthub", "in-use")


class RuntimeConfig:
    """Configuration of a runtime, with the interface document's fields and units.

    `subprocess_timeout` bounds every wait for a process that was asked to end or to answer; `cleanup_interval` is the
    time between two sweeps for leftovers; `log_level` is the lowest level of an agent's log lines that are passed on.
    """

    def __init__(self) -> None:
        self.max_execution_time: float = 30  # seconds
        self.max_memory_usage: float = 1024  # MB
        self.subprocess_timeout: float = 5  # seconds
        self.cleanup_interval: float = 60  # seconds
        self.log_level = "INFO"
        self.use_uv = True

    @classmethod
    def from_settings(cls, settings: Settings) -> RuntimeConfig:
        """The configuration that flags, environment and files make."""
        config = cls()
        config.max_execution_time = settings["timeout"]
        config.max_memory_usage = settings["memory"] / MB
        config.subprocess_timeout = settings["grace"]
        config.cleanup_interval = settings["cleanup_interval"]
        config.log_level = settings["log_level"]
        config.use_uv = settings["use_uv"]
        return config


class EnvironmentConfig:
    """Configuration of environments, with the interface document's fields and units.

    `python_version` applies to agents that declare none; `venv_location` is the environment's folder inside the
    agent's; `auto_cleanup` removes what a failed installation made.
    """

    def __init__(self) -> None:
        self.python_version = "3.12"
        self.venv_location = VENV
        self.dependency_cache = True
        self.auto_cleanup = True
        self.max_venv_size: float = 500  # MB

    @classmethod
    def from_settings(cls, settings: Settings) -> EnvironmentConfig:
        """The configuration that flags, environment and files make."""
        config = cls()
        config.python_version = settings["python"]
        config.dependency_cache = settings["dependency_cache"]
        config.auto_cleanup = settings["auto_cleanup"]
        config.max_venv_size = settings["max_venv_size"] / MB
        return config
