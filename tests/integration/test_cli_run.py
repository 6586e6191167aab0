"""`agenthub run`: inputs, variables, caps, what reaches stdout, and the refusals before anything starts."""

from __future__ import annotations

import json
import os

import pytest

from tests.support import assert_refused, in_terminal, install_into, method, write_agent

CODE = r"""
import json, os, sys, time


class Probe:
    def echo(self, text="", number=0, ratio=0.5, flag=False, names=(), table=None, colour="red", secret=None):
        return [text, number, ratio, flag, list(names), table or {}, colour, secret]

    def text(self, value):
        return value

    def measured(self, data):
        return {"length": len(data), "ends": [data[:1], data[-1:]]}

    def large(self, size):
        return "x" * size

    def environment(self):
        return {"variables": dict(os.environ), "here": os.getcwd(), "in_home": os.listdir(os.path.expanduser("~"))}

    def read(self, file, config_path="", plain=""):
        with open(file) as opened:
            return {"content": opened.read(), "file": file, "config_path": config_path, "plain": plain}

    def listing(self, directory):
        return [directory, sorted(os.listdir(directory))]

    def write(self, target):
        with open(target, "w") as opened:
            opened.write("written")
        return target

    def picture(self, name="chart.png"):
        with open(name, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n\xff\x00")
        return name

    def stolen(self, answer):
        return answer

    def sleep(self, seconds):
        time.sleep(seconds)
        return "slept"

    def briefly(self):
        time.sleep(60)

    def eat(self, size):
        block = bytearray(os.urandom(1 << 20)) * (size >> 20)
        return len(block)

    def speak(self):
        print("to stdout")
        print("to stderr \x1b[31mred", file=sys.stderr)
        return "said"

    def stream(self, count):
        yield from range(count)

    async def later(self):
        return "awaited"

    def options(self, json="none", timeout="none"):
        return [json, timeout]
"""
FILE = {"type": "file", "required": True}
METHODS = {
    "echo": method(
        text="string",
        number={"type": "integer", "default": 7, "minimum": 0},
        ratio="number",
        flag="boolean",
        names={"type": "array", "items": {"type": "string"}},
        table="object",
        colour={"type": "string", "enum": ["red", "green"], "default": "green"},
        secret={"type": ["integer", "null"]},
    ),
    "text": method(value={"type": "string", "required": True}),
    "measured": method(data={"type": "string", "required": True}),
    "large": method(size={"type": "integer", "required": True}),
    "environment": method(),
    "read": method(file=FILE, config_path="string", plain="string"),
    "listing": method(directory={"type": "directory", "required": True}),
    "write": method(target={"type": "file", "access": "write", "required": True}),
    "picture": {**method(name="string"), "returns": {"type": "file", "media_type": "image/png"}},
    "stolen": {**method(answer={"type": "string", "required": True}), "returns": {"type": "file"}},
    "sleep": method(seconds={"type": "number", "required": True}),
    "briefly": {**method(), "timeout": 0.3},
    "eat": method(size={"type": "integer", "required": True}),
    "speak": method(),
    "stream": method(count={"type": "integer", "required": True}),
    "later": method(),
    "options": method(json="string", timeout="string"),
}
DEFAULTS = ["", 7, 0.5, False, [], {}, "green", None]


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("probes")
    probe = write_agent(place / "probe", CODE, METHODS, entrypoint="agent:Probe")
    needy = write_agent(
        place / "needy",
        "import os\ndef go():\n    return {k: v for k, v in os.environ.items() if k.startswith('NEEDY_')}",
        entrypoint="agent",
        environment={
            "required": {"NEEDY_KEY": "the key of the service"},
            "optional": {"NEEDY_URL": "another service"},
            "secret": {"NEEDY_TOKEN": "who you are"},
        },
    )
    script = write_agent(place / "script", SCRIPT, {"go": method(data="string")})
    install_into(place / "home", probe, needy, script)
    return install_into(place / "home", probe, "--as", "other/probe")


SCRIPT = r"""
import json, os, sys
request = json.load(sys.stdin)
facts = {
    "arguments": len(sys.argv) - 1,
    "same": len(sys.argv) > 1 and json.loads(sys.argv[1]) == request,
    "length": len(request["parameters"].get("data", "")),
    "here": os.getcwd() == os.path.dirname(os.path.abspath(__file__)),
    "home_is_elsewhere": os.path.expanduser("~") != os.getcwd() and os.environ["TMPDIR"] == os.path.expanduser("~"),
}
print(json.dumps({"result": facts}))
"""


@pytest.fixture
def run(shared, cli, monkeypatch, tmp_path):
    """Runs a method of local/probe, in a directory of the test's own."""
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    monkeypatch.chdir(tmp_path)
    return lambda *words, **options: cli("run", "local/probe", *words, **options)


@pytest.fixture
def agenthub(shared, cli, monkeypatch, tmp_path):
    """Any command on the shared store."""
    monkeypatch.setenv("AGENTHUB_HOME", shared)
    monkeypatch.chdir(tmp_path)
    return cli


# inputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["--text", "hello", "--number", "3"], ""),
        (["--text=hello", "--number=3"], ""),
        (["-i", "text=hello", "-i", "number=3"], ""),
        (['{"text": "hello", "number": 3}'], ""),
        (["-"], '{"text": "hello", "number": 3}'),
        (['{"text": "replaced", "number": 3}', "--text", "hello"], ""),
        (["--number", "3", "-i", "text=hello", "{}"], ""),
    ],
)
def test_the_spellings_of_an_input_mean_the_same(run, words, stdin):
    finished = run("echo", *words, stdin=stdin)
    assert finished.code == 0, finished.err
    assert finished.json == ["hello", 3, *DEFAULTS[2:]]
    assert finished.err == ""


def test_defaults_are_the_manifests_and_then_the_codes(run):
    assert run("echo").json == DEFAULTS


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        (["--ratio", "2"], 2, 2),
        (["--ratio", "1e-3"], 2, 0.001),
        (["--flag"], 3, True),
        (["--no-flag"], 3, False),
        (["--flag", "yes"], 3, True),
        (["--names", "a, b"], 4, ["a", "b"]),
        (["--names", "a", "--names", "b,c"], 4, ["a", "b,c"]),
        (["--names", '["a", "b"]'], 4, ["a", "b"]),
        (["--table", '{"k": [1, null]}'], 5, {"k": [1, None]}),
        (["--secret", "5"], 7, 5),
        (["--secret", "null"], 7, None),
        (["--text", "Grüße 🎈\n\"'\\"], 0, "Grüße 🎈\n\"'\\"),
        (["--text=--dashes"], 0, "--dashes"),
        (["-i", "text=a=b"], 0, "a=b"),
    ],
)
def test_text_is_converted_by_the_declared_type(run, words, place, value):
    finished = run("echo", *words)
    assert finished.code == 0, finished.err
    assert finished.json[place] == value


@pytest.mark.parametrize(
    ("words", "complaints"),
    [
        (["echo", "--number", "three"], ["number", "'three'", "an integer"]),
        (["echo", "--number", "-1"], ["number", "0"]),
        (["echo", "--flag", "perhaps"], ["flag", "true or false"]),
        (["echo", "--colour", "blue"], ["colour", "red", "green"]),
        (["echo", "--table", "[1]"], ["table", "a JSON object"]),
        (["echo", "--ratio", "NaN"], ["ratio", "a number"]),
        (["echo", "--txet", "x"], ["no parameter 'txet'", "'text'", "parameters: text, number"]),
        (["echo", "-i", "txet=x"], ["no parameter 'txet'", "'text'"]),
        (["echo", '{"txet": 1}'], ["no parameter 'txet'", "'text'"]),
        (["echo", '{"text": 1}'], ["text"]),
        (["echo", '{"number": true}'], ["number"]),
        (["echo", "-i", "text"], ["'text' is not NAME=VALUE"]),
        (["echo", "-i", "text=@missing.txt"], ["cannot read missing.txt"]),
        (["echo", "--text", "a", "--text", "b"], ["text", "2 times"]),
        (["echo", "text"], ["'text' is not an input", "--name value"]),
        (["echo", "{broken"], ["the input is not valid JSON"]),
        (["echo", "[1]"], ["'[1]' is not an input"]),
        (["echo", '{"a":' * 5000], ["the input is"]),
        (["text"], ["text needs 'value'", "--value STRING"]),
        (["read", "--file", "nowhere.csv"], ["file", "nowhere.csv does not exist"]),
        (["read", "--file", "."], ["file", "is a directory"]),
        (["listing", "--directory", "nowhere"], ["directory", "does not exist"]),
        (["write", "--target", "nowhere/out.txt"], ["target", "does not exist"]),
        ([], ["needs a METHOD", "methods: echo, text"]),
    ],
)
def test_a_bad_input_is_refused_before_anything_starts(run, words, complaints):
    assert_refused(run(*words), 2, *complaints)


@pytest.mark.parametrize(("text", "complaint"), [("{", "not valid JSON"), ("[]", "not a JSON object"), ("", "valid")])
def test_bad_json_on_stdin(run, text, complaint):
    assert_refused(run("echo", "-", stdin=text), 2, "standard input", complaint)


def test_invalid_utf8_on_stdin_is_bad_input(run):
    assert_refused(run("echo", "-", stdin=b'{"text": "\xff"}'), 2, "standard input", "UTF-8")


def test_at_reads_a_file(run, tmp_path):
    (tmp_path / "prompt.txt").write_text("several\nlines\n")
    assert run("echo", "-i", "text=@prompt.txt").json[0] == "several\nlines\n"


def test_at_reads_no_binary_file(run, tmp_path):
    (tmp_path / "blob").write_bytes(b"\xff\xfe")
    assert_refused(run("echo", "-i", "text=@blob"), 2, "blob is not UTF-8")


def test_a_parameter_wins_over_an_option_of_the_same_name(run):
    assert run("options", "--json", "mine", "--timeout", "soon").json == ["mine", "soon"]


def test_options_may_follow_the_inputs(run):
    envelope = run("echo", "--text", "hi", "--json").json
    assert envelope["result"][0] == "hi"


def test_help_of_a_method_shows_its_parameters(run):
    finished = run("echo", "--help")
    assert finished.code == 0
    for text in ("what the test needs", "--text STRING", "the colour", "--timeout TIME", "NAME=VALUE"):
        assert text in finished.out


# paths -------------------------------------------------------------------------------------------------------------


def test_relative_paths_keep_their_meaning_although_the_agent_runs_elsewhere(run, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("content")
    finished = run("read", "--file", "data/../data/a.txt", "--config-path", "data", "--plain", "data")
    assert finished.json == {
        "content": "content",
        "file": str(tmp_path / "data" / "a.txt"),
        "config_path": str(tmp_path / "data"),  # an old agent's string that is called a path, and names something
        "plain": "data",
    }
    assert run("read", "-i", "file=@data/a.txt").json["content"] == "content"
    assert run("listing", "--directory", "data").json == [str(tmp_path / "data"), ["a.txt"]]


def test_a_file_to_write_need_not_exist(run, tmp_path):
    assert run("write", "--target", "new.txt").out == f"{tmp_path / 'new.txt'}\n"
    assert (tmp_path / "new.txt").read_text() == "written"


# the environment of a run ------------------------------------------------------------------------------------------


def test_the_agent_sees_an_allow_list_of_variables(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MY_PASSWORD", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LANG", "C.UTF-8")
    seen = run("environment").json["variables"]
    assert seen["LANG"] == "C.UTF-8"
    assert seen["PATH"].startswith(seen["VIRTUAL_ENV"] + "/bin:")
    allowed = {"LANG", "TZ", "PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "VIRTUAL_ENV", "AGENTHUB_RUN_ID"}
    allowed |= {"PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    certificates = {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"}
    shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert {name for name in seen if not name.startswith("LC_")} <= allowed | certificates | shell


def test_home_and_tmpdir_are_a_scratch_directory_that_is_gone_afterwards(run):
    seen = run("environment").json
    scratch = seen["variables"]["HOME"]
    assert seen["variables"]["TMPDIR"] == scratch
    assert os.path.realpath(scratch) == os.path.realpath(seen["here"])
    assert seen["in_home"] == []
    assert not os.path.exists(scratch)


def test_scratch_is_gone_after_a_failure_too(run):
    envelope = run("--json", "--timeout", "0.3", "sleep", "--seconds", "60").json
    from agenthub.config import scratch_base

    base = scratch_base()
    assert not [name for name in os.listdir(base) if envelope["run_id"] in name]


def test_env_passes_variables(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FROM_HERE", "inherited")
    (tmp_path / "keys.env").write_text("# keys\n\nexport FROM_FILE='in quotes'\nEMPTY=\nWITH=a=b # c\n")
    words = ["--env", "FROM_HERE", "--env", "GIVEN=a=b", "--env-file", "keys.env", "environment"]
    seen = run(*words).json["variables"]
    expected = {"FROM_HERE": "inherited", "GIVEN": "a=b", "FROM_FILE": "in quotes", "EMPTY": "", "WITH": "a=b # c"}
    assert {name: seen[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "complaints"),
    [
        (["--env", "NOT_SET_ANYWHERE"], ["NOT_SET_ANYWHERE", "not set", "--env NOT_SET_ANYWHERE=VALUE"]),
        (["--env", "=x"], ["'=x'"]),
        (["--env-file", "missing.env"], ["missing.env"]),
        (["--env-file", "bad.env"], ["bad.env:2", "NAME=VALUE"]),
    ],
)
def test_bad_variables_are_refused(run, tmp_path, words, complaints):
    (tmp_path / "bad.env").write_text("A=1\nnonsense\n")
    assert_refused(run(*words, "environment"), 2, *complaints)


def test_declared_variables_are_passed_on_where_they_are_set(agenthub, monkeypatch):
    monkeypatch.setenv("NEEDY_KEY", "k")
    monkeypatch.setenv("NEEDY_TOKEN", "t")
    monkeypatch.setenv("NEEDY_OTHER", "o")
    assert agenthub("run", "needy", "go").json == {"NEEDY_KEY": "k", "NEEDY_TOKEN": "t"}
    monkeypatch.setenv("NEEDY_URL", "u")
    finished = agenthub("run", "--env", "NEEDY_KEY=flag", "needy", "go")
    assert finished.json == {"NEEDY_KEY": "flag", "NEEDY_TOKEN": "t", "NEEDY_URL": "u"}


@pytest.mark.parametrize(
    ("set_here", "named"),
    [
        ({}, ["NEEDY_KEY and NEEDY_TOKEN"]),
        ({"NEEDY_KEY": "k"}, ["NEEDY_TOKEN", "who you are"]),
        ({"NEEDY_KEY": "", "NEEDY_TOKEN": "t"}, ["NEEDY_KEY", "the key of the service"]),
    ],
)
def test_a_required_variable_that_is_missing_is_an_error_before_the_run(agenthub, monkeypatch, set_here, named):
    for name, value in set_here.items():
        monkeypatch.setenv(name, value)
    assert_refused(agenthub("run", "needy", "go"), 2, "needy needs", "--env", *named)


# caps --------------------------------------------------------------------------------------------------------------


def test_the_deadline_of_the_flag_goes_before_the_manifests(run):
    assert_refused(run("briefly"), 124, "probe", "0.3 s", "--timeout")
    assert run("--timeout", "10", "sleep", "--seconds", "0.01").out == "slept\n"
    assert_refused(run("--timeout", "200ms", "sleep", "--seconds", "60"), 124, "0.2 s")


def test_the_memory_cap(run):
    refused = run("--memory", "64MB", "eat", "--size", str(512 << 20))
    assert_refused(refused, 137, "probe", "64 MB", "--memory 128MB")
    assert run("--memory", "256MB", "eat", "--size", str(32 << 20)).json == 32 << 20


def test_caps_that_are_none(run):
    for words in (["--timeout", "soon"], ["--memory", "much"], ["--memory", "-1MB"]):
        assert_refused(run(*words, "sleep", "--seconds", "0"), 2, words[0][2:])


def test_settings_of_the_environment_are_caps_too(run, monkeypatch):
    monkeypatch.setenv("AGENTHUB_TIMEOUT", "0.2")
    assert_refused(run("sleep", "--seconds", "60"), 124, "0.2 s")
    assert run("--timeout", "5", "sleep", "--seconds", "0.3").out == "slept\n"


# results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["text", "--value", "Grüße"], "Grüße\n"),
        (["text", "--value", "ends\n"], "ends\n"),
        (["large", "--size", "0"], "\n"),
        (["eat", "--size", str(1 << 20)], "1048576\n"),
        (["echo", "--text", "é"], '["é", 7, 0.5, false, [], {}, "green", null]\n'),
        (["stream", "--count", "3"], "[0, 1, 2]\n"),
        (["later"], "awaited\n"),
    ],
)
def test_a_string_is_printed_as_text_and_the_rest_as_json(run, words, printed):
    assert run(*words).out == printed


def test_what_the_agent_prints_goes_to_stderr(run):
    finished = run("speak")
    assert finished.out == "said\n"
    assert "to stdout\n" in finished.err
    assert "to stderr" in finished.err
    assert "\x1b" not in finished.err
    assert run("-q", "speak").err == ""


def test_the_envelope_of_a_success(run):
    envelope = run("--json", "text", "--value", "x").json
    assert envelope["result"] == "x"
    assert isinstance(envelope["execution_time"], float)
    assert envelope["memory_usage"].endswith("MB")
    assert int(envelope["memory_usage"][:-2]) >= 1
    assert envelope["agent"] == {"owner": "local", "name": "probe", "version": "1.0.0"}
    assert (envelope["method"], envelope["exit_code"], envelope["schema_version"]) == ("text", 0, 1)
    assert envelope["warnings"] == []
    assert {"wall", "cpu", "peak_memory", "output"} <= set(envelope["usage"])
    assert envelope["run_id"] != run("--json", "text", "--value", "x").json["run_id"]


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["text", "--json"], 2, "InvalidInputError"),
        (["txet", "--json"], 3, "MethodNotFoundError"),
        (["--json", "picture", "--name", "/etc/hostname"], 1, "ExecutionError"),
    ],
)
def test_a_refusal_has_an_envelope_too(run, words, code, kind):
    finished = run(*words)
    envelope = finished.json
    assert finished.code == envelope["exit_code"] == code
    assert envelope["error_type"] == kind
    assert envelope["suggestion"]
    assert envelope["schema_version"] == 1
    assert envelope["agent"] == {"owner": "local", "name": "probe", "version": "1.0.0"}
    assert {"run_id", "method", "execution_time", "error"} <= set(envelope)
    assert len(finished.error_lines) <= 4


def test_the_envelope_where_there_is_no_agent(agenthub):
    finished = agenthub("run", "--json", "nobody", "go")
    assert finished.code == 3
    assert finished.json["error_type"] == "AgentNotFoundError"
    assert finished.json["agent"] == {"name": "nobody", "version": None}


def test_a_file_goes_where_stdout_goes(run):
    finished = run("picture")
    assert finished.stdout == b"\x89PNG\r\n\x1a\n\xff\x00"
    assert finished.err == ""


def test_a_file_in_the_envelope_is_base64(run):
    result = run("--json", "picture").json["result"]
    assert result == {
        "file": "chart.png",
        "media_type": "image/png",
        "size": 10,
        "encoding": "base64",
        "data": "iVBORw0KGgr/AA==",
    }


def test_on_a_terminal_a_file_is_saved_under_a_free_name(shared, tmp_path):
    env = {**os.environ, "AGENTHUB_HOME": shared}
    for name in ("chart.png", "chart-2.png"):
        finished = in_terminal("run", "local/probe", "picture", env=env, cwd=tmp_path)
        assert (finished.code, finished.err.strip()) == (0, name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", ["/etc/hostname", "../../etc/hostname", "missing.txt", "."])
def test_a_result_file_outside_of_the_scratch_directory_is_refused(run, path):
    assert_refused(run("stolen", "--answer", path), 1, "probe", path)


@pytest.mark.slow
def test_64_mb_pass_in_both_directions(run):
    size = 64 << 20
    finished = run("measured", "-", stdin=json.dumps({"data": "a" + "x" * (size - 2) + "z"}))
    assert finished.json == {"length": size, "ends": ["a", "z"]}
    finished = run("large", "--size", str(size))
    assert len(finished.stdout) == size + 1


def test_a_result_over_its_cap_is_refused(run, monkeypatch):
    monkeypatch.setenv("AGENTHUB_RESULT", "1MB")
    assert_refused(run("large", "--size", str(2 << 20)), 1, "probe", "1 MB")


def test_an_input_over_its_cap_is_refused(run, monkeypatch):
    monkeypatch.setenv("AGENTHUB_RESULT", "1MB")
    assert_refused(run("measured", "-", stdin=json.dumps({"data": "x" * (2 << 20)})), 2, "1 MB")


def test_a_script_gets_its_request_as_argument_and_on_stdin(agenthub):
    assert agenthub("run", "script", "go", "--data", "é" * 10).json == {
        "arguments": 1,
        "same": True,
        "length": 10,
        "here": True,
        "home_is_elsewhere": True,
    }


def test_a_request_too_long_for_an_argument_comes_on_stdin_alone(agenthub):
    finished = agenthub("run", "script", "go", "-", stdin=json.dumps({"data": "x" * 131_072}))
    assert finished.json["arguments"] == 0
    assert finished.json["length"] == 131_072


# who is meant ------------------------------------------------------------------------------------------------------


def test_a_name_that_two_owners_have_is_ambiguous(agenthub):
    assert_refused(agenthub("run", "probe", "later"), 3, "probe", "local/probe", "other/probe")


@pytest.mark.parametrize("name", ["prob", "local/prob", "nobody/probe", "needyy"])
def test_no_such_agent(agenthub, name):
    assert_refused(agenthub("run", name, "later"), 3, name)


def test_a_near_miss_of_a_name_is_noticed(agenthub):
    assert_refused(agenthub("run", "neddy", "go"), 3, "neddy", "needy")


def test_a_near_miss_of_a_method_is_noticed(run):
    assert_refused(run("ehco"), 3, "probe has no method 'ehco'", "'echo'", "methods: echo")


def test_no_agent_at_all(agenthub):
    assert_refused(agenthub("run"), 2, "AGENT")


def test_no_such_command(cli):
    assert_refused(cli("isntall", "x"), 2, "isntall", "install")


@pytest.mark.parametrize("words", [["--nonsense"], ["local/probe", "echo", "--nonsense"]])
def test_no_such_option(agenthub, words):
    assert_refused(agenthub("run", *words), 2, "nonsense")


# agents that are not installed -------------------------------------------------------------------------------------


def test_a_directory_runs_after_consent_that_is_asked_once(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_agent(tmp_path / "hello", "def go():\n    return 'hello'", entrypoint="agent")
    assert_refused(cli("run", "./hello", "go"), 5, "./hello", "--yes")
    assert cli("run", "--yes", "./hello", "go").out == "hello\n"
    write_agent(tmp_path / "hello", "def go():\n    return 'changed'", entrypoint="agent")
    assert cli("run", "./hello", "go").out == "changed\n"
    assert not os.path.exists(tmp_path / "hello" / "venv")


def test_the_answer_on_a_terminal_is_remembered(tmp_path):
    write_agent(tmp_path / "hello", "def go():\n    return 'hello'", entrypoint="agent")
    words = ("run", "./hello", "go")
    asked = in_terminal(*words, replies=[("Run ./hello? [y/N]", "n")], cwd=tmp_path)
    assert asked.code == 5
    assert "hello 1.0.0" in asked.err
    asked = in_terminal(*words, replies=[("[y/N]", "y")], cwd=tmp_path)
    assert (asked.code, asked.err.splitlines()[-1]) == (0, "hello")
    assert in_terminal(*words, cwd=tmp_path).err == "hello\n"


def test_an_archive_runs_without_being_installed_and_other_content_asks_again(cli, tmp_path, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    write_agent(tmp_path / "src", "def go():\n    return 1", name="packed", entrypoint="agent")
    shutil.make_archive("packed", "zip", tmp_path / "src")
    assert_refused(cli("run", "./packed.zip", "go"), 5, "--yes")
    assert cli("run", "--yes", "packed.zip", "go").out == "1\n"
    assert cli("run", "./packed.zip", "go").out == "1\n"
    write_agent(tmp_path / "src", "def go():\n    return 2", name="packed", entrypoint="agent")
    shutil.make_archive("packed", "zip", tmp_path / "src")
    assert_refused(cli("run", "./packed.zip", "go"), 5, "--yes")
    assert cli.ok("list", "--json").json["agents"] == []


def test_an_agent_without_python_needs_no_environment(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_agent(tmp_path / "shell", "unused", entrypoint={"command": ["sh", "agent.sh"]})
    (tmp_path / "shell" / "agent.sh").write_text("""echo '{"result": "from a shell"}'\n""")
    assert cli("run", "--yes", "./shell", "go").out == "from a shell\n"
