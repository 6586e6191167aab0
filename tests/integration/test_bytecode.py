"""Bytecode of installed agents: there from the first run on, shared, and never anybody's way into another."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import marshal
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from agenthub.config import EnvironmentConfig
from agenthub.runtime.environment_manager import PENDING_BYTECODE, Environment, EnvironmentManager
from agenthub.runtime.environments.state import BYTECODE, directory_size
from agenthub.runtime.process_manager import ProcessManager
from tests.integration.faults_support import tmpfs
from tests.support import PROJECT, wait_until, write_agent

LONG = "# as long as modules are\n" * 50
GOOD = f"def answer():\n    return 'good'\n{LONG}"
EVIL = f"def answer():\n    return 'evil'\n{LONG}"
SLOW = "\n".join(f"x{number} = [{number}, 'a', {number} + 1.5]" for number in range(40_000))
DEEP = f"x = {'-' * 300_000}1\n"


class World:
    """A workshop with its cache, and agents with environments made from wheels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache" / "bytecode"
        self.cache.parent.mkdir(exist_ok=True)
        self.config = EnvironmentConfig()
        self.config.python_version = ".".join(map(str, sys.version_info[:3]))

    def manager(self) -> EnvironmentManager:
        return EnvironmentManager(self.config, workshop=str(self.root / "cache" / "workshop"))

    def agent(self, name: str) -> Path:
        agent = self.root / name
        agent.mkdir(exist_ok=True)
        (agent / "requirements.txt").write_text("./thing-1.0-py3-none-any.whl\n")
        (agent / "agent.py").write_text("import helper\n")
        (agent / "helper.py").write_text("VALUE = 1\n")
        return agent

    def build(self, name: str = "agent", files: dict[str, str] | None = None, **lies: str) -> Environment:
        """An environment with `thing`, in the agent's directory; for lies see `write_wheel`."""
        agent = self.agent(name)
        write_wheel(agent, files or {"thing.py": GOOD}, lies)
        environment = self.manager().build(str(agent), None)
        self.manager().add_bytecode(environment.path, str(agent))
        return environment

    def entries(self) -> list[Path]:
        return sorted(self.cache.glob("*/*"))


def write_wheel(folder: Path, files: dict[str, str], lies: dict[str, str]) -> None:
    """A wheel `thing`; `lies` maps a module's stem to the source whose digest its RECORD gives instead."""
    info = "thing-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{info}/RECORD,,\n"]
    for path, content in {**metadata, **files}.items():
        told = lies.get(path.removesuffix(".py"), content).encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(told).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(told)}\n")
    with zipfile.ZipFile(folder / "thing-1.0-py3-none-any.whl", "w") as archive:
        for path, content in {**metadata, **files, f"{info}/RECORD": "".join(lines)}.items():
            archive.writestr(path, content)


def packages(environment: Environment) -> Path:
    (found,) = Path(environment.path).glob("lib/python3*/site-packages")
    return found


def cached(module: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(module)))


def loaded_from(environment: Environment, module: str) -> str:
    """Whether an interpreter that may not write loads a module from `bytecode` or from `source`."""
    command = [f"{environment.path}/bin/python", "-B", "-I", "-v", "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"import '{module}'")]
    code = [
        line
        for line in done.stderr.splitlines()
        if line.startswith("# code object from") and f"/{module.rpartition('.')[2]}." in line
    ]
    assert line
    assert len(code) == 1, code
    return "bytecode" if ".pyc'" in code[0] else "source"


def answer(environment: Environment) -> str:
    command = [f"{environment.path}/bin/python", "-B", "-I", "-c", "import thing; print(thing.answer())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_it_is_there_from_the_start_and_shared(world: World) -> None:
    files = {"thing.py": GOOD, "parts/__init__.py": "", "parts/one.py": LONG, "parts/tests/test_it.py": LONG}
    first, second = world.build("first", files), world.build("second", files)
    for environment in (first, second):
        for module in ("thing", "parts.one"):
            assert loaded_from(environment, module) == "bytecode"
        assert not cached(packages(environment) / "parts/tests/test_it.py").exists()
        assert cached(Path(environment.path).parent / "helper.py").exists()
        assert world.manager().check(environment.path, environment.dependencies, deep=True) == []
        assert environment.size == directory_size(environment.path, without=BYTECODE)
    modules = [cached(packages(environment) / "thing.py") for environment in (first, second)]
    assert os.path.samefile(*modules)
    assert len(world.entries()) == 2  # of the distribution, and of the agents' code


def test_a_changed_module_is_not_mistaken_for_the_old_one(world: World) -> None:
    environment = world.build()
    module = packages(environment) / "thing.py"
    times = module.stat()
    module.unlink()  # it is uv's cache's as well
    module.write_text(EVIL)  # of the same size
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert answer(environment) == "evil"


def test_bytecode_of_another_python_is_passed_over(world: World) -> None:
    environment = world.build()
    bytecode = cached(packages(environment) / "thing.py")
    data = bytecode.read_bytes()
    bytecode.unlink()
    bytecode.write_bytes(b"\0\0\r\n" + data[4:])
    assert loaded_from(environment, "thing") == "source"


def test_a_lying_record_gets_nothing_into_the_cache(world: World) -> None:
    liar = world.build("liar", {"thing.py": EVIL}, thing=GOOD)
    assert not cached(packages(liar) / "thing.py").exists()
    honest = world.build("honest")
    code = marshal.loads(cached(packages(honest) / "thing.py").read_bytes()[16:])
    assert "good" in [constant for each in code.co_consts if hasattr(each, "co_consts") for constant in each.co_consts]
    again = world.build("again", {"thing.py": EVIL}, thing=GOOD)
    assert (answer(liar), answer(honest), answer(again)) == ("evil", "good", "evil")


def test_what_cannot_be_compiled_is_left_out(world: World) -> None:
    broken = {
        "wrong.py": "def :\n",
        "zero.py": "x = '\0'\n",
        "deep.py": DEEP,
        "old.py": "print 'x'\n",
        f"{'n' * 245}.py": LONG,
    }
    files = {"thing.py": GOOD, **broken, **{f"more/m{number}.py": LONG for number in range(40)}}
    environment = world.build(files=files)
    assert loaded_from(environment, "thing") == "bytecode"
    here = packages(environment)
    assert [path for path in files if not os.path.exists(cached(here / path))] == list(broken)
    assert len(world.entries()) == 2


@pytest.mark.parametrize("size", ["9" * 5000, "²", "-1", ""])
def test_a_record_may_say_anything(world: World, size: str) -> None:
    environment = world.build()
    record = packages(environment) / "thing-1.0.dist-info/RECORD"
    lines = [line.rpartition(",")[0] + f",{size}" for line in record.read_text().splitlines() if ".py," in line]
    record.unlink()
    record.write_text("\n".join([*lines, "\0.py,sha256=x,2000", "../../out.py,,", "no", "", ".py,,", ",,,"]))
    cached(packages(environment) / "thing.py").unlink()
    Path(environment.path, PENDING_BYTECODE).touch()
    world.manager().add_bytecode(environment.path)
    assert loaded_from(environment, "thing") == "bytecode"


def test_the_cache_may_go_at_any_time(world: World) -> None:
    first = world.build("first")
    for entry in world.entries():
        subprocess.run(["rm", "-r", entry], check=True)
    assert loaded_from(first, "thing") == "bytecode"
    assert loaded_from(world.build("second"), "thing") == "bytecode"


def test_a_cache_that_cannot_be_used_fails_nothing(world: World) -> None:
    world.cache.write_text("in the way")
    environment = world.build()
    assert answer(environment) == "good"
    assert loaded_from(environment, "thing") == "source"


def test_a_full_disk_fails_nothing_and_leaves_nothing(world: World) -> None:
    files = {"thing.py": GOOD, **{f"more/m{number}.py": f"X = '{'x' * 40_000}'\n" for number in range(60)}}
    with tmpfs(world.cache, "size=1m"):
        assert answer(world.build(files=files)) == "good"
        assert world.entries() == []


def test_on_another_disk_it_is_copied(world: World) -> None:
    with tmpfs(world.cache):
        environment = world.build()
        assert cached(packages(environment) / "thing.py").stat().st_dev != world.cache.stat().st_dev
    assert loaded_from(environment, "thing") == "bytecode"


def test_at_once(world: World) -> None:
    built: list[Environment] = []
    threads = [threading.Thread(target=lambda name=str(n): built.append(world.build(name))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [loaded_from(environment, "thing") for environment in built] == ["bytecode"] * 3
    assert len(world.entries()) == 2


def test_killed_in_the_middle(world: World) -> None:
    """No half entry, nothing that goes on compiling, and what was left is swept by the next."""
    files = {"thing.py": GOOD, "slow.py": SLOW}
    write_wheel(world.agent("agent"), files, {})
    code = (
        "import sys; from tests.integration.test_bytecode import World, Path; m = World(Path(sys.argv[1])).manager(); "
    )
    code += "m.add_bytecode(m.build(sys.argv[1] + '/agent', None).path)"
    process = subprocess.Popen([sys.executable, "-c", code, str(world.root)], cwd=PROJECT)
    wait_until(lambda: list(world.cache.glob("*/*.partial/jobs.queue")), process, "it compiles")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = world.entries()
    assert left.suffix == ".partial"
    wait_until(lambda: not programs_with(str(left)), None, "the compiler has ended")
    environment = world.build(files=files)
    assert loaded_from(environment, "slow") == "bytecode"
    assert [entry.suffix for entry in world.entries()] == ["", ""]


def programs_with(word: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if word in command:
                found.append(command)
    return found


def test_a_users_directory_stays_as_it_is(tmp_path: Path) -> None:
    for entrypoint, code in (("agent.py", "import helper; print('{\"result\": 1}')"), ("agent", HELPED)):
        directory = write_agent(tmp_path / entrypoint, code, entrypoint=entrypoint)
        (Path(directory) / "helper.py").write_text("VALUE = 1\n")
        before = sorted(os.listdir(directory))
        assert ProcessManager().execute_agent(directory, "go", {}, python=sys.executable)["result"] == 1
        assert sorted(os.listdir(directory)) == before


HELPED = "import helper\ndef go():\n    return helper.VALUE\n"


def test_installed_and_fetched_agents(cli, tmp_path: Path) -> None:
    source = Path(write_agent(tmp_path / "helped", HELPED, entrypoint="agent", python_version=">=3.11"))
    (source / "helper.py").write_text("VALUE = 1\n")
    home = Path(os.environ["AGENTHUB_HOME"])
    cli.ok("install", "--yes", source)
    assert not cached(home / "agents/local/helped/helper.py").exists()
    cli.ok("run", "helped", "go")
    assert not (home / "agents/local/helped/venv" / PENDING_BYTECODE).exists()
    cli.ok("install", "--yes", "--force", "--compile-bytecode", source)
    assert not (home / "agents/local/helped/venv" / PENDING_BYTECODE).exists()
    assert cached(home / "agents/local/helped/helper.py").exists()
    with zipfile.ZipFile(tmp_path / "fetched.zip", "w") as archive:
        for name in ("agent.yaml", "agent.py", "helper.py"):
            archive.write(source / name, name)
    assert cli.ok("run", "--yes", tmp_path / "fetched.zip", "go").out == "1\n"
    (place,) = (home / "cache/sources").iterdir()
    assert cached(place / "helper.py").exists()
    assert not (source / BYTECODE).exists()
