"""Agents from git over ssh and https, as far as one machine has both ends of them."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import threading
import urllib.parse

import pytest

from tests.integration.faults_support import Hub, processes_about, until, write_agent

USER, PASSWORD = "reader", "s3cret-word"


def git(where, *arguments):
    settings = {
        "user.name": "A",
        "user.email": "a@example.org",
        "init.defaultBranch": "main",
        "commit.gpgsign": "false",
    }
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", *options, "-C", str(where), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


class Remote:
    """A directory of bare repositories, `somebody/probe.git` and `somebody/private.git`, and the commits in them."""

    def __init__(self, root):
        self.root = root / "srv"
        work = write_agent(root / "work", "first")
        write_agent(work / "agents" / "inner", "inner", name="inner")
        git(work, "init", "-q")
        git(work, "add", "-A")
        git(work, "commit", "-qm", "first")
        self.first = git(work, "rev-parse", "HEAD")
        git(work, "tag", "-a", "-m", "x", "v1.0")
        git(work, "checkout", "-qb", "feature/branch")
        write_agent(work, "branched")
        git(work, "commit", "-qam", "branched")
        self.branched = git(work, "rev-parse", "HEAD")
        git(work, "checkout", "-q", "main")
        write_agent(work, "latest")
        git(work, "commit", "-qam", "latest")
        self.latest = git(work, "rev-parse", "HEAD")
        for name in ("probe", "private"):
            bare = self.root / "somebody" / f"{name}.git"
            bare.parent.mkdir(parents=True, exist_ok=True)
            git(root, "clone", "-q", "--bare", str(work), str(bare))
            git(bare, "update-server-info")


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    return Remote(tmp_path_factory.mktemp("remote"))


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def source_of(hub, agent):
    return json.loads(hub.ok("info", agent, "--json"))["source"]


def nothing_is_left(hub):
    assert hub.leftovers() == []
    assert hub.versions() == []
    assert processes_about(hub.root) == {}


# ssh


@pytest.fixture
def by_ssh(hub, remote):
    """A command whose ssh runs what it is asked to on this machine, below the remote's directory, and notes it."""
    script = hub.root / "bin" / "ssh"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f'printf "%s|" "$@" >>"{hub.root}/asked"\n'
        "for last; do :; done\n"
        f'cd "{remote.root}" && exec sh -c "$(printf "%s" "$last" | sed "s|\'/|\'./|")"\n'
    )
    script.chmod(0o755)
    hub.variables["GIT_SSH_COMMAND"] = str(script)
    return hub


def asked(hub):
    return (hub.root / "asked").read_text().split("|")


@pytest.mark.parametrize(
    "spec",
    [
        "git+ssh://git@example.test/somebody/probe.git",
        "git@example.test:somebody/probe.git",
        "git+git@example.test:somebody/probe.git",
        "ssh://git@example.test/somebody/probe.git",
    ],
)
def test_ssh(by_ssh, remote, spec):
    by_ssh.install(spec)
    assert by_ssh.ok("run", "somebody/probe", "which") == "latest\n"
    assert source_of(by_ssh, "probe")["commit"] == remote.latest
    assert "git@example.test" in asked(by_ssh)


def test_ssh_with_a_port_and_a_ref(by_ssh, remote):
    by_ssh.install("git+ssh://git@example.test:2222/somebody/probe.git@v1.0")
    assert by_ssh.ok("run", "probe", "which") == "first\n"
    words = asked(by_ssh)
    assert words[words.index("-p") + 1] == "2222"
    source = source_of(by_ssh, "probe")
    assert (source["ref"], source["commit"]) == ("v1.0", remote.first)


def test_ssh_and_a_missing_repository(by_ssh):
    by_ssh.fails(4, "install", "--yes", "git@example.test:somebody/nothing.git", says=("nothing.git", "not appear"))
    nothing_is_left(by_ssh)


@pytest.mark.parametrize(
    ("complaint", "way_out"),
    [
        ("git@example.test: Permission denied (publickey).", "ssh-add"),
        ("Host key verification failed.", "connect once"),
        ("ssh: Could not resolve hostname example.test: Name or service not known", "Could not resolve"),
    ],
)
def test_ssh_that_fails(by_ssh, complaint, way_out):
    script = by_ssh.root / "bin" / "ssh"
    script.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 255\n")
    by_ssh.fails(4, "install", "--yes", "git@example.test:somebody/probe.git", says=(complaint, way_out))
    nothing_is_left(by_ssh)


def test_ssh_that_is_missing(hub):
    hub.variables["GIT_SSH_COMMAND"] = "/nowhere/ssh"
    hub.fails(4, "install", "--yes", "git@example.test:somebody/probe.git", says=("somebody/probe.git", "/nowhere/ssh"))
    nothing_is_left(hub)


def hanging(hub):
    script = hub.root / "bin" / "ssh"
    script.write_text(f"#!/bin/sh\n: >'{hub.root}/hangs'\nexec sleep 600\n")
    process = hub.start("install", "--yes", "git@example.test:somebody/probe.git")
    until(lambda: (hub.root / "hangs").exists() or process.poll() is not None, "ssh hangs")
    until(lambda: pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S", "we wait")
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_fetch_that_is_stopped(by_ssh, number):
    process = hanging(by_ssh)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()) == (130, ["error: interrupted"])
    nothing_is_left(by_ssh)


def test_a_fetch_that_is_killed(by_ssh, remote, tmp_path):
    process = hanging(by_ssh)
    process.kill()
    process.communicate()
    until(lambda: not processes_about(by_ssh.root), f"git has ended: {processes_about(by_ssh.root)}", 20)
    by_ssh.install(write_agent(tmp_path / "other", name="other"))
    assert by_ssh.leftovers() == []


# https


class Handler(http.server.SimpleHTTPRequestHandler):
    """`/smart/…` by git's own program, `/dumb/…` as files, `/private/…` with a password, and `/moved/…` elsewhere."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        kind, _, rest = self.path.lstrip("/").partition("/")
        self.server.requests.append((kind, self.headers.get("Host", ""), self.headers.get("Authorization")))
        if kind == "private":
            expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if self.headers.get("Authorization") != expected:
                return self._answer(401, {"WWW-Authenticate": 'Basic realm="agents"'})
        if kind in ("smart", "private"):
            return self._run_git("/" + rest)
        if kind == "dumb":
            self.path = "/" + rest
            return super().do_GET()
        if kind in self.server.moved:
            return self._answer(301, {"Location": f"{self.server.moved[kind]}/{rest}"})
        return self._answer(404 if kind == "missing" else 500, {})

    do_POST = do_GET  # noqa: N815 - the base class's spelling

    def _answer(self, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _run_git(self, path):
        url = urllib.parse.urlsplit(path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.directory,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving(remote, context=None):
    def handler(*arguments):
        return Handler(*arguments, directory=str(remote.root))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests, server.moved = [], {}
        server.daemon_threads = True
        server.handle_error = lambda *arguments: None  # clients that hang up on a certificate
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    place = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    made = subprocess.run(command.split(), cwd=place, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "cert.pem", place / "key.pem")
    return place / "cert.pem", context


@pytest.fixture
def server(hub, remote, certificate):
    """A server that the command's git trusts; `server.url` is its address."""
    path, context = certificate
    hub.variables["GIT_SSL_CAINFO"] = str(path)
    with serving(remote, context) as server:
        server.url = f"https://localhost:{server.server_port}"
        yield server


def test_https(hub, server, remote):
    hub.install(f"git+{server.url}/smart/somebody/probe.git")
    assert hub.ok("run", "probe", "which") == "latest\n"
    source = source_of(hub, "probe")
    assert (source["kind"], source["commit"], source["ref"]) == ("git", remote.latest, None)
    assert source["location"] == f"{server.url}/smart/somebody/probe.git"


@pytest.mark.parametrize("kind", ["smart", pytest.param("dumb", marks=pytest.mark.slow)])
def test_https_with_refs(hub, server, remote, kind):
    url = f"git+{server.url}/{kind}/somebody/probe.git"
    cases = {
        "v1.0": ("first", remote.first),
        "feature/branch": ("branched", remote.branched),
        "main": ("latest", remote.latest),
        remote.first: ("first", remote.first),
        remote.branched[:12]: ("branched", remote.branched),
    }
    for ref, (answer, commit) in cases.items():
        hub.install("--force", "--as", "x/probe", f"{url}@{ref}")
        assert hub.ok("run", "x/probe", "which") == f"{answer}\n"
        assert source_of(hub, "probe")["commit"] == commit
    assert len(hub.versions()) == 3  # the current one and those before it, each content once


def test_https_with_a_subdirectory(hub, server, remote):
    hub.install(f"git+{server.url}/smart/somebody/probe.git@v1.0#subdirectory=agents/inner")
    assert hub.ok("run", "inner", "which") == "inner\n"
    source = source_of(hub, "inner")
    assert (source["subdirectory"], source["commit"]) == ("agents/inner", remote.first)


@pytest.mark.parametrize("kind", ["smart", pytest.param("dumb", marks=pytest.mark.slow)])
def test_https_and_what_is_not_there(hub, server, kind):
    url = f"git+{server.url}/{kind}/somebody/probe.git"
    hub.fails(4, "install", "--yes", f"{url}@v1.1", says=("probe.git", "'v1.1'", "did you mean 'v1.0'?"))
    hub.fails(4, "install", "--yes", f"{url}@{'0' * 39}1", says=("probe.git", "0000001"))
    hub.fails(4, "install", "--yes", f"{url}#subdirectory=agents/outer", says=("probe.git", "'agents/outer'"))
    hub.fails(4, "install", "--yes", f"git+{server.url}/missing/somebody/probe.git", says=("probe.git", "not found"))
    hub.fails(4, "install", "--yes", f"git+{server.url}/{kind}/somebody/nothing.git", says=("nothing.git", "not found"))
    hub.fails(4, "install", "--yes", f"git+{server.url}/broken/somebody/probe.git", says=("probe.git", "500"))
    nothing_is_left(hub)


def test_https_without_and_with_the_right_password(hub, server):
    path = "private/somebody/private.git"
    hub.fails(4, "install", "--yes", f"git+{server.url}/{path}", says=("private.git", "credential helper", "ssh"))
    wrong = server.url.replace("://", f"://{USER}:wrong-word@")
    errors = hub.fails(4, "install", "--yes", f"git+{wrong}/{path}", says=("private.git",))
    assert "wrong-word" not in errors
    nothing_is_left(hub)
    right = server.url.replace("://", f"://{USER}:{PASSWORD}@")
    finished = hub.run("install", "--yes", "-v", f"git+{right}/{path}")
    assert finished.returncode == 0, finished
    everything = finished.stdout + finished.stderr + hub.ok("info", "probe") + hub.ok("info", "probe", "--json")
    assert PASSWORD not in everything
    for file in hub.home.rglob("*.json"):
        assert PASSWORD not in file.read_text()


def test_https_with_a_certificate_nobody_vouches_for(hub, server):
    del hub.variables["GIT_SSL_CAINFO"]
    hub.fails(4, "install", "--yes", f"git+{server.url}/smart/somebody/probe.git", says=("probe.git", "certificate"))
    nothing_is_left(hub)
    assert server.requests == []


@pytest.mark.slow
def test_https_moved_to_another_host(hub, server, remote, certificate):
    """Followed, as git does for a repository that was renamed; the password stays with whom it was meant for."""
    with serving(remote, certificate[1]) as other:
        server.moved["moved"] = f"https://127.0.0.1:{other.server_port}/smart"
        right = server.url.replace("://", f"://{USER}:{PASSWORD}@")
        hub.install(f"git+{right}/moved/somebody/probe.git")
        assert hub.ok("run", "probe", "which") == "latest\n"
        assert source_of(hub, "probe")["commit"] == remote.latest
        assert {kind for kind, *_ in other.requests} == {"smart"}
        assert {authorization for *_, authorization in other.requests} == {None}


@pytest.mark.slow
def test_https_moved_to_where_nobody_may_listen(hub, server, remote):
    with serving(remote) as plain:
        server.moved["plain"] = f"http://127.0.0.1:{plain.server_port}/smart"
        server.moved["file"] = f"file://{remote.root}"
        server.moved["round"] = f"{server.url}/round"
        for kind in server.moved:
            hub.fails(4, "install", "--yes", f"git+{server.url}/{kind}/somebody/probe.git", says="probe.git")
        assert plain.requests == []
    nothing_is_left(hub)


def test_a_server_that_has_gone(hub, certificate, remote):
    with serving(remote, certificate[1]) as server:
        port = server.server_port
    hub.fails(4, "install", "--yes", f"git+https://localhost:{port}/a/b.git", says=("a/b.git", str(port)))
    nothing_is_left(hub)


def test_http_on_this_machine_only(hub, remote):
    with serving(remote) as server:
        hub.install(f"git+http://127.0.0.1:{server.server_port}/smart/somebody/probe.git")
        assert hub.ok("run", "probe", "which") == "latest\n"
    hub.fails(4, "install", "--yes", "git+http://example.test/a/b.git", says=("refused", "https://"))


def test_upgrading_to_a_new_commit(hub, server, remote, tmp_path):
    """Installing the same source again does nothing while the remote has nothing new."""
    url = f"git+{server.url}/smart/somebody/probe.git@main"
    hub.install(url)
    report = json.loads(hub.ok("install", "--yes", "--json", url))["agents"][0]
    assert report["changed"] is False
    hub.install("--force", f"{url[: url.rindex('@')]}@feature/branch")
    assert source_of(hub, "probe")["commit"] == remote.branched
