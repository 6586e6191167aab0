"""The sample agents' code against their manifests, and what of it runs without an environment."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest

from agenthub.manifest import read_manifest

SAMPLES = os.path.join(os.path.dirname(__file__), "..", "..", "sample_agents")
NAMES = ["code-reviewer", "data-analyst", "llm-writer", "text-tools"]
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


def sample(*parts: str) -> str:
    return os.path.abspath(os.path.join(SAMPLES, *parts))


def call(command: list[str], request: object, *, by_stdin: bool = False) -> tuple[int, dict[str, object]]:
    text = json.dumps(request)
    arguments = [] if by_stdin else [text]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*command, *arguments], input=text if by_stdin else "", capture_output=True, text=True, env=environment
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def text_tools(method: str, *, by_stdin: bool = False, **parameters: object) -> tuple[int, dict[str, object]]:
    request = {"method": method, "parameters": parameters}
    return call(["node", sample("text-tools", "agent.js")], request, by_stdin=by_stdin)


def functions(path: str) -> dict[str, ast.FunctionDef]:
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described(name: str) -> None:
    manifest = read_manifest(sample(name))
    assert manifest.name == name
    for method in manifest.methods.values():
        assert method.description
        for parameter in method.parameters.values():
            assert parameter.description, f"{method.name}.{parameter.name}"


@pytest.mark.parametrize("name", ["code-reviewer", "data-analyst", "llm-writer"])
def test_the_manifest_has_the_parameters_and_defaults_of_the_code(name: str) -> None:
    code = functions(sample(name, "agent.py"))
    for method in read_manifest(sample(name)).methods.values():
        arguments = code[method.name].args
        names = [argument.arg for argument in arguments.args if argument.arg != "self"]
        assert names == list(method.parameters)
        for argument, default in zip(reversed(names), reversed(arguments.defaults), strict=False):
            declared = method.parameters[argument]
            assert declared.has_default
            if isinstance(default, ast.Constant):
                assert declared.default == default.value, f"{method.name}.{argument}"
        assert len(arguments.defaults) == sum(parameter.has_default for parameter in method.parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_readme_and_no_lock_file(name: str) -> None:
    files = os.listdir(sample(name))
    assert "README.md" in files
    assert not [file for file in files if file.endswith(".lock")]


@needs_node
@pytest.mark.parametrize(
    ("text", "slug"),
    [("Crème brûlée & other desserts", "creme-brulee-and-other-desserts"), ("Straße nach Łódź", "strasse-nach-lodz")],
)
def test_slugify(text: str, slug: str) -> None:
    assert text_tools("slugify", text=text) == (0, {"result": slug})


@needs_node
def test_text_tools_reads_standard_input_where_there_is_no_argument() -> None:
    assert text_tools("slugify", by_stdin=True, text="a b") == (0, {"result": "a-b"})


@needs_node
def test_word_count_counts_what_a_reader_sees() -> None:
    status, answer = text_tools("word_count", text="The cat.\nThe naïve dog isn't\n", top=1)
    assert status == 0
    assert answer["result"] == {
        "words": 6,
        "unique_words": 5,
        "lines": 2,
        "characters": 29,
        "reading_minutes": 0,
        "top": [{"word": "the", "count": 2}],
    }


@needs_node
def test_diff_is_unified_and_marks_a_missing_last_line_end() -> None:
    expected = "--- before\n+++ after\n@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\n+c\n\\ No newline at end of file\n"
    assert text_tools("diff", before="a\nb\nc\n", after="a\nB\nc") == (0, {"result": expected})
    assert text_tools("diff", before="a\n", after="a\n") == (0, {"result": ""})


@needs_node
def test_text_tools_reports_what_is_wrong() -> None:
    assert text_tools("nope") == (1, {"error": "Unknown method: nope"})
    assert text_tools("word_count") == (1, {"error": "give either a text or a file"})


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"method": "nope"}, "Unknown method: nope"),
        ({"method": "write", "parameters": {"prompt": " "}}, "the text is empty"),
        ({"method": "write", "parameters": {"prompt": "a"}}, "OPENAI_API_KEY is not set"),
    ],
)
def test_llm_writer_refuses_before_it_loads_the_client(request_: dict[str, object], message: str) -> None:
    command = [sys.executable, "-I", sample("llm-writer", "agent.py")]
    assert call(command, request_) == (1, {"error": message})
