"""Who may import whom, and what may be imported where every millisecond counts."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from tests.support import COMMAND, PROJECT, install_into, method, write_agent

PACKAGE = os.path.join(PROJECT, "agenthub")
AGENT_SIDE = "agenthub.runtime.agent_side"

# From the bottom to the top: a layer imports itself and what is below it; rooms of one layer do not know each other.
LAYERS = [
    {"base": ["manifest"]},  # and every module at the top that is named nowhere here
    {
        "packages": ["packages"],
        "environments": ["runtime.environments", "runtime.environment_manager"],
        "processes": ["runtime.processes", "runtime.process_manager", "runtime.sandbox", "runtime.agent_side"],
        "observability": ["observability"],
    },
    {"indexes": ["indexes"]},
    {"trust": ["trust"]},
    {"secrets": ["runtime.secrets"]},
    {"runs": ["runtime.runs"]},
    {"workers": ["runtime.workers"]},
    {"facades": ["runtime.agent_runtime", "runtime.agents"]},
    {"batches": ["runtime.batches"]},
    {"projects": ["projects"]},
    {"transfer": ["transfer"]},
    {"faces": ["agent", "testing", ""]},
    {"cli": ["cli", "__main__"]},
]


def module_name(path):
    name = os.path.relpath(path, PROJECT).removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def modules():
    found = {}
    for folder, _, files in os.walk(PACKAGE):
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    found[module_name(path)] = ast.parse(file.read(), path)
    return found


MODULES = modules()


def place(module):
    """Layer and room of a module: the longest prefix that fits says."""
    name = module.removeprefix("agenthub").removeprefix(".")
    fitting = [
        (len(prefix), layer, room)
        for layer, rooms in enumerate(LAYERS)
        for room, prefixes in rooms.items()
        for prefix in prefixes
        if name == prefix or (prefix and name.startswith(prefix + "."))
    ]
    if not fitting:
        return None if "." in name else (0, "base")
    return max(fitting)[1:]


def imported(tree):
    """Every module that a tree imports, anywhere in it, type-only imports as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else str(node.module)), node


def own_imports(module):
    for name, node in imported(MODULES[module]):
        if name == "agenthub" or name.startswith("agenthub."):
            yield name, node.lineno


def test_every_module_has_a_room():
    assert [module for module in MODULES if place(module) is None and module != "agenthub.runtime"] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module):
    if module == "agenthub.runtime" or module.startswith(AGENT_SIDE):
        return
    layer, room = place(module)
    wrong = []
    for name, line in own_imports(module):
        if name == "agenthub" and layer >= 2:
            continue  # its version; everything else in it is loaded on demand
        other_layer, other_room = place(name)
        if other_layer > layer or (other_layer == layer and other_room != room):
            wrong.append(f"{module}:{line} ({room}) imports {name} ({other_room})")
    assert wrong == []


def test_nobody_imports_the_command_line():
    importers = {
        module
        for module in MODULES
        for name, _ in own_imports(module)
        if name.startswith("agenthub.cli") and not module.startswith("agenthub.cli") and module != "agenthub.__main__"
    }
    assert importers == set()


def test_the_base_is_the_base():
    for module in ("agenthub.errors", "agenthub.config"):
        assert {name for name, _ in own_imports(module)} <= {
            "agenthub.errors",
            "agenthub.quantities",
            "agenthub.values",
        }


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith(AGENT_SIDE)))
def test_the_agents_side_imports_the_standard_library_alone(module):
    names = {name.partition(".")[0] for name, _ in imported(MODULES[module])} - {"agenthub_agent", "host"}
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith(AGENT_SIDE)))
def test_the_agents_side_is_python_3_8(module):
    path = os.path.join(PROJECT, *module.split("."))
    path = path + ".py" if os.path.exists(path + ".py") else os.path.join(path, "__init__.py")
    with open(path, encoding="utf-8") as file:
        ast.parse(file.read(), feature_version=(3, 8))


def test_modules_are_small():
    sizes = {}
    for module in MODULES:
        path = os.path.join(PROJECT, *module.split("."))
        path = path + ".py" if os.path.exists(path + ".py") else os.path.join(path, "__init__.py")
        with open(path, encoding="utf-8") as file:
            sizes[module] = sum(1 for _ in file)
    assert {module: size for module, size in sizes.items() if size >= 400} == {}


# start-up ----------------------------------------------------------------------------------------------------------

HEAVY = {
    *("asyncio", "dataclasses", "filelock", "importlib.metadata", "inspect", "logging", "packaging", "pathlib"),
    *("psutil", "pydantic", "rich", "shutil", "tempfile", "typer", "urllib", "uv", "virtualenv", "yaml", "tomllib"),
    *("sqlite3", "agenthub.observability.history", "agenthub.observability.database"),
    *(
        "difflib",
        "traceback",
        "typing",
        "agenthub.manifest.reader",
        "agenthub.manifest.schema",
        "agenthub.packages.git",
    ),
    *(
        "agenthub.runtime.agents.installer",
        "agenthub.runtime.environments.builders",
        "agenthub.runtime.environments.interpreters",
    ),
}
HEAVY_FOR_A_RUN = {"argparse", "agenthub.cli.parsers"}
HEAVY_BESIDE_A_WORKER = {
    *("ctypes", "enum", "json", "re", "selectors", "signal", "socket", "subprocess"),
    *("agenthub.runtime.process_manager", "agenthub.runtime.processes.supervisor", "agenthub.runtime.sandbox.seccomp"),
}
_LIST_MODULES = """
import atexit, os, sys
at_start = set(sys.modules)
atexit.register(lambda: open(os.environ["MODULES"], "w").write("\\n".join(set(sys.modules) - at_start)))
sys.argv[:] = sys.argv[1:]
from agenthub.cli.app import main
sys.exit(main(sys.argv))
"""


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("started")
    agents = [
        write_agent(place / "script", "print('{\"result\": 1}')", {"go": method(text="string")}),
        write_agent(
            place / "module", "def go(text=''):\n    return 1", {"go": method(text="string")}, entrypoint="agent"
        ),
    ]
    return install_into(place / "home", "--compile-bytecode", *agents)  # else the first run would do that


@pytest.mark.parametrize(
    "words",
    [
        ["run", "script", "go", "--text", "x"],
        ["run", "module", "go", "--text", "x"],
        ["run", "--json", "module", "go", '{"text": "x"}'],
        ["list"],
        ["list", "--json"],
        ["info", "--json", "script"],
    ],
)
def test_nothing_heavy_is_imported_on_the_way_to_a_run(shared, tmp_path, words):
    heavy = HEAVY | HEAVY_FOR_A_RUN if words[0] == "run" else HEAVY
    assert imported_by(words, shared, tmp_path) & heavy == set()


@pytest.mark.parametrize("words", [["rollback", "module"], ["use", "module@1.0"], ["pin", "module"]])
def test_nothing_heavy_is_imported_on_the_way_to_another_version(two_versions, tmp_path, words):
    assert imported_by(words, two_versions, tmp_path) & HEAVY == set()


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory):
    place, home = tmp_path_factory.mktemp("versions"), ""
    for version in ("1.0", "2.0"):
        agent = write_agent(place / version, "", {"go": method()}, name="module", version=version, entrypoint="agent")
        home = install_into(place / "home", "--force", agent)
    return home


def test_still_less_is_imported_for_a_run_by_a_worker(shared, tmp_path):
    env = {**os.environ, "AGENTHUB_HOME": shared}
    subprocess.run([*COMMAND, "warm", "module"], env=env, check=True, capture_output=True)
    try:
        modules = imported_by(["run", "module", "go", "--text", "x"], shared, tmp_path)
    finally:
        subprocess.run([*COMMAND, "stop", "module"], env=env, check=True, capture_output=True)
    assert "agenthub.runtime.workers.wire" in modules
    assert modules & (HEAVY | HEAVY_FOR_A_RUN | HEAVY_BESIDE_A_WORKER) == set()


def imported_by(words, home, tmp_path):
    """The modules that a command imports."""
    modules = str(tmp_path / "modules")
    env = {**os.environ, "AGENTHUB_HOME": home, "MODULES": modules, "PYTHONPATH": PROJECT}
    # -S: what a developer's environment imports at start-up (editable installs do) is none of our doing.
    done = subprocess.run([sys.executable, "-S", "-c", _LIST_MODULES, *words], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    with open(modules) as file:
        return set(file.read().split())


def test_the_command_is_the_module(shared):
    """`agenthub` on PATH and `python -m agenthub` are the same program."""
    installed = os.path.join(os.path.dirname(sys.executable), "agenthub")
    env = {**os.environ, "AGENTHUB_HOME": shared}
    outputs = {
        subprocess.run([*command, "list"], env=env, capture_output=True, check=True).stdout
        for command in (COMMAND, [installed])
    }
    assert len(outputs) == 1
