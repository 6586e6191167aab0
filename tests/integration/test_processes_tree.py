"""Nobody survives a run, and nobody else is touched."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
from processes_support import held_by_someone, own_children, supervised

from agenthub.runtime.process_manager import ProcessManager
from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.processes.cgroups import make_cgroup
from agenthub.runtime.processes.process_tree import ProcTree, open_tree
from agenthub.runtime.processes.process_tree_psutil import PsutilTree


def no_cgroup(memory, processes):
    return None


CGROUPS = {"cgroup": make_cgroup, "polling": no_cgroup}

# Each opens the fifo for writing, and lives on after the agent's first process has ended.
SURVIVORS = {
    "child": "hold()",
    "own session": "os.setsid(); hold()",
    "double fork": "os.setsid(); os.fork() and os._exit(0); hold()",
    "empty environment": "os.setsid(); os.fork() and os._exit(0); hold({})",
    "ignores SIGTERM": "signal.signal(15, signal.SIG_IGN); hold()",
}

CODE = """
import os, signal, sys
def hold(env=os.environ):
    writer = os.open(sys.argv[1], os.O_WRONLY)
    os.set_inheritable(writer, True)
    os.write(ready, b"!")
    os.execve(sys.executable, [sys.executable, "-I", "-c", "import time; time.sleep(60)"], env)
wait, ready = os.pipe()
if os.fork() == 0:
    {survivor}
os.read(wait, 1)
print('{{"result": 1}}', flush=True)
{end}
"""


@pytest.fixture(params=CGROUPS)
def cgroup_factory(request):
    return cgroups(request.param)


def cgroups(name):
    if name == "cgroup":
        cgroup = make_cgroup(1 << 30, None)
        if cgroup is None:
            pytest.skip("no cgroup can be made here")
        cgroup.remove()
    return CGROUPS[name]


@pytest.mark.parametrize("survivor", SURVIVORS)
@pytest.mark.parametrize(
    "end", ["", "print('begun', flush=True); import time; time.sleep(60)"], ids=["exits", "is stopped"]
)
def test_no_survivor(tmp_path, survivor, end, cgroup_factory):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    before = own_children()
    code = CODE.format(survivor=SURVIVORS[survivor], end=end)
    argv = (sys.executable, "-I", "-c", code, str(fifo))
    with Cancellation() as cancellation:
        completion, exchange = supervised(
            "",
            argv=argv,
            cgroup_factory=cgroup_factory,
            cancellations=(cancellation,),
            on_log=lambda line, level: cancellation.cancel(),
        )
    try:
        assert completion.reason == ("cancelled" if end else "exited")
        assert exchange.reply.value == 1
        assert not held_by_someone(fifo)
        assert own_children() == before
        assert not completion.survivors
    finally:
        os.close(reader)


@pytest.mark.parametrize("survivor", ["child", "own session", "double fork"])
def test_no_survivor_with_psutil(tmp_path, survivor):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    argv = (sys.executable, "-I", "-c", CODE.format(survivor=SURVIVORS[survivor], end=""), str(fifo))
    supervised(
        "",
        argv=argv,
        cgroup_factory=no_cgroup,
        tree_factory=lambda root, run_id, mark: PsutilTree(root, run_id),
    )
    assert not held_by_someone(fifo)
    os.close(reader)


def test_fork_chasers_do_not_escape(cgroup_factory):
    code = """
    import os, time
    for _ in range(4):
        if os.fork() == 0:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                if os.fork():
                    os._exit(0)
                os.setsid()
    print('{"result": 1}', flush=True)
    """
    before = own_children()
    completion, _ = supervised(code, cgroup_factory=cgroup_factory)
    assert not completion.survivors
    assert set(own_children()) <= set(before)  # an orphan of an earlier test may end meanwhile


def test_children_of_the_embedding_program_are_not_touched():
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    try:
        supervised("import os; os.fork() or os.execlp('sleep', 'sleep', '60')")
        assert other.poll() is None
        assert ended.wait() == 0
    finally:
        other.kill()
        other.wait()


def test_orphans_of_the_embedding_program_are_not_touched():
    """One that is adopted during a run, since this process adopts whatever descends from it."""
    code = "import os\nif os.fork() == 0:\n os.setsid(); os.execlp('sleep', 'sleep', '60')"
    orphans = []

    def make_orphan(line, level):
        before = set(own_children())
        subprocess.run([sys.executable, "-I", "-c", code], check=True)
        orphans.extend(set(own_children()) - before)

    supervised("import time; print('begun', flush=True); time.sleep(0.1)", on_log=make_orphan)
    assert len(orphans) == 1
    assert ProcessManager().is_process_running(int(orphans[0]))
    os.kill(int(orphans[0]), 9)
    os.waitpid(int(orphans[0]), 0)


def test_a_run_that_ends_while_another_starts_does_not_take_it_for_its_own():
    def open_late(root, run_id, mark):
        assert supervised("print('the other')")[0].status == 0
        return open_tree(root, run_id, mark)

    completion, _ = supervised("print('this one')", tree_factory=open_late)
    assert (completion.status, completion.log) == (0, ("this one",))


def test_being_a_subreaper_ends_with_the_run():
    def is_subreaper():
        value = ctypes.c_int()
        ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0)
        return value.value

    seen = []
    supervised("print(1)", on_log=lambda line, level: seen.append(is_subreaper()))
    assert (seen, is_subreaper()) == ([1], 0)


def test_a_zombie_is_not_running():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    manager = ProcessManager()
    assert not manager.is_process_running(child.pid)
    child.wait()
    assert manager.is_process_running(os.getpid())
    assert not manager.is_process_running(child.pid)
    assert not manager.is_process_running(-1)


@pytest.mark.parametrize("listed", [True, False], ids=["children", "scan"])
def test_both_ways_to_find_children_agree_with_psutil(listed):
    code = "import os; os.fork(); print(flush=True); import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.read(2) == b"\n\n"
    tree = open_tree(child.pid, "", None)
    assert isinstance(tree, ProcTree)
    tree._listed = listed
    try:
        ours = {member.pid: member for member in tree.scan()}
        theirs = {member.pid: member for member in PsutilTree(child.pid, "").scan()}
        assert len(ours) == 2
        assert ours.keys() == theirs.keys()
        for pid, member in ours.items():
            assert member.parent == theirs[pid].parent
            assert member.tasks == theirs[pid].tasks == 1
        assert 0 < tree.memory(list(ours.values())) < sum(member.rss for member in ours.values())
    finally:
        for pid in ours:
            os.kill(pid, 9)
        child.wait()
        child.stdout.close()
