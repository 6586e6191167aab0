"""Reading agent.yaml: what is accepted, and that every complaint says where and what would be right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agenthub.errors import AgentNotFoundError, InvalidManifestError
from agenthub.manifest import AgentManifest, Entrypoint, load_manifest, read_manifest
from agenthub.manifest.reader import examine

if TYPE_CHECKING:
    from pathlib import Path

BASE = """\
name: greeter
version: "1.0"
description: greets
author: somebody
interface:
  methods:
    greet:
      description: greets by name
      parameters:
        name: {type: string, required: true}
        times: {type: integer, minimum: 1, default: 1}
"""

OLD_FORMAT = """\
name: "coder"
version: "1.0.0"
description: "Generate code"
author: "somebody"
license: "MIT"
python_version: "3.11+"
builtin_tools: []
installation:
  commands: ["python -m ensurepip --upgrade", "uv sync"]
  description: "installs"
  validation: {x: 1}
interface:
  methods:
    generate:
      description: "Generates"
      parameters:
        prompt: {type: "string", description: "what", required: true}
        options: {type: dict, default: null}
        tags: {type: list}
        ratio: {type: float, default: 0.5}
      returns: {type: "string"}
    nothing:
      description: "takes nothing"
      parameters: null
tags: ["code"]
future_key: {deep: [1, 2]}
"""


def reading(tmp_path: Path, text: str) -> AgentManifest:
    (tmp_path / "agent.yaml").write_text(text)
    return read_manifest(str(tmp_path))


def test_the_format_of_existing_agents_is_read_as_it_is(tmp_path: Path) -> None:
    manifest = reading(tmp_path, OLD_FORMAT)
    assert manifest.entrypoint == Entrypoint("script", "agent.py")
    assert manifest.python_version == ">=3.11"
    assert manifest.commands == ("python -m ensurepip --upgrade", "uv sync")
    assert manifest.methods["nothing"].parameters == {}
    types = {name: one.schema["type"] for name, one in manifest.methods["generate"].parameters.items()}
    assert types == {"prompt": "string", "options": "object", "tags": "array", "ratio": "number"}
    assert manifest.extra == {"future_key": {"deep": [1, 2]}}


def test_unknown_keys_are_kept_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(BASE + "dependancies: [x]\n")
    found = examine(str(tmp_path))
    assert found.manifest is not None
    assert found.manifest.extra == {"dependancies": ["x"]}
    (problem,) = found.problems
    assert (problem.severity, problem.line, problem.key) == ("warning", 12, "dependancies")
    assert "did you mean 'dependencies'?" in problem.message


def test_the_compiled_form_is_the_same_manifest(tmp_path: Path) -> None:
    extended = BASE + (
        "entrypoint: {command: [node, agent.js]}\n"
        "dependencies: [six]\n"
        "limits: {memory: 64MB}\n"
        "environment: {secret: {KEY: a key}, optional: [KEY, OTHER]}\n"
    )
    manifest = reading(tmp_path, extended)
    assert AgentManifest.from_compiled(json.loads(json.dumps(manifest.to_compiled()))) == manifest


def test_an_installed_agent_is_read_from_its_record(tmp_path: Path) -> None:
    manifest = reading(tmp_path, BASE)
    (tmp_path / ".agenthub").mkdir()
    (tmp_path / ".agenthub" / "record.json").write_text(json.dumps({"manifest": manifest.to_compiled()}))
    (tmp_path / "agent.yaml").unlink()
    assert load_manifest(str(tmp_path)) == manifest


def test_variables_may_be_optional_and_secret(tmp_path: Path) -> None:
    text = BASE + "environment:\n  required: {A: the a}\n  secret: [B, C]\n  optional: {C: the c}\n"
    found = {one.name: (one.description, one.required, one.secret) for one in reading(tmp_path, text).environment}
    assert found == {"A": ("the a", True, False), "B": ("", True, True), "C": ("the c", False, True)}


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("description: greets\n", "discription: greets\n"), 3, "did you mean 'description'? It is missing"),
        (("author: somebody\n", ""), 1, "author: is missing; for example"),
        (('version: "1.0"', "version: 1.0"), 2, '1.0 is not a string; for example version: "1.0"'),
        (("type: integer", "type: integr"), 11, "did you mean 'integer'?"),
        (("default: 1", "default: 0"), 11, "default: 0 is less than 1"),
        (("default: 1", "default: one"), 11, "'one' is not an integer"),
        (("name: greeter", "name: ../x"), 1, "name: '../x' does not match"),
        (("minimum: 1", "minimum: low"), 11, "'low' is not a number"),
        (("      description: greets by name\n", ""), 7, "interface.methods.greet.description: is missing"),
    ],
)
def test_a_complaint_names_file_line_key_and_what_is_right(
    tmp_path: Path, change: tuple[str, str], line: int, says: str
) -> None:
    assert change[0] in BASE
    with pytest.raises(InvalidManifestError) as caught:
        reading(tmp_path, BASE.replace(*change))
    assert caught.value.message.startswith(f"{tmp_path}/agent.yaml:{line}: ")
    assert says in caught.value.message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("limits: {memry: 1GB}\n", "limits.memry: is not known here; did you mean 'memory'?"),
        ("limits: {memory: much}\n", "'much' is not a size; write for example 256MB"),
        ("limits: {timeout: 0}\n", "must be more than 0"),
        ("limits: {processes: 1.5}\n", "1.5 is not an integer"),
        ("python_version: newest\n", "is not a range of versions; for example '>=3.11'"),
        ("entrypoint: {comand: [x]}\n", "entrypoint.command: is missing"),
        ("entrypoint: a b\n", "entrypoint: 'a b' does not match"),
        ("environment: {required: {A-B: x}}\n", "'A-B' does not match"),
        ("dependencies: setup.py\n", "'setup.py' is not one of"),
        ("name: again\n", "the key 'name' stands here twice"),
        ("license: !!python/object:os.system {}\n", "is not allowed"),
        ("license: .nan\n", "cannot be said in JSON"),
        ("license: [" + "[" * 100, "nested more than"),
        ("license: {", "it is not YAML"),
        ("license: \x01\n", "it is not YAML"),
        ("--- \nname: second\n", "more than one document"),
        ("? [a]\n: b\n", "a key must be plain text"),
        ("license: *nowhere\n", "refers to nothing"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        reading(tmp_path, BASE + text)
    assert says in str(caught.value)


def test_a_document_that_grows_by_aliases_is_refused(tmp_path: Path) -> None:
    bomb = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    with pytest.raises(InvalidManifestError, match="more than 50000 values"):
        reading(tmp_path, BASE + bomb)


def test_aliases_and_merges_work(tmp_path: Path) -> None:
    text = (
        BASE + "      returns: &r {type: string}\n    part:\n      description: d\n      returns: {<<: *r, title: t}\n"
    )
    assert reading(tmp_path, text).methods["part"].returns == {"type": "string", "title": "t"}


@pytest.mark.parametrize(("text", "says"), [("", "it is empty"), ("- a\n", "it is a list, not a mapping")])
def test_a_file_that_is_no_manifest(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidManifestError, match=says):
        reading(tmp_path, text)


def test_no_manifest_and_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifestError, match=r"there is no agent\.yaml"):
        read_manifest(str(tmp_path))
    with pytest.raises(AgentNotFoundError):
        read_manifest(str(tmp_path / "nowhere"))


def test_yml_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "agent.yml").write_text(BASE)
    assert read_manifest(str(tmp_path)).name == "greeter"


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(BASE.replace('"1.0"', "1.0").replace("default: 1", "default: x"))
    errors = [problem for problem in examine(str(tmp_path)).problems if problem.severity == "error"]
    assert [problem.line for problem in errors] == [2, 11]


def test_a_schema_keyword_that_is_not_checked_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(BASE.replace("minimum: 1, default: 1", "oneOf: [{}]"))
    (problem,) = examine(str(tmp_path)).problems
    assert problem.severity == "warning"
    assert "is not checked by agenthub" in problem.message


@pytest.mark.parametrize(
    "text", ["", "*", "latest", "1.2", "1.2.3rc1", ">=1,<2", "~= 1.4.2", ">=1.0a1, !=1.5.*", "1!2.0"]
)
def test_requires_are_ranges_of_versions(tmp_path: Path, text: str) -> None:
    assert reading(tmp_path, f"{BASE}requires:\n  acme/fetcher: '{text}'\n").requires == {"acme/fetcher": text}


@pytest.mark.parametrize(
    "line",
    ["a/b: newest", "a/b: '>=1;<2'", "b: '1'", "a/../x: '1'", "A/b: '1'", "a/b: 1.0", "a/b: '>=1,'", "a/b: '1.*.2'"],
)
def test_what_cannot_be_required_is_said_with_its_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidManifestError, match=r"agent\.yaml:13"):
        reading(tmp_path, f"{BASE}requires:\n  {line}\n")
