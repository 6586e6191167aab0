"""Agents from indexes, through the command: names, versions, caches, private indexes, and whose agent it is."""

from __future__ import annotations

import base64
import json
import os
import subprocess

import pytest

from tests.integration.bad_index_server import serving, squeezed
from tests.integration.index_support import TestIndex
from tests.integration.test_secrets import NO_KEYRING, PLUGIN
from tests.support import assert_refused, in_terminal, tree

DRY = ("install", "--dry-run", "--json")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An index that no test changes."""
    index = TestIndex(tmp_path_factory.mktemp("shared") / "index")
    for version in ("1.0.0", "1.2.0", "1.2.3", "2.0a1"):
        index.publish("alice/tool", version, description="counts words", tags=["text"])
    index.publish("alice/other", "0.1", description="draws pictures of words", tags=["image"])
    index.publish("bob/words", "3.0", description="spells")
    index.notice("bob/words", "3.0", deprecated="use alice/tool")
    return index


@pytest.fixture
def index(tmp_path):
    """An index that the test may change."""
    made = TestIndex(tmp_path / "index")
    made.publish("alice/tool", "1.0.0")
    return made


def version_of(cli, *words):
    return cli.ok(*DRY, *words).json["agents"][0]["version"]


# names and versions -------------------------------------------------------------------------------------------------


def test_the_whole_way(cli, published):
    with serving(published.directory) as server:
        cli.ok("index", "add", "main", server.url)
        cli.ok("install", "--yes", "alice/tool@1.2")
    assert cli.ok("run", "alice/tool", "go").out == "alice/tool 1.2.3\n"
    source = cli.ok("info", "--json", "alice/tool").json["source"]
    release = published.document("alice/tool")["releases"]["1.2.3"]
    assert source["index"] == server.url
    assert (source["kind"], source["location"], source["ref"]) == ("index", "alice/tool", "1.2")
    assert source["version"] == "1.2.3"
    assert source["archive_digest"] == release["digest"]
    assert source["digest"] == release["tree_digest"]
    read = {request.path.partition("/")[2].partition("/")[0] for request in server.requests}
    assert read == {"index.json", "agents", "files"}  # not the list of all agents


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("alice/tool", "1.2.3"),
        ("alice/tool@latest", "1.2.3"),
        ("alice/tool@1", "1.2.3"),
        ("alice/tool@1.2", "1.2.3"),
        ("alice/tool@1.2.0", "1.2.0"),
        ("alice/tool@>=1,<1.2", "1.0.0"),
        ("alice/tool@~=1.0", "1.2.3"),
        ("alice/tool@2.0a1", "2.0a1"),
        ("alice/tool@2", "2.0a1"),
        ("Alice/Tool@1.0.0", "1.0.0"),
    ],
)
def test_versions(cli, published, spec, version):
    assert version_of(cli, "--index", published.file_url, spec) == version


def test_what_there_is_not(cli, published):
    url = published.file_url
    assert_refused(cli(*DRY[:2], "--index", url, "alice/tol"), 3, "no index has alice/tol", "alice/tool")
    assert_refused(cli(*DRY[:2], "--index", url, "alice/tool@1.3"), 3, "alice/tool has no version 1.3", "1.2.3, 1.2.0")
    assert_refused(cli(*DRY[:2], "--index", url, "alice/tol"), 3, "where alice belongs", "alice/tool")
    assert_refused(cli(*DRY[:2], "--index", url, "alice/tool@new-one"), 2, "'new-one'")
    assert_refused(cli(*DRY[:2], "bob/words"), 3, "no index", "agenthub index add")


def test_a_directory_of_that_name(cli, published, tmp_path, monkeypatch):
    (tmp_path / "alice" / "none").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for words in ((), ("--index", published.file_url)):
        assert_refused(cli("install", *words, "alice/none"), 3, "did you mean ./alice/none?")


def test_letters_that_look_like_others(cli, published):
    for spec in ("\u0430lice/tool", "alice/too\u217c", "alice/\u212aool"):
        assert_refused(cli("install", "--index", published.file_url, spec), 4, "its letter")


def test_pre_releases_and_notices_are_said(cli, index):
    index.publish("alice/early", "1.0rc1")
    index.publish("alice/tool", "1.1.0")
    index.notice("alice/tool", "1.1.0", yanked="it eats files")
    index.notice("alice/tool", "1.0.0", deprecated="use alice/early")
    cli.ok("index", "add", "main", index.directory)
    assert "pre-release" in cli.ok("install", "--yes", "alice/early").err
    assert version_of(cli, "alice/tool") == "1.0.0"
    assert "use alice/early" in cli.ok("install", "--yes", "alice/tool").err
    assert "it eats files" in cli.ok("install", "--yes", "--force", "alice/tool@1.1.0").err
    assert_refused(cli("install", "alice/tool@>=1.1"), 3, "it eats files", "alice/tool@1.1.0")


def test_what_lies_in_a_directory_is_not_copied(cli, index):
    cli.ok("install", "--yes", "--index", index.directory, "alice/tool")
    assert not os.path.exists(os.path.join(os.environ["AGENTHUB_HOME"], "cache", "index"))


def test_a_directory_with_spaces(cli, tmp_path):
    index = TestIndex(tmp_path / "an index of täglich 100%")
    index.publish("alice/tool")
    cli.ok("index", "add", "main", index.directory)
    assert version_of(cli, "alice/tool") == "1.0.0"


# the configured indexes ---------------------------------------------------------------------------------------------


def test_the_list_of_indexes(cli, index, tmp_path):
    other = TestIndex(tmp_path / "other")
    other.publish("bob/tool")
    assert cli.ok("index", "list", "--json").json["indexes"] == []
    cli.ok("index", "add", "main", index.directory)
    cli.ok("index", "add", "ours", other.directory, "--first", "--owner", "bob")
    rows = cli.ok("index", "list", "--json").json["indexes"]
    assert [(row["name"], row["kind"], row["owners"]) for row in rows] == [
        ("ours", "file", ["bob"]),
        ("main", "file", []),
    ]
    cli.ok("install", "--yes", "alice/tool")
    assert "alice were first seen there" in cli.ok("index", "list").out
    assert cli.ok("index", "owner", "alice", "--json").json["index"] == index.file_url
    cli.ok("index", "remove", "ours")
    assert [row["name"] for row in cli.ok("index", "list", "--json").json["indexes"]] == ["main"]
    assert_refused(cli("index", "remove", "mian"), 2, "did you mean 'main'")


@pytest.mark.parametrize(
    ("address", "code", "word"),
    [
        ("http://example.org/index", 2, "https://"),
        ("ftp://example.org/index", 2, "https://"),
        ("https://me:secret@example.org/", 2, "netrc"),
        ("file://server/index", 2, "file:///DIR"),
        ("https:///index", 2, "no host"),
        ("git+https://example.org/agents", 2, "{owner}"),
        ("main", 2, "not the address"),
        ("https://example.org/?q=1", 2, "not the address"),
        ("/does/not/exist", 4, "no such directory"),
    ],
)
def test_addresses_that_are_refused(cli, address, code, word):
    finished = cli("index", "add", "main", address)
    assert_refused(finished, code, word)
    assert "secret" not in finished.err
    assert cli.ok("index", "list", "--json").json["indexes"] == []


def test_an_address_without_an_index(cli, tmp_path):
    assert_refused(cli("index", "add", "main", tmp_path), 2, "no index.json", "--no-check")
    cli.ok("index", "add", "--no-check", "main", tmp_path)


def test_a_project_names_no_index(cli, tmp_path, monkeypatch, published):
    (tmp_path / "agenthub.toml").write_text(f'index = "{published.file_url}"\n')
    monkeypatch.chdir(tmp_path)
    assert_refused(cli("install", "alice/tool"), 2, "may not set index")


def test_the_index_of_the_environment(cli, published, monkeypatch):
    monkeypatch.setenv("AGENTHUB_INDEX", published.file_url)
    assert version_of(cli, "alice/tool") == "1.2.3"


# the cache ----------------------------------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_sent_again(cli, published):
    with serving(published.directory) as server:
        for _ in range(2):
            assert version_of(cli, "--index", server.url, "alice/tool") == "1.2.3"
        _, second = server.asked("alice/tool.json")
        assert "If-None-Match" in second.headers
        assert len(server.asked(".agent")) == 1


def test_a_server_without_etags(cli, published):
    with serving(published.directory) as server:
        server.etags = False
        for _ in range(2):
            assert version_of(cli, "--index", server.url, "alice/tool") == "1.2.3"


def test_a_compressed_document(cli, published):
    with serving(published.directory) as server:
        server.always("tool.json", squeezed)
        assert version_of(cli, "--index", server.url, "alice/tool") == "1.2.3"
        assert "gzip" in server.asked("tool.json")[0].headers["Accept-Encoding"]


def test_offline(cli, published):
    with serving(published.directory) as server:
        cli.ok("index", "add", "main", server.url)
        cli.ok("install", "--yes", "alice/tool")
        cli.ok("search", "words")
        cli.ok("uninstall", "alice/tool")
        asked = len(server.requests)
        assert cli.ok("search", "--offline", "words", "--json").json["found"] == 3
        cli.ok("install", "--yes", "--offline", "alice/tool")
        assert len(server.requests) == asked
    # and it is really gone
    assert_refused(cli("install", "--yes", "--force", "alice/tool"), 4, "cannot get", "--offline")
    cli.ok("install", "--yes", "--force", "--offline", "alice/tool")
    assert_refused(cli("install", "--offline", "alice/other"), 4, "not in the cache")
    assert "alice/tool" in cli.ok("search", "words").out


def test_a_damaged_cache_is_no_cache(cli, published):
    with serving(published.directory) as server:
        words = ("--index", server.url, "alice/tool")
        assert version_of(cli, *words) == "1.2.3"
        cache = os.path.join(os.environ["AGENTHUB_HOME"], "cache", "index")
        for name in tree(cache):
            path = os.path.join(cache, name)
            if os.path.isfile(path):
                with open(path, "r+b") as file:
                    file.seek(-20, os.SEEK_END)
                    file.write(b"damage")
        assert version_of(cli, *words) == "1.2.3"
        assert len(server.asked(".agent")) == 2


# private indexes and proxies ----------------------------------------------------------------------------------------


def test_a_token_of_the_environment(cli, published, monkeypatch):
    with serving(published.directory) as server:
        server.token = "Bearer open-sesame"
        assert_refused(
            cli("index", "add", "corp.x", server.url), 5, "is private", "AGENTHUB_INDEX_TOKEN_CORP_X", "index login"
        )
        monkeypatch.setenv("AGENTHUB_INDEX_TOKEN_CORP_X", "wrong")
        assert_refused(cli("index", "add", "corp.x", server.url), 5, "does not accept")
        monkeypatch.setenv("AGENTHUB_INDEX_TOKEN_CORP_X", "open-sesame")
        cli.ok("index", "add", "corp.x", server.url)
        assert version_of(cli, "alice/tool") == "1.2.3"
    with open(os.path.join(os.environ["AGENTHUB_HOME"], "indexes.json")) as file:
        assert "sesame" not in file.read()


def test_a_login_in_netrc(cli, published, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(published.directory) as server:
        server.token = "Basic " + base64.b64encode(b"me:secret").decode()
        assert version_of(cli, "--index", server.url, "alice/tool") == "1.2.3"
        netrc.write_text("machine 127.0.0.1 lgoin me\n")
        assert_refused(cli(*DRY[:2], "--index", server.url, "alice/tool"), 4, str(netrc))


@pytest.fixture
def keyring(tmp_path, monkeypatch):
    """A keyring that works in children; the path of what is in it."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "ring.py").write_text(PLUGIN)
    (tmp_path / "kept.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugin"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "ring.Keyring")
    monkeypatch.setenv("TEST_KEYRING", str(tmp_path / "kept.json"))
    return tmp_path / "kept.json"


@pytest.mark.slow
def test_a_token_in_the_keyring(published, keyring):
    from tests.support import invoke

    with serving(published.directory) as server:
        server.token = "Bearer open-sesame"
        assert invoke("index", "add", "--no-check", "corp", server.url).code == 0
        assert_refused(invoke("install", "alice/tool"), 5, "is private")
        login = in_terminal("index", "login", "corp", replies=[("Token", "open-sesame")])
        assert login.code == 0, login
        assert "sesame" not in login.err.replace("open-sesame\n", "", 1)
        assert invoke("install", "--dry-run", "alice/tool").code == 0
        # the keyring is asked only where the index has refused
        assert [bool(request.headers.get("Authorization")) for request in server.asked("alice/tool.json")][-2:] == [
            False,
            True,
        ]
        assert invoke("index", "logout", "corp").code == 0
        assert json.loads(keyring.read_text()) == {}
        assert_refused(invoke("install", "alice/tool"), 5, "is private")


def test_no_keyring_to_keep_a_token(cli, published, monkeypatch):
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", NO_KEYRING)
    with serving(published.directory) as server:
        cli.ok("index", "add", "corp", server.url)
        assert_refused(cli("index", "login", "corp", stdin="token\n"), 4, "no keyring", "AGENTHUB_INDEX_TOKEN_CORP")


def test_a_proxy(cli, published, monkeypatch):
    """One that answers itself: it is asked with the whole address, and the index is not asked at all."""
    with serving(published.directory) as proxy, serving(published.directory) as server:
        real = server.url
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://user:pass@"))
        assert version_of(cli, "--index", real, "alice/tool") == "1.2.3"
        assert server.requests == []
        assert proxy.requests[0].path.startswith(real)
        assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"user:pass").decode()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert version_of(cli, "--index", real, "alice/tool") == "1.2.3"
        assert server.requests != []
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
        assert_refused(cli(*DRY[:2], "--index", real, "alice/tool"), 2, "socks5", "HTTP")


# completion -----------------------------------------------------------------------------------------------------------


def test_completion(cli, published):
    def offered(*words):
        return cli.ok("complete", *words).out.split()

    assert offered("install", "ali") == []
    with serving(published.directory) as server:
        cli.ok("index", "add", "main", server.url, "--owner", "bob")
        cli.ok("search", "words")
    assert offered("install", "ali") == ["alice/other", "alice/tool"]
    assert offered("run", "bob/") == ["bob/words"]
    assert offered("install", "./") == []  # the shell's
    assert "owner" in offered("index", "")
    assert offered("index", "owner", "") == ["bob"]
    assert offered("index", "owner", "bob", "") == ["main"]
    assert offered("index", "remove", "m") == ["main"]
    assert offered("index", "add", "") == []


# whose agent it is --------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Two indexes; `alice/tool` is at the first one."""
    first, second = TestIndex(tmp_path / "first"), TestIndex(tmp_path / "second")
    first.publish("alice/tool", "1.0.0")
    second.publish("bob/tool", "1.0.0")
    return first, second


def configure(cli, first, second):
    cli.ok("index", "add", "first", first.directory)
    cli.ok("index", "add", "second", second.directory)


def test_an_owner_belongs_to_one_index(cli, two):
    first, second = two
    configure(cli, first, second)
    cli.ok("install", "--yes", "alice/tool")
    second.publish("alice/tool", "9.0.0")  # an attacker, at an index that is asked as well
    second.publish("alice/extra", "1.0.0")
    assert version_of(cli, "alice/tool") == "1.0.0"
    assert_refused(cli("install", "alice/extra"), 5, "where alice belongs", "index owner alice second")
    cli.ok("index", "add", "--first", "second", second.directory)
    assert version_of(cli, "alice/tool") == "1.0.0"
    # search does not offer it either
    assert [hit["version"] for hit in cli.ok("search", "alice/tool", "--json").json["agents"]] == ["1.0.0"]
    assert cli.ok("search", "extra", "--json").json["agents"] == []


def test_an_owner_at_two_indexes_at_first(cli, two):
    first, second = two
    second.publish("alice/tool", "9.0.0")
    configure(cli, first, second)
    assert_refused(cli("install", "alice/tool"), 5, "first, second", "agenthub index owner alice first")
    cli.ok("index", "owner", "alice", "first")
    assert version_of(cli, "alice/tool") == "1.0.0"
    cli.ok("index", "owner", "alice", "second")
    assert version_of(cli, "alice/tool") == "9.0.0"
    rows = {row["name"]: row["owners"] for row in cli.ok("index", "list", "--json").json["indexes"]}
    assert rows == {"first": [], "second": ["alice"]}


def test_an_owner_that_moved(cli, two):
    first, second = two
    configure(cli, first, second)
    cli.ok("install", "--yes", "alice/tool")
    second.publish("alice/tool", "9.0.0")
    first.document_path("alice/tool").unlink()
    assert_refused(cli("install", "alice/tool"), 5, "somebody else may be behind it", "index owner alice second")
    cli.ok("index", "remove", "first")
    assert_refused(cli("install", "alice/tool"), 5, first.file_url, "index owner alice")
    assert cli("install", "--index", second.file_url, "alice/tool").code == 5
    cli.ok("index", "owner", "alice", "second")
    assert version_of(cli, "alice/tool") == "9.0.0"


@pytest.mark.slow
def test_an_index_that_cannot_be_asked_is_not_passed_over(cli, two):
    first, second = two
    with serving(first.directory) as server:
        cli.ok("index", "add", "first", server.url)
        cli.ok("index", "add", "second", second.directory)
    assert_refused(cli("install", "bob/tool"), 4, "cannot get", "agenthub index owner bob NAME")
    cli.ok("index", "owner", "bob", "second")
    assert version_of(cli, "bob/tool") == "1.0.0"


@pytest.mark.slow
def test_an_owner_that_looks_like_another(cli, two):
    first, second = two
    configure(cli, first, second)
    cli.ok("install", "--yes", "alice/tool")
    second.publish("a1ice/tool", "1.0.0")
    assert_refused(cli("install", "a1ice/tool"), 5, "looks like 'alice'", "index owner a1ice")
    cli.ok("index", "owner", "a1ice", "second")
    assert version_of(cli, "a1ice/tool") == "1.0.0"


# a git host ---------------------------------------------------------------------------------------------------------


def git(directory, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, "-C", directory, *words], check=True, capture_output=True)


@pytest.mark.slow
def test_a_git_host_as_an_index(cli, tmp_path):
    work = TestIndex(tmp_path / "work")
    repository = work.write("alice/tool", "1.0.0")
    hosted = tmp_path / "host" / "alice" / "tool"
    hosted.parent.mkdir(parents=True)
    os.rename(repository, hosted)
    git(hosted, "init")
    for version in ("1.0.0", "1.2.0", "2.0.0"):
        manifest = json.loads((hosted / "agent.yaml").read_text())
        (hosted / "agent.yaml").write_text(json.dumps({**manifest, "version": version}))
        git(hosted, "add", ".")
        git(hosted, "commit", "-m", version)
        if version != "2.0.0":
            git(hosted, "tag", f"v{version}")
    cli.ok("index", "add", "host", f"git+file://{tmp_path}/host/{{owner}}/{{name}}")
    for spec, version in [
        ("alice/tool", "2.0.0"),
        ("alice/tool@1.0", "1.0.0"),
        ("alice/tool@>=1", "1.2.0"),
        ("alice/tool@latest", "1.2.0"),
        ("alice/tool@main", "2.0.0"),
    ]:
        assert version_of(cli, spec) == version
    assert_refused(cli("install", "alice/tool@3"), 3, "has no 3", "v1.2.0")
    assert cli("install", "alice/none").code in (3, 4)
    cli.ok("install", "--yes", "alice/tool@1.0")
    source = cli.ok("info", "--json", "alice/tool").json["source"]
    assert (source["kind"], source["tag"], len(source["commit"])) == ("index", "v1.0.0", 40)
    assert cli.ok("index", "owner", "alice", "--json").json["index"].startswith("git+file://")


# search -------------------------------------------------------------------------------------------------------------


def test_search(cli, published):
    cli.ok("index", "add", "main", published.directory)

    def names(*words):
        return [f"{hit['owner']}/{hit['name']}" for hit in cli.ok("search", "--json", *words).json["agents"]]

    assert names("words") == ["bob/words", "alice/other", "alice/tool"]  # a name goes before descriptions
    assert names("WORDS", "pictures") == ["alice/other"]
    assert names("image") == ["alice/other"]
    assert names("alice") == ["alice/other", "alice/tool"]
    assert names("alice/to") == ["alice/tool"]
    assert names("go") == ["alice/other", "alice/tool", "bob/words"]  # a method; what is deprecated comes last
    assert names("nothing-like-it") == []
    shown = cli.ok("search", "words", "--limit", "1")
    assert shown.out.splitlines() == ["bob/words  3.0      [deprecated: use alice/tool] spells"]
    assert "2 more" in shown.err
    assert_refused(cli("search", "--index", "nowhere", "x"), 2, "nowhere")


@pytest.mark.slow
def test_search_goes_on_without_an_index_that_is_down(cli, published):
    with serving(published.directory) as server:
        cli.ok("index", "add", "down", server.url)
    cli.ok("index", "add", "main", published.directory)
    found = cli.ok("search", "words", "--json")
    assert found.json["found"] == 3
    assert "cannot get search.json" in found.err
    assert cli("index", "refresh").code == 4


def test_search_asks_again_only_after_a_while(cli, published):
    with serving(published.directory) as server:
        cli.ok("index", "add", "main", server.url)
        for _ in range(3):
            cli.ok("search", "words")
        assert len(server.asked("search.json")) == 1
        cli.ok("index", "refresh")
        assert "If-None-Match" in server.asked("search.json")[1].headers
        # the clock was set back: what was fetched "in the future" is not believed for ever
        cache = os.path.join(os.environ["AGENTHUB_HOME"], "cache", "index", "documents")
        for name in os.listdir(cache):
            os.utime(os.path.join(cache, name), (4e9, 4e9))
        cli.ok("search", "words")
        assert len(server.asked("search.json")) == 3


def test_an_index_that_writes_nonsense_into_its_list(cli, published, tmp_path):
    (tmp_path / "bad").mkdir()
    entries = [
        1,
        {"owner": "x"},
        {"owner": "../x", "name": "y"},
        {"owner": "x", "name": "y", "methods": 3, "tags": None},
    ]
    entries += [{"owner": "x", "name": "z", "description": "words \x1b[31m red"}]
    (tmp_path / "bad" / "search.json").write_text(json.dumps({"schema_version": 1, "agents": entries}))
    cli.ok("index", "add", "--no-check", "bad", tmp_path / "bad")
    found = cli.ok("search", "x")
    assert [line.split()[0] for line in found.out.splitlines()] == ["x/y", "x/z"]
    assert "\x1b" not in found.out
    for text in ("[]", "{}", "no json", '{"agents": 3}', "[" * 100_000):
        (tmp_path / "bad" / "search.json").write_text(text)
        assert cli.ok("search", "x").out == ""
