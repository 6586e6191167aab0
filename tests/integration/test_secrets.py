"""`agenthub secret`: where values are kept, who is given them, and everywhere that they must not be seen."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys

import pytest

from agenthub.config import Paths
from agenthub.errors import PermissionDeniedError, StoreError
from agenthub.manifest import read_manifest
from agenthub.packages.locks import acquire
from agenthub.runtime.secrets import cipher as secret_cipher
from agenthub.runtime.secrets.resolve import resolve_secrets
from agenthub.runtime.secrets.store import PASSPHRASE, SecretStore
from tests.support import assert_refused, in_terminal, invoke, method, start, tree, wait_until, write_agent

VALUE = "sk-test-7Qe3Zr9Lw2Xc5Vb8Nm1K"
NAME = "WRITER_API_KEY"
NO_KEYRING = "keyring.backends.fail.Keyring"
# A keyring as plug-ins are: its "service" is a file that only the test knows of.
PLUGIN = """
import json, os
from keyring.backend import KeyringBackend


class Keyring(KeyringBackend):
    priority = 9
    name = "the test's keyring"

    def _all(self):
        with open(os.environ["TEST_KEYRING"]) as file:
            return json.load(file)

    def _save(self, values):
        with open(os.environ["TEST_KEYRING"], "w") as file:
            json.dump(values, file)

    def get_password(self, service, username):
        return self._all().get(f"{service}/{username}")

    def set_password(self, service, username, password):
        self._save({**self._all(), f"{service}/{username}": password})

    def delete_password(self, service, username):
        values = self._all()
        del values[f"{service}/{username}"]
        self._save(values)
"""
LOCKED = (
    PLUGIN
    + """
    def set_password(self, service, username, password):
        from keyring.errors import KeyringLocked

        raise KeyringLocked(f"cannot keep {password}")
"""
)
AGENT = f"""
import os, sys, time

KEY = os.environ.get("{NAME}")


class Writer:
    def sees(self):
        return sorted(name for name in os.environ if "KEY" in name or "PASSPHRASE" in name)

    def length(self):
        return len(KEY)

    def result(self):
        return {{"key": KEY, "in": [f"Bearer {{KEY}}"], KEY: 1}}

    def log(self):
        print("printed", KEY)
        print("printed", KEY, file=sys.stderr)
        print("x" * (16 * 1024 - 20) + KEY)
        return "done"

    def fail(self):
        raise ValueError(f"no such key: {{KEY}}")

    def die(self):
        os.write(2, KEY.encode())
        os.abort()

    def stream(self):
        yield "the key: "
        yield KEY[:15]
        yield KEY[15:]

    def file(self):
        with open("key.txt", "w") as file:
            file.write(f"key={{KEY}}")
        return "key.txt"

    def wait(self, place):
        marker = os.path.join(place, "running")
        with open(marker, "w"):
            pass
        while os.path.exists(marker):
            time.sleep(0.01)
        return "waited"
"""
METHODS = {
    **{name: method() for name in ("sees", "length", "result", "log", "fail", "die")},
    "stream": {**method(), "stream": True},
    "file": {**method(), "returns": {"type": "file"}},
    "wait": method(place={"type": "directory", "access": "write", "required": True}),
}


@pytest.fixture(autouse=True)
def _no_keyring(monkeypatch):
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", NO_KEYRING)
    monkeypatch.setitem(secret_cipher._WORK, "n", 2**10)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def store(home):
    return SecretStore(Paths({"AGENTHUB_HOME": str(home)}))


@pytest.fixture
def keyring(tmp_path, monkeypatch):
    """A keyring that works in this process's children; its content."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "ring.py").write_text(PLUGIN)
    (folder / "locked_ring.py").write_text(LOCKED)
    content = folder / "content.json"
    content.write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("TEST_KEYRING", str(content))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "ring.Keyring")
    return lambda: json.loads(content.read_text())


def set_secret(cli, name=NAME, value=VALUE):
    return cli.ok("secret", "set", name, stdin=value)


def holders(directory, value=VALUE):
    """The files below a directory that hold a value, in the clear or in hexadecimal."""
    marks = (value.encode(), value.encode().hex().encode())
    return [path for path, data in tree(directory).items() if isinstance(data, bytes) and any(m in data for m in marks)]


# keeping ---------------------------------------------------------------------------------------------------------


def test_a_value_from_standard_input_is_kept_encrypted(cli, home, store):
    done = set_secret(cli, value=VALUE + "\n")
    assert VALUE not in done.out + done.err
    assert store.read([NAME]) == {NAME: VALUE}
    assert holders(home) == []
    for name in ("secrets.json", "secrets.key"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a value\n", "a value"),
        ("a value\n\n", "a value\n"),
        ("a value\r\n", "a value"),
        (" a\nb ", " a\nb "),
        ("é", "é"),
    ],
)
def test_one_line_feed_at_the_end_is_not_part_of_the_value(cli, store, given, kept):
    set_secret(cli, value=given)
    assert store.read([NAME]) == {NAME: kept}


@pytest.mark.parametrize(
    "words",
    [
        [NAME, VALUE],
        [f"{NAME}={VALUE}"],
        [VALUE],
        [f"{NAME} {VALUE}"],
        [NAME, VALUE, "more"],
        ["--value", VALUE],
        [NAME, "--file", VALUE],
    ],
)
def test_a_value_on_the_command_line_is_refused_and_not_repeated(cli, home, words):
    done = cli("secret", "set", *words, stdin="other")
    assert done.code == 2
    assert VALUE not in done.err
    assert tree(home) == {}


@pytest.mark.parametrize("value", [b"", b"\n", b"a\0b", b"\xff\xfe", b"x" * (64 * 1024 + 1)])
def test_what_cannot_be_a_variable_is_refused(cli, home, value):
    assert_refused(cli("secret", "set", NAME, stdin=value), 2, NAME)
    assert not (home / "secrets.json").exists()


def test_the_passphrase_is_no_secret(cli):
    assert_refused(cli("secret", "set", PASSPHRASE, stdin="x"), 2, PASSPHRASE)


def test_a_short_value_is_kept_with_a_warning(cli, store):
    assert "too short to be masked" in set_secret(cli, value="12345").err
    assert store.read([NAME]) == {NAME: "12345"}
    assert "warning" not in set_secret(cli, value="123456").err


def test_the_length_of_a_value_does_not_show(cli, home):
    sizes = set()
    for value in ("x", "y" * 200):
        set_secret(cli, value=value)
        sizes.add(len(json.loads((home / "secrets.json").read_text())["secrets"][NAME]["data"]))
    assert len(sizes) == 1


def test_list_shows_names_places_and_agents(cli, tmp_path):
    assert cli.ok("secret", "list", "--json").json["secrets"] == []
    assert "no secrets" in cli.ok("secret", "list").err
    cli.ok("install", "--yes", write_agent(tmp_path / "writer", "print(1)"))
    cli.ok("grant", "writer", "secret", NAME)
    set_secret(cli)
    set_secret(cli, "OTHER_KEY")
    assert cli.ok("secret", "list", "--json").json["secrets"] == [
        {"name": "OTHER_KEY", "kept": "file", "agents": []},
        {"name": NAME, "kept": "file", "agents": ["local/writer"]},
    ]
    shown = cli.ok("secret", "list").out
    assert f"{NAME}  file     local/writer\n" in shown
    assert VALUE not in shown


def test_remove(cli, home, store):
    for name in (NAME, "OTHER_KEY"):
        set_secret(cli, name)
    assert_refused(cli("secret", "remove", NAME, "OTHER_KEYS"), 2, "OTHER_KEYS", "Did you mean OTHER_KEY")
    assert sorted(store.names()) == ["OTHER_KEY", NAME]
    cli.ok("secret", "remove", NAME)
    assert store.read([NAME, "OTHER_KEY"]) == {"OTHER_KEY": VALUE}
    cli.ok("secret", "remove", "OTHER_KEY")
    assert store.names() == {}
    assert not (home / "secrets.key").exists()


def test_prompts_on_a_terminal_hide_what_is_typed(home, monkeypatch):
    replies = [("Value of", VALUE), ("New passphrase", "correct horse"), ("Again", "correct horse")]
    done = in_terminal("secret", "set", NAME, replies=replies)
    assert done.code == 0, done.err
    assert VALUE not in done.err
    assert "horse" not in done.err
    assert "encrypted with your passphrase" in done.err
    assert not (home / "secrets.key").exists()
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert SecretStore(Paths()).read([NAME]) == {NAME: VALUE}


def test_an_empty_passphrase_makes_a_key_file(home):
    done = in_terminal("secret", "set", NAME, replies=[("Value of", VALUE), ("New passphrase", "")])
    assert done.code == 0, done.err
    assert "secrets.key" in done.err.replace("\n", "")
    assert (home / "secrets.key").exists()


def test_two_passphrases_that_differ(home):
    replies = [("Value of", VALUE), ("New passphrase", "one"), ("Again", "two")]
    done = in_terminal("secret", "set", NAME, replies=replies)
    assert done.code == 2
    assert "differ" in done.err
    assert not (home / "secrets.json").exists()


def test_writers_wait_for_each_other(cli, home, store):
    set_secret(cli)
    lock = acquire(str(home / "locks/secrets.lock"))
    process = start("secret", "set", "OTHER_KEY", stdin=subprocess.PIPE)
    process.stdin.write(b"another value")
    process.stdin.close()
    try:
        wait_until(lambda: str(home / "locks/secrets.lock") in open_files(process.pid), process)
        document = json.loads((home / "secrets.json").read_text())
        document["secrets"] = {"KEPT_MEANWHILE": {"kept": "keyring"}, **document["secrets"]}
        (home / "secrets.json").write_text(json.dumps(document))
    finally:
        os.close(lock)
        code = process.wait(60)
        process.stdout.close()
        process.stderr.close()
    assert code == 0
    assert sorted(store.names()) == ["KEPT_MEANWHILE", "OTHER_KEY", NAME]


def open_files(pid):
    folder = f"/proc/{pid}/fd"
    found = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed just now
            found.append(os.readlink(f"{folder}/{name}"))
    return found


# what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_passphrase_is_needed_and_must_be_right(cli, home, store, monkeypatch):
    monkeypatch.setenv(PASSPHRASE, "right")
    set_secret(cli)
    assert not (home / "secrets.key").exists()
    assert store.read([NAME]) == {NAME: VALUE}
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(PermissionDeniedError, match="not the passphrase"):
        store.read([NAME])
    assert_refused(cli("secret", "set", "OTHER_KEY", stdin="xxxxxxx"), 5, "not the passphrase")
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(PermissionDeniedError, match="no terminal"):
        store.read([NAME])
    assert SecretStore(Paths(), lambda new: "new" if new else "right").read([NAME]) == {NAME: VALUE}
    assert NAME in cli.ok("secret", "list").out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no schema_version"),
        ('{"schema_version": 99}', "newer agenthub"),
        ('{"schema_version": 1}', "lists no secrets"),
        ('{"schema_version": 1, "secrets": {"A": 1}}', "lists no secrets"),
        ('{"schema_version": 1, "secrets": {"A": {"kept": "file", "data": "x"}}}', "how its secrets are encrypted"),
        ('{"schema_version": 1, "key": {"kind": "rot13"}, "secrets": {}}', "how its secrets are encrypted"),
    ],
)
def test_a_damaged_file(cli, home, content, words):
    set_secret(cli)
    (home / "secrets.json").write_text(content)
    for words_of_command in (("list",), ("set", "OTHER"), ("remove", NAME)):
        assert_refused(cli("secret", *words_of_command, stdin="a value"), 4, words)
    assert (home / "secrets.json").read_text() == content


@pytest.mark.parametrize("n", [2**40, 0, -1, "many", 3])
def test_an_impossible_derivation_is_damage(cli, home, store, monkeypatch, n):
    monkeypatch.setenv(PASSPHRASE, "right")
    set_secret(cli)
    document = json.loads((home / "secrets.json").read_text())
    document["key"]["n"] = n
    (home / "secrets.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="damaged"):
        store.read([NAME])


def test_a_value_that_was_moved_to_another_name_does_not_open(cli, home, store):
    set_secret(cli)
    set_secret(cli, "OTHER_KEY", "another value")
    document = json.loads((home / "secrets.json").read_text())
    document["secrets"][NAME] = document["secrets"]["OTHER_KEY"]
    (home / "secrets.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=f"{NAME} cannot be decrypted"):
        store.read([NAME])
    assert store.read(["OTHER_KEY"]) == {"OTHER_KEY": "another value"}


def test_a_key_that_is_gone_foreign_damaged_or_open_to_others(cli, home, store):
    set_secret(cli)
    key = home / "secrets.key"
    content = key.read_bytes()
    key.chmod(0o644)
    with pytest.raises(PermissionDeniedError, match="read by others"):
        store.read([NAME])
    key.chmod(0o600)
    for other, words in (({"key": "00" * 32}, "not the key"), ({"key": "xy"}, "damaged"), ({}, "damaged")):
        key.write_text(json.dumps({"schema_version": 1, **other}))
        with pytest.raises(StoreError, match=words):
            store.read([NAME])
    key.unlink()
    with pytest.raises(StoreError, match="is gone"):
        store.read([NAME])
    key.write_bytes(content)
    key.chmod(0o600)
    assert store.read([NAME]) == {NAME: VALUE}


def test_a_home_that_cannot_be_written(cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", "/proc/agenthub")
    assert_refused(cli("secret", "set", NAME, stdin=VALUE), 4, "/proc/agenthub")


def test_without_the_library(tmp_path, home, monkeypatch):
    (tmp_path / "cryptography").mkdir()
    (tmp_path / "cryptography/__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = invoke("secret", "set", NAME, input=VALUE.encode())
    assert_refused(done, 4, "cryptography", "agenthub[keyring]")
    assert not (home / "secrets.json").exists()
    assert not (home / "secrets.key").exists()


# the keyring -------------------------------------------------------------------------------------------------------


def test_a_keyring_is_preferred(home, keyring):
    assert "the test's keyring" in invoke("secret", "set", NAME, input=VALUE.encode()).err
    assert list(keyring().values()) == [VALUE]
    assert holders(home) == []
    listed = invoke("secret", "list", "--json").json["secrets"]
    assert listed == [{"name": NAME, "kept": "keyring", "agents": []}]
    assert invoke("secret", "set", "--file", NAME, input=b"another value").code == 0
    assert keyring() == {}
    assert invoke("secret", "set", NAME, input=VALUE.encode()).code == 0
    assert not (home / "secrets.key").exists()
    assert invoke("secret", "remove", NAME).code == 0
    assert keyring() == {}


def test_a_keyring_that_cannot_be_reached(keyring, monkeypatch):
    assert invoke("secret", "set", NAME, input=VALUE.encode()).code == 0
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", NO_KEYRING)
    assert_refused(invoke("secret", "remove", NAME), 5, NAME, "keyring")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "nowhere.Keyring")
    assert_refused(invoke("secret", "remove", NAME), 4, "keyring", "could not be loaded")


def test_a_locked_keyring_does_not_spill(keyring, home, monkeypatch):
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "locked_ring.Keyring")
    done = invoke("secret", "set", "-v", NAME, input=VALUE.encode())
    assert done.code == 5
    assert "KeyringLocked" in done.err
    assert VALUE not in done.err
    assert not (home / "secrets.json").exists()


# runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def writer(cli, tmp_path):
    """An installed agent that needs the secret, which is kept."""
    directory = write_agent(
        tmp_path / "writer", AGENT, METHODS, entrypoint="agent:Writer", environment={"secret": {NAME: "its key"}}
    )
    cli.ok("install", "--yes", directory)
    set_secret(cli)
    return directory


@pytest.fixture
def granted(cli, writer):
    cli.ok("grant", "writer", "secret", NAME)
    return writer


def test_declared_and_granted_or_nothing(cli, store, writer):
    assert resolve_secrets([NAME], [], store) == {}
    assert resolve_secrets([], [NAME], store) == {}
    assert resolve_secrets([NAME, "UNKNOWN"], [NAME, "UNKNOWN"], store) == {NAME: VALUE}
    assert_refused(cli("run", "writer", "length"), 5, NAME, "did not grant", "agenthub grant local/writer secret")
    cli.ok("grant", "writer", "secret", NAME)
    assert cli.ok("run", "writer", "length").out == f"{len(VALUE)}\n"
    cli.ok("revoke", "writer", "secret", NAME)
    assert_refused(cli("run", "writer", "length"), 5, NAME)


def test_what_is_set_for_the_run_comes_first(cli, home, granted, monkeypatch):
    (home / "secrets.key").unlink()  # what is not needed is not opened
    assert cli.ok("run", "--env", f"{NAME}=short-one", "writer", "length").out == "9\n"
    monkeypatch.setenv(NAME, "another one")
    assert cli.ok("run", "writer", "length").out == "11\n"
    monkeypatch.setenv(NAME, "")
    assert_refused(cli("run", "writer", "length"), 4, "secrets.key is gone")


def test_only_what_is_declared_is_given(cli, granted, tmp_path):
    set_secret(cli, "OTHER_KEY")
    warned = cli.ok("grant", "writer", "secret", "OTHER_KEY")
    assert "does not declare OTHER_KEY" in warned.err
    assert cli.ok("run", "writer", "sees").json == [NAME]


def test_the_passphrase_reaches_no_agent(cli, tmp_path, monkeypatch):
    directory = write_agent(
        tmp_path / "writer", AGENT, METHODS, entrypoint="agent:Writer", environment={"optional": {PASSPHRASE: "mine"}}
    )
    cli.ok("install", "--yes", directory)
    cli.ok("grant", "writer", "environment", PASSPHRASE)
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert cli.ok("run", "--env", PASSPHRASE, "writer", "sees").json == []
    assert read_manifest(directory).environment[0].name == PASSPHRASE


@pytest.mark.parametrize("name", ["result", "log", "fail", "die", "stream", "file"])
def test_whatever_an_agent_does_with_it_nobody_sees_it(cli, granted, home, tmp_path, name):
    plain = cli("run", "writer", name)
    detailed = cli("run", "-v", "--json", "writer", name)
    for done in (plain, detailed):
        assert VALUE not in done.out + done.err
        assert VALUE[15:] not in done.out + done.err
        assert f"[{NAME}]" in done.out + done.err or name == "file"
    if name != "log":
        assert json.loads(detailed.out.splitlines()[-1])["masked"] == [NAME]
    assert (plain.code == 0) == (name not in ("fail", "die"))
    assert holders(tmp_path) == []
    if name == "file":
        assert plain.out == f"key=[{NAME}]"


def test_other_commands_do_not_show_it(cli, granted):
    for words in (
        ("info", "writer"),
        ("info", "--json", "writer"),
        ("list", "--json"),
        ("config",),
        ("validate", granted),
    ):
        done = cli(*words)
        assert VALUE not in done.out + done.err


def test_no_process_has_it_in_its_arguments(granted, tmp_path):
    marker = tmp_path / "place" / "running"
    marker.parent.mkdir()
    process = start("run", "writer", "wait", "--place", marker.parent)
    try:
        wait_until(marker.exists, process)
        lines = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    lines[entry] = file.read()
            except OSError:  # it has ended
                continue
        assert str(process.pid) in lines
        assert b"agenthub" in b"".join(lines.values())
        assert [entry for entry, line in lines.items() if VALUE.encode() in line] == []
    finally:
        marker.unlink(missing_ok=True)
        out, _ = process.communicate(timeout=60)
    assert out == b"waited\n"
    assert holders(tmp_path) == []


def test_a_run_asks_for_the_passphrase_on_a_terminal(cli, tmp_path, monkeypatch):
    directory = write_agent(
        tmp_path / "writer", AGENT, METHODS, entrypoint="agent:Writer", environment={"secret": {NAME: "its key"}}
    )
    cli.ok("install", "--yes", directory)
    cli.ok("grant", "writer", "secret", NAME)
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    set_secret(cli)
    monkeypatch.delenv(PASSPHRASE)
    assert_refused(cli("run", "writer", "length"), 5, PASSPHRASE)
    done = in_terminal("run", "writer", "length", replies=[("Passphrase", "correct horse")])
    assert (done.code, str(len(VALUE)) in done.err) == (0, True), done.err


def test_runs_without_secrets_load_nothing_for_them(cli, tmp_path):
    code = "import json, sys; print(json.dumps({'result': 1}))"
    cli.ok("install", "--yes", write_agent(tmp_path / "plain", code))
    probe = "import sys; from agenthub.cli.app import main; main(['run', 'plain', 'go']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    for name in ("secrets.store", "secrets.cipher", "masking", "cryptography", "'keyring'", "getpass"):
        assert name not in done.stdout, name
