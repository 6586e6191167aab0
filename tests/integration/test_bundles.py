"""`agenthub bundle`, and `install` of one on a machine without a network."""

from __future__ import annotations

import io
import os
import platform
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.project_support import agent, write_wheel
from tests.integration.transfer_support import Machine, Tampered, manifest_of, shell_agent
from tests.support import assert_refused, tree
from tests.trust_support import SignedIndex, make_key

SERIES = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def other(tmp_path):
    return Machine(tmp_path / "other")


@pytest.fixture
def bundle(cli, tmp_path):
    """A bundle of one agent without an environment."""
    cli.ok("install", "--yes", shell_agent(tmp_path / "teller", "told"))
    return Path(cli.ok("bundle", "teller", "-o", tmp_path / "teller.agentbundle", "--json").json["path"])


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """From now on the command has a home in which nothing is."""

    def use(name="fresh"):
        monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / name))

    return use


# The main path


def test_an_agent_with_packages_is_installed_without_a_network(cli, tmp_path, other):
    place = agent(tmp_path / "tiny-agent", "hello", wheel=True)
    cli.ok("install", "--yes", place)
    made = cli.ok("bundle", "tiny-agent", "-o", tmp_path / "it.agentbundle", "--json").json
    assert [(one["name"], one["wheels"]) for one in made["agents"]] == [("tiny-agent", ["tiny-1.0-py3-none-any.whl"])]
    assert made["platform"]["machine"] == platform.machine()
    done = other.ok("install", "--yes", "--json", made["path"])
    assert "may not" in done.err
    assert [one["changed"] for one in done.json["agents"]] == [True]
    assert other.ok("run", "tiny-agent", "go").out == "hello\n"
    described = other.ok("info", "tiny-agent", "--json").json
    assert [(one["name"], one["version"]) for one in described["dependencies"]] == [("tiny", "1.0")]
    assert described["source"]["kind"] == "bundle"
    assert os.listdir(other.home / "staging") == []


def test_installed_again_there_is_nothing_to_ask_and_nothing_to_do(cli, bundle, fresh):
    fresh()
    cli.ok("install", "--yes", bundle)
    again = cli.ok("install", "--json", bundle)
    assert (again.json["agents"][0]["changed"], again.err) == (False, "")
    cli.ok("verify")
    assert cli.ok("outdated", "--json").json["agents"] == []


def test_the_same_agents_are_the_same_bytes(cli, tmp_path, bundle):
    cli.ok("bundle", "teller", "-o", tmp_path / "again.agentbundle")
    assert bundle.read_bytes() == (tmp_path / "again.agentbundle").read_bytes()


def test_agents_bring_what_they_need(cli, tmp_path, monkeypatch, fresh):
    monkeypatch.chdir(tmp_path)
    cli.ok("install", "--yes", shell_agent(tmp_path / "parser", "parsed"), "--as", "acme/parser")
    cli.ok("install", "--yes", shell_agent(tmp_path / "asker", "asked", requires={"acme/parser": ">=1"}))
    made = cli.ok("bundle", "asker", "--json").json
    assert made["path"] == str(tmp_path / "asker-1.0.0.agentbundle")
    assert [f"{one['owner']}/{one['name']}" for one in made["agents"]] == ["acme/parser", "local/asker"]
    fresh()
    done = cli.ok("install", "--yes", made["path"])
    lines = [line for line in done.err.splitlines() if line.startswith("✓")]
    assert [line.split()[1] for line in lines] == ["acme/parser", "local/asker"]


def test_all_agents_are_bundled_where_none_is_named(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(cli("bundle"), 2, "no agents are installed")
    cli.ok("install", "--yes", shell_agent(tmp_path / "one", "1"), shell_agent(tmp_path / "two", "2"))
    cli.ok("bundle")
    assert [one["name"] for one in manifest_of("agents.agentbundle")["agents"]] == ["one", "two"]


def test_consent_is_asked_once_and_the_flag_is_named(cli, bundle, fresh):
    fresh()
    refused = cli("install", bundle)
    assert_refused(refused, 5, "local/teller", "--yes")
    assert "may not" in refused.err
    dry = cli.ok("install", "--dry-run", bundle, "--json")
    assert dry.json["agents"][0]["dry_run"] is True
    assert cli.ok("list", "--json").json["agents"] == []


def test_other_content_is_replaced_only_by_force(cli, tmp_path, bundle):
    cli.ok("install", "--yes", "--force", shell_agent(tmp_path / "again" / "teller", "other"))
    assert_refused(cli("install", "--yes", bundle), 5, "--force --yes")
    cli.ok("install", "--yes", "--force", bundle)
    assert cli.ok("run", "teller", "go").out == "told\n"
    cli.ok("rollback", "teller")
    assert cli.ok("run", "teller", "go").out == "other\n"


def test_an_agent_that_would_lack_what_it_needs_is_refused(cli, tmp_path, bundle, fresh):
    file = Tampered(bundle)
    fresh("half")
    cli.ok("install", "--yes", shell_agent(tmp_path / "user", "x"))
    cli.ok("install", "--yes", "--force", shell_agent(tmp_path / "teller2", "told", name="teller", version="2.0"))
    needy = shell_agent(tmp_path / "needy", "n", requires={"local/teller": ">=2"})
    cli.ok("install", "--yes", needy)
    path = file.write(tmp_path / "lower.agentbundle")
    assert_refused(cli("install", "--yes", path), 4, "local/needy 1.0.0 needs local/teller")


# What must not travel, or must not be believed


def test_a_secret_in_an_agent_is_named_and_stays(cli, tmp_path):
    place = shell_agent(tmp_path / "teller", "told")
    Path(place, ".env").write_text("OPENAI_API_KEY=x\n")
    cli.ok("install", "--yes", place)
    refused = cli("bundle", "teller", "-o", tmp_path / "it.agentbundle")
    assert_refused(refused, 5, "local/teller", ".env", "--allow-file .env")
    assert not (tmp_path / "it.agentbundle").exists()
    cli.ok("bundle", "teller", "-o", tmp_path / "it.agentbundle", "--allow-file", ".env")


def test_what_was_changed_after_its_installation_is_not_bundled(cli, tmp_path, bundle):
    directory = cli.ok("dir", "teller").out.strip()
    with open(os.path.join(directory, "agent.sh"), "a") as file:
        file.write("# more\n")
    assert_refused(cli("bundle", "teller", "-o", tmp_path / "x.agentbundle"), 4, "is not what was installed")


def test_directories_without_files_come_along(cli, tmp_path, fresh):
    place = shell_agent(tmp_path / "teller", "told")
    Path(place, "empty", "inner").mkdir(parents=True)
    cli.ok("install", "--yes", place)
    cli.ok("bundle", "teller", "-o", tmp_path / "it.agentbundle")
    before = cli.ok("info", "teller", "--json").json["digest"]
    fresh()
    cli.ok("install", "--yes", tmp_path / "it.agentbundle")
    assert cli.ok("info", "teller", "--json").json["digest"] == before


def test_a_signature_travels_and_is_checked(cli, tmp_path, monkeypatch, fresh):
    index, key = SignedIndex(tmp_path / "index"), make_key(tmp_path / "key")
    index.release("acme/tool", "1.0", key)
    cli.ok("index", "add", "ours", index.file_url)
    cli.ok("install", "--yes", "acme/tool")
    path = tmp_path / "tool.agentbundle"
    cli.ok("bundle", "acme/tool", "-o", path)
    fresh("signed")
    done = cli.ok("install", "--yes", path)
    assert f"signed by {key.fingerprint}, which is seen here for the first time" in done.err
    assert [one["key"] for one in cli.ok("trust", "list", "--json").json["trusted"]] == [key.fingerprint]
    cli.ok("verify")

    fresh("other key")
    another = make_key(tmp_path / "another")
    cli.ok("trust", "acme", another.public)
    assert_refused(cli("install", "--yes", path), 5, "another key", another.fingerprint, key.fingerprint)

    fresh("stripped")
    cli.ok("trust", "acme", key.public)
    file = Tampered(path)
    file.manifest["agents"][0]["signatures"] = []
    assert_refused(cli("install", "--yes", file.write(tmp_path / "stripped.agentbundle")), 5, "is not signed")
    file.manifest["agents"][0]["source"] = {"kind": "directory", "location": "/somewhere"}
    assert_refused(cli("install", "--yes", file.write(tmp_path / "posing.agentbundle")), 5, "is not signed")
    cli.ok("install", "--yes", path)

    fresh("elsewhere")
    elsewhere = SignedIndex(tmp_path / "elsewhere")
    elsewhere.release("acme/other", "1.0")
    cli.ok("index", "add", "theirs", elsewhere.file_url)
    cli.ok("install", "--yes", "acme/other")
    assert_refused(cli("install", "--yes", path), 5, "belongs to", elsewhere.file_url)


def test_signatures_that_are_demanded(cli, bundle, monkeypatch, fresh):
    fresh()
    monkeypatch.setenv("AGENTHUB_SIGNATURES", "known")
    assert_refused(cli("install", "--yes", bundle), 5, "is not signed", "signatures=known")


# Another platform


def test_another_platform_is_refused_and_both_are_named(cli, tmp_path, bundle, fresh):
    fresh()
    file = Tampered(bundle)
    file.manifest["platform"] = {"system": "linux", "machine": "vax", "libc": "glibc", "libc_version": [2, 99]}
    refused = cli("install", "--yes", file.write(tmp_path / "vax.agentbundle"))
    assert_refused(refused, 4, "linux vax glibc 2.99", platform.machine())
    file.manifest["platform"] = {"system": "linux"}
    assert_refused(cli("install", "--yes", file.write(tmp_path / "none.agentbundle")), 4, "platform is damaged")


@pytest.mark.slow
def test_another_python_is_refused_and_both_are_named(cli, tmp_path, bundle, fresh):
    fresh()
    file = Tampered(bundle)
    file.manifest["agents"][0]["python"] = "3.99"
    refused = cli("install", "--yes", file.write(tmp_path / "new.agentbundle"))
    assert_refused(refused, 4, "Python 3.99", f"{SERIES}.")


# Hostile files


def _traversal(file):
    file.put("../escape", b"x")


def _absolute(file):
    file.put("/tmp/escape", b"x")


def _unlisted(file):
    file.members["agents/local/other.agent"] = b"x"


def _stray_wheel(file):
    file.put("wheels/00/evil-1.0-py3-none-any.whl", b"x")


def _missing(file):
    file.members.pop("agents/local/teller.agent")


def _wrong_digest(file):
    file.manifest["files"]["agents/local/teller.agent"][1] = "sha256:" + "0" * 64


def _wrong_size(file):
    file.manifest["files"]["agents/local/teller.agent"][0] += 1


def _link(file):
    entry = zipfile.ZipInfo("wheels/00/x-1.0-py3-none-any.whl")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    file.manifest["files"][entry.filename] = [4, "sha256:" + "0" * 64]
    file.extra.append((entry, b"/etc"))


def _bomb(file):
    entry = zipfile.ZipInfo("wheels/00/x-1.0-py3-none-any.whl")
    entry.compress_type = zipfile.ZIP_DEFLATED
    file.manifest["files"][entry.filename] = [1 << 24, "sha256:" + "0" * 64]
    file.extra.append((entry, bytes(1 << 24)))


def _owner(file):
    file.manifest["agents"][0]["owner"] = "../.."


def _control(file):
    file.manifest["agents"][0]["source"]["location"] = "\x1b]0;title\x07"


def _twice(file):
    file.manifest["agents"].append(file.manifest["agents"][0])


def _other_content(file):
    file.manifest["agents"][0]["digest"] = "sha256:" + "0" * 64


def _other_version(file):
    file.manifest["agents"][0]["version"] = "9.0"


def _wheel_of_no_name(file):
    file.put("wheels/00/--index-url=http", b"x")
    file.manifest["agents"][0]["wheels"] = ["wheels/00/--index-url=http"]


def _option(file):
    file.manifest["agents"][0]["requested"] = {"with": ["--index-url=http://example.org"]}


def _newer(file):
    file.manifest["schema_version"] = 99


def _other_kind(file):
    file.manifest["kind"] = "setup"


def _agent_bomb(file):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("agent.yaml", "name: teller\n")
        archive.writestr("zeros", bytes(80 << 20))
    file.put("agents/local/teller.agent", data.getvalue())


def _agent_leaves(file):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../../outside", "x")
    file.put("agents/local/teller.agent", data.getvalue())


HOSTILE = [
    (_traversal, "list of files is damaged"),
    (_absolute, "list of files is damaged"),
    (_unlisted, "is not in its list"),
    (_stray_wheel, "no agent has it"),
    (_missing, "not in the file"),
    (_wrong_digest, "is not what its list says"),
    (_wrong_size, "is not what its list says"),
    (_link, "is not a file"),
    (_bomb, "is compressed"),
    (_owner, "is damaged"),
    (_control, "is damaged"),
    (_twice, "twice"),
    (_other_content, "another one"),
    (_other_version, "is version"),
    (_wheel_of_no_name, "damaged"),
    (_option, "an option"),
    (_newer, "newer agenthub"),
    (_other_kind, "is no bundle"),
    pytest.param(_agent_bomb, "bomb", marks=pytest.mark.slow, id="_agent_bomb"),
    (_agent_leaves, "leads out of it"),
]


@pytest.mark.parametrize(("change", "says"), HOSTILE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_hostile_bundle_is_refused(cli, tmp_path, bundle, fresh, change, says):
    file = Tampered(bundle)
    change(file)
    path = file.write(tmp_path / "hostile.agentbundle")
    fresh()
    refused = cli("install", "--yes", path)
    assert_refused(refused, 4, says)
    assert "\x1b" not in refused.err
    left = {
        name for name in tree(tmp_path / "fresh") if name.split("/")[0] not in ("store.json", "staging", "index.json")
    }
    assert left == set()
    assert os.listdir(tmp_path / "fresh" / "staging") == []
    assert not (tmp_path / "escape").exists()


def test_a_bundle_that_was_cut_off_is_refused(cli, tmp_path, bundle, fresh):
    fresh()
    whole = bundle.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.agentbundle"
        path.write_bytes(whole[:length])
        assert_refused(cli("install", "--yes", path), 4, "cut.agentbundle", "cut off")
    assert_refused(cli("install", "--yes", tmp_path / "none.agentbundle"), 3, "there is no file")


def test_every_byte_counts(cli, tmp_path, bundle, fresh):
    """Whatever byte of an archive or a wheel differs, nothing is installed."""
    fresh()
    data = bytearray(bundle.read_bytes())
    at = data.index(b"echo ")
    data[at] ^= 1
    path = tmp_path / "flipped.agentbundle"
    path.write_bytes(data)
    assert cli("install", "--yes", path).code == 4
    assert cli.ok("list", "--json").json["agents"] == []


@pytest.mark.slow
def test_a_broken_environment_is_made_anew_from_the_bundle(cli, tmp_path, other):
    cli.ok("install", "--yes", agent(tmp_path / "tiny-agent", "hello", wheel=True))
    cli.ok("bundle", "tiny-agent", "-o", tmp_path / "it.agentbundle")
    other.ok("install", "--yes", tmp_path / "it.agentbundle")
    (python,) = other.home.glob("versions/local/tiny-agent/*/venv/bin/python")
    python.unlink()
    assert other("run", "tiny-agent", "go").code != 0
    other.ok("install", "--yes", tmp_path / "it.agentbundle")
    assert other.ok("run", "tiny-agent", "go").out == "hello\n"


@pytest.mark.slow
def test_without_uv_it_is_the_same(cli, tmp_path, other):
    cli.ok("install", "--yes", agent(tmp_path / "tiny-agent", "hello", wheel=True))
    cli.ok("bundle", "tiny-agent", "-o", tmp_path / "it.agentbundle")
    other.variables["AGENTHUB_USE_UV"] = "false"
    other.ok("install", "--yes", tmp_path / "it.agentbundle")
    assert other.ok("run", "tiny-agent", "go").out == "hello\n"


@pytest.mark.slow
def test_two_agents_with_the_same_packages_bring_them_once(cli, tmp_path, other):
    for name in ("one", "two"):
        cli.ok("install", "--yes", agent(tmp_path / name, name, wheel=True))
    cli.ok("bundle", "one", "two", "-o", tmp_path / "it.agentbundle")
    assert len([name for name in manifest_of(tmp_path / "it.agentbundle")["files"] if name.startswith("wheels/")]) == 1
    other.ok("install", "--yes", tmp_path / "it.agentbundle")
    inodes = {path.stat().st_ino for path in other.home.glob("versions/local/*/*/venv/lib/*/site-packages/tiny/*.py")}
    assert len(inodes) == 1


@pytest.mark.slow
def test_wheels_of_one_name_and_other_content_are_kept_apart(cli, tmp_path, other):
    for name in ("one", "two"):
        place = Path(agent(tmp_path / name, name, wheel=True))
        write_wheel(place / "wheels", content=f"WHOSE = {name!r}\n")
        (place / "agent.py").write_text("import tiny\ndef go():\n    return tiny.WHOSE\n")
        cli.ok("install", "--yes", place)
    cli.ok("bundle", "-o", tmp_path / "it.agentbundle")
    other.ok("install", "--yes", tmp_path / "it.agentbundle")
    assert [other.ok("run", name, "go").out for name in ("one", "two")] == ["one\n", "two\n"]


@pytest.mark.slow
def test_a_wheel_that_is_another_package_is_refused(cli, tmp_path, other):
    """The name of its file is right, and its digest; what is in it is not."""
    cli.ok("install", "--yes", agent(tmp_path / "tiny-agent", "hello", wheel=True))
    cli.ok("bundle", "tiny-agent", "-o", tmp_path / "it.agentbundle")
    file = Tampered(tmp_path / "it.agentbundle")
    (inside,) = file.manifest["agents"][0]["wheels"]
    evil = write_wheel(tmp_path / "evil", "evil")
    file.put(inside, (tmp_path / "evil" / evil).read_bytes())
    refused = other("install", "--yes", file.write(tmp_path / "evil.agentbundle"))
    assert_refused(refused, 4, "tiny-agent")
    assert other.ok("list", "--json").json["agents"] == []


# Projects


@pytest.mark.slow
def test_a_projects_bundle_gives_the_locked_set_without_a_network(cli, tmp_path, monkeypatch, other):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    agent(project / "agents" / "hello", "hello", wheel=True)
    cli.ok("add", "--yes", "./agents/hello")
    made = cli.ok("bundle", "--json").json
    assert made["path"] == str(project / "project.agentbundle")
    assert made["agents"][0]["wheels"] == ["tiny-1.0-py3-none-any.whl"]
    elsewhere = other.root / "project"
    elsewhere.mkdir()
    for name in ("agents.toml", "agents.lock"):
        (elsewhere / name).write_bytes((project / name).read_bytes())
    agent(elsewhere / "agents" / "hello", "hello", wheel=True)
    other.ok("install", "--yes", made["path"], cwd=elsewhere)
    assert other.ok("run", "hello", "go", cwd=elsewhere).out == "hello\n"
    assert other.ok("sync", "--offline", "--json", cwd=elsewhere).json["agents"][0]["changed"] is False
    assert other("sync", "--check", "--offline", cwd=elsewhere).code == 0
    assert other.ok("list", "--json").json["agents"] == []  # the project's, not the user's
    with open(elsewhere / "agents.lock", "a") as file:
        file.write("# edited\n")
    assert_refused(other("install", "--yes", made["path"], cwd=elsewhere), 2, "is not the lock")


@pytest.mark.slow
def test_a_wheel_that_the_lock_does_not_have_is_not_slipped_in(cli, tmp_path, monkeypatch, fresh):
    monkeypatch.chdir(tmp_path)
    agent(tmp_path / "agents" / "hello", "hello", wheel=True)
    cli.ok("add", "--yes", "./agents/hello")
    cli.ok("bundle", "-o", "it.agentbundle")
    file = Tampered(tmp_path / "it.agentbundle")
    (inside,) = file.manifest["agents"][0]["wheels"]
    write_wheel(tmp_path / "evil", "tiny", content="raise SystemExit('evil')\n")
    file.put(inside, (tmp_path / "evil" / "tiny-1.0-py3-none-any.whl").read_bytes())
    path = file.write(tmp_path / "evil.agentbundle")
    fresh()
    assert_refused(cli("install", "--yes", path), 5, "agents.lock has no hash of tiny==1.0", "--force --yes")
    cli.ok("install", "--yes", "it.agentbundle")
    assert cli.ok("run", "hello", "go").out == "hello\n"


def test_a_project_has_to_be_synced(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(cli("bundle", "--project"), 3, "agents.toml")
    shell_agent(tmp_path / "agents" / "hello", "hello")
    cli.ok("add", "--yes", "--no-sync", "./agents/hello")
    assert_refused(cli("bundle", "--project"), 4, "local/hello", "agenthub sync")
    (tmp_path / "agents.lock").unlink()
    assert_refused(cli("bundle"), 2, "there is no agents.lock")


# What is built


@pytest.mark.slow
def test_what_has_no_wheel_is_built_and_its_own_project_too(cli, tmp_path, other):
    """A package of the registry that is published as source only, and an agent that is a project itself."""
    place = tmp_path / "builder"
    agent(place, "x", name="builder", entrypoint="builder_agent.main", dependencies="pyproject.toml")
    (place / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "builder-agent"\nversion = "3.1"\ndependencies = ["docopt==0.6.2"]\n'
        '[tool.setuptools]\npackages = ["builder_agent"]\npackage-dir = {"" = "src"}\n'
    )
    (place / "src" / "builder_agent").mkdir(parents=True)
    (place / "src" / "builder_agent" / "__init__.py").touch()
    (place / "src" / "builder_agent" / "main.py").write_text("import docopt\ndef go(): return docopt.__version__\n")
    cli.ok("install", "--yes", place)
    made = cli.ok("bundle", "builder", "-o", tmp_path / "one.agentbundle", "--json").json
    names = made["agents"][0]["wheels"]
    cli.ok("verify")  # nothing was built in the installed directory
    other.ok("install", "--yes", made["path"])
    assert other.ok("run", "builder", "go").out == "0.6.2\n"
    assert any(name.startswith("docopt-0.6.2") for name in names)
    cli.ok("bundle", "builder", "-o", tmp_path / "two.agentbundle")
    assert (tmp_path / "one.agentbundle").read_bytes() == (tmp_path / "two.agentbundle").read_bytes()
