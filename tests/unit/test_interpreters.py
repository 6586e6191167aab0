"""Which interpreter a request gets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agenthub.errors import EnvironmentError, InvalidInputError
from agenthub.runtime.environments import interpreters
from agenthub.runtime.environments.interpreters import Interpreter, find_interpreter, matcher, own_interpreter

HERE = ".".join(map(str, sys.version_info[:3]))
SERIES = ".".join(map(str, sys.version_info[:2]))


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with no interpreter but the running one; the returned directory is its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("UV_PYTHON_INSTALL_DIR", "PYENV_ROOT", "ASDF_DATA_DIR", "MISE_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return folder


@pytest.mark.parametrize(
    ("request_", "version", "fits"),
    [
        (">=3.11", (3, 11, 0), True),
        (">=3.11", (3, 10, 14), False),
        (">=3.11,<3.13", (3, 12, 9), True),
        (">=3.11,<3.13", (3, 13, 0), False),
        ("3.12", (3, 12, 4), True),
        ("3.12", (3, 13, 0), False),
        ("3", (3, 99, 0), True),
        ("3.11.7", (3, 11, 7), True),
        ("3.11.7", (3, 11, 8), False),
        ("3.11+", (3, 14, 0), True),
        ("==3.12", (3, 12, 1), False),
        ("==3.12.*", (3, 12, 1), True),
        ("!=3.12.*,>=3.11", (3, 12, 1), False),
        ("!=3.12.*,>=3.11", (3, 13, 1), True),
        ("~=3.11", (3, 14, 0), True),
        ("~=3.11.2", (3, 11, 9), True),
        ("~=3.11.2", (3, 12, 0), False),
        ("<=3.12", (3, 12, 1), False),
        (">3.11", (3, 11, 1), True),
        (" >= 3.11 , < 4 ", (3, 11, 0), True),
        (">=3.13.0rc1", (3, 13, 0), True),
        (">=3.13.0rc1", (3, 12, 9), False),
    ],
)
def test_ranges(request_: str, version: tuple[int, int, int], fits: bool) -> None:
    assert matcher(request_)(version) is fits


@pytest.mark.parametrize("request_", [">=3.8", ">=3.11,!=3.11.0", "==3.12.*", "~=3.11.2", "<3.13,>3.11.1", "!=3.12.4"])
def test_own_comparison_agrees_with_packaging(request_: str) -> None:
    from packaging.specifiers import SpecifierSet

    specifiers, accepts = SpecifierSet(request_), matcher(request_)
    for minor in range(6, 16):
        for patch in range(6):
            assert accepts((3, minor, patch)) is specifiers.contains(f"3.{minor}.{patch}"), (request_, minor, patch)


@pytest.mark.parametrize("request_", ["three", ">=", "3.11 or so", ">=3.11;<4"])
def test_nonsense_is_bad_input(request_: str) -> None:
    with pytest.raises(InvalidInputError, match="not a Python version"):
        find_interpreter(request_)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("request_", [">=3.8", SERIES, HERE, f"{SERIES}+", own_interpreter().path])
def test_the_running_interpreter_costs_no_process(request_: str) -> None:
    found = find_interpreter(request_)
    assert found == own_interpreter()
    assert found.version == HERE
    assert os.path.isabs(found.path)
    assert not found.path.startswith(sys.prefix + os.sep) or sys.prefix == sys.base_prefix


@pytest.mark.usefixtures("no_process")
def test_no_request_takes_the_preferred_version() -> None:
    assert find_interpreter("", preferred=SERIES) == own_interpreter()


@pytest.mark.usefixtures("bare_machine")
def test_no_request_takes_what_is_there_where_the_preferred_is_not() -> None:
    assert find_interpreter("", preferred="3.28") == own_interpreter()


def fake(path: Path, version: str, level: str = "final") -> Path:
    """A program that answers the probe as an interpreter does, and is a binary to look at (no `#!`)."""
    script = executable(Path(f"{path}.real"), f"#!/bin/sh\nprintf '%s\\n' {version} {level} {path}\n")
    # An ELF program that runs a script would need a compiler; a shell runs files without a first line as well.
    executable(path, f'\nexec {script} "$@"\n')
    return path


@pytest.fixture
def through_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start files that have neither `#!` nor an ELF header by the shell, as shells do."""
    run = subprocess.run

    def patched(argv: list[str], **options: object) -> object:
        return run(["/bin/sh", *argv] if ".real" not in argv[0] and "python3" in argv[0] else argv, **options)

    monkeypatch.setattr(subprocess, "run", patched)


@pytest.mark.usefixtures("through_shell")
def test_path_is_searched_and_shims_are_not_started(bare_machine: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    executable(bare_machine / "python3.27", f"#!/bin/sh\ntouch {started}\nexit 127\n")
    assert interpreters._search(matcher("3.27"), 12) is None
    assert not started.exists()
    second = tmp_path / "second"
    second.mkdir()
    os.environ["PATH"] += f":{second}"
    fake(second / "python3.27", "3.27.4")
    assert find_interpreter("3.27") == Interpreter(str(second / "python3.27"), "3.27.4")


@pytest.mark.usefixtures("through_shell")
def test_nearest_to_the_preferred_version_wins(bare_machine: Path) -> None:
    for minor in (26, 27, 29):
        fake(bare_machine / f"python3.{minor}", f"3.{minor}.0")
    assert find_interpreter(">=3.26", preferred="3.12").version == "3.26.0"
    assert find_interpreter(">=3.26", preferred="3.28").version in ("3.27.0", "3.29.0")


@pytest.mark.usefixtures("through_shell")
def test_pre_releases_and_broken_ones_are_passed_over(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "_ask_uv", lambda *_: None)
    fake(bare_machine / "python3.26", "3.26.0", "beta")
    executable(bare_machine / "python3.27", "\nexit 1\n")
    assert interpreters._search(matcher(">=3.26"), 26) is None


@pytest.mark.usefixtures("through_shell")
@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("UV_PYTHON_INSTALL_DIR", "cpython-3.27.10-linux-x86_64-gnu"),
        ("PYENV_ROOT", "versions/3.27.10"),
        ("ASDF_DATA_DIR", "installs/python/3.27.10"),
        ("MISE_DATA_DIR", "installs/python/3.27.10"),
    ],
)
def test_version_managers_are_known(bare_machine: Path, variable: str, folder: str) -> None:
    root = Path(os.environ[variable]) / folder
    for version in ("3.27.10", "3.27.9"):
        home = Path(str(root).replace("3.27.10", version))
        (home / "bin").mkdir(parents=True)
        fake(home / "bin" / "python3.27", version)
    assert find_interpreter("3.27") == Interpreter(str(root / "bin" / "python3.27"), "3.27.10")
    assert find_interpreter("3.27.9").version == "3.27.9"


@pytest.mark.usefixtures("bare_machine")
def test_none_fits() -> None:
    with pytest.raises(EnvironmentError) as caught:
        find_interpreter(">=3.29", who="agent weather")
    assert caught.value.message.startswith("agent weather needs Python >=3.29; this machine has ")
    assert HERE in caught.value.message
    assert caught.value.suggestion == f"{sys.executable} -m uv python install 3.29"


@pytest.mark.usefixtures("bare_machine")
def test_nothing_to_suggest_for_a_python_that_cannot_be() -> None:
    with pytest.raises(EnvironmentError) as caught:
        find_interpreter(">=4", who="agent weather")
    assert caught.value.suggestion is None


def test_a_path_that_is_no_interpreter(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", executable(tmp_path / "echo", "#!/bin/sh\necho hello\n")):
        with pytest.raises(EnvironmentError, match=f"no working Python interpreter at {path}"):
            find_interpreter(str(path))


def test_a_path_into_an_environment_gives_its_base() -> None:
    assert find_interpreter(sys.executable).version == HERE


@pytest.mark.usefixtures("bare_machine")
def test_available_interpreters_include_the_running_one() -> None:
    assert HERE in [interpreter.version for interpreter in interpreters.available_interpreters()]
