from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile

import pytest

from agenthub.errors import InstallError
from agenthub.packages.archives import unpack
from agenthub.packages.ledger import Limits
from agenthub.packages.tree import tree_digest

GOOD = {"agent.yaml": b"name: x\n", "data/a.txt": b"a" * 70_000, "bin/run": b"#!/bin/sh\n"}
MEMBERS = [*GOOD.items()]


def member(name, kind=tarfile.REGTYPE, link="", mode=0o644, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar_bytes(members):
    """`members`: pairs of a name or a TarInfo, and content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            if isinstance(info, str):
                kind = tarfile.DIRTYPE if info.endswith("/") else tarfile.REGTYPE
                info = member(info, kind, mode=0o755 if info.startswith("bin/") else 0o600)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(members, compression=zipfile.ZIP_DEFLATED):
    """`members`: pairs of a name or a ZipInfo, and content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            info = name if isinstance(name, zipfile.ZipInfo) else zip_member(name)
            info.compress_type = compression
            archive.NameToInfo.clear()  # it warns of duplicates
            archive.writestr(info, content)
    return buffer.getvalue()


def zip_member(name, mode=None):
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    mode = mode if mode is not None else stat.S_IFREG | (0o755 if name.startswith("bin/") else 0o600)
    info.external_attr = mode << 16
    return info


@pytest.fixture
def unpacked(tmp_path):
    """Unpacks bytes; a refusal must leave nothing at all beside the archive."""

    def run(content, **limits):
        archive, target = tmp_path / "room" / "x.agent", tmp_path / "room" / "target"
        archive.parent.mkdir(exist_ok=True)
        archive.write_bytes(content)
        shutil.rmtree(target, ignore_errors=True)
        before = everything(tmp_path)
        try:
            summary = unpack(str(archive), str(target), Limits(**limits))
        except InstallError:
            assert everything(tmp_path) == before
            raise
        return target, summary

    return run


def everything(directory):
    return sorted(os.path.join(where, name) for where, inner, files in os.walk(directory) for name in inner + files)


WAYS = {
    "zip": zip_bytes,
    "stored": lambda members: zip_bytes(members, zipfile.ZIP_STORED),
    "tar": tar_bytes,
    "gz": lambda members: gzip.compress(tar_bytes(members)),
    "bz2": lambda members: bz2.compress(tar_bytes(members)),
    "xz": lambda members: lzma.compress(tar_bytes(members)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_format_gives_the_same_tree(unpacked, way, tmp_path):
    target, summary = unpacked(WAYS[way](MEMBERS))
    files = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in files.items()} == GOOD
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in files.items()}
    assert modes == {"agent.yaml": 0o644, "data/a.txt": 0o644, "bin/run": 0o755}
    assert summary == (tree_digest(str(target)), 3, sum(map(len, GOOD.values())))


@pytest.mark.parametrize("way", WAYS)
def test_a_top_directory_around_the_manifest_is_stripped(unpacked, way):
    inside = [(f"top-1.0/{name}", content) for name, content in MEMBERS]
    target, summary = unpacked(WAYS[way]([("top-1.0/", b""), *inside, ("__MACOSX/._x", b"junk"), (".git/config", b"")]))
    assert sorted(os.listdir(target)) == ["agent.yaml", "bin", "data"]
    assert summary.digest == tree_digest(str(target))
    assert len(everything(target)) == 5


def test_a_top_directory_is_kept_where_the_manifest_is_elsewhere(unpacked):
    target, _ = unpacked(tar_bytes([("top/deep/agent.yaml", b"")]))
    assert os.listdir(target) == ["top"]


def test_a_stripped_directory_may_hold_one_of_the_same_name(unpacked):
    target, _ = unpacked(tar_bytes([("x/agent.yaml", b""), ("x/x/agent.yaml", b"inner")]))
    assert (target / "x" / "agent.yaml").read_bytes() == b"inner"


def test_spellings_of_paths_are_normalised(unpacked):
    target, _ = unpacked(tar_bytes([(member("./", tarfile.DIRTYPE), b""), ("./agent.yaml", b""), ("./a//b/./c", b"")]))
    assert (target / "a" / "b" / "c").exists()


BAD_NAMES = ["../x", "a/../../x", "/etc/x", "..", "C:/x", "a\\b", "..\\x", "a\nb", "a\x1bb", "x" * 300, "a/" * 70 + "x"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("way", ["zip", "gz"])
def test_names_that_are_refused(unpacked, way, name):
    with pytest.raises(InstallError, match="is refused") as caught:
        unpacked(WAYS[way]([*MEMBERS, (name, b"")]))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("way", ["zip", "tar"])
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a", b""), ("a", b"")], "twice"),
        ([("a", b""), ("a/b", b"")], "twice"),
        ([("a/b", b""), ("a", b"")], "twice"),
        ([("a", b""), ("A", b"")], "same name"),
        ([("d/a", b""), ("D/b", b"")], "same name"),
        ([("stra\u00dfe", b""), ("STRASSE", b"")], "same name"),
        ([("\u00e9", b""), ("e\u0301", b"")], "same name"),
    ],
)
def test_members_that_clash(unpacked, way, members, reason):
    with pytest.raises(InstallError, match=reason):
        unpacked(WAYS[way]([*MEMBERS, *members]))


def link(way, name, target):
    if way == "zip":
        return zip_member(name, stat.S_IFLNK | 0o777), target.encode()
    return member(name, tarfile.SYMTYPE, target), b""


@pytest.mark.parametrize("way", ["zip", "tar"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "data/../../x", "here/../../x"])
def test_a_link_out_of_the_tree_is_refused(unpacked, way, target):
    with pytest.raises(InstallError, match="bad is a link that leaves it"):
        unpacked(WAYS[way]([link(way, "data/here", ".."), link(way, "here", "data"), link(way, "bad", target)]))


@pytest.mark.parametrize("way", ["zip", "tar"])
def test_a_link_that_leaves_only_because_of_the_stripping_is_refused(unpacked, way):
    with pytest.raises(InstallError, match="bad is a link that leaves it"):
        unpacked(WAYS[way]([("top/agent.yaml", b""), link(way, "top/bad", "../top/agent.yaml")]))


@pytest.mark.parametrize("way", ["zip", "tar"])
def test_a_file_through_a_link_is_refused(unpacked, way, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for first, second in ((str(outside), "d/x"), ("data", "d/x")):
        with pytest.raises(InstallError, match="is there twice"):
            unpacked(WAYS[way]([*MEMBERS, link(way, "d", first), (second, b"x")]))
    assert not os.listdir(outside)


@pytest.mark.parametrize("way", ["zip", "tar"])
def test_a_link_inside_stays_a_link(unpacked, way):
    target, _ = unpacked(WAYS[way]([link(way, "bin/also", "run"), *MEMBERS]))
    assert os.readlink(target / "bin" / "also") == "run"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(unpacked, kind):
    with pytest.raises(InstallError, match="odd is neither a file"):
        unpacked(tar_bytes([*MEMBERS, (member("odd", kind), b"")]))


def test_a_device_in_a_zip_is_refused(unpacked):
    with pytest.raises(InstallError, match="odd is neither a file"):
        unpacked(zip_bytes([*MEMBERS, (zip_member("odd", stat.S_IFCHR | 0o666), b"")]))


def test_hard_links(unpacked):
    target, _ = unpacked(tar_bytes([*MEMBERS, (member("copy", tarfile.LNKTYPE, "data/a.txt"), b"")]))
    assert (target / "copy").read_bytes() == GOOD["data/a.txt"]
    assert (target / "copy").stat().st_nlink == 1
    for original in ("/etc/passwd", "../room/x.agent", "none", "later", "sym"):
        with pytest.raises(InstallError, match="refused"):
            unpacked(
                tar_bytes(
                    [
                        (member("sym", tarfile.SYMTYPE, "agent.yaml"), b""),
                        (member("copy", tarfile.LNKTYPE, original), b""),
                        ("later", b""),
                    ]
                )
            )


def test_hard_links_count_as_bytes(unpacked):
    copies = [(member(f"{number}", tarfile.LNKTYPE, "data/a.txt"), b"") for number in range(40)]
    with pytest.raises(InstallError, match="larger than 1 MB"):
        unpacked(tar_bytes([*MEMBERS, *copies]), size=1 << 20)


def test_set_uid_is_stripped(unpacked):
    target, _ = unpacked(tar_bytes([(member("tool", mode=0o6755), b""), (member("d", tarfile.DIRTYPE, mode=0), b"")]))
    assert [stat.S_IMODE((target / name).stat().st_mode) for name in ("tool", "d")] == [0o755, 0o755]


@pytest.mark.parametrize("way", ["zip", "gz", "xz"])
def test_bombs(unpacked, way):
    bomb = WAYS[way]([("a", bytes(8 << 20))])
    with pytest.raises(InstallError, match="larger than 4 MB"):
        unpacked(bomb, size=4 << 20)
    with pytest.raises(InstallError, match="bomb"):
        unpacked(bomb, ratio=100, ratio_from=1 << 20)
    with pytest.raises(InstallError, match="more than 50"):
        unpacked(WAYS[way]([(str(number), b"") for number in range(60)]), entries=50)
    with pytest.raises(InstallError, match="more than 50"):
        unpacked(WAYS[way]([(f"{number}/" * 20 + "x", b"") for number in range(5)]), entries=50)


@pytest.mark.parametrize("way", ["gz", "bz2", "xz"])
def test_a_bomb_in_what_is_skipped(unpacked, way):
    with pytest.raises(InstallError, match="bomb"):
        unpacked(WAYS[way]([(".git/a", bytes(8 << 20)), ("agent.yaml", b"")]), size=4 << 20)


def test_a_zip_that_lies_about_a_size(unpacked):
    good = zip_bytes([("a", bytes(1000))])
    for lie in (10, 100_000):
        with pytest.raises(InstallError, match="damaged"):
            unpacked(good.replace(struct.pack("<L", 1000), struct.pack("<L", lie)))


def test_an_absurd_table_of_contents(unpacked):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(300):
            info = zipfile.ZipInfo(f"{number}")
            info.comment = bytes(65_000)
            archive.writestr(info, b"")
    with pytest.raises(InstallError, match="absurd size"):
        unpacked(buffer.getvalue())


def test_an_absurd_tar_header(unpacked):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member("a", pax_headers={"comment": "x" * 200_000}))
    with pytest.raises(InstallError, match="absurd size"):
        unpacked(buffer.getvalue())


def test_a_chain_of_headers(unpacked):
    header = member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=2).tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(
        512, b"\0"
    )
    with pytest.raises(InstallError, match="damaged"):
        unpacked(gzip.compress(header * 3000 + bytes(1024)))


def test_an_encrypted_zip(unpacked):
    content = bytearray(zip_bytes(MEMBERS))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InstallError, match=r"agent\.yaml is encrypted"):
        unpacked(bytes(content))


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_or_damaged_archive(unpacked, way):
    whole = WAYS[way]([*MEMBERS, ("noise", os.urandom(5000))])
    for length in (40, 600, 1024, len(whole) // 2 // 512 * 512, len(whole) - 600 if way == "tar" else len(whole) - 5):
        cut = whole[:length] if way != "tar" else whole.rstrip(b"\0")[:length]
        with pytest.raises(InstallError, match=r"damaged|neither"):
            unpacked(cut)
    with pytest.raises(InstallError, match=r"damaged|refused"):
        unpacked(whole[:700] + bytes(byte ^ 0x55 for byte in whole[700:1500]) + whole[1500:])


@pytest.mark.parametrize("content", [b"", b"hello", b"PK", b"PK\x03\x04", b"\x1f\x8b", b"BZh", bytes(1024)])
def test_what_is_no_archive(unpacked, content):
    with pytest.raises(InstallError, match=r"x\.agent is (damaged|neither)"):
        unpacked(content)


@pytest.mark.parametrize("way", ["zip", "tar"])
def test_a_member_without_a_name(unpacked, way):
    with pytest.raises(InstallError, match=r"without a name|not a relative path"):
        unpacked(WAYS[way]([*MEMBERS, ("", b"x")]))


def test_a_name_that_is_not_utf8(unpacked):
    with pytest.raises(InstallError, match="UTF-8"):
        unpacked(tar_bytes([(member("a\udcffb"), b"")]))


def test_a_missing_archive(tmp_path):
    with pytest.raises(InstallError, match=r"cannot read .*none\.zip: No such file"):
        unpack(str(tmp_path / "none.zip"), str(tmp_path / "target"))
    assert not os.listdir(tmp_path)
