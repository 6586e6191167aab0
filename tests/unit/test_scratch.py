"""A scratch directory is removed whatever a run left in it, and nothing else is."""

from __future__ import annotations

import os
import stat

import pytest

from agenthub.runtime.processes.scratch import remove_tree


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Stands in the directory that is to be removed."""
    made = tmp_path / "run"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


def remove(inside):
    os.chdir("/")
    remove_tree(str(inside))
    assert not inside.exists()


def test_what_is_deeper_than_a_path_may_be_long(inside):
    """As deep as no walk that calls itself gets, either."""
    for _ in range(3000):
        os.mkdir("deeper")
        os.chdir("deeper")
    with open("file", "w"):
        pass
    remove(inside)


def test_what_cannot_be_read_or_written(inside):
    os.makedirs("closed/closed")
    with open("closed/closed/file", "w"):
        pass
    os.chmod("closed/closed", 0)
    os.chmod("closed", 0)
    os.chmod(".", stat.S_IRUSR | stat.S_IXUSR)
    remove(inside)


def test_links_are_removed_and_not_followed(inside, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").touch()
    os.symlink(outside, "directory")
    os.symlink(outside / "kept", "file")
    os.mkdir("inner")
    os.symlink(outside, "inner/directory")
    os.mkfifo("inner/pipe")
    remove(inside)
    assert os.listdir(outside) == ["kept"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


def test_names_that_are_no_text(inside):
    os.makedirs(b"\xff\xfe/\xff")
    with open(b"\xff\xfe/\xff/\n", "w"):
        pass
    remove(inside)


def test_what_is_not_there(tmp_path):
    remove_tree(str(tmp_path / "absent"))
