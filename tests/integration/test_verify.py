"""`agenthub verify` tells whatever was changed in an installed agent, by its name."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest

from agenthub.trust.recorded_files import RecordedFiles
from tests.integration.faults_support import write_wheel
from tests.support import install_into, method, write_agent

CODE = "import telltale\ndef go():\n    return telltale.ANSWER\n" + "# long enough to be compiled\n" * 50


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A store with one agent, which has a package, a script, a link and bytecode; no test changes it."""
    folder = tmp_path_factory.mktemp("verified")
    directory = Path(folder, "agent")
    directory.mkdir()
    wheel = write_wheel(directory, "one")
    write_agent(directory, CODE, {"go": method()}, name="probe", entrypoint="agent", dependencies=[f"./{wheel}"])
    (directory / "tool.sh").write_text("echo\n")
    (directory / "data.txt").write_text("1\n")
    (directory / "link").symlink_to("data.txt")
    return install_into(folder / "home", "--compile-bytecode", directory)


@pytest.fixture
def version(installed, tmp_path):
    """A copy of it that may be changed: the version's directory."""
    home = tmp_path / "home"
    shutil.copytree(installed, home, symlinks=True)
    return next((home / "versions" / "local" / "probe").iterdir())


def site(version):
    return next((version / "venv" / "lib").glob("python3*")) / "site-packages"


def told(cli, version):
    """What `verify` finds: kinds and paths."""
    done = cli("verify", "--json", "probe")
    document = done.json
    assert done.code == (0 if document["ok"] else 1)
    (agent,) = document["agents"]
    assert agent["path"] == str(version)
    return {(finding["kind"], finding["path"]) for finding in agent["findings"]}


def test_what_is_as_it_was(cli, version):
    assert told(cli, version) == set()
    assert any((version / "__pycache__").iterdir())  # which is bytecode that came later, and is looked at
    said = cli.ok("verify")
    assert said.out == ""
    assert "1 agent" in said.err
    assert "as they were installed" in said.err
    cli.ok("run", "probe", "go")
    cli.ok("verify")


def change(path, text="changed"):
    path.write_bytes(path.read_bytes() + text.encode())


def edit_record(version, **changes):
    path = version / ".agenthub" / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace(path, target):
    path.unlink()
    path.symlink_to(target)


IN_SITE = "venv/lib/python/site-packages/"
TAMPERED = {
    "content": (lambda v: change(v / "agent.py"), ("changed", "agent.py")),
    "content added": (lambda v: (v / "telltale.py").write_text("1"), ("added", "telltale.py")),
    "content missing": (lambda v: (v / "data.txt").unlink(), ("missing", "data.txt")),
    "mode": (lambda v: (v / "tool.sh").chmod(0o755), ("changed", "tool.sh")),
    "link": (lambda v: replace(v / "link", "/etc/passwd"), ("changed", "link")),
    "link for file": (lambda v: replace(v / "tool.sh", "data.txt"), ("changed", "tool.sh")),
    "what copies leave out": (lambda v: (v / ".git").write_text("x"), ("added", ".git")),
    "module": (lambda v: change(site(v) / "telltale.py"), ("changed", IN_SITE + "telltale.py")),
    "module missing": (lambda v: (site(v) / "telltale.py").unlink(), ("missing", IN_SITE + "telltale.py")),
    "start-up file": (lambda v: (site(v) / "evil.pth").write_text("import os"), ("added", IN_SITE + "evil.pth")),
    "start-up module": (
        lambda v: (site(v) / "sitecustomize.py").write_text(""),
        ("added", IN_SITE + "sitecustomize.py"),
    ),
    "sourceless": (lambda v: (site(v) / "json.pyc").write_bytes(b"x"), ("added", IN_SITE + "json.pyc")),
    "package": (
        lambda v: shutil.copytree(site(v) / "telltale-1.0.dist-info", site(v) / "evil-6.6.dist-info"),
        ("added", "venv"),
    ),
    "interpreter": (lambda v: replace(v / "venv/bin/python", "/bin/false"), ("changed", "venv/bin/python")),
    "pyvenv.cfg": (lambda v: change(v / "venv/pyvenv.cfg", "home = /tmp\n"), ("changed", "venv/pyvenv.cfg")),
    "record": (lambda v: edit_record(v, installed_at="yesterday"), ("record", ".agenthub/record.json")),
    "record cut off": (lambda v: (v / ".agenthub/record.json").write_text("{"), ("record", ".agenthub/record.json")),
    "list": (lambda v: change(v / ".agenthub/files.json", " "), ("changed", ".agenthub/files.json")),
    "list missing": (lambda v: (v / ".agenthub/files.json").unlink(), ("missing", ".agenthub/files.json")),
    "list damaged": (lambda v: (v / ".agenthub/files.json").write_text("[]"), ("changed", ".agenthub/files.json")),
}


QUICK = ("content", "module", "start-up file", "interpreter", "record", "list")


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in QUICK else pytest.mark.slow) for what in TAMPERED]
)
def test_what_was_tampered_with(cli, version, what):
    tamper, (kind, path) = TAMPERED[what]
    tamper(version)
    found = {(found, path.replace(site(version).parent.name, "python")) for found, path in told(cli, version)}
    assert (kind, path) in found
    assert len({path for _, path in found} - {".", path}) <= (10 if what == "package" else 0), found


def test_it_is_said_on_the_terminal(cli, version):
    change(version / "agent.py")
    (version / "a\x1b[2Jb").write_text("x")
    done = cli("verify")
    assert done.code == 1
    assert "local/probe is not what was installed" in done.out
    assert "changed  agent.py" in done.out
    assert "added" in done.out
    assert "\x1b" not in done.out
    assert "install --force" in done.err


def test_a_record_that_was_sealed_again(cli, version):
    """Permissions in a record hold for every run: they are those of the manifest beside it."""
    from agenthub.packages.record import seal

    path = version / ".agenthub" / "record.json"
    values = json.loads(path.read_text())
    values["manifest"]["permissions"] = {"network": ["*"]}
    path.write_text(json.dumps({**values, "seal": seal(values)}))
    done = cli("verify")
    assert done.code == 1
    assert "another manifest" in done.out


def test_a_record_of_other_content(cli, version):
    from agenthub.packages.record import seal

    change(version / "agent.py")
    path = version / ".agenthub" / "record.json"
    values = json.loads(path.read_text())
    from agenthub.packages.tree import tree_digest

    values["digest"] = tree_digest(str(version))
    path.write_text(json.dumps({**values, "seal": seal(values)}))
    done = cli("verify")
    assert done.code == 1
    assert "not in the directory of that" in done.out


def evil(source, target, flags=3):
    """Bytecode that does something else and that Python takes for that of `source`."""
    text = Path(source).read_bytes()
    program = (
        "import importlib.util, marshal, sys; text = open(sys.argv[1], 'rb').read();"
        "code = compile('def go():\\n    return 666\\n', sys.argv[1], 'exec');"
        f"head = importlib.util.MAGIC_NUMBER + ({flags}).to_bytes(4, 'little') + importlib.util.source_hash(text);"
        "open(sys.argv[2], 'wb').write(head + marshal.dumps(code))"
    )
    python = os.path.realpath(Path(source).parent / "venv" / "bin" / "python")
    subprocess.run([python, "-I", "-S", "-c", program, source, target], check=True)
    return text


@pytest.mark.parametrize("flags", [3, 1], ids=["checked", "unchecked"])
def test_bytecode_that_does_something_else(cli, version, flags):
    (place,) = (version / "__pycache__").glob("agent.*.pyc")
    place.unlink()  # a hard link into the cache
    evil(version / "agent.py", place, flags)
    assert told(cli, version) == {("changed", f"__pycache__/{place.name}")}


def test_bytecode_that_is_none(cli, version):
    """Also where reading it kills the program that reads it, the others are looked at."""
    (place,) = (version / "__pycache__").glob("agent.*.pyc")
    head = place.read_bytes()[:16]
    place.unlink()
    place.write_bytes(head + b"\xff" * 10)
    (version / "__pycache__" / "other.pyc").write_bytes(b"x")
    assert told(cli, version) == {("changed", f"__pycache__/{place.name}"), ("changed", "__pycache__/other.pyc")}


@pytest.mark.slow
def test_a_socket_and_a_pipe_in_the_way(cli, version, monkeypatch):
    os.mkfifo(version / "pipe")
    monkeypatch.chdir(version)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        assert {("added", "pipe"), ("added", "socket")} <= told(cli, version)


@pytest.mark.slow
def test_a_repaired_environment_is_the_one_that_counts(cli, version):
    """And what was changed in the agent's own files before is not taken for what was installed."""
    (version / "data.txt").write_text("2\n")
    replace(version / "venv/bin/python", "/nowhere")
    cli("doctor", "--fix")
    assert told(cli, version) == {("changed", "data.txt"), ("changed", ".")}


@pytest.mark.slow
def test_what_uv_shares_was_changed_for_another_agent(cli, tmp_path, monkeypatch):
    """Packages are hard links into uv's cache: who writes through one changes them for all."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_LINK_MODE", "hardlink")
    home = Path(os.environ["AGENTHUB_HOME"])
    wheel = write_listed_wheel(tmp_path)
    for name in ("one", "two"):
        directory = tmp_path / name
        write_agent(directory, CODE, name=name, entrypoint="agent", dependencies=[f"telltale @ file://{wheel}"])
        cli.ok("install", "--yes", directory)
        if name == "one":
            module = site(next((home / "versions/local/one").iterdir())) / "telltale.py"
            assert module.stat().st_nlink > 1
            change(module)
    done = cli("verify")
    assert done.code == 1
    inside = f"venv/lib/{site(module.parents[4]).parent.name}/site-packages/telltale.py"
    assert [line.split()[:2] for line in done.out.splitlines() if "telltale.py" in line] == [["changed", inside]] * 2


@pytest.mark.slow
def test_versions_that_are_kept(cli, tmp_path):
    """What `rollback` would go back to is looked at where that is asked for."""
    for number in ("1.0", "2.0"):
        directory = tmp_path / number
        command = {"command": ["sh", "agent.py"]}
        write_agent(directory, "", {"go": method()}, name="probe", version=number, entrypoint=command)
        cli.ok("install", "--yes", "--force", directory)
    (earlier,) = Path(os.environ["AGENTHUB_HOME"], "versions/local/probe").glob("1.0-*")
    change(earlier / "agent.py")
    cli.ok("verify")
    assert cli("verify", "--kept").code == 1


@pytest.mark.slow
def test_an_agent_of_a_project(cli, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    (project / "agents.toml").write_text('[agents]\n"local/probe" = {path = "../agent"}\n')
    write_agent(tmp_path / "agent", CODE, name="probe", entrypoint="agent")
    monkeypatch.chdir(project)
    cli.ok("sync", "--yes")
    cli.ok("verify", "probe")
    (version,) = Path(os.environ["AGENTHUB_HOME"], "versions/local/probe").iterdir()
    (site(version) / "evil.pth").write_text("import os\n")
    assert told(cli, version) == {("added", f"venv/lib/{site(version).parent.name}/site-packages/evil.pth")}


def write_listed_wheel(folder):
    """As `write_wheel`, with the digests that a wheel's RECORD mostly has."""
    path = folder / write_wheel(folder, "same")
    with zipfile.ZipFile(path) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    (record,) = (name for name in files if name.endswith("/RECORD"))
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},," if name == record else f"{name},sha256={digest},{len(data)}")
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in {**files, record: "\n".join(lines).encode()}.items():
            wheel.writestr(name, data)
    return path


def test_a_record_of_packages_that_is_no_file_says_nothing(tmp_path):
    """Whatever built a package may have left a pipe or a link in its place: neither is waited for, nor followed."""
    for name, make in (("piped", os.mkfifo), ("linked", lambda path: os.symlink("/dev/zero", path))):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        make(tmp_path / f"{name}-1.0.dist-info" / "RECORD")
    (tmp_path / "honest-1.0.dist-info").mkdir()
    digest = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"  # of nothing
    (tmp_path / "honest-1.0.dist-info" / "RECORD").write_text(f"honest.py,sha256={digest},0\n../x,sha256={digest},0\n")
    recorded = RecordedFiles(str(tmp_path))
    assert recorded.digest(str(tmp_path / "honest.py")) == hashlib.sha256().hexdigest()
    assert recorded.digest(str(tmp_path.parent / "x")) is None
