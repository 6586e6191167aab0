"""Workers: a run that is forked from a loaded agent is like any other, and nothing of it is there for the next."""

from __future__ import annotations

import textwrap

import pytest

from tests.integration.warm_support import BUBBLEWRAP, CODES, LANDLOCK, RLIMITS, TIERS, Warm, environment, unavailable

# What one run leaves and the next one looks for: (leave, look, what it has to see). `value` is the result.
LEAKS = {
    "module state": (
        "module.boot_seen = 1; module.Agent = None if hasattr(module, 'Agent') else 0",
        "value = hasattr(module, 'boot_seen')",
        False,
    ),
    "a changed library": ("import json; json.left = 1", "import json; value = hasattr(json, 'left')", False),
    "builtins": ("import builtins; builtins.left = 1", "import builtins; value = hasattr(builtins, 'left')", False),
    "a variable": ("import os; os.environ['LEFT'] = '1'", "import os; value = 'LEFT' in os.environ", False),
    "working directory": ("import os; os.chdir('/')", "import os; value = os.getcwd() == '/'", False),
    "umask": ("import os; os.umask(0o77)", "import os; m = os.umask(0o22); value = m == 0o77", False),
    "a descriptor": (
        "import os; os.dup2(os.open('/dev/null', 0), 77)",
        "import os; value = os.path.exists('/proc/self/fd/77')",
        False,
    ),
    "a file in HOME": (
        "import os; open(os.path.expanduser('~/left'), 'w').write('x')",
        "import os; value = os.listdir(os.path.expanduser('~'))",
        [],
    ),
    "a deep tree that is closed": (
        "import os; os.chdir(os.path.expanduser('~')); os.makedirs('a/b/c'); open('a/b/c/f', 'w'); os.chmod('a', 0)",
        "import os; value = os.listdir(os.path.expanduser('~'))",
        [],
    ),
    "a link to elsewhere": (
        "import os; os.symlink('/', os.path.expanduser('~/root'))",
        "import os; value = os.listdir(os.path.expanduser('~'))",
        [],
    ),
    "mode of HOME": (
        "import os; os.chmod(os.path.expanduser('~'), 0o500)",
        "import os; value = oct(os.stat(os.path.expanduser('~')).st_mode)",
        "0o40700",
    ),
    "times of HOME": (
        "import os; os.utime(os.path.expanduser('~'), (1, 1))",
        "import os; value = os.stat(os.path.expanduser('~')).st_mtime == 1",
        False,
    ),
    "the size of HOME": (
        "import os; [open(os.path.expanduser('~/' + 'x' * 200 + str(n)), 'w').close() for n in range(300)]",
        "import os; value = os.stat(os.path.expanduser('~')).st_size > 4096",
        False,
    ),
    "an extended attribute": (
        "import os\ntry: os.setxattr(os.path.expanduser('~'), 'user.left', b'x')\nexcept OSError: pass",
        "import os\ntry: value = os.listxattr(os.path.expanduser('~'))\nexcept OSError: value = []",
        [],
    ),
    "a thread": (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import threading; value = threading.active_count()",
        1,
    ),
    "an exit function": (
        "import atexit; atexit.register(lambda: None)",
        "import atexit; value = atexit._ncallbacks()",
        None,
    ),
    "a signal handler": (
        "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)",
        "import signal; value = signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL",
        True,
    ),
    "a process in a session of its own": (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'],"
        " start_new_session=True, env={}); value = 1",
        "import os; value = [n for n in os.listdir('/proc') if n.isdigit() and b'time.sleep(99)' in read(n)]\n",
        [],
    ),
    "a limit of the loaded process": (
        "import os, resource\ntry: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (20, 20))\n"
        "except OSError: pass",
        "import resource; value = resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 20",
        False,
    ),
    "a priority of the loaded process": (
        "import os\ntry: os.setpriority(os.PRIO_PROCESS, os.getppid(), 7)\nexcept OSError: pass",
        "import os; value = os.nice(0) == 7",
        False,
    ),
    "a processor of the loaded process": (
        "import os\ntry: os.sched_setaffinity(os.getppid(), {0})\nexcept OSError: pass",
        "import os; value = len(os.sched_getaffinity(0)) == 1 < os.cpu_count()",
        False,
    ),
    "a named semaphore": (
        "import _multiprocessing as m\ntry: m.SemLock(1, 1, 1, '/left', False)\nexcept (OSError, AttributeError): pass",
        "import os\ntry: value = [n for n in os.listdir('/dev/shm') if 'left' in n]\nexcept OSError: value = []",
        [],
    ),
    "shared memory of System V": (
        "import ctypes; c = ctypes.CDLL(None); c.shmget(0x51525354, 4096, 0o1600); c.msgget(0x51525354, 0o1600);"
        "c.semget(0x51525354, 1, 0o1600)",
        "import ctypes; c = ctypes.CDLL(None); value = [c.shmget(0x51525354, 0, 0), c.msgget(0x51525354, 0),"
        " c.semget(0x51525354, 0, 0)]",
        [-1, -1, -1],
    ),
}
IN_MEMORY = {  # where a sandbox has its own
    "a file in /tmp": (
        "import os; os.makedirs('/tmp/left/x'); open('/tmp/left/f', 'w')",
        "import os; value = os.path.exists('/tmp/left')",
        False,
    ),
    "a file in /dev/shm": ("open('/dev/shm/left', 'w')", "import os; value = os.listdir('/dev/shm')", []),
    "a file in /dev": (
        "try: open('/dev/left', 'w')\nexcept OSError: pass",
        "import os; value = os.path.exists('/dev/left')",
        False,
    ),
    "its memory, by /proc": (
        "import os\ntry: open(f'/proc/{os.getppid()}/mem', 'r+b'); value = 'open'\nexcept OSError: value = 'refused'",
        "value = None",
        None,
    ),
}
READ = """
def read(name):
    try:
        return open(f'/proc/{name}/cmdline', 'rb').read()
    except OSError:
        return b''
"""
HOST_WIDE = (
    "shared memory of System V",
    "a named semaphore",
    "a limit of the loaded process",
    "a priority of the loaded process",
    "a processor of the loaded process",
)


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    """One store for each tier, and a loaded agent for each tier and contract."""
    path = str(tmp_path_factory.mktemp("warm"))
    made = {}
    yield lambda tier: made.setdefault(tier, Warm(path, tier))
    for warm in made.values():
        with pytest.MonkeyPatch.context() as patch, environment(patch, warm):
            warm.close()


@pytest.fixture(params=[*TIERS[:2], pytest.param(RLIMITS, marks=pytest.mark.slow)])
def warm(request, benches, monkeypatch):
    """A store on each tier."""
    if reason := unavailable(request.param):
        pytest.skip(reason)
    with environment(monkeypatch, benches(request.param)) as found:
        yield found


@pytest.fixture
def best(benches, monkeypatch):
    """A store on the best tier."""
    tier = next(tier for tier in TIERS if not unavailable(tier))
    with environment(monkeypatch, benches(tier)) as found:
        yield found


_loaded: dict = {}


def loaded(warm, contract):
    """An agent that has a worker, the same one for many tests."""
    key = (warm.path, warm.tier, contract)
    if key not in _loaded:
        _loaded[key] = warm.agent(CODES[contract], **({"entrypoint": None} if contract == "script" else {}))
    agent = _loaded[key]
    if not warm.workers(agent):
        warm.warm(agent)
    return agent


def do_warm(warm, agent, code):
    """A run that is served by a worker, which may still be loading after the one before."""
    from tests.support import wait_until

    said = {}

    def served():
        said.update(warm.do(agent, code))
        return said["warm"]

    wait_until(served, None, "a worker serves")
    return said


@pytest.mark.parametrize("leak", [*LEAKS, *IN_MEMORY])
def test_nothing_of_one_run_is_there_for_the_next(warm, leak):
    leak_shows(warm, "method", leak)


@pytest.mark.slow
@pytest.mark.parametrize("leak", [*LEAKS, *IN_MEMORY])
def test_nothing_of_one_run_of_a_script_is_there_for_the_next(warm, leak):
    leak_shows(warm, "script", leak)


def leak_shows(warm, contract, leak):
    """Leaves something in one run and looks for it in the next."""
    leave, look, expected = {**LEAKS, **IN_MEMORY}[leak]
    if leak in IN_MEMORY and warm.tier != BUBBLEWRAP:
        pytest.skip("what stands there is the host's, and refused or as open as to a cold run")
    if leak in HOST_WIDE and warm.tier == RLIMITS:
        pytest.skip("nothing is promised without a sandbox")
    agent = loaded(warm, contract)
    if expected is None:
        expected = do_warm(warm, agent, look)["value"]
    first = do_warm(warm, agent, leave)
    assert first["value"] != "open"
    second = do_warm(warm, agent, READ + look)
    assert second["value"] == expected, second
    if contract == "method" and leak != "the size of HOME":
        assert second["boot"] == first["boot"], "it was loaded once"


@pytest.mark.parametrize("contract", ["method", "script"])
def test_random_numbers_differ(warm, contract):
    agent = loaded(warm, contract)
    drawn = [do_warm(warm, agent, "import random, os; value = [random.random(), os.urandom(4).hex()]") for _ in "ab"]
    assert drawn[0]["value"][0] != drawn[1]["value"][0]
    assert drawn[0]["value"][1] != drawn[1]["value"][1]


def test_a_run_looks_like_a_cold_one(warm):
    """Arguments, paths, modules and variables."""
    look = textwrap.dedent(
        """
        import os, sys
        hidden = {"AGENTHUB_RUN_ID", "HOME", "TMPDIR", "XDG_CACHE_HOME", "AGENTHUB_GATE", "PWD", "OLDPWD", "_", "SHLVL"}
        value = {
            "argv": [os.path.basename(word) for word in sys.argv[:1]],
            "environ": {k: v for k, v in os.environ.items() if k not in hidden},
            "own": sorted(n for n in sys.modules if n in ("host", "worker", "agent")),
            "stdin": os.readlink("/proc/self/fd/0")[:5],
            "descriptors": sorted(n for n in os.listdir("/proc/self/fd") if int(n) < 3),
            "cwd": os.getcwd() == os.path.expanduser("~"),
            "session": os.getsid(0) == os.getpid() or os.getppid() == 1,
            "handlers": [__import__("signal").getsignal(n) == d for n, d in ((15, 0), (10, 0))],
        }
        """
    )
    agent = warm.agent()
    cold = warm.do(agent, look)
    assert cold["warm"] is False
    warm.warm(agent)
    served = warm.do(agent, look)
    assert served["warm"] is True
    assert served["value"] == cold["value"]
    assert LANDLOCK in TIERS
