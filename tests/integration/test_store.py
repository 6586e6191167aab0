from __future__ import annotations

import contextlib
import inspect
import json
import os
import random
import subprocess
import sys
import threading
import time

import pytest

from agenthub.config import IN_USE, RECORD, Paths
from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InstallError, StoreError
from agenthub.packages import locks
from agenthub.packages.grants import GRANTS
from agenthub.packages.record import InstallRecord, now, read_record, write_record
from agenthub.packages.store import Store

DIGEST = "sha256:" + "0123456789abcdef" * 4


def store_at(home):
    return Store(Paths({"AGENTHUB_HOME": str(home)}))


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "home")


def record_for(owner, name, version="1.0", **fields):
    values = {
        "owner": owner,
        "name": name,
        "version": version,
        "source": {"kind": "directory", "location": "/x"},
        "digest": DIGEST,
        "installed_at": now(),
        "tool_version": "0.1.0",
        "interpreter": {"path": "/usr/bin/python3", "version": "3.12.1"},
        "dependencies": [{"name": "requests", "version": "2.32.0"}],
        "environment": "dependencies",
        "size": {"code": 10, "environment": 20},
        "manifest": {"name": name, "description": "does things", "methods": [["run"]]},
        "warnings": [],
        "hints": ["OPENAI_API_KEY"],
    }
    return InstallRecord(**{**values, **fields})


def install(store, owner, name, version="1.0", *, keep_old=True, break_at=None):
    """The steps of an installation; `break_at` raises in the middle."""
    with store.new_staging() as staging:
        tree = os.path.join(staging, "tree")
        os.mkdir(tree)
        with open(os.path.join(tree, "agent.py"), "w") as file:
            file.write(version)
        with store.agent_lock(owner, name), store.prepare_version(owner, name, version, DIGEST, tree) as place:
            os.mkdir(os.path.join(place, "venv"))
            with open(os.path.join(place, "venv", "made"), "w") as file:
                file.write(version)
            if break_at == "environment":
                raise RuntimeError
            store.complete_version(place, record_for(owner, name, version))
            if break_at == "record":
                raise RuntimeError
            store.activate(place)
            if not keep_old:
                for old in store.superseded(owner, name):
                    store.remove_version(old)
    return place


# What other processes run: these same steps over and over. They import nothing of pytest, so that many can be started.
INSTALLER = f"""
from __future__ import annotations
import os, sys
from agenthub.config import Paths
from agenthub.packages.record import InstallRecord, now
from agenthub.packages.store import Store
DIGEST = {DIGEST!r}
{"".join(map(inspect.getsource, (store_at, record_for, install)))}
store = store_at(sys.argv[1])
print("ready", flush=True)
for number in range(int(sys.argv[2])):
    store.sweep()
    install(store, "local", sys.argv[3], version=f"{{os.getpid()}}.{{number}}", keep_old=False)
    print("installed", flush=True)
"""


def files_under(home):
    return sorted(
        os.path.relpath(os.path.join(where, name), home)
        for where, inner, files in os.walk(home)
        for name in inner + files
    )


def assert_whole(store, owner, name):
    """The agent is one version, complete."""
    place = store.current_version_dir(owner, name)
    record = store.read_record(owner, name)
    for path in ("agent.py", "venv/made"):
        with open(os.path.join(place, path)) as file:
            assert file.read() == record.version
    return record


# reading


def test_a_missing_home_is_an_empty_store(store):
    assert store.list_agents() == []
    assert store.sweep() == []
    assert store.superseded("local", "x") == []
    assert not any(store.read_grants("local", "x").values())
    assert not store.has_consent("/x", DIGEST)
    for attempt in (
        lambda: store.resolve("x"),
        lambda: store.current_version_dir("local", "x"),
        lambda: store.hold_current("local", "x"),
        lambda: store.uninstall("local", "x"),
    ):
        with pytest.raises(AgentNotFoundError):
            attempt()
    assert not os.path.exists(store.paths.home)


def test_an_installed_agent(store):
    place = install(store, "local", "x")
    assert store.current_version_dir("local", "x") == place
    assert os.readlink(store.agent_dir("local", "x")) == "../../versions/local/x/1.0-0123456789ab"
    assert store.read_record("local", "x") == record_for("local", "x", installed_at=store.read_record("local", "x")[5])
    assert store.list_agents() == [
        (
            "local",
            "x",
            "1.0",
            "does things",
            store.read_record("local", "x").installed_at,
            "directory",
            30,
            ["run"],
            "",
            {},
            False,
        )
    ]
    assert os.stat(store.paths.home).st_mode & 0o777 == 0o700
    assert not os.listdir(store.paths.staging)
    with open(store.paths.marker) as file:
        assert json.load(file) == {"schema_version": 1}


def test_the_home_may_move(store, tmp_path):
    install(store, "local", "x")
    os.rename(store.paths.home, tmp_path / "moved")
    assert_whole(store_at(tmp_path / "moved"), "local", "x")


def test_resolving_names(store):
    for owner, name in (("local", "alone"), ("local", "both"), ("acme", "both")):
        install(store, owner, name)
    assert store.resolve("alone") == store.resolve("local/alone") == ("local", "alone")
    assert store.resolve("acme/both") == ("acme", "both")
    with pytest.raises(AgentNotFoundError, match="several owners") as caught:
        store.resolve("both")
    assert caught.value.suggestion == "one of acme/both, local/both"


@pytest.mark.parametrize(
    ("agent", "suggestion"),
    [
        ("aloen", "did you mean local/alone?"),
        ("Alone", "did you mean local/alone?"),
        ("locla/alone", "did you mean local/alone?"),
        ("acme/alone", "did you mean local/alone?"),
        ("zzz", "agenthub list shows what is"),
    ],
)
def test_unknown_names(store, agent, suggestion):
    install(store, "local", "alone")
    with pytest.raises(AgentNotFoundError, match=f"no agent '{agent}' is installed") as caught:
        store.resolve(agent)
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    "agent", ["..", "../agents/local/x", "local/..", "/etc", "", "local/", "/x", "local/x/..", "."]
)
def test_names_are_no_paths(store, agent):
    install(store, "local", "x")
    with pytest.raises(AgentNotFoundError):
        store.resolve(agent)


@pytest.mark.parametrize("name", ["X", "", "..", ".x", "a/b", "a b", "ä", "x.", "a" * 65, "-x", "a\n"])
def test_names_that_cannot_be_installed(store, name):
    for owner, agent in (("local", name), (name, "x")):
        with pytest.raises(InstallError, match="cannot be the name of"):
            install(store, owner, agent)
    assert store.list_agents() == []


@pytest.mark.parametrize("version", ["../../../x", "", "..", "a/b", "-x", "1.0 beta", "x" * 500])
def test_a_version_is_no_path(store, version):
    place = install(store, "local", "x", version)
    assert os.path.dirname(place) == os.path.join(store.paths.versions, "local", "x")
    assert os.path.basename(place).endswith("-0123456789ab")


# the index


def test_list_sees_every_change_at_once(store):
    seen = []
    for number in range(30):
        install(store, f"owner{number % 3}", f"x{number}")
        seen.append(len(store.list_agents()))
    assert seen == list(range(1, 31))
    install(store, "owner0", "x0", "2.0")
    assert store.list_agents()[0].version == "2.0"
    store.uninstall("owner0", "x0")
    assert len(store.list_agents()) == 29


def set_times(store, ns):
    for root in (store.paths.agents, store.paths.versions):
        for directory in (root, *(os.path.join(root, name) for name in os.listdir(root))):
            os.utime(directory, ns=(ns, ns))


def age(store):
    """Lets the directories be old, so that the index is believed."""
    set_times(store, 10**18 + 1)
    store.list_agents()


def test_list_reads_one_file_when_nothing_changed(store, monkeypatch):
    for number in range(5):
        install(store, "local", f"x{number}")
    age(store)
    expected = store.list_agents()
    monkeypatch.setattr(os, "listdir", None)
    assert store.list_agents() == expected


def test_a_recent_time_is_not_believed(store):
    """Two changes within one tick of the file system's clock leave one time."""
    install(store, "local", "x")
    tick = time.time_ns() + 10**9
    set_times(store, tick)
    assert [agent.name for agent in store.list_agents()] == ["x"]
    for name in ("y", "z"):
        install(store, "local", name)
    set_times(store, tick)
    assert [agent.name for agent in store.list_agents()] == ["x", "y", "z"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"schema_version": 1}', '{"schema_version": 2, "agents": [], "directories": {"agents": 1}}'],
)
def test_a_damaged_index_is_rebuilt(store, content):
    install(store, "local", "x")
    age(store)
    with open(store.paths.index, "w") as file:
        file.write(content)
    assert [agent.name for agent in store.list_agents()] == ["x"]


def test_broken_entries_are_listed_as_such(store):
    for name in ("fine", "gone", "no-record", "garbage", "half", "newer"):
        install(store, "local", name)
    place = {agent.name: store.current_version_dir("local", agent.name) for agent in store.list_agents()}
    os.rename(place["gone"], place["gone"] + "x")
    os.unlink(os.path.join(place["no-record"], RECORD))
    for name, content in (("garbage", "{"), ("half", '{"schema_version": 1}'), ("newer", '{"schema_version": 99}')):
        with open(os.path.join(place[name], RECORD), "w") as file:
            file.write(content)
    os.mkdir(os.path.join(store.paths.agents, "local", "by-hand"))
    os.unlink(store.paths.index)
    problems = {agent.name: agent.problem for agent in store.list_agents()}
    assert problems.pop("fine") == ""
    assert list(problems) == sorted(problems)
    for name, part in (
        ("gone", "its installed version is missing"),
        ("no-record", "no install record"),
        ("by-hand", "no install record"),
        ("garbage", "not JSON"),
        ("half", "lacks owner, name"),
        ("newer", "newer agenthub"),
    ):
        assert part in problems[name], name
    with pytest.raises(StoreError, match="is broken"):
        store.current_version_dir("local", "gone")
    with pytest.raises(StoreError, match="is broken"):
        store.hold_current("local", "gone")
    for name in ("gone", "no-record", "garbage"):
        install(store, "local", name, "2.0")
        assert_whole(store, "local", name)
    for name in ("half", "newer"):
        store.uninstall("local", name)


# changing


def test_upgrade_and_rollback(store):
    first = install(store, "local", "x", "1.0")
    second = install(store, "local", "x", "2.0")
    third = install(store, "local", "x", "2.0")
    assert third == second + "-2"
    assert store.superseded("local", "x") == [second, first]
    store.activate(first)
    assert assert_whole(store, "local", "x").version == "1.0"
    assert store.superseded("local", "x") == [third, second]
    with pytest.raises(StoreError, match="is the current version"):
        store.remove_version(first)
    assert store.remove_version(second)
    assert store.superseded("local", "x") == [third]
    assert store.remove_version(second)  # is gone already


@pytest.mark.parametrize("break_at", ["environment", "record"])
@pytest.mark.parametrize("before", [False, True])
def test_a_failed_installation_leaves_nothing(store, break_at, before):
    install(store, "local", "other")
    if before:
        install(store, "local", "x")
    files = files_under(store.paths.home)
    with pytest.raises(RuntimeError):
        install(store, "local", "x", "2.0", break_at=break_at)
    assert set(files_under(store.paths.home)) - set(files) <= {"locks/local@x.lock"}
    if before:
        assert assert_whole(store, "local", "x").version == "1.0"


def test_an_incomplete_version_cannot_be_current(store, tmp_path):
    with store.new_staging() as staging:
        os.mkdir(os.path.join(staging, "tree"))
        with store.prepare_version("local", "x", "1", DIGEST, os.path.join(staging, "tree")) as place:
            with pytest.raises(StoreError, match="no install record"):
                store.activate(place)
            with pytest.raises(StoreError, match="not a version in the store"):
                store.activate(str(tmp_path))
    assert not os.path.exists(store.agent_dir("local", "x"))


def test_a_directory_made_by_hand_is_not_replaced(store):
    os.makedirs(store.agent_dir("local", "x"))
    with pytest.raises(StoreError, match="did not make"):
        install(store, "local", "x")
    with pytest.raises(StoreError, match="did not make"):
        store.uninstall("local", "x")
    assert os.path.isdir(store.agent_dir("local", "x"))
    assert store.current_version_dir("local", "x") == store.agent_dir("local", "x")


def test_uninstall_removes_what_install_made(store):
    install(store, "local", "other")
    age(store)
    before = files_under(store.paths.home)
    for version in ("1.0", "2.0"):
        install(store, "acme", "x", version)
    store.write_grants("acme", "x", {"environment": ["A"]})
    store.uninstall("acme", "x")
    assert files_under(store.paths.home) == sorted({*before, "grants"})
    assert [agent.name for agent in store.list_agents()] == ["other"]
    with pytest.raises(AgentNotFoundError, match="acme/x is not installed"):
        store.uninstall("acme", "x")


def test_uninstall_of_what_is_read_only_inside(store):
    place = install(store, "local", "x")
    os.mkdir(os.path.join(place, "d"))
    with open(os.path.join(place, "d", "f"), "w"):
        pass
    os.chmod(os.path.join(place, "d"), 0o500)
    store.uninstall("local", "x")
    assert not os.path.exists(place)


def test_removal_does_not_follow_links(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    place = install(store, "local", "x")
    os.symlink(tmp_path / "mine", os.path.join(place, "link"))
    store.uninstall("local", "x")
    assert (tmp_path / "mine" / "file").exists()


# holds


def test_a_version_in_use_stays(store):
    first = install(store, "local", "x", "1.0")
    place, held = store.hold_current("local", "x")
    assert place == first
    assert held.held
    install(store, "local", "x", "2.0")
    with store.hold(first):
        assert store.in_use(first)
    assert store.in_use(first)
    assert not store.remove_version(first)
    with pytest.raises(StoreError, match="local/x is running"):
        store.uninstall("local", "x")
    assert_whole(store, "local", "x")
    held.close()
    held.close()
    assert not store.in_use(first)
    assert store.remove_version(first)
    assert not os.path.exists(first)


def test_uninstall_by_force(store):
    install(store, "local", "x")
    _, held = store.hold_current("local", "x")
    with held:
        store.uninstall("local", "x", force=True)
    assert store.list_agents() == []
    assert not os.path.exists(os.path.join(store.paths.versions, "local"))


def test_a_hold_ends_with_its_process(store):
    place = install(store, "local", "x")
    program = "import sys; from agenthub.packages.locks import hold\nh = hold(sys.argv[1])\nprint(h.held, flush=True)\n"
    program += "input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "True\n"
        assert store.in_use(place)
        process.kill()
        process.wait()
    assert not store.in_use(place)


def test_nothing_to_hold(tmp_path):
    with locks.hold(str(tmp_path)) as held:
        assert not held.held
    assert not os.listdir(tmp_path)


def test_a_hold_of_what_is_being_removed(store):
    """The run had opened the lock file before the removal took it."""
    place = install(store, "local", "x", "1.0")
    unused = locks.claim_unused(place)
    outcome = []

    def run():
        try:
            outcome.append(locks.hold(place))
        except AgentNotFoundError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not waiting_for_lock(os.path.join(place, IN_USE)):
        pass
    os.rename(place, place + ".removed")
    unused.close()
    thread.join()
    assert isinstance(outcome[0], AgentNotFoundError)


def waiting_for_lock(path):
    inode = f":{os.stat(path).st_ino} "
    with open("/proc/locks") as file:
        return any("->" in line and inode in line for line in file)


def test_runs_always_find_a_version_while_it_is_upgraded(store):
    install(store, "local", "x")
    with installer(store.paths.home, 1000, "x") as process:
        versions = set()
        while len(versions) < 8:
            place, held = store.hold_current("local", "x")
            with held, open(os.path.join(place, "venv", "made")) as file:
                version = file.read()
                assert read_record(place).version == version
                versions.add(version)
        process.kill()


# many processes


@contextlib.contextmanager
def installer(home, count, name):
    command = [sys.executable, "-c", INSTALLER, str(home), str(count), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


@pytest.mark.slow
def test_killed_at_any_instant(store):
    """50 installers die at random instants: the agent is whole each time, and the next sweep removes their rests."""
    install(store, "local", "x", "0")
    chance = random.Random(1)
    versions = set()
    for _ in range(50):
        with installer(store.paths.home, 1000, "x") as process:
            for _ in range(chance.randrange(3)):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.01))  # a random instant is the subject
            process.kill()
        versions.add(assert_whole(store, "local", "x").version)
        assert [agent.problem for agent in store.list_agents()] == [""]
    assert len(versions) > 20
    store.sweep()
    assert not os.listdir(store.paths.staging)
    complete = [store.current_version_dir("local", "x"), *store.superseded("local", "x")]
    folder = os.path.join(store.paths.versions, "local", "x")
    assert sorted(os.listdir(folder)) == sorted(map(os.path.basename, complete))
    install(store, "local", "x", "last", keep_old=False)
    assert os.listdir(folder) == ["last-0123456789ab"]
    store.uninstall("local", "x")
    assert files_under(store.paths.home) == ["agents", "index.json", "locks", "staging", "store.json", "versions"]


def test_ten_installers_of_one_agent(store):
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(installer(store.paths.home, 3, "x")) for _ in range(10)]
        codes = [process.wait() for process in processes]
    assert codes == [0] * 10
    assert_whole(store, "local", "x")
    assert len(os.listdir(os.path.join(store.paths.versions, "local", "x"))) == 1
    assert not os.listdir(store.paths.staging)


def test_neighbours_come_and_go(store):
    """An owner's directory that is removed because it is empty does not trip an install beside it."""
    failures = []

    def churn(name):
        try:
            for number in range(25):
                install(store, "local", name, str(number))
                store.uninstall("local", name)
        except AgentRuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list_agents() == []


def test_waiting_for_a_lock_is_told(store, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    told = threading.Event()
    entered = threading.Event()

    def second():
        with store.agent_lock("local", "x", told.set):
            entered.set()

    with store.agent_lock("local", "x"):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        assert not entered.is_set()
    thread.join()
    assert entered.is_set()


# sweeping


def test_sweep_spares_the_living(store):
    install(store, "local", "x")
    with store.new_staging() as staging:
        os.mkdir(os.path.join(staging, "tree"))
        with store.prepare_version("local", "y", "1", DIGEST, os.path.join(staging, "tree")) as place:
            assert store.sweep(thorough=True) == []
            assert os.path.isdir(staging)
            assert os.path.isdir(place)
    assert not os.path.exists(staging)
    assert not os.path.exists(os.path.join(store.paths.versions, "local", "y"))


def test_sweep_removes_what_nobody_holds(store):
    kept = install(store, "local", "x")
    orphan = os.path.join(store.paths.staging, "0123")
    incomplete = os.path.join(store.paths.versions, "local", "y", "1-0123")
    for directory in (orphan, incomplete):
        os.makedirs(directory)
    assert store.sweep() == [orphan]
    assert store.sweep(thorough=True) == [incomplete]
    assert os.listdir(os.path.join(store.paths.versions, "local")) == ["x"]
    assert os.path.isdir(kept)


def test_a_staging_note_names_only_versions(store, tmp_path):
    install(store, "local", "x")
    (tmp_path / "mine").mkdir()
    for number, path in enumerate((tmp_path / "mine", f"{store.paths.versions}/../../mine", "")):
        with open(os.path.join(store.paths.staging, f"{number}.lock"), "w") as file:
            file.write(str(path))
    store.sweep()
    assert (tmp_path / "mine").is_dir()
    assert not os.listdir(store.paths.staging)
    assert_whole(store, "local", "x")


# grants, records, versions of the store


def test_grants_and_consents(store):
    install(store, "local", "x")
    given = {key: [key] for key in GRANTS}
    store.write_grants("local", "x", {**given, "environment": ["B", "A", "B"], "other": ["X"]})
    assert store.read_grants("local", "x") == {**given, "environment": ["A", "B"]}
    store.write_grants("local", "x", {"denied_network": ["*"]})
    assert store.read_grants("local", "x") == {**{key: [] for key in GRANTS}, "denied_network": ["*"]}
    store.add_consent("/x", DIGEST)
    store.add_consent("/y", "other")
    assert store.has_consent("/x", DIGEST)
    assert not store.has_consent("/y", DIGEST)
    store.add_consent("/x", "newer")
    assert not store.has_consent("/x", DIGEST)
    for path in ("grants/local/x.json", "consents.json"):
        assert os.stat(os.path.join(store.paths.home, path)).st_mode & 0o777 == 0o600


def test_a_record_survives_the_journey(store):
    place = install(store, "local", "x")
    record = record_for("local", "x", interpreter=None, warnings=["ü", "\udcff"])
    write_record(place, record)
    assert read_record(place) == record
    assert os.listdir(os.path.join(place, ".agenthub")).count("record.json.new") == 0


def test_a_store_of_a_newer_version(store):
    install(store, "local", "x")
    with open(store.paths.marker, "w") as file:
        json.dump({"schema_version": 2}, file)
    for attempt in (store.list_agents, lambda: install(store, "local", "y"), lambda: store.uninstall("local", "x")):
        with pytest.raises(StoreError, match="newer agenthub") as caught:
            attempt()
        assert "AGENTHUB_HOME" in caught.value.suggestion


# disks


@pytest.fixture
def small_disk(tmp_path):
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)


def test_a_full_disk(small_disk):
    store = store_at(small_disk / "home")
    install(store, "local", "x")
    before = files_under(store.paths.home)
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    with pytest.raises((StoreError, OSError)) as caught:
        install(store, "local", "x", "2.0")
    assert "No space left" in str(caught.value)
    assert files_under(store.paths.home) == before
    assert_whole(store, "local", "x")
    store.list_agents()
    place, held = store.hold_current("local", "x")
    held.close()
    store.uninstall("local", "x")
    assert not os.path.exists(place)


def test_a_copy_onto_a_full_disk(small_disk, tmp_path):
    from agenthub.packages.tree import copy_tree

    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "large").write_bytes(bytes(2 << 20))
    with pytest.raises(StoreError, match=r"cannot write .*/target/large: No space left") as caught:
        copy_tree(str(tmp_path / "source"), str(small_disk / "target"))
    assert "free some space" in caught.value.suggestion
    assert os.listdir(small_disk) == []


def test_a_read_only_home(small_disk):
    store = store_at(small_disk / "home")
    install(store, "local", "x")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert [agent.name for agent in store.list_agents()] == ["x"]
    assert store.resolve("x") == ("local", "x")
    _, held = store.hold_current("local", "x")
    held.close()
    for attempt in (
        lambda: install(store, "local", "y"),
        lambda: store.uninstall("local", "x"),
        lambda: store.add_consent("/x", DIGEST),
        lambda: install(store_at(small_disk / "none"), "local", "y"),
    ):
        with pytest.raises(StoreError, match="Read-only file system") as caught:
            attempt()
        assert "set AGENTHUB_HOME" in caught.value.suggestion
    assert_whole(store, "local", "x")
