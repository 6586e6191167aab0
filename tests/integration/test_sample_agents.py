"""The sample agents, installed as a user installs them: each of their methods on real data."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys

import pytest

from tests.integration.openai_server import KEY, OpenAIServer
from tests.support import PROJECT, SAMPLES, assert_refused, install_into

SALES = os.path.join(SAMPLES, "data-analyst", "examples", "sales.csv")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Installs a sample when it is first asked for."""
    place, installed = tmp_path_factory.mktemp("samples") / "home", set()

    def with_agent(name):
        if name not in installed:
            install_into(place, os.path.join(SAMPLES, name))
            installed.add(name)
        return str(place)

    return with_agent


@pytest.fixture
def run(home, cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(agent, *words, **options):
        monkeypatch.setenv("AGENTHUB_HOME", home(agent))
        return cli("run", *options.pop("options", ()), agent, *words, **options)

    return run


# data-analyst ------------------------------------------------------------------------------------------------------

BY_REGION = "SELECT region, round(sum(amount), 2) AS total FROM data GROUP BY region ORDER BY region"


def expected_by_region():
    import csv

    totals: dict[str, float] = {}
    with open(SALES, newline="") as file:
        for row in csv.DictReader(file):
            totals[row["region"]] = totals.get(row["region"], 0) + float(row["amount"] or 0)
    return [{"region": region, "total": round(total, 2)} for region, total in sorted(totals.items())]


def test_sql_in_rows_out(run):
    finished = run("data-analyst", "query", "--file", SALES, "--sql", BY_REGION)
    assert finished.json == expected_by_region()
    assert finished.json[0] == {"region": "north", "total": 7249.79}


def test_a_parquet_file_is_read_as_well(run, home, tmp_path):
    python = os.path.join(home("data-analyst"), "agents", "local", "data-analyst", "venv", "bin", "python")
    code = "import sys, duckdb; duckdb.sql(f\"copy (from '{sys.argv[1]}') to '{sys.argv[2]}' (format parquet)\")"
    subprocess.run([python, "-c", code, SALES, tmp_path / "sales.parquet"], check=True)
    assert run("data-analyst", "query", "--file", "sales.parquet", "--sql", BY_REGION).json == expected_by_region()
    profile = run("data-analyst", "profile", "--file", "sales.parquet").json
    with open(SALES) as file:
        assert profile["rows"] == len(file.readlines()) - 1


def test_the_profile_of_a_table(run, tmp_path):
    (tmp_path / "small.csv").write_text("name,age\nann,30\nbob,40\ncy,\n")
    profile = run("data-analyst", "profile", "--file", "small.csv").json
    assert profile["rows"] == 3
    name, age = profile["columns"]
    assert (name["name"], name["distinct"], name["nulls"]) == ("name", 3, 0)
    assert (age["name"], age["nulls"], age["min"], age["max"], age["mean"]) == ("age", 1, 30, 40, 35)


@pytest.mark.parametrize(
    "words",
    [
        [],
        pytest.param(["--kind", "bar", "--aggregate", "mean"], marks=pytest.mark.slow),
        pytest.param(["--kind", "scatter"], marks=pytest.mark.slow),
    ],
)
def test_a_chart_is_a_png(run, words):
    finished = run("data-analyst", "plot", "--file", SALES, "--x", "month", "--y", "amount", *words)
    assert finished.code == 0, finished.err
    assert finished.stdout.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", finished.stdout[16:24])
    assert width > 200
    assert height > 200
    assert len(finished.stdout) > 5_000


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["query", "--file", SALES, "--sql", "SELEC 1"], "SELEC"),
        (["query", "--file", SALES, "--sql", "SELECT nothing FROM data"], "nothing"),
        (["query", "--file", SALES, "--sql", "DROP TABLE data"], "SELECT"),
        (["query", "--file", SALES, "--sql", "SELECT * FROM read_csv('/etc/passwd')"], ""),
        (["plot", "--file", SALES, "--x", "mnth", "--y", "amount"], "mnth"),
    ],
)
def test_what_the_data_analyst_refuses(run, words, complaint):
    assert_refused(run("data-analyst", *words), 1, "data-analyst", complaint)


# code-reviewer -----------------------------------------------------------------------------------------------------

BAD_CODE = """\
import os
import subprocess


def run(command):
    try:
        return subprocess.call(command, shell=True)
    except:
        return missing
"""


def test_findings_of_real_linters(run, tmp_path):
    (tmp_path / "bad.py").write_text(BAD_CODE)
    findings = run("code-reviewer", "review", "--path", "bad.py").json
    rules = {(finding["rule"], finding["line"], finding["tool"]) for finding in findings}
    assert {("F401", 1, "ruff"), ("E722", 8, "ruff"), ("F821", 9, "ruff"), ("B602", 7, "bandit")} <= rules
    assert {finding["file"] for finding in findings} == {"bad.py"}
    assert findings == sorted(findings, key=lambda one: (one["file"], one["line"], one["column"]))
    grave = run("code-reviewer", "review", "--path", ".", "--min-severity", "high", "--ignore", "B602").json
    assert [finding["rule"] for finding in grave] == ["F821"]
    assert set(os.listdir(tmp_path)) - {"home"} == {"bad.py"}


def test_findings_in_a_piece_of_code(run):
    finished = run("code-reviewer", "review_code", "--code", "import os", "--min-severity", "medium")
    [finding] = finished.json
    assert (finding["rule"], finding["line"], finding["severity"], finding["fixable"]) == ("F401", 1, "medium", True)
    assert run("code-reviewer", "review_code", "--code", "x = 1\n").json == []


def test_a_summary_counts_the_findings(run, tmp_path):
    (tmp_path / "bad.py").write_text(BAD_CODE)
    findings = run("code-reviewer", "review", "--path", "bad.py").json
    summary = run("code-reviewer", "summarize", "--path", "bad.py").json
    assert summary["findings"] == len(findings)
    assert sum(summary["by_severity"].values()) == len(findings)
    assert summary["by_rule"]["F401"] == 1


def test_metrics(run, tmp_path):
    (tmp_path / "code.py").write_text(
        "def simple():\n    return 1\n\n\ndef branchy(a):\n    if a:\n        return 1\n    return 2\n"
    )
    metrics = run("code-reviewer", "metrics", "--path", "code.py", "--top", "1").json
    assert "branchy" in json.dumps(metrics)
    assert "simple" not in json.dumps(metrics)


def test_its_own_project_is_reviewed(run):
    finished = run("code-reviewer", "summarize", "--path", os.path.join(PROJECT, "agenthub", "errors.py"))
    assert finished.code == 0, finished.err
    assert finished.json["by_severity"].get("high", 0) == 0


def test_code_that_does_not_parse_is_a_finding(run):
    [finding, *_] = run("code-reviewer", "review_code", "--code", "def (").json
    assert (finding["line"], finding["severity"]) == (1, "high")


# llm-writer --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


@pytest.fixture
def writer(run, server):
    """Runs a method of llm-writer, which may reach the endpoint of the test beside those that it declares."""
    allowed = ["--allow-network", f"127.0.0.1:{server.server_port}"]
    return lambda *words, options=(): run("llm-writer", *words, options=[*allowed, *options])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "asked", "instructed"),
    [
        (["write", "--prompt", "a note", "--style", "a limerick"], "a note", "a limerick"),
        (["summarize", "-i", "text=@long.txt", "--max-words", "7"], "a long text", "7 words"),
        (["translate", "--text", "Good morning", "--language", "German"], "Good morning", "German"),
    ],
)
def test_each_method_asks_the_endpoint(writer, server, tmp_path, words, asked, instructed):
    (tmp_path / "long.txt").write_text("a long text")
    assert writer(*words, "--model", "tiny").out == f"answer to: {asked}\n"
    [(_, authorization, body)] = server.requests
    assert authorization == f"Bearer {KEY}"
    assert body["model"] == "tiny"
    assert instructed in body["messages"][0]["content"]


@pytest.mark.slow
def test_the_model_of_the_environment(writer, server, monkeypatch):
    monkeypatch.setenv("OPENAI_MODEL", "mine")
    assert writer("write", "--prompt", "x").code == 0
    assert server.requests[0][2]["model"] == "mine"


def test_without_a_key_nothing_starts(run):
    assert_refused(run("llm-writer", "write", "--prompt", "x"), 2, "llm-writer", "OPENAI_API_KEY", "--env")


@pytest.mark.slow
def test_a_refused_key_is_an_error(writer):
    options = ["--env", "OPENAI_API_KEY=wrong"]
    assert_refused(writer("write", "--prompt", "x", options=options), 1, "llm-writer", "refused the key")


def test_an_endpoint_that_it_does_not_declare_is_refused(run, server):
    place = f"127.0.0.1:{server.server_port}"
    finished = run("llm-writer", "write", "--prompt", "x")
    assert_refused(finished, 5, f"was refused {place}", "it may reach api.openai.com", f"--allow-network {place}")
    assert server.requests == []


# text-tools --------------------------------------------------------------------------------------------------------


@needs_node
def test_words_are_counted(run, tmp_path):
    (tmp_path / "text.txt").write_text("The cat and the hat.\nThe end: café.\n")
    for words in (["--file", "text.txt"], ["-i", "text=@text.txt"]):
        counted = run("text-tools", "word_count", *words, "--top", "1").json
        assert (counted["words"], counted["lines"]) == (8, 2)
        assert "the" in json.dumps(counted).lower()


@needs_node
def test_slugs(run):
    assert run("text-tools", "slugify", "--text", "Crème brûlée & other desserts").out == (
        "creme-brulee-and-other-desserts\n"
    )
    assert run("text-tools", "slugify", "--text", "a b c", "--separator", "_").out == "a_b_c\n"
    assert len(run("text-tools", "slugify", "--text", "word " * 50, "--max-length", "20").out) <= 21


@needs_node
def test_a_diff_is_what_patch_reads(run, tmp_path):
    (tmp_path / "old.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "new.txt").write_text("one\n2\nthree\nfour\n")
    words = ["-i", "before=@old.txt", "-i", "after=@new.txt", "--before-name", "old.txt", "--after-name", "old.txt"]
    changes = run("text-tools", "diff", *words)
    assert "-two\n+2\n" in changes.out
    if shutil.which("patch"):
        subprocess.run(["patch", "-s", "old.txt"], input=changes.stdout, cwd=tmp_path, check=True)
        assert (tmp_path / "old.txt").read_text() == "one\n2\nthree\nfour\n"
    assert run("text-tools", "diff", "--before", "same", "--after", "same").out == "\n"


@needs_node
def test_an_agent_in_another_language_needs_no_python(run, cli, home, monkeypatch):
    monkeypatch.setenv("AGENTHUB_HOME", home("text-tools"))
    info = cli.ok("info", "text-tools", "--json").json
    assert info["interpreter"] is None
    assert not os.path.exists(os.path.join(info["path"], "venv"))


# the two commands of the README ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo(tmp_path):
    env = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "docs/demo.sh", os.path.relpath(tmp_path / "demo", PROJECT)], cwd=PROJECT, env=env, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b'{"region": "south", "total": 5154.95}' in done.stdout
    assert (tmp_path / "demo" / "chart.png").read_bytes().startswith(b"\x89PNG")
