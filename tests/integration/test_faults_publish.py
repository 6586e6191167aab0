"""Publishers that are killed, race, or find no room: an index is valid for its readers, whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from agenthub.errors import AgentRuntimeError, PermissionDeniedError
from agenthub.indexes.publish import Publication, publish, set_notice
from agenthub.indexes.verification import verify
from tests.integration.faults_support import Hub, tmpfs
from tests.integration.index_support import TOKEN, TestIndex
from tests.support import PATIENCE, tree

ARCHIVE = "/files/acme/greeter/greeter-1.1.agent"


@pytest.fixture
def index(tmp_path):
    return TestIndex(tmp_path / "index")


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def read_as_a_client(directory):
    """What a client sees that knows nothing of locks: the releases, each with an archive that has its digest."""
    seen = {}
    for path in directory.glob("agents/*/*.json"):
        document = json.loads(path.read_bytes())
        for version, release in document["releases"].items():
            data = (directory / release["file"]).read_bytes()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == release["digest"]
            assert all((directory / signature["file"]).exists() for signature in release["signatures"])
            seen[f"{path.parent.name}/{path.stem} {version}"] = release
    for name in ("index.json", "search.json"):
        if (directory / name).exists():
            json.loads((directory / name).read_bytes())
    return seen


def assert_in_order(index, tmp_path, *, quite=True):
    """Nothing is wrong; with `quite`, nothing is left to put in order either."""
    scratch = tmp_path / f"verify-{os.urandom(4).hex()}"
    scratch.mkdir()
    found = verify(index.index, str(scratch))
    assert found.valid, found.problems
    if quite:
        assert found.problems == []
        staging = index.directory / ".agenthub" / "staging"
        assert list(staging.iterdir()) == []
    return found


# kill -9 -----------------------------------------------------------------------------------------------------------

_STEPS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "link", "utime")


def killed_at(step, act):
    """Runs `act` in a fork that is killed before its `step`th change of the file system; whether it got that far.

    Or before it replaces the file that `step` names.
    """
    child = os.fork()
    if child == 0:
        try:
            _die_at(step)
            act()
        except BaseException:  # noqa: BLE001 - a fork has nobody to tell
            os._exit(3)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 3), "it failed, and was not killed"
    return os.WIFSIGNALED(status)


def _die_at(step):
    left = step if isinstance(step, int) else 1 << 30

    def counted(function):
        def wrapper(*arguments, **options):
            nonlocal left
            left -= 1
            named = function.__name__ == "replace" and os.path.basename(arguments[1]) == step
            if left < 0 or named:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    for name in _STEPS:
        setattr(os, name, counted(getattr(os, name)))


def kill_at_every_step(index, tmp_path, act, states):
    """Kills `act` at each of its steps in turn, each time on the same index.

    `states` gives, of what a client sees, whether the change is there; it may be there or not, and nothing between.
    """
    untouched = {name: data for name, data in tree(index.directory).items() if not name.startswith(".agenthub")}
    before = read_as_a_client(index.directory) if index.directory.exists() else {}
    outcomes, step = [], 0
    saved = tmp_path / "saved"
    if index.directory.exists():
        subprocess.run(["cp", "-a", index.directory, saved], check=True)
    while killed_at(step, act):
        seen = read_as_a_client(index.directory)
        outcomes.append(states(before, seen))
        if (index.directory / "index.json").exists():
            assert_in_order(index, tmp_path, quite=False)
        # The next publisher puts in order what the dead one left; so does the same one again.
        index.publish("zoo/next", "1.0")
        assert_in_order(index, tmp_path)
        act()
        assert_in_order(index, tmp_path)
        assert states(before, read_as_a_client(index.directory))
        subprocess.run(["rm", "-rf", index.directory], check=True)
        if saved.exists():
            subprocess.run(["cp", "-a", saved, index.directory], check=True)
            now = tree(index.directory)
            assert {name: data for name, data in now.items() if not name.startswith(".agenthub")} == untouched
        step += 1
    assert outcomes == sorted(outcomes), "it was there, and was gone again"
    assert (outcomes[0], outcomes[-1]) == (False, True), "no kill fell before the change, or none after it"
    assert step > 15
    return step


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [True, False], ids=["a first release", "a further release"])
def test_killed_at_every_step_of_a_publication(index, tmp_path, fresh):
    if not fresh:
        index.publish("acme/greeter", "1.0")
    archive = index.pack(index.write("acme/greeter", "1.1"))

    def act():
        publish(index.index, Publication(archive, "acme", "tests", force=True))

    kill_at_every_step(index, tmp_path, act, lambda before, seen: "acme/greeter 1.1" in seen)


@pytest.mark.slow
def test_killed_at_every_step_of_a_yank(index, tmp_path):
    index.publish("acme/greeter", "1.0")
    index.publish("acme/greeter", "1.1")

    def act():
        set_notice(index.index, "acme", "greeter", "1.1", yanked="why")

    def yanked(before, seen):
        return seen["acme/greeter 1.1"]["yanked"] is not None

    kill_at_every_step(index, tmp_path, act, yanked)


def test_killed_between_the_release_and_the_summaries(index, tmp_path):
    """The one moment when the summaries are behind: readers see the release, and the next publisher finishes."""
    index.publish("acme/greeter", "1.0")
    archive = index.pack(index.write("acme/greeter", "1.1"))

    def act():
        publish(index.index, Publication(archive, "acme", "tests"))

    assert killed_at("search.json", act)
    assert "acme/greeter 1.1" in read_as_a_client(index.directory)
    found = assert_in_order(index, tmp_path, quite=False)
    assert [problem.path for problem in found.problems] == [".", "index.json", "search.json"]
    index.publish("zoo/next", "1.0")
    assert_in_order(index, tmp_path)


@pytest.mark.slow
def test_the_command_is_killed_at_any_moment(index, hub, tmp_path):
    chance = random.Random(5)
    index.publish("acme/greeter", "1.0")
    started = time.monotonic()
    publish_by_command(hub, index, index.write("acme/greeter", "1.0.1")).communicate()
    length = time.monotonic() - started
    seen = set()
    for number in range(40):
        version = f"1.1.{number}"
        process = publish_by_command(hub, index, index.write("acme/greeter", version))
        # Late: what comes before the index is touched is of no interest.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(length * (0.5 + 1.6 * (number + chance.random()) / 40))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        seen.add(f"acme/greeter {version}" in read_as_a_client(index.directory))
        assert_in_order(index, tmp_path, quite=False)
    index.publish("zoo/next", "1.0")
    assert_in_order(index, tmp_path)
    assert seen == {True, False}, "the kills missed"


# two at once -------------------------------------------------------------------------------------------------------


def publish_by_command(hub, index, directory, *words):
    return hub.start("publish", directory, "--index", index.directory, "--owner", "acme", *words)


def test_publishers_at_once(index, hub, tmp_path):
    """Of a new index: three versions, and two releases that want to be the same one."""
    sources = [index.write("acme/greeter", version) for version in ("1.0", "1.1", "1.2")]
    sources += [index.write("acme/other", "1.0", description=f"the one of {name}") for name in ("a", "b")]
    sources[-1] = str(shutil.copytree(sources[-1], tmp_path / "b"))
    index.write("acme/other", "1.0", description="the one of a")
    processes = [publish_by_command(hub, index, source) for source in sources]
    codes = []
    for process in processes:
        _, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err
        codes.append(process.returncode)
    assert codes[:3] == [0, 0, 0]
    assert sorted(codes[3:]) == [0, 5]
    assert sorted(read_as_a_client(index.directory)) == [
        *(f"acme/greeter 1.{minor}" for minor in range(3)),
        "acme/other 1.0",
    ]
    assert index.document("acme/other")["description"] == f"the one of {'ab'[codes[3:].index(0)]}"
    assert_in_order(index, tmp_path)


@pytest.mark.slow
def test_many_publishers_through_one_server(index, tmp_path):
    archives = {}
    for number in range(12):
        path = index.pack(index.write(f"acme/agent{number % 4}", f"1.{number}"))
        with open(path, "rb") as file:
            archives[f"/files/acme/agent{number % 4}/agent{number % 4}-1.{number}.agent"] = file.read()
    statuses = []

    def send(url, path, body):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
        connection.request("PUT", path, body, {"Authorization": f"Bearer {TOKEN}"})
        with connection.getresponse() as response:
            response.read()
            statuses.append(response.status)
        connection.close()

    with index.served(writable=True) as url:
        threads = [threading.Thread(target=send, args=(url, *each)) for each in (*archives.items(), *archives.items())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [200] * 12 + [201] * 12
    assert len(read_as_a_client(index.directory)) == 12
    assert_in_order(index, tmp_path)


@pytest.mark.slow
def test_a_reader_sees_every_state_whole(index, tmp_path):
    """While it is published to, an index is read over and over, as clients do it."""
    index.publish("acme/greeter", "1.0.0")
    archives = [index.pack(index.write("acme/greeter", f"1.0.{number}")) for number in range(1, 25)]
    done = threading.Event()
    failures = []

    def reading():
        highest = 0
        while not done.is_set():
            try:
                releases = read_as_a_client(index.directory)
                assert len(releases) >= highest
                highest = len(releases)
            except Exception as error:  # noqa: BLE001 - shown by the test
                failures.append(error)
                return

    reader = threading.Thread(target=reading)
    reader.start()
    try:
        for archive in archives:
            publish(index.index, Publication(archive, "acme", "tests"))
    finally:
        done.set()
        reader.join()
    assert failures == []
    assert_in_order(index, tmp_path)


# no room, no right -------------------------------------------------------------------------------------------------


def fill(disk, left):
    """Takes the space of a file system but for `left` bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(ballast.stat().st_size - left, 0))


def test_no_room_at_any_point_of_a_publication(tmp_path):
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        index = TestIndex(disk / "index")
        index._work = tmp_path / "sources"
        index.publish("acme/greeter", "1.0")
        archive = index.pack(index.write("acme/greeter", "1.1", description="x" * 9000))
        before = tree(index.directory)
        errors = []
        for left in range(0, 400, 4):
            fill(disk, left << 10)
            try:
                publish(index.index, Publication(archive, "acme", "tests"))
                break
            except AgentRuntimeError as error:
                errors.append((error.exit_code, error.message, error.suggestion))
            assert tree(index.directory) == before
            assert_in_order(index, tmp_path)
        assert len(errors) > 5
        for code, message, suggestion in errors:
            assert (code, "No space left on device" in message, "free some space" in suggestion) == (4, True, True)
        assert "acme/greeter 1.1" in read_as_a_client(index.directory)
        assert_in_order(index, tmp_path)


@pytest.mark.slow
def test_no_room_says_so_and_yanking_needs_little(tmp_path, hub):
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        index = TestIndex(disk / "index")
        index._work = tmp_path / "sources"
        index.publish("acme/greeter", "1.0")
        big = index.write("acme/greeter", "1.1")
        with open(os.path.join(big, "data.bin"), "wb") as file:
            file.write(os.urandom(3 << 20))
        at = ("--index", index.directory, "--owner", "acme")
        hub.fails(4, "publish", big, *at, says=("No space left on device", "free some space", str(index.directory)))
        with index.served(writable=True) as url:
            token = {"AGENTHUB_INDEX_TOKEN_127_0_0_1": TOKEN}
            words = ("publish", big, "--index", url, "--owner", "acme")
            hub.fails(4, *words, says="No space left on device", env=token)
        assert list(read_as_a_client(index.directory)) == ["acme/greeter 1.0"]
        assert_in_order(index, tmp_path)


@pytest.mark.slow
def test_a_read_only_index(tmp_path, hub):
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        index = TestIndex(disk / "index")
        index._work = tmp_path / "sources"
        index.publish("acme/greeter", "1.0")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        at = ("--index", index.directory)
        new = index.write("acme/greeter", "1.1")
        hub.fails(4, "publish", new, *at, "--owner", "acme", says=("ead-only file system", str(index.directory)))
        hub.fails(4, "yank", "acme/greeter@1.0", "why", *at, says="ead-only file system")
        hub.fails(4, "index", "build", index.directory, says="ead-only file system")
        hub.ok("index", "verify", index.directory)
        hub.install("--index", index.file_url, "acme/greeter")
        assert hub.ok("run", "greeter", "go") == "acme/greeter 1.0\n"
        with index.served(writable=True) as url:
            token = {"AGENTHUB_INDEX_TOKEN_127_0_0_1": TOKEN}
            words = ("publish", new, "--index", url, "--owner", "acme")
            hub.fails(4, *words, says="ead-only file system", env=token)


def test_another_user_s_index(index, hub):
    if os.geteuid() == 0:
        pytest.skip("nothing is closed to root")
    index.publish("acme/greeter", "1.0")
    staging = index.directory / ".agenthub" / "staging"
    staging.chmod(0o555)
    try:
        words = ("publish", index.write("acme/greeter", "1.1"), "--index", index.directory, "--owner", "acme")
        hub.fails(4, *words, says=("ermission denied", "publish as a user"))
    finally:
        staging.chmod(0o755)


# a server that is cut ----------------------------------------------------------------------------------------------


def upload_half(url, archive):
    host, _, port = url.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), PATIENCE)
    lines = [f"PUT {ARCHIVE} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", f"Content-Length: {len(archive)}"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + archive[: len(archive) // 2])
    return connection


def test_a_server_that_is_killed_in_the_middle_of_an_upload(index, hub, tmp_path):
    index.publish("acme/greeter", "1.0")
    with open(index.pack(index.write("acme/greeter", "1.1")), "rb") as file:
        archive = file.read()
    env = {"AGENTHUB_SERVE_TOKEN": TOKEN}
    process = hub.start("index", "serve", index.directory, "--port", "0", env=env)
    url = process.stdout.readline().strip()
    staging = index.directory / ".agenthub" / "staging"
    with upload_half(url, archive):
        deadline = time.monotonic() + PATIENCE
        while not list(staging.glob("*/upload")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.communicate()
    assert list(read_as_a_client(index.directory)) == ["acme/greeter 1.0"]
    assert list(staging.iterdir())
    assert_in_order(index, tmp_path, quite=False)
    index.publish("acme/greeter", "1.1")
    assert_in_order(index, tmp_path)


class CutProxy:
    """Passes connections on, and cuts the first ones: after some bytes of the request, or of the answer."""

    def __init__(self, target, cuts):
        host, _, port = target.removeprefix("http://").rpartition(":")
        self._target = (host, int(port))
        self._cuts = list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            cut = self._cuts.pop(0) if self._cuts else (None, None)
            with client, socket.create_connection(self._target) as server:
                threads = [
                    threading.Thread(target=self._pass, args=(client, server, cut[0])),
                    threading.Thread(target=self._pass, args=(server, client, cut[1])),
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

    @staticmethod
    def _pass(source, target, left):
        with contextlib.suppress(OSError):
            while data := source.recv(1024 if left is None else min(left, 1024)):
                target.sendall(data)
                left = None if left is None else left - len(data)
                if left == 0:
                    break
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.mark.parametrize(
    ("cuts", "attempts"),
    [
        ([(700, None)], 2),  # in the middle of the archive
        ([(None, 10)], 2),  # in the middle of the answer: it was published, and is not published twice
        ([(100, None), (None, 1)], 3),
    ],
    ids=["upload", "answer", "both"],
)
def test_an_upload_that_is_cut_is_tried_again(index, cli, monkeypatch, tmp_path, cuts, attempts):
    monkeypatch.setenv("AGENTHUB_INDEX_TOKEN_127_0_0_1", TOKEN)
    directory = index.write("acme/greeter", "1.1", description="x" * 3000)
    with index.served(writable=True) as url:
        proxy = CutProxy(url, cuts)
        try:
            done = cli("publish", directory, "--index", proxy.url, "--owner", "acme")
        finally:
            proxy.close()
    assert (done.code, proxy.connections) == (0, attempts), done.err
    assert list(read_as_a_client(index.directory)) == ["acme/greeter 1.1"]
    assert_in_order(index, tmp_path)


def test_an_upload_that_is_cut_again_and_again(index, cli, monkeypatch):
    monkeypatch.setenv("AGENTHUB_INDEX_TOKEN_127_0_0_1", TOKEN)
    with index.served(writable=True) as url:
        proxy = CutProxy(url, [(300, None)] * 9)
        try:
            done = cli("publish", index.write("acme/greeter"), "--index", proxy.url, "--owner", "acme")
        finally:
            proxy.close()
    assert done.code == 4
    assert "cannot publish to" in done.err
    assert read_as_a_client(index.directory) == {}


# a clock that is wrong ---------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back(index, tmp_path, monkeypatch):
    """A publisher's clock may be years behind: what it publishes is newer nevertheless."""
    index.publish("acme/greeter", "1.0")
    first = index.document("acme/greeter")["serial"]
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    index.publish("acme/greeter", "1.1")
    index.notice("acme/greeter", "1.0", yanked="why")
    assert index.document("acme/greeter")["serial"] == first + 2
    assert_in_order(index, tmp_path)


def test_a_release_that_was_published_meanwhile(index):
    """The second one finds the first one's release when its turn comes, and does not replace it."""
    index.publish("acme/greeter", "1.0")
    archive = index.pack(index.write("acme/greeter", "1.1", description="late"))
    with index.index.changing() as change:
        failures = []

        def second():
            try:
                publish(index.index, Publication(archive, "acme", "late"))
            except PermissionDeniedError as error:
                failures.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        document = index.index.document("acme", "greeter")
        earlier = document.releases["1.0"]
        change.commit(document._replace(releases={"1.0": earlier, "1.1": earlier._replace(version="1.1")}))
    thread.join()
    assert len(failures) == 1
    assert "published already" in failures[0].message
