"""What is read without argparse is what argparse would have read."""

from __future__ import annotations

import argparse
import os
import random

import pytest

from agenthub.cli.call_words import add_run_options, parse_inputs, run_options, split
from agenthub.cli.parsers import Parser
from agenthub.cli.plain_words import read_plain
from agenthub.errors import AgentRuntimeError
from agenthub.manifest.model import Method, Parameter

WORDS = [
    *("-", "--", "", "-1", "x", "a b", "true", "no", "{}", '{"flag": true}', "-qv", "-ix=1", "--color", "never"),
    *("--flag", "--no-flag", "--flag=false", "--text", "--text=", "--text=x", "--text=-x", "--no-text"),
    *("-i", "--input", "--input=x=1", "-i=x", "text=1", "--json", "--json=1", "--env", "--env=A=1", "-y", "--yes"),
    *("--quiet", "-q", "--colour", "--color=always", "--color=blue", "--timeout", "30s", "--unknown"),
]


def parameter(name, kind):
    return Parameter(name, "100 %", False, False, None, {"type": kind})


def method(**kinds):
    common = {"flag": "boolean", "text": "string", "two_words": "integer"}
    return Method("go", "", {name: parameter(name, kind) for name, kind in {**common, **kinds}.items()}, {})


METHODS = [method(), method(input="string", help="string"), method(json="boolean")]


def whole():
    return Parser(prog="agenthub", conflict_handler="resolve")


def lines(seed, number):
    """Every word alone, and as many random lines."""
    yield from ([], *([one] for one in WORDS))
    choose = random.Random(seed)
    yield from (choose.choices(WORDS, k=choose.randint(2, 5)) for _ in range(number))


def read(method, words):
    try:
        inputs, options = parse_inputs(method, words, whole, 1000)
    except (AgentRuntimeError, SystemExit) as error:
        return str(error)
    given = {name: value for name, value in vars(options).items() if value is not None and name != "documents"}
    return inputs, given


@pytest.mark.parametrize(
    ("method", "number"), [(METHODS[0], 100), *(pytest.param(one, 2000, marks=pytest.mark.slow) for one in METHODS)]
)
def test_inputs_are_those_of_argparse(method, number, monkeypatch):
    samples = [words for words in lines(1, number) if "-" not in words]  # which is standard input
    mine = [(words, read(method, words)) for words in samples]
    monkeypatch.setattr("agenthub.cli.call_words.read_plain", lambda *_: None)
    assert mine == [(words, read(method, words)) for words in samples]
    assert sum(isinstance(one, tuple) for _, one in mine) > len(samples) / 10  # else complaints alone were compared


def test_options_are_those_of_argparse():
    parser = whole()
    add_run_options(parser)
    read = 0
    for words in lines(2, 4000):
        plain = read_plain(words, run_options())
        if plain is None or plain[1]:
            continue
        assert plain[0] == vars(parser.parse_args(words)), words
        read += 1
    assert read > 50


def test_what_is_not_plain_is_argparses():
    for words in (["--timeout"], ["-qv"], ["-h"], ["--json=1"], ["--color", "blue"], ["--env", "-x"], ["--", "x"]):
        assert read_plain(words, run_options()) is None
    call = split(["-qv", "agent", "go", "--x"], whole)
    assert (vars(call.options), call.agent, call.rest) == ({"quiet": True, "verbose": True}, "agent", ["--x"])
    assert isinstance(call.options, argparse.Namespace)


@pytest.mark.parametrize("more", [[], ["--help=y", "-qv"]])  # -qv: by argparse
def test_a_parameter_may_be_called_as_an_option_is(more):
    inputs, _ = parse_inputs(METHODS[1], ["--input", "x", "-i", "text=z", *more], whole, 1000)
    assert inputs == {"input": "x", "text": "z", **({"help": "y"} if more else {})}


def test_argparse_itself_is_not_needed():
    import subprocess
    import sys

    code = (
        "import sys; from agenthub.cli.call_words import split\n"
        "call = split(['-q', '--env', 'A=1', '--sandbox=off', 'agent', 'go', 'x'], None)\n"
        "assert call.options.env == ['A=1'] and call.options.quiet and call.options.sandbox == 'off'\n"
        "sys.exit('argparse' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-S", "-c", code], env={**os.environ, "PYTHONPATH": os.getcwd()}).returncode
        == 0
    )
