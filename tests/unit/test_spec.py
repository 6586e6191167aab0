from __future__ import annotations

import pytest

from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError
from agenthub.packages.spec import parse_spec, redacted


@pytest.fixture
def here(tmp_path):
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "agent.yaml").write_text("name: x")
    (tmp_path / "a@b").mkdir()
    for name in ("one.zip", "two.tar.gz", "three.tgz", "four.agent", "five.txt"):
        (tmp_path / name).write_bytes(b"")
    return str(tmp_path)


@pytest.mark.parametrize("text", ["./agent", "../{name}/agent", "{here}/agent", "./agent/"])
def test_a_path_is_a_directory(here, text):
    spec = parse_spec(text.format(here=here, name=here.rpartition("/")[2]), here)
    assert spec[:5] == ("directory", f"{here}/agent", None, None, "local")


def test_the_working_directory_and_home(here, monkeypatch):
    monkeypatch.setenv("HOME", here)
    monkeypatch.chdir(here)
    assert parse_spec("~/agent").location == parse_spec("./agent").location == f"{here}/agent"
    assert parse_spec(".").location == here


@pytest.mark.parametrize("text", ["./one.zip", "one.zip", "two.tar.gz", "three.tgz", "./four.agent"])
def test_a_file_is_an_archive(here, text):
    spec = parse_spec(text, here)
    assert (spec.kind, spec.owner, spec.text) == ("archive", "local", text)
    assert spec.location == f"{here}/{text.removeprefix('./')}"


@pytest.mark.parametrize(
    ("text", "location", "ref", "subdirectory", "owner"),
    [
        ("git+https://host/owner/name", "https://host/owner/name", None, None, "owner"),
        ("git+https://host/Owner/name.git@v1.0", "https://host/Owner/name.git", "v1.0", None, "owner"),
        ("git+https://u@host/o/name.git", "https://u@host/o/name.git", None, None, "o"),
        ("git+https://u:p@host:8443/o/n@main", "https://u:p@host:8443/o/n", "main", None, "o"),
        ("git+https://host/@scope/name", "https://host/@scope/name", None, None, "scope"),
        ("git+https://host/@scope/name.git@feature/x", "https://host/@scope/name.git", "feature/x", None, "scope"),
        ("git+https://host/group/sub/n#subdirectory=a/b", "https://host/group/sub/n", None, "a/b", "group"),
        ("git+ssh://git@host:22/o/n.git@abc123#subdirectory=x/", "ssh://git@host:22/o/n.git", "abc123", "x", "o"),
        ("git+ssh://git@host/~User/n", "ssh://git@host/~User/n", None, None, "user"),
        ("git@host:owner/name.git", "git@host:owner/name.git", None, None, "owner"),
        ("git@host:owner/name.git@v2", "git@host:owner/name.git", "v2", None, "owner"),
        ("git+git@host:owner/name@v2", "git@host:owner/name", "v2", None, "owner"),
        ("https://host/owner/name.git", "https://host/owner/name.git", None, None, "owner"),
        ("https://host/owner/name.git@v1#subdirectory=a", "https://host/owner/name.git", "v1", "a", "owner"),
        ("https://host/name.git", "https://host/name.git", None, None, "host"),
        ("http://127.0.0.1:8080/o/n.git", "http://127.0.0.1:8080/o/n.git", None, None, "o"),
        ("git+file:///srv/x.git@main", "file:///srv/x.git", "main", None, "local"),
        ("git+./agent", "{here}/agent", None, None, "local"),
        ("git+{here}/agent@v1#subdirectory=s", "{here}/agent", "v1", "s", "local"),
        ("git+{here}/a@b", "{here}/a@b", None, None, "local"),
        ("git+{here}/a@b@c", "{here}/a@b", "c", None, "local"),
        ("git+file://{here}/a@b@feature/x", "file://{here}/a@b", "feature/x", None, "local"),
    ],
)
def test_git(here, text, location, ref, subdirectory, owner):
    spec = parse_spec(text.format(here=here), here)
    assert spec[:5] == ("git", location.format(here=here), ref, subdirectory, owner)


@pytest.mark.parametrize(
    ("text", "location", "ref"),
    [
        ("owner/name", "owner/name", None),
        ("owner/name@1.2.0", "owner/name", "1.2.0"),
        ("O/N", "o/n", None),
        ("owner/name@latest", "owner/name", "latest"),
        ("owner/name@>=1,<2", "owner/name", ">=1,<2"),
        ("owner/name>=1,<2", "owner/name", ">=1,<2"),
        ("owner/name==1.0", "owner/name", "==1.0"),
        ("owner/name@ >=1, !=1.5.* ", "owner/name", ">=1, !=1.5.*"),
        ("owner/name@1!2.0+local-1", "owner/name", "1!2.0+local-1"),
    ],
)
def test_an_index_entry(here, text, location, ref):
    assert parse_spec(text, here)[:3] == ("index", location, ref)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-x",
        "--upload-pack=touch",
        "git+",
        "git+-x",
        "git+--upload-pack=touch /tmp/x",
        "git+https://host/o/n.git@--upload-pack=x",
        "git+https://host/o/n.git@a:b",
        "git+https://host/o/n.git@+a",
        "git+https://host/o/n.git@a..b",
        "git+https://-oProxyCommand=x/o/n",
        "git+ssh://-oProxyCommand=x/o/n",
        "git+ssh://-ox@host/o/n",
        "-ohost:o/n.git",
        "git+-ohost:o/n.git",
        "git+ext::sh -c touch% x",
        "ext::sh -c touch.git",
        "git+fd::7",
        "git+git://host/o/n",
        "git+http://host/o/n",
        "git+http://127.0.0.1.evil.example/o/n",
        "git+ftp://host/o/n.git",
        "git+https:///o/n",
        "https://host/x.zip",
        "git+https://host/o/n#subdirectory=../x",
        "git+https://host/o/n#subdirectory=/x",
        "git+https://host/o/n#subdirectory=",
        "git+https://host/o/n#subdirectory=.git",
        "git+https://host/o/n#egg=x",
        "./a\nb",
        "../../etc/passwd",
        "a/b/c",
        "name with space",
        "./five.txt",
        "./agent/agent.yaml",
    ],
)
def test_what_is_refused(here, text):
    with pytest.raises((InstallError, AgentNotFoundError)):
        parse_spec(text, here)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("agent", "did you mean ./agent?"),
        ("./agnet", "did you mean {here}/agent?"),
        ("oen.zip", "did you mean {here}/one.zip?"),
        ("./agent/agent.yaml", "did you mean ./agent?"),
        ("./none/agent", "{here}/none does not exist either"),
        ("git+./agnet", "did you mean {here}/agent?"),
        ("https://host/o/n", "for a git repository: git+https://host/o/n"),
        ("git+ext::sh", "https://"),
    ],
)
def test_what_is_suggested(here, text, suggestion):
    with pytest.raises(AgentRuntimeError) as caught:
        parse_spec(text, here)
    assert suggestion.format(here=here) in (caught.value.suggestion or "")


def test_a_password_is_not_shown():
    assert redacted("https://me:secret@host/o/n.git") == "https://me@host/o/n.git"
    assert redacted("git@host:o/n.git") == "git@host:o/n.git"
    with pytest.raises(InstallError) as caught:
        parse_spec("git+ftp://me:secret@host/o/n.git")
    assert "secret" not in str(caught.value)
