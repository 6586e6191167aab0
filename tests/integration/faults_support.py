"""Agents with a telltale, and the `agenthub` command run on them in a world of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

PATIENCE = 60.0  # seconds until a wait is a failure
CLEAN_VARIABLES = ("AGENTHUB_", "UV_", "PIP_", "GIT_", "XDG_", "PYTHON", "VIRTUAL_ENV")


class Hub:
    """An `AGENTHUB_HOME`, `HOME` and `TMPDIR` below one directory, and the command that uses them."""

    def __init__(self, root, home=None):
        self.root = root
        self.home = home or root / "home"
        self.user = root / "user"
        self.tmp = root / "tmp"
        for directory in (self.user, self.tmp):
            directory.mkdir(exist_ok=True)
        self.variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith(CLEAN_VARIABLES)},
            **{key: value for key, value in os.environ.items() if key in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")},
            # Without the wrappers of version managers, which take long to say what they are.
            "PATH": os.pathsep.join((os.path.dirname(shutil.which("git") or "/usr/bin/git"), os.defpath)),
            "AGENTHUB_HOME": str(self.home),
            "HOME": str(self.user),
            "TMPDIR": str(self.tmp),
            "UV_CACHE_DIR": str(root / "uv-cache"),
            "CI": "1",
        }
        self.command = [sys.executable, "-m", "agenthub"]

    def start(self, *words, **options):
        env = {**self.variables, **options.pop("env", {})}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [*self.command, *map(str, words)]
        return subprocess.Popen(
            command, **{"env": env, "text": True, "cwd": self.root, "start_new_session": True, **streams, **options}
        )

    def run(self, *words, **options):
        with self.start(*words, **options) as process:
            try:
                stdout, stderr = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert "Traceback" not in stderr, stderr
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def ok(self, *words, **options):
        finished = self.run(*words, **options)
        assert finished.returncode == 0, finished
        return finished.stdout

    def fails(self, code, *words, says=(), **options):
        """A failure with this exit code, of at most four lines, which name what `says` lists."""
        finished = self.run(*words, **options)
        assert finished.returncode == code, finished
        lines = finished.stderr[finished.stderr.index("error: ") :].splitlines()
        assert len(lines) <= 4, finished.stderr
        for word in says if isinstance(says, tuple) else (says,):
            found = word in finished.stderr if isinstance(word, str) else word.search(finished.stderr)
            assert found, (word, finished.stderr)
        return finished.stderr

    def install(self, *words, **options):
        return self.ok("install", "--yes", *words, **options)

    def agents(self):
        return json.loads(self.ok("list", "--json"))["agents"]

    def checks(self, *words):
        """What doctor finds wrong."""
        checks = json.loads(self.run("doctor", "--json", *words).stdout)["checks"]
        return [check for check in checks if check["state"] == "error"]

    def versions(self):
        found = self.home / "versions"
        return sorted(found.glob("*/*/*"))

    def leftovers(self):
        """What is neither a part of an agent nor of the store itself."""
        kept = {"store.json", "index.json", "consents.json", "config.toml", "owners.json", "states"}
        kept |= {"agents", "versions", "locks", "grants", "cache", "staging", "history"}
        found = [path for path in self.home.iterdir() if path.name not in kept]
        found += (self.home / "staging").iterdir() if (self.home / "staging").exists() else ()
        workshop = self.home / "cache" / "workshop"
        found += [path for path in workshop.glob("*") if not path.name.endswith(".lock")]
        for version in self.versions():
            found += [path for path in version.iterdir() if ".partial" in path.name or ".old" in path.name]
            found += [] if (version / ".agenthub" / "record.json").exists() else [version]
            link = self.home / "agents" / version.parent.parent.name / version.parent.name
            found += [] if link.is_symlink() else [version.parent]
        found += [path for path in self.user.iterdir() if path != self.home]
        found += [path for path in self.tmp.iterdir() if not path.name.startswith("agenthub-")]
        for scratch in self.tmp.glob("agenthub-*"):
            found += [path for path in scratch.iterdir() if path.name != ".swept"]
        return [str(path) for path in found]


def write_agent(directory, answer="one", *, name="probe", version="1.0", code="", dependency=False, extra=""):
    """An agent whose `which` says `answer`; with `dependency`, says it from a package in its environment too."""
    directory.mkdir(parents=True, exist_ok=True)
    dependencies = ""
    if dependency:
        wheel = write_wheel(directory, answer)
        dependencies = f"dependencies: ['./{wheel}']\n"
    (directory / "agent.yaml").write_text(
        f'name: {name}\nversion: "{version}"\ndescription: says which it is\nauthor: tests\nentrypoint: agent\n'
        f"{dependencies}{extra}"
        "interface:\n  methods:\n"
        "    which: {description: says which it is}\n"
        "    wait:\n      description: says that it is here and waits for go\n"
        "      parameters: {place: {type: directory, access: write, required: true}}\n"
    )
    imported = "import telltale\n" if dependency else ""
    told = "ANSWER + ' ' + telltale.ANSWER" if dependency else "ANSWER"
    (directory / "agent.py").write_text(
        f"import os, time\n{imported}ANSWER = {answer!r}\n{code}\n"
        f"def which():\n    return {told}\n"
        "def wait(place):\n"
        "    open(os.path.join(place, 'here'), 'w').close()\n"
        "    while not os.path.exists(os.path.join(place, 'go')):\n        time.sleep(0.01)\n"
        "    return which() + ' ' + open(os.path.join(os.path.dirname(__file__), 'agent.py')).readlines()[-1]\n"
        "# last line of " + answer
    )
    return directory


def write_wheel(directory, answer):
    """A package of one module, `telltale`, and of files enough that installing them takes a moment."""
    name = "telltale-1.0-py3-none-any.whl"
    with zipfile.ZipFile(directory / name, "w") as wheel:
        files = {"telltale.py": f"ANSWER = {answer!r}\n"}
        files |= {f"telltale_data/part{number}.txt": answer for number in range(100)}
        files["telltale-1.0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: telltale\nVersion: 1.0\n"
        files["telltale-1.0.dist-info/WHEEL"] = (
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        record = "".join(f"{path},,\n" for path in files) + "telltale-1.0.dist-info/RECORD,,\n"
        for path, content in {**files, "telltale-1.0.dist-info/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(path), content)
    return name


def until(condition, what, patience=PATIENCE):
    """Waits for something that another process does."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.005)
    return value


def processes_about(path):
    """The living processes whose command line names `path`: number and words."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            words = file.read()
            if os.fsencode(str(path)) in words:
                found[int(name)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


@contextlib.contextmanager
def tmpfs(place, options="size=4m"):
    """A small file system at `place`; skips the test where none can be mounted."""
    import pytest

    place.mkdir(exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
