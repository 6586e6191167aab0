"""What JSON from an agent may cost before it is refused: linear in its length, whatever it is."""

from __future__ import annotations

import time

import pytest

from agenthub.errors import AgentRuntimeError
from agenthub.runtime.processes.strict_json import MAX_CONTAINERS, parse_json

MANY = b"[" * (MAX_CONTAINERS + 1)  # so that what is in strings is looked for
COSTLY = {
    "escaped quotes without an end": MANY + b'"' + b'\\"' * (1 << 20),
    "quotes": MANY + b'"' * (1 << 21),
    "backslashes": MANY + b'"' + b"\\" * ((1 << 21) + 1),
    "strings that end in an escape": MANY + b'"\\\\"' * (1 << 19),
    "line feeds in strings": MANY + b'"' + b"\\\n" * (1 << 20),
    "digits": b"[1." + b"1" * (1 << 22) + b"1e999]",
    "exponents": b"[1e" + b"9" * (1 << 22) + b"]",
    "levels": b'{"a":' * (1 << 20),
}


@pytest.mark.parametrize("name", COSTLY)
def test_nothing_costs_more_than_its_length(name):
    began = time.monotonic()
    with pytest.raises(AgentRuntimeError):
        parse_json(COSTLY[name], "it")
    assert time.monotonic() - began < 5


def test_brackets_in_strings_do_not_count():
    text = "[{" * (MAX_CONTAINERS // 2 + 1)
    assert parse_json(b'["' + text.encode() + b'", "\\"[", "\\\\"]', "it") == [text, '"[', "\\"]
