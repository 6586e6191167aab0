"""Fixtures for all tests: an environment that says nothing, and the command in this process."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest

from agenthub.cli import app
from tests.support import Finished

_SILENCED = ("AGENTHUB_", "OPENAI_", "ANTHROPIC_")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    """A store of the test's own, and none of the settings and keys that the developer may have."""
    for name in [name for name in os.environ if name.startswith(_SILENCED)]:
        monkeypatch.delenv(name)
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / "home"))


class Cli:
    """Runs commands in this process, without a terminal."""

    def __init__(self, monkeypatch, capture):
        self._monkeypatch = monkeypatch
        self._capture = capture

    def __call__(self, *words: object, stdin: str | bytes = "") -> Finished:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        self._capture.readouterr()
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
            try:
                code = app.main([str(word) for word in words])
            except SystemExit as left:  # after --help
                code = left.code
        out, err = self._capture.readouterr()
        return Finished(code, out, err)

    def ok(self, *words: object, stdin: str | bytes = "") -> Finished:
        """A command that has to succeed."""
        finished = self(*words, stdin=stdin)
        assert finished.code == 0, finished.err
        return finished


@pytest.fixture
def cli(monkeypatch, capsysbinary):
    """`cli("list", "--json")` -> Finished."""
    return Cli(monkeypatch, capsysbinary)


def pytest_configure():
    """A shell without job control has what it starts in the background ignore Ctrl-C, which the tests send."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Of the matrices of tiers and users, `make test` takes the best tier as the user who calls it."""
    other = ("-ordinary", "ordinary-", "[ordinary]") if os.geteuid() == 0 else ()
    for item in items:
        if os.path.basename(item.path).startswith("test_sandbox_"):
            name = item.name.partition("[")[2]
            if any(word in f"[{name}" for word in (*other, "landlock", "rlimits")):
                item.add_marker(pytest.mark.slow)
