"""Indexes, and projects that name them, that want what belongs to other indexes: owners, tokens, terminals."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agenthub.config import Paths
from agenthub.errors import PermissionDeniedError
from agenthub.indexes.configured import IndexSource
from agenthub.indexes.owners import Owners
from tests.integration.index_support import TestIndex
from tests.support import assert_refused
from tests.trust_support import NO_ENVIRONMENT


class Spy(BaseHTTPRequestHandler):
    """Notes what it is given, and answers as its server says."""

    def do_GET(self):
        self.server.seen.append(self.headers.get("Authorization"))
        self.wfile.write(self.server.answer)
        self.close_connection = True

    def log_message(self, *words):
        pass


@pytest.fixture
def spy():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Spy)
    server.seen, server.answer = [], b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_token_is_for_one_index(cli, spy, tmp_path, monkeypatch):
    """A host that is called as an index of the user's is, and is named by a project."""
    cli.ok("index", "add", "--no-check", "localhost", "https://index.example.org/ours", "--owner", "ours")
    monkeypatch.setenv("AGENTHUB_INDEX_TOKEN_LOCALHOST", "a-token-of-ours")
    monkeypatch.chdir(tmp_path)
    strange = f"http://localhost:{spy.server_port}"
    (tmp_path / "agents.toml").write_text(f'[agents]\n"acme/tool" = {{ version = "1", index = "{strange}" }}\n')
    assert cli("lock").code in (3, 4)
    assert set(spy.seen) == {None}
    cli.ok("index", "add", "--no-check", "our.index", "https://index.example.org")
    assert_refused(cli("index", "add", "--no-check", "our-index", strange), 2, "AGENTHUB_INDEX_TOKEN_OUR_INDEX")


def test_a_project_does_not_say_where_an_owner_belongs(cli, tmp_path, monkeypatch):
    good, evil = TestIndex(tmp_path / "good"), TestIndex(tmp_path / "evil")
    good.publish("acme/tool", **NO_ENVIRONMENT, code="")
    evil.publish("acme/tool", "9.0.0", **NO_ENVIRONMENT, code="")
    for name, index in (("evil", evil), ("good", good)):
        (tmp_path / "project").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "project")
        toml = f'[agents]\n"acme/tool" = {{ version = "*", index = "{evil.file_url}" }}\n'
        (tmp_path / "project" / "agents.toml").write_text(toml)
        cli.ok("sync", "--yes")
        cli.ok("index", "add", name, index.file_url)
    monkeypatch.chdir(tmp_path)
    assert_refused(cli("install", "--yes", "acme/tool"), 5, "several indexes have acme/tool")


def test_an_owner_is_not_moved_by_who_comes_second(tmp_path):
    """Two processes see an owner for the first time, each at another index."""
    owners = Owners(Paths())
    first, second = (IndexSource(name, f"file:///{name}") for name in ("first", "second"))
    met = owners.pins

    def overtaken():
        owners.pins = met
        before = met()
        owners.note("acme", first, "tool", 5, "there")
        return before

    owners.pins = overtaken
    with pytest.raises(PermissionDeniedError, match="a moment ago"):
        owners.note("acme", second, "other", 1, "there")
    assert owners.pins()["acme"].url == first.url


@pytest.mark.parametrize("location", ["http://evil\x1b[2J/", "http://[", "http://[::1", ""])
def test_redirects_to_nowhere(cli, spy, location):
    spy.answer = f"HTTP/1.1 302 Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    refused = cli("install", "--index", f"http://127.0.0.1:{spy.server_port}", "acme/tool")
    assert refused.code in (4, 5), refused
    assert "redirects to" in refused.err
    assert "\x1b" not in refused.err


def test_an_upgrade_brings_no_other_agent_in_passing(cli, tmp_path):
    index = TestIndex(tmp_path / "index")
    index.publish("acme/tool", "1.0", **NO_ENVIRONMENT, code="")
    cli.ok("index", "add", "ours", index.file_url)
    cli.ok("install", "--yes", "acme/tool")
    index.publish("acme/other", "1.0", **NO_ENVIRONMENT, code="", permissions={"network": ["evil.example"]})
    index.publish("acme/tool", "1.1", **NO_ENVIRONMENT, code="", requires={"acme/other": "*"})
    refused = cli("upgrade", "--yes", "acme/tool")
    assert refused.code == 5
    assert "--force --yes" in refused.err
    assert "acme/other" not in cli.ok("list").out
    cli.ok("upgrade", "--yes", "--force", "acme/tool")
