"""Caps hold, and a kill names its cause."""

from __future__ import annotations

import os
import signal
import sys
import textwrap

import pytest
from processes_support import run_method, run_script, supervised
from test_processes_tree import CGROUPS, cgroups, no_cgroup

import agenthub
from agenthub.runtime.processes.cgroups import CgroupV2, make_cgroup
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.process_tree_psutil import PsutilTree

MB = 1 << 20
CAP = Limits(timeout=30, memory=256 * MB)
# Stays below the rlimit behind the cap: that one is another way to end.
TOUCH = "import time\nheld = []\nfor _ in range(450): held.append(bytearray(b'x') * (1 << 20))\ntime.sleep(60)"


@pytest.fixture(params=CGROUPS)
def cgroup_factory(request):
    return cgroups(request.param)


def test_one_fast_allocator_is_killed(cgroup_factory):
    completion, _ = supervised(TOUCH, CAP, cgroup_factory=cgroup_factory)
    assert completion.reason == "memory"
    assert 256 * MB <= completion.peak_memory < 500 * MB


def test_two_processes_share_the_cap(cgroup_factory):
    code = "import os, time; os.fork()\nheld = bytearray(b'x') * (200 << 20)\ntime.sleep(60)"
    completion, _ = supervised(code, CAP, cgroup_factory=cgroup_factory)
    assert completion.reason == "memory"


def test_a_killed_child_ends_the_run_although_the_agent_goes_on():
    factory = cgroups("cgroup")
    code = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {TOUCH!r}])\ntime.sleep(60)"
    completion, _ = supervised(code, CAP, cgroup_factory=factory)
    assert completion.reason == "memory"
    assert completion.wall < 20


def test_psutil_sees_the_cap_too():
    completion, _ = supervised(
        TOUCH, CAP, cgroup_factory=no_cgroup, tree_factory=lambda root, run_id, mark: PsutilTree(root, run_id)
    )
    assert completion.reason == "memory"


def test_forks_that_share_memory_do_not_count_twice():
    code = """
    import os
    held = bytearray(b'x') * (100 << 20)
    reader, writer = os.pipe()
    for _ in range(6):
        if os.fork() == 0:
            os.write(writer, b'!')
            import time
            time.sleep(0.2)
            os._exit(0)
    for _ in range(6): os.wait()
    print('{"result": 1}')
    """
    completion, exchange = supervised(code, CAP, cgroup_factory=no_cgroup)
    assert completion.reason == "exited"
    assert exchange.reply.value == 1
    assert 100 * MB < completion.peak_memory < 256 * MB


@pytest.mark.parametrize("run", [run_script, run_method])
def test_asking_for_too_much_at_once_is_a_memory_error_too(tmp_path, run):
    """The rlimit behind the cap refuses it before anything could be measured."""
    code = "class Agent:\n    def go(self): return len(bytearray(4 << 30))\nif __name__ == '__main__': Agent().go()"
    answer = run(tmp_path, code, limits=CAP)
    assert answer["error_type"] == "MemoryLimitError"
    assert answer["exit_code"] == 137
    assert answer["error"] == "probe ran out of memory: its memory cap is 256 MB"
    assert answer["suggestion"] == "more: --memory 512MB"


def test_a_memory_kill_names_figures(tmp_path):
    answer = run_script(tmp_path, TOUCH, limits=CAP)
    assert answer["error_type"] == "MemoryLimitError"
    assert "of its 256 MB memory cap after" in answer["error"]


def test_reserved_memory_is_not_used_memory(tmp_path):
    code = "import mmap; held = mmap.mmap(-1, 8 << 30, prot=0); print('{\"result\": 1}')"
    assert run_script(tmp_path, code, limits=CAP)["result"] == 1


def test_cpu_time_is_capped():
    completion, _ = supervised("while True: pass", Limits(timeout=30, cpu=0.3))
    assert completion.reason == "cpu"
    assert 0.3 <= completion.cpu < 2


def test_cpu_time_of_the_whole_tree_is_capped():
    code = "import os, time\nfor _ in range(2):\n  if os.fork() == 0:\n    while True: pass\ntime.sleep(60)"
    completion, _ = supervised(code, Limits(timeout=30, cpu=0.5))
    assert completion.reason == "cpu"


def test_processes_are_capped_by_polling():
    code = "import os, time\nfor _ in range(20):\n  if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    completion, _ = supervised(code, Limits(timeout=30, processes=8), cgroup_factory=no_cgroup)
    assert completion.reason == "processes"


def test_processes_are_capped_exactly_by_a_cgroup():
    factory = cgroups("cgroup")
    code = """
    import os, time
    started = 0
    try:
        for _ in range(20):
            if os.fork() == 0: time.sleep(60)
            started += 1
    except OSError:
        pass
    print('{"result": %d}' % started)
    """
    completion, exchange = supervised(code, Limits(timeout=30, processes=8), cgroup_factory=factory)
    assert completion.reason == "exited"
    assert exchange.reply.value == 7


def test_open_files_file_size_and_core_are_capped():
    code = """
    import json, resource
    names = "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE"
    print(json.dumps({"result": [resource.getrlimit(getattr(resource, name))[0] for name in names]}))
    """
    _, exchange = supervised(code, Limits(timeout=30, open_files=64, file_size=MB))
    assert exchange.reply.value == [64, MB, 0]


def test_no_cgroup_is_left():
    factory = cgroups("cgroup")
    made = []

    def remembered(memory, processes):
        made.append(factory(memory, processes))
        return made[-1]

    supervised("print(1)", cgroup_factory=remembered)
    assert len(made) == 1
    assert not os.path.exists(getattr(made[0], "_memory", None) or made[0]._directory)


def test_cgroups_that_an_agent_makes_inside_its_own_go_too():
    factory = cgroups("cgroup")
    inner = []
    code = """
    from agenthub.runtime.processes.cgroups import make_cgroup
    import os
    cgroup = make_cgroup(1 << 28, None)
    directory = os.path.dirname(cgroup.doors[0])
    if os.fork() == 0:
        open(cgroup.doors[0], "w").write("0")
        import time
        time.sleep(60)
    while not cgroup.members():
        pass
    print(directory, flush=True)
    """
    completion, _ = supervised(
        code,
        argv=(sys.executable, "-c", textwrap.dedent(code)),
        env={"PYTHONPATH": os.path.dirname(os.path.dirname(agenthub.__file__))},
        cgroup_factory=factory,
        on_log=lambda line, level: inner.append(line),
    )
    assert completion.status == 0
    assert len(inner) == 1
    assert not os.path.exists(os.path.dirname(inner[0]))


def test_a_cgroup_that_cannot_be_entered_is_done_without():
    class Closed:
        doors = ("/no/such/cgroup/tasks",)
        removed = False

        def members(self):
            return []

        def kill(self):
            pass

        def oom_killed(self):
            return False

        def remove(self):
            self.removed = True

    closed = Closed()
    lines = []
    completion, _ = supervised(
        TOUCH, CAP, cgroup_factory=lambda memory, processes: closed, on_log=lambda line, level: lines.append(line)
    )
    assert completion.reason == "memory"
    assert closed.removed
    assert lines == []


def test_leftovers_of_a_killed_supervisor_are_swept():
    factory = cgroups("cgroup")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        left = make_cgroup(256 * MB, None)
        os.write(writer, (getattr(left, "_memory", None) or left._directory).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    directory = os.read(reader, 4096)
    os.close(reader)
    os.close(writer)
    assert os.path.isdir(directory)
    supervised("pass", cgroup_factory=factory)
    assert not os.path.exists(directory)


def test_cgroup_v2_files(tmp_path):
    """Only the files: this is about what is written where."""
    cgroup = CgroupV2(str(tmp_path), 256 * MB, 8)
    (directory,) = tmp_path.iterdir()
    for name in ("memory.swap.max", "memory.oom.group", "pids.max", "cgroup.kill"):
        (directory / name).write_text("")
    (directory / "cgroup.procs").write_text("12\n13\n")
    (directory / "memory.events").write_text("oom 2\noom_kill 1\n")
    assert (directory / "memory.max").read_text() == str(256 * MB)
    assert cgroup.members() == [12, 13]
    assert cgroup.oom_killed()
    cgroup.kill()
    assert (directory / "cgroup.kill").read_text() == "1"
