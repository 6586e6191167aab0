from __future__ import annotations

import os
import socket
import stat
import threading

import pytest

from agenthub.errors import AgentNotFoundError, InstallError
from agenthub.packages.ledger import Limits
from agenthub.packages.tree import copy_tree, tree_digest


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    (source / "data" / "deep").mkdir(parents=True)
    (source / "agent.yaml").write_text("name: x\n")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o4711)
    (source / "data" / "deep" / "ünï.txt").write_bytes(b"x" * 3_000_000)
    (source / "link").symlink_to("data/deep")
    (source / "data" / "up").symlink_to("../run.sh")
    (source / "empty").mkdir(mode=0o700)
    return source


def copied(source, tmp_path, **limits):
    return copy_tree(str(source), str(tmp_path / "target"), limits=Limits(**limits))


def refused(source, tmp_path, reason, **limits):
    with pytest.raises(InstallError, match=reason) as caught:
        copied(source, tmp_path, **limits)
    assert not (tmp_path / "target").exists()
    return caught.value


def test_a_copy_is_the_tree(source, tmp_path):
    summary = copied(source, tmp_path)
    target = tmp_path / "target"
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == sorted(
        path.relative_to(source).as_posix() for path in source.rglob("*")
    )
    assert (target / "data" / "deep" / "ünï.txt").read_bytes() == b"x" * 3_000_000
    assert os.readlink(target / "link") == "data/deep"
    assert summary.files == 3
    assert summary.bytes == 3_000_000 + 18
    assert summary.digest == tree_digest(str(source)) == tree_digest(str(target))


def test_modes_are_normal_and_set_uid_is_gone(source, tmp_path):
    old = os.umask(0o077)
    try:
        copied(source, tmp_path)
    finally:
        os.umask(old)
    modes = {name: stat.S_IMODE((tmp_path / "target" / name).stat().st_mode) for name in os.listdir(source)}
    assert modes == {"agent.yaml": 0o644, "run.sh": 0o755, "data": 0o755, "empty": 0o755, "link": 0o755}


@pytest.mark.parametrize(
    "name", [".git", ".hg", ".venv", "venv", "__pycache__", ".agenthub", ".DS_Store", "a.pyc", "x.egg-info"]
)
def test_other_tools_state_is_left_out(source, tmp_path, name):
    before = tree_digest(str(source))
    (source / "data" / name).mkdir()
    (source / "data" / name / "file").write_text("x")
    (source / "node_modules").mkdir()
    copied(source, tmp_path)
    assert not (tmp_path / "target" / "data" / name).exists()
    assert (tmp_path / "target" / "node_modules").exists()
    (source / "node_modules").rmdir()
    assert tree_digest(str(source)) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "agent.yaml").write_text("name: y\n"),
        lambda source: (source / "agent.yaml").chmod(0o755),
        lambda source: (source / "agent.yaml").rename(source / "agent.yml"),
        lambda source: ((source / "link").unlink(), (source / "link").symlink_to("data")),
        lambda source: ((source / "link").unlink(), (source / "link").write_text("data/deep")),
        lambda source: (source / "empty").rmdir(),
    ],
)
def test_each_change_changes_the_digest(source, change):
    before = tree_digest(str(source))
    change(source)
    assert tree_digest(str(source)) != before


def test_the_digest_does_not_depend_on_times_or_modes_that_are_normalised(source):
    before = tree_digest(str(source))
    os.utime(source / "agent.yaml", (1, 1))
    (source / "agent.yaml").chmod(0o600)
    assert tree_digest(str(source)) == before


def test_known_digest(tmp_path):
    """The digest is kept in records: it may not change from one version of agenthub to the next."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("c")
    assert tree_digest(str(tmp_path)) == "sha256:ee8a67720dbb12076140a91229040eff50a6a50acb7537e6569466f04767a0ad"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "data/../../x", "link/../../../x", "data/up2/../../x"])
def test_a_link_out_of_the_tree_is_refused(source, tmp_path, target):
    (source / "data" / "up2").symlink_to("..")
    (source / "bad").symlink_to(target)
    assert "bad" in str(refused(source, tmp_path, "leaves it"))


def test_a_link_that_is_harmless_alone_is_judged_with_the_others(source, tmp_path):
    (source / "data" / "deep" / "root").symlink_to("../..")
    (source / "data" / "bad").symlink_to("deep/root/../x")  # lexically data/deep/x
    refused(source, tmp_path, "data/bad is a link that leaves it")


def test_a_circle_of_links_is_refused(source, tmp_path):
    (source / "one").symlink_to("two")
    (source / "two").symlink_to("one")
    refused(source, tmp_path, "circle")


def test_links_that_stay_inside_stay(source, tmp_path):
    (source / "dangling").symlink_to("not/there")
    (source / "data" / "root").symlink_to("..")
    (source / "round").symlink_to("data/root/data/../agent.yaml")
    copied(source, tmp_path)
    assert (tmp_path / "target" / "round").read_text() == "name: x\n"


def test_devices_pipes_and_sockets_are_refused(source, tmp_path, monkeypatch):
    os.mkfifo(source / "pipe")
    refused(source, tmp_path, "pipe is a named pipe")
    (source / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(source)  # the path of a socket may not be long
        server.bind("sock")
        refused(source, tmp_path, "sock is a socket")
    (source / "sock").unlink()
    if os.geteuid() == 0:
        os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        refused(source, tmp_path, "null is a device")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"a\nb", "control characters"),
        (b"a\x1b[2Jb", "control characters"),
        ("a\u202egpj.exe".encode(), "control characters"),
        (b"a\xffb", "UTF-8"),
        (b"AGENT.YAML", "same name"),
        ("U\u0308N\u00cf.txt".encode(), None),
    ],
)
def test_names(source, tmp_path, name, reason):
    (source / os.fsdecode(name)).write_text("x")
    if reason is None:
        copied(source, tmp_path)
        (tmp_path / "source" / "data" / "deep" / os.fsdecode(name)).write_text("x")
        tmp_path = tmp_path / "second"
        tmp_path.mkdir()
        reason = "same name"
    assert all(character.isprintable() for character in str(refused(source, tmp_path, reason)))


def test_caps(source, tmp_path):
    refused(source, tmp_path, "larger than 2 MB", size=2 * 1024 * 1024)
    refused(source, tmp_path, "more than 5 files", entries=5)
    refused(source, tmp_path, "deep", depth=2)
    refused(source, tmp_path, "too long", path=12)


def test_skipped_files_count(source, tmp_path):
    for number in range(20):
        (source / f"{number}.pyc").write_text("")
    refused(source, tmp_path, "more than 15 files", entries=15)


def test_a_missing_or_unreadable_source(tmp_path):
    with pytest.raises(AgentNotFoundError, match="there is no directory"):
        copied(tmp_path / "none", tmp_path)


def test_the_target_may_not_be_inside_the_source(source):
    with pytest.raises(InstallError, match="contains agenthub's own directory"):
        copy_tree(str(source), str(source / "home" / "tree"))


def test_the_target_must_be_new(source, tmp_path):
    (tmp_path / "target").mkdir()
    with pytest.raises(InstallError, match="File exists"):
        copied(source, tmp_path)
    assert (tmp_path / "target").exists()


def test_a_tree_that_changes_underneath_cannot_redirect(tmp_path):
    """A directory is swapped with a link to a secret over and over: the secret never arrives."""
    source, secret = tmp_path / "source", tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (source / "d").mkdir(parents=True)
    (source / "d" / "key").write_text("public")
    (source / ".hg").symlink_to(secret)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            os.rename(source / "d", source / ".git")
            os.rename(source / ".hg", source / "d")
            os.rename(source / "d", source / ".hg")
            os.rename(source / ".git", source / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    copied = 0
    try:
        for number in range(300):
            target = tmp_path / f"target{number}"
            try:
                copy_tree(str(source), str(target))
            except InstallError:
                assert not target.exists()
                continue
            copied += 1
            if (target / "d" / "key").exists():
                assert (target / "d" / "key").read_text() == "public"
    finally:
        stop.set()
        thread.join()
    assert copied
