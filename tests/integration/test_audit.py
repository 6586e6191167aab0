"""`agenthub audit`: what is known against packages, from files and from a server; and never silence for ignorance."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.faults_support import write_wheel
from tests.support import assert_refused, install_into, method, write_agent

NEEDED = {
    "id": "PYSEC-2026-1",
    "modified": "2026-05-01T00:00:00Z",
    "aliases": ["CVE-2026-1"],
    "summary": "tells \x1b[31mtales",
    "database_specific": {"severity": "HIGH"},
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "Telltale"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}
FIXED = {**NEEDED, "id": "PYSEC-2025-9", "aliases": []}
FIXED["affected"] = [
    {**NEEDED["affected"][0], "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.0"}]}]}
]
WITHDRAWN = {**NEEDED, "id": "PYSEC-2024-3", "aliases": [], "withdrawn": "2026-01-01T00:00:00Z"}


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A store with an agent that has one package, `telltale 1.0`, and one without an environment."""
    folder = tmp_path_factory.mktemp("audited")
    wheel = write_wheel(folder, "x")
    one = write_agent(
        folder / "one",
        "def go():\n    pass\n",
        {"go": method()},
        name="one",
        entrypoint="agent",
        dependencies=[f"telltale @ file://{folder}/{wheel}"],
    )
    two = write_agent(folder / "two", "", {"go": method()}, name="two", entrypoint={"command": ["sh", "agent.py"]})
    return install_into(folder / "home", one, two)


@pytest.fixture(autouse=True)
def _store(home, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", home)


def write(path, *entries):
    path.write_text(json.dumps(entries[0] if len(entries) == 1 else entries))
    return path


def places(folder):
    """The same database in each form that it may have."""
    entries = (NEEDED, FIXED, WITHDRAWN)
    folder.mkdir()
    for entry in entries:
        write(folder / f"{entry['id']}.json", entry)
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            archive.writestr(f"{entry['id']}.json", json.dumps(entry))
    answer = folder.with_suffix(".answer.json")
    answer.write_text(json.dumps({"vulns": entries}))
    return {"dir": folder, "zip": packed, "list": write(folder.with_suffix(".json"), *entries), "answer": answer}


@pytest.mark.parametrize("kind", ["dir", "zip", "list", "answer"])
def test_a_database_on_this_machine(cli, tmp_path, kind):
    place = places(tmp_path / "osv")[kind]
    done = cli("audit", "--json", "--database", place)
    assert done.code == 1
    one, two = done.json["agents"]
    (found,) = one["vulnerabilities"]
    assert (found["package"], found["version"], found["id"]) == ("telltale", "1.0", "PYSEC-2026-1")
    assert (found["aliases"], found["severity"], found["fixed_in"]) == (["CVE-2026-1"], "high", "1.1")
    assert two["vulnerabilities"] == []
    assert "no Python environment" in two["notes"][0]


def test_what_a_person_sees(cli, tmp_path):
    done = cli("audit", "--database", write(tmp_path / "osv.json", NEEDED))
    assert done.code == 1
    assert "telltale 1.0  PYSEC-2026-1 (CVE-2026-1)  high · fixed in 1.1" in done.out
    assert "\x1b" not in done.out
    assert "1 vulnerability in 2 agents, 1 package" in done.err
    assert "no Python environment" in done.err


def test_nothing_known_and_what_was_looked_through(cli, tmp_path):
    done = cli.ok("audit", "--database", write(tmp_path / "osv.json", FIXED))
    assert done.out == ""
    assert "nothing is known against them" in done.err
    assert "1 advisory, the newest of 2026-05-01" in done.err
    assert cli.ok("audit", "two", "--json", "--database", write(tmp_path / "osv.json", NEEDED)).json["agents"]


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1"])
def test_what_is_to_be_ignored(cli, tmp_path, name):
    database = write(tmp_path / "osv.json", NEEDED)
    done = cli.ok("audit", "--json", "--database", database, "--ignore", name)
    assert done.json["ignored"] == 1
    assert cli("audit", "--database", database, "--ignore", "CVE-2026-2").code == 1


def test_yaml_as_pypas_database_has_it(cli, tmp_path):
    (tmp_path / "vulns").mkdir()
    (tmp_path / "vulns" / "PYSEC-2026-1.yaml").write_text(
        "id: PYSEC-2026-1\nmodified: 2026-05-01T00:00:00Z\naffected:\n- package: {ecosystem: PyPI, name: telltale}\n"
        "  ranges:\n  - type: ECOSYSTEM\n    events: [{introduced: '0'}, {fixed: '2.0'}]\n"
    )
    assert cli("audit", "--database", tmp_path).code == 1


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b" " * (64 << 20))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("not there", lambda path: None),
        ("empty", lambda path: path.mkdir()),
        ("cut.json", lambda path: path.write_text('{"id": ')),
        ("other.json", lambda path: path.write_text('{"name": "package"}')),
        ("deep.json", lambda path: path.write_text("[" * 100_000)),
        ("noise.zip", lambda path: path.write_bytes(b"PK" + bytes(100))),
        pytest.param("bomb.zip", bomb, marks=pytest.mark.slow),
        ("noise.json", lambda path: path.write_bytes(bytes(range(256)))),
    ],
)
def test_a_database_that_cannot_be_read_is_not_taken_for_an_empty_one(cli, tmp_path, name, make):
    path = tmp_path / name
    make(path)
    done = cli("audit", "--database", path)
    assert_refused(done, 4, name)
    assert "nothing is known against" not in done.err


# a server that speaks OSV's API --------------------------------------------------------------------------------------


class OsvServer(ThreadingHTTPServer):
    """Answers as OSV does; `faults` are what it does first instead: functions of the handler."""

    daemon_threads = True

    def __init__(self, page=100):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.entries = {entry["id"]: entry for entry in (NEEDED, WITHDRAWN)}
        self.known = {("telltale", "1.0"): ["PYSEC-2026-1", "PYSEC-2024-3"]}
        self.page = page
        self.faults = []
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OsvServer

    def log_message(self, *_):
        pass

    def do_POST(self):
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self.server.asked.append((self.path, queries))
        if not self._fault():
            self.answer({"results": [self._result(query) for query in queries]})

    def do_GET(self):
        self.server.asked.append((self.path, None))
        if not self._fault():
            entry = self.server.entries.get(self.path.removeprefix("/v1/vulns/"))
            self.answer(entry or {"code": 5}, 200 if entry else 404)

    def _result(self, query):
        assert query["package"]["ecosystem"] == "PyPI"
        ids = self.server.known.get((query["package"]["name"], query["version"]), [])
        start = int(query.get("page_token") or 0)
        result = {"vulns": [{"id": each, "modified": "x"} for each in ids[start : start + self.server.page]]}
        if start + self.server.page < len(ids):
            result["next_page_token"] = str(start + self.server.page)
        return result if ids else {}

    def _fault(self):
        if self.server.faults:
            self.server.faults.pop(0)(self)
            return True
        return False

    def answer(self, value, status=200):
        self.raw(json.dumps(value).encode(), status)

    def raw(self, data, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def osv(**options):
    server = OsvServer(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cut(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"results": [')
    handler.close_connection = True


@pytest.mark.parametrize("page", [100, 1])
def test_a_server(cli, monkeypatch, page):
    with osv(page=page) as server:
        monkeypatch.setenv("AGENTHUB_OSV_URL", server.url)
        done = cli("audit", "--json")
    assert done.code == 1
    assert [each["id"] for each in done.json["agents"][0]["vulnerabilities"]] == ["PYSEC-2026-1"]
    posted = [queries for path, queries in server.asked if path == "/v1/querybatch"]
    assert posted[0] == [{"package": {"name": "telltale", "ecosystem": "PyPI"}, "version": "1.0"}]
    assert len(posted) == (1 if page == 100 else 2)


def test_a_server_that_knows_nothing(cli):
    with osv() as server:
        server.known = {}
        assert "nothing is known" in cli.ok("audit", "--database", server.url).err


def test_a_server_in_trouble_is_asked_again(cli, monkeypatch):
    monkeypatch.setattr("agenthub.trust.databases._BACK_OFF", 0.0)
    with osv() as server:
        server.faults = [lambda handler: handler.raw(b"busy", 503), cut]
        assert cli("audit", "--json", "--database", server.url).code == 1


@pytest.mark.parametrize(
    "fault",
    [
        lambda handler: handler.raw(b"busy", 503),
        cut,
        lambda handler: handler.raw(b"no", 400),
        lambda handler: handler.raw(b"<html>"),
        lambda handler: handler.answer([]),
        lambda handler: handler.answer({}),
        lambda handler: handler.answer({"results": []}),
        lambda handler: handler.answer({"results": [{"vulns": [{"id": "../../etc/passwd"}]}]}),
        lambda handler: handler.answer({"results": [{"vulns": "many"}]}),
        pytest.param(lambda handler: handler.answer({"results": [{"next_page_token": "1"}]}), marks=pytest.mark.slow),
    ],
    ids=["503", "cut", "400", "html", "list", "hollow", "too few", "path", "text", "endless"],
)
def test_a_server_that_is_of_no_use(cli, monkeypatch, fault):
    monkeypatch.setattr("agenthub.trust.databases._BACK_OFF", 0.0)
    with osv() as server:
        server.faults = [fault] * 1000
        done = cli("audit", "--database", server.url)
    assert_refused(done, 4, server.url, "nothing is known of your packages")
    assert len(server.asked) <= 100


def test_a_server_that_answers_another_advisory(cli):
    with osv() as server:
        server.entries["PYSEC-2026-1"] = {**FIXED}
        assert_refused(cli("audit", "--database", server.url), 4, "for PYSEC-2026-1 it answers PYSEC-2025-9")


def test_nobody_there(cli, monkeypatch):
    monkeypatch.setattr("agenthub.trust.databases._BACK_OFF", 0.0)
    with osv() as server:
        url = server.url
    begun = time.monotonic()
    assert_refused(cli("audit", "--database", url), 4, "cannot be asked", "--database FILE")
    assert time.monotonic() - begun < 20


def test_offline(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTHUB_OFFLINE", "1")
    assert_refused(cli("audit"), 4, "offline", "was not asked", "--database FILE")
    assert cli("audit", "--database", write(tmp_path / "osv.json", NEEDED)).code == 1


@pytest.mark.parametrize("place", ["http://example.org", "ftp://example.org", "https://user:word@example.org"])
def test_servers_that_may_not_be_asked(cli, place):
    done = cli("audit", "--database", place)
    assert done.code == 2
    assert "word@" not in done.err


def test_a_project_may_not_say_whom_to_ask(cli, tmp_path, monkeypatch):
    Path(tmp_path, "agenthub.toml").write_text('osv_url = "http://127.0.0.1:1"\n')
    monkeypatch.chdir(tmp_path)
    assert_refused(cli("audit"), 2, "a project may not set osv_url")
