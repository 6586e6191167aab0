"""Indexes that fail, lie and attack, on a server that misbehaves on purpose; seen through the command."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import ssl
import subprocess

import pytest

from tests.integration.bad_index_server import (
    cut,
    dripping,
    dripping_headers,
    elsewhere,
    promising,
    redirect,
    saying,
    serving,
    silent,
    squeezed,
    status,
    unranged,
)
from tests.integration.faults_support import tmpfs
from tests.integration.index_support import TestIndex
from tests.support import assert_refused, invoke, start, tree, wait_until

SLOW = pytest.mark.slow
ARCHIVE, DOCUMENT = "tool-1.0.0.agent", "alice/tool.json"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An index that no test changes, with an archive of some 300 kB."""
    index = TestIndex(tmp_path_factory.mktemp("shared") / "index")
    directory = index.write("alice/tool", "1.0.0")
    with open(os.path.join(directory, "data.bin"), "wb") as file:
        file.write(os.urandom(300_000))
    index.publish_directory("alice/tool", directory)
    return index


@pytest.fixture
def server(published):
    with serving(published.directory) as server:
        yield server


@pytest.fixture
def lying(published, tmp_path):
    """A copy of the index whose files a test changes: `lying(lambda document: …)` serves it."""
    shutil.copytree(published.directory, tmp_path / "lying")
    index = TestIndex(tmp_path / "lying")

    def change(edit=lambda document: None):
        document = index.document("alice/tool")
        other = edit(document)
        index.document_path("alice/tool").write_text(json.dumps(document if other is None else other))
        return index

    return change


def attempt(cli, url, spec="alice/tool"):
    """Resolves, fetches, checks and unpacks, and makes no environment."""
    return cli("install", "--dry-run", "--index", url, spec)


def succeeds(cli, url):
    finished = attempt(cli, url)
    assert finished.code == 0, finished.err


def kept():
    """What of archives is in the cache."""
    try:
        return sorted(os.listdir(os.path.join(os.environ["AGENTHUB_HOME"], "cache", "index", "archives")))
    except FileNotFoundError:
        return []


# connections ----------------------------------------------------------------------------------------------------------


def test_a_download_that_is_cut_goes_on_where_it_was(cli, server):
    server.will(ARCHIVE, cut(100_000), cut(50_000))
    succeeds(cli, server.url)
    assert [request.headers.get("Range") for request in server.asked(ARCHIVE)] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]


@pytest.mark.slow
def test_the_next_command_goes_on_where_the_last_one_was(cli, server):
    server.will(ARCHIVE, *[cut(20_000)] * 4)
    assert_refused(attempt(cli, server.url), 4, ARCHIVE, "cut")
    assert [os.path.splitext(name)[1] for name in kept()] == [".part"]
    succeeds(cli, server.url)
    assert server.asked(ARCHIVE)[-1].headers["Range"] == "bytes=80000-"
    assert [os.path.splitext(name)[1] for name in kept()] == [".agent"]


@pytest.mark.slow
def test_a_document_that_is_cut_is_fetched_again(cli, server):
    server.will(DOCUMENT, cut(10), promising(+5))
    succeeds(cli, server.url)
    assert len(server.asked(DOCUMENT)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", [unranged, elsewhere], ids=["the whole", "another piece"])
def test_a_server_that_does_not_continue(cli, server, fault):
    server.will(ARCHIVE, cut(100_000), fault)
    succeeds(cli, server.url)


@pytest.mark.slow
def test_a_wrong_length(cli, server):
    server.will(ARCHIVE, promising(+10), promising(-10))
    succeeds(cli, server.url)
    server.always(ARCHIVE, lambda handler, data: handler.send(200, data + b"more"))
    cli.ok("cache", "clean")
    assert_refused(attempt(cli, server.url), 4, "more than the", "bytes that the index says")


def test_a_server_that_recovers(cli, server):
    server.will(DOCUMENT, status(503))
    server.will(ARCHIVE, status(500))
    succeeds(cli, server.url)


@pytest.mark.slow
def test_a_server_in_trouble(cli, server):
    server.will(DOCUMENT, status(503), status(502))
    server.will(ARCHIVE, status(500), status(429, Retry_After="0"))
    succeeds(cli, server.url)
    server.always(DOCUMENT, status(503))
    assert_refused(attempt(cli, server.url), 4, "503", "--offline")
    assert len(server.asked(DOCUMENT)) == 3 + 4
    assert cli("install", "--dry-run", "--offline", "--index", server.url, "alice/tool").code == 0
    server.always(DOCUMENT, status(418))
    assert_refused(attempt(cli, server.url), 4, "418")
    assert len(server.asked(DOCUMENT)) == 3 + 4 + 1  # that will not change by asking again


@pytest.mark.parametrize(
    ("fault", "file"),
    [
        pytest.param(dripping, DOCUMENT, id="body-document"),
        pytest.param(dripping, ARCHIVE, id="body-archive", marks=SLOW),
        pytest.param(dripping_headers, DOCUMENT, id="headers-document", marks=SLOW),
        pytest.param(dripping_headers, ARCHIVE, id="headers-archive", marks=SLOW),
        pytest.param(silent, DOCUMENT, id="silent-document", marks=SLOW),
        pytest.param(silent, ARCHIVE, id="silent-archive", marks=SLOW),
    ],
)
def test_a_slow_drip(cli, server, monkeypatch, fault, file):
    monkeypatch.setenv("AGENTHUB_INDEX_TIMEOUT", "150ms")
    server.always(file, fault)
    assert_refused(attempt(cli, server.url), 4, "cannot get")
    server.always(file, None)
    succeeds(cli, server.url)


@pytest.mark.slow
def test_squeezed_to_nothing_but_large(cli, server):
    server.always(DOCUMENT, lambda handler, data: squeezed(handler, b" " * (17 << 20)))
    assert_refused(attempt(cli, server.url), 4, "larger than")


@pytest.mark.slow
def test_killed_in_the_middle(server, tmp_path):
    """What came of an archive when the process died is used by the next one."""
    server.will(
        ARCHIVE, lambda handler, data: (handler.send(200, data[:200_000], length=len(data)), silent(handler, b""))
    )
    with start("install", "--yes", "--index", server.url, "alice/tool") as process:
        partial = tmp_path / "home" / "cache" / "index" / "archives"
        wait_until(
            lambda: partial.is_dir() and any(path.stat().st_size == 200_000 for path in partial.glob("*.part")), process
        )
        process.kill()
    done = invoke("install", "--yes", "--index", server.url, "alice/tool")
    assert done.code == 0, done
    assert server.asked(ARCHIVE)[-1].headers["Range"] == "bytes=200000-"
    assert invoke("run", "alice/tool", "go").out == "alice/tool 1.0.0\n"


@pytest.mark.slow
def test_two_that_want_the_same(server):
    """Each archive is fetched once, also when two processes want it."""
    first, second = (start("install", "--dry-run", "--index", server.url, "alice/tool") for _ in range(2))
    assert [process.communicate()[0] is not None and process.returncode for process in (first, second)] == [0, 0]
    assert len(server.asked(ARCHIVE)) == 1


# redirects ------------------------------------------------------------------------------------------------------------


def test_redirects_on_the_same_host(cli, server, published):
    with serving(published.directory) as other:
        server.always(DOCUMENT, redirect(f"/again/../agents/{DOCUMENT}?x", 301))
        server.will(f"{DOCUMENT}?x", redirect(f"{other.url}/agents/{DOCUMENT}"))
        succeeds(cli, server.url)
        assert len(other.asked(DOCUMENT)) == 1


def test_a_loop_of_redirects(cli, server):
    server.always(DOCUMENT, redirect(f"/agents/{DOCUMENT}"))
    assert_refused(attempt(cli, server.url), 4, "more than 5 redirects")
    assert len(server.asked(DOCUMENT)) == 6


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "http://192.0.2.1/x", "https://example.org/x", "ftp://127.0.0.1/x", "//192.0.2.1/x", ""],
)
@pytest.mark.parametrize("file", [DOCUMENT, pytest.param(ARCHIVE, marks=pytest.mark.slow)])
def test_redirects_that_are_refused(cli, server, target, file):
    server.always(file, redirect(target))
    assert_refused(attempt(cli, server.url), 5, "redirects to", "refused")


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """TLS for `localhost`, and the file of its certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    place = tmp_path_factory.mktemp("tls") / "pair.pem"
    private = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    place.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, plain) + certificate)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(place)
    return made, str(place)


def test_tls(cli, published, context, monkeypatch):
    with serving(published.directory, context[0]) as server, serving(published.directory) as plain:
        assert_refused(attempt(cli, server.url), 4, "certificate")
        monkeypatch.setenv("SSL_CERT_FILE", context[1])
        succeeds(cli, server.url)
        server.always(DOCUMENT, redirect(f"{plain.url}/agents/{DOCUMENT}"))
        assert_refused(attempt(cli, server.url), 5, "redirects to", "refused")
        assert plain.requests == []


def test_a_token_stays_at_its_host(cli, published, context, monkeypatch):
    """Another port is another server: it is given the address, and nothing that opens anything."""
    monkeypatch.setenv("SSL_CERT_FILE", context[1])
    monkeypatch.setenv("AGENTHUB_INDEX_TOKEN_CORP", "open-sesame")
    with serving(published.directory, context[0]) as server, serving(published.directory, context[0]) as other:
        cli.ok("index", "add", "corp", server.url)
        server.always(ARCHIVE, redirect(f"{other.url}/files/alice/tool/{ARCHIVE}"))
        assert cli("install", "--dry-run", "alice/tool").code == 0
        assert server.requests[0].headers["Authorization"] == "Bearer open-sesame"
        assert "Authorization" not in other.requests[0].headers


# lies -----------------------------------------------------------------------------------------------------------------


def test_a_wrong_digest(cli, server, published):
    good = published.archive("alice/tool").read_bytes()
    server.always(ARCHIVE, saying(good[:-1] + b"x"))
    assert_refused(attempt(cli, server.url), 4, "is not what the index says", "digest", "nothing of it was opened")
    server.always(ARCHIVE, None)
    succeeds(cli, server.url)


@pytest.mark.slow
def test_what_came_before_was_of_another_file(cli, server, published):
    good = published.archive("alice/tool").read_bytes()
    server.will(ARCHIVE, *[lambda handler, data: cut(1000)(handler, b"x" * len(data))] * 4)
    assert attempt(cli, server.url).code == 4
    assert len(kept()) == 1
    succeeds(cli, server.url)
    assert len(good) > 1000


def test_a_wrong_digest_in_a_directory(cli, lying):
    index = lying()
    with open(index.archive("alice/tool"), "r+b") as file:
        file.write(b"PX")
    assert_refused(attempt(cli, index.file_url), 4, "is not what the index says", "digest")
    with open(index.archive("alice/tool"), "ab") as file:
        file.write(b"more")
    assert_refused(attempt(cli, index.file_url), 4, "is not what the index says", "bytes")
    index.archive("alice/tool").unlink()
    assert_refused(attempt(cli, index.file_url), 3, "has no files/alice/tool")
    os.mkfifo(index.archive("alice/tool"))
    assert attempt(cli, index.file_url).code == 4


def release(**changes):
    return lambda document: document["releases"]["1.0.0"].update(changes)


def top(**changes):
    return lambda document: document.update(changes)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (top(name="other"), "'alice/other'"),
        (top(owner="Alice"), "'Alice/tool'"),
        (top(owner="\u0430lice"), "lice/tool'"),
        (top(schema_version=2), "newer agenthub"),
        (top(serial=-1), "'serial'"),
        (top(serial=None), "'serial'"),
        (top(releases=[]), "'releases'"),
        (lambda document: [1], "not an object"),
        (lambda document: {}, "schema_version"),
        (lambda document: document["releases"].update({"../x": {}}), "not a version"),
        (lambda document: document["releases"].update({"1.0": document["releases"]["1.0.0"]}), "same version"),
        (release(file="../../secret"), "'file'"),
        (release(file="/etc/passwd"), "'file'"),
        (release(file="http://192.0.2.1/x.agent"), "'file'"),
        (release(file="files/a?b=c"), "'file'"),
        (release(digest="md5:00"), "'digest'"),
        (release(digest="sha256:" + "0" * 63), "'digest'"),
        (release(size=1 << 50), "bytes is not possible"),
        (release(size=0), "not possible"),
        (release(size=True), "'size'"),
        (release(tree_digest="sha256:" + "0" * 64), "its content is another one"),
        (release(requires={"no agent": ">=1"}), "'requires'"),
        (release(yanked=3), "'yanked'"),
        (release(environment=["X"]), "'environment'"),
        (release(signatures=[{"kind": "ssh", "file": "../x"}]), "'file'"),
    ],
)
def test_documents_that_are_not_to_be_used(cli, lying, edit, word):
    assert_refused(attempt(cli, lying(edit).file_url), 4, word)


def test_a_document_that_is_none(cli, lying):
    index = lying()
    for text in ("", "no json", "[" * 100_000, '{"schema_version": 1, "owner": "alice"'):
        index.document_path("alice/tool").write_text(text)
        assert_refused(attempt(cli, index.file_url), 4, "not JSON")


def test_another_agent_under_the_name(cli, lying):
    """The document is in order, and the archive has its digest, but it is another agent, or another version."""
    index = lying()
    for agent, version in (("alice/other", "1.0.0"), ("alice/tool", "6.6.6")):
        index.publish(agent, version)
        other = index.document(agent)["releases"][version]

        def edit(document, other=other):
            document["releases"] = {"1.0.0": other}

        assert_refused(attempt(cli, lying(edit).file_url), 4, "is not what the index says", "it is")


def test_an_older_state_than_was_seen(cli, lying, tmp_path):
    """A rollback attack: whoever holds back the release that repairs something is found out."""
    index = lying()
    with serving(index.directory) as server:
        old = index.document_path("alice/tool").read_bytes()
        index.publish("alice/tool", "1.0.1")
        succeeds(cli, server.url)
        index.document_path("alice/tool").write_bytes(old)
        assert_refused(attempt(cli, server.url), 5, "older state", "index owner alice")
        cli.ok("cache", "clean")
        assert_refused(attempt(cli, server.url), 5, "older state")
        cli.ok("index", "add", "main", server.url)
        cli.ok("index", "owner", "alice", "main")
        succeeds(cli, server.url)


def test_a_release_that_changes(cli, lying):
    index = lying()
    with serving(index.directory) as server:
        succeeds(cli, server.url)

        def edit(document):
            document["serial"] += 1
            document["releases"]["1.0.0"]["digest"] = "sha256:" + "1" * 64

        lying(edit)
        assert_refused(attempt(cli, server.url), 5, "a release never changes")


def test_clocks_that_are_wrong(cli, lying):
    """Nothing is believed or refused by what a clock says: not the publisher's, not the server's."""
    index = lying(release(published_at="2999-01-01T00:00:00Z"))
    with serving(index.directory) as server:
        date = {"Date": "Thu, 01 Jan 1970 00:00:00 GMT", "Last_Modified": "Fri, 01 Jan 2999 00:00:00 GMT"}
        server.will(DOCUMENT, lambda handler, data: saying(data, **date)(handler, data))
        for _ in range(2):
            succeeds(cli, server.url)
        assert server.asked(DOCUMENT)[1].headers["If-Modified-Since"] == date["Last_Modified"]


# disks ----------------------------------------------------------------------------------------------------------------


def test_a_read_only_index(cli, published, tmp_path):
    before = tree(published.directory)
    place = tmp_path / "read-only"
    place.mkdir()
    mounted = subprocess.run(["mount", "--bind", published.directory, place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        succeeds(cli, place)
        assert "tool" in cli.ok("search", "tool", "--index", place).out
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
    assert tree(published.directory) == before


def test_a_full_disk(cli, server, tmp_path, monkeypatch):
    with tmpfs(tmp_path / "small", "size=200k") as disk:
        monkeypatch.setenv("AGENTHUB_HOME", str(disk / "home"))
        assert_refused(attempt(cli, server.url), 4, "No space left on device", "AGENTHUB_HOME")
        assert kept() == []  # it would only be in the way
        assert os.listdir(disk / "home" / "staging") == []
