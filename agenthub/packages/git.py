"""Fetches a commit of a git repository with the git program, and nothing that the repository or a hook would run."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from typing import NamedTuple

from agenthub.errors import AgentRuntimeError, InstallError, nearest
from agenthub.lifeline import check_stopping, running_tool
from agenthub.packages.files import remove_tree, storing
from agenthub.packages.ledger import LIMITS, MB, Limits, TreeSummary
from agenthub.packages.spec import Spec, redacted
from agenthub.packages.tree import copy_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FETCH_TIMEOUT = 900.0
"""Seconds that one git command may take."""

_POLL = 0.5
_KEPT_ERRORS = 64 * 1024
_KEPT_VARIABLES = (
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSL_NO_VERIFY",
)
_HEX = re.compile(r"[0-9a-f]{4,40}")
_NOT_SHALLOW = re.compile(r"shallow|not our ref|unadvertised object|dumb http", re.IGNORECASE)
_NO_SUCH_REF = re.compile(r"couldn't find remote ref", re.IGNORECASE)
_PROTOCOLS = {"https": "https:ssh", "ssh": "ssh:https", "http": "http", "file": "file"}
_QUIET = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
)
_REMOTE_HEAD = "refs/agenthub/HEAD"
_EVERYTHING = (f"+HEAD:{_REMOTE_HEAD}", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


class Checkout(NamedTuple):
    """What `fetch_git` put into its target."""

    commit: str
    tree: TreeSummary


def fetch_git(
    spec: Spec, target: str, on_progress: Callable[[str], None] | None = None, *, limits: Limits = LIMITS
) -> Checkout:
    """Fetches the commit that `spec` names and copies its tree, or the subdirectory's, to `target`.

    Submodules are left out, and files of Git LFS stay the pointers that they are in the repository.

    Args:
        spec: of kind `"git"`.
        target: must not exist yet; a working directory is made beside it, and removed.
        on_progress: gets git's own lines of progress.
        limits: the caps on the tree.

    Raises:
        InstallError: git is missing, or refused (its reason is in the details), or the tree is refused.
    """
    working = target + ".git-work"
    with storing("write", working):
        os.mkdir(working, 0o700)
    try:
        repository = _Repository(spec, os.path.join(working, "repository"), on_progress)
        commit = repository.fetch()
        repository.check_out(commit, limits)
        tree = copy_tree(_inside(repository.directory, spec), target, limits=limits)
    finally:
        remove_tree(working)
    return Checkout(commit, tree)


def list_refs(spec: Spec) -> tuple[str, ...]:
    """The branches and tags of a repository, without their `refs/heads/` and `refs/tags/`.

    Raises:
        InstallError: git is missing, or refused; its reason is in the details.
    """
    return _Repository(spec, "", None).refs()


def newest_commit(spec: Spec) -> str | None:
    """The commit that `spec` names at its repository now; None where it names a commit itself, which stays.

    Raises:
        InstallError: git is missing or refused, or there is no such branch or tag.
    """
    return _Repository(spec, "", None).newest()


def _inside(directory: str, spec: Spec) -> str:
    """The agent's directory in the checkout; no component of it may be a link."""
    for part in (spec.subdirectory or "").split("/"):
        directory = os.path.join(directory, part) if part else directory
        if os.path.islink(directory) or not os.path.isdir(directory):
            raise InstallError(f"{redacted(spec.location)} has no directory '{spec.subdirectory}'")
    return directory


class _Repository:
    def __init__(self, spec: Spec, directory: str, on_progress: Callable[[str], None] | None) -> None:
        self.directory = directory
        self._spec = spec
        self._name = redacted(spec.location)
        self._on_progress = on_progress

    def fetch(self) -> str:
        """Gets the commit, alone where the server can, else with all its history."""
        self._git(["init", "--quiet", "--template=", "--", self.directory], own_config=True, within=False)
        ref = self._spec.ref or "HEAD"
        code, errors = self._fetch("--depth=1", refs=(ref,))
        if code == 0:
            return self._resolve("FETCH_HEAD")
        if _NO_SUCH_REF.search(errors) and not _HEX.fullmatch(ref):
            raise self._unknown_ref(ref)
        if not (_NO_SUCH_REF.search(errors) or _NOT_SHALLOW.search(errors)):
            raise self._failure("cannot be fetched", errors)
        code, errors = self._fetch(refs=_EVERYTHING)
        if code != 0:
            raise self._failure("cannot be fetched", errors)
        return self._resolve(_REMOTE_HEAD if ref == "HEAD" else ref)

    def newest(self) -> str | None:
        """The commit of the branch or tag, without fetching anything."""
        ref = self._spec.ref or "HEAD"
        names = ["HEAD"] if ref == "HEAD" else [f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref]
        code, output, errors = self._run(
            ["ls-remote", "--", self._spec.location, *names], own_config=False, within=False
        )
        if code != 0:
            raise self._failure("cannot be read", errors)
        lines = output.decode("utf-8", "replace").splitlines()
        found = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
        for name in names:
            if name in found and _HEX.fullmatch(found[name]):
                return found[name]
        if _HEX.fullmatch(ref):
            return None
        raise self._unknown_ref(ref)

    def check_out(self, commit: str, limits: Limits) -> None:
        """Writes the commit's files, or the subdirectory's, without anybody's filters."""
        wanted = self._spec.subdirectory or "."
        where = ["--", wanted] if self._spec.subdirectory else []  # a commit is hexadecimal, never an option
        listing = ["ls-tree", "-r", "-l", "-z", "--full-tree", commit, *where]
        code, output, errors = self._run(listing, own_config=True, most=limits.entries * 256)
        if code != 0:
            raise self._failure("is damaged", errors)
        entries = [entry for entry in output.split(b"\0") if entry]
        sizes = [entry.split(None, 4)[3] for entry in entries]
        if not entries:
            what = f"no directory '{wanted}'" if self._spec.subdirectory else "no files"
            raise InstallError(f"{self._name} has {what} at {commit[:12]}")
        if len(entries) > limits.entries or sum(int(size) for size in sizes if size != b"-") > limits.size:
            raise InstallError(
                f"{self._name} is refused: it has more than {limits.entries:,} files or {limits.size // MB:,} MB"
            )
        self._git(["checkout", "--quiet", "--force", commit, "--", wanted], own_config=True)

    def _fetch(self, *options: str, refs: tuple[str, ...]) -> tuple[int, str]:
        progress = "--progress" if self._on_progress else "--quiet"
        fixed = ("fetch", progress, "--no-tags", "--no-recurse-submodules", "--no-write-commit-graph", "--force")
        arguments = [*fixed, "--update-head-ok", *options, "--", self._spec.location, *refs]
        code, _, errors = self._run(arguments, own_config=False)
        return code, errors

    def _resolve(self, ref: str) -> str:
        for name in (ref, f"refs/heads/{ref}", f"refs/tags/{ref}"):
            arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", name + "^{commit}"]
            code, output, _ = self._run(arguments, own_config=True)
            if code == 0:
                return output.decode("ascii").strip()
        raise self._unknown_ref(ref)

    def refs(self) -> tuple[str, ...]:
        """Names of branches and tags at the other side."""
        command = ["ls-remote", "--heads", "--tags", "--", self._spec.location]
        code, output, errors = self._run(command, own_config=False, within=False)
        if code != 0:
            raise self._failure("cannot be read", errors)
        lines = output.decode("utf-8", "replace").splitlines()
        return tuple(sorted({line.split("/", 2)[-1].removesuffix("^{}") for line in lines}))

    def _unknown_ref(self, ref: str) -> InstallError:
        known = self.refs()
        close = nearest(ref, known)
        some = ", ".join(known[:10])
        return InstallError(
            f"{self._name} has no branch, tag or commit '{ref}'",
            suggestion=f"did you mean '{close}'?" if close else f"it has: {some}" if some else None,
        )

    def _git(self, arguments: list[str], *, own_config: bool, within: bool = True) -> None:
        code, _, errors = self._run(arguments, own_config=own_config, within=within)
        if code != 0:
            raise self._failure("cannot be checked out", errors)

    def _run(
        self, arguments: list[str], *, own_config: bool, within: bool = True, most: int = 16 * MB
    ) -> tuple[int, bytes, str]:
        place = ("-C", self.directory) if within else ()
        command = ["git", "--literal-pathspecs", "--no-replace-objects", *_QUIET, *place, *arguments]
        code, output, errors = _communicate(command, self._environment(own_config), self._on_progress, most)
        return code, output, errors.replace(self._spec.location, self._name)

    def _environment(self, own_config: bool) -> dict[str, str]:
        """Ours less what would point git elsewhere; `own_config`: without the user's configuration and its filters."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in _KEPT_VARIABLES}
        scheme, found, _ = self._spec.location.partition("://")
        environment["GIT_ALLOW_PROTOCOL"] = _PROTOCOLS[scheme] if found else self._protocol_without_scheme()
        environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_ADVICE": "0", "LC_ALL": "C"}
        if "GIT_SSH" not in environment:
            environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        if own_config:
            environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1"}
        return environment

    def _protocol_without_scheme(self) -> str:
        return "file" if self._spec.location.startswith("/") else _PROTOCOLS["ssh"]

    def _failure(self, what: str, errors: str) -> InstallError:
        details = [line for line in errors.splitlines() if line.strip() and not line.startswith("hint:")]
        return InstallError(f"{self._name} {what}", details=details[-10:], suggestion=_way_out(errors))


def _way_out(errors: str) -> str | None:
    if re.search(r"could not read (Username|Password)|Authentication failed|terminal prompts disabled", errors):
        return "if it exists and is private, set up a git credential helper, or use an ssh URL"
    if "Permission denied (publickey" in errors:
        return "load your ssh key with ssh-add"
    if "Host key verification failed" in errors:
        return "connect once with ssh, so that the host's key is known"
    return None


def _communicate(
    command: list[str], environment: dict[str, str], on_progress: Callable[[str], None] | None, most: int
) -> tuple[int, bytes, str]:
    """Runs git in a session of its own; its whole process group dies with an exception, Ctrl-C included."""
    try:
        with running_tool(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            output, errors = _read(process, on_progress, most)
            code = process.wait()
    except FileNotFoundError as error:
        if isinstance(error, AgentRuntimeError):  # some of ours are OSErrors as well
            raise
        raise InstallError("git is not installed", suggestion="install git, or use a directory or archive") from None
    except OSError as error:
        if isinstance(error, AgentRuntimeError):
            raise
        raise InstallError(f"git cannot be started: {error.strerror}") from error
    return code, output, errors.decode("utf-8", "replace")


def _read(
    process: subprocess.Popen[bytes], on_progress: Callable[[str], None] | None, most: int
) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = time.monotonic() + FETCH_TIMEOUT
    output, errors = bytearray(), bytearray()
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        while selector.get_map():
            check_stopping()
            ended = process.poll() is not None  # asked first: what it said last is then there to be read
            ready = selector.select(0 if ended else _POLL)
            if not ready and ended:
                break  # what still holds its pipes is an ssh that shares its connection
            if time.monotonic() > deadline:
                raise InstallError(f"git did not finish within {FETCH_TIMEOUT:.0f} seconds")
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
                if key.data is errors and on_progress:
                    _report(data, on_progress)
            del errors[:-_KEPT_ERRORS]
            if len(output) > most:
                raise InstallError("git answers without end: the repository is refused")
    return bytes(output), bytes(errors)


def _report(data: bytes, on_progress: Callable[[str], None]) -> None:
    for line in re.split(r"[\r\n]+", data.decode("utf-8", "replace")):
        if line.strip():
            on_progress(line.strip())
