"""What goes wrong around a worker costs a run nothing but time, and no run is carried out twice."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import socket
import threading
import time

import pytest

from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.runs.plan import RunOptions
from agenthub.runtime.workers.control import Upkeep, stop_worker, worker_directory
from tests.integration.warm_support import (
    BUBBLEWRAP,
    OBEDIENT,
    RLIMITS,
    SCRIPT,
    TIERS,
    Slow,
    Warm,
    environment,
    result_of,
    unavailable,
)
from tests.support import method, start, wait_until


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("faults"))
    made = {}
    return lambda tier: made.setdefault(tier, Warm(path, tier))


@pytest.fixture(params=[TIERS[0], *(pytest.param(tier, marks=pytest.mark.slow) for tier in TIERS[1:])])
def warm(request, benches, monkeypatch):
    if reason := unavailable(request.param):
        pytest.skip(reason)
    with environment(monkeypatch, benches(request.param)) as found:
        yield found
        found.close()


@pytest.fixture
def counted(warm, tmp_path):
    """An agent whose method leaves a line in a file each time it is carried out, after a while or at once."""
    log = tmp_path / "log"
    log.write_text("")
    code = OBEDIENT + (
        "    def count(self, word, wait=0.0):\n"
        f"        with open({str(log)!r}, 'a') as file: file.write(word + '\\n')\n"
        "        print('begun', file=sys.stderr, flush=True)\n"
        "        import time; time.sleep(wait); return word\n"
    )
    number = {"type": "number", "default": 0.0}
    methods = {"do": method(code="string"), "go": method(), "count": method(word="string", wait=number)}
    agent = warm.agent(code, methods, permissions={"write": [str(log)]})
    return agent, lambda: log.read_text().split()


def place_of(warm, agent):
    return worker_directory(warm.runtime.settings.paths, warm.runtime.locate(agent))


def warm_again(warm, agent):
    wait_until(lambda: warm.do(agent, "")["warm"], None, "it is loaded anew")


# killed -------------------------------------------------------------------------------------------------------------


def test_killed_while_idle(warm):
    agent = warm.agent()
    os.kill(warm.loaded(warm.warm(agent)), signal.SIGKILL)
    assert warm.do(agent, "")["warm"] is False
    warm.warm(agent)  # it ended, or was loaded anew where the run came before that was noticed
    warm_again(warm, agent)


def fork_and_kill(warm, agent, carried_out, rounds):
    """Kills the loaded process at some moment of a run; a run happens once, or fails and says so."""
    failed = 0
    for number in range(rounds):
        worker = next(iter(warm.workers(agent)), None) or warm.warm(agent)
        try:
            victim = warm.loaded(worker)
        except (StopIteration, IndexError):  # it is just being loaded anew
            continue
        word = f"{number}"
        killer = threading.Timer(random.uniform(0.0, 0.03), lambda pid=victim: _kill(pid))
        killer.start()
        envelope = warm.run(agent, "count", word=word, wait=random.choice((0.0, 0.01)))
        killer.join()
        times = carried_out().count(word)
        if "error" in envelope:
            failed += 1
            assert envelope["error_type"] == "ExecutionError", envelope
            assert times <= 1, envelope
        else:
            assert envelope["result"] == word
            assert times == 1
        assert "usage" not in envelope or envelope["usage"]["isolation"] == warm.tier
    return failed


def _kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_killed_at_any_moment(warm, counted):
    fork_and_kill(warm, *counted, rounds=6)


@pytest.mark.slow
def test_killed_at_many_moments(warm, counted):
    fork_and_kill(warm, *counted, rounds=60)


@pytest.mark.parametrize("victim", ["loaded", "keeper"])
def test_killed_in_the_middle_of_a_run(warm, counted, victim):
    agent, carried_out = counted
    worker = warm.warm(agent)
    begun = threading.Event()
    options = RunOptions(on_log=lambda line, level: begun.set() if line == "begun" else None)
    envelope = {}
    thread = threading.Thread(target=lambda: envelope.update(warm.run(agent, "count", options, word="x", wait=60.0)))
    thread.start()
    assert begun.wait(20)
    os.kill(warm.loaded(worker) if victim == "loaded" else worker.pid, signal.SIGKILL)
    thread.join(20)
    assert envelope["error_type"] == "ExecutionError", envelope
    assert "killed" in envelope["error"]
    assert carried_out() == ["x"], "it may have done something, and is not done again"
    if victim == "keeper" and warm.tier == BUBBLEWRAP:
        wait_until(lambda: not warm.leftovers(), None, "the sandbox ends with its keeper")
    assert warm.do(agent, "")["warm"] in (False, True)
    if victim == "keeper":
        wait_until(lambda: not warm.leftovers(), None, "the next command ends what it left")
        assert os.listdir(place_of(warm, agent)), "stale files, which disturb nobody"
        wait_until(lambda: not warm.workers(agent), None, "its locks are free")
    warm.warm(agent)
    warm_again(warm, agent)


def test_the_keeper_is_killed_while_idle(warm):
    agent = warm.agent()
    os.kill(warm.warm(agent).pid, signal.SIGKILL)
    wait_until(lambda: not warm.leftovers(), None, "the loaded process ends by itself")
    wait_until(lambda: not warm.workers(agent), None, "its locks are free")
    assert warm.do(agent, "")["warm"] is False
    warm.warm(agent)
    assert warm.do(agent, "")["warm"] is True


def test_stopped_in_the_middle_of_a_run(warm):
    agent = warm.agent()
    worker = warm.warm(agent)
    slow = Slow(warm, agent)
    stop_worker(worker, 20.0)
    assert slow.wait()["error_type"] == "InterruptedError"
    assert warm.workers(agent) == []


def test_a_worker_that_does_not_answer(warm, monkeypatch):
    monkeypatch.setattr("agenthub.runtime.workers.client._READY_TIMEOUT", 0.2)
    agent = warm.agent()
    worker = warm.warm(agent)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        assert warm.do(agent, "")["warm"] is False
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    warm_again(warm, agent)


def test_the_client_is_killed(warm, tmp_path):
    agent = warm.agent()
    warm.warm(agent)
    code = "import sys, time; print('begun', file=sys.stderr, flush=True); time.sleep(77.125)"
    process = start("run", "--yes", agent, "do", "--code", code, env={**os.environ, **warm.environment})
    assert process.stderr is not None
    lines = iter(process.stderr.readline, b"")
    assert any(b"begun" in line for line in lines)
    before = len(warm.leftovers())
    process.kill()
    process.communicate()
    wait_until(lambda: len(warm.leftovers()) < before, None, "the run is stopped")
    warm_again(warm, agent)


def test_ctrl_c(warm):
    agent = warm.agent()
    warm.warm(agent)
    code = "import sys, time; print('begun', file=sys.stderr, flush=True); time.sleep(60)"
    process = start("run", "--yes", agent, "do", "--code", code, env={**os.environ, **warm.environment})
    assert process.stderr is not None
    assert any(b"begun" in line for line in iter(process.stderr.readline, b""))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    warm_again(warm, agent)


def test_a_run_that_was_cancelled_before(warm):
    agent = warm.agent()
    warm.warm(agent)
    with Cancellation() as cancellation:
        cancellation.cancel()
        envelope = warm.run(agent, "do", RunOptions(cancellation=cancellation), code="import time; time.sleep(60)")
    assert envelope["error_type"] == "InterruptedError"


def test_a_listener_that_fails_stops_the_run_and_it_is_not_done_again(warm, counted):
    agent, carried_out = counted
    warm.warm(agent)

    def refuse(line, level):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        warm.run(agent, "count", RunOptions(on_log=refuse), word="once", wait=60.0)
    assert carried_out() == ["once"]


# what a run does to its worker --------------------------------------------------------------------------------------

ATTACKS = {
    "kills its parent": "import os; os.kill(os.getppid(), 9)\nimport time; time.sleep(60)",
    "kills its parent's group": "import os; os.kill(os.getppid(), 15); os.killpg(os.getppid(), 9)",
    "stops its parent": "import os; os.kill(os.getppid(), 19)",
}


@pytest.mark.parametrize("attack", [*list(ATTACKS)[:2], pytest.param("stops its parent", marks=pytest.mark.slow)])
def test_a_run_that_attacks_its_parent_harms_itself(warm, attack):
    agent = warm.agent(limits={"timeout": 5})
    warm.warm(agent)
    envelope = warm.run(agent, "do", code=ATTACKS[attack])
    assert "error" in envelope or attack != "kills its parent"
    if warm.tier == RLIMITS:  # it has the user's rights: once its parent is gone, it may end its keeper as well
        warm.warm(agent)
    warm_again(warm, agent)


@pytest.mark.parametrize(
    "attempt",
    [
        "import ctypes; value = ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
        "value = open(f'/proc/{os.getppid()}/mem', 'r+b')",
        "value = os.readlink(f'/proc/{os.getppid()}/fd/0')",
        "value = open(f'/proc/{os.getppid()}/oom_score_adj', 'w').write('999')",
    ],
)
def test_the_loaded_process_is_out_of_reach(warm, attempt):
    if warm.tier == RLIMITS:
        pytest.skip("nothing is promised without a sandbox")
    agent = warm.agent()
    warm.warm(agent)
    code = f"import os\ntry:\n    {attempt}\nexcept OSError: value = -1\nelse: value = 0 if value != -1 else -1"
    assert warm.do(agent, code) | {"boot": ""} == {"warm": True, "boot": "", "value": -1}


def test_links_in_the_place_of_directories_lead_nowhere(warm, tmp_path):
    """Whoever empties a worker's directories does so outside of the sandbox, with the user's rights."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    agent = warm.agent()
    warm.warm(agent)
    warm.do(agent, "")
    code = f"""
import os
value = []
for place in ("/tmp", "/dev/shm", os.path.expanduser("~"), os.path.dirname(os.path.expanduser("~"))):
    for name in os.listdir(place) if os.path.isdir(place) else ():
        if place == "/tmp" and not os.path.expanduser("~").startswith("/tmp/" + name):
            continue
        try:
            os.rename(place + "/" + name, place + "/moved-" + name)
            os.symlink({str(victim)!r}, place + "/" + name)
            value.append(name)
        except OSError:
            pass
os.chdir("/")
for name in ("x", "y"):
    try:
        os.symlink({str(victim)!r}, os.path.expanduser("~/" + name))
    except OSError:
        pass
"""
    if warm.tier != BUBBLEWRAP:
        code = code[code.index("os.chdir") :].replace("os.chdir", "import os\nos.chdir", 1)
    served = warm.do(agent, code)
    assert served["warm"] is True
    if warm.tier == BUBBLEWRAP:
        assert served["value"], "a directory that holds a mount could be renamed"
    warm_again(warm, agent)
    assert (victim / "precious").read_text() == "x"
    assert warm.do(agent, "import os; value = os.listdir(os.path.expanduser('~'))")["value"] == []


def test_processes_that_hide(warm):
    agent = warm.agent()
    warm.warm(agent)
    code = """
import os, sys, subprocess
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(78.5)"], {})
"""
    assert warm.do(agent, code)["warm"] is True
    wait_until(lambda: not _running(b"time.sleep(78.5)"), None, "they end with the run")
    warm_again(warm, agent)


def _running(words):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if words in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue
    return found


# limits -------------------------------------------------------------------------------------------------------------

WRITE = """
import os, time
for number in range({count}):
    with open(os.path.expanduser(f"~/{{number}}"), "wb") as file:
        file.write(bytes({size}))
time.sleep(60)
"""
THREADS = """
import threading
for _ in range(40):
    threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()
threading.Event().wait(60)
"""
LIMITS = {
    "timeout": (0.3, "TimeoutError", "import time; time.sleep(60)"),
    "memory": ("128MB", "MemoryLimitError", "x = bytearray(300 << 20)\nimport time; time.sleep(60)"),
    "cpu": (1, "CpuLimitError", "while True: pass"),
    "processes": (6, "ProcessLimitError", THREADS),
    "output": ("1MB", "OutputLimitError", "while True: print('x' * 1000)"),
    "disk": ("1MB", "DiskLimitError", WRITE.format(count=60, size=100_000)),
    "file_size": ("1MB", "FileSizeLimitError", WRITE.format(count=1, size=2 << 20)),
    "open_files": (40, "OpenFilesLimitError", "x = [open('/dev/null') for _ in range(60)]"),
}


_QUICK = ("timeout", "memory", "disk")


@pytest.mark.parametrize(
    "limit", [pytest.param(limit, marks=() if limit in _QUICK else pytest.mark.slow) for limit in LIMITS]
)
@pytest.mark.parametrize("contract", ["method", pytest.param("script", marks=pytest.mark.slow)])
def test_limits_are_those_of_a_cold_run(warm, contract, limit):
    value, kind, code = LIMITS[limit]
    manifest = {"limits": {"timeout": 15, limit: value}}
    agent = warm.agent(SCRIPT, entrypoint=None, **manifest) if contract == "script" else warm.agent(**manifest)
    cold = warm.run(agent, "do", code=code)
    warm.warm(agent)
    assert warm.do(agent, "")["warm"] is True
    served = warm.run(agent, "do", code=code)
    assert cold["error_type"] == served["error_type"] == kind, (cold, served)
    assert served["exit_code"] == cold["exit_code"]
    assert served["usage"]["isolation"] == warm.tier
    warm_again(warm, agent)


# what comes out -----------------------------------------------------------------------------------------------------


def test_results_are_those_of_a_cold_run(warm, monkeypatch):
    monkeypatch.setenv("API_KEY", "sk-very-secret-value")
    code = OBEDIENT + (
        "    def plot(self):\n"
        "        open('p.png', 'wb').write(bytes(range(256))); return 'p.png'\n"
        "    def large(self, size):\n        return 'x' * size\n"
        "    def talk(self):\n"
        "        from agenthub_agent import log, progress\n"
        "        progress(0.5, 'half'); log('low', 'debug'); print('key', os.environ['API_KEY'])\n"
        "        return os.environ['API_KEY']\n"
        "    def fail(self):\n        raise KeyError('gone')\n"
    )
    methods = {
        **{name: method() for name in ("go", "talk", "fail")},
        "large": method(size="integer"),
        "do": method(code="string"),
        "stream": method(count="integer"),
        "plot": {**method(), "returns": {"type": "file", "media_type": "image/png"}},
    }
    agent = warm.agent(code, methods, environment={"secret": {"API_KEY": "of the service"}})

    def told(name, **inputs):
        heard = []
        options = RunOptions(
            on_log=lambda line, level: heard.append(("log", line, level)),
            on_chunk=lambda chunk: heard.append(("chunk", chunk)),
            on_progress=lambda fraction, words: heard.append(("progress", fraction, words)),
        )
        envelope = warm.run(agent, name, options, **inputs)
        kept = ("result", "error", "error_type", "exit_code", "chunks", "masked", "warnings", "details")
        return {key: envelope[key] for key in kept if key in envelope}, heard

    calls = (("plot", {}), ("talk", {}), ("fail", {}), ("stream", {"count": 300}), ("large", {"size": 3 << 20}))
    cold = [told(name, **inputs) for name, inputs in calls]
    worker = warm.warm(agent)
    served = [told(name, **inputs) for name, inputs in calls]
    assert warm.do(agent, "")["warm"] is True
    assert [worker.pid] == [one.pid for one in warm.workers(agent)]
    for before, after in zip(cold, served, strict=True):
        assert _without_numbers(before) == _without_numbers(after)
    assert base64.b64decode(served[0][0]["result"]["data"]) == bytes(range(256))
    assert len(served[4][0]["result"]) == 3 << 20
    assert [chunk for kind, chunk in served[3][1] if kind == "chunk"] == list(range(300))
    assert "very-secret" not in json.dumps(served[1])


@pytest.mark.slow
def test_a_result_of_64_mib(warm):
    agent = warm.agent()
    warm.warm(agent)
    assert len(warm.do(agent, "value = 'x' * (64 << 20)")["value"]) == 64 << 20
    assert len(warm.workers(agent)) == 1


def _without_numbers(told):
    envelope, heard = told
    return {**envelope, "details": None}, heard


@pytest.mark.slow
def test_a_slow_reader_slows_the_agent(warm):
    agent = warm.agent(
        OBEDIENT + "    def flood(self):\n        for n in range(400):\n            yield 'x' * 100000\n",
        {"do": method(code="string"), "go": method(), "flood": method()},
    )
    worker = warm.warm(agent)
    peak, seen = [0], []

    def slow(chunk):
        seen.append(len(chunk))
        if len(seen) % 50 == 0:
            with open(f"/proc/{worker.pid}/status") as file:
                peak[0] = max(peak[0], next(int(line.split()[1]) for line in file if line.startswith("VmRSS")))
            time.sleep(0.02)

    envelope = warm.run(agent, "flood", RunOptions(on_chunk=slow))
    assert envelope["exit_code"] == 0, envelope
    assert len(seen) == 400
    assert peak[0] < 100_000, "40 MB went through it"


def test_refused_hosts_are_named(warm):
    if warm.tier == RLIMITS:
        pytest.skip("nothing is promised without a sandbox")
    code = "import urllib.request; urllib.request.urlopen('http://refused.example.org/')"
    agent = warm.agent(permissions={"network": ["allowed.example.org"]})
    warm.warm(agent)
    assert warm.do(agent, "")["warm"] is True
    for _ in range(2):
        done = warm.command("run", "--yes", "--json", agent, "do", "--code", code)
        assert done.code == 5, done
        assert done.json["error_type"] == "PermissionDeniedError"
        assert "refused.example.org" in done.json["error"]
        assert "times" not in done.json["error"], "those of the run before are not counted"
    assert len(warm.workers(agent)) == 1


# the socket ---------------------------------------------------------------------------------------------------------


def test_the_socket_is_the_owners_alone(warm):
    agent = warm.agent()
    warm.warm(agent)
    place = place_of(warm, agent)
    assert os.stat(place).st_mode & 0o777 == 0o700
    for name in os.listdir(place):
        assert os.stat(os.path.join(place, name)).st_mode & 0o077 == 0 or name.endswith(".json")
    assert os.stat(os.path.join(place, "0.sock")).st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
@pytest.mark.parametrize("side", ["listens", "asks"])
def test_another_user_is_not_spoken_to(warm, side, monkeypatch):
    agent = warm.agent()
    worker = warm.warm(agent)
    place = place_of(warm, agent)
    monkeypatch.chdir(os.path.dirname(place))
    short = os.path.join(os.path.basename(place), "0.sock")  # an address has 107 bytes
    if side == "asks":
        asked = socket.socket(socket.AF_UNIX)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                asked.connect(short)
        finally:
            os.seteuid(0)
        folder = os.open(place, os.O_RDONLY)
        os.chmod(os.path.join(place, "0.sock"), 0o666)
        pid = os.fork()
        if pid == 0:  # even so
            os.setuid(65534)
            try:
                asked.connect(f"/proc/self/fd/{folder}/0.sock")
                asked.sendall(b'{"check": {}}\n')
                os._exit(0 if asked.recv(100) == b"" else 1)
            except OSError:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        os.close(folder)
        asked.close()
        assert [one.pid for one in warm.workers(agent)] == [worker.pid]
        assert warm.do(agent, "")["warm"] is True
        return
    path = os.path.join(place, "0.sock")
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(short)
        pid = os.fork()
        if pid == 0:
            os.setuid(65534)
            listener.listen(5)
            connection, _ = listener.accept()
            connection.settimeout(5)
            try:
                os._exit(1 if connection.recv(1) else 0)
            except OSError:
                os._exit(0)
        wait_until(lambda: _listens(short), None, "it listens")
        assert warm.do(agent, "")["warm"] is False
        assert os.waitpid(pid, 0)[1] == 0, "nothing was sent to it"


def _listens(path):
    with open("/proc/net/unix") as file:
        return any(line.split()[-1] == path and line.split()[3] == "00010000" for line in file)


def test_garbage_in_the_directory(warm):
    agent = warm.agent()
    warm.warm(agent)
    place = place_of(warm, agent)
    for name in ("1.lock", "1.owner", "1.sock", "1.json", "x.sock", "2.json"):
        with open(os.path.join(place, name), "w") as file:
            file.write("{nonsense")
    assert warm.do(agent, "")["warm"] is True
    assert len(warm.workers(agent)) == 1
    assert warm.command("ps").code == 0
    warm.warm(agent, number=1)
    assert len(warm.workers(agent)) == 2


def test_nonsense_on_the_socket(warm, monkeypatch):
    agent = warm.agent()
    worker = warm.warm(agent)
    monkeypatch.chdir(place_of(warm, agent))
    for words in (
        b"",
        b"{",
        b"[]\n",
        b'{"order": 1}\n',
        b'{"check": 1, "idle": "x"',
        b"\xff\xfe\n",
        b"[" * 100000 + b"\n",
    ):
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect("0.sock")
            asked.sendall(words)
    assert warm.do(agent, "")["warm"] is True
    assert [one.pid for one in warm.workers(agent)] == [worker.pid]


def test_files_that_are_removed_under_it(warm):
    agent = warm.agent()
    warm.warm(agent, upkeep=Upkeep(look=0.05))
    place = place_of(warm, agent)
    for name in os.listdir(place):
        os.unlink(os.path.join(place, name))
    wait_until(lambda: not warm.leftovers(), None, "nobody can reach it, and it ends")
    assert result_of(warm.command("run", "--yes", "--json", agent, "go"))["warm"] is False
