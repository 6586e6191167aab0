"""What an agent may do: by its manifest, by flags, by grants, by its inputs; and how a refusal is told."""

from __future__ import annotations

import os
import re

import pytest

from agenthub import AgentRuntime, load_agent
from agenthub.config import scratch_base
from agenthub.errors import ExecutionError, InvalidInputError, PermissionDeniedError
from agenthub.runtime.runs import plan as run_plan
from agenthub.runtime.runs.permissions import Changes
from agenthub.runtime.runs.plan import RunOptions
from agenthub.runtime.sandbox.tiers import Tiers, available_tiers
from tests.integration.network_support import Server, serving
from tests.support import assert_refused, in_terminal, install_into, method, write_agent

pytestmark = pytest.mark.skipif(available_tiers().best == "rlimits", reason="nothing here can confine a run")

CODE = r"""
import os


def read(place):
    with open(place) as file:
        return file.read()


def write(place):
    with open(place, "w") as file:
        file.write("written")


def start(program):
    import subprocess
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def fetch(port):
    import urllib.request
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        return answer.read().decode()


def sees(name):
    return os.environ.get(name)


def copy(source, target, fail=False):
    content = read(source)
    assert os.path.isfile(target), target
    if fail:
        raise LookupError("on purpose")
    with open(target, "w") as file:
        file.write(content)


def fill(folder, fail=False):
    assert os.path.isdir(folder), folder
    if fail:
        raise LookupError("on purpose")
    write(os.path.join(folder, "new.txt"))
    return os.listdir(folder)


def touch(file):
    with open(file, "a"):
        pass
"""
TEXT = {"type": "string", "required": True}
METHODS = {
    "read": method(place=TEXT),
    "write": method(place=TEXT),
    "start": method(program=TEXT),
    "fetch": method(port={"type": "integer", "required": True}),
    "sees": method(name=TEXT),
    "copy": method(
        source={"type": "file", "required": True},
        target={"type": "file", "access": "write", "required": True},
        fail="boolean",
    ),
    "fill": method(folder={"type": "directory", "access": "write", "required": True}, fail="boolean"),
    "touch": method(file={"type": "file", "required": True}),
}


def probe(directory, **manifest):
    return write_agent(directory, CODE, METHODS, **{"entrypoint": "agent", **manifest})


class World:
    """What lies beside the store: a readable and a writable directory, a program, a server, a variable.

    `calls` has one way to try each kind of permission, `allowed` what allows it.
    """

    def __init__(self, place, server):
        self.readable, self.writable, self.programs = place / "readable", place / "writable", place / "programs"
        for folder in (self.readable, self.writable, self.programs):
            folder.mkdir()
        self.secret = self.readable / "secret.txt"
        self.secret.write_text("kept")
        self.program = self.programs / "own-program"
        self.program.write_text("#!/bin/sh\necho started\n")
        self.program.chmod(0o755)
        self.server = server
        self.host = f"127.0.0.1:{server.port}"
        self.allowed = {
            "read": str(self.readable),
            "write": str(self.writable),
            "run": "own-program",
            "network": self.host,
            "environment": "WORLD_NAME",
        }
        self.calls = {
            "read": (("read", "--place", self.secret), "kept\n"),
            "write": (("write", "--place", self.writable / "out.txt"), "null\n"),
            "run": (("start", "--program", "own-program"), "started\n"),
            "network": (("fetch", "--port", server.port), "hello /\n"),
            "environment": (("sees", "--name", "WORLD_NAME"), "its value\n"),
        }

    def succeeds(self, cli, agent, kind, *options):
        words, printed = self.calls[kind]
        assert cli.ok("run", *options, agent, *words).out == printed

    def is_denied(self, cli, agent, kind, *options):
        words, _ = self.calls[kind]
        finished = cli("run", *options, agent, *words)
        if kind == "environment":
            assert finished.out == "null\n"
        else:
            assert (finished.code, finished.out) in ((1, ""), (5, "")), finished
        assert not os.path.exists(self.writable / "out.txt")
        return finished


@pytest.fixture(scope="session")
def server():
    with serving(Server()) as running:
        yield running


@pytest.fixture(scope="session")
def world(tmp_path_factory, server):
    return World(tmp_path_factory.mktemp("world"), server)


@pytest.fixture(autouse=True)
def _around(world, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{world.programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WORLD_NAME", "its value")
    monkeypatch.chdir(tmp_path)
    yield
    (world.writable / "out.txt").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def home(tmp_path_factory, world):
    """A store with `plain`, which asks for nothing, `asking`, which asks for all, and `older`, of the older format."""
    place = tmp_path_factory.mktemp("permitted")
    asked = {kind: [item] for kind, item in world.allowed.items()}
    older = (
        'import json, sys\nrequest = json.loads(sys.argv[1])\nprint(json.dumps({"result": globals()[request["method"]]'
    )
    return install_into(
        place / "home",
        probe(place / "plain"),
        probe(place / "asking", permissions=asked),
        write_agent(place / "older", f'{CODE}\n{older}(**request["parameters"])}}))', METHODS),
    )


@pytest.fixture
def shared(home, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", home)
    return cli


@pytest.fixture
def without_sandbox(monkeypatch):
    """A machine on which no sandbox works."""
    tiers = Tiers("rlimits", reason="its kernel is odd", remedy="another kernel")
    monkeypatch.setattr(run_plan, "available_tiers", lambda cache: tiers)


KINDS = ("read", "write", "run", "network", "environment")
FLAGS = {"environment": "--env", **{kind: f"--allow-{kind}" for kind in KINDS[:4]}}
DENIALS = {"environment": "--deny-env", **{kind: f"--deny-{kind}" for kind in KINDS[:4]}}


# flags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_allows_for_one_run(shared, world, kind):
    world.is_denied(shared, "plain", kind)
    world.succeeds(shared, "plain", kind, FLAGS[kind], world.allowed[kind])
    (world.writable / "out.txt").unlink(missing_ok=True)
    world.is_denied(shared, "plain", kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", ["itself", "any"])
def test_a_flag_denies_what_the_manifest_asks_for(shared, world, kind, item):
    world.succeeds(shared, "asking", kind)
    (world.writable / "out.txt").unlink(missing_ok=True)
    world.is_denied(shared, "asking", kind, DENIALS[kind], world.allowed[kind] if item == "itself" else "any")


@pytest.mark.parametrize("kind", ["run", "network"])
def test_any_allows_all(shared, world, kind):
    world.succeeds(shared, "plain", kind, FLAGS[kind], "any")


@pytest.mark.parametrize("kind", ["read", "write"])
def test_no_flag_allows_all_files(shared, world, kind):
    words, _ = world.calls[kind]
    assert_refused(shared("run", FLAGS[kind], "any", "plain", *words), 2, "'any' path cannot be allowed")


def test_flags_may_follow_the_inputs(shared, world):
    words, printed = world.calls["read"]
    assert shared.ok("run", "plain", *words, "--allow-read", world.readable).out == printed
    assert shared.ok("run", "plain", *words, "--allow-read", world.secret, "--allow-read", world.writable).out


def test_a_relative_path_is_meant_from_here(shared, world, monkeypatch):
    monkeypatch.chdir(world.readable.parent)
    world.succeeds(shared, "plain", "read", "--allow-read", "readable/../readable")
    monkeypatch.setenv("HOME", str(world.readable))
    world.succeeds(shared, "plain", "read", "--allow-read", "~/secret.txt")


def test_denials_go_first_in_whatever_order_they_stand(shared, world):
    deny, allow = ("--deny-network", "any"), ("--allow-network", world.host)
    for options in ((*deny, *allow), (*allow, *deny)):
        network = shared.ok("run", "--explain", "--json", *options, "older", "fetch", "--port", "1").json["network"]
        assert network == {"kind": "hosts", "hosts": [world.host]}
        world.succeeds(shared, "older", "network", *options)


@pytest.mark.parametrize(
    ("agent", "options"),
    [
        ("older", ("--deny-network", "api.example.com")),
        ("older", ("--deny-run", "git")),
        ("asking", ("--deny-read", "{readable}/secret.txt")),
    ],
)
def test_a_part_cannot_be_denied_of_what_is_allowed_as_a_whole(shared, world, agent, options):
    options = [option.format(readable=world.readable) for option in options]
    finished = shared("run", *options, agent, "sees", "--name", "X")
    assert_refused(finished, 2, f"{options[1]} cannot be denied alone", f"{options[0]} any --allow-")


def test_a_directory_that_is_denied_takes_what_lies_in_it(shared, world):
    options = ("--allow-read", world.secret, "--json", "--explain")
    explained = shared.ok("run", *options, "asking", "sees", "--name", "X").json
    assert {str(world.readable), str(world.secret)} <= set(explained["read"])
    shared.ok("grant", "plain", "read", world.secret)
    try:
        world.is_denied(shared, "plain", "read", "--deny-read", world.readable)
        world.succeeds(shared, "plain", "read")
    finally:
        shared.ok("revoke", "plain", "read", world.secret)


@pytest.mark.parametrize(
    ("option", "item", "complaint"),
    [
        ("--allow-network", "http://example.com", "http://example.com"),
        ("--allow-network", "", "network permission"),
        ("--allow-network", "a b", "a b"),
        ("--allow-read", "nowhere", "nowhere does not exist"),
        ("--allow-write", "nowhere", "make it first"),
        ("--allow-run", "./tool", "neither the name of a program nor its absolute path"),
        ("--deny-env", "A-B", "'A-B' is not the name"),
        ("--sandbox", "lax", "strict"),
    ],
)
def test_what_is_no_permission_is_refused(shared, option, item, complaint):
    assert_refused(shared("run", option, item, "plain", "sees", "--name", "X"), 2, complaint)


def test_from_python(home, world, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", home)
    runtime, call = AgentRuntime(), ("plain", "read", {"place": str(world.secret)})
    refused = runtime.execute_agent(*call)
    assert (refused["error_type"], refused["usage"]["isolation"]) == ("ExecutionError", available_tiers().best)
    assert refused["suggestion"] == f"if it should read {world.secret}: --allow-read {world.secret}"
    allowed = RunOptions(changes=Changes({"read": [str(world.readable)]}))
    assert runtime.execute_agent(*call, allowed)["result"] == "kept"
    with pytest.raises(PermissionDeniedError, match="without a sandbox, with your rights"):
        runtime.execute_agent(*call, RunOptions(sandbox="off"))
    asked = []
    free = runtime.execute_agent(*call, RunOptions(sandbox="off", consent=asked.append))
    assert (free["result"], free["usage"]["isolation"]) == ("kept", "rlimits")
    assert len(asked) == 1


def test_an_object_of_python_is_held_too(home, world, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", home)
    agent = load_agent("plain")
    with pytest.raises(PermissionDeniedError, match=re.escape(f"was refused {world.host}")):
        agent.fetch(port=world.server.port)
    assert load_agent("asking").fetch(port=world.server.port) == "hello /"


# grants ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_grant_lasts_until_it_is_revoked(shared, world, kind):
    item = world.allowed[kind]
    told = shared.ok("grant", "plain", kind, item).err
    try:
        assert item in told
        assert item in shared.ok("info", "plain", "--json").json["permissions"]["allowed"][kind]
        world.succeeds(shared, "plain", kind)
        (world.writable / "out.txt").unlink(missing_ok=True)
        world.is_denied(shared, "plain", kind, DENIALS[kind], item)
    finally:
        told = shared.ok("revoke", "plain", kind, item).err
    assert "nothing" in told
    world.is_denied(shared, "plain", kind)
    grants = os.path.join(os.environ["AGENTHUB_HOME"], "grants", "local", "plain.json")
    with open(grants) as file:
        assert item not in file.read()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", ["itself", "any"])
def test_what_the_manifest_asks_for_can_be_revoked_and_given_back(shared, world, kind, item):
    item = world.allowed[kind] if item == "itself" else "any"
    shared.ok("revoke", "asking", kind, item)
    try:
        world.is_denied(shared, "asking", kind)
        world.succeeds(shared, "asking", kind, FLAGS[kind], world.allowed[kind])
        (world.writable / "out.txt").unlink(missing_ok=True)
        shared.ok("grant", "asking", kind, world.allowed[kind])
        world.succeeds(shared, "asking", kind)
    finally:
        os.unlink(os.path.join(os.environ["AGENTHUB_HOME"], "grants", "local", "asking.json"))


def test_grants_outlive_an_upgrade(cli, world, tmp_path):
    cli.ok("install", "--yes", probe(tmp_path / "plain"))
    cli.ok("grant", "plain", "read", world.readable)
    cli.ok("install", "--yes", "--force", probe(tmp_path / "plain", version="2.0.0"))
    world.succeeds(cli, "plain", "read")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("older", "network", "api.example.com"), "cannot be denied alone"),
        (("plain", "sandbox", "bubblewrap"), "'bubblewrap' is not one of landlock, rlimits, off"),
        (("plain", "secret", "any"), "one by one"),
    ],
)
def test_a_change_that_cannot_be(shared, words, complaint):
    assert_refused(shared("revoke", *words), 2, complaint)
    assert (
        shared.ok("info", words[0], "--json").json["permissions"]
        == (shared.ok("info", f"local/{words[0]}", "--json").json["permissions"])
    )
    assert not os.path.exists(os.path.join(os.environ["AGENTHUB_HOME"], "grants", "local", "older.json"))


# inputs ------------------------------------------------------------------------------------------------------------


def test_an_input_may_be_read_and_not_changed(shared, world, tmp_path):
    shared.ok("run", "plain", "copy", "--source", world.secret, "--target", "copy.txt")
    assert (tmp_path / "copy.txt").read_text() == "kept"
    finished = shared("run", "plain", "touch", "--file", world.secret)
    assert_refused(finished, 1, "plain", f"--allow-write {world.secret}")
    assert shared.ok("run", "--allow-write", world.secret, "plain", "touch", "--file", world.secret).out == "null\n"


def test_a_text_that_is_called_a_path_is_an_input_too(cli, world, tmp_path):
    named = {"read": method(input_file="string")}
    code = "def read(input_file):\n    return open(input_file).read()"
    cli.ok("install", "--yes", write_agent(tmp_path / "named", code, named, entrypoint="agent"))
    assert cli.ok("run", "named", "read", "--input-file", world.secret).out == "kept\n"


def test_a_file_to_write_is_there_before_and_goes_if_it_stays_empty(shared, world, tmp_path):
    words = ("run", "plain", "copy", "--source", world.secret, "--target", "new.txt", "--fail")
    finished = shared(*words)
    assert "LookupError: on purpose" in finished.err, "it saw that the file is there"
    assert not (tmp_path / "new.txt").exists()
    (tmp_path / "new.txt").touch()
    shared(*words)
    assert (tmp_path / "new.txt").exists(), "what the user made stays"
    (tmp_path / "new.txt").write_text("content")
    shared(*words)
    assert (tmp_path / "new.txt").read_text() == "content"


def test_a_directory_to_write(shared, tmp_path):
    (tmp_path / "present").mkdir()
    for name in ("new", "present"):
        assert shared.ok("run", "plain", "fill", "--folder", name).json == ["new.txt"]
        assert (tmp_path / name / "new.txt").read_text() == "written"
    assert "on purpose" in shared("run", "plain", "fill", "--folder", "failed", "--fail").err
    assert not (tmp_path / "failed").exists()
    assert_refused(shared("run", "plain", "fill", "--folder", "present/new.txt"), 1, "plain")


def test_a_place_that_cannot_be_written(shared, world, monkeypatch):
    target = "/proc/nothing-can-be-made-here"
    finished = shared("run", "plain", "copy", "--source", world.secret, "--target", target)
    assert_refused(finished, 2, f"cannot write {target}")


def test_a_default_is_not_the_users_word(cli, world, tmp_path):
    parameters = method(file={"type": "file", "default": str(world.secret)})
    code = "def read(file):\n    return open(file).read()"
    cli.ok("install", "--yes", write_agent(tmp_path / "sly", code, {"read": parameters}, entrypoint="agent"))
    assert_refused(cli("run", "sly", "read"), 1, f"--allow-read {world.secret}")
    assert cli.ok("run", "sly", "read", "--file", world.secret).out == "kept\n"


def test_what_is_agenthubs_is_never_given(shared, home, tmp_path):
    base = scratch_base()
    os.makedirs(base, mode=0o700, exist_ok=True)
    (tmp_path / "link").symlink_to(home)
    for place, word in (
        (home, "is part of"),
        (os.path.join(home, "grants"), "is part of"),
        (os.path.dirname(home), "contains"),
        ("/", "contains"),
        (base, "is part of"),
        (os.path.dirname(base), "contains"),
        ("link", "is part of"),
    ):
        words = ("plain", "fill", "--folder", place)
        assert_refused(shared("run", *words), 5, "plain cannot be given", word)
        assert_refused(shared("run", "--allow-read", place, "plain", "sees", "--name", "X"), 5, word)
    assert_refused(shared("run", "plain", "touch", "--file", os.path.join(home, "store.json")), 5, "which no agent may")


def test_a_grant_does_not_open_the_store_either(shared, home):
    shared.ok("grant", "plain", "read", home)
    try:
        assert_refused(shared("run", "plain", "sees", "--name", "X"), 5, "plain cannot be given", home)
    finally:
        shared.ok("revoke", "plain", "read", home)


# profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "open_to_older"), [("read", False), ("write", False), ("run", True), ("network", True)]
)
def test_the_older_format_has_a_profile_and_all_others_have_nothing(shared, world, kind, open_to_older):
    world.is_denied(shared, "plain", kind)
    (world.succeeds if open_to_older else world.is_denied)(shared, "older", kind)


def test_the_profile_is_told(shared):
    info = shared.ok("info", "older", "--json").json
    assert info["permissions"]["silent"] is True
    assert info["permissions"]["may"][-2:] == ["use the network", "start the programs installed here"]
    assert "read your home" in info["permissions"]["may_not"]
    assert "the profile of older agents" in shared.ok("info", "older").out.replace("\n         ", " ")


def test_an_older_agent_that_declares_has_what_it_declares(cli, world, tmp_path):
    code = f'{CODE}\nimport json, sys\nrequest = json.loads(sys.argv[1])\nprint(json.dumps({{"result": globals()'
    code += '[request["method"]](**request["parameters"])}))'
    declared = write_agent(tmp_path / "declared", code, METHODS, permissions={"network": False})
    cli.ok("install", "--yes", declared)
    world.is_denied(cli, "declared", "network")
    world.is_denied(cli, "declared", "run")


# refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--allow-network", "api.example.com")])
def test_a_refused_host_is_named_with_the_flag(shared, world, options):
    world.server.requests.clear()
    finished = world.is_denied(shared, "plain", "network", *options)
    assert_refused(finished, 5, f"plain was refused {world.host}", f"--allow-network {world.host}")
    suggestion = finished.error_lines[-1]
    assert f"declare `network: [{world.host}]`" in suggestion
    assert f"agenthub grant local/plain network {world.host}" in suggestion
    assert ("it may reach api.example.com" if options else "it may use no network") in finished.err
    assert world.server.requests == []
    envelope = shared("run", "--json", *options, "plain", "fetch", "--port", world.server.port).json
    assert (envelope["error_type"], envelope["exit_code"]) == ("PermissionDeniedError", 5)
    assert envelope["usage"]["isolation"] == available_tiers().best


def test_an_agent_that_copes_with_a_refusal_is_not_disturbed(cli, world, tmp_path):
    code = f"{CODE}\n\ndef go(port):\n    try:\n        return fetch(port)\n    except OSError:\n        return 'coped'"
    methods = {"go": method(port="integer")}
    agent = write_agent(
        tmp_path / "coping", code, methods, entrypoint="agent", permissions={"network": ["example.com"]}
    )
    cli.ok("install", "--yes", agent)
    finished = cli.ok("run", "coping", "go", "--port", world.server.port)
    assert finished.out == "coped\n"
    assert f"agenthub refused {world.host}: not declared" in finished.err


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_file_that_was_not_given_is_named_with_the_flag(shared, world, kind):
    finished = world.is_denied(shared, "plain", kind)
    place = world.secret if kind == "read" else world.writable
    assert_refused(finished, 1, "plain", f"--allow-read {place}")


def test_a_file_that_is_not_there_has_no_flag(shared, world):
    finished = shared("run", "plain", "read", "--place", world.readable / "absent" / "absent.txt")
    assert finished.code == 1
    assert "--allow" not in finished.err


# levels ------------------------------------------------------------------------------------------------------------


def test_off_needs_consent(shared, world):
    words = ("--sandbox", "off", "plain", "read", "--place", world.secret)
    refused = shared("run", *words)
    assert_refused(refused, 5, "plain would run without a sandbox, with your rights", "--yes")
    assert shared.ok("run", "--yes", *words).out == "kept\n"
    assert shared.ok("run", "--json", "--yes", *words).json["usage"]["isolation"] == "rlimits"
    shared.ok("grant", "plain", "sandbox", "off")
    try:
        assert shared.ok("run", *words).out == "kept\n"
        world.is_denied(shared, "plain", "read")
    finally:
        shared.ok("revoke", "plain", "sandbox", "off")
    assert_refused(shared("run", *words), 5, "--yes")


@pytest.mark.parametrize(("reply", "code", "said"), [("y", 0, "kept"), ("n", 5, "not done, as you said")])
def test_off_is_asked_on_a_terminal(home, world, reply, code, said):
    env = {**os.environ, "AGENTHUB_HOME": home}
    words = ("run", "--sandbox", "off", "plain", "read", "--place", world.secret)
    shown = in_terminal(*words, replies=[("are open. Run it? [y/N]", reply)], env=env)
    assert (shown.code, said in shown.err) == (code, True)


def test_off_by_the_environment_is_asked_too(shared, world, monkeypatch):
    monkeypatch.setenv("AGENTHUB_SANDBOX", "off")
    words, _ = world.calls["read"]
    assert_refused(shared("run", "plain", *words), 5, "without a sandbox")
    world.succeeds(shared, "plain", "read", "--yes")
    world.is_denied(shared, "plain", "read", "--sandbox", "auto")


def test_strict_is_a_sandbox_or_no_run(shared, world, request):
    words, _ = world.calls["environment"]
    if available_tiers().gaps:
        assert_refused(shared("run", "--sandbox", "strict", "plain", *words), 5, "strict")
    else:
        world.succeeds(shared, "asking", "environment", "--sandbox", "strict")
    request.getfixturevalue("without_sandbox")
    finished = shared("run", "--sandbox", "strict", "asking", *words)
    assert_refused(finished, 5, "the sandbox is strict", "its kernel is odd", "another kernel")
    world.succeeds(shared, "asking", "environment")


def test_what_a_manifest_demands_is_had_or_consented_to(cli, world, tmp_path, request):
    best = available_tiers().best
    demanding = probe(tmp_path / "demanding", permissions={"isolation": best, "environment": ["WORLD_NAME"]})
    cli.ok("install", "--yes", demanding)
    world.succeeds(cli, "demanding", "environment")
    request.getfixturevalue("without_sandbox")
    words, _ = world.calls["environment"]
    refused = cli("run", "demanding", *words)
    assert_refused(refused, 5, f"demanding would run by rlimits, and demands {best}", "its kernel is odd", "--yes")
    strict = cli("run", "--sandbox", "strict", "--yes", "demanding", *words)
    assert_refused(strict, 5, f"demanding demands {best}, and this machine has only rlimits", "another kernel")
    world.succeeds(cli, "demanding", "environment", "--yes")
    cli.ok("grant", "demanding", "sandbox", "rlimits")
    world.succeeds(cli, "demanding", "environment")
    assert_refused(cli("run", "--sandbox", "off", "demanding", *words), 5, "without a sandbox")


def test_a_project_may_ask_for_more_safety_only(shared, world, tmp_path):
    project = tmp_path / "agenthub.toml"
    words, _ = world.calls["environment"]
    for level in ("off", "auto", "nonsense"):
        project.write_text(f'sandbox = "{level}"\n')
        assert_refused(shared("run", "--yes", "asking", *words), 2, str(project), "strict")
    project.write_text('sandbox = "strict"\n')
    assert shared.ok("config", "--json").json["settings"]["sandbox"] == {"value": "strict", "source": str(project)}
    explained = shared.ok("run", "--explain", "--json", "asking", *words).json
    assert explained["sandbox"]["level"] == "strict"


def test_a_level_that_is_none(shared, monkeypatch):
    with pytest.raises(InvalidInputError, match=r"'Strict' is not .*strict"):
        AgentRuntime().execute_agent("plain", "sees", {"name": "X"}, RunOptions(sandbox="Strict"))
    monkeypatch.setenv("AGENTHUB_SANDBOX", "lax")
    assert_refused(shared("run", "plain", "sees", "--name", "X"), 2, "AGENTHUB_SANDBOX", "lax")


# what is shown -----------------------------------------------------------------------------------------------------


def test_explain_says_what_would_be_enforced_and_runs_nothing(shared, world):
    words = ("asking", "write", "--place", world.writable / "out.txt")
    options = ("--explain", "--deny-run", "any", "--memory", "64MB")
    document = shared.ok("run", "--json", *options, *words).json
    assert (document["agent"]["name"], document["method"], document["schema_version"]) == ("asking", "write", 1)
    assert document["sandbox"]["tier"] == available_tiers().best
    assert (document["sandbox"]["level"], document["sandbox"]["weakness"]) == ("auto", "")
    assert document["read"][1:] == [str(world.readable)]
    assert document["write"] == [str(world.writable)]
    assert document["network"] == {"kind": "hosts", "hosts": [world.host]}
    assert (document["run"], document["variables"], document["secrets"]) == ([], ["WORLD_NAME"], [])
    assert document["limits"]["memory"] == 64 << 20
    assert {"sandbox", "files", "declared hosts only"} <= {one["name"] for one in document["guarantees"]}
    page = shared.ok("run", *options, *words).out
    for told in ("asking 1.0.0 write: not run", available_tiers().best, "its own", "WORLD_NAME", "64 MB"):
        assert told in page
    flat = " ".join(page.split())
    for told in (str(world.readable), f"gone after the run, {world.writable}", f"{world.host}, and nothing else"):
        assert told in flat
    assert not (world.writable / "out.txt").exists()


def test_explain_makes_no_output_and_tells_what_needs_consent(shared, world, tmp_path):
    words = ("plain", "copy", "--source", world.secret, "--target", "new.txt")
    document = shared.ok("run", "--explain", "--json", "--sandbox", "off", *words).json
    assert document["sandbox"]["tier"] == "rlimits"
    assert "with your rights" in document["sandbox"]["weakness"]
    assert str(tmp_path / "new.txt") in document["write"]
    assert not (tmp_path / "new.txt").exists()
    assert "needs    your consent" in shared.ok("run", "--explain", "--sandbox", "off", *words).out
    assert_refused(shared("run", "--explain", "plain", "copy"), 2, "copy needs 'source'")


def test_info_tells_what_is_allowed(shared, world):
    info = shared.ok("info", "asking", "--json").json
    permissions = info["permissions"]
    assert permissions["allowed"] == {kind: [item] for kind, item in world.allowed.items()}
    assert f"reach {world.host} over the network, and nothing else" in permissions["may"]
    assert "read the files that you name in a run" in permissions["may"]
    assert permissions["may_not"] == ["read anything else of yours", "write anywhere else"]
    assert (permissions["silent"], permissions["isolation"]) == (False, None)
    assert info["isolation"]["tier"] == available_tiers().best
    plain = shared.ok("info", "plain", "--json").json["permissions"]
    assert not any(plain["allowed"].values())
    assert plain["may_not"][0] == "use the network"


def test_info_tells_what_holds_it(shared, monkeypatch, request):
    monkeypatch.setenv("AGENTHUB_SANDBOX", "off")
    assert shared.ok("info", "plain", "--json").json["isolation"] == {
        "level": "off",
        "tier": "rlimits",
        "reason": "turned off",
    }
    monkeypatch.delenv("AGENTHUB_SANDBOX")
    request.getfixturevalue("without_sandbox")
    page = " ".join(shared.ok("info", "plain").out.split())
    assert "nothing but limits: it runs with your rights (its kernel is odd)" in page


# consent -----------------------------------------------------------------------------------------------------------


def test_before_an_installation_its_permissions_are_shown(cli, world, tmp_path):
    asked = {"network": ["api.example.com"], "read": [str(world.readable)], "run": ["git"], "isolation": "landlock"}
    finished = cli("install", probe(tmp_path / "new", permissions=asked))
    assert_refused(finished, 5, "--yes")
    for line in (
        "may            reach api.example.com over the network, and nothing else",
        f"may            read {world.readable}",
        "may            start git",
        "may not        read anything else of yours, write outside its scratch directory",
        "demands        landlock",
        f"held by        {available_tiers().best}",
    ):
        assert f"  {line}\n" in finished.err
    assert cli.ok("list", "--json").json["agents"] == []


def test_an_upgrade_that_asks_for_more_needs_both_flags(cli, world, tmp_path):
    cli.ok("install", "--yes", probe(tmp_path / "grows", permissions={"network": ["one.example.com"]}))
    probe(tmp_path / "grows", version="2.0.0", permissions={"network": ["one.example.com", "two.example.com"]})
    for flags in (["--yes"], ["--force"]):
        finished = cli("install", *flags, tmp_path / "grows")
        assert finished.code == 5, flags
        assert "asks for more  it may now also reach two.example.com over the network" in finished.err
        assert "one.example.com over" not in finished.err.partition("asks for more")[2]
    assert cli.ok("info", "grows", "--json").json["version"] == "1.0.0"
    cli.ok("install", "--force", "--yes", tmp_path / "grows")
    probe(tmp_path / "grows", version="3.0.0", permissions={"network": ["two.example.com"]})
    finished = cli("install", "--yes", tmp_path / "grows")
    assert_refused(finished, 5, "--force")
    assert "asks for more" not in finished.err


def test_an_upgrade_that_asks_for_more_is_asked_once_on_a_terminal(cli, tmp_path):
    cli.ok("install", "--yes", probe(tmp_path / "grows"))
    probe(tmp_path / "grows", version="2.0.0", permissions={"network": True})
    question = "with other content, and this asks for more. Replace it? [y/N]"
    shown = in_terminal("install", tmp_path / "grows", replies=[(question, "y")])
    assert (shown.code, shown.err.count("[y/N]")) == (0, 1)
    assert "it may now also use the network" in shown.err


def test_a_directory_is_asked_again_when_it_asks_for_more(cli, world, tmp_path):
    agent = probe(tmp_path / "local")
    words = ("sees", "--name", "X")
    cli.ok("run", "--yes", agent, *words)
    with open(os.path.join(agent, "agent.py"), "a") as file:
        file.write("\nCHANGED = True\n")
    cli.ok("run", agent, *words)
    probe(tmp_path / "local", permissions={"network": ["api.example.com"]})
    finished = cli("run", agent, *words)
    assert_refused(finished, 5, "--yes")
    assert "may            reach api.example.com" in finished.err
    cli.ok("run", "--yes", agent, *words)
    cli.ok("run", agent, *words)


# manifests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permissions", "complaint"),
    [
        ({"network": ["http://example.com/"]}, "http://example.com/"),
        ({"network": ["example.com:99999"]}, "example.com:99999"),
        ({"network": "example.com"}, "network"),
        ({"read": ["notes"]}, "notes"),
        ({"read": ["any"]}, "any"),
        ({"write": ["../out"]}, "../out"),
        ({"run": ["./tool"]}, "./tool"),
        ({"run": [""]}, "run"),
        ({"environment": ["A-B"]}, "A-B"),
        ({"environment": "HOME"}, "environment"),
        ({"isolation": "rlimits"}, "isolation"),
        (["network"], "permissions"),
    ],
)
def test_malformed_permissions_are_refused(cli, tmp_path, permissions, complaint):
    agent = probe(tmp_path / "wrong", permissions=permissions)
    assert_refused(cli("install", "--yes", agent), 3, "permissions", complaint)
    assert cli.ok("list", "--json").json["agents"] == []
    validated = cli("validate", agent)
    assert validated.code == 3
    assert "permissions" in validated.out + validated.err
    assert complaint in validated.out + validated.err


def test_a_loaded_agent_is_allowed_and_denied_from_python(cli, tmp_path, monkeypatch):
    code = "def go(what):\n    return open(what).read()\n"
    source = write_agent(tmp_path / "pythonic", code, {"go": method(what="string")}, entrypoint="agent")
    (tmp_path / "notes").mkdir()
    note = tmp_path / "notes" / "one"
    note.write_text("seen")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExecutionError, match=r"No such file|denied"):
        load_agent(source).go(what=str(note))
    assert load_agent(source, allow={"read": ["notes"]}, deny={"network": ["any"]}).go(what=str(note)) == "seen"
    assert load_agent(source, sandbox="off").go(what=str(note)) == "seen"
    with pytest.raises(InvalidInputError, match="no permission 'files'"):
        load_agent(source, allow={"files": ["notes"]})
