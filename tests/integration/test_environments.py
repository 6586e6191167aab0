"""Environments, made by the real uv and the real pip from the real index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from agenthub.config import EnvironmentConfig, RuntimeConfig
from agenthub.errors import AgentNotFoundError, EnvironmentError, InvalidManifestError
from agenthub.manifest import AgentManifest, Entrypoint
from agenthub.runtime.environment_manager import Environment, EnvironmentManager
from agenthub.runtime.environments.dependencies import Dependencies, locked_constraints
from agenthub.runtime.environments.failures import failed_installation
from agenthub.runtime.environments.tools import find_uv, run_tool, tool_environment, uv_config_options

HERE = ".".join(map(str, sys.version_info[:3]))
ANY = ">=3.11"


def manifest(
    dependencies: tuple[str, ...] | str | None = None,
    entrypoint: Entrypoint | None = None,
    python_version: str = ANY,
) -> AgentManifest:
    return AgentManifest(
        name="weather",
        version="1.0.0",
        description="",
        author="",
        license="",
        tags=(),
        schema_version="",
        python_version=python_version,
        methods={},
        entrypoint=entrypoint or Entrypoint("script", "agent.py"),
        dependencies=dependencies,
        commands=(),
        limits={},
        permissions={},
        environment=(),
        extra={},
    )


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    folder = tmp_path / "weather"
    folder.mkdir()
    (folder / "agent.py").write_text("import six\n")
    return folder


@pytest.fixture
def manager() -> EnvironmentManager:
    return EnvironmentManager()


@pytest.fixture
def pip_manager() -> EnvironmentManager:
    runtime = RuntimeConfig()
    runtime.use_uv = False
    return EnvironmentManager(runtime_config=runtime)


def wheel(folder: Path, name: str, version: str = "1.0", *, script: str = "") -> Path:
    """A wheel of one module, with a console script where `script` names one."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "def main():\n    import sys\n    print(sys.prefix)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


def project(agent: Path, *lines: str, dependencies: str = '["six==1.16.0"]', tail: str = "") -> None:
    head = ["[project]", 'name = "weather"', 'version = "1"', f"dependencies = {dependencies}"]
    (agent / "pyproject.toml").write_text("\n".join([*head, *(lines or ('requires-python = ">=3.11"',)), tail]) + "\n")


def lock(agent: Path) -> None:
    subprocess.run([find_uv(), "lock", "--quiet"], cwd=agent, check=True, env=tool_environment())


def prints(environment: Environment | str, code: str) -> str:
    path = environment if isinstance(environment, str) else environment.path
    return subprocess.run(
        [f"{path}/bin/python", "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def left_behind(agent: Path) -> list[str]:
    return sorted(name for name in os.listdir(agent) if name.startswith("venv"))


# ---- the four methods of the interface document


def test_create_is_idempotent_and_empty(manager: EnvironmentManager, agent: Path) -> None:
    manager.config.python_version = ANY
    venv = manager.create_environment(str(agent))
    assert venv == str(agent / "venv")
    before = os.stat(f"{venv}/pyvenv.cfg")
    assert manager.create_environment(str(agent)) == venv
    assert os.stat(f"{venv}/pyvenv.cfg").st_ino == before.st_ino
    assert not (agent / "venv/bin/pip").exists()
    python = manager.get_python_executable(venv)
    assert prints(venv, "import sys; print(sys.prefix)") == os.path.dirname(os.path.dirname(python)) == venv


def test_install_dependencies(manager: EnvironmentManager, agent: Path) -> None:
    manager.config.python_version = ANY
    venv = manager.create_environment(str(agent))
    wheel(agent, "localthing")
    manager.install_dependencies(venv, ["six==1.16.0", "./localthing-1.0-py3-none-any.whl"])
    assert prints(venv, "import six, localthing; print(six.__version__)") == "1.16.0"
    manager.install_dependencies(venv, [])
    with pytest.raises(EnvironmentError, match="no environment"):
        manager.install_dependencies(str(agent / "elsewhere"), ["six"])


def test_create_replaces_a_broken_one(manager: EnvironmentManager, agent: Path) -> None:
    manager.config.python_version = ANY
    venv = manager.create_environment(str(agent))
    os.unlink(f"{venv}/bin/python")
    os.symlink("/gone/python", f"{venv}/bin/python")
    assert manager.create_environment(str(agent)) == venv
    assert manager.check(venv, deep=True) == []
    assert left_behind(agent) == ["venv"]


def test_create_leaves_other_things_alone(manager: EnvironmentManager, agent: Path) -> None:
    (agent / "venv").mkdir()
    (agent / "venv/thesis.txt").write_text("years of work")
    with pytest.raises(EnvironmentError, match="is not an environment"):
        manager.create_environment(str(agent))
    assert (agent / "venv/thesis.txt").read_text() == "years of work"


def test_create_for_no_agent(manager: EnvironmentManager, tmp_path: Path) -> None:
    with pytest.raises(AgentNotFoundError):
        manager.create_environment(str(tmp_path / "absent"))


def test_activate(manager: EnvironmentManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    monkeypatch.setenv("PATH", "/usr/bin")
    variables = manager.activate_environment("/agents/weather/venv")
    assert variables == {"VIRTUAL_ENV": "/agents/weather/venv", "PATH": "/agents/weather/venv/bin:/usr/bin"}


# ---- where dependencies come from


def test_sources(manager: EnvironmentManager, agent: Path) -> None:
    def kind(dependencies: tuple[str, ...] | str | None = None) -> str:
        return manager.dependency_source(str(agent), manifest(dependencies)).kind

    assert kind() == "none"
    (agent / "requirements.txt").write_text("six\n")
    (agent / "uv.lock").touch()
    assert kind() == "requirements.txt"
    project(agent)
    assert kind() == kind("pyproject.toml") == kind("uv.lock") == "uv.lock"
    (agent / "uv.lock").unlink()
    assert kind() == kind("pyproject.toml") == "pyproject.toml"
    assert kind("requirements.txt") == "requirements.txt"
    assert kind(()) == "manifest"
    assert manager.dependency_source(str(agent), manifest(("six",))) == Dependencies("manifest", ("six",))


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.txt", "uv.lock", "setup.py", "../requirements.txt"])
def test_a_source_that_is_not_there(manager: EnvironmentManager, agent: Path, name: str) -> None:
    with pytest.raises(InvalidManifestError, match="weather: "):
        manager.build(str(agent), manifest(name))
    assert left_behind(agent) == []


# ---- build, by uv


def test_from_the_manifest(manager: EnvironmentManager, agent: Path) -> None:
    lines: list[str] = []
    built = manager.build(str(agent), manifest(("six==1.16.0", "idna")), on_progress=lines.append)
    assert built.path == str(agent / "venv")
    assert built.version == HERE
    assert built.kind == "manifest"
    assert [name for name, _ in built.dependencies] == ["idna", "six"]
    assert dict(built.dependencies)["six"] == "1.16.0"
    assert built.size > 100_000
    assert built.seconds > 0
    assert any("six==1.16.0" in line for line in lines)
    assert manager.check(built.path, built.dependencies, deep=True) == []
    assert left_behind(agent) == ["venv"]


def test_nothing_to_install(manager: EnvironmentManager, agent: Path) -> None:
    assert manager.build(str(agent), manifest()).dependencies == []


def test_extra_requirements(manager: EnvironmentManager, agent: Path) -> None:
    built = manager.build(str(agent), manifest(("idna",)), extra=["six"])
    assert [name for name, _ in built.dependencies] == ["idna", "six"]


def test_requirements_file_with_relative_paths(manager: EnvironmentManager, agent: Path) -> None:
    wheel(agent, "localthing")
    (agent / "more.txt").write_text("six==1.16.0\n")
    (agent / "requirements.txt").write_text("-r more.txt\n./localthing-1.0-py3-none-any.whl\n")
    built = manager.build(str(agent), manifest())
    assert built.dependencies == [("localthing", "1.0"), ("six", "1.16.0")]


def test_lock_is_followed_exactly(manager: EnvironmentManager, agent: Path) -> None:
    """Also where the project asks for more by now, its interpreter file for another, and it has a dev group."""
    project(agent, 'requires-python = ">=3.11"', tail='[dependency-groups]\ndev = ["packaging"]')
    lock(agent)
    locked = (agent / "uv.lock").read_bytes()
    project(agent, dependencies='["six"]')
    (agent / ".python-version").write_text("3.8\n")
    before = set(os.listdir(agent))
    built = manager.build(str(agent), manifest())
    assert built.kind == "uv.lock"
    assert built.dependencies == [("six", "1.16.0")]
    assert (agent / "uv.lock").read_bytes() == locked
    assert set(os.listdir(agent)) - before == {"venv"}
    assert "relocatable = true" in (agent / "venv/pyvenv.cfg").read_text()


def test_project_file(manager: EnvironmentManager, agent: Path) -> None:
    project(agent)
    built = manager.build(str(agent), manifest())
    assert (built.kind, built.dependencies) == ("pyproject.toml", [("six", "1.16.0")])


def test_python_of_the_project_file_counts(manager: EnvironmentManager, agent: Path) -> None:
    project(agent, 'requires-python = ">=3.29"')
    with pytest.raises(EnvironmentError, match=r"weather needs Python >=3\.11,>=3\.29; this machine has"):
        manager.build(str(agent), manifest())
    built = manager.build(str(agent), manifest(()), python=ANY)
    assert built.version == HERE


BACKEND = """
import os, zipfile
META = "Metadata-Version: 2.1\\nName: weather\\nVersion: 1\\nRequires-Dist: six==1.16.0\\n"
TAGS = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
def build_wheel(folder, config_settings=None, metadata_directory=None):
    if os.path.exists("broken"):
        raise SystemExit("the flux compensator is missing")
    info, name = "weather-1.dist-info", "weather-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.write("src/weather/__init__.py", "weather/__init__.py")
        archive.writestr(f"{info}/METADATA", META)
        archive.writestr(f"{info}/WHEEL", TAGS)
        names = ["weather/__init__.py", *(f"{info}/{file}" for file in ("METADATA", "WHEEL", "RECORD"))]
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\\n" for file in names))
    return name
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]'
PACKAGE = Entrypoint("python", "weather:Weather")


def src_layout(agent: Path) -> None:
    project(agent, 'requires-python = ">=3.11"', tail=BUILD_SYSTEM)
    (agent / "backend.py").write_text(BACKEND)
    (agent / "src/weather").mkdir(parents=True)
    (agent / "src/weather/__init__.py").write_text("answer = 1\n")


@pytest.mark.parametrize("locked", [True, False])
def test_project_is_installed_where_its_entry_point_needs_it(
    manager: EnvironmentManager, agent: Path, locked: bool
) -> None:
    src_layout(agent)
    if locked:
        lock(agent)
    built = manager.build(str(agent), manifest(entrypoint=PACKAGE))
    assert built.dependencies == [("six", "1.16.0"), ("weather", "1")]
    where = prints(built, "import weather; print(weather.__file__)")
    assert where.startswith(built.path), "installed as a link to the source"
    (agent / "src/weather/__init__.py").write_text("answer = 2\n")
    assert (
        prints(manager.build(str(agent), manifest(entrypoint=PACKAGE)), "import weather; print(weather.answer)") == "2"
    )


@pytest.mark.parametrize("locked", [True, False])
def test_project_is_not_built_where_its_directory_is_enough(
    manager: EnvironmentManager, agent: Path, locked: bool
) -> None:
    src_layout(agent)
    if locked:
        lock(agent)
    (agent / "broken").touch()
    assert manager.build(str(agent), manifest()).dependencies == [("six", "1.16.0")]


def test_environment_can_be_moved(manager: EnvironmentManager, agent: Path, tmp_path: Path) -> None:
    wheel(agent, "localthing", script="where")
    built = manager.build(str(agent), manifest(("./localthing-1.0-py3-none-any.whl",)))
    moved = tmp_path / "moved"
    os.rename(built.path, moved)
    assert subprocess.run([moved / "bin/where"], capture_output=True, text=True, check=True).stdout.strip() == str(
        moved
    )
    assert manager.check(str(moved), built.dependencies, deep=True) == []


def test_a_second_build_replaces_the_first(manager: EnvironmentManager, agent: Path) -> None:
    manager.build(str(agent), manifest(("six",)))
    assert [name for name, _ in manager.build(str(agent), manifest(("idna",))).dependencies] == ["idna"]
    assert left_behind(agent) == ["venv"]


def test_what_a_killed_build_left_is_swept(manager: EnvironmentManager, agent: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f"venv.{ended.pid}.partial", f"venv.{ended.pid}.old", f"venv.{os.getppid()}.partial"):
        (agent / name / "lib").mkdir(parents=True)
    manager.build(str(agent), manifest())
    assert left_behind(agent) == ["venv", f"venv.{os.getppid()}.partial"]


def test_workshop(agent: Path, tmp_path: Path) -> None:
    """Environments are built at a recurring path, each builder at its own, and nothing stays there."""
    workshop = tmp_path / "workshop"
    manager = EnvironmentManager(workshop=str(workshop))
    wheel(agent, "localthing", script="where")
    required = manifest(("./localthing-1.0-py3-none-any.whl",))
    other = str(tmp_path / "other")
    built: list[Environment] = []

    def build_another(line: str) -> None:
        if not built:
            built.append(manager.build(str(agent), required, venv_path=other))

    built.append(manager.build(str(agent), required, on_progress=build_another))
    for environment, place in zip(built, (other, str(agent / "venv")), strict=True):
        assert environment.path == place
        ran = subprocess.run([f"{place}/bin/where"], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == place
    with pytest.raises(EnvironmentError):
        manager.build(str(agent), manifest(("six====",)))
    assert {name.rpartition(".")[2] for name in os.listdir(workshop)} == {"lock"}
    assert len(os.listdir(workshop)) == 2
    assert left_behind(agent) == ["venv"]


# ---- what fails


def test_no_such_version(manager: EnvironmentManager, agent: Path) -> None:
    manager.build(str(agent), manifest(("idna",)))
    with pytest.raises(EnvironmentError) as caught:
        manager.build(str(agent), manifest(("idna", "six==99")))
    assert caught.value.message == "cannot install 'six==99' for weather: no version of it fits"
    assert "there is no version of six==99" in "\n".join(caught.value.details)
    assert left_behind(agent) == ["venv"], "the old environment stays, and nothing else"
    assert prints(str(agent / "venv"), "import idna") == ""


def test_no_such_package(
    manager: EnvironmentManager, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"file://{tmp_path}/index")
    with pytest.raises(EnvironmentError) as caught:
        manager.build(str(agent), manifest(("nosuchthing",)))
    assert caught.value.message == "cannot install 'nosuchthing' for weather: there is no such package"
    assert caught.value.suggestion
    assert left_behind(agent) == []


@pytest.mark.parametrize("tool", ["manager", "pip_manager"])
def test_build_that_fails(request: pytest.FixtureRequest, agent: Path, tmp_path: Path, tool: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    src_layout(source)
    (source / "broken").touch()
    manager: EnvironmentManager = request.getfixturevalue(tool)
    with pytest.raises(EnvironmentError) as caught:
        manager.build(str(agent), manifest((f"weather @ file://{source}",)))
    assert caught.value.message == "cannot install 'weather' for weather: it could not be built"
    assert "the flux compensator is missing" in "\n".join(caught.value.details)
    assert left_behind(agent) == []


@pytest.mark.parametrize("requirement", ["--index-url=http://127.0.0.1:9/", "-e .", "", "six\n--pre", "six===="])
def test_not_a_requirement(manager: EnvironmentManager, agent: Path, requirement: str) -> None:
    with pytest.raises(EnvironmentError, match="is not written as a requirement"):
        manager.build(str(agent), manifest((requirement,)))
    assert left_behind(agent) == []


def test_offline(agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(EnvironmentError) as caught:
        EnvironmentManager(offline=True).build(str(agent), manifest(("six",)))
    assert "'six" in caught.value.message
    assert "the network is off" in caught.value.message
    assert "--offline" in (caught.value.suggestion or "")


def test_no_network(manager: EnvironmentManager, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    manager.config.dependency_cache = False
    with pytest.raises(EnvironmentError, match="cannot install 'six' for weather: the package index cannot be reached"):
        manager.build(str(agent), manifest(("six",)))


def test_no_space_left_is_said() -> None:
    """uv's own words, as it wrote them on a tmpfs of 300 kB."""
    lines = [
        "Resolved 5 packages in 148ms",
        "warning: Failed to hardlink files; falling back to full copy.",
        "error: Failed to install: certifi-2026.10.19-py3-none-any.whl (certifi==2026.10.19)",
        "  cause: failed to copy file from /c/cacert.pem to /v/.tmpNapAjN: No space left on device (os error 28)",
    ]
    error = failed_installation("weather", "uv", lines)
    assert error.message == "cannot install 'certifi==2026.10.19' for weather: no space is left on the device"
    assert error.details == tuple(lines[2:])


def test_too_large(manager: EnvironmentManager, agent: Path) -> None:
    manager.config.max_venv_size = 0.01
    with pytest.raises(EnvironmentError, match=r"environment of weather has .* over the .* of max_venv_size"):
        manager.build(str(agent), manifest(("six",)))
    assert left_behind(agent) == []
    manager.config.max_venv_size = 0
    manager.build(str(agent), manifest(("six",)))


def test_failed_builds_stay_without_auto_cleanup(agent: Path) -> None:
    config = EnvironmentConfig()
    config.auto_cleanup = False
    with pytest.raises(EnvironmentError):
        EnvironmentManager(config).build(str(agent), manifest(("six====",)))
    assert left_behind(agent) == [f"venv.{os.getpid()}.partial"]


def test_uv_is_missing(agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agenthub.runtime.environments.tools.sys.executable", str(tmp_path / "python"))
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(EnvironmentError) as caught:
        EnvironmentManager().build(str(agent), manifest(("six",)))
    assert "uv" in caught.value.message
    assert "AGENTHUB_USE_UV=false" in (caught.value.suggestion or "")


# ---- what is wrong with one


def test_problems(manager: EnvironmentManager, agent: Path, tmp_path: Path) -> None:
    base = tmp_path / "base/bin/python"
    base.parent.mkdir(parents=True)
    os.symlink(sys.executable, base)
    built = manager.build(str(agent), manifest(("six", "idna")))
    venv = Path(built.path)

    def found(deep: bool = False) -> list[str]:
        return manager.check(str(venv), built.dependencies, deep=deep)

    assert found(deep=True) == []
    (module,) = venv.glob("lib/*/site-packages/six.py")
    module.rename(tmp_path / "six.py")
    assert found() == []
    (problem,) = found(deep=True)
    assert problem.startswith("six-")
    assert "six.py" in problem

    (info,) = venv.glob("lib/*/site-packages/idna-*.dist-info")
    shutil.rmtree(info)
    (problem,) = found()
    assert problem.startswith("idna ")
    assert problem.endswith("is missing")

    os.unlink(venv / "bin/python")
    os.symlink(base, venv / "bin/python")
    base.unlink()
    assert f"its interpreter {base} is gone" in found()
    with pytest.raises(EnvironmentError, match=f"is broken: its interpreter {base} is gone"):
        manager.get_python_executable(str(venv))

    (venv / "pyvenv.cfg").unlink()
    assert "its pyvenv.cfg is missing" in found()
    shutil.rmtree(venv / "lib")
    assert "its site-packages directory is missing" in found()
    shutil.rmtree(venv)
    assert found() == [f"there is no environment at {venv}"]


def test_an_interpreter_that_does_not_start(manager: EnvironmentManager, agent: Path) -> None:
    venv = Path(manager.build(str(agent), manifest()).path)
    os.unlink(venv / "bin/python")
    (venv / "bin/python").write_text("#!/bin/sh\necho 'libpython is missing' >&2\nexit 127\n")
    (venv / "bin/python").chmod(0o755)
    assert manager.check(str(venv)) == []
    assert manager.check(str(venv), deep=True) == ["its interpreter does not start: libpython is missing"]


def test_another_version_than_installed(manager: EnvironmentManager, agent: Path) -> None:
    built = manager.build(str(agent), manifest(("six==1.16.0",)))
    assert manager.check(built.path, [("six", "1.17.0")]) == ["six is 1.16.0 instead of 1.17.0"]


# ---- hostile surroundings


def test_variables_do_not_redirect(manager: EnvironmentManager, agent: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    project(agent)
    lock(agent)
    redirects = (
        "VIRTUAL_ENV UV_PROJECT_ENVIRONMENT CONDA_PREFIX UV_PROJECT UV_WORKING_DIR PYTHONHOME PYTHONPATH PIP_TARGET"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in redirects.split():
            patch.setenv(name, str(canary))
        for name in ("UV_SYSTEM_PYTHON", "UV_LOCKED", "UV_ISOLATED", "UV_NO_SYNC", "UV_VENV_SEED"):
            patch.setenv(name, "1")
        patch.setenv("UV_PYTHON", "3.8")
        built = manager.build(str(agent), manifest())
    assert built.dependencies == [("six", "1.16.0")]
    assert list(canary.iterdir()) == []


def test_keys_do_not_reach_the_tools() -> None:
    environ = {"OPENAI_API_KEY": "secret", "UV_INDEX_CORP_PASSWORD": "mine", "UV_CACHE_DIR": "cache", "PATH": "/bin"}
    kept = tool_environment("/v", environ)
    assert "OPENAI_API_KEY" not in kept
    assert kept["UV_INDEX_CORP_PASSWORD"] == "mine"
    assert kept["UV_CACHE_DIR"] == os.path.abspath("cache")
    assert kept["VIRTUAL_ENV"] == kept["UV_PROJECT_ENVIRONMENT"] == "/v"


@pytest.mark.parametrize("locked", [True, False])
def test_agent_does_not_configure_uv(manager: EnvironmentManager, agent: Path, tmp_path: Path, locked: bool) -> None:
    """Its settings are not read, but the indexes that its sources name are part of the project."""
    index = tmp_path / "weather/wheels"
    index.mkdir()
    wheel(index, "onlyhere")
    project(
        agent,
        'requires-python = ">=3.11"',
        dependencies='["onlyhere"]',
        tail=f"""
[tool.uv.sources]
onlyhere = {{ index = "ours" }}
[[tool.uv.index]]
name = "ours"
url = "./wheels"
format = "flat"
explicit = true
[tool.uv]
cache-dir = "{tmp_path}/hostile"
""",
    )
    if locked:
        subprocess.run([find_uv(), "lock", "-q"], cwd=agent, check=True, env=tool_environment())
        shutil.rmtree(tmp_path / "hostile")
    assert manager.build(str(agent), manifest()).dependencies == [("onlyhere", "1.0")]
    assert not (tmp_path / "hostile").exists()


def test_users_configuration_counts(tmp_path: Path) -> None:
    environ = {
        "XDG_CONFIG_HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path / "system"),
        "UV_NO_SYSTEM_CONFIG": "1",
    }
    assert uv_config_options(environ) == ["--no-config"]
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").touch()
    assert uv_config_options(environ) == ["--config-file", str(tmp_path / "uv/uv.toml")]
    assert uv_config_options({"UV_CONFIG_FILE": "/mine"}) == []


# ---- the tools as processes


def run_shell(script: str, **options: object) -> tuple[int, list[str]]:
    finished = run_tool(["/bin/sh", "-c", script], cwd="/", env={"PATH": os.environ["PATH"]}, **options)  # type: ignore[arg-type]
    return finished.code, finished.lines


def test_tool_output_is_bounded() -> None:
    code, lines = run_shell("yes 0123456789 | head -c 3000000; head -c 100000 /dev/zero; echo; echo last; exit 3")
    assert code == 3
    assert lines[-1] == "last"
    assert len(lines) <= 2000
    assert max(map(len, lines)) <= 4096 + 65536


def alive(fifo: Path) -> int:
    """A descriptor that is at its end when no process holds the other end."""
    os.mkfifo(fifo)
    return os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)


def wait_for_end(descriptor: int) -> None:
    os.set_blocking(descriptor, True)
    assert os.read(descriptor, 100) in (b"", b"x")
    while os.read(descriptor, 100):
        pass
    os.close(descriptor)


def test_interruption_kills_the_whole_group(tmp_path: Path) -> None:
    reader = alive(tmp_path / "fifo")

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    script = f"exec 9>{tmp_path}/fifo; printf x >&9; sleep 600 & echo started; wait"
    with pytest.raises(KeyboardInterrupt):
        run_shell(script, on_line=interrupt)
    wait_for_end(reader)


def test_deadline(tmp_path: Path) -> None:
    reader = alive(tmp_path / "fifo")
    with pytest.raises(EnvironmentError, match="still running after"):
        run_shell(f"exec 9>{tmp_path}/fifo; printf x >&9; sleep 600", timeout=0.3)
    wait_for_end(reader)


def test_a_leftover_does_not_hold_us(tmp_path: Path) -> None:
    """A build's daemon that keeps the output open is ended with the tool."""
    reader = alive(tmp_path / "fifo")
    started = time.monotonic()
    code, lines = run_shell(f"exec 9>{tmp_path}/fifo; printf x >&9; sleep 600 & echo done")
    assert (code, lines) == (0, ["done"])
    assert time.monotonic() - started < 60
    wait_for_end(reader)


def test_tool_that_is_not_there() -> None:
    with pytest.raises(EnvironmentError, match="cannot start /nowhere/tool"):
        run_tool(["/nowhere/tool"], cwd="/", env={})


# ---- without uv


def test_pip_path(
    pip_manager: EnvironmentManager, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agenthub.runtime.environments.builders.find_uv", lambda: pytest.fail("uv was looked for"))
    wheel(agent, "localthing", script="where")
    project(agent, dependencies='["six>=1.10"]')
    # A lock of one version and of several: what pip can follow of it.
    (agent / "uv.lock").write_text(
        'version = 1\n[[package]]\nname = "six"\nversion = "1.16.0"\nsource = { registry = "r" }\n'
        '[[package]]\nname = "idna"\nversion = "3.6"\nsource = { registry = "r" }\n'
        '[[package]]\nname = "idna"\nversion = "3.7"\nsource = { registry = "r" }\n'
        '[[package]]\nname = "weather"\nversion = "1"\nsource = { virtual = "." }\n'
    )
    assert locked_constraints(str(agent)) == ["six==1.16.0"]
    built = pip_manager.build(str(agent), manifest(), extra=["./localthing-1.0-py3-none-any.whl"])
    assert built.kind == "uv.lock"
    assert built.dependencies == [("localthing", "1.0"), ("six", "1.16.0")]
    moved = tmp_path / "moved"
    os.rename(built.path, moved)
    assert subprocess.run([moved / "bin/where"], capture_output=True, text=True, check=True).stdout.strip() == str(
        moved
    )
    assert pip_manager.check(str(moved), built.dependencies, deep=True) == []


def test_pip_offline_and_its_errors(agent: Path) -> None:
    runtime = RuntimeConfig()
    runtime.use_uv = False
    manager = EnvironmentManager(runtime_config=runtime, offline=True)
    assert manager.build(str(agent), manifest()).dependencies == []
    with pytest.raises(EnvironmentError, match="cannot install 'nosuchthing' for weather: there is no such package"):
        manager.build(str(agent), manifest(("nosuchthing",)))
    assert left_behind(agent) == ["venv"]
