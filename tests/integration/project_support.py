"""Projects for tests: small agents in directories and repositories, and a wheel that is on no index."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

from tests.support import write_agent

GIT = ("git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org")


def write_wheel(directory: Any, name: str = "tiny", version: str = "1.0", content: str = "") -> str:
    """A wheel of one module in `directory`, the same bytes each time; returns its file's name."""
    files = {
        f"{name}/__init__.py": f"VERSION = {version!r}\n{content}",
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in files.items()]
    record = f"{name}-{version}.dist-info/RECORD"
    files[record] = "\n".join([*lines, f"{record},,\n"])
    os.makedirs(directory, exist_ok=True)
    leaf = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, leaf), "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return leaf


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def agent(directory: Any, answer: object, *, wheel: bool = False, **manifest: Any) -> str:
    """An agent whose method `go` answers with `answer`; with `wheel` it depends on one that lies inside of it."""
    if wheel:
        leaf = write_wheel(os.path.join(directory, "wheels"))
        manifest["dependencies"] = [f"./wheels/{leaf}"]
    code = ("import tiny\n" if wheel else "") + f"def go():\n    return {answer!r}\n"
    return write_agent(directory, code, **{"entrypoint": "agent", **manifest})


class Repository:
    """A git repository with one agent in it."""

    def __init__(self, directory: Any, answer: object) -> None:
        self.directory = str(directory)
        agent(directory, answer)
        self._git("init", "--quiet", "--initial-branch=main")
        self.commit = self.commit_all()

    def change(self, answer: object) -> str:
        """Another answer; returns the new commit."""
        Path(self.directory, "agent.py").write_text(f"def go():\n    return {answer!r}\n")
        self.commit = self.commit_all()
        return self.commit

    def commit_all(self) -> str:
        self._git("add", ".")
        self._git("commit", "--quiet", "-m", "a change")
        return self._git("rev-parse", "HEAD")

    def tag(self, name: str) -> None:
        self._git("tag", name)

    def _git(self, *words: str) -> str:
        done = subprocess.run([*GIT, *words], cwd=self.directory, check=True, capture_output=True, text=True)
        return done.stdout.strip()
