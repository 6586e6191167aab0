"""Archives that want to be written elsewhere, or never to end: refused by `install`, and nothing is left of them.

The details are in tests/unit/test_archives.py; this is the door.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile

import pytest

from tests.hostile_agents.selection import CONFINED, daily

pytestmark = CONFINED

MANIFEST = """
name: {name}
version: "1.0.0"
description: from an archive
author: agenthub
entrypoint: agent
permissions: {{}}
{more}
interface:
  methods:
    speak: {{description: speaks}}
"""
CODE = "def speak(): return 'spoken'\n"
LARGE = 80 << 20


def member(name, data=b"", **attributes):
    made = tarfile.TarInfo(name)
    made.size = len(data)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made, io.BytesIO(data)


def link(name, target):
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def tar(*members, more="", name="archived"):
    manifest = MANIFEST.format(name=name, more=more).encode()
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz", compresslevel=9) as archive:
        for entry, content in (member("agent.yaml", manifest), member("agent.py", CODE.encode()), *members):
            archive.addfile(entry, content)
    return held.getvalue()


def zipped(*members):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("agent.yaml", MANIFEST.format(name="archived", more=""))
        archive.writestr("agent.py", CODE)
        for name, data in members:
            archive.writestr(name, data)
    return held.getvalue()


def header(name, size):
    made = tarfile.TarInfo(name)
    made.size = size
    return made.tobuf()


def link_in_zip(name):
    made = zipfile.ZipInfo(name)
    made.external_attr = 0o120777 << 16
    return made


# By name: the archive, made with the marker of the test; and words of the refusal.
ARCHIVES = {
    "traversal": (lambda mark: tar(member(f"../../{mark}", b"x")), "leads out"),
    "traversal in a zip": (lambda mark: zipped((f"../../{mark}", "x")), "leads out"),
    "absolute": (lambda mark: tar(member(f"/tmp/{mark}", b"x")), "not a relative path"),
    "absolute in a zip": (lambda mark: zipped((f"/tmp/{mark}", "x")), "not a relative path"),
    "backslashes": (lambda mark: zipped((f"..\\..\\{mark}", "x")), "not a relative path"),
    "link out": (lambda mark: tar(link("way", "/etc/passwd")), "way"),
    "link out in a zip": (lambda mark: zipped((link_in_zip("way"), "../../../home")), "way"),
    "through a link": (lambda mark: tar(link("way", "/tmp"), member(f"way/{mark}", b"x")), "way"),
    "through a link that is allowed": (lambda mark: tar(link("way", "."), member(f"way/{mark}", b"x")), "way"),
    "hard link out": (
        lambda mark: tar(member("way", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
        "not a relative path",
    ),
    "hard link to nothing": (
        lambda mark: tar(member("way", type=tarfile.LNKTYPE, linkname="absent")),
        "not in it",
    ),
    "the manifest is a link": (lambda mark: tar(link("agent.yml", "/etc/passwd")), "agent.yml"),
    "device": (lambda mark: tar(member("way", type=tarfile.CHRTYPE, devmajor=1, devminor=1)), "neither a file"),
    "pipe": (lambda mark: tar(member("way", type=tarfile.FIFOTYPE)), "neither a file"),
    "two names for one file": (lambda mark: tar(member("Agent.py", b"x")), "agent.py"),
    "the same file twice": (lambda mark: tar(member("agent.py", b"x")), "agent.py"),
    "terminal escapes": (lambda mark: tar(member("\x1b]0;OWNED\x07", b"x")), "control"),
    "too deep": (lambda mark: tar(member("d/" * 100 + mark, b"x")), "deep"),
    "bomb": (lambda mark: tar(member("zeros", bytes(LARGE))), "bomb"),
    "bomb in a zip": (lambda mark: zipped(("zeros", bytes(LARGE))), "bomb"),
    "bomb around nothing": (lambda mark: gzip.compress(bytes(LARGE), 1), ""),
    "too many files": (lambda mark: gzip.compress(header(".git/file", 0) * 100_001 + bytes(1024), 1), "100,000"),
    "absurd size": (lambda mark: gzip.compress(header("way", 1 << 40) + bytes(1024)), "way"),
    "cut off": (lambda mark: tar(member("way", os.urandom(4096)))[:-2000], "damaged"),
    "no archive": (lambda mark: b"\x1f\x8b" + mark.encode(), "damaged"),
}
DAILY = ("traversal", "through a link", "device", "bomb", "python object")
# Manifests in archives that are well: the extra keys, or the name.
MANIFESTS = {
    "name with a path": ({"name": "../../evil"}, "name"),
    "name with an escape": ({"name": '"\\e]0;OWNED"'}, "name"),
    "code elsewhere": ({"more": "entrypoint: ../../evil:Agent"}, "entrypoint"),
    "python object": ({"more": "license: !!python/object/apply:os.system ['touch /tmp/{mark}']"}, "agent.yaml"),
    "aliases of aliases": (
        {
            "more": "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "\n".join(f"{n}: &{n} [{','.join(['*' + p] * 9)}]" for p, n in zip("abcdefgh", "bcdefghi", strict=True))
        },
        "",
    ),
    "a path as a dependency": ({"more": "dependencies: ['-r /etc/passwd']"}, "not written as a requirement"),
    "an option as a dependency": (
        {"more": "dependencies: ['--index-url=http://127.0.0.1:9/']"},
        "not written as a requirement",
    ),
}


@pytest.fixture
def refuses(host):
    """Installs an archive, which has to fail: with words, and without a trace."""

    def check(data, words):
        path = os.path.join(host.world.work, "evil.tar.gz")
        with open(path, "wb") as file:
            file.write(data)
        before = agents(host)
        finished = host.invoke("install", "--yes", path)
        assert finished.code in (2, 3, 4), (finished.code, host.log)
        assert finished.stdout == b""
        assert words in host.log, host.log
        assert "\x1b" not in host.log
        assert "Traceback" not in host.log
        assert agents(host) == before
        staging = os.path.join(host.world.store, "staging")
        assert not os.path.isdir(staging) or os.listdir(staging) == []

    return check


def agents(host):
    return sorted(os.listdir(os.path.join(host.world.store, "agents", "local")))


@pytest.mark.parametrize("name", daily(ARCHIVES, DAILY))
def test_a_hostile_archive_is_refused(host, refuses, name):
    make, words = ARCHIVES[name]
    refuses(make(host.marker), words)


@pytest.mark.slow
@pytest.mark.parametrize("name", daily(MANIFESTS, DAILY))
def test_a_hostile_manifest_is_refused(host, refuses, name):
    changes, words = MANIFESTS[name]
    changes = {key: value.replace("{mark}", host.marker) for key, value in changes.items()}
    refuses(tar(**changes), words)


def test_what_an_archive_brings_of_a_store_is_left_out(host, refuses):
    """A record that names another program, an environment with another interpreter."""
    data = tar(
        member(".agenthub/record.json", b'{"schema_version": 1}'),
        member("venv/bin/python", b"#!/bin/sh\necho owned\n", mode=0o755),
        member("__pycache__/agent.cpython-311.pyc", b"x"),
        member("agent-set-uid", b"x", mode=0o4777),
    )
    path = os.path.join(host.world.work, "odd.tar.gz")
    with open(path, "wb") as file:
        file.write(data)
    assert host.invoke("install", "--yes", path).code == 0, host.log
    host.forgive()
    finished = host.invoke("run", "archived", "speak")
    assert finished.out == "spoken\n"
    inside = os.path.realpath(os.path.join(host.world.store, "agents", "local", "archived"))
    assert os.stat(os.path.join(inside, "agent-set-uid")).st_mode & 0o6022 == 0
