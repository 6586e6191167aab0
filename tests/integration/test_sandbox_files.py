"""What a confined run sees: the declared paths, its program, and nothing else of the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from sandbox_support import BUBBLEWRAP, LANDLOCK, USERS, Place

import agenthub
from agenthub.errors import PermissionDeniedError
from agenthub.runtime.sandbox import visible
from agenthub.runtime.sandbox.policy import SandboxPolicy
from agenthub.runtime.sandbox.visible import visible_files

CONFINED = [(tier, user) for tier in (BUBBLEWRAP, LANDLOCK) for user in USERS]
_TRY = """
import errno, json, sys
given = json.loads(sys.argv[1])["parameters"]["attempts"]
found = []
for kind, path in given:
    try:
        if kind == "read":
            found.append(open(path).read())
        elif kind == "list":
            import os
            found.append(sorted(os.listdir(path)))
        elif kind == "write":
            open(path, "w").write("changed")
            found.append("done")
        else:
            import subprocess
            done = subprocess.run(path, capture_output=True)
            found.append(done.returncode or "done")
    except OSError as error:
        found.append(errno.errorcode[error.errno])
print(json.dumps({"result": found}))
"""
DENIED = {"EACCES", "ENOENT", "EROFS", "EPERM"}


@pytest.fixture(params=CONFINED, ids="-".join)
def place(request):
    tier, user = request.param
    made = Place(user)
    made.tier = tier
    made.directory("data")
    made.directory("data/inner")
    made.write("data/one", "first")
    made.write("data/inner/two", "second")
    try:
        yield made
    finally:
        made.remove()


def attempt(place, attempts, **policy):
    answer = place.run(_TRY, place.tier, parameters={"attempts": attempts}, policy=policy)
    assert "result" in answer, answer
    return answer["result"]


def test_a_directory_can_be_read_and_not_written(place):
    data = f"{place.path}/data"
    wanted = [("read", f"{data}/one"), ("read", f"{data}/inner/two"), ("list", data), ("write", f"{data}/one")]
    found = attempt(place, wanted, read=[data])
    assert found[:3] == ["first", "second", ["inner", "one"]]
    assert found[3] in DENIED


def test_a_single_file_is_granted_without_its_neighbours(place):
    place.write("data/three", "third")
    found = attempt(
        place,
        [("read", f"{place.path}/data/one"), ("read", f"{place.path}/data/three")],
        read=[f"{place.path}/data/one"],
    )
    assert found[0] == "first"
    assert found[1] in DENIED


def test_a_directory_can_be_written(place):
    data = f"{place.path}/data"
    assert attempt(place, [("write", f"{data}/new"), ("read", f"{data}/one")], write=[data]) == ["done", "first"]
    with open(f"{data}/new") as file:
        assert file.read() == "changed"
    assert os.stat(f"{data}/new").st_uid == place.uid


def test_a_single_file_can_be_written(place):
    path = f"{place.path}/data/one"
    found = attempt(place, [("write", path), ("write", f"{place.path}/data/other")], write=[path])
    assert found[0] == "done"
    assert found[1] in DENIED or place.tier == BUBBLEWRAP  # which has a /tmp of its own around it
    assert sorted(os.listdir(f"{place.path}/data")) == ["inner", "one"]
    with open(path) as file:
        assert file.read() == "changed"


def test_a_writable_directory_inside_a_readable_one(place):
    data = f"{place.path}/data"
    wanted = [("write", f"{data}/inner/new"), ("write", f"{data}/new"), ("read", f"{data}/one")]
    found = attempt(place, wanted, read=[data], write=[f"{data}/inner"])
    assert (found[0], found[2]) == ("done", "first")
    assert found[1] in DENIED


def test_the_agent_stays_read_only_inside_a_writable_directory(place):
    """Landlock only adds rights up: there the wider grant counts."""
    found = attempt(place, [("write", f"{place.agent}/new"), ("write", f"{place.path}/data/new")], write=[place.path])
    assert found[1] == "done"
    if place.tier == BUBBLEWRAP:
        assert found[0] in DENIED


def test_a_link_leads_where_it_did(place):
    os.symlink("data", f"{place.path}/way")
    found = attempt(place, [("read", f"{place.path}/way/one")], read=[f"{place.path}/way"])
    assert found == ["first"]


def test_a_link_that_the_agent_may_have_made_is_not_followed(place):
    """Neither to read nor to write; one that leads into the directory is the agent's own affair as well."""
    place.directory("secret")
    place.write("secret/key", "untouched")
    for target in (f"{place.path}/secret", "inner"):
        os.symlink(target, f"{place.path}/data/way")
        for kind in ("read", "write"):
            policy = {"write": [f"{place.path}/data"], kind: [f"{place.path}/data", f"{place.path}/data/way"]}
            answer = place.run(_TRY, place.tier, parameters={"attempts": []}, policy=policy)
            assert answer["error_type"] == "PermissionDeniedError"
            assert f"{place.path}/data/way is a link" in answer["error"]
        os.unlink(f"{place.path}/data/way")


def test_a_link_to_a_writable_directory_leads_there(place):
    os.symlink("data", f"{place.path}/way")
    assert attempt(place, [("write", f"{place.path}/way/new")], write=[f"{place.path}/way"]) == ["done"]


def test_a_writable_directory_inside_the_agents_own(place):
    place.directory("agent/cache")
    found = attempt(place, [("write", "cache/new"), ("write", "new")], write=[f"{place.agent}/cache"])
    assert found[0] == "done"
    assert found[1] in DENIED


def test_what_is_missing_is_left_out(place):
    found = attempt(place, [("read", f"{place.path}/nothing")], read=[f"{place.path}/nothing"])
    assert found[0] in DENIED


def test_an_agent_reached_by_a_link(place):
    shutil.copytree(place.agent, f"{place.path}/version")
    shutil.rmtree(place.agent)
    os.symlink("version", f"{place.path}/agent")
    assert attempt(place, [("list", place.agent)]) == [["agent.py"]]


def test_programs_are_hidden_unless_declared(place):
    assert attempt(place, [("run", ["ls"])], programs=[])[0] in DENIED
    assert attempt(place, [("run", ["ls"])], programs=["ls"]) == ["done"]
    assert attempt(place, [("run", ["ls"])], programs=None) == ["done"]


def test_a_declared_script_brings_its_interpreter(place):
    tool = place.write("tool", "#!/usr/bin/env sh\nexit 0\n", 0o755)
    assert attempt(place, [("run", [tool])], programs=[tool]) == ["done"]


def test_the_hosts_directories_are_empty_or_absent(place):
    found = attempt(place, [("list", "/home"), ("list", "/var"), ("read", "/etc/shadow"), ("list", "/tmp")])
    assert set(found[:3]) <= DENIED
    if place.tier == LANDLOCK:
        assert found[3] in DENIED
    else:  # what was bound, and a project that is itself below /tmp
        project = os.path.relpath(os.path.dirname(agenthub.__file__), "/tmp").split("/")[0]
        assert set(found[3]) <= {os.path.basename(place.path), project}


def test_the_file_system_around_is_read_only(place):
    for path in ("/new", "/etc/new", "/usr/new", "/proc/self/comm", "/lib/new"):
        assert attempt(place, [("write", path)])[0] in DENIED


def test_another_language(place):
    node = shutil.which("node")
    if node is None or not os.path.realpath(node).startswith("/usr"):
        pytest.skip("no Node of the system's")
    place.write(
        "agent/agent.js",
        """
        const order = JSON.parse(process.argv[2])
        let home = "seen"
        try { require("fs").readdirSync(order.parameters.outside) } catch (error) { home = error.code }
        console.log(JSON.stringify({result: [1 + 1, home]}))
        """,
    )
    answer = place.run("", place.tier, argv=["node", "agent.js"], parameters={"outside": f"{place.path}/data"})
    assert answer["result"][0] == 2, answer
    assert answer["result"][1] in DENIED


def test_an_environment_elsewhere_with_a_chain_of_links(place, monkeypatch):
    """As a virtual environment has it whose interpreter is itself a link."""
    monkeypatch.setenv("AGENTHUB_HOME", f"{place.path}/venv")  # one that agenthub made
    base = os.path.realpath(place.python)
    venv = place.directory("venv/bin")
    os.symlink(place.python, f"{venv}/python3")
    os.symlink("python3", f"{venv}/python")
    place.write("venv/pyvenv.cfg", f"home = {os.path.dirname(place.python)}\n")
    code = "import json, sys, ssl\nprint(json.dumps({'result': [sys.prefix, sys.base_prefix]}))"
    answer = place.run(code, place.tier, argv=[f"{venv}/python", "agent.py"])
    assert answer["result"][0] == f"{place.path}/venv", answer
    assert os.path.realpath(answer["result"][1]) in base or base.startswith("/usr")


def test_shared_prefixes_are_not_shown(monkeypatch, tmp_path):
    """A tool in ~/.local/bin does not bring ~/.local, where keys are."""
    home = tmp_path.resolve()
    monkeypatch.setenv("HOME", str(home))
    for folder in (".local/bin", ".local/lib", ".tool/bin", ".tool/lib", "bin", "lib"):
        (home / folder).mkdir(parents=True)
    for folder in (".local", ".tool", "."):
        (home / folder / "bin" / "tool").write_bytes(b"\x7fELF")
        (home / folder / "bin" / "tool").chmod(0o755)

    def shown(program):
        policy = SandboxPolicy("auto", "/nowhere/agent", "/nowhere/scratch", programs=(str(program),))
        seen = visible_files(policy, (sys.executable,), (), {}, "/")
        return [path for path in seen.readable if path.startswith(str(home))]

    assert shown(home / ".local/bin/tool") == [str(home / ".local/bin/tool")]
    assert shown(home / "bin/tool") == [str(home / "bin/tool")]
    assert shown(home / ".tool/bin/tool") == [str(home / ".tool")]


@pytest.fixture
def authored(monkeypatch, tmp_path):
    """Shows what of a home becomes visible for programs that a package brings; `authored.agent`, `authored.home`."""
    home, agent = tmp_path.resolve() / "home", tmp_path.resolve() / "agent"
    monkeypatch.setenv("HOME", str(home))
    for folder in (home / "keys", home / "tool/bin", home / "tool/lib", home / ".venv/bin", agent / "bin"):
        folder.mkdir(parents=True)
    for program in (home / "tool/bin/tool", home / "keys/key"):
        program.write_text("#!/bin/sh\necho secret\n")
        program.chmod(0o755)
    (home / ".venv/bin/python").symlink_to(sys.executable)
    (home / ".venv/pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")

    def shown(*argv, programs=(), path=""):
        policy = SandboxPolicy("auto", str(agent), "/nowhere/scratch", programs=tuple(map(str, programs)))
        seen = visible_files(policy, tuple(map(str, argv)), (), {"PATH": f"{path}:/usr/bin:/bin"}, str(agent))
        return {path[len(str(home)) :] for path in seen.readable if path.startswith(str(home))}

    shown.home, shown.agent = home, agent
    shown.program = agent / "bin/run"
    shown.program.write_text("#!/bin/sh\n")
    shown.program.chmod(0o755)
    return shown


def test_a_package_cannot_name_a_directory_as_the_home_of_its_interpreter(authored):
    (authored.agent / "pyvenv.cfg").write_text(f"home = {authored.home}/keys/key\n")
    assert authored(authored.program) == set()
    (authored.agent / "bin/python").symlink_to(os.path.realpath(sys.executable))
    assert authored(authored.agent / "bin/python") == set()


@pytest.mark.parametrize("line", ["{0}", "/usr/bin/env -S -u {0} /bin/sh", "/usr/bin/env {0}"])
@pytest.mark.parametrize("program", ["keys/key", "tool/bin/tool", ".venv/bin/python"])
def test_a_package_cannot_name_a_file_as_its_interpreter(authored, line, program):
    authored.program.write_text(f"#!{line.format(authored.home / program)}\n")
    assert authored(authored.program) == set()
    assert authored("run", path=str(authored.agent / "bin")) == set()


def test_a_manifest_or_a_link_cannot_name_a_program_of_the_users(authored):
    tool = authored.home / "tool/bin/tool"
    (authored.agent / "bin/git").symlink_to(tool)
    assert authored(tool) == set()
    assert authored("git", path=str(authored.agent / "bin")) == set()
    assert authored(authored.program, programs=[tool]) == {"/tool"}  # this the user agreed to


def test_a_home_among_installed_software_is_not_shown(authored, monkeypatch):
    """Agents of the old format see all installed programs; the home of a service is often below /opt."""
    software = authored.home.parent
    (software / "editor").mkdir()
    monkeypatch.setattr(visible, "_PROGRAMS", (str(software),))
    monkeypatch.setenv("AGENTHUB_HOME", str(software / "store"))
    (software / "store/agents").mkdir(parents=True)
    seen = visible_files(SandboxPolicy("auto", "/nowhere", "/nowhere", programs=None), ("sh",), (), {}, "/")
    assert {path for path in seen.readable if path.startswith(str(software))} == {
        str(software / "editor"),
        str(authored.agent),
    }


def test_a_path_through_the_processes_is_refused(authored):
    """It would be another one for each who looks: the user's working directory, say."""
    policy = SandboxPolicy("auto", "/nowhere", "/nowhere", read=("/proc/self/cwd",))
    with pytest.raises(PermissionDeniedError, match="for each process"):
        visible_files(policy, ("sh",), (), {}, "/")


def test_the_users_own_path_is_believed(authored):
    assert authored("tool", path=str(authored.home / "tool/bin")) == {"/tool"}


def test_temporary_files_of_bubblewrap_are_capped_by_memory():
    place = Place(USERS[-1])
    try:
        code = """
        import errno, json, os
        found = []
        for name in ("/tmp/big", "/dev/shm/big"):
            try:
                with open(name, "wb") as file:
                    for _ in range(64): file.write(bytes(1 << 20))
                found.append("done")
            except OSError as error:
                found.append(errno.errorcode[error.errno])
        print(json.dumps({"result": found}))
        """
        answer = place.run(code, BUBBLEWRAP, limits={"memory": 128 << 20})
        assert answer["result"] == ["ENOSPC", "ENOSPC"]
    finally:
        place.remove()
        assert not os.path.exists("/dev/shm/big")
        assert subprocess.run(["ls", "/tmp/big"], capture_output=True).returncode != 0
