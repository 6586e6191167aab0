"""Agents that write what their runner does not expect: an error with a name, and a runner that is none the worse."""

from __future__ import annotations

import re

import pytest

from tests.hostile_agents.harness import outcome
from tests.hostile_agents.selection import BOTH_ENDS, daily

pytestmark = BOTH_ENDS

MB = 1 << 20
RESULT = '{"jsonrpc":"2.0","id":1,"result":{"value":%s}}'


def _answer(*parts):
    """An answer that is too long for an argument: texts with the number of their repetitions."""
    start, end = RESULT.split("%s")
    return ((start, 1), *parts, (end, 1))


# By name: what is written; the error; its words. An answer counts as soon as it is there.
LINES = {
    "not a number": (RESULT % "NaN", "ExecutionError", "NaN"),
    "minus infinity": (RESULT % "-Infinity", "ExecutionError", "Infinity"),
    "too large for a float": (RESULT % "1e999", "ExecutionError", "too large for a float"),
    "100,000 levels": (_answer(("[", 100_000), ("]", 100_000)), "OutputLimitError", "nested too deeply"),
    "300 levels": (RESULT % ("[" * 300 + "]" * 300), "OutputLimitError", "nested too deeply"),
    "5,000 digits": (RESULT % ("9" * 5000), "ExecutionError", "4,300 digits"),
    "lone surrogate": (RESULT % '"\\ud800"', "ExecutionError", "lone surrogate"),
    "lone surrogate as a key": (RESULT % '{"\\udfff": 1}', "ExecutionError", "lone surrogate"),
    "not UTF-8": (RESULT % '"\xff\xfe"', "ExecutionError", "UTF-8"),
    "3,000,000 objects": (_answer(("[", 1), ("{},", 3_000_000), ("1]", 1)), "OutputLimitError", "at most"),
    "quotes without an end": (
        _answer(("[", 2_000_001), ('"', 1), ('\\"', 1 << 20)),
        "OutputLimitError",
        "at most",
    ),
    "not the protocol": ('{"result": "forged"}', "ExecutionError", "not the protocol"),
    "a batch": (f"[{RESULT % 1},{RESULT % 2}]", "ExecutionError", "not the protocol"),
    "another version": ('{"jsonrpc":"1.0","id":1,"result":{"value":1}}', "ExecutionError", "not the protocol"),
    "no JSON": ("Traceback (most recent call last):", "ExecutionError", "not the protocol"),
    "control characters": ("\x00\x1b]0;OWNED\x07", "ExecutionError", "not the protocol"),
    "another's answer": (RESULT.replace(":1,", ":2,") % 1, "ExecutionError", "was not made"),
    "an answer to nobody": (RESULT.replace(":1,", ":null,") % 1, "ExecutionError", "was not made"),
    "an odd answer": ('{"jsonrpc":"2.0","id":1,"result":[1]}', "ExecutionError", "neither"),
    "chunks that never came": ('{"jsonrpc":"2.0","id":1,"result":{"chunks":3}}', "ExecutionError", "neither"),
    "an empty error": ('{"jsonrpc":"2.0","id":1,"error":{}}', "ExecutionError", "no reason given"),
    "an odd error": (
        '{"jsonrpc":"2.0","id":1,"error":{"message":{"a":[1]},"data":{"type":[],"traceback":{"a":1}}}}',
        "ExecutionError",
        '{"a": [1]}',
    ),
    "a borrowed error": (
        '{"jsonrpc":"2.0","id":1,"error":{"code":5,"message":"no","data":{"type":"PermissionDeniedError"}}}',
        "ExecutionError",
        "PermissionDeniedError: no",
    ),
}
HARMLESS = {  # which the honest answer outlives
    "odd notifications": '{"jsonrpc":"2.0","method":{"a":1},"params":7}\n{"jsonrpc":"2.0","method":"log","params":[]}',
    "odd log": '{"jsonrpc":"2.0","method":"log","params":{"message":{"a":[1,2]},"level":{"b":1}}}',
    "odd progress": '{"jsonrpc":"2.0","method":"progress","params":{"fraction":1e308,"message":[1]}}',
    "a chunk without a value": '{"jsonrpc":"2.0","method":"chunk","params":{}}',
    "duplicate keys": '{"jsonrpc":"1.0","jsonrpc":"2.0","method":"log","method":"progress","params":{}}',
    "an odd question": '{"jsonrpc":"2.0","id":{"a":1},"method":["host/secret"]}',
    "empty lines": "\n \n\t\n",
}
SCRIPTS = {  # what is written; the result, or the error and its words
    "two results": ('{"result": 1}\n{"result": 2}\n', "2"),
    "duplicate keys": ('{"result": 1, "result": 2}\n', "2"),
    "not a number": ('{"result": NaN}\n', "ExecutionError NaN"),
    "too large for a float": ('{"result": 1e999}\n', "ExecutionError too large for a float"),
    "100,000 levels": (
        (('{"result": ', 1), ("[", 100_000), ("]", 100_000), ("}\n", 1)),
        "ExecutionError nested too deeply",
    ),
    "5,000 digits": ('{"result": ' + "9" * 5000 + "}\n", "ExecutionError 4,300 digits"),
    "lone surrogate": ('{"result": "\\ud800"}\n', "ExecutionError lone surrogate"),
    "half a result": ('{"result": [1, 2', "ExecutionError not JSON"),
    "a result inside of a long line": ("x" * 20_000 + '{"result": "forged"}\n', "ExecutionError holds none"),
    "a result after a carriage return": ('x\r{"result": "forged"}\n', "ExecutionError holds none"),
    "an array": ('[{"result": "forged"}]\n', "ExecutionError holds none"),
    "a borrowed error": ('{"error": "no", "error_type": "InternalError"}\n', "ExecutionError InternalError: no"),
    "an odd error": ('{"error": {"a": 1}, "error_type": ["TimeoutError"]}\n', 'ExecutionError {"a": 1}'),
}
DAILY = (
    "not a number",
    "100,000 levels",
    "quotes without an end",
    "odd log",
    "two results",
    "a result inside of a long line",
)
_ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def say(host, text, *, agent="protocol", wait=True, end="\n"):
    host.environment["AGENTHUB_GRACE"] = "0.2"
    parts = [(text, 1)] if isinstance(text, str) else list(text)
    return host.run(agent, "say", {"facts": {"parts": [*parts, (end, 1)], "wait": wait}})


@pytest.mark.parametrize("name", daily(LINES, DAILY))
def test_what_is_not_the_protocol_is_an_error(host, name):
    text, error_type, words = LINES[name]
    envelope = say(host, text)
    assert outcome(envelope) == error_type, envelope
    assert words in envelope["error"], envelope
    assert envelope["usage"]["wall"] < 8, "nobody waited for it"
    assert not _ACTING.search(host.log)


@pytest.mark.parametrize("name", daily(HARMLESS, DAILY))
def test_what_is_merely_odd_does_not_hinder_an_answer(host, name):
    assert outcome(say(host, HARMLESS[name], wait=False)) == "done"


@pytest.mark.parametrize("name", daily(SCRIPTS, DAILY))
def test_what_a_script_forges(host, name):
    text, expected = SCRIPTS[name]
    envelope = say(host, text, agent="script", end="")
    if "error" in envelope:
        kind, _, words = expected.partition(" ")
        assert envelope["error_type"] == kind, envelope
        assert words in envelope["error"], envelope
    else:
        assert str(envelope["result"]) == expected


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("method", ["child_answers_later", "daemon_answers_later"])
def test_a_script_speaks_for_its_children_until_it_ends(host, method):
    envelope = host.run("script", method)
    assert envelope["result"] == {"child_answers_later": "of the child", "daemon_answers_later": "honest"}[method]


def test_an_answer_without_end_is_cut_short(host):
    host.environment["AGENTHUB_RESULT"] = "1MB"
    envelope = say(host, ((RESULT.split("%s")[0], 1), ("x", 8 << 20)), end="")
    assert envelope["error_type"] == "OutputLimitError"
    assert envelope["usage"]["output"] < 4 << 20


@pytest.mark.slow
def test_a_flood_of_nothing_counts_as_output(host):
    host.environment["AGENTHUB_OUTPUT"] = "1MB"
    envelope = say(host, (("\n", 8 << 20),))
    assert envelope["error_type"] == "OutputLimitError"


@pytest.mark.slow
def test_the_first_of_many_answers_counts(host):
    envelope = host.run("protocol", "forge_on_every_descriptor")
    assert envelope["result"] == {"outcome": "forged"}, "it is the agent's own word, whichever of its lines said it"
    assert len(envelope["warnings"]) <= 1
    assert host.run("protocol", "forge_in_child")["result"] == {"outcome": "honest"}


def test_answers_without_end_end(host):
    host.environment["AGENTHUB_GRACE"] = "0.5"
    envelope = host.run("protocol", "answer_for_ever")
    assert envelope["result"] == {"outcome": "again"}
    assert envelope["usage"]["wall"] < 5
    assert len(envelope["warnings"]) <= 2


def test_whoever_writes_after_the_answer_is_ended(host):
    envelope = host.run("protocol", "write_after_the_answer")
    assert envelope["result"]["outcome"] in ("done", "late")  # which of the agent's own words is first, it decides
    assert envelope["usage"]["wall"] < 7
    assert host.survivors() == []


@pytest.mark.slow
def test_silence_is_ended_by_the_deadline(host):
    envelope = host.run("protocol", "close_everything", None, "--timeout", "0.3")
    assert envelope["error_type"] in ("TimeoutError", "ExecutionError")
    assert envelope["usage"]["wall"] < 5


def test_the_runner_offers_nothing_to_ask_for(host):
    got = host.run("protocol", "ask")["result"]["got"]
    assert got
    assert all(answer == [True, -32601] for answer in got)


@pytest.mark.slow
def test_whoever_asks_and_does_not_listen_is_ended(host):
    envelope = host.run("protocol", "ask_without_listening")
    assert envelope["error_type"] == "ExecutionError", envelope
    assert "does not read the answers" in envelope["error"]
    assert envelope["usage"]["wall"] < 5


def test_the_runners_methods_cannot_be_called(host):
    envelope = host.run("protocol", "call_the_runner")
    assert envelope["result"] == {"outcome": "done"}
    assert "forged" not in host.log


@pytest.mark.slow
def test_a_log_message_of_lines_alone_is_cut_short(host):
    envelope = host.run("protocol", "log_lines_without_end", None, "-q")
    assert envelope["result"] == {"outcome": "done"}
    assert envelope["execution_time"] < 8


def test_no_text_of_an_agent_acts_on_a_terminal(host):
    envelope = host.run("protocol", "raise_escapes")
    assert envelope["error_type"] == "ExecutionError"
    assert "OWNED" in host.log, "its text is shown"
    assert not _ACTING.search(host.log)
    assert host.run("protocol", "say_escapes")["exit_code"] == 0
    assert not _ACTING.search(host.log)


@pytest.mark.slow
def test_a_long_error_is_cut_short(host):
    envelope = host.run("protocol", "count_no_lower_than_memory")
    assert envelope["error_type"] == "MemoryLimitError"
    assert len(envelope["error"]) < 5000
