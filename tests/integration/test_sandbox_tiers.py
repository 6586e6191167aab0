"""Which tier holds a run where tiers are taken away, and what `strict` says then."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess

import pytest
from processes_support import make_agent
from sandbox_support import BUBBLEWRAP, LANDLOCK, RLIMITS, TIERS, USERS, Place

from agenthub.errors import EnvironmentError, PermissionDeniedError
from agenthub.runtime.process_manager import ProcessManager
from agenthub.runtime.sandbox import probes
from agenthub.runtime.sandbox import tiers as probing
from agenthub.runtime.sandbox.confinement import confine
from agenthub.runtime.sandbox.declared_network import DeclaredNetwork
from agenthub.runtime.sandbox.guarantees import guarantees
from agenthub.runtime.sandbox.policy import Network, SandboxPolicy
from agenthub.runtime.sandbox.tiers import Tiers, available_tiers, probe_tiers

HERE = "print('{\"result\": 1}')"
NO_BUBBLEWRAP = ("/usr/bin/env", "PATH=/nowhere")
NO_USER_NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"',
    "sh",
)


@pytest.fixture(params=USERS)
def place(request):
    made = Place(request.param)
    yield made
    made.remove()


def held_by(place, before, **policy):
    answer = place.run(HERE, "best", before=before, policy=policy)
    return answer["completion"]["isolation"] if "result" in answer else answer


def test_the_best_tier_is_taken(place):
    assert held_by(place, ()) == BUBBLEWRAP


@pytest.mark.parametrize("before", [NO_BUBBLEWRAP, NO_USER_NAMESPACES], ids=["not installed", "no user namespaces"])
def test_landlock_is_next(place, before):
    assert held_by(place, before) == LANDLOCK
    assert held_by(place, before, level="strict") == LANDLOCK


def test_rlimits_are_last_and_strict_refuses(place):
    before = (*NO_BUBBLEWRAP, *place.without_landlock())
    assert held_by(place, before) == RLIMITS
    refused = held_by(place, before, level="strict")
    assert (refused["error_type"], refused["exit_code"]) == ("PermissionDeniedError", 5)
    assert "bubblewrap is not installed" in refused["error"]
    assert "no Landlock" in refused["error"]
    assert "apt install bubblewrap" in refused["suggestion"]


def test_bubblewrap_does_without_landlock(place):
    assert held_by(place, place.without_landlock(), level="strict") == BUBBLEWRAP


def test_off_is_off(place):
    assert held_by(place, (), level="off") == RLIMITS


def test_the_remedy_fits_the_cause(place):
    code = f"import sys; sys.path.insert(0, {place.path + '/package'!r})\n"
    code += "import json; from agenthub.runtime.sandbox.tiers import probe_tiers; print(json.dumps(probe_tiers()))"
    done = place.start((*NO_USER_NAMESPACES, place.python, "-c", code), stdout=subprocess.PIPE).communicate()[0]
    found = Tiers(*json.loads(done))
    assert found.best == LANDLOCK
    assert "bubblewrap does not work here" in found.reason
    assert found.remedy == "sudo sysctl user.max_user_namespaces=10000"


def test_a_kernel_with_less_landlock_is_not_strict():
    found = Tiers(LANDLOCK, abi=4, gaps=probes._gaps(4), reason="bubblewrap is not installed", remedy="install it")
    assert found.gaps
    with pytest.raises(PermissionDeniedError, match="signals to your other processes"):
        confine(SandboxPolicy("strict", "/a", "/s"), found)
    assert confine(SandboxPolicy("auto", "/a", "/s"), found).isolation == LANDLOCK
    assert probes._gaps(6) == ()


def test_the_answer_is_kept_until_the_machine_changes(tmp_path, monkeypatch):
    cache = str(tmp_path / "cache" / "isolation.json")
    monkeypatch.setattr(probing, "_found", {})
    first = available_tiers(cache)
    assert first == probe_tiers()
    calls = []
    monkeypatch.setattr(probing, "probe_tiers", lambda: calls.append(1) or Tiers(RLIMITS))
    monkeypatch.setattr(probing, "_found", {})
    assert available_tiers(cache) == first
    monkeypatch.setattr(probing, "_found", {})
    monkeypatch.setenv("PATH", "/nowhere")
    assert available_tiers(cache) == Tiers(RLIMITS)
    assert calls == [1]
    with open(cache, "w") as file:
        file.write("damaged")
    monkeypatch.setattr(probing, "_found", {})
    assert available_tiers(cache) == Tiers(RLIMITS)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("entrypoint", ["", "entrypoint: agent:Agent"], ids=["script", "method"])
def test_both_contracts_run_through_the_process_manager(tmp_path, tier, entrypoint):
    code = """
    import json, os, sys
    class Agent:
        def go(self):
            try:
                os.listdir(os.path.dirname(os.environ["HOME"]) + "/other")
                return "seen"
            except OSError:
                return "hidden"
    if __name__ == "__main__":
        print(json.dumps({"result": Agent().go()}))
    """
    agent = make_agent(tmp_path / "agent", code, entrypoint)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "other").mkdir()
    found = available_tiers()._replace(best=tier)
    confinement = confine(SandboxPolicy("auto", agent, str(scratch)), found)
    answer = ProcessManager().execute_agent(agent, "go", {}, scratch=str(scratch), confinement=confinement)
    assert answer["result"] == ("seen" if tier == RLIMITS else "hidden"), answer
    assert answer["usage"]["isolation"] == tier
    assert sorted(os.listdir(tmp_path)) == ["agent", "other", "scratch"]


@pytest.mark.parametrize("tier", [BUBBLEWRAP, LANDLOCK])
def test_any_network_is_the_hosts(tier):
    place = Place(USERS[-1])
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0agenthub-test-{os.urandom(8).hex()}")
    abstract.listen()
    try:
        code = """
        import errno, json, socket, sys
        order = json.loads(sys.argv[1])["parameters"]
        found = []
        for family, address in ((socket.AF_INET, tuple(order["tcp"])), (socket.AF_UNIX, "\\0" + order["abstract"])):
            try:
                with socket.socket(family) as made: made.connect(address)
                found.append("done")
            except OSError as error:
                found.append(errno.errorcode[error.errno])
        found.append(socket.getaddrinfo("localhost", 80)[0][4][0] in ("127.0.0.1", "::1"))
        print(json.dumps({"result": found}))
        """
        name = abstract.getsockname()[1:].decode()
        parameters = {"tcp": listener.getsockname(), "abstract": name}
        answer = place.run(code, tier, parameters=parameters, policy={"network": "any"})
        assert answer["result"] == ["done", "EAFNOSUPPORT", True], answer
    finally:
        listener.close()
        abstract.close()
        place.remove()


@pytest.mark.parametrize("tier", [BUBBLEWRAP, LANDLOCK])
def test_declared_hosts_are_reached_by_the_door(tmp_path, tier):
    """The seam: what the proxy does is tested where the proxy is."""
    code = """
    import json, urllib.request, sys
    port = json.loads(sys.argv[1])["parameters"]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer: text = answer.read().decode()
    try:
        urllib.request.urlopen("http://127.0.0.1:1/")
        refused = False
    except OSError:
        refused = True
    print(json.dumps({"result": [text, refused]}))
    """
    agent = make_agent(tmp_path / "agent", code)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    import http.server
    import threading

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]
        hosts = (f"127.0.0.1:{port}",)
        policy = SandboxPolicy("auto", agent, str(scratch), network=Network("hosts", hosts))
        try:
            with DeclaredNetwork(hosts, tier) as network:
                confinement = confine(policy, available_tiers()._replace(best=tier), network)
                answer = ProcessManager().execute_agent(
                    agent,
                    "go",
                    {"port": port},
                    scratch=str(scratch),
                    confinement=confinement,
                    env=dict(network.variables),
                )
        finally:
            server.shutdown()
            thread.join()
    assert answer.get("result") == ["hello", True], answer


def test_a_failing_door_ends_the_run(tmp_path):
    class Broken:
        def enter_namespace(self, pid):
            raise OSError(5, "no way in")

        def restrict_thread(self):
            raise AssertionError

    agent = make_agent(tmp_path / "agent", HERE)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    policy = SandboxPolicy("auto", agent, str(scratch), network=Network("hosts", ("a.example",)))
    confinement = confine(policy, available_tiers()._replace(best=BUBBLEWRAP), Broken())
    with pytest.raises(EnvironmentError, match="no way in"):
        ProcessManager().execute_agent(agent, "go", {}, scratch=str(scratch), confinement=confinement)


def test_a_vanished_bubblewrap_is_told(tmp_path):
    agent = make_agent(tmp_path / "agent", HERE)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fake = tmp_path / "bwrap"
    shutil.copy("/bin/sh", fake)
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n")
    found = available_tiers()._replace(best=BUBBLEWRAP, bwrap=str(fake))
    confinement = confine(SandboxPolicy("auto", agent, str(scratch)), found)
    answer = ProcessManager().execute_agent(agent, "go", {}, scratch=str(scratch), confinement=confinement)
    assert answer["error_type"] == "EnvironmentError"
    assert "uid map" in answer["error"]


def _states(tiers, **options):
    return {row.name: row.state for row in guarantees(tiers, **{"cgroup": False, "root": False, **options})}


def test_guarantees_follow_the_tier():
    best = _states(Tiers(BUBBLEWRAP, bwrap="/bwrap", abi=7), cgroup=True)
    assert set(best.values()) == {"ok"}
    lower = _states(Tiers(LANDLOCK, abi=7, reason="none", remedy="install it"))
    assert [name for name, state in lower.items() if state != "ok"] == [
        "sandbox",
        "agenthub itself is killed",
        "memory",
        "number of processes",
    ]
    assert _states(Tiers(LANDLOCK, abi=7), root=True)["no survivors"] == "warning"
    assert _states(Tiers(LANDLOCK, abi=4))["other processes"] == "warning"
    assert set(_states(Tiers(RLIMITS)).values()) == {"warning"}


def test_what_does_not_hold_has_a_remedy():
    rows = guarantees(Tiers(RLIMITS, reason="none", remedy="install it"), cgroup=False, root=False)
    assert all(row.remedy for row in rows if row.state != "ok")
