"""Variables: the user's, other processes', secrets, and those that an agent would like others to have."""

from __future__ import annotations

import os

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, LANDLOCK, RLIMITS, SECRETS, Attack, each, outcome

NOT_THERE, DENIED = "ENOENT", "EACCES"
ATTACKS = (
    # Variables are an allow-list on every tier, with a sandbox and without.
    Attack("own_environment", NOT_THERE, NOT_THERE, free=NOT_THERE, daily=True),
    Attack("passphrase", NOT_THERE, NOT_THERE, free=NOT_THERE),
    Attack("arguments_of_every_process", NOT_THERE, NOT_THERE, free=NOT_THERE),
    Attack("environment_of_parent", "ENOENT EACCES", DENIED, daily=True),
    Attack("environment_of_canary", NOT_THERE, DENIED, daily=True),
    Attack("environment_of_every_process", NOT_THERE, NOT_THERE, daily=True),
    Attack("memory_of_parent", "ENOENT EACCES", DENIED, free=""),
    Attack("stack_of_parent", "EPERM", "EPERM", free=""),
    Attack("secret_by_the_command", NOT_THERE, "ENOENT EACCES", daily=True),
    Attack("keyring_of_kernel", "EPERM", "EPERM", free=""),
    Attack("loader_of_next_run", "EROFS", DENIED, root=True),
    Attack("settings_of_next_run", "EROFS ENOENT", DENIED),
    Attack("project_file", "EROFS ENOENT", DENIED),
    Attack("startup_of_shells", "EROFS ENOENT", "EACCES ENOENT"),
    Attack("preload_for_children", "done", "done", daily=True),
)
OWN = {  # all that a run has besides what its manifest declares
    *("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "LANG", "PWD", "VIRTUAL_ENV", "AGENTHUB_RUN_ID"),
    *("PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE"),
    *("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
}
INJECTED = {
    "LD_PRELOAD": "/nowhere/evil.so",
    "LD_LIBRARY_PATH": "/nowhere",
    "PYTHONPATH": "/nowhere",
    "PYTHONSTARTUP": "/nowhere/evil.py",
    "PYTHONINSPECT": "1",
    "BASH_ENV": "/nowhere/evil.sh",
    "ENV": "/nowhere/evil.sh",
    "GCONV_PATH": "/nowhere",
    "PERL5OPT": "-Mevil",
    "NODE_OPTIONS": "--require /nowhere/evil.js",
    "SSH_AUTH_SOCK": "/nowhere/agent",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus",
    "DOCKER_HOST": "unix:///nowhere/docker.sock",
    "AGENTHUB_SANDBOX": "strict",
    "AGENTHUB_TIMEOUT": "20",
}


@each(ATTACKS)
def test_no_variable_of_others(host, attack):
    envelope = host.attack("environment", attack)
    if outcome(envelope) != "done":
        assert not [secret for secret in SECRETS.values() if secret in str(envelope)]


def test_nothing_but_what_a_run_needs(host):
    host.environment |= {name: value for name, value in INJECTED.items() if name.startswith(("SSH", "DBUS", "DOCKER"))}
    host.environment |= {"HOSTILE_DECLARED": "declared", "HOSTILE_UNDECLARED": "undeclared"}
    found = host.run("environment", "variables", {})["result"]
    assert found["HOSTILE_DECLARED"] == "declared"
    assert set(found) - OWN == {"HOSTILE_DECLARED"}
    assert found["HOME"].startswith(host.world.temporary)


def test_what_others_put_into_the_users_environment_reaches_no_agent(host):
    """The loader's variables of the command itself are the user's affair; they end with it."""
    names = [name for name in INJECTED if not name.startswith(("LD_", "PYTHON", "GCONV"))]
    if host.tier == RLIMITS:
        names.remove("AGENTHUB_SANDBOX")  # strict refuses here
    host.environment |= {name: INJECTED[name] for name in names}
    found = host.run("environment", "variables", {})["result"]
    assert set(found) - OWN == set()


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("PYTHONSTARTUP", "BASH_ENV", "GCONV_PATH")),
    ],
)
def test_a_variable_given_to_the_agent_does_not_reach_what_confines_it(host, name):
    """The user passes it on; it is the agent's, and neither the gate's nor bubblewrap's."""
    envelope = host.run("environment", "variables", {}, "--env", f"{name}={INJECTED[name]}")
    assert envelope["result"][name] == INJECTED[name]
    if host.tier == BUBBLEWRAP:  # by the complaints of all who were to load it: the agent's interpreter, alone
        assert host.log.count("cannot be preloaded") == (name == "LD_PRELOAD")


def test_a_secret_that_is_called_like_a_variable_of_the_loader_is_in_no_argument(host):
    """Arguments can be seen by every user of the machine, and by the agent."""
    host.environment["LD_SDK_KEY"] = "kept-secret-of-flags"
    assert outcome(host.run("environment", "arguments_of_every_process", None, "--env", "LD_SDK_KEY")) == "ENOENT"


def test_the_passphrase_is_withheld_even_where_it_is_passed(host):
    flags = ("--env", "AGENTHUB_SECRETS_PASSPHRASE")
    finished = host.run("environment", "variables", {}, *flags)
    assert "AGENTHUB_SECRETS_PASSPHRASE" not in finished.get("result", {})
    assert SECRETS["AGENTHUB_SECRETS_PASSPHRASE"] not in host.finished.out + host.log


def test_a_denied_variable_is_not_passed(host):
    host.environment["HOSTILE_DECLARED"] = "declared"
    found = host.run("environment", "variables", {}, "--deny-env", "HOSTILE_DECLARED")["result"]
    assert "HOSTILE_DECLARED" not in found


def test_settings_of_a_project_file_cannot_weaken_the_sandbox(host):
    """A directory that somebody else filled is a working directory too."""
    name = host.install("environment")
    host.world.write("work/agenthub.toml", 'sandbox = "off"\n')
    finished = host.invoke("run", "--json", name, "variables")
    if finished.code == 0:
        held = {BUBBLEWRAP: BUBBLEWRAP, LANDLOCK: LANDLOCK, RLIMITS: RLIMITS}[host.tier]
        assert finished.json["usage"]["isolation"] == held
    else:
        assert finished.code in (2, 5)
        assert "sandbox" in host.log


@pytest.mark.slow
def test_settings_of_a_project_file_start_no_program(host):
    """Of the interpreter for an agent that is not installed, nothing holds the first start."""
    ran = f"{host.world.work}/ran"
    host.world.write("work/python", f'#!/bin/sh\ntouch {ran}\nexec {host.world.python} "$@"\n', 0o755)
    host.world.write("work/agenthub.toml", f'python = "{host.world.work}/python"\n')
    finished = host.invoke("run", "--json", "--yes", f"{host.world.path}/sources/hostile-neighbour", "speak")
    assert finished.code == 2
    assert "a version of Python" in finished.json["error"]
    assert not os.path.exists(ran)


def test_a_sandbox_is_not_turned_off_without_consent(host):
    finished = host.invoke("run", "--json", "--sandbox", "off", host.install("environment"), "variables")
    assert finished.code == 5
    assert finished.json["error_type"] == "PermissionDeniedError"
    assert host.run("environment", "variables", {}, "--sandbox", "off", "--yes")["usage"]["isolation"] == RLIMITS
    host.forgive()  # without a sandbox, Python writes its bytecode where it likes
