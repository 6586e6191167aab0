"""`agenthub export` and `import`: a user's whole setup on another machine, where nothing is overwritten or widened."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.integration.project_support import agent
from tests.integration.transfer_support import Machine, Tampered, shell_agent
from tests.support import assert_refused, in_terminal
from tests.trust_support import SignedIndex, make_key


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    def use(name="fresh"):
        monkeypatch.setenv("AGENTHUB_HOME", str(tmp_path / name))

    return use


@pytest.fixture
def setup(cli, tmp_path):
    """What a user has: an agent of a directory with grants, a pinned one of a signed index, settings, a secret."""
    index, key = SignedIndex(tmp_path / "index"), make_key(tmp_path / "key")
    index.release("acme/tool", "1.0", key)
    cli.ok("index", "add", "ours", index.file_url)
    cli.ok("install", "--yes", "acme/tool@>=1,<2")
    cli.ok("pin", "acme/tool")
    cli.ok("install", "--yes", shell_agent(tmp_path / "teller", "told", permissions={"network": ["example.net"]}))
    cli.ok("grant", "teller", "network", "example.org")
    cli.ok("revoke", "teller", "network", "example.net")
    cli.ok("config", "set", "timeout", "55")
    cli.ok("secret", "set", "OPENAI_API_KEY", stdin="sk-very-secret\n")
    return tmp_path / "mine.setup"


def steps(finished, **wanted):
    found = finished.json["steps"]
    return [step for step in found if all(step[key] == value for key, value in wanted.items())]


def grants(home):
    return json.loads(Path(home, "grants/local/teller.json").read_bytes())


def test_everything_comes_back_on_another_machine(cli, tmp_path, setup, fresh):
    done = cli.ok("export", setup)
    assert "OPENAI_API_KEY" in done.err
    assert setup.stat().st_mode & 0o777 == 0o600
    assert b"sk-very-secret" not in setup.read_bytes()
    shutil.rmtree(tmp_path / "teller")  # the new machine does not have it
    digests = {one["name"]: one["version"] for one in cli.ok("list", "--json").json["agents"]}
    fresh()
    cli.ok("import", "--yes", "--force", setup)
    assert {one["name"]: one["version"] for one in cli.ok("list", "--json").json["agents"]} == digests
    assert cli.ok("run", "teller", "go").out == "told\n"
    state = json.loads((tmp_path / "fresh/states/acme/tool.json").read_bytes())
    assert (state["pinned"], state["wanted"]) == (True, ">=1,<2")
    assert cli.ok("config", "--json").json["settings"]["timeout"]["value"] == 55
    assert "ours" in cli.ok("index", "list", "--json").out
    assert [one["owner"] for one in cli.ok("trust", "list", "--json").json["trusted"]] == ["acme"]
    assert grants(tmp_path / "fresh")["network"] == ["example.org"]
    assert cli.ok("secret", "list", "--json").json["secrets"] == []
    source = cli.ok("info", "acme/tool", "--json").json["source"]
    assert (source["kind"], source["index"]) == ("index", f"file://{tmp_path / 'index'}")
    assert cli.ok("info", "teller", "--json").json["source"]["origin"] == f"directory {tmp_path / 'teller'}"
    cli.ok("verify")
    again = cli.ok("import", setup, "--json")  # there is nothing to ask
    assert steps(again, action="add") == []


def test_the_same_setup_is_the_same_bytes(cli, tmp_path, setup):
    cli.ok("export", setup)
    cli.ok("export", tmp_path / "again.setup")
    assert setup.read_bytes() == (tmp_path / "again.setup").read_bytes()


def test_what_would_be_done_is_shown_and_asked(cli, tmp_path, setup, fresh):
    cli.ok("export", setup)
    fresh()
    dry = cli.ok("import", "--dry-run", setup, "--json")
    kinds = {step["kind"] for step in steps(dry, action="add")}
    assert kinds == {"agent", "setting", "index", "owner", "key", "grant"}
    assert [step["text"] for step in steps(dry, widens=True)] == ["network example.org"]
    assert [step["name"] for step in steps(dry, kind="secret")] == ["OPENAI_API_KEY"]
    assert cli.ok("list", "--json").json["agents"] == []
    assert not (tmp_path / "fresh" / "config.toml").exists()
    refused = cli("import", setup)
    assert_refused(refused, 5, "--force --yes")
    assert "grant local/teller: network example.org" in refused.err
    assert cli.ok("list", "--json").json["agents"] == []


def test_nothing_is_allowed_in_passing(cli, tmp_path, setup, fresh):
    cli.ok("config", "set", "sandbox", "off")
    cli.ok("export", setup)
    fresh()
    assert_refused(cli("import", "--yes", setup), 5, "--force --yes", "--no-grants")
    done = cli.ok("import", "--yes", "--no-grants", setup, "--json")
    assert len(done.json["agents"]) == 2
    kept = grants(tmp_path / "fresh")
    assert "network" not in kept
    assert kept["denied_network"] == ["example.net"]  # what was taken stays taken
    assert cli.ok("config", "--json").json["settings"]["sandbox"]["value"] == "auto"
    cli.ok("import", "--yes", "--force", setup)
    assert grants(tmp_path / "fresh")["network"] == ["example.org"]
    assert cli.ok("config", "--json").json["settings"]["sandbox"]["value"] == "off"


def test_what_is_here_stays(cli, tmp_path, setup, fresh):
    cli.ok("export", setup)
    fresh()
    other = SignedIndex(tmp_path / "elsewhere")
    other.release("acme/else", "1.0")
    cli.ok("index", "add", "ours", other.file_url)
    cli.ok("install", "--yes", "acme/else")
    cli.ok("trust", "acme", make_key(tmp_path / "another").public)
    cli.ok("config", "set", "timeout", "7")
    cli.ok("install", "--yes", shell_agent(tmp_path / "mine" / "teller", "mine"))
    cli.ok("revoke", "teller", "network", "example.org")
    refused = cli("import", "--yes", "--force", setup)  # acme/tool of an owner who belongs elsewhere here
    assert_refused(refused, 5, "belongs to", other.file_url)
    cli.ok("index", "remove", "ours")
    (tmp_path / "fresh" / "owners.json").unlink()
    cli.ok("trust", "remove", "acme")
    (tmp_path / "fresh" / "owners.json").unlink(missing_ok=True)
    done = cli.ok("import", "--yes", "--force", setup, "--json")
    stay = {(step["kind"], step["name"]) for step in steps(done, action="stays")}
    assert {("agent", "local/teller"), ("setting", "timeout")} <= stay
    assert cli.ok("run", "teller", "go").out == "mine\n"
    assert cli.ok("config", "--json").json["settings"]["timeout"]["value"] == 7
    assert "network" not in grants(tmp_path / "fresh")


def test_another_key_that_is_trusted_here_stays_the_only_one(cli, tmp_path, setup, fresh):
    cli.ok("uninstall", "acme/tool")
    cli.ok("export", setup)
    fresh()
    another = make_key(tmp_path / "another")
    cli.ok("trust", "acme", another.public)
    done = cli.ok("import", "--yes", "--force", setup, "--json")
    assert [step["action"] for step in steps(done, kind="key")] == ["stays"]
    assert [one["key"] for one in cli.ok("trust", "list", "--json").json["trusted"]] == [another.fingerprint]


def test_the_history_comes_only_if_it_is_asked_for(cli, tmp_path, setup, fresh):
    cli.ok("run", "teller", "go")
    cli.ok("export", setup)
    cli.ok("export", "--history", tmp_path / "with.setup")
    assert b"told" not in b"".join(line for line in setup.read_bytes().splitlines() if b'"run"' in line)
    before = cli.ok("runs", "--json").json["runs"]
    fresh()
    cli.ok("import", "--yes", "--force", setup)
    assert cli.ok("runs", "--json").json["runs"] == []
    cli.ok("import", "--yes", "--force", tmp_path / "with.setup")
    cli.ok("import", "--yes", "--force", tmp_path / "with.setup")
    after = cli.ok("runs", "--json").json["runs"]
    assert [(one["run_id"], one["status"]) for one in after] == [(one["run_id"], one["status"]) for one in before]


def test_a_question_is_answered_on_a_terminal(cli, tmp_path, setup, fresh):
    cli.ok("export", setup)
    fresh()
    refused = in_terminal("import", setup, replies=[("Import this, and let agents do more", "n")])
    assert refused.code == 5
    assert cli.ok("list", "--json").json["agents"] == []


def _setting(file):
    file.manifest["setup"]["settings"]["timeout"] = "5\nsandbox = off"


def _index(file):
    file.manifest["setup"]["indexes"][0]["url"] = "http://example.org"


def _key(file):
    file.manifest["setup"]["trusted"]["acme"][0]["key"] = "SHA256:x"


def _serial(file):
    file.manifest["setup"]["owners"]["acme"]["serials"]["tool"] = "1"


def _grant(file):
    file.manifest["agents"][0]["grants"] = {"everything": ["*"]}


def _secret(file):
    file.manifest["setup"]["secrets"] = ["a b"]


def _none(file):
    del file.manifest["setup"]


@pytest.mark.parametrize("change", [_setting, _index, _key, _serial, _grant, _secret, _none])
def test_a_hostile_file_is_refused(cli, tmp_path, setup, fresh, change):
    cli.ok("export", setup)
    file = Tampered(setup)
    change(file)
    fresh()
    assert_refused(cli("import", "--yes", "--force", file.write(tmp_path / "x.setup")), 4, "damaged")
    assert not (tmp_path / "fresh" / "config.toml").exists()


def test_settings_and_grants_that_cannot_be_are_left_out_and_named(cli, tmp_path, setup, fresh):
    cli.ok("export", setup)
    file = Tampered(setup)
    file.manifest["setup"]["settings"].update(nonsense="1", memory="much", python="/opt/python")
    teller = next(one for one in file.manifest["agents"] if one["name"] == "teller")
    teller["grants"]["sandbox"] = ["nothing"]
    fresh()
    done = cli.ok("import", "--yes", "--force", file.write(tmp_path / "x.setup"), "--json")
    stay = {step["name"] for step in steps(done, action="stays", kind="setting")}
    assert stay == {"nonsense", "memory", "python"}
    assert [step["text"] for step in steps(done, action="stays", kind="grant")] != []


def test_files_of_other_kinds_and_cut_files(cli, tmp_path, setup):
    cli.ok("export", setup)
    cli.ok("bundle", "teller", "-o", tmp_path / "teller.agentbundle")
    assert_refused(cli("import", tmp_path / "teller.agentbundle"), 4, "is no setup")
    setup.write_bytes(setup.read_bytes()[:-30])
    assert_refused(cli("import", setup), 4, "cut off")
    assert_refused(cli("import", tmp_path / "nothing"), 3, "there is no file")
    assert_refused(cli("export", tmp_path / "nowhere" / "x"), 4, "there is no directory")


@pytest.mark.slow
def test_with_wheels_nothing_is_asked_of_a_network(cli, tmp_path):
    cli.ok("install", "--yes", agent(tmp_path / "tiny-agent", "hello", wheel=True))
    cli.ok("export", "--wheels", tmp_path / "mine.setup")
    other = Machine(tmp_path / "other")
    other.ok("import", "--yes", tmp_path / "mine.setup")
    assert other.ok("run", "tiny-agent", "go").out == "hello\n"
    assert os.listdir(other.home / "staging") == []
