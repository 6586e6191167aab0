"""1,000 ends of runs that fork away from whoever ends them: nobody is left, on each tier that promises it.

A pipe tells it: every process of a run holds its writing end, and the reading end sees the end of the pipe once nobody
does. That is exact, where looking through /proc loses to a process that forks while it is looked for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.integration.sandbox_support import BUBBLEWRAP, LANDLOCK, RLIMITS, Place

pytestmark = pytest.mark.slow

KILLS = 1000
BUDGET = 240.0  # seconds for each place; a quarter of it where nothing else runs
# Each line: where, as whom, and whether a cgroup is made. As root Landlock's domain is not killed as one.
PLACES = [(BUBBLEWRAP, "ordinary", False), (LANDLOCK, "ordinary", False), (RLIMITS, "root", True)]
CHASERS = 8

# A generation lives for as long as it takes to make the next one, in a session of its own now and then.
_AGENT = f"""
import os, sys
pipe = os.open(os.environ["HOME"] + "/pipe", os.O_WRONLY | os.O_NONBLOCK)
def chase():
    generation = 0
    while True:
        generation += 1
        try: os.write(pipe, b"x")
        except BlockingIOError: pass
        if generation % 8 == 0: os.setsid()
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
for _ in range({CHASERS}):
    if os.fork() == 0: chase()
if os.environ["END"] == "by itself": os._exit(0)
import time
time.sleep(60)
"""

_DRIVER = """
import json, os, sys, time
order = json.loads(sys.stdin.readline())
sys.path.insert(0, order["package"])
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.lines import Log
from agenthub.runtime.processes.protocol import ScriptExchange
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.policy import SandboxPolicy
from agenthub.runtime.sandbox.tiers import available_tiers
from agenthub.runtime.processes.supervisor import Launch, make_cgroup, supervise

tiers = available_tiers()
tier = order["tier"]
probe = make_cgroup(1 << 30, None)
if probe is not None:
    probe.remove()
if tier == "bubblewrap" and tiers.best != tier or tier == "landlock" and tiers.abi < 6 or order["cgroup"] and not probe:
    print(json.dumps({"unavailable": tiers.reason}))
    sys.exit()
tiers = tiers._replace(best=tier)
scratch = order["scratch"]
env = {"PATH": os.environ["PATH"], "HOME": scratch}
started = time.monotonic()
answer = {"generations": 0, "survivors": 0, "fewest": 1 << 30, "odd": []}
for number in range(order["kills"]):
    late = number % 20 == 19
    os.mkfifo(scratch + "/pipe")
    pipe = os.open(scratch + "/pipe", os.O_RDONLY | os.O_NONBLOCK)
    log = Log()
    launch = Launch(
        argv=tuple(order["argv"]),
        env={**env, "END": "by deadline" if late else "by itself"},
        cwd=order["agent"],
        run_id=os.urandom(8).hex(),
        scratch=scratch,
    )
    limits = Limits(timeout=0.15 if late else 30, memory=(1 << 30) if order["cgroup"] else None, grace=0)
    completion = supervise(
        launch,
        ScriptExchange("go", {}, log, 1 << 20),
        limits,
        log,
        confinement=confine(SandboxPolicy("auto", order["agent"], scratch), tiers),
        cgroup_factory=make_cgroup if order["cgroup"] else lambda memory, processes: None,
    )
    generations = 0
    try:
        while data := os.read(pipe, 65536):
            generations += len(data)
    except BlockingIOError:
        answer["survivors"] += 1
    if completion.survivors or completion.isolation != tier or completion.reason != ("timeout" if late else "exited"):
        answer["odd"].append(str(completion))
    answer["generations"] += generations
    answer["fewest"] = min(answer["fewest"], generations)
    os.close(pipe)
    os.unlink(scratch + "/pipe")
answer["children"] = open(f"/proc/self/task/{os.getpid()}/children").read().split()
answer["seconds"] = time.monotonic() - started
print(json.dumps(answer))
"""


@pytest.mark.parametrize(("tier", "user", "cgroup"), PLACES, ids=["bubblewrap", "landlock", "cgroup"])
def test_no_chaser_survives(tier, user, cgroup, capsys):
    if user == "root" and os.geteuid() != 0:
        pytest.skip("cgroups are made by root here")
    place = Place(user)
    try:
        answer = _kill(place, tier, cgroup)
    finally:
        place.remove()
    with capsys.disabled():
        print(
            f"\n{tier}{' with a cgroup' * cgroup}: {KILLS} kills in {answer['seconds']:.0f} s, "
            f"{answer['generations']:,} generations, {answer['survivors']} survivors"
        )
    assert answer["survivors"] == 0
    assert answer["odd"] == []
    assert answer["children"] == []
    assert answer["generations"] > KILLS * CHASERS, "they did chase"
    assert answer["seconds"] < BUDGET


def _kill(place, tier, cgroup):
    place.write("agent/agent.py", _AGENT)
    order = {
        "package": os.path.join(place.path, "package"),
        "agent": place.agent,
        "scratch": place.scratch,
        "tier": tier,
        "cgroup": cgroup,
        "kills": KILLS,
        "argv": [place.python, "-I", "-S", "agent.py"],
    }
    driver = place.write("kills.py", _DRIVER)
    command = (*place.command()[:-1], driver)
    done = subprocess.run(
        command,
        input=json.dumps(order).encode() + b"\n",
        capture_output=True,
        timeout=3 * BUDGET,
        cwd=place.path,
    )
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    if "unavailable" in answer:
        pytest.skip(f"no {tier} here: {answer['unavailable']}")
    return answer


def test_the_pipe_tells_of_a_survivor(tmp_path):
    """Else the figures above would prove nothing."""
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    words = ("/bin/sh", "-c", 'exec 3>"$1"; sleep 60 >&- 2>&- & echo $!', "sh", str(tmp_path / "pipe"))
    orphan = int(subprocess.run(words, capture_output=True, check=True, timeout=30).stdout)
    try:
        with pytest.raises(BlockingIOError):
            os.read(pipe, 1)
    finally:
        os.kill(orphan, signal.SIGKILL)
        os.close(pipe)
