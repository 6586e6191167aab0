"""Sources as they should not be: hostile, empty, huge, oddly named, changing underneath."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import zipfile

import pytest

from tests.integration.faults_support import Hub, write_agent


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                archive.addfile(member)
    return path


def zip_of(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def sound(tmp_path):
    source = write_agent(tmp_path / "sound")
    return [(path.name, path.read_bytes(), tarfile.REGTYPE) for path in sorted(source.iterdir())]


def nothing_happened(hub):
    assert hub.leftovers() == []
    assert hub.agents() == []
    assert hub.versions() == []
    assert not (hub.root / "evil").exists()


HOSTILE = {
    "traversal": [("../evil", b"x", tarfile.REGTYPE)],
    "deep traversal": [("a/../../../evil", b"x", tarfile.REGTYPE)],
    "absolute": [("/tmp/agenthub-evil", b"x", tarfile.REGTYPE)],
    "link out": [("evil", "../../../..", tarfile.SYMTYPE)],
    "through a link": [("out", "..", tarfile.SYMTYPE), ("out/evil", b"x", tarfile.REGTYPE)],
    "hard link": [("evil", "../../store.json", tarfile.LNKTYPE)],
    "device": [("evil", "", tarfile.CHRTYPE)],
    "pipe": [("evil", "", tarfile.FIFOTYPE)],
    "case clash": [("AGENT.py", b"x", tarfile.REGTYPE)],
    "twice": [("agent.py", b"x", tarfile.REGTYPE)],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_archive(hub, tmp_path, how):
    archive = tar_of(tmp_path / "x.tar.gz", *sound(tmp_path), *HOSTILE[how])
    hub.fails(4, "install", "--yes", archive, says=(str(archive), "refused"))
    nothing_happened(hub)
    assert not os.path.exists("/tmp/agenthub-evil")


def test_a_bomb(hub, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, _ in sound(tmp_path):
            archive.writestr(name, content)
        with archive.open("zeros", "w", force_zip64=True) as file:
            for _ in range(300):
                file.write(bytes(1 << 20))
    hub.fails(4, "install", "--yes", tmp_path / "x.zip", says=("x.zip", "refused"))
    nothing_happened(hub)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>not found</html>"], ids=repr)
def test_files_that_are_no_archives(hub, tmp_path, suffix, content):
    archive = tmp_path / f"x{suffix}"
    archive.write_bytes(content)
    hub.fails(4, "install", "--yes", archive, says=(str(archive),))
    assert not (hub.home / "agents").exists()


def test_a_cut_archive(hub, tmp_path):
    whole = zip_of(tmp_path / "x.zip", **{name: content for name, content, _ in sound(tmp_path)})
    content = whole.read_bytes()
    tar = tar_of(tmp_path / "x.tar.gz", *sound(tmp_path), ("more", os.urandom(50000), tarfile.REGTYPE)).read_bytes()
    for path, data in (
        (whole, content[:-30]),
        (whole, content[: len(content) // 2]),
        (tmp_path / "x.tgz", tar[:-9000]),
    ):
        path.write_bytes(data)
        hub.fails(4, "install", "--yes", path, says=(str(path),))
        nothing_happened(hub)


def test_two_top_directories(hub, tmp_path):
    files = sound(tmp_path)
    both = [(f"{top}/{name}", content, kind) for top in ("one", "two") for name, content, kind in files]
    archive = tar_of(tmp_path / "x.tar.gz", *both)
    hub.fails(3, "install", "--yes", archive, says=("x.tar.gz", "agent.yaml"))
    nothing_happened(hub)
    archive = tar_of(tmp_path / "y.tar.gz", *both[: len(files)])
    hub.install(archive)
    assert hub.ok("run", "probe", "which") == "one\n"


def test_directories_without_an_agent(hub, tmp_path):
    (tmp_path / "empty").mkdir()
    hub.fails(3, "install", "--yes", "./empty", says=("./empty", "agent.yaml"))
    (tmp_path / "empty" / "agent.yaml").mkdir()
    hub.fails(3, "install", "--yes", "./empty", says=("./empty", "agent.yaml"))
    (tmp_path / "empty" / "agent.yaml").rmdir()
    (tmp_path / "empty" / "agent.yaml").write_bytes(b"")
    hub.fails(3, "install", "--yes", "./empty", says=("./empty", "agent.yaml"))
    (tmp_path / "empty" / "agent.yaml").write_bytes(b"\xff\xfe\0\0")
    hub.fails(3, "install", "--yes", "./empty", says=("./empty", "agent.yaml"))
    hub.fails(3, "install", "--yes", "./nowhere", says="nowhere")
    nothing_happened(hub)


def test_an_unreadable_file(hub, tmp_path):
    source = write_agent(tmp_path / "a")
    (source / "secret").write_text("x")
    (source / "secret").chmod(0)
    os.mkfifo(source / "pipe")
    hub.fails(4, "install", "--yes", source, says=(str(source), "pipe"))
    nothing_happened(hub)


@pytest.mark.slow
def test_many_files(hub, tmp_path):
    source = write_agent(tmp_path / "a")
    for folder in range(50):
        (source / f"folder{folder}").mkdir()
        for number in range(100):
            (source / f"folder{folder}" / f"file{number}").write_text(f"{folder} {number}")
    hub.install(source)
    assert hub.ok("run", "probe", "which") == "one\n"
    (version,) = hub.versions()
    assert (version / "folder49" / "file99").read_text() == "49 99"
    hub.ok("uninstall", "probe")
    assert hub.leftovers() == []


NAMES = ("späße 日本語", 'it\'s a "b"', "$HOME;100%", "back\\slash", "-dash", "*?[x]", "x.zip", "a@b#c", "new\nline")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_source_directories(hub, tmp_path, name):
    source = write_agent(tmp_path / name, dependency=True)
    if "\n" in name:
        hub.fails(4, "install", "--yes", source, says="control characters")
        hub.install(".", cwd=source)  # which is a way
    else:
        hub.install(f"./{name}")
        assert hub.run("install", "--yes", source).returncode == 0
    assert hub.ok("run", "probe", "which") == "one one\n"


@pytest.mark.parametrize("name", ["späße 日本", 'it\'s a "home" #100%s{}', "new\nline"])
def test_names_of_homes(tmp_path, name):
    hub = Hub(tmp_path, home=tmp_path / name)
    hub.install(write_agent(tmp_path / "a", dependency=True))
    assert hub.ok("run", "probe", "which") == "one one\n"
    assert [agent["name"] for agent in hub.agents()] == ["probe"]
    assert hub.checks("--fix") == []
    hub.ok("uninstall", "probe")
    assert hub.leftovers() == []


def test_names_that_are_not_utf8(hub, tmp_path):
    source = os.fsencode(tmp_path) + b"/caf\xe9"
    write_agent(tmp_path / "a").rename(os.fsdecode(source))
    hub.install(os.fsdecode(source))
    assert hub.ok("run", "probe", "which") == "one\n"
    assert hub.run("info", "probe", errors="replace").returncode == 0
    assert hub.run("info", "probe", "--json", errors="replace").returncode == 0
    hub.agents()
    hub.ok("uninstall", "probe")


def test_links_to_the_source(hub, tmp_path):
    write_agent(tmp_path / "real" / "a")
    (tmp_path / "link").symlink_to("real/a")
    (tmp_path / "folder").symlink_to("real")
    hub.install("./link")
    assert hub.ok("run", "probe", "which") == "one\n"
    hub.install("./folder/a")
    hub.install("--as", "other/probe", "./link/../a", cwd=tmp_path / "real")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert hub.run("install", "--yes", "./dangling").returncode in (3, 4)
    (tmp_path / "loop").symlink_to("loop")
    assert hub.run("install", "--yes", "./loop").returncode in (3, 4)
    assert (tmp_path / "real" / "a" / "agent.yaml").exists()


def test_a_source_inside_the_home(hub):
    source = write_agent(hub.home / "mine" / "a")
    hub.install(source)
    assert hub.ok("run", "probe", "which") == "one\n"
    hub.install("--force", "--as", "local/again", hub.versions()[0])
    assert hub.ok("run", "local/again", "which") == "one\n"


def test_a_home_inside_the_source(tmp_path):
    source = write_agent(tmp_path / "a")
    hub = Hub(tmp_path, home=source / ".hub")
    hub.fails(4, "install", "--yes", source, says=(str(source), "AGENTHUB_HOME"))
    assert hub.agents() == []


def test_a_deleted_working_directory(hub, tmp_path):
    gone = tmp_path / "gone"
    write_agent(tmp_path / "a")
    command = f'mkdir {gone} && cd {gone} && rmdir {gone} && exec "$@"'
    hub.command = ["sh", "-c", command, "sh", *hub.command]
    hub.variables["PYTHONPATH"] = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    for source in (tmp_path / "a", "."):
        hub.fails(2, "install", "--yes", source, says="working directory was removed")
    assert "no agents" in hub.run("list").stderr


def test_a_source_that_changes_while_it_is_copied(hub, tmp_path):
    """What is installed is what was read: its files are whole, and running it gives one of the answers."""
    source = write_agent(tmp_path / "a")
    for number in range(300):
        (source / f"file{number}").write_text("x" * 2000)
    stop = threading.Event()

    def change():
        turn = 0
        while not stop.is_set():
            turn += 1
            fresh = tmp_path / "fresh"
            fresh.write_text((source / "agent.py").read_text().replace("'one'", f"'turn {turn}'"))
            os.replace(fresh, source / "agent.py")
            for number in range(turn % 5, 300, 17):
                path = source / f"file{number}"
                path.unlink(missing_ok=True)
                if turn % 3:
                    path.mkdir() if turn % 7 == 0 and not path.exists() else None
                if not path.exists():
                    path.write_text("y" * turn)
                elif path.is_dir():
                    path.rmdir()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(6):
            finished = hub.run("install", "--yes", "--force", source)
            if finished.returncode == 0:
                answer = hub.ok("run", "probe", "which")
                assert answer == "one\n" or answer.startswith("turn ")
            else:
                assert finished.returncode == 4, finished
                assert str(source) in finished.stderr
                assert len(finished.stderr[finished.stderr.index("error: ") :].splitlines()) <= 4
            assert hub.leftovers() == []
    finally:
        stop.set()
        thread.join()
