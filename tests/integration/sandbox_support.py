"""What the tests of the sandbox share: runs on a chosen tier, as root or not, in a process of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from typing import Any

import pytest

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUBBLEWRAP, LANDLOCK, RLIMITS = "bubblewrap", "landlock", "rlimits"
TIERS = (BUBBLEWRAP, LANDLOCK, RLIMITS)
USERS = ("root", "ordinary") if os.geteuid() == 0 else ("ordinary",)
NOBODY = 65534
PATIENCE = 60.0

_DRIVER = """
import json, os, sys
order = json.loads(sys.stdin.readline())
sys.path.insert(0, order["package"])
from agenthub.errors import AgentRuntimeError
from agenthub.runtime.processes.limits import Limits
from agenthub.runtime.processes.lines import Log
from agenthub.runtime.processes.outcome import result_of
from agenthub.runtime.processes.protocol import ScriptExchange
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.policy import Network, SandboxPolicy
from agenthub.runtime.sandbox.tiers import available_tiers
from agenthub.runtime.processes.supervisor import Launch, make_cgroup, supervise

tiers = available_tiers()
wanted = order["tier"]
if order["policy"].get("level") != "strict" and wanted != "best":
    if wanted == "bubblewrap" and tiers.best != "bubblewrap" or wanted == "landlock" and not tiers.abi:
        print(json.dumps({"unavailable": tiers.reason}))
        sys.exit()
    tiers = tiers._replace(best=wanted)
policy = order["policy"]
policy["network"] = Network(policy.get("network", "none"))
policy = SandboxPolicy(level=policy.pop("level", "auto"), agent_dir=order["agent"], scratch=order["scratch"], **policy)
parameters = {**order["parameters"], "supervisor": os.getpid()}
log = Log()
exchange = ScriptExchange("go", parameters, log, 1 << 20)
launch = Launch(
    argv=(*order["argv"], exchange.argument or ""),
    env={"PATH": os.environ["PATH"], "HOME": order["scratch"], "TMPDIR": order["scratch"], **order["env"]},
    cwd=order["agent"],
    run_id=os.urandom(8).hex(),
    scratch=order["scratch"],
    record=order["record"],
)
limits = Limits(**{"timeout": 30, "memory": None, **order["limits"]})
factory = make_cgroup if order["cgroup"] else lambda memory, processes: None
try:
    confinement = confine(policy, tiers)
    completion = supervise(launch, exchange, limits, log, confinement=confinement, cgroup_factory=factory)
    answer = {"completion": {**completion._asdict(), "error": None}, "log": list(log.tail)}
    answer["result"] = result_of("probe", completion, exchange, limits)
except AgentRuntimeError as error:
    answer = {**locals().get("answer", {}), **error.to_dict()}
print(json.dumps(answer))
"""


class Place:
    """A directory that an ordinary user can work in, with a copy of the package.

    Attributes:
        user: `root` or `ordinary`.
        path: the directory, by its real path.
        python: an interpreter that the user can start.
    """

    def __init__(self, user: str) -> None:
        self.user = user
        self.path = os.path.realpath(tempfile.mkdtemp(prefix="sandbox-test-"))
        self.python = sys.executable
        self.uid = os.getuid()
        os.chmod(self.path, 0o755)
        self._drop: tuple[str, ...] = ()
        if user == "ordinary" and os.geteuid() == 0:
            if not os.access("/usr/bin/python3", os.X_OK) or not shutil.which("setpriv"):
                pytest.skip("no interpreter of the system's, or no setpriv")
            self.python = "/usr/bin/python3"
            self.uid = NOBODY
            self._drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        self._package = os.path.join(self.path, "package")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(PROJECT, "agenthub"), os.path.join(self._package, "agenthub"), ignore=ignored)
        self._driver = self.write("driver.py", _DRIVER)
        self.scratch = self.directory("scratch")
        self.agent = self.directory("agent")

    def directory(self, name: str) -> str:
        path = os.path.join(self.path, name)
        os.makedirs(path, exist_ok=True)
        self.own(path)
        return path

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        path = os.path.join(self.path, name)
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))
        os.chmod(path, mode)
        self.own(path)
        return path

    def own(self, path: str) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def start(self, argv: list[str] | tuple[str, ...], **options: Any) -> subprocess.Popen[bytes]:
        """A program as this user."""
        return subprocess.Popen((*self._drop, *argv), **options)

    def command(self, *, python: str | None = None, before: tuple[str, ...] = ()) -> tuple[str, ...]:
        return (*self._drop, *before, python or self.python, self._driver)

    def order(self, code: str, tier: str, **options: Any) -> bytes:
        self.write("agent/agent.py", code)
        order = {
            "package": self._package,
            "agent": self.agent,
            "scratch": self.scratch,
            "tier": tier,
            "argv": options.pop("argv", None) or [self.python, "agent.py"],
            "policy": options.pop("policy", {}),
            "parameters": options.pop("parameters", {}),
            "limits": options.pop("limits", {}),
            "env": options.pop("env", {}),
            "cgroup": options.pop("cgroup", False),
            "record": options.pop("record", ""),
        }
        assert not options
        return json.dumps(order).encode() + b"\n"

    def run(self, code: str, tier: str, *, before: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
        """Runs `code` as an agent in a supervisor of its own; skips where the tier cannot be had."""
        path = os.environ["PATH"] if self.uid == os.getuid() else "/usr/local/bin:/usr/bin:/bin"
        done = subprocess.run(
            self.command(before=before),
            input=self.order(code, tier, **options),
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, "PATH": path, "SUPERVISORS_SECRET": "hidden"},
            cwd=self.path,
        )
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        if "unavailable" in answer:
            pytest.skip(f"no {tier} here: {answer['unavailable']}")
        return answer

    def without_landlock(self) -> tuple[str, ...]:
        """Words before a command, from where the kernel seems to have no Landlock."""
        code = f"""
        import os, sys
        sys.path.insert(0, {self._package!r})
        from agenthub.runtime.sandbox.seccomp import Rule, assemble, forbid_new_privileges, install
        forbid_new_privileges()
        install(assemble((Rule("landlock_create_ruleset", 38),)))
        os.execv(sys.argv[1], sys.argv[1:])
        """
        return (self.python, self.write("mask.py", code))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
