"""`pack`, `publish`, `yank`, `deprecate`, `index build|verify`, through the command, on an index in a directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.integration.index_support import TestIndex
from tests.support import SAMPLES, assert_refused, tree, write_agent


@pytest.fixture
def index(tmp_path):
    return TestIndex(tmp_path / "index")


@pytest.fixture
def publish(cli, index):
    """`publish(version)`: the agent `acme/greeter` of that version, through the command."""

    def publish(version="1.0.0", *words, agent="acme/greeter", **manifest):
        directory = index.write(agent, version, **manifest)
        return cli("publish", directory, "--index", index.directory, "--owner", agent.partition("/")[0], *words)

    return publish


def verified(cli, index):
    """Verifies, and returns the documents, which nobody may have touched."""
    found = cli("index", "verify", index.directory, "--json")
    assert (found.code, found.json["problems"]) == (0, [])
    return {name: data for name, data in tree(index.directory).items() if not name.startswith(".agenthub")}


def latest(index, agent="acme/greeter"):
    search = json.loads((index.directory / "search.json").read_bytes())
    entries = {f"{entry['owner']}/{entry['name']}": entry["version"] for entry in search["agents"]}
    return entries.get(agent)


# the whole way -----------------------------------------------------------------------------------------------------


def test_packed_published_installed_run(cli, index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = index.write("acme/greeter", "1.0")
    packed = cli.ok("pack", directory)
    assert packed.stdout == b""
    assert "✓ greeter-1.0.agent  2 files" in packed.err
    published = cli.ok("publish", "greeter-1.0.agent", "--index", index.directory, "--owner", "acme")
    assert published.err.startswith("✓ acme/greeter 1.0 is published in ")
    verified(cli, index)
    cli.ok("install", "--yes", "--index", index.file_url, "acme/greeter")
    assert cli.ok("run", "greeter", "go").out == "acme/greeter 1.0\n"
    release = index.document("acme/greeter")["releases"]["1.0"]
    info = cli.ok("list", "--json").json["agents"][0]
    assert (info["owner"], info["name"], info["version"]) == ("acme", "greeter", "1.0")
    assert release["published_by"]
    assert release["methods"] == {"go": "what greeter says"}


@pytest.mark.parametrize("sample", sorted(next(os.walk(SAMPLES))[1]))
def test_the_samples_can_be_published(cli, index, sample):
    cli.ok("publish", os.path.join(SAMPLES, sample), "--index", index.directory, "--owner", "agenthub")
    verified(cli, index)


def test_a_directory_and_its_archive_are_one_release(cli, index, tmp_path):
    directory = index.write("acme/greeter", "1.0")
    cli.ok("pack", directory, "-o", tmp_path)
    cli.ok("publish", directory, "--index", index.directory, "--owner", "acme")
    before = verified(cli, index)
    again = cli.ok("publish", tmp_path / "greeter-1.0.agent", "--index", index.directory, "--owner", "acme")
    assert "published already, with exactly this content" in again.err
    assert verified(cli, index) == before


def test_other_archives_are_published_as_they_are(cli, index, tmp_path):
    directory = index.write("acme/greeter", "1.0")
    archive = shutil.make_archive(
        str(tmp_path / "greeter"), "zip", os.path.dirname(directory), os.path.basename(directory)
    )
    cli.ok("publish", archive, "--index", index.directory, "--owner", "acme")
    verified(cli, index)
    with open(archive, "rb") as file:
        assert index.archive("acme/greeter", "1.0").read_bytes() == file.read()


def test_the_documents_say_what_the_manifest_says(cli, index, publish):
    done = publish(
        "2.1.0rc1",
        tags=["hello"],
        description="greets",
        python_version="3.11+",
        permissions={"network": ["api.example.org"]},
        environment={"required": {"NAME": "whose"}, "secret": {"KEY": "of the API"}},
        dependencies=[],
        requires={"acme/words": ">=1"},
    )
    assert done.code == 0, done.err
    document = index.document("acme/greeter")
    release = document["releases"]["2.1.0rc1"]
    assert document["tags"] == ["hello"]
    assert release["python"] == ">=3.11"
    assert release["permissions"] == {"network": ["api.example.org"]}
    assert release["environment"] == [
        {"name": "NAME", "required": True, "secret": False},
        {"name": "KEY", "required": True, "secret": True},
    ]
    assert release["requires"] == {"acme/words": ">=1"}
    assert release["dependencies"] == []
    assert release["file"] == "files/acme/greeter/greeter-2.1.0rc1.agent"
    archive = index.directory / release["file"]
    assert archive.stat().st_size == release["size"]


# what stays, and what does not become the latest -------------------------------------------------------------------


def test_what_was_published_never_changes(cli, index, publish):
    assert publish("1.0").code == 0
    before = verified(cli, index)
    for words in ((), ("--force",)):
        other = publish("1.0", *words, description="another")
        assert_refused(other, 5, "acme/greeter 1.0 is published already, with other content", "raise the version")
    assert_refused(publish("1.0.0", description="the same version"), 5, "acme/greeter 1.0 is published already")
    assert verified(cli, index) == before


def test_a_version_that_would_be_the_latest_for_ever(cli, index, publish):
    assert publish("1.4.0").code == 0
    for version, why in (("14.0", "jumps from 1.4.0"), ("1!1.5", "epoch"), ("2024.1", "jumps")):
        assert_refused(publish(version), 5, why, "--force")
    assert publish("2.0").code == 0
    assert publish("1.5").code == 0
    assert latest(index) == "2.0"
    assert publish("14.0", "--force").code == 0
    assert latest(index) == "14.0"
    cli.ok("yank", "acme/greeter@14", "a slip", "--index", index.directory)
    assert latest(index) == "2.0"
    assert_refused(publish("15.0"), 5, "jumps from 2.0")  # a yanked one is no reason
    verified(cli, index)


def test_a_first_version_may_be_any(index, publish):
    assert publish("2024.1").code == 0
    assert publish("2025.1").code == 0
    assert latest(index) == "2025.1"


def test_a_prerelease_is_not_the_latest(cli, index, publish):
    assert publish("1.0b1").code == 0
    assert latest(index) == "1.0b1"  # there is no other
    assert publish("1.0").code == 0
    done = publish("1.1.0-rc.1")
    assert "1.1.0rc1 is published" in done.err
    assert "the latest is still 1.0" in done.err
    assert latest(index) == "1.0"
    assert cli.ok("publish", index.write("acme/greeter", "0.9"), "--index", index.directory, "--owner", "acme")
    assert latest(index) == "1.0"


@pytest.mark.parametrize("version", ["new", "1.0+mine", "1.0-beta.x.y", ""])
def test_versions_that_cannot_be_published(index, publish, version):
    done = publish(version)
    assert done.code == 3, done.err
    assert not index.directory.exists()


def test_look_alikes(cli, index, publish):
    assert publish("1.0").code == 0
    for agent in ("acme/gree-ter", "acme/gree_ter", "acme/gre.eter"):
        assert_refused(publish("1.0", agent=agent), 5, "looks like acme/greeter", "--force")
    assert_refused(publish("1.0", agent="acrne/other"), 5, "looks like acme")
    assert publish("1.0", agent="acme/greeting").code == 0
    assert publish("1.0", agent="other/greeter").code == 0  # another owner's
    assert publish("1.0", "--force", agent="acme/gree-ter").code == 0
    verified(cli, index)


# yank, deprecate ---------------------------------------------------------------------------------------------------


def test_yank_and_back(cli, index, publish):
    for version in ("1.0", "1.1"):
        publish(version, description=f"the one of {version}", tags=[version])
    said = cli.ok("yank", "acme/greeter@1.1.0", "loses data", "--index", index.directory)
    assert "acme/greeter 1.1 is yanked: loses data" in said.err
    document = index.document("acme/greeter")
    assert [release["yanked"] for release in document["releases"].values()] == [None, "loses data"]
    assert (document["description"], document["tags"]) == ("the one of 1.0", ["1.0"])
    assert latest(index) == "1.0"
    before = verified(cli, index)
    cli.ok("yank", "acme/greeter@1.1", "loses data", "--index", index.directory)
    assert verified(cli, index) == before  # said twice is said once
    cli.ok("yank", "acme/greeter@1.1", "--undo", "--index", index.directory)
    assert index.document("acme/greeter")["description"] == "the one of 1.1"
    assert latest(index) == "1.1"
    for version in ("1.0", "1.1"):
        cli.ok("yank", f"acme/greeter@{version}", "all of it", "--index", index.directory)
    assert latest(index) is None
    verified(cli, index)


def test_deprecate_and_back(cli, index, publish):
    for version in ("1.0", "1.1"):
        publish(version)
    cli.ok("deprecate", "acme/greeter@1.0", "use 1.1", "--index", index.directory)
    done = cli.ok("deprecate", "acme/greeter", "use acme/other", "--index", index.directory, "--json")
    assert done.json["versions"] == ["1.0", "1.1"]
    releases = index.document("acme/greeter")["releases"].values()
    assert [release["deprecated"] for release in releases] == ["use acme/other"] * 2
    assert latest(index) == "1.1"
    cli.ok("deprecate", "acme/greeter", "--undo", "--index", index.directory)
    releases = index.document("acme/greeter")["releases"].values()
    assert [release["deprecated"] for release in releases] == [None] * 2
    verified(cli, index)


def test_notices_that_are_wrong(cli, index, publish):
    publish("1.0")
    at = ("--index", index.directory)
    before = verified(cli, index)
    assert_refused(cli("yank", "acme/greeter", "why", *at), 2, "@VERSION")
    assert_refused(cli("yank", "acme/greeter@1.0", *at), 2, "say why")
    assert_refused(cli("yank", "acme/greeter@1.0", "why", "--undo", *at), 2, "--undo takes no reason")
    assert_refused(cli("yank", "acme/greeter@2", "why", *at), 3, "acme/greeter 2 was not published", "published: 1.0")
    assert_refused(cli("deprecate", "acme/gretter", "why", *at), 3, "did you mean acme/greeter?")
    assert_refused(cli("deprecate", "greeter", "why", *at), 2, "owner/name")
    assert_refused(cli("yank", "acme/greeter@1.0", "why", "--index", index.directory / "files"), 3, "no index")
    assert verified(cli, index) == before


def test_serials_only_grow(cli, index, publish):
    seen = []
    for act in (
        lambda: publish("1.0"),
        lambda: publish("1.1"),
        lambda: cli.ok("yank", "acme/greeter@1.0", "why", "--index", index.directory),
        lambda: publish("1.0", agent="acme/other"),
        lambda: cli.ok("yank", "acme/greeter@1.0", "--undo", "--index", index.directory),
    ):
        act()
        summary = json.loads((index.directory / "index.json").read_bytes())
        assert summary["serial"] == json.loads((index.directory / "search.json").read_bytes())["serial"]
        seen.append((summary["serial"], index.document("acme/greeter")["serial"]))
    assert [total for total, _ in seen] == sorted({total for total, _ in seen})
    assert [own for _, own in seen] == sorted(own for _, own in seen)
    assert seen[2][1] == seen[3][1]  # what is said of another agent leaves this one's document


@pytest.mark.slow
def test_any_sequence_is_what_a_build_would_make_of_it(cli, index):
    """The documents follow from archives and notices alone, however they came about."""
    import random

    chance = random.Random(3)
    versions = [f"{major}.{minor}{end}" for major in range(2) for minor in range(3) for end in ("", "rc1")]
    chance.shuffle(versions)
    for version in versions:
        index.publish("acme/greeter", version, description=f"the one of {version}", tags=[version])
        published = list(index.document("acme/greeter")["releases"])
        index.notice("acme/greeter", chance.choice(published), yanked=chance.choice(["why", ""]))
        index.notice("acme/greeter", chance.choice(published), deprecated=chance.choice(["why", ""]))
    for version in published:
        index.notice("acme/greeter", version, yanked="all of it")
        before = verified(cli, index)
        assert cli.ok("index", "build", index.directory, "--json").json["changed"] == []
        assert verified(cli, index) == before


# what is refused ---------------------------------------------------------------------------------------------------


def test_secrets_in_an_archive_are_found_too(cli, index, tmp_path):
    directory = index.write("acme/greeter")
    with open(os.path.join(directory, ".env"), "w") as file:
        file.write("KEY=1\n")
    archive = shutil.make_archive(str(tmp_path / "greeter"), "gztar", directory)
    at = ("--index", index.directory, "--owner", "acme")
    assert_refused(cli("publish", archive, *at), 5, archive, ".env", "--allow-file .env")
    assert_refused(cli("publish", directory, *at), 5, ".env")
    assert not index.directory.exists()
    cli.ok("publish", archive, *at, "--allow-file", ".env")
    verified(cli, index)


def test_agents_that_could_not_be_run(cli, index, tmp_path):
    at = ("--index", index.directory, "--owner", "acme")
    directory = index.write("acme/greeter")
    with open(os.path.join(directory, ".gitignore"), "w") as file:
        file.write("agent.py\n")
    assert_refused(cli("publish", directory, *at), 3, "there is no module agent", "ignore list")
    assert_refused(cli("pack", directory, "-o", tmp_path), 3, "there is no module agent")
    assert_refused(cli("publish", tmp_path, *at), 3, "agent.yaml")
    assert_refused(cli("publish", tmp_path / "no", *at), 3, "there is no directory and no archive")
    (tmp_path / "junk.agent").write_bytes(b"PK\x03\x04 junk")
    assert_refused(cli("publish", tmp_path / "junk.agent", *at), 4, "junk.agent", "damaged")
    assert not index.directory.exists()


def test_where_there_is_no_index(cli, index, tmp_path):
    directory = index.write("acme/greeter")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter.txt").touch()
    assert_refused(cli("publish", directory, "--owner", "acme"), 2, "which index?", "--index URL")
    at = ("--index", tmp_path / "documents")
    assert_refused(cli("publish", directory, "--owner", "acme", *at), 4, "is not an index: it holds letter.txt")
    assert sorted(os.listdir(tmp_path / "documents")) == ["letter.txt"]
    assert_refused(cli("publish", directory, "--owner", "Acme!", "--index", index.directory), 4, "Acme!")
    git = "git+https://git.example.org/{owner}/{name}"
    assert_refused(cli("publish", directory, "--owner", "acme", "--index", git), 2, "git host", "push a tag")
    assert_refused(cli("index", "verify", tmp_path / "documents"), 3, "no index")
    assert_refused(cli("index", "verify", tmp_path / "nowhere"), 3, "no directory")


@pytest.mark.parametrize("manifest", [{"description": "x" * 20_000}, {"tags": ["x"] * 10_001}])
def test_what_no_reader_would_take_is_not_published(cli, index, publish, manifest):
    publish("1.0")
    before = verified(cli, index)
    done = publish("1.1", **manifest)
    assert done.code == 4
    assert "readers would refuse it" in done.err
    assert verified(cli, index) == before


def test_nobody_publishes_as_local(index, publish):
    assert_refused(publish("1.0", agent="local/greeter"), 4, "nobody publishes as local")
    assert not index.directory.exists()


def test_dry_runs_change_nothing(cli, index, publish, tmp_path):
    directory = index.write("acme/greeter")
    done = publish("1.0.0", "--dry-run", "--json")
    assert done.json["dry_run"] is True
    assert "would publish acme/greeter 1.0.0" in done.err
    assert not index.directory.exists()
    done = cli.ok("pack", directory, "--dry-run", "-o", tmp_path)
    assert done.out.split() == ["agent.py", "agent.yaml"]
    assert not list(tmp_path.glob("*.agent"))


def test_a_configured_index_is_published_to_by_its_name(cli, index, publish):
    publish("1.0")
    cli.ok("index", "add", "ours", index.directory)
    cli.ok("publish", index.write("acme/greeter", "1.1"), "--index", "ours", "--owner", "acme")
    assert latest(index) == "1.1"


# signatures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen")
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def test_a_signature_is_published_with_its_release(cli, index, publish, key):
    assert publish("1.0", "--sign", key).code == 0
    listed = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True).stdout
    (signature,) = index.document("acme/greeter")["releases"]["1.0"]["signatures"]
    assert signature["kind"] == "ssh"
    assert signature["key"] == listed.split()[1]
    assert (index.directory / signature["file"]).read_bytes().startswith(b"-----BEGIN SSH SIGNATURE-----")
    verified(cli, index)


def test_a_release_may_be_signed_later(cli, index, publish, key):
    assert publish("1.0").code == 0
    before = index.document("acme/greeter")
    assert publish("1.0", "--sign", key).code == 0
    after = index.document("acme/greeter")
    assert len(after["releases"]["1.0"].pop("signatures")) == 1
    assert before["releases"]["1.0"].pop("signatures") == []
    assert after["releases"] == before["releases"]
    assert "published already" in publish("1.0", "--sign", key).err
    verified(cli, index)


def test_a_key_that_is_none(index, publish, tmp_path):
    assert_refused(publish("1.0", "--sign", tmp_path / "nowhere"), 2, "nowhere")
    assert not index.directory.exists()


# build, verify -----------------------------------------------------------------------------------------------------


@pytest.fixture
def published(cli, index, publish):
    """Two agents, one with a yanked release."""
    for version in ("1.0", "1.1", "2.0b1"):
        publish(version)
    publish("0.1", agent="other/reader", tags=["x"])
    cli.ok("yank", "acme/greeter@1.1", "why", "--index", index.directory)
    return index


def test_a_build_of_what_is_in_order_changes_nothing(cli, published):
    before = verified(cli, published)
    done = cli.ok("index", "build", published.directory, "--json")
    assert done.json["changed"] == []
    assert (done.json["agents"], done.json["releases"]) == (2, 4)
    assert verified(cli, published) == before


def test_a_build_from_the_archives_alone_is_deterministic(cli, published, tmp_path):
    built = []
    for name in ("one", "two"):
        copy = tmp_path / name
        shutil.copytree(published.directory / "files", copy / "files")  # with their times
        cli.ok("index", "build", copy)
        built.append(tree(copy))
        del built[-1][".agenthub"], built[-1][".agenthub/lock"], built[-1][".agenthub/staging"]
    assert built[0] == built[1]
    lost = json.loads(built[0]["agents/acme/greeter.json"])["releases"]
    had = published.document("acme/greeter")["releases"]
    assert had.pop("1.1")["yanked"] == "why"
    assert lost.pop("1.1")["yanked"] is None
    for release in (*had.values(), *lost.values()):
        release.pop("published_by")
    assert lost == had


def test_a_build_keeps_what_no_archive_says(cli, published):
    before = verified(cli, published)
    for path in ("search.json", "index.json", "agents/other/reader.json"):
        (published.directory / path).unlink()
    assert cli("index", "verify", published.directory).code == 3  # there is no index.json
    cli.ok("index", "build", published.directory)
    after = verified(cli, published)
    assert after["agents/acme/greeter.json"] == before["agents/acme/greeter.json"]
    assert json.loads(after["index.json"])["serial"] > json.loads(before["index.json"])["serial"] - 1


def test_a_build_takes_in_an_archive_that_was_put_there(cli, published):
    archive = published.pack(published.write("acme/new", "0.1"))
    place = published.directory / "files" / "acme" / "new" / "new-0.1.agent"
    place.parent.mkdir()
    shutil.move(archive, place)
    assert cli("index", "verify", published.directory).code == 1
    assert cli.ok("index", "build", published.directory, "--json").json["changed"] == ["acme/new"]
    assert "new-0.1.agent" in published.document("acme/new")["releases"]["0.1"]["file"]
    verified(cli, published)


def test_a_build_says_what_is_lost(cli, published):
    published.archive("acme/greeter", "1.0").unlink()
    published.document_path("other/reader").write_text("{")
    done = cli.ok("index", "build", published.directory)
    assert "lost: acme/greeter 1.0: its archive" in done.err
    assert "lost: other/reader" in done.err
    assert list(published.document("acme/greeter")["releases"]) == ["1.1", "2.0b1"]
    verified(cli, published)


def test_a_build_refuses_what_is_not_what_it_says(cli, published):
    other = published.pack(published.write("acme/greeter", "1.0", "def go():\n    return 'evil'\n"))
    shutil.copy(other, published.archive("acme/greeter", "1.0"))
    assert_refused(cli("index", "build", published.directory), 5, "is not what was published as acme/greeter 1.0")
    shutil.copy(other, published.archive("acme/greeter", "1.1"))
    (published.directory / "agents").rename(published.directory.parent / "away")
    assert_refused(cli("index", "build", published.directory), 4, "belongs at files/acme/greeter/greeter-1.0.agent")


_EVERY_TIME = ("altered", "orphan", "permissions", "summary")


def damage(index):
    """Each: what is done to an index, and what `verify` is to say of it."""

    def edit(agent, change):
        document = index.document(agent)
        change(document)
        index.document_path(agent).write_text(json.dumps(document))

    def write(path, data):
        (index.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (index.directory / path).write_bytes(data)

    release = "acme/greeter"
    first = "files/acme/greeter/greeter-1.0.agent"
    return {
        "altered": (lambda: write(first, b"x" * 600), "greeter-1.0.agent: it is not what was published"),
        "missing": (lambda: (index.directory / first).unlink(), "greeter-1.0.agent: it is missing"),
        "orphan": (lambda: write("files/acme/greeter/x.txt", b"x"), "x.txt: no document names it"),
        "orphan release": (lambda: write("files/acme/gone/gone-1.agent", b"x"), "gone-1.agent: no document names it"),
        "strange document": (lambda: write("agents/acme/notes.txt", b"x"), "notes.txt: this is not the document"),
        "damaged": (lambda: index.document_path(release).write_text("["), "agents/acme/greeter.json: "),
        "other name": (lambda: edit(release, lambda d: d.update(name="x")), "it is the document of 'acme/x'"),
        "permissions": (
            lambda: edit(release, lambda d: d["releases"]["1.0"].update(permissions={"network": True})),
            "its document says other permissions than the archive",
        ),
        "tree digest": (
            lambda: edit(release, lambda d: d["releases"]["1.0"].update(tree_digest="sha256:" + "0" * 64)),
            "other tree_digest",
        ),
        "another file": (
            lambda: edit(release, lambda d: d["releases"]["1.0"].update(file="files/acme/greeter/greeter-1.1.agent")),
            "this is not where acme/greeter 1.0 belongs",
        ),
        "serial": (lambda: edit(release, lambda d: d.update(serial=1 << 40)), "its serial"),
        "summary": (lambda: edit("other/reader", lambda d: d.update(description="x")), "search.json: it says other"),
        "no summary": (lambda: (index.directory / "search.json").unlink(), "search.json: it is missing"),
        "count": (lambda: index.document_path("other/reader").unlink(), "it says 2 agents, and there are 1"),
        "signature": (
            lambda: edit(
                release,
                lambda d: d["releases"]["1.0"].update(signatures=[{"kind": "ssh", "file": first + ".sig", "key": ""}]),
            ),
            "greeter-1.0.agent.sig: it is missing",
        ),
    }


@pytest.mark.parametrize(
    "kind", [kind if kind in _EVERY_TIME else pytest.param(kind, marks=pytest.mark.slow) for kind in damage(None)]
)
def test_verify_finds(cli, published, kind):
    act, said = damage(published)[kind]
    act()
    found = cli("index", "verify", published.directory)
    assert found.code == 1
    assert said in found.out
    assert "error: " in found.out
    report = cli("index", "verify", published.directory, "--json")
    assert report.code == 1
    assert report.json["valid"] is False
    assert all(set(problem) == {"severity", "path", "message"} for problem in report.json["problems"])


def test_what_strangers_wrote_does_not_act_on_the_terminal(cli, published):
    (published.directory / "files" / "a\x1b[31m.txt").touch()
    assert b"\x1b" not in cli("index", "verify", published.directory).stdout


def test_an_agent_without_python_code(cli, index, tmp_path):
    directory = write_agent(tmp_path / "program", "", entrypoint={"command": ["sh", "run.sh"]})
    with open(os.path.join(directory, "run.sh"), "w") as file:
        file.write("echo '{\"result\": 1}'\n")
    cli.ok("publish", directory, "--index", index.directory, "--owner", "acme")
    verified(cli, index)


@pytest.mark.slow
def test_a_directory_whose_name_has_a_space(cli, tmp_path):
    index = tmp_path / "our index"
    cli.ok("publish", TestIndex(tmp_path / "other").write("acme/tool"), "--owner", "acme", "--index", index)
    assert (index / "agents" / "acme" / "tool.json").exists()
    assert "acme/tool" in cli.ok("install", "--dry-run", "--index", index, "acme/tool").err
