"""Files that travel, for tests: a machine without a network, and files that somebody has tampered with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

from tests.support import COMMAND, PATIENCE, Finished, write_agent

NO_ENVIRONMENT = {"entrypoint": {"command": ["sh", "agent.sh"]}}  # an agent that installs in no time
CLOSED = "http://127.0.0.1:9/simple"  # the port of a service that nobody has run for decades
NO_INDEX = {
    **dict.fromkeys(("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"), CLOSED),
    **dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"),
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull,
}


def without_network() -> list[str]:
    """What a command is started by to have no network at all; nothing where this machine cannot do that."""
    words = ["unshare", "--map-root-user", "--net"]
    usable = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if usable and usable.returncode == 0 else []


class Machine:
    """Another machine: a home and caches of its own, and no network.

    Args:
        root: a directory that is not there yet.
    """

    def __init__(self, root: Any) -> None:
        self.root = Path(root)
        self.root.mkdir()
        self.home = self.root / "home"
        self.variables = {
            **os.environ,
            **NO_INDEX,
            "AGENTHUB_HOME": str(self.home),
            "UV_CACHE_DIR": str(self.root / "uv-cache"),
        }
        self._start = without_network()

    def __call__(self, *words: object, cwd: Any = None) -> Finished:
        done = subprocess.run(
            [*self._start, *COMMAND, *map(str, words)],
            cwd=cwd or self.root,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE * 2,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: object, cwd: Any = None) -> Finished:
        """A command that has to succeed."""
        finished = self(*words, cwd=cwd)
        assert finished.code == 0, finished.err
        return finished


def shell_agent(directory: Any, says: str, **manifest: Any) -> str:
    """An agent without an environment."""
    place = write_agent(directory, "", **{**NO_ENVIRONMENT, **manifest})
    Path(place, "agent.py").unlink(missing_ok=True)
    Path(place, "agent.sh").write_text(f"""echo '{{"result": "{says}"}}'\n""")
    return place


def manifest_of(path: Any) -> Any:
    """What the list of a file says."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


class Tampered:
    """The members of a file, to be changed and written again.

    >>> file = Tampered(bundle)
    >>> file.manifest["agents"][0]["owner"] = "acme"
    >>> file.write(path)
    """

    def __init__(self, path: Any) -> None:
        with zipfile.ZipFile(path) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        self.manifest = json.loads(self.members.pop("manifest.json"))
        self.extra: list[tuple[zipfile.ZipInfo, bytes]] = []

    def put(self, name: str, data: bytes) -> None:
        """A member with its line in the list."""
        self.members[name] = data
        self.manifest["files"][name] = [len(data), f"sha256:{hashlib.sha256(data).hexdigest()}"]

    def write(self, path: Any) -> str:
        """Writes it; returns its path."""
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.json", json.dumps(self.manifest))
            for name, data in self.members.items():
                archive.writestr(name, data)
            for entry, data in self.extra:
                archive.writestr(entry, data)
        return str(path)
