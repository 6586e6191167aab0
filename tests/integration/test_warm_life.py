"""When a worker serves, when it does not, and when it ends."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from agenthub.errors import EnvironmentError, InvalidInputError
from agenthub.runtime.runs.permissions import Changes
from agenthub.runtime.runs.plan import RunOptions
from agenthub.runtime.workers.control import Upkeep, worker_directory
from tests.integration.warm_support import (
    OBEDIENT,
    PATIENCE,
    SCRIPT,
    TIERS,
    Slow,
    Warm,
    environment,
    result_of,
    unavailable,
)
from tests.support import method, wait_until, write_agent


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Warm(str(tmp_path_factory.mktemp("life")), next(tier for tier in TIERS if not unavailable(tier)))


@pytest.fixture
def warm(bench, monkeypatch):
    with environment(monkeypatch, bench) as found:
        yield found
        found.close()
    bench.settings.pop("AGENTHUB_WARM", None)


def gone(warm, agent):
    wait_until(lambda: not warm.workers(agent) and not warm.leftovers(), None, "the worker ends")


# from the command line ----------------------------------------------------------------------------------------------


def test_the_command_line(warm):
    agent = warm.agent()
    warm.command("run", "--yes", agent, "go")
    assert "no agent is kept loaded" in warm.command("ps").err
    done = warm.command("warm", agent, "-n", "2", "--idle", "1min")
    assert done.code == 0, done.err
    assert "is loaded 2 times" in done.err
    told = warm.command("ps", "--json").json["workers"]
    assert [(one["number"], one["idle"], one["busy"], one["tier"]) for one in told] == [
        (0, 60.0, False, warm.tier),
        (1, 60.0, False, warm.tier),
    ]
    assert all(one["memory"] > 1 << 20 for one in told)
    lines = warm.command("ps").out.splitlines()
    assert len(lines) == 2
    assert f"{agent}#1" in lines[1]
    assert result_of(warm.command("run", "--yes", "--json", agent, "go"))["warm"] is True
    again = warm.command("warm", agent, "--idle", "2min")
    assert again.code == 0, again.err
    assert {worker.idle for worker in warm.workers(agent)} == {60.0, 120.0}
    assert len({worker.pid for worker in warm.workers(agent)}) == 2


@pytest.mark.parametrize("words", [("-n", "0"), ("-n", "65"), ("--idle", "soon")])
def test_nonsense_is_refused(warm, words):
    done = warm.command("warm", warm.agent(), *words)
    assert done.code == 2
    assert words[0] in done.err


def test_a_program_cannot_be_kept_loaded(warm):
    agent = warm.agent(entrypoint={"command": ["sh", "-c", "echo"]})
    done = warm.command("warm", agent)
    assert done.code == 2
    assert "only agents in Python" in done.err
    assert "only agents in Python" in warm.command("info", agent).out


# both contracts, and what a script loads ----------------------------------------------------------------------------


def test_a_script_finds_loaded_what_earlier_runs_loaded(warm):
    agent = warm.agent(SCRIPT, entrypoint=None)
    warm.warm(agent)
    lazy = "import sys; known = 'colorsys' in sys.modules; import colorsys; value = known"
    assert warm.do(agent, lazy)["value"] is False
    wait_until(lambda: warm.do(agent, lazy)["value"], None, "it is loaded")
    wait_until(lambda: warm.do(agent, lazy)["warm"], None, "it is warm again")


def test_what_cannot_be_loaded_beforehand_keeps_no_script_from_being_warm(warm):
    agent = warm.agent(SCRIPT, entrypoint=None)
    with open(os.path.join(agent, "lib_of_its_own.py"), "w") as file:
        file.write("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")
    warm.warm(agent)
    assert warm.do(agent, "import lib_of_its_own")["warm"] is True
    wait_until(lambda: warm.do(agent, "")["warm"], None, "it is warm again")


@pytest.mark.parametrize("contract", ["method", "script"])
def test_an_agent_may_have_modules_with_our_names(warm, contract):
    agent = warm.agent(
        {"method": OBEDIENT, "script": SCRIPT}[contract], entrypoint=None if contract == "script" else "agent:Agent"
    )
    for name in ("host", "worker"):
        with open(os.path.join(agent, f"{name}.py"), "w") as file:
            file.write("whose = 'the agent'")
    warm.warm(agent)
    served = warm.do(agent, "import host, worker; value = [host.whose, worker.whose]")
    assert served["warm"] is True
    assert served["value"] == ["the agent", "the agent"]


def test_a_script_in_a_folder_and_a_long_argument(warm):
    agent = warm.agent(SCRIPT, entrypoint="src/main.py")
    os.mkdir(os.path.join(agent, "src"))
    os.rename(os.path.join(agent, "agent.py"), os.path.join(agent, "src", "main.py"))
    with open(os.path.join(agent, "src", "near.py"), "w") as file:
        file.write("here = 1")
    look = "import near, sys, os; value = [sys.argv[0], os.path.basename(sys.path[0]), len(sys.argv[1])]#"
    cold = warm.do(agent, look + '"' * 60000)
    warm.warm(agent)
    served = warm.do(agent, look + '"' * 60000)
    assert served["warm"] is True
    assert served["value"] == cold["value"]
    assert served["value"][2] > 120000


# agents that cannot be forked ---------------------------------------------------------------------------------------

UNSAFE = {
    "threads": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "polars does not survive": "import sys; sys.modules['polars'] = sys",
    "cannot be imported: no such luck": "raise RuntimeError('no such luck')",
    "starts processes": "import subprocess as s, sys; p = s.Popen([sys.executable, '-c', 'while 1: pass'])",
    "shares memory": "import mmap; kept = mmap.mmap(-1, 4096)",
    "keeps": "kept = open(__file__)",
    "ended while being imported": "import os; os._exit(3)",
    "exceeds its limit `memory`": "kept = bytearray(400 << 20)\nimport time; time.sleep(60)",
}


_QUICK = ("threads", "shares memory", "keeps", "cannot be imported: no such luck")


@pytest.mark.parametrize(
    "words", [pytest.param(words, marks=() if words in _QUICK else pytest.mark.slow) for words in UNSAFE]
)
def test_what_cannot_be_forked_is_cold_and_info_says_so(warm, words):
    agent = warm.agent(UNSAFE[words] + "\n" + OBEDIENT, limits={"memory": "256MB"})
    with pytest.raises(EnvironmentError, match=words):
        warm.warm(agent)
    gone(warm, agent)
    assert words in warm.runtime.get_agent_info(agent)["cold"]
    if words not in ("cannot be imported: no such luck", "ended while being imported", "exceeds its limit `memory`"):
        assert warm.do(agent, "")["warm"] is False
    write_agent(agent, OBEDIENT, {"do": method(code="string"), "go": method()}, entrypoint="agent:Agent")
    assert warm.runtime.get_agent_info(agent)["cold"] is None, "another version may do better"
    warm.warm(agent)
    assert warm.do(agent, "")["warm"] is True


def test_what_is_written_at_import_is_there_for_each_run(warm):
    agent = warm.agent("import os; open(os.path.expanduser('~/made'), 'w').write('at import')\n" + OBEDIENT)
    warm.warm(agent)
    look = "import os; p = os.path.expanduser('~/made'); value = open(p).read()"
    first = warm.do(agent, look)
    assert first["value"] == "at import"
    warm.do(agent, "import os; open(os.path.expanduser('~/made'), 'w').write('by a run')")
    wait_until(lambda: warm.do(agent, "")["warm"], None, "it is loaded anew")
    assert warm.do(agent, look)["value"] == "at import"


# who is served ------------------------------------------------------------------------------------------------------


def test_who_needs_more_or_wants_less_is_cold_and_the_worker_stays(warm, tmp_path):
    methods = {"do": method(code="string"), "go": method(), "read": method(file={"type": "file"})}
    agent = warm.agent(OBEDIENT + "    def read(self, file):\n        return self.do('')", methods)
    worker = warm.warm(agent)
    (tmp_path / "input").write_text("x")
    options = {
        "path": RunOptions(changes=Changes(allow={"read": [str(tmp_path)]})),
        "host": RunOptions(changes=Changes(allow={"network": ["example.org"]})),
        "variable": RunOptions(variables=["COLOUR=red"]),
        "program": RunOptions(changes=Changes(allow={"run": ["*"]})),
    }
    for name, given in options.items():
        assert warm.do(agent, "", given)["warm"] is False, name
    envelope = warm.run(agent, "read", file=str(tmp_path / "input"))
    assert envelope["result"]["warm"] is False
    assert result_of(warm.command("run", "--yes", "--json", "--memory", "2GB", agent, "go"))["warm"] is False
    assert [(one.pid, one.number) for one in warm.workers(agent)] == [(worker.pid, 0)]
    assert warm.do(agent, "")["warm"] is True


@pytest.mark.parametrize(
    "name", ["TZ", pytest.param("LC_TIME", marks=pytest.mark.slow), pytest.param("HTTPS_PROXY", marks=pytest.mark.slow)]
)
def test_a_changed_environment_is_not_served_by_the_old_worker(warm, monkeypatch, name):
    agent = warm.agent()
    warm.warm(agent)
    value = "Asia/Tokyo" if name == "TZ" else "http://127.0.0.1:9" if "PROXY" in name else "C"
    monkeypatch.setenv(name, value)
    served = warm.do(agent, f"import os; value = os.environ.get({name!r})")
    assert served["warm"] is False
    assert served["value"] == (None if "PROXY" in name else value)
    gone(warm, agent)


def test_a_changed_variable(warm, monkeypatch):
    monkeypatch.setenv("COLOUR", "red")
    agent = warm.agent(environment={"optional": {"COLOUR": "of it"}})
    warm.warm(agent)
    look = "import os; value = os.environ.get('COLOUR')"
    assert (lambda one: (one["warm"], one["value"]))(warm.do(agent, look)) == (True, "red")
    monkeypatch.setenv("COLOUR", "blue")
    assert (lambda one: (one["warm"], one["value"]))(warm.do(agent, look)) == (False, "blue")
    gone(warm, agent)


def test_a_changed_file_of_an_agent_that_is_run_in_its_place(warm):
    agent = warm.agent()
    library = os.path.join(agent, "deep", "library.py")
    os.mkdir(os.path.dirname(library))
    with open(library, "w") as file:
        file.write("x = 1")
    before = os.stat(library)
    warm.warm(agent)
    look = "import deep.library; value = deep.library.x"
    assert warm.do(agent, look)["warm"] is True
    with open(library + ".new", "w") as file:
        file.write("x = 2")
    os.utime(library + ".new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(library + ".new", library)
    assert (lambda one: (one["warm"], one["value"]))(warm.do(agent, look)) == (False, 2)
    gone(warm, agent)


@pytest.mark.slow
def test_a_directory_that_is_too_large_to_watch(warm):
    agent = warm.agent()
    for number in range(5001):
        os.mkdir(os.path.join(agent, f"d{number}"))
    with pytest.raises(InvalidInputError, match="too many to look"):
        warm.warm(agent)
    assert warm.do(agent, "")["warm"] is False


def installed(warm, code=OBEDIENT, **manifest):
    agent = warm.agent(code, **manifest)
    assert warm.command("install", "--yes", "--force", agent).code == 0
    return os.path.basename(agent), agent


def owned(warm, name):
    return [worker for worker in warm.workers() if worker.agent == f"local/{name}"]


def test_grants_and_an_upgrade_end_it(warm, tmp_path):
    name, directory = installed(warm)
    assert warm.command("warm", name).code == 0
    assert result_of(warm.command("run", "--json", name, "go"))["warm"] is True
    first = owned(warm, name)[0].pid
    assert warm.command("grant", name, "read", str(tmp_path)).code == 0
    assert result_of(warm.command("run", "--json", name, "go"))["warm"] is False
    wait_until(lambda: not owned(warm, name), None, "the old one ends")
    assert warm.command("warm", name).code == 0
    second = owned(warm, name)[0].pid
    assert first != second
    assert result_of(warm.command("run", "--json", name, "go"))["warm"] is True
    assert warm.command("revoke", name, "read", str(tmp_path)).code == 0
    assert warm.command("warm", name).code == 0, "which replaces what is there"
    third = owned(warm, name)[0].pid
    assert third != second
    write_agent(directory, OBEDIENT + "# new", {"go": method()}, entrypoint="agent:Agent", version="2.0.0")
    assert warm.command("install", "--yes", "--force", directory).code == 0
    envelope = warm.command("run", "--json", name, "go").json
    assert envelope["agent"]["version"] == "2.0.0"
    assert envelope["result"]["warm"] is False
    wait_until(lambda: not owned(warm, name) and not warm.leftovers(), None, "the old one ends")


@pytest.mark.slow
def test_an_environment_that_was_made_anew(warm):
    name, _ = installed(warm)
    assert warm.command("warm", name).code == 0
    directory = warm.runtime.locate(name).directory
    os.mkdir(
        os.path.join(
            directory, "venv", "lib", os.listdir(os.path.join(directory, "venv", "lib"))[0], "site-packages", "new"
        )
    )
    assert result_of(warm.command("run", "--json", name, "go"))["warm"] is False
    wait_until(lambda: not owned(warm, name), None, "the old one ends")


def test_an_agent_that_is_removed(warm):
    agent = warm.agent()
    warm.warm(agent, upkeep=Upkeep(look=0.05))
    shutil.rmtree(agent)
    gone(warm, agent)


def test_warm_by_itself_after_the_first_run(warm):
    warm.settings["AGENTHUB_WARM"] = "auto"
    agent = warm.agent()
    assert warm.do(agent, "")["warm"] is False
    wait_until(lambda: warm.do(agent, "")["warm"], None, "it is kept loaded")
    assert len(warm.workers(agent)) == 1
    assert warm.do(agent, "", RunOptions(variables=["X=1"]))["warm"] is False
    assert len(warm.workers(agent)) == 1
    threaded = warm.agent(UNSAFE["threads"] + "\n" + OBEDIENT)
    assert warm.do(threaded, "")["warm"] is False
    wait_until(lambda: warm.runtime.get_agent_info(threaded)["cold"], None, "it is known")
    assert warm.workers(threaded) == []


def test_runs_at_once_start_one_by_itself(warm):
    warm.settings["AGENTHUB_WARM"] = "auto"
    agent = warm.agent()
    runtime, number = warm.runtime, 4
    located, ready = runtime.locate(agent), threading.Barrier(number)

    def run(_):
        ready.wait(PATIENCE)
        return runtime.run(located, "go", {}, RunOptions(consent=bool))

    with ThreadPoolExecutor(number) as threads:
        before = set(keepers())
        assert [envelope["result"]["warm"] for envelope in threads.map(run, range(number))] == [False] * number
        assert len(set(keepers()) - before) == 1
    wait_until(lambda: warm.workers(agent), None, "it is kept loaded")


def keepers():
    """The children of this process that keep a worker, or are about to."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            for pid in file.read().split():
                with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as words:
                    found += [pid] if b"workers.keeper" in words.read() else []
    return found


def test_whoever_comes_second_waits_for_what_is_being_loaded(warm, tmp_path):
    os.mkfifo(tmp_path / "gate")
    agent = warm.agent(f"open({str(tmp_path / 'gate')!r}).read()\n" + OBEDIENT, permissions={"read": [str(tmp_path)]})
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(warm.command, "warm", "--yes", agent) for _ in range(2)]
        gate = wait_until(lambda: opened(tmp_path / "gate"), None, "one loads")
        try:
            wait_until(lambda: len(waiting(agent, warm)) == 1, None, "the other one waits")
            assert not any(one.done() for one in both)
        finally:
            os.close(gate)
        assert [one.result(PATIENCE).code for one in both] == [0, 0]
    assert len(warm.workers(agent)) == 1


def opened(pipe):
    """A descriptor for writing, once somebody reads."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def waiting(agent, warm):
    """The lines of /proc/locks about those who wait for the one that loads an agent."""
    place = worker_directory(warm.runtime.settings.paths, warm.runtime.locate(agent))
    number = os.stat(os.path.join(place, "0.loading")).st_ino
    with open("/proc/locks") as locks:
        return [line for line in locks if "->" in line and f":{number} " in line]


# idle, busy, short of memory ----------------------------------------------------------------------------------------


def test_an_idle_one_ends_by_itself(warm):
    agent = warm.agent()
    warm.warm(agent, idle=0.2)
    gone(warm, agent)
    assert not os.path.exists(worker_directory(warm.runtime.settings.paths, warm.runtime.locate(agent)))


def test_two_clients_at_once(warm):
    agent = warm.agent()
    warm.warm(agent)
    slow = Slow(warm, agent)
    assert warm.workers(agent)[0].busy is True
    assert warm.do(agent, "")["warm"] is False
    warm.warm(agent, number=1)
    assert warm.do(agent, "")["warm"] is True
    assert slow.stop()["error_type"] == "InterruptedError"


def test_the_least_used_gives_way_when_memory_is_short(warm):
    short = Upkeep(look=0.02, least_free=1.1)
    old, new = warm.agent(), warm.agent()
    warm.warm(old, upkeep=Upkeep(look=0.02, least_free=0.0))
    warm.do(old, "")
    warm.warm(new, upkeep=short)
    assert warm.do(new, "")["warm"] is True
    owner = os.path.join(worker_directory(warm.runtime.settings.paths, warm.runtime.locate(new)), "0.owner")
    for _ in range(3):
        stamp = os.stat(owner).st_ctime_ns
        wait_until(lambda stamp=stamp: os.stat(owner).st_ctime_ns != stamp, None, "it looks")
    assert warm.workers(new), "the other one has been idle for longer"
    assert warm.do(old, "")["warm"] is True
    gone_workers = lambda: not warm.workers(new)  # noqa: E731
    wait_until(gone_workers, None, "the least used ends")
    assert warm.workers(old)


@pytest.mark.slow
def test_many_runs_leave_nothing_behind(warm):
    agent = warm.agent()
    worker = warm.warm(agent)
    for _ in range(20):
        warm.do(agent, "")
    before = len(os.listdir(f"/proc/{worker.pid}/fd"))
    for _ in range(30):
        assert warm.do(agent, "")["warm"] is True
    wait_until(lambda: len(os.listdir(f"/proc/{worker.pid}/fd")) <= before, None, "all descriptors are closed")


@pytest.mark.slow
def test_a_thousand_runs(warm):
    agent = warm.agent()
    worker = warm.warm(agent)
    sizes = []
    for number in range(1000):
        assert warm.do(agent, f"value = {number}")["value"] == number
        if number in (100, 999):
            with open(f"/proc/{worker.pid}/status") as file:
                sizes.append(next(int(line.split()[1]) for line in file if line.startswith("VmRSS")))
    assert len(warm.workers(agent)) == 1
    assert warm.workers(agent)[0].runs >= 512
    assert sizes[1] < 1.1 * sizes[0] + 2000, sizes


@pytest.mark.slow
def test_numpy_draws_other_numbers_in_each_run(warm):
    agent = warm.agent("import numpy\n" + OBEDIENT, dependencies=["numpy"])
    warm.warm(agent)
    draw = (
        "import numpy; value = [numpy.random.random(), float((numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum())]"
    )
    one, two = warm.do(agent, draw), warm.do(agent, draw)
    assert one["warm"]
    assert two["warm"]
    assert one["value"][0] != two["value"][0]
    assert one["value"][1] == two["value"][1] == 300.0**3
