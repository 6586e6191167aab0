"""`make bench`: the figures of docs/reference/speed.md, each a ratio to something measured in the same run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from tests.benchmarks.batches import batch_rows
from tests.benchmarks.history import history_rows
from tests.benchmarks.indexes import index_rows
from tests.benchmarks.isolation import isolation_rows
from tests.benchmarks.measure import Row, command, compare, peak_rss, table
from tests.benchmarks.projects import project_rows
from tests.benchmarks.versions import version_rows
from tests.benchmarks.warm import warm_rows
from tests.integration.openai_server import KEY, OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BIN = os.path.dirname(sys.executable)
AGENTHUB = os.path.join(BIN, "agenthub")
UV = os.path.join(BIN, "uv")
SAMPLES = os.path.join(os.path.dirname(__file__), "..", "..", "sample_agents")
MB = 1024 * 1024

MANIFEST = """\
name: {name}
version: "1.0"
description: a benchmark
author: agenthub
entrypoint: {entrypoint}
dependencies: {dependencies}
python_version: ">=3.11"
interface: {{methods: {{go: {{description: does nothing}}}}}}
"""
# What a call of a real one does, against an endpoint on loopback.
LLM_CALL = """\
import openai
client = openai.OpenAI()
message = {"role": "user", "content": "hello"}
client.chat.completions.create(model="m", messages=[message])"""
SCRIPT = """\
import json, sys
{imports}
request = json.loads(sys.argv[1])
with open("/proc/self/smaps_rollup") as file:
    own = sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))
print(json.dumps({{"result": own}}))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as work, OpenAIServer() as server:
        env = {**os.environ, "AGENTHUB_HOME": os.path.join(work, "home"), "CI": "1"}
        env |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # users have their bytecode cached
        trivial = write_agent(work, "trivial", "agent", "[]", "def go():\n    return 1\n")
        heavy = write_agent(work, "heavy", "agent.py", "[openai]", SCRIPT.format(imports=LLM_CALL))
        imports = [
            write_agent(work, f"imports-{name}", "agent.py", f"[{name}]", SCRIPT.format(imports=f"import {name}"))
            for name in ("openai", "pandas")
        ]
        run_checked([AGENTHUB, "install", "--yes", "--compile-bytecode", trivial, heavy, *imports], env)
        tool = trivial_tool(env["AGENTHUB_HOME"], env)
        rows = [
            *starting(work, env),
            *running(env, tool),
            *warm_rows(env, tool, {"imports-openai": 0.2, "imports-pandas": 0.15}),
            *installing(work, env, trivial),
            *scaling(work, env),
            *isolation_rows(),
            *history_rows(work, env),
            *batch_rows(work, env),
            *project_rows(work, env, tool),
            *index_rows(work, env, tool),
            *version_rows(work, env, tool),
        ]
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


def starting(work: str, env: Mapping[str, str]) -> list[Row]:
    python = sys.executable
    bare = command([python, "-c", "pass"], env)
    return [compare("import agenthub / python -c pass", 2, command([python, "-c", "import agenthub"], env), bare)]


def running(env: Mapping[str, str], tool: Callable[[], float]) -> list[Row]:
    home = env["AGENTHUB_HOME"]
    run = command([AGENTHUB, "run", "trivial", "go"], env)
    by_hand = [
        os.path.join(home, "agents/local/heavy/venv/bin/python"),
        "agent.py",
        '{"method": "go", "parameters": {}}',
    ]
    directory = os.path.join(home, "agents/local/heavy")
    rows = [
        compare("run of a trivial agent / uvx --offline of a trivial tool", 0.6, run, tool),
        compare(
            "run of an agent that asks a model by openai / its script by hand",
            1.10,
            command([AGENTHUB, "run", "--env", "OPENAI_API_KEY", "--env", "OPENAI_BASE_URL", "heavy", "go"], env),
            command(by_hand, env, cwd=directory),
        ),
    ]
    peak = max(peak_rss([AGENTHUB, "run", "trivial", "go"], env) for _ in range(5))
    rows.append(Row("our own peak memory during a run / 40 MB", f"{peak / MB:.1f} MB", "40 MB", peak / (40 * MB), 1))
    return rows


def trivial_tool(home: str, env: Mapping[str, str]):  # type: ignore[no-untyped-def]
    """`uvx --offline` of a tool that prints a line: what a user would type instead."""
    project = os.path.join(home, "..", "tool")
    os.makedirs(os.path.join(project, "src", "trivial_tool"))
    with open(os.path.join(project, "pyproject.toml"), "w") as file:
        file.write(
            '[project]\nname = "trivial-tool"\nversion = "1.0"\n[project.scripts]\ntrivial-tool = "trivial_tool:main"\n'
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        )
    with open(os.path.join(project, "src", "trivial_tool", "__init__.py"), "w") as file:
        file.write("def main():\n    print(1)\n")
    tools = {**env, "UV_TOOL_DIR": os.path.join(project, "tools"), "UV_TOOL_BIN_DIR": os.path.join(project, "bin")}
    run_checked([UV, "tool", "install", "--quiet", project], tools)
    return command([UV, "tool", "run", "--offline", "trivial-tool"], tools)


def installing(work: str, env: Mapping[str, str], trivial: str) -> list[Row]:
    counter = iter(range(1_000_000))
    data = os.path.join(SAMPLES, "data-analyst")
    with open(os.path.join(env["AGENTHUB_HOME"], "agents/local/trivial/.agenthub/record.json")) as file:
        python = json.load(file)["interpreter"]["path"]

    def install(directory: str) -> float:
        home = os.path.join(work, f"home-{next(counter)}")
        seconds = command([AGENTHUB, "install", "--yes", "--quiet", directory], {**env, "AGENTHUB_HOME": home})()
        shutil.rmtree(home)
        return seconds

    def bare(requirements: list[str]) -> float:
        venv = os.path.join(work, f"bare-{next(counter)}")
        seconds = command([UV, "venv", "--quiet", "--python", python, venv], env)()
        fill = [UV, "pip", "install", "--quiet", "--python", f"{venv}/bin/python", *requirements]
        seconds += command(fill, env)()
        shutil.rmtree(venv)
        return seconds

    from agenthub.manifest import read_manifest

    dependencies = read_manifest(data).dependencies
    assert isinstance(dependencies, tuple)
    nothing = compare("", 1, lambda: install(trivial), lambda: 1.0, times=7)
    return [
        Row("install of an agent without dependencies / 1 s", nothing.ours, "1 s", nothing.ratio, 1),
        compare(
            "install of data-analyst, warm / bare uv venv + uv pip install",
            1.3,
            lambda: install(data),
            lambda: bare(list(dependencies)),
            times=11,
        ),
    ]


def scaling(work: str, env: Mapping[str, str]) -> list[Row]:
    """The same commands with 10 and with 1,000 installed agents."""
    few, many = clone_agents(work, env, 10), clone_agents(work, env, 1000)
    rows = []
    for words in (["list"], ["info", "trivial-5"], ["run", "trivial-5", "go"]):
        pair = [command([AGENTHUB, *words], home) for home in (many, few)]
        rows.append(compare(f"{words[0]} with 1,000 installed agents / with 10", 1.2, *pair))
    return rows


def clone_agents(work: str, env: Mapping[str, str], count: int) -> dict[str, str]:
    """A store with `count` agents: the installed trivial one under other names, its files shared."""
    source = os.path.realpath(os.path.join(env["AGENTHUB_HOME"], "agents/local/trivial"))
    home = os.path.join(work, f"home-of-{count}")
    os.makedirs(os.path.join(home, "agents/local"))
    shutil.copy(os.path.join(env["AGENTHUB_HOME"], "store.json"), home)
    with open(os.path.join(source, ".agenthub/record.json")) as file:
        record = json.load(file)
    for number in range(count):
        name = f"trivial-{number}"
        place = os.path.join(home, "versions/local", name, "1.0-000000000000")
        os.makedirs(os.path.join(place, ".agenthub"))
        for shared in ("agent.py", "agent.yaml"):
            os.link(os.path.join(source, shared), os.path.join(place, shared))
        shutil.copytree(f"{source}/venv", f"{place}/venv", symlinks=True, copy_function=os.link)
        with open(os.path.join(place, ".agenthub/record.json"), "w") as file:
            json.dump({**record, "name": name}, file)
        os.symlink(f"../../versions/local/{name}/1.0-000000000000", os.path.join(home, "agents/local", name))
    return {**env, "AGENTHUB_HOME": home}


def write_agent(work: str, name: str, entrypoint: str, dependencies: str, code: str) -> str:
    directory = os.path.join(work, name)
    os.makedirs(directory)
    with open(os.path.join(directory, "agent.yaml"), "w") as file:
        file.write(MANIFEST.format(name=name, entrypoint=entrypoint, dependencies=dependencies))
    with open(os.path.join(directory, "agent.py"), "w") as file:
        file.write(code)
    return directory


def run_checked(argv: list[str], env: Mapping[str, str]) -> None:
    subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
