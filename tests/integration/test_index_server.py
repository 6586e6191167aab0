"""The reference server: what it gives, what it takes, and what it does not; publishing through it by the command."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess

import pytest

from agenthub.indexes.publishers import Publisher
from agenthub.indexes.server import IndexRequest
from tests.integration.index_support import TOKEN, TestIndex
from tests.support import COMMAND, PATIENCE, assert_refused, tree

ARCHIVE = "/files/acme/greeter/greeter-1.0.agent"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def index(tmp_path):
    return TestIndex(tmp_path / "index")


@contextlib.contextmanager
def asking(url):
    """`ask(method, path, body, headers)` -> status, headers, body; on one connection while the server keeps it."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)

    def ask(method, path, body=None, headers=None):
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as response:
            return response.status, response.headers, response.read()

    try:
        yield ask
    finally:
        connection.close()


@pytest.fixture
def reading(index):
    index.publish("acme/greeter", "1.0")
    with index.served() as url, asking(url) as ask:
        yield ask


@pytest.fixture
def writing(index):
    with index.served(writable=True) as url, asking(url) as ask:
        yield ask


def new_archive(index, version="1.0", agent="acme/greeter", **manifest):
    with open(index.pack(index.write(agent, version, **manifest)), "rb") as file:
        return file.read()


def files(index):
    return {name: data for name, data in tree(index.directory).items() if data is not None and "lock" not in name}


# what it gives -----------------------------------------------------------------------------------------------------


def test_documents_and_archives(index, reading):
    for path in ("index.json", "search.json", "agents/acme/greeter.json", ARCHIVE[1:]):
        status, headers, body = reading("GET", f"/{path}")
        assert (status, body) == (200, (index.directory / path).read_bytes())
        assert headers["Content-Length"] == str(len(body))
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert reading("HEAD", f"/{path}")[::2] == (200, b"")
        assert reading("HEAD", f"/{path}")[1]["Content-Length"] == str(len(body))


def test_what_did_not_change_is_not_sent_again(index, reading):
    _, headers, _ = reading("GET", "/search.json")
    tag = headers["ETag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        assert reading("GET", "/search.json", headers={"If-None-Match": known})[::2] == (304, b"")
    assert reading("GET", "/search.json", headers={"If-None-Match": '"other"'})[0] == 200
    index.publish("acme/greeter", "1.1")
    assert reading("GET", "/search.json", headers={"If-None-Match": tag})[0] == 200


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=-99999999", 206, slice(None)),
        ("bytes=10-99999999", 206, slice(10, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=a-b", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        (f"bytes=0-{'9' * 40}", 200, slice(None)),
    ],
)
def test_ranges(index, reading, asked, status, part):
    whole = (index.directory / ARCHIVE[1:]).read_bytes()
    found, headers, body = reading("GET", ARCHIVE, headers={"Range": asked})
    assert (found, body) == (status, whole[part])
    if status == 206:
        start = len(whole) - len(whole[part]) if part.stop is None else part.start
        assert headers["Content-Range"] == f"bytes {start}-{start + len(body) - 1}/{len(whole)}"
    if status == 416:
        assert headers["Content-Range"] == f"bytes */{len(whole)}"


def test_a_part_of_another_file_is_not_a_part(reading):
    tag = reading("HEAD", ARCHIVE)[1]["ETag"]
    assert reading("GET", ARCHIVE, headers={"Range": "bytes=5-9", "If-Range": tag})[0] == 206
    assert reading("GET", ARCHIVE, headers={"Range": "bytes=5-9", "If-Range": '"older"'})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/nowhere", "/agents/", "/agents/acme", "/files/acme/greeter/", "/index.json/"),
        *("/../secret", "/files/../../secret", "/files/acme/../../../secret", "/files/%2e%2e/%2e%2e/secret"),
        *("/.agenthub/lock", "/files/acme/greeter/.hidden", "/files/acme/greeter/link", "/files/acme/greeter/pipe"),
        *("/agents/acme/greeter.json%00.agent", "/files/acme/greeter/a%0d%0ab", "/" + "a" * 3000, "http://other/x"),
    ],
)
def test_nothing_else_is_given(index, reading, tmp_path, path):
    (tmp_path / "secret").write_text("secret")
    place = index.directory / "files" / "acme" / "greeter"
    (place / ".hidden").write_text("secret")
    (place / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(place / "pipe")
    status, _, body = reading("GET", path)
    assert status == 404
    assert b"secret" not in body


def test_a_private_index(index):
    index.publish("acme/greeter", "1.0")
    with index.served(writable=True, private=True) as url, asking(url) as ask:
        status, headers, _ = ask("GET", "/index.json")
        assert status == 401
        assert headers["WWW-Authenticate"].startswith("Basic ")
        assert ask("GET", "/index.json", headers={"Authorization": "Bearer wrong"})[0] == 401
        assert ask("GET", "/index.json", headers=BEARER)[0] == 200
        login = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
        assert ask("GET", "/index.json", headers={"Authorization": f"Basic {login}"})[0] == 200


# what it takes -----------------------------------------------------------------------------------------------------


def test_a_release_is_published_once(index, writing):
    archive = new_archive(index)
    digest = base64.b64encode(hashlib.sha256(archive).digest()).decode()
    headers = {**BEARER, "Content-Digest": f"sha-512=:x:, sha-256=:{digest}:", "Expect": "100-continue"}
    status, _, body = writing("PUT", ARCHIVE, archive, headers)
    assert (status, json.loads(body)["changed"]) == (201, True)
    assert json.loads(body)["release"]["published_by"] == "tester"
    before = files(index)
    assert (index.directory / ARCHIVE[1:]).read_bytes() == archive
    status, _, body = writing("PUT", ARCHIVE, archive, BEARER)
    assert (status, json.loads(body)["changed"]) == (200, False)
    other = new_archive(index, description="another")
    status, _, body = writing("PUT", ARCHIVE, other, BEARER)
    assert (status, json.loads(body)["error_type"]) == (409, "PermissionDeniedError")
    assert files(index) == before


REFUSED = {
    "no token": (401, ARCHIVE, {"Authorization": ""}),
    "wrong token": (401, ARCHIVE, {"Authorization": "Bearer " + "x" * 20}),
    "wrong login": (401, ARCHIVE, {"Authorization": "Basic !!!"}),
    "other name": (422, "/files/acme/other/other-1.0.agent", {}),
    "other version": (422, "/files/acme/greeter/greeter-1.1.agent", {}),
    "other file": (404, "/files/acme/greeter/greeter-1.0.exe", {}),
    "no version": (404, "/files/acme/greeter/greeter.agent", {}),
    "a document": (404, "/agents/acme/greeter.json", {}),
    "the summary": (404, "/index.json", {}),
    "out of it": (404, "/files/acme/../greeter/greeter-1.0.agent", {}),
    "encoded out of it": (404, "/files/%2e%2e/greeter/greeter-1.0.agent", {}),
    "upper case": (404, "/files/ACME/greeter/greeter-1.0.agent", {}),
    "wrong digest": (400, ARCHIVE, {"Content-Digest": "sha-256=:" + base64.b64encode(b"x" * 32).decode() + ":"}),
    "no digest": (400, ARCHIVE, {"Content-Digest": "sha-256=:?:"}),
    "no signature": (400, ARCHIVE, {"Agenthub-Signature": "key ???"}),
    "too long": (413, ARCHIVE, {"Content-Length": str(1 << 40)}),
    "chunked": (411, ARCHIVE, {"Transfer-Encoding": "chunked"}),
    "no length": (411, ARCHIVE, {"Content-Length": "-1"}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_it_does_not_take(index, writing, kind):
    status, path, headers = REFUSED[kind]
    archive = new_archive(index)
    found, _, body = writing("PUT", path, archive, {**BEARER, "Content-Length": str(len(archive)), **headers})
    assert (found, kind) == (status, kind), body
    assert json.loads(body)["error"]
    assert files(index) == {}
    assert str(index.directory) not in body.decode()


def test_what_is_no_agent(index, writing):
    for body in (b"", b"junk", b"PK\x03\x04 junk", new_archive(index)[:-30]):
        status, _, answer = writing("PUT", ARCHIVE, body, {**BEARER, "Content-Length": str(len(body))})
        assert status == 422
        assert json.loads(answer)["error"].startswith("the archive")
    assert files(index) == {}


def test_a_token_may_be_for_some_owners(index):
    only = (Publisher("a-token-for-acme-alone", "ci", ("acme", "zoo")),)
    headers = {"Authorization": "Bearer a-token-for-acme-alone"}
    with index.served(publishers=only) as url, asking(url) as ask:
        assert ask("PUT", ARCHIVE, new_archive(index), headers)[0] == 201
        other = new_archive(index, agent="other/reader")
        status, _, body = ask("PUT", "/files/other/reader/reader-1.0.agent", other, headers)
        assert (status, json.loads(body)["error"]) == (403, "the token of ci is not for agents of other")
        notice = json.dumps({"version": "1.0", "yanked": "why"})
        assert ask("PATCH", "/agents/other/reader.json", notice, headers)[0] == 403
        assert ask("PATCH", "/agents/acme/greeter.json", notice, headers)[0] == 200


def test_a_read_only_server_takes_nothing(index, reading):
    before = files(index)
    assert reading("PUT", ARCHIVE, b"x", BEARER)[0] == 405
    assert reading("PATCH", "/agents/acme/greeter.json", b"{}", BEARER)[0] == 405
    assert reading("DELETE", ARCHIVE)[0] == 501
    assert reading("POST", "/index.json", b"{}")[0] == 501
    assert files(index) == before


@pytest.mark.parametrize(
    ("notice", "status"),
    [
        ({"version": "1.0", "yanked": "why"}, 200),
        ({"version": "*", "deprecated": "use 2"}, 200),
        ({"version": "1.0", "yanked": None}, 200),
        ({"version": "2.0", "yanked": "why"}, 404),
        ({"version": "1.0"}, 400),
        ({"yanked": "why"}, 400),
        ({"version": 1, "yanked": "why"}, 400),
        ({"version": "1.0", "yanked": ["why"]}, 400),
        ({"version": "1.0", "yanked": "w" * 2000}, 400),
        ([1], 400),
        ("[" * 60_000, 400),
        ("x" * 70_000, 413),
    ],
)
def test_notices(index, writing, notice, status):
    index.publish("acme/greeter", "1.0")
    before = files(index)
    body = notice if isinstance(notice, str) else json.dumps(notice)
    assert writing("PATCH", "/agents/acme/greeter.json", body, BEARER)[0] == status
    assert (files(index) == before) == (status != 200 or notice == {"version": "1.0", "yanked": None})


# connections that misbehave ----------------------------------------------------------------------------------------


def connected(url):
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def head(method="PUT", path=ARCHIVE, **headers):
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**BEARER, "Host": "x", **headers}.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


def read_all(connection):
    with connection.makefile("rb") as file:
        return file.read()


def test_an_upload_that_is_cut_off_is_nothing(index):
    archive = new_archive(index)
    with index.served(writable=True) as url:
        for sent in (0, 1, len(archive) // 2, len(archive) - 1):
            with connected(url) as connection:
                connection.sendall(head(Content_Length=len(archive)) + archive[:sent])
                connection.shutdown(socket.SHUT_WR)
                assert b" 400 " in read_all(connection).splitlines()[0]
        assert files(index) == {}
        with connected(url) as connection:  # gone without a word
            connection.sendall(head(Content_Length=len(archive)) + archive[:100])
        with asking(url) as ask:
            assert ask("PUT", ARCHIVE, archive, BEARER)[0] == 201


def test_what_will_be_refused_need_not_be_sent(index):
    with index.served(writable=True, max_upload=1000) as url, connected(url) as connection:
        connection.sendall(head(Content_Length=5000, Expect="100-continue"))
        answer = read_all_headers(connection)
        assert b"HTTP/1.1 413" in answer
        assert b"100 Continue" not in answer


def read_all_headers(connection):
    data = b""
    while b"\r\n\r\n" not in data and (more := connection.recv(4096)):
        data += more
    return data


def test_whoever_says_nothing_is_sent_away(index, monkeypatch):
    monkeypatch.setattr(IndexRequest, "timeout", 0.2)
    with index.served(writable=True) as url, connected(url) as silent, connected(url) as half, connected(url) as upload:
        half.sendall(b"GET /index.json HT")
        upload.sendall(head(Content_Length=5000) + b"x")
        assert read_all(silent) == b""
        assert b" 200 " not in read_all(half)
        assert b" 400 " in read_all(upload)
    assert files(index) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /index.json HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http(index, data):
    index.publish("acme/greeter", "1.0")
    with index.served() as url:
        with connected(url) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert b" 200 " not in read_all(connection)
        with asking(url) as ask:
            assert ask("GET", "/index.json")[0] == 200


# the command -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(*words, env=None):
    """`agenthub index serve …` in a process of its own; its address."""
    command = [*COMMAND, "index", "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    try:
        line = process.stdout.readline().decode()
        assert line, process.communicate()
        yield line.strip(), process
    finally:
        process.kill()
        process.communicate()


def test_publishing_through_the_command(cli, index, tmp_path, monkeypatch):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# who may\n{TOKEN} ci acme\n")
    tokens.chmod(0o600)
    index.directory.mkdir()
    with serving(index.directory, "--token-file", tokens) as (url, process):
        at = ("--index", url, "--owner", "acme")
        directory = index.write("acme/greeter", "1.0")
        assert_refused(cli("publish", directory, *at), 5, "takes a token", "AGENTHUB_INDEX_TOKEN_127_0_0_1")
        monkeypatch.setenv("AGENTHUB_INDEX_TOKEN_127_0_0_1", TOKEN)
        assert_refused(cli("publish", directory, "--index", url, "--owner", "other"), 5, "not for agents of other")
        assert "✓ acme/greeter 1.0 is published" in cli.ok("publish", directory, *at).err
        assert "published already" in cli.ok("publish", directory, *at).err
        other = index.write("acme/greeter", "1.0", description="another")
        assert_refused(cli("publish", other, *at), 5, "acme/greeter 1.0 is published already", "raise the version")
        assert_refused(cli("publish", index.write("acme/greeter", "30"), *at), 5, "jumps from 1.0", "--force")
        assert "✓" in cli.ok("publish", index.write("acme/greeter", "1.1"), *at, "--json").err
        cli.ok("yank", "acme/greeter@1.1", "loses data", "--index", url)
        assert_refused(cli("yank", "acme/greeter@7", "x", "--index", url), 3, "7 was not published", "1.0, 1.1")
        assert index.document("acme/greeter")["releases"]["1.0"]["published_by"] == "ci"
        cli.ok("install", "--yes", "--index", url, "acme/greeter")
        assert cli.ok("run", "greeter", "go").out == "acme/greeter 1.0\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert_refused(cli("publish", directory, *at), 4, "cannot publish to", "publish again")
    assert cli("index", "verify", index.directory).code == 0


def test_a_server_that_takes_no_uploads(cli, index):
    index.publish("acme/greeter", "1.0")
    with index.served() as url:
        done = cli("publish", index.write("acme/greeter", "1.1"), "--index", url, "--owner", "acme")
    assert_refused(done, 4, "this index is read-only", "publish into the directory")


def test_serving_that_cannot_be(cli, index, tmp_path, monkeypatch):
    assert_refused(cli("index", "serve", tmp_path / "nowhere"), 3, "no directory")
    (tmp_path / "letter.txt").touch()
    assert_refused(cli("index", "serve", tmp_path), 3, "no index")
    index.publish("acme/greeter", "1.0")
    assert_refused(cli("index", "serve", index.directory, "--private"), 2, "--private needs tokens")
    assert_refused(cli("index", "serve", index.directory, "--port", "99999"), 2, "cannot listen")
    assert_refused(cli("index", "serve", index.directory, "--host", "256.1.1.1"), 2, "cannot listen")
    monkeypatch.setenv("AGENTHUB_SERVE_TOKEN", "short")
    assert_refused(cli("index", "serve", index.directory), 2, "at least 16 characters")


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (f"{TOKEN} ci", 0o644, "others may read it"),
        ("", 0o600, "has no tokens"),
        ("short ci", 0o600, "tokens:1: a token has at least 16"),
        (f"{TOKEN}", 0o600, "tokens:1: it has 1 words"),
        (f"\n{TOKEN} ci Acme", 0o600, "tokens:2: 'Acme' cannot be an owner"),
    ],
)
def test_token_files_that_are_wrong(cli, index, tmp_path, text, mode, said):
    index.publish("acme/greeter", "1.0")
    (tmp_path / "tokens").write_text(text)
    (tmp_path / "tokens").chmod(mode)
    done = cli("index", "serve", index.directory, "--token-file", tmp_path / "tokens")
    assert_refused(done, 2, said)
    assert not re.search(TOKEN, done.err)
