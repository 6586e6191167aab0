"""It reads and writes what the `json` module reads and writes."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys

import pytest

from agenthub import quick_json

TEXTS = [
    *("", " ", "1", " 1 ", "-0", "1.5e3", "1E400", "01", "+1", "nul", "null", "true", "NaN", "Infinity", "-Infinity"),
    *('"a"', '"\\u00e9\\ud800"', '"\t"', '"', "'a'", "[1,2", "[1,]", "[1 2]", '{"a":1}', '{"a":1,"a":2}', "{a:1}"),
    *("\ufeff1", "1 \u00a0", "\x0b1", '{"a": {"b": [1, 2.5, null, "x"]}}', "1\n", "1 1", "[" * 100_000, "9" * 5000),
]
BYTES = [b"1", b'"\xc3\xa9"', b'"\xff"', b"\xef\xbb\xbf1", '{"a": 1}'.encode("utf-16"), '"é"'.encode("utf-32-be"), b""]
VALUES = [
    *(None, True, 1, -1.5, 1e300, math.inf, math.nan, "", 'é\u2028"\\\n\ud800', [], {}, (), [1, [2, (3,)]]),
    *({"b": 1, "a": [None, {"é": "é"}]}, {1: 2, 2.5: 3, None: 4, False: 5}, {(): 1}, {"b": 1, 2: 3}, [object()], {1j}),
]


def outcome(call):
    try:
        return repr(call())
    except json.JSONDecodeError as error:
        return type(error), error.msg, error.doc, error.pos
    except (ValueError, TypeError, RecursionError) as error:
        return type(error), str(error) if not isinstance(error, RecursionError) else ""


@pytest.mark.parametrize("text", [*TEXTS, *BYTES], ids=range(len(TEXTS) + len(BYTES)))
def test_it_reads_what_json_reads(text):
    assert outcome(lambda: quick_json.loads(text)) == outcome(lambda: json.loads(text))


@pytest.mark.parametrize("text", ["[NaN]", "-Infinity", "1", "[Infinity", "1 NaN"])
def test_constants_are_the_callers(text):
    assert outcome(lambda: quick_json.loads(text, str.lower)) == outcome(
        lambda: json.loads(text, parse_constant=str.lower)
    )


def test_it_reads_what_is_broken_as_json_does():
    whole = json.dumps({"a": [1, -2.5, "x\n\u00e9"], "b": {"c": None, "d": True}}, indent=1)
    choose = random.Random(1)
    for _ in range(500):
        at = choose.randrange(len(whole))
        text = whole[:at] + choose.choice("{}[],:\"' \n\\01en") + whole[at + choose.randint(0, 1) :]
        assert outcome(lambda text=text: quick_json.loads(text)) == outcome(lambda text=text: json.loads(text)), text


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize(
    "options",
    [{}, {"ensure_ascii": False}, {"separators": (",", ":")}, {"sort_keys": True}, {"allow_nan": False}],
    ids=str,
)
def test_it_writes_what_json_writes(value, options):
    assert outcome(lambda: quick_json.dumps(value, **options)) == outcome(lambda: json.dumps(value, **options))


def test_what_contains_itself_is_refused():
    value: list[object] = []
    value.append(value)
    assert outcome(lambda: quick_json.dumps(value)) == outcome(lambda: json.dumps(value))


def test_without_the_c_functions_it_is_the_module():
    code = (
        "import sys; sys.modules['_json'] = None; from agenthub.quick_json import dumps, loads\n"
        'assert loads(\'{"a": [1]}\') == {"a": [1]} and dumps({"a": "é"}, ensure_ascii=False) == \'{"a": "é"}\''
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    assert subprocess.run([sys.executable, "-S", "-c", code], env=env).returncode == 0


@pytest.mark.parametrize("text", ["{", "[", '{"a', '{"a":', '{"a" 1}', "[1 2]", '"\\u12"', '{"a": 1'])
def test_what_is_broken_is_said_where_the_module_was_not_loaded(text):
    code = (
        "import sys; from agenthub.quick_json import loads; assert 'json' not in sys.modules\n"
        "try: loads(sys.argv[1])\nexcept ValueError as error: print(type(error).__name__)"
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-S", "-c", code, text], env=env, capture_output=True, text=True)
    assert done.stdout == "JSONDecodeError\n", done.stderr
