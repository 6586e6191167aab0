"""However a confined run ends, nothing of it is left; and its ends are told as without a sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from sandbox_support import BUBBLEWRAP, LANDLOCK, RLIMITS, USERS, Place

from agenthub.runtime.processes import scratch
from agenthub.runtime.processes.remains import end_remains

PLACES = [(tier, user) for tier in (BUBBLEWRAP, LANDLOCK, RLIMITS) for user in USERS]
CONFINED = PLACES[: 2 * len(USERS)]
MB = 1 << 20
# A daemon that wants to be forgotten: own session, no environment, no parent, other limits.
_HIDE = """
import json, os, resource, sys, time
given = json.loads(sys.argv[1])["parameters"]
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        try: resource.setrlimit(resource.RLIMIT_RTTIME, (1 << 40, 1 << 40))
        except (OSError, ValueError): pass
        os.write(writer, b"!")
        os.close(0); os.close(1); os.close(2)
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(300) #" + given["marker"]], {})
    os._exit(0)
os.wait()
os.read(reader, 1)
"""
_CHASERS = """
import os, sys, time
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork(): os._exit(0)
"""


def _made(request):
    tier, user = request.param
    made = Place(user)
    made.tier = tier
    made.marker = f"m{os.urandom(6).hex()}"
    return made


@pytest.fixture(params=PLACES, ids="-".join)
def place(request):
    made = _made(request)
    yield made
    made.remove()


@pytest.fixture(params=CONFINED, ids="-".join)
def confined(request):
    made = _made(request)
    yield made
    made.remove()


def living(marker):
    """The processes whose arguments hold a marker; also those that hide everything else."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read()
            with open(f"/proc/{name}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if marker.encode() in words and state not in "ZX":
            found.append(int(name))
    return found


def test_a_hidden_daemon_ends_with_the_run(place):
    code = _HIDE + "print(json.dumps({'result': 1}))"
    assert place.run(code, place.tier, parameters={"marker": place.marker})["result"] == 1
    assert living(place.marker) == []


def test_a_hidden_daemon_ends_with_a_killed_run(place):
    code = _HIDE + "time.sleep(60)"
    answer = place.run(code, place.tier, parameters={"marker": place.marker}, limits={"timeout": 1})
    assert answer["error_type"] == "TimeoutError"
    assert living(place.marker) == []


def test_processes_that_fork_away_are_all_killed(confined):
    """As root Landlock's domain is not killed as one; a cgroup is, which root can make."""
    answer = confined.run(
        _CHASERS + "time.sleep(60)",
        confined.tier,
        argv=[confined.python, "agent.py", confined.marker],
        limits={"timeout": 1, "memory": 512 * MB},
        cgroup=confined.user == "root",
    )
    assert answer["error_type"] == "TimeoutError"
    assert not answer["completion"]["survivors"]
    assert living(confined.marker) == []


def test_it_is_asked_before_it_is_killed(place):
    code = """
    import signal, sys, time
    def end(*_):
        print("tidied up", flush=True)
        sys.exit(3)
    signal.signal(signal.SIGTERM, end)
    time.sleep(60)
    """
    answer = place.run(code, place.tier, limits={"timeout": 1})
    assert answer["error_type"] == "TimeoutError"
    assert "tidied up" in answer["log"]


@pytest.mark.parametrize(
    ("end", "status", "number"),
    [("sys.exit(3)", 3, None), ("os.abort()", None, signal.SIGABRT), ("os.kill(os.getpid(), 9)", None, signal.SIGKILL)],
)
def test_exit_status_and_signals_are_told(place, end, status, number):
    completion = place.run(f"import os, sys\n{end}", place.tier)["completion"]
    assert (completion["status"], completion["signal"]) == (status, number)


def test_use_is_told(place):
    code = """
    import json, os, time
    held = bytearray(b"x") * (100 << 20)
    if os.fork() == 0:
        while time.process_time() < 0.3: pass
        os._exit(0)
    os.wait()
    with open(os.environ["HOME"] + "/file", "wb") as file: file.write(bytes(3 << 20))
    print(json.dumps({"result": 1}))
    """
    completion = place.run(code, place.tier)["completion"]
    assert 100 * MB < completion["peak_memory"] < 180 * MB
    assert 0.3 <= completion["cpu"] < 3
    assert 3 * MB <= completion["disk"] < 4 * MB
    assert completion["peak_tasks"] == 2


@pytest.mark.parametrize(
    ("limits", "code", "error_type", "words"),
    [
        (
            {"memory": 128 * MB},
            "held = [bytearray(b'x') * (1 << 20) for _ in range(1024)]",
            "MemoryLimitError",
            "128 MB",
        ),
        ({"cpu": 0.5}, "while True: pass", "CpuLimitError", "0.5 s"),
        ({"open_files": 20}, "held = [open('/dev/null') for _ in range(30)]", "OpenFilesLimitError", "20 open files"),
        ({"file_size": MB}, "open('big', 'wb').write(bytes(2 << 20))", "FileSizeLimitError", "1 MB"),
        (
            {"disk": 8 * MB},
            "for n in range(64): open(f'part{n}', 'wb').write(bytes(1 << 20)); time.sleep(0.02)",
            "DiskLimitError",
            "8 MB",
        ),
        (
            {"disk": 8 * MB},
            "held = []\nfor n in range(64):\n"
            "    held.append(open('gone', 'wb')); os.unlink('gone')\n"
            "    held[-1].write(bytes(1 << 20)); held[-1].flush(); time.sleep(0.02)",
            "DiskLimitError",
            "8 MB",
        ),
        (
            {"processes": 6},
            "for _ in range(20):\n    if os.fork() == 0: time.sleep(60)\ntime.sleep(60)",
            "ProcessLimitError",
            "6 processes",
        ),
    ],
)
def test_limits_name_themselves(place, limits, code, error_type, words):
    code = f"import os, time\nos.chdir(os.environ['HOME'])\n{code}\ntime.sleep(60)"
    answer = place.run(code, place.tier, limits=limits)
    assert answer["error_type"] == error_type, answer
    assert words in answer["error"]


def test_the_process_cap_is_exact_in_a_user_namespace_of_its_own():
    place = Place("ordinary")
    try:
        code = """
        import json, os, time
        started = 0
        try:
            for _ in range(20):
                if os.fork() == 0: time.sleep(60)
                started += 1
        except OSError:
            pass
        print(json.dumps({"result": started}))
        """
        assert place.run(code, BUBBLEWRAP, limits={"processes": 8})["result"] == 7
    finally:
        place.remove()


def _wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def abandoned(place):
    """A run whose supervisor was killed in the middle of it."""
    base = place.directory("base")
    os.chmod(base, 0o700)
    place.scratch = place.directory("base/run")
    code = "import sys, time; time.sleep(300)"
    order = place.order(
        code,
        place.tier,
        argv=[place.python, "agent.py", place.marker],
        record=f"{place.scratch}.run",
    )
    driver = subprocess.Popen(place.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=place.path)
    driver.stdin.write(order)
    driver.stdin.flush()
    _wait(lambda: len(living(place.marker)) >= 1 and _gate_is_open(place.marker))
    driver.kill()
    driver.communicate()
    yield place, base
    for pid in living(place.marker):
        os.kill(pid, signal.SIGKILL)


def _gate_is_open(marker):
    for pid in living(marker):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"python" in file.read().split(b"\0")[0]:
                return True
    return False


def test_the_next_command_ends_what_a_killed_supervisor_left(abandoned):
    place, base = abandoned
    if place.tier == BUBBLEWRAP:  # nothing waits for a next command
        _wait(lambda: living(place.marker) == [])
    else:
        assert living(place.marker) != []
    code = f"import sys; sys.path.insert(0, {place.path + '/package'!r})\n"
    code += "from agenthub.runtime.processes.scratch import _sweep_sometimes as sweep\n"
    code += f"open({base + '/.swept'!r}, 'w').close(); sweep({base!r}, 1e9)"  # as any run does that comes at once
    assert place.start((place.python, "-c", code)).wait() == 0
    assert living(place.marker) == []
    assert os.listdir(base) == [".swept"]


def test_a_record_of_another_boot_or_a_reused_number_ends_nobody(tmp_path):
    canary = subprocess.Popen(("sleep", "60"), start_new_session=True)
    try:
        path = tmp_path / "run.run"
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        namespace = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
        for text in (f"other/{namespace} {canary.pid} 0 0 x", f"{boot}/{namespace} {canary.pid} 1 0 x"):
            path.write_text(text)
            assert end_remains(str(path))
            assert canary.poll() is None
            assert not path.exists()
    finally:
        canary.kill()
        canary.wait()


def test_a_scratch_directory_leaves_no_record(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with scratch.scratch_directory("run") as made:
        (tmp_path / "x").touch()
        assert os.path.isdir(made)
    assert not os.path.exists(f"{made}.run")
