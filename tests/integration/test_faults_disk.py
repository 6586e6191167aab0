"""A full, a read-only and an unusable home: what needs no writing works, what does says so and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

from tests.integration.faults_support import Hub, processes_about, tmpfs, write_agent

NO_SPACE = re.compile("[Nn]o space (is )?left on")
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


@pytest.fixture
def small(tmp_path):
    """A command whose home is on a file system of 4 MB."""
    with tmpfs(tmp_path / "disk") as disk:
        yield Hub(tmp_path, home=disk / "home")


def fill(hub, left=0):
    """Takes the space of the home's file system but for `left` bytes."""
    ballast = hub.home.parent / "ballast"
    ballast.unlink(missing_ok=True)
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    size = ballast.stat().st_size
    os.truncate(ballast, max(size - left, 0))
    return ballast


def files_of(hub):
    caches = {"__pycache__", "bytecode", "bytecode-pending", "history"}
    kept = (path for path in hub.home.rglob("*") if path.name != "index.json" and not caches & set(path.parts))
    return sorted(map(str, kept))


def big_agent(tmp_path, kind):
    source = write_agent(tmp_path / f"big-{kind}", "big", version="2.0", dependency=kind == "environment")
    if kind == "fetch":
        (source / "weights.bin").write_bytes(os.urandom(8 << 20))
    return source


@pytest.mark.parametrize("kind", ["fetch", "environment"])
def test_no_space_for_a_fresh_install(small, tmp_path, kind):
    source = big_agent(tmp_path, kind)
    if kind == "environment":
        small.install(write_agent(tmp_path / "other", name="other"))
        fill(small, left=160 << 10)
    small.fails(4, "install", "--yes", source, says=(NO_SPACE, "free some space", str(small.home.parent)))
    assert small.leftovers() == []
    assert [agent["name"] for agent in small.agents()] == (["other"] if kind == "environment" else [])
    assert processes_about(small.home) == {}


@pytest.mark.parametrize("kind", ["fetch", "environment"])
def test_the_earlier_version_outlives_a_full_disk(small, tmp_path, kind):
    small.install(write_agent(tmp_path / "old", "old"))
    before = files_of(small)
    fill(small, left=300 << 10)
    small.fails(4, "install", "--yes", "--force", big_agent(tmp_path, kind), says=NO_SPACE)
    assert files_of(small) == before
    assert small.leftovers() == []
    assert small.ok("run", "probe", "which") == "old\n"


@pytest.mark.slow
def test_no_space_at_any_point_of_an_install(small, tmp_path):
    """From no room at all to just enough: each failure says so, and leaves the old agent as it was."""
    small.install(write_agent(tmp_path / "old", "old"))
    before = files_of(small)
    new = write_agent(tmp_path / "new", "new", version="2.0", dependency=True)
    answers = []
    for left in (0, *range(8, 1000, 60)):
        fill(small, left << 10)
        finished = small.run("install", "--yes", "--force", new)
        if finished.returncode == 0:
            answers.append("new new")
            break
        assert finished.returncode == 4, (left, finished)
        errors = finished.stderr[finished.stderr.index("error: ") :]
        assert NO_SPACE.search(errors), (left, errors)
        assert len(errors.splitlines()) <= 4
        assert (left, small.leftovers()) == (left, [])
        assert files_of(small) == before, left
        answers.append(small.ok("run", "probe", "which").strip())
    assert answers[-1] == "new new", "the room never sufficed"
    assert answers.count("old") == len(answers) - 1 > 2
    assert small.ok("run", "probe", "which") == "new new\n"
    assert small.leftovers() == []


def test_no_space_for_the_record(small, tmp_path):
    """The last thing that is written: a manifest of which the record needs much, and little else does."""
    small.install(write_agent(tmp_path / "old", "old"))
    before = files_of(small)
    extra = f"purpose: {'x' * 40000}\n"
    new = write_agent(tmp_path / "new", "new", version="2.0", extra=extra)
    said = []
    for left in range(40, 200, 8):
        fill(small, left << 10)
        finished = small.run("install", "--yes", "--force", new)
        if finished.returncode == 0:
            break
        assert (finished.returncode, bool(NO_SPACE.search(finished.stderr))) == (4, True), finished
        assert files_of(small) == before
        said.append(finished.stderr)
    assert any("record.json" in errors for errors in said), said
    assert small.ok("run", "probe", "which") == "new\n"


def test_reading_on_a_full_disk(small, tmp_path):
    small.install(write_agent(tmp_path / "a", "old"))
    small.install(write_agent(tmp_path / "b", "other", name="other"))
    fill(small)
    assert small.ok("run", "probe", "which", env={"TMPDIR": str(tmp_path)}) == "old\n"
    assert "local/probe" in small.ok("list")
    assert "which" in small.ok("info", "probe")
    assert small.checks() == []
    assert "free" in small.ok("doctor")
    small.fails(4, "grant", "probe", "environment", "X", says=NO_SPACE)
    assert small.leftovers() == []
    small.ok("uninstall", "other")  # or nobody gets out of it
    assert [agent["name"] for agent in small.agents()] == ["probe"]


def test_no_space_for_the_scratch_directory(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a"))
    with tmpfs(tmp_path / "scratch", "size=64k,nr_inodes=3") as place:
        (place / "one").touch()
        (place / "two").touch()
        hub.fails(4, "run", "probe", "which", env={"TMPDIR": str(place)}, says=("scratch", NO_SPACE, "TMPDIR"))


# read-only


@pytest.fixture
def read_only(hub, tmp_path):
    """A home with an agent, which cannot be written."""
    if not AS_ROOT:
        pytest.skip("mounting a file system needs root")
    hub.install(write_agent(tmp_path / "a", "old"))
    for options in (["--bind", str(hub.home), str(hub.home)], ["-o", "remount,ro,bind", str(hub.home)]):
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"cannot be mounted read-only here: {mounted.stderr.strip()}")
    yield hub
    subprocess.run(["umount", "--lazy", str(hub.home)], check=True)


def test_a_read_only_home_can_be_used(read_only):
    assert read_only.ok("run", "probe", "which") == "old\n"
    assert "local/probe" in read_only.ok("list")
    assert "which" in read_only.ok("info", "probe")
    assert read_only.checks() == []
    assert "cannot be written" in read_only.ok("doctor")
    assert "1 healthy" in read_only.ok("doctor", "--fix")


def test_a_read_only_home_cannot_be_changed(read_only, tmp_path):
    before = files_of(read_only)
    new = write_agent(tmp_path / "new", "new")
    says = ("ead-only file system", str(read_only.home), "AGENTHUB_HOME")
    read_only.fails(4, "install", "--yes", new, says=says)
    read_only.fails(4, "install", "--yes", write_agent(tmp_path / "b", name="b"), says=says)
    read_only.fails(4, "uninstall", "probe", says=says)
    read_only.fails(4, "grant", "probe", "environment", "X", says=says)
    assert files_of(read_only) == before


def test_an_agent_that_is_not_installed_needs_a_cache(read_only, tmp_path):
    new = write_agent(tmp_path / "new", "new")
    read_only.fails(4, "run", "--yes", new, "which", says=(str(read_only.home),))


# other homes


@pytest.fixture
def two_users():
    """A command of ours, and one of a user who owns nothing there; in a directory that everybody may enter."""
    if not AS_ROOT or shutil.which("setpriv") is None:
        pytest.skip("becoming another user needs root and setpriv")
    root = pathlib.Path(tempfile.mkdtemp(prefix="agenthub-test-"))
    try:
        root.chmod(0o755)
        ours, theirs = Hub(root), Hub(root)
        their_tmp = root / "their-tmp"
        their_tmp.mkdir()
        their_tmp.chmod(0o777)
        theirs.variables["TMPDIR"] = str(their_tmp)
        theirs.command = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *ours.command]
        if subprocess.run([*theirs.command, "list"], env=theirs.variables, cwd=root, capture_output=True).returncode:
            pytest.skip("another user cannot run this Python")
        yield ours, theirs
    finally:
        shutil.rmtree(root)


def test_another_user_s_closed_home(two_users):
    ours, theirs = two_users
    source = write_agent(ours.root / "a")
    ours.install(source)
    says = (str(ours.home), "ermission denied")
    theirs.fails(4, "install", "--yes", source, says=says)
    theirs.fails(4, "list", says=says)
    for words in (["run", "probe", "which"], ["info", "probe"], ["uninstall", "probe"]):
        theirs.fails(4, *words, says=says)
    assert ours.leftovers() == []


def test_another_user_s_open_home(two_users):
    ours, theirs = two_users
    everybody_s = next(filter(os.path.exists, ("/usr/bin/python3", "/usr/local/bin/python3")), None)
    if everybody_s is None:
        pytest.skip("no interpreter is known to be everybody's")
    ours.install("--python", everybody_s, write_agent(ours.root / "a"))
    ours.home.chmod(0o755)
    assert theirs.ok("run", "probe", "which") == "one\n"
    assert "probe" in theirs.ok("list")
    theirs.fails(4, "uninstall", "probe", says=(str(ours.home), "ermission denied", "AGENTHUB_HOME"))
    theirs.fails(4, "install", "--yes", "--force", ours.root / "a", says=(str(ours.home), "ermission denied"))
    assert ours.ok("run", "probe", "which") == "one\n"


def test_a_home_that_is_a_file(hub, tmp_path):
    hub.home.write_text("not a directory")
    source = write_agent(tmp_path / "a")
    says = (str(hub.home), "ot a directory")
    hub.fails(4, "install", "--yes", source, says=says)
    hub.fails(4, "list", says=says)
    for words in (["run", "probe", "which"], ["info", "probe"], ["uninstall", "probe"]):
        hub.fails(4, *words, says=says)
    assert hub.home.read_text() == "not a directory"


def test_doctor_and_a_home_that_is_a_file(hub):
    hub.home.write_text("not a directory")
    assert [check["topic"] for check in hub.checks("--fix")] == ["store"]


def test_a_home_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    hub = Hub(tmp_path, home=tmp_path / "file" / "home")
    hub.fails(4, "install", "--yes", write_agent(tmp_path / "a"), says=(str(hub.home), "ot a directory"))


def test_a_home_whose_parents_are_missing(tmp_path):
    hub = Hub(tmp_path, home=tmp_path / "far" / "away" / "home")
    assert hub.agents() == []
    assert hub.checks() == []
    assert not (tmp_path / "far").exists()
    hub.install(write_agent(tmp_path / "a"))
    assert hub.ok("run", "probe", "which") == "one\n"
    assert hub.home.stat().st_mode & 0o777 == 0o700


def test_without_home_variables(hub, tmp_path):
    """The user database knows a home nevertheless; nothing is made in it by reading."""
    for name in ("HOME", "AGENTHUB_HOME"):
        del hub.variables[name]
    assert hub.run("list").returncode == 0
    hub.variables["AGENTHUB_HOME"] = str(hub.home)
    hub.install(write_agent(tmp_path / "a"))
    assert hub.ok("run", "probe", "which") == "one\n"


def test_a_relative_and_a_tilde_home(hub, tmp_path):
    hub.install(write_agent(tmp_path / "a"), env={"AGENTHUB_HOME": "relative"})
    assert (tmp_path / "relative" / "store.json").exists()
    assert hub.ok("dir", env={"AGENTHUB_HOME": "~/mine"}).strip() == str(hub.user / "mine")


def test_home_on_another_file_system_than_the_source(hub, tmp_path):
    with tmpfs(tmp_path / "disk", "size=64m") as disk:
        there = Hub(tmp_path, home=disk / "home")
        there.install(write_agent(tmp_path / "a", dependency=True))
        assert there.ok("run", "probe", "which") == "one one\n"
        hub.install(write_agent(disk / "b", "two"))
        assert hub.ok("run", "probe", "which") == "two\n"
        assert there.leftovers() == []
