"""Agents that want the terminal of the person who runs them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import subprocess
import termios
import time

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, RLIMITS, Attack, each, outcome

ATTACKS = (
    Attack("open_controlling", "ENXIO ENOENT", "ENXIO EACCES", "ENXIO"),
    Attack("open_by_path", "ENOENT", "EACCES"),
    Attack("open_by_runner", "ENOENT EACCES", "EACCES EPERM"),
    Attack("push_input", "EPERM", "EPERM", "ENOTTY"),
    Attack("push_input_by_path", "EPERM ENOENT", "EPERM EACCES", "done EIO EPERM", daily=True),
    Attack("console_selection", "EPERM ENOENT", "EPERM EACCES", "EINVAL ENOTTY EPERM EACCES ENXIO"),
    Attack("steal", "EPERM ENOENT", "EPERM EACCES", "EPERM done"),
    Attack("steal_in_own_session", "EPERM ENOENT EACCES", "EPERM EACCES", "EPERM done", daily=True),
    Attack("hang_up", "ENOENT EACCES EPERM", "EACCES EPERM", "InterruptedError EPERM done"),
    Attack("take_foreground", "ENOENT EACCES EPERM", "EACCES EPERM", "ENOTTY EPERM EACCES ENXIO"),
    Attack("change_settings", "ENOENT EACCES", "EACCES"),
    Attack("write_to_all", "ENOENT EACCES", "ENOENT EACCES EPERM"),
    Attack("read_passphrase", "ENOTTY", "ENOTTY", "ENOTTY"),
)
_ACTING = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]")


class Terminal:
    """A terminal with a person at it, who sees `seen`."""

    def __init__(self, uid):
        self._controller, self.terminal = pty.openpty()
        self.path = os.ttyname(self.terminal)
        if os.geteuid() == 0:
            os.chown(self.path, uid, uid)
        self.settings = termios.tcgetattr(self.terminal)
        self.seen = b""

    def run(self, command, **options):
        """A command in a session of its own, whose terminal this is, as a shell would start it."""
        code = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        process = subprocess.Popen(
            ["/usr/bin/env", "python3", "-c", code, *command],
            stdin=self.terminal,
            stderr=self.terminal,
            start_new_session=True,
            **{"stdout": self.terminal, **options},
        )
        try:
            deadline = time.monotonic() + 30
            while process.poll() is None:
                assert time.monotonic() < deadline
                self._read(0.02)
            while self._read(0):
                pass
            return process.returncode, process.stdout.read() if process.stdout else b""
        finally:
            process.kill()
            process.communicate()

    def typed(self):
        """Whether somebody typed something, or pretended to."""
        with contextlib.suppress(termios.error):
            settings = termios.tcgetattr(self.terminal)
            settings[3] &= ~termios.ICANON
            termios.tcsetattr(self.terminal, termios.TCSANOW, settings)
        return bool(select.select([self.terminal], [], [], 0)[0])

    def close(self):
        os.close(self._controller)
        os.close(self.terminal)

    def _read(self, timeout):
        ready = select.select([self._controller], [], [], timeout)[0]
        data = os.read(self._controller, 65536) if ready else b""
        self.seen += data
        return data


@pytest.fixture
def terminal(host):
    made = Terminal(host.world.uid)
    yield made
    made.close()


def run(host, terminal, method, *flags, **options):
    host.facts.update(terminal=terminal.path, runner=host.facts["tests"] if host.tier == BUBBLEWRAP else 0)
    words = host.command("run", *flags, host.install("terminals"), method, json.dumps({"facts": host.facts}))
    return terminal.run(words, env={**host.environment, "TERM": "xterm"}, cwd=host.world.work, **options)


@each(ATTACKS)
def test_the_terminal_is_out_of_reach(host, terminal, attack):
    code, out = run(host, terminal, attack.method, "--json", stdout=subprocess.PIPE)
    if host.tier == RLIMITS:
        host.forgive()
    expected = attack.expected(host)
    assert not expected or outcome(json.loads(out)) in expected, (code, out, terminal.seen)
    if host.tier != RLIMITS:
        assert termios.tcgetattr(terminal.terminal) == terminal.settings
        assert not terminal.typed()
        assert b"OWNED" not in terminal.seen


@pytest.mark.slow
def test_a_terminal_of_its_own_does_no_harm(host, terminal):
    code, _ = run(host, terminal, "new_terminal")
    assert code == 0
    assert not terminal.typed()


def test_what_an_agent_says_does_not_act(host, terminal):
    code, _ = run(host, terminal, "say_escapes")
    assert code == 0
    assert b"OWNED" in terminal.seen, "its text is shown"
    assert not _ACTING.search(terminal.seen), terminal.seen


@pytest.mark.slow
def test_a_pipe_gets_the_result_as_it_is(host, terminal):
    """Bytes for a program are not made harmless for a person."""
    _, out = run(host, terminal, "say_escapes", "--json", stdout=subprocess.PIPE)
    assert json.loads(out)["result"]["outcome"].startswith("\x1b]0;OWNED")
    assert not _ACTING.search(terminal.seen)


@pytest.mark.slow
def test_the_terminal_is_the_persons_again(host, terminal):
    run(host, terminal, "change_settings")
    with open(terminal.path, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY)) as file:
        assert os.isatty(file.fileno())
        fcntl.ioctl(file.fileno(), termios.FIONREAD, b"\0" * 4)
    if host.tier == RLIMITS:
        host.forgive()
