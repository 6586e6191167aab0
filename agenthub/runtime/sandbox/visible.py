"""Which files a run sees: those of its policy, its program and the libraries that programs need, and nothing else."""

from __future__ import annotations

import contextlib
import os
import stat
import sys

from agenthub.config import Paths
from agenthub.errors import PermissionDeniedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agenthub.runtime.sandbox.policy import SandboxPolicy

_LIBRARIES = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/share",
    "/nix/store",
    "/gnu/store",
)
_PROGRAMS = ("/usr", "/bin", "/sbin", "/opt")
_SOFTWARE = (*_PROGRAMS, "/lib", "/lib64", "/nix/store", "/gnu/store")  # what is installed there is no secret
_SETTINGS = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
_NETWORK_SETTINGS = (
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",  # and not /etc/ssl, where private keys are
    "/etc/ssl/openssl.cnf",
)
CERTIFICATE_VARIABLES = (  # which `run_environment` passes on
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)
_SHARED_PREFIXES = frozenset(("/", "/usr", "/usr/local", "/opt"))
_MOST_LINKS = 40
_HEAD = 256


class Visible:
    """Files by their real paths, and the symbolic links that lead to them.

    Attributes:
        readable: real paths of files and directories.
        writable: the same.
        data: those of `readable` that need not be executed.
        links: path -> target, of links that lie in no directory of these.
    """

    def __init__(self) -> None:
        self.readable: dict[str, None] = {}
        self.writable: dict[str, None] = {}
        self.data: set[str] = set()
        self._untrusted: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._plain: set[str] = set()

    def read(self, path: str) -> None:
        """Makes a path readable, if it exists."""
        real = self.follow(path)
        if real is not None and real not in self.readable:
            self.readable[real] = None

    def read_data(self, path: str) -> None:
        """Makes a path readable that need not be executed, if it exists."""
        real = self.follow(path)
        if real is not None and real not in self.readable:
            self.data.add(real)
            self.readable[real] = None

    def write(self, path: str) -> None:
        """Makes a path writable, if it exists."""
        real = self.follow(path)
        if real is not None:
            self.writable[real] = None

    def distrust(self, directory: str, reason: str) -> None:
        """Follows no link from now on that lies in a directory, for a reason that ends "PATH is a link, and …"."""
        self._untrusted[os.path.realpath(directory)] = reason

    def follow(self, path: str) -> str | None:
        """The real path of one, whose links will be there too; None if there is no such file.

        Raises:
            PermissionDeniedError: a link to distrust is on the way.
        """
        done = "/"
        todo = path.strip("/").split("/")[::-1]
        for _ in range(_MOST_LINKS * 8):
            if not todo:
                return done
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done = os.path.dirname(done)
                continue
            step = f"{done}/{name}" if done != "/" else f"/{name}"
            if step not in self._plain:
                try:
                    mode = os.lstat(step).st_mode
                    target = os.readlink(step) if stat.S_ISLNK(mode) else None
                except OSError:
                    return None
                if target is not None:
                    self._check_link(step, done)
                    self._links[step] = target
                    todo += target.rstrip("/").split("/")[::-1]
                    if target.startswith("/"):
                        done = "/"
                    continue
                self._plain.add(step)
            done = step
        return None

    def _check_link(self, link: str, directory: str) -> None:
        for place, reason in self._untrusted.items():
            if _is_in(directory, place):
                raise PermissionDeniedError(
                    f"{link} is a link, and {reason}",
                    suggestion=f"name what it should lead to: {os.path.realpath(link)}",
                )

    def covers(self, path: str) -> bool:
        """Whether a path lies at or in something visible."""
        while path != "/":
            if path in self.readable or path in self.writable:
                return True
            path = os.path.dirname(path)
        return "/" in self.readable or "/" in self.writable

    def links(self) -> dict[str, str]:
        """The links that have to be made; the others are in directories that are visible as a whole."""
        return {path: target for path, target in self._links.items() if not self.covers(os.path.dirname(path))}

    def needless(self, path: str) -> bool:
        """Whether a readable path lies in a readable directory, with no writable one in between."""
        while path != "/":
            path = os.path.dirname(path)
            if path in self.writable:
                return False
            if path in self.readable:
                return True
        return False


def visible_files(
    policy: SandboxPolicy, argv: tuple[str, ...], needs: Iterable[str], env: Mapping[str, str], cwd: str
) -> Visible:
    """What a run of `argv` has to see.

    Args:
        policy: what it may touch.
        argv: its program is found as `launch` finds it.
        needs: files of ours that it reads.
        env: its environment; PATH counts.
        cwd: its working directory.

    Raises:
        PermissionDeniedError: a path of the policy leads through a link that the agent may have made.
    """
    seen = Visible()
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    _add_system(seen, policy, folders, env)
    for path in (policy.agent_dir, *needs):
        seen.read(path)
    own = os.path.realpath(policy.agent_dir)
    _add_program(seen, argv[0], folders, cwd, own, trusted=False)
    for program in policy.programs or ():
        _add_program(seen, program, folders, cwd, own, trusted=True)
    seen.write(policy.scratch)
    seen.distrust("/proc", "leads elsewhere for each process")
    for path in policy.write:
        seen.distrust(path, f"the agent, which may write {path}, may have made it")
    for path in policy.read:
        seen.read_data(path)
    for path in policy.write:
        seen.write(path)
    return seen


def _add_system(seen: Visible, policy: SandboxPolicy, folders: list[str], env: Mapping[str, str]) -> None:
    for path in _SETTINGS if policy.network.kind == "none" else _SETTINGS + _NETWORK_SETTINGS:
        seen.read(path)
    for name in CERTIFICATE_VARIABLES:  # without network too: clients read them when they are made
        if env.get(name, "").startswith("/"):
            seen.read_data(env[name])
    if policy.programs is None:
        for folder in _installed(folders):
            for path in _without(folder, _protected()):
                seen.read(path)
    for path in _LIBRARIES:
        if not seen.covers(path):
            seen.read(path)


def find_program(program: str, folders: Iterable[str], cwd: str) -> str | None:
    """An executable file by its path, or by its name in one of `folders`."""
    candidates = [program] if "/" in program else [os.path.join(folder, program) for folder in folders]
    for candidate in candidates:
        path = os.path.join(cwd, candidate)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def _installed(folders: Iterable[str]) -> list[str]:
    home = os.path.expanduser("~")
    outside = [folder for folder in folders if folder.startswith("/") and not _is_in(folder, home)]
    return [*_PROGRAMS, *(folder for folder in outside if not _is_in(folder, "/usr"))]


def _protected() -> tuple[str, ...]:
    """What is not to be seen even where it lies among installed software, as the home of a service often does."""
    return os.path.realpath(os.path.expanduser("~")), os.path.realpath(Paths(os.environ).home)


def _without(directory: str, protected: tuple[str, ...]) -> Iterator[str]:
    """A directory, or those parts of it that hold nothing protected."""
    real = os.path.realpath(directory)
    if any(_is_in(real, place) for place in protected):
        return
    if not any(_is_in(place, real) for place in protected):
        yield directory
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(real):
            yield from _without(os.path.join(real, name), protected)


def _add_program(
    seen: Visible, program: str, folders: list[str], cwd: str, own: str, *, trusted: bool, depth: int = 0
) -> None:
    """A program with what belongs to it: its installation if it has one of its own, and what its `#!` names.

    Args:
        seen: what it is added to.
        program: its name or path.
        folders: where a name is looked up.
        cwd: what a relative path is relative to.
        own: the agent's directory. Whatever stands there, the agent's author wrote.
        trusted: whether the user agreed to this program, and so to what it needs.
        depth: of `#!` lines.
    """
    path = find_program(program, folders, cwd)
    real = None if path is None else seen.follow(path)
    if path is None or real is None:
        return
    trusted = trusted or not ("/" in program or _is_in(path, own))
    _add_environment(seen, path, real, (own, *_made_here()) if depth == 0 else (own,), trusted=trusted)
    if not seen.covers(real):
        if not trusted and not any(_is_in(real, place) for place in _SOFTWARE):
            return
        seen.read(_installation(real))
    if depth < 2:
        for needed in _interpreter_of(real):
            _add_program(seen, needed, folders, cwd, own, trusted=trusted, depth=depth + 1)


def _made_here() -> tuple[str, ...]:
    """Where environments are that this program made, or runs in itself; a manifest can name others."""
    return os.path.realpath(Paths(os.environ).home), os.path.realpath(sys.prefix)


def _add_environment(seen: Visible, path: str, real: str, known: tuple[str, ...], *, trusted: bool) -> None:
    """For a Python interpreter, its installation, and the virtual environment by which it was named.

    What `pyvenv.cfg` says is not believed: it could name the directory of somebody's keys.
    """
    prefix = _python_prefix(real)
    if not prefix:
        return
    environment = os.path.dirname(os.path.dirname(os.path.abspath(path)))
    home = _base_of(environment)
    if home and (trusted or any(_is_in(os.path.realpath(environment), place) for place in known)):
        seen.read(environment)
        if os.path.realpath(home) == os.path.dirname(real):
            seen.follow(home)
    if not _shared(prefix):
        seen.read(prefix)


def _python_prefix(program: str) -> str:
    """Where a Python interpreter is installed, by its real path; empty for any other program."""
    prefix = os.path.dirname(os.path.dirname(program))
    library = os.path.join(prefix, "lib", os.path.basename(program), "os.py")
    return prefix if os.path.isfile(library) else ""


def _base_of(environment: str) -> str:
    """Where a virtual environment's interpreter comes from; empty for a directory that is none."""
    try:
        with open(os.path.join(environment, "pyvenv.cfg"), encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                key, _, value = line.partition("=")
                if key.strip().lower() == "home":
                    return value.strip()
    except OSError:
        pass
    return ""


def _installation(program: str) -> str:
    """The directory that belongs to a program alone, or else just the program."""
    folder = os.path.dirname(program)
    if os.path.basename(folder) == "bin":
        prefix = os.path.dirname(folder)
        return program if _shared(prefix) or not os.path.isdir(os.path.join(prefix, "lib")) else prefix
    return folder if _is_in(folder, "/opt") and not _shared(folder) else program


def _shared(prefix: str) -> bool:
    """Whether a prefix holds more than one installation, for example somebody's keys."""
    home = os.path.realpath(os.path.expanduser("~"))
    return prefix in _SHARED_PREFIXES or _is_in(home, prefix) or prefix == os.path.join(home, ".local")


def _interpreter_of(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return []
    if not head.startswith(b"#!"):
        return []
    words = [os.fsdecode(word) for word in head[2:].split(b"\n", 1)[0].split()]
    if words and os.path.basename(words[0]) == "env":
        return words[:1] + [word for word in words[1:] if not word.startswith("-") and "=" not in word][:1]
    return words[:1]


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
