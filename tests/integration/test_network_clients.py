"""Ordinary clients, unchanged, through the proxy: what users' agents really use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from agenthub.runtime.environments.tools import find_uv
from agenthub.runtime.sandbox.proxy_address import proxy_variables
from tests.integration.network_support import (
    NAME,
    PATIENCE,
    Server,
    make_certificate,
    proxying,
    serving,
    tls_server,
)


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """An interpreter with the clients that agents use."""
    place = str(tmp_path_factory.mktemp("clients") / "venv")
    for words in (
        ("venv", "--quiet", "--python", sys.executable, place),
        ("pip", "install", "--quiet", "--python", place, "requests", "httpx", "openai"),
    ):
        subprocess.run([find_uv(), *words], check=True, capture_output=True, timeout=120)
    return os.path.join(place, "bin", "python")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def place(certificate):
    """A proxy for one declared name, with a plain and a secure server behind it."""
    with serving(Server()) as plain, serving(tls_server(certificate)) as secure:
        ports = (plain.port, secure.port)
        hosts = [f"{host}:{port}" for host in (NAME, "127.0.0.1") for port in ports]
        names = {NAME: "127.0.0.1"}
        with proxying(*hosts, names=names, tls_ports=(secure.port,)) as proxy:
            proxy.plain, proxy.secure = f"http://{NAME}:{plain.port}", f"https://{NAME}:{secure.port}"
            yield proxy


@pytest.fixture
def run(place, python, certificate):
    """Runs code with an interpreter that has the clients; `plain` and `secure` are the servers' addresses."""
    trust = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), certificate)
    env = {"PATH": os.environ["PATH"], **trust, **proxy_variables(place.port)}

    def work(*words):
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=PATIENCE * 2)

    def code(text):
        prelude = f"plain = {place.plain!r}\nsecure = {place.secure!r}\n"
        done = work(python, "-c", prelude + text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code.program = work
    return code


CLIENTS = {
    "urllib": """
import urllib.request
for base in (plain, secure):
    print(urllib.request.urlopen(base + "/x").read().decode())
""",
    "requests": """
import requests
with requests.Session() as session:
    for base in (plain, secure, plain, secure):
        print(session.get(base + "/x").text)
""",
    "requests, a body of unknown length": """
import requests
for base in (plain, secure):
    print(requests.post(base + "/echo", data=iter([b"hello", b" /x"])).text)
""",
    "httpx": """
import httpx
with httpx.Client() as client:
    for base in (plain, secure, plain, secure):
        print(client.get(base + "/x").text)
""",
    "httpx, asynchronous": """
import asyncio, httpx
async def main():
    async with httpx.AsyncClient() as client:
        found = await asyncio.gather(*(client.get(base + "/x") for base in [plain, secure] * 10))
        print("\\n".join(answer.text for answer in found))
asyncio.run(main())
""",
    "http.client with a tunnel": """
import http.client, os, ssl
from urllib.parse import urlsplit
through = urlsplit(os.environ["HTTPS_PROXY"])
there = urlsplit(secure)
connection = http.client.HTTPSConnection(through.hostname, through.port)
connection.set_tunnel(there.hostname, there.port)
for _ in range(2):
    connection.request("GET", "/x")
    print(connection.getresponse().read().decode())
""",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_the_declared_host(run, client):
    lines = run(CLIENTS[client]).splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"hello /x"}


def test_openai_reaches_its_endpoint(run):
    out = run("""
import openai
for base in (plain, secure):
    client = openai.OpenAI(api_key="none", base_url=base + "/v1")
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    print(answer.choices[0].message.content)
""")
    assert out == "spoken\nspoken\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_reaches_the_declared_host_and_no_other(run, place):
    for base in (place.plain, place.secure):
        done = run.program("curl", "-sS", "--expect100-timeout", "10", "-d", "x" * 100_000, base + "/echo")
        assert done.stdout == "x" * 100_000, done.stderr
    done = run.program("curl", "-sS", "https://evil.example.com/")
    assert done.returncode == 56
    assert "403" in done.stderr
    done = run.program("curl", "-sS", "http://evil.example.com/")
    assert "--allow-network evil.example.com" in done.stdout


REDIRECTS = {
    "urllib": """
import urllib.request, urllib.error
try:
    urllib.request.urlopen(plain + "/redirect?to=http://redirected.example.com/")
except urllib.error.HTTPError as error:
    print(error.code, error.reason)
""",
    "requests": """
import requests
answer = requests.get(plain + "/redirect?to=http://redirected.example.com/")
print(answer.status_code, answer.reason)
""",
    "httpx, secure": """
import httpx
try:
    httpx.get(secure + "/redirect?to=https://redirected.example.com/", follow_redirects=True)
except httpx.ProxyError as error:
    print(error)
""",
}


@pytest.mark.parametrize("client", REDIRECTS)
def test_a_redirect_elsewhere_is_refused_and_the_client_is_told_why(run, place, client):
    out = run(REDIRECTS[client])
    assert out.startswith("403 Forbidden by agenthub: redirected.example.com:")
    assert "not declared" in out
    assert "redirected.example.com" in {refusal.host for refusal in place.refusals}


def test_the_suggestion_is_what_a_user_types(run, place):
    run("""
import urllib.request, urllib.error
for url in ("https://api.elsewhere.example/", "http://api.elsewhere.example:8080/"):
    try:
        urllib.request.urlopen(url)
    except OSError:
        pass
""")
    said = {refusal.port: refusal.suggestion for refusal in place.refusals if refusal.host == "api.elsewhere.example"}
    assert said == {
        443: "declare `network: [api.elsewhere.example]` or run with --allow-network api.elsewhere.example",
        8080: "declare `network: [api.elsewhere.example:8080]` or run with --allow-network api.elsewhere.example:8080",
    }


def test_importing_the_proxy_is_cheap():
    code = (
        "import sys, json; import agenthub.runtime.sandbox.declared_network; "
        "print(json.dumps(sorted({'asyncio','ssl','http','ipaddress','urllib','email','logging'} & set(sys.modules))))"
    )
    out = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True, timeout=PATIENCE).stdout
    assert json.loads(out) == []
