"""What the hostile agents are let loose on: a user's home, their processes and their sockets, and how they are checked.

`World` is what lasts for all tests of one user: a copy of the package, a home with an AGENTHUB_HOME in it, and the
agents of `agents/`, each installed when it is first needed. `Host` is one test's view of it, on one tier.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import pytest

from tests.hostile_agents.host_state import Canary, Listeners, children, marked_paths, snapshot, sysv_objects
from tests.support import PROJECT, Finished

BUBBLEWRAP, LANDLOCK, RLIMITS = "bubblewrap", "landlock", "rlimits"
TIERS = (BUBBLEWRAP, LANDLOCK, RLIMITS)
USERS = ("root", "ordinary") if os.geteuid() == 0 else ("ordinary",)
PATIENCE = 60.0
AREAS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "agents")
SECRETS = {  # in the environment of the command
    "AWS_SECRET_ACCESS_KEY": "kept-secret-of-the-cloud",
    "OPENAI_API_KEY": "kept-secret-of-the-model",
    "AGENTHUB_SECRETS_PASSPHRASE": "kept-secret-of-secrets",
    "DATABASE_URL": "kept-secret-of-the-database",
}
CANARIES = {  # in the home of the user
    ".ssh/id_ed25519": "kept-secret-key\n",
    ".aws/credentials": "kept-secret-credentials\n",
    ".config/app/token": "kept-secret-token\n",
    ".bashrc": "# kept-secret-profile\n",
    "notes.txt": "kept-secret-notes\n",
    "documents/letters/one.txt": "kept-secret-letter\n",
    "documents/two.txt": "kept-secret-document\n",
}
_STORE_CANARIES = {  # in the AGENTHUB_HOME of the user
    "secrets.json": '{"kept-secret-vault": 1}\n',
    "grants/local/somebody.json": '{"environment": ["kept-secret-grant"]}\n',
}
_NOBODY = 65534
_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin")
_PACKAGES = ("yaml", "packaging", "rich", "uv")  # that installing needs
_SUBREAPER = 36
_DYING = 5.0  # seconds for a process that was killed to be gone
_VOLATILE = ("cache", "history", "locks", "logs", "staging", "workers")  # of AGENTHUB_HOME
_LAUNCHER = """import sys
sys.path.insert(0, {package!r})
from agenthub.__main__ import run
run()
"""
_MASK = """import os, sys
sys.path.insert(0, {package!r})
from agenthub.runtime.sandbox.seccomp import Rule, assemble, forbid_new_privileges, install
forbid_new_privileges()
install(assemble((Rule("landlock_create_ruleset", 38),)))
os.execv(sys.argv[1], sys.argv[1:])
"""


class Attack(NamedTuple):
    """One method of a hostile agent, and what has to come of it.

    Attributes:
        method: its name.
        bubblewrap: outcomes that are right on this tier: names of errno, an error type, or `done` for an attack that
            succeeds on something of the run's own; separated by spaces.
        landlock: the same.
        free: what comes of it without a sandbox, where this shows that the attack is real; empty: nothing is said.
        root: whether only root can succeed without a sandbox.
        daily: whether it is part of the quick run too; all are part of the long one.
    """

    method: str
    bubblewrap: str
    landlock: str
    free: str = "done"
    root: bool = False
    daily: bool = False

    def expected(self, host: Host) -> tuple[str, ...]:
        """The outcomes that are right on a host; (): all are."""
        if host.tier == BUBBLEWRAP:
            return tuple(self.bubblewrap.split())
        if host.tier == LANDLOCK:
            return tuple(self.landlock.split())
        return () if self.root and host.user != "root" else tuple(self.free.split())


def each(attacks: tuple[Attack, ...]) -> pytest.MarkDecorator:
    """A test for each attack, as the argument `attack`."""
    return pytest.mark.parametrize(
        "attack",
        [pytest.param(attack, id=attack.method, marks=() if attack.daily else pytest.mark.slow) for attack in attacks],
    )


def outcome(envelope: dict[str, Any]) -> str:
    """What came of an attack: `done`, a name of errno, or the type of the error that ended the run."""
    if "error" in envelope:
        return str(envelope["error_type"])
    return str(envelope["result"]["outcome"])


class World:
    """A user with a home, who has agenthub and all hostile agents installed.

    Attributes:
        user: `root` or `ordinary`; without root the tests' own user is `ordinary`.
        path: the directory of all this, by its real path; outside of /tmp, as a home is.
        uid: of the user.
        home: HOME of the command.
        store: AGENTHUB_HOME of the command, in `home`.
        temporary: TMPDIR of the command.
        work: working directory of the command; emptied after each test.
        installed: the areas whose agents are installed.
    """

    def __init__(self, user: str) -> None:
        self.user = user
        self._drop: tuple[str, ...] = ()
        self.python, self.uid = sys.executable, os.getuid()
        if user == "ordinary" and os.geteuid() == 0:
            if not os.access("/usr/bin/python3", os.X_OK) or not shutil.which("setpriv"):
                pytest.skip("no interpreter of the system's, or no setpriv")
            self.python, self.uid = "/usr/bin/python3", _NOBODY
            self._drop = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
        base = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
        self.path = os.path.realpath(tempfile.mkdtemp(prefix="hostile-", dir=base))
        self.package = os.path.join(self.path, "package")
        self._backup = os.path.join(self.path, "backup")
        self._programs = os.path.join(self.path, "programs")
        self.installed: set[str] = set()
        try:
            self._make()
        except BaseException:
            self.remove()
            raise

    def _make(self) -> None:
        os.chmod(self.path, 0o755)
        self.home = self.directory("home", 0o700)
        self.store = os.path.join(self.home, ".agenthub")
        self.temporary = self.directory("tmp", 0o700)
        self.sockets = self.directory("sockets")
        self.work = self.directory("work")
        self._copy_package()
        self._launcher = self.write("agenthub-command", _LAUNCHER.format(package=self.package))
        self._mask = self.write("mask.py", _MASK.format(package=self.package))
        self._link_programs()
        for name, text in CANARIES.items():
            self.write(os.path.join("home", name), text, 0o600)
        self.install("neighbour")
        for name, text in _STORE_CANARIES.items():
            self.write(os.path.join("home/.agenthub", name), text, 0o600)
        self._keep()

    def directory(self, name: str, mode: int = 0o755) -> str:
        """A directory of the user's, below `path`."""
        path = os.path.join(self.path, name)
        if not os.path.isdir(path):
            if "/" in name:
                self.directory(os.path.dirname(name), mode)
            os.mkdir(path)
            os.chmod(path, mode)
            self._own(path)
        return path

    def write(self, name: str, text: str | bytes, mode: int = 0o644) -> str:
        """A file of the user's, below `path`."""
        path = os.path.join(self.path, name)
        if os.path.dirname(name):
            self.directory(os.path.dirname(name), 0o700)
        with open(path, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
        os.chmod(path, mode)
        self._own(path)
        return path

    def path_variable(self, tier: str) -> str:
        """PATH of the command: without bubblewrap below that tier."""
        bwrap = shutil.which("bwrap")
        more = (os.path.dirname(bwrap),) if bwrap else ()
        return ":".join(dict.fromkeys((*_FOLDERS, *more))) if tier == BUBBLEWRAP else self._programs

    def environment(self, tier: str) -> dict[str, str]:
        """The environment of the command."""
        return {
            "HOME": self.home,
            "AGENTHUB_HOME": self.store,
            "TMPDIR": self.temporary,
            "PATH": self.path_variable(tier),
            "LANG": "C.UTF-8",
            **SECRETS,
        }

    def command(self, tier: str, *words: object) -> list[str]:
        """The words that start `agenthub` as the user, where no tier above `tier` can be had."""
        mask = (self.python, self._mask) if tier == RLIMITS else ()
        return [*self._drop, *mask, self.python, self._launcher, *map(str, words)]

    def start(self, argv: tuple[str, ...], **options: Any) -> subprocess.Popen[bytes]:
        """Any program as the user."""
        return subprocess.Popen((*self._drop, *argv), **options)

    def install(self, area: str) -> str:
        """Installs the agent of an area, once; returns the name to run it by."""
        name = f"hostile-{area}"
        if area not in self.installed:
            source = self._copy_agent(area)
            command = self.command(BUBBLEWRAP, "install", "--yes", "--compile-bytecode", source)
            done = subprocess.run(
                command, capture_output=True, timeout=PATIENCE, env=self.environment(BUBBLEWRAP), cwd=self.work
            )
            assert done.returncode == 0, done.stderr.decode()
            self.installed.add(area)
            self._keep()
        return name

    def directory_of(self, area: str) -> str:
        """Where the installed version of an area's agent is."""
        return os.path.realpath(os.path.join(self.store, "agents", "local", self.install(area)))

    def state(self) -> dict[str, object]:
        """All of the home that must not change."""
        return snapshot(self.home, without=tuple(os.path.join(self.store, name) for name in _VOLATILE))

    def restore(self) -> None:
        """Puts the home back as it was after the last installation."""
        _remove(self.home)
        shutil.copytree(self._backup, self.home, symlinks=True)
        self._own_tree(self.home)

    def leftovers(self) -> list[str]:
        """What is left of runs in the place for their scratch directories."""
        base = f"agenthub-{self.uid}"
        found = [name for name in os.listdir(self.temporary) if name != base]
        with contextlib.suppress(FileNotFoundError):
            inner = os.listdir(os.path.join(self.temporary, base))
            found += [os.path.join(base, name) for name in inner if name != ".swept"]
        return found

    def remove(self) -> None:
        _remove(self.path)

    def _keep(self) -> None:
        _remove(self._backup)
        shutil.copytree(self.home, self._backup, symlinks=True)
        os.chmod(self._backup, 0o700)

    def _copy_package(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "RECORD")
        shutil.copytree(os.path.join(PROJECT, "agenthub"), os.path.join(self.package, "agenthub"), ignore=ignored)
        for name in _PACKAGES:
            found = importlib.util.find_spec(name)
            assert found is not None, name
            assert found.submodule_search_locations, name
            shutil.copytree(found.submodule_search_locations[0], os.path.join(self.package, name), ignore=ignored)
        from uv import find_uv_bin  # type: ignore[import-not-found,unused-ignore]

        os.mkdir(os.path.join(self.package, "bin"))
        shutil.copy2(find_uv_bin(), os.path.join(self.package, "bin", "uv"))
        self._own_tree(self.package)
        compiling = (self.python, "-m", "compileall", "-q", os.path.join(self.package, "agenthub"))
        subprocess.run((*self._drop, *compiling), check=True, capture_output=True, timeout=PATIENCE, cwd="/")

    def _copy_agent(self, area: str) -> str:
        target = os.path.join(self.path, "sources", f"hostile-{area}")
        if not os.path.isdir(target):
            shutil.copytree(os.path.join(AREAS, area), target, ignore=shutil.ignore_patterns("__pycache__"))
            for folder, _, files in os.walk(target):
                for name in files:  # an attacker who has guessed where the home is
                    _replace(os.path.join(folder, name), b"@HOME@", self.home.encode())
        return target

    def _link_programs(self) -> None:
        os.mkdir(self._programs)
        for folder in _FOLDERS:
            for name in os.listdir(folder):
                link = os.path.join(self._programs, name)
                if name != "bwrap" and not os.path.lexists(link):
                    os.symlink(os.path.join(folder, name), link)

    def _own(self, path: str) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def _own_tree(self, path: str) -> None:
        self._own(path)
        for folder, folders, files in os.walk(path):
            for name in folders + files:
                self._own(os.path.join(folder, name))


class Host:
    """One test's host: one user, one tier, and what must be as it was when the test ends.

    Attributes:
        tier: the best that the command can reach here.
        user: `root` or `ordinary`.
        home: HOME of the command, with the files of `CANARIES`.
        marker: a word that no other test has. What an agent leaves anywhere shall carry it, in a name, an argument or
            a variable, so that it is found.
        key: a number that no other test has, for shared memory, semaphores and queues.
        canary: a process of the same user: `pid`, and `changes()`.
        listener: sockets that must see nothing: see `Listeners`.
        environment: of the command; may be changed.
        log: what the last command wrote to stderr.
        finished: the last command.
        facts: what an agent is told: the input `facts` of every attack; may be added to.
    """

    def __init__(self, world: World, tier: str) -> None:
        self.world = world
        self.tier = tier
        self.user = world.user
        self.home = world.home
        self.marker = f"mark{os.urandom(6).hex()}"
        self.key = 0x48000000 | int.from_bytes(os.urandom(3), "big")
        self.environment = world.environment(tier)
        self.log = ""
        self.finished: Finished | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self._forgiven = False
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # what a run leaves becomes ours, however it hides
        self._before = world.state()
        self.canary = Canary(world)
        self.listener = Listeners(world.sockets, self.marker, world.uid)
        self._known = set(children())
        self.facts: dict[str, Any] = {
            "home": self.home,
            "store": world.store,
            "real_home": os.path.expanduser("~root"),
            "neighbour": world.directory_of("neighbour"),
            "outside": world.work,
            "temporary": world.temporary,
            "marker": self.marker,
            "key": self.key,
            "canary": self.canary.pid,
            "tests": os.getpid(),
            **self.listener.addresses,
        }

    def command(self, *words: object) -> list[str]:
        """The words that start `agenthub` for this host; with `environment` as its environment."""
        return self.world.command(self.tier, *words)

    def start(self, *words: object, **options: Any) -> subprocess.Popen[bytes]:
        """Any `agenthub` command, running; it is ended with the test if it still runs."""
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.environment,
            "cwd": self.world.work,
            "start_new_session": True,
            **options,
        }
        process = subprocess.Popen(self.command(*words), **options)
        self._started.append(process)
        return process

    def invoke(self, *words: object, **options: Any) -> Finished:
        """Any `agenthub` command; also asserts that it does not show its own bugs."""
        timeout = options.pop("timeout", PATIENCE)
        data = options.pop("input", None)
        if data is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*words, **options)
        out, err = process.communicate(data, timeout)
        self.finished = Finished(process.returncode, out, err)
        self.log = err.decode(errors="replace")
        assert not own_traces(self.log, self.world.package), self.log
        return self.finished

    def install(self, area: str) -> str:
        """Installs the agent of an area if it is not there yet; returns the name to run it by."""
        if area not in self.world.installed:
            self.world.install(area)
            self._before = self.world.state()
        return f"hostile-{area}"

    def run(
        self, agent: str, method: str, inputs: dict[str, Any] | None = None, *flags: object, **options: Any
    ) -> dict[str, Any]:
        """Runs a method of an area's agent by `agenthub run --json`, and returns its envelope.

        Args:
            agent: the area, a folder of `agents/`.
            method: its method.
            inputs: by default the input `facts`.
            flags: further words before the agent's name, for example `--allow-network`, `api.example.com`.
            options: of the process.
        """
        name = self.install(agent)
        given = {"facts": self.facts} if inputs is None else inputs
        finished = self.invoke("run", "--json", *flags, name, method, json.dumps(given), **options)
        assert finished.stdout, self.log
        envelope: dict[str, Any] = json.loads(finished.stdout)
        assert envelope.get("error_type") != "InternalError", envelope
        assert finished.code == envelope["exit_code"], (finished, envelope)
        if "usage" in envelope:
            held = RLIMITS if "off" in flags else self.tier
            assert envelope["usage"]["isolation"] == held, envelope
        return envelope

    def attack(self, agent: str, attack: Attack, *flags: object) -> dict[str, Any]:
        """Runs an attack and asserts that what comes of it is right for this tier; returns the envelope.

        On tier `rlimits` it may do damage, and is skipped where it would show nothing.
        """
        expected = attack.expected(self)
        if self.tier == RLIMITS:
            self.forgive()
            if not expected:
                pytest.skip("nothing is promised, and nothing would be shown")
        envelope = self.run(agent, attack.method, None, *flags)
        assert outcome(envelope) in expected, envelope
        return envelope

    def forgive(self) -> None:
        """Damage is expected: it is put right, and is no failure."""
        self._forgiven = True

    def survivors(self) -> list[int]:
        """Processes that a command left behind, and that still live."""
        deadline = time.monotonic() + _DYING
        while found := self._adopted():
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return found

    def damage(self) -> list[str]:
        """All that is not as it was before the test, as sentences."""
        found = [f"{state} survives" for state in map(_describe, self.survivors())]
        found += [f"left in the place for scratch directories: {path}" for path in self.world.leftovers()]
        found += [f"left outside: {path}" for path in marked_paths(self.marker, self.listener.paths)]
        found += [f"left: {kind}" for kind in sysv_objects(self.key)]
        found += [f"canary: {change}" for change in self.canary.changes()]
        found += [f"listener: {name} was contacted" for name in self.listener.touched()]
        after = self.world.state()
        for path in sorted({*self._before, *after}):
            if self._before.get(path) != after.get(path) and not self._is_harmless(path):
                found.append(f"changed: {path}: {self._before.get(path)} -> {after.get(path)}")
        return found

    def check(self) -> None:
        """Asserts that nothing was damaged. Called at the end of every test."""
        found = self.damage()
        assert not found or self._forgiven, "\n".join(found)

    def close(self) -> None:
        """Ends and restores what the test left."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in self._adopted():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.survivors()
        self.canary.close()
        self.listener.close()
        ctypes.CDLL(None).prctl(_SUBREAPER, 0, 0, 0, 0)
        for path in marked_paths(self.marker, ()):
            _remove(path)
        for name in os.listdir(self.world.work):
            _remove(os.path.join(self.world.work, name))
        for name in self.world.leftovers():
            _remove(os.path.join(self.world.temporary, name))
        if self.world.state() != self._before:
            self.world.restore()

    def _is_harmless(self, path: str) -> bool:
        """Whether an unconfined run writes it without meaning harm, or it is agenthub's first summary of the store."""
        summary = path == os.path.join(self.world.store, "index.json") and self._before.get(path) is None
        return summary or (self.tier == RLIMITS and "__pycache__" in path)

    def _adopted(self) -> list[int]:
        ours = {process.pid for process in self._started} | self._known
        found = []
        for pid, state in children().items():
            if pid in ours:
                continue
            if state == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            else:
                found.append(pid)
        return found


def _replace(path: str, word: bytes, text: bytes) -> None:
    with open(path, "rb") as file:
        data = file.read()
    if word in data:
        with open(path, "wb") as file:
            file.write(data.replace(word, text))


def own_traces(text: str, package: str) -> list[str]:
    """Lines of tracebacks that are agenthub's own; the side that runs in the agent's process is the agent's."""
    lines = [line for line in text.splitlines() if f'File "{package}/agenthub/' in line]
    return [line for line in lines if "/agent_side/" not in line]


def unavailable(tier: str, world: World) -> str:
    """Why the user cannot have a tier on this machine; empty if they can. Without agenthub, which is under test."""
    if sys.platform != "linux":
        return "not Linux"
    if tier == BUBBLEWRAP:
        command = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true")
        try:
            done = world.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError:
            return "bubblewrap is not installed"
        said = done.communicate(timeout=PATIENCE)[1]
        return "" if done.returncode == 0 else f"bubblewrap does not work: {said.decode()}"
    if tier == LANDLOCK:
        abi = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint(1))
        return "" if abi >= 6 else f"Landlock has ABI {abi}"
    return ""


def _describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return f"{pid} ({file.read().replace(bytes(1), b' ').decode(errors='replace')[:200]})"
    except OSError:
        return str(pid)


def _remove(path: str) -> None:
    if os.path.islink(path) or not os.path.isdir(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    for _ in range(2):  # rm cannot enter what is closed; of what is too deep for a path it can
        if subprocess.run(("rm", "-rf", path), stderr=subprocess.DEVNULL).returncode == 0:
            return
        subprocess.run(("chmod", "-R", "u+rwx", path), stderr=subprocess.DEVNULL)
    raise AssertionError(f"{path} cannot be removed")
