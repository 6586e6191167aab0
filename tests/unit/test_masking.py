"""What is taken out of an agent's words, and what is left in them."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse

import pytest

from agenthub.runtime.processes.masking import Masker
from agenthub.runtime.secrets.resolve import Secrets

KEY = "sk-proj-h7Gq/2+LmZ~é\"x'9 end"
PLAIN = "k3y-A1b2C3d4E5f6G7h8I9j0"
NAME = "API_KEY"


def masked(text, value=KEY):
    return Masker({NAME: value}).text(text)


def test_a_value_is_replaced_by_its_name():
    masker = Masker({NAME: KEY})
    assert masker.text(f"before {KEY} after {KEY}") == "before [API_KEY] after [API_KEY]"
    assert masker.masked == {NAME}


def test_other_text_is_left_alone():
    masker = Masker({NAME: KEY})
    assert masker.text("sk-proj- is how such keys begin") == "sk-proj- is how such keys begin"
    assert masker.masked == set()


@pytest.mark.parametrize(
    "spelt",
    [
        json.dumps(KEY),
        json.dumps(KEY, ensure_ascii=False),
        KEY.replace("/", "\\/"),
        repr(KEY),
        urllib.parse.quote(KEY),
        urllib.parse.quote(KEY, safe=""),
        urllib.parse.quote(KEY, safe="").lower().replace("sk-proj-h7gq", "sk-proj-h7Gq").replace("lmz", "LmZ"),
        urllib.parse.quote_plus(KEY),
        urllib.parse.urlencode({"key": KEY}),
        urllib.parse.quote(KEY, safe="!'()*"),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        base64.b64encode(KEY.encode()).decode().rstrip("="),
    ],
)
def test_so_are_its_spellings(spelt):
    text = masked(f"({spelt})")
    assert "[API_KEY]" in text
    assert len(text) <= len("(key=[API_KEY])") + 2  # at most the quotes are left


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("after", ["", "!", "!!", " and more"])
@pytest.mark.parametrize("value", [KEY, PLAIN, PLAIN[:-1], PLAIN[:-2]])
def test_base64_of_more_than_the_value(before, after, value):
    encoded = base64.b64encode(f"{before}{value}{after}".encode()).decode()
    text = masked(f"Basic {encoded}", value)
    assert "[API_KEY]" in text
    left = text.removeprefix("Basic ").partition("[API_KEY]")
    assert len(left[0]) <= len(before) * 4 // 3 + 2
    assert len(left[2]) <= len(after) * 4 // 3 + 6


def test_a_value_of_several_lines_is_masked_line_by_line():
    pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----"
    masker = Masker({NAME: pem})
    assert masker.text(pem) == "[API_KEY]"
    assert [masker.text(line) for line in pem.splitlines()[:3]] == [pem.splitlines()[0], "[API_KEY]", "[API_KEY]"]


def test_a_short_value_is_not_masked_but_named():
    masker = Masker({NAME: "12345", "OTHER": "123456"})
    assert masker.text("12345 123456") == "12345 [OTHER]"
    assert masker.too_short == [NAME]
    assert not Masker({NAME: "12345"})


def test_a_value_inside_another_one():
    masker = Masker({"INNER": "secret-part", "OUTER": "whole secret-part here"})
    assert masker.text("whole secret-part here, secret-part") == "[OUTER], [INNER]"


def test_strings_keys_and_numbers_anywhere_in_a_result():
    masker = Masker({NAME: PLAIN, "PIN": "12345678"})
    result = {"a": [1, None, True, {"b": f"x{PLAIN}"}], PLAIN: "y", "pin": 12345678, "ratio": 0.5}
    assert masker.value(result) == {
        "a": [1, None, True, {"b": "x[API_KEY]"}],
        "[API_KEY]": "y",
        "pin": "[PIN]",
        "ratio": 0.5,
    }


def test_a_result_without_secrets_is_the_same_object():
    result = {"a": ["x" * 100, {"b": 1}]}
    assert Masker({NAME: PLAIN}).value(result) is result


@pytest.mark.parametrize("cut", range(1, len(PLAIN)))
def test_a_value_cut_in_two(cut):
    mask = Masker({NAME: PLAIN}).pieces()
    shown = [mask(f"before {PLAIN[:cut]}"), mask(f"{PLAIN[cut:]} after")]
    assert "[API_KEY]" in "".join(shown)
    assert shown[0].startswith("before ")
    assert shown[1].endswith(" after")
    left = "".join(shown).replace("before ", "").replace(" after", "").replace("[API_KEY]", "")
    assert left == PLAIN[: len(left)]
    assert len(left) < 12


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_a_value_in_small_pieces(size):
    text = f"here it is: {PLAIN}; that was it"
    mask = Masker({NAME: PLAIN}).pieces()
    shown = "".join(mask(text[start : start + size]) for start in range(0, len(text), size))
    assert shown.startswith("here it is: ")
    assert shown.endswith("; that was it") or size > 1
    assert PLAIN[12:] not in shown
    assert PLAIN[:12] not in shown
    assert PLAIN[12:15] not in shown


def test_pieces_that_only_begin_like_a_value_are_not_changed():
    mask = Masker({NAME: PLAIN}).pieces()
    assert [mask("the k3y"), mask("k3y-A1 and so on"), mask("k"), mask("")] == ["the k3y", "k3y-A1 and so on", "k", ""]


def test_a_repeating_value_at_the_end_of_a_piece():
    mask = Masker({NAME: "abcdefabcdef"}).pieces()
    assert mask("x abcdefabcdef") == "x [API_KEY]"


def test_streamed_results_are_masked_across_chunks():
    masker = Masker({NAME: PLAIN})
    chunks = ["the ", PLAIN[:15], PLAIN[15:], " key"]
    assert masker.value(chunks) == ["the ", "[API_KEY]", "[API_KEY]", " key"]
    seen = []
    on_chunk = masker.chunks(seen.append)
    for chunk in [*chunks, {"token": PLAIN}, 3]:
        on_chunk(chunk)
    assert seen == ["the ", "[API_KEY]", "[API_KEY]", " key", {"token": "[API_KEY]"}, 3]


def test_what_a_run_came_to():
    masker = Masker({NAME: PLAIN})
    outcome = {
        "error": f"ValueError: {PLAIN}; wrote {PLAIN[:20]!r} …",
        "error_type": PLAIN,
        "suggestion": PLAIN,
        "details": [f"line {PLAIN[:14]}", f"{PLAIN[14:]} on"],
        "warnings": [PLAIN],
        "usage": {"wall": 1.0},
        "exit_code": 1,
    }
    clean = masker.outcome(outcome)
    assert clean == {
        "error": "ValueError: [API_KEY]; wrote '[API_KEY]' …",
        "error_type": "[API_KEY]",
        "suggestion": "[API_KEY]",
        "details": ["line [API_KEY]", "[API_KEY] on"],
        "warnings": ["[API_KEY]"],
        "usage": {"wall": 1.0},
        "exit_code": 1,
        "masked": [NAME],
    }


def test_a_masked_result_says_so():
    clean = Masker({NAME: PLAIN}).outcome({"result": {"env": PLAIN}, "warnings": ["odd"]})
    assert clean["result"] == {"env": "[API_KEY]"}
    assert clean["warnings"] == ["odd", "the result held a secret, which was masked"]
    assert Masker({NAME: PLAIN}).outcome({"result": 1}) == {"result": 1, "warnings": []}


def as_file(data):
    return {"file": "a.txt", "size": len(data), "encoding": "base64", "data": base64.b64encode(data).decode()}


def test_a_file_of_text_is_masked_and_another_one_is_told_of():
    masker = Masker({NAME: PLAIN})
    assert masker.value(as_file(f"key={PLAIN}\n".encode())) == as_file(b"key=[API_KEY]\n")
    picture = as_file(b"\xff\xd8" + PLAIN.encode())
    clean = masker.outcome({"result": picture})
    assert clean["result"] == picture
    assert "not text" in clean["warnings"][0]
    lookalike = {**as_file(b""), "data": f"not base64: {PLAIN}"}
    assert masker.value(lookalike)["data"] == "not base64: [API_KEY]"


def test_callbacks_that_nobody_gave():
    masker = Masker({NAME: PLAIN})
    assert (masker.lines(None), masker.chunks(None), masker.progress(None)) == (None, None, None)


def test_log_and_progress():
    masker, seen = Masker({NAME: PLAIN}), []
    masker.lines(lambda *line: seen.append(line))(f"a {PLAIN}", "ERROR")
    masker.progress(lambda *step: seen.append(step))(0.5, PLAIN)
    assert seen == [("a [API_KEY]", "ERROR"), (0.5, "[API_KEY]")]


def test_nothing_that_holds_values_shows_them():
    for shown in (Masker({NAME: PLAIN}), Secrets({NAME: PLAIN})):
        for text in (repr(shown), str(shown), f"{shown}"):
            assert NAME in text
            assert PLAIN not in text


def test_a_large_result_costs_little():
    value = "the quick brown fox, k3y-A1b2 " * (64 * 1024 * 1024 // 30)
    masker = Masker({NAME: PLAIN, "OTHER": KEY})
    begin = time.process_time()
    assert masker.value(value) is value
    assert time.process_time() - begin < 2.0  # measured: about 0.1
