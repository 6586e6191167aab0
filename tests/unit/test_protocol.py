from __future__ import annotations

import json
import tracemalloc

import pytest

from agenthub.errors import ExecutionError, InvalidInputError, OutputLimitError
from agenthub.runtime.processes.lines import LineSplitter, Log
from agenthub.runtime.processes.protocol import Failure, RpcExchange, ScriptExchange
from agenthub.runtime.processes.strict_json import MAX_CONTAINERS, MAX_DEPTH, parse_json

MB = 1 << 20


@pytest.mark.parametrize(
    "value", [None, 1.5, "\ud83d\ude00", [[]] * 3, {"a": {"b": []}}, "\\ud800", 10**4000, "a,[{" * 3_000_000]
)
def test_honest_json_is_read(value):
    value = json.loads(json.dumps(value))
    assert parse_json(json.dumps(value).encode(), "it") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "it") == value


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"[NaN]", ExecutionError, "NaN is no JSON number"),
        (b"-Infinity", ExecutionError, "-Infinity is no JSON number"),
        (b'{"a": [1e999]}', ExecutionError, "too large for a float"),
        (b"1" * 400 + b".0", ExecutionError, "too large for a float"),
        (b"7" * 5000, ExecutionError, "over 4,300 digits"),
        (rb'["\ud800"]', ExecutionError, "lone surrogate"),
        (rb'{"\uDC00": 1}', ExecutionError, "lone surrogate"),
        (b'"\xff"', ExecutionError, "not valid UTF-8"),
        (b'"\xed\xa0\x80"', ExecutionError, "not valid UTF-8"),
        (b"[" * 100_000, OutputLimitError, "nested too deeply"),
        (b"[" * (MAX_DEPTH + 1) + b"1" + b"]" * (MAX_DEPTH + 1), OutputLimitError, "nested too deeply"),
        (b"[1,", ExecutionError, "not JSON"),
        (b"", ExecutionError, "not JSON"),
        (b"[1] 2", ExecutionError, "Extra data"),
        (b"[" + b"{}," * (MAX_CONTAINERS + 1) + b"0]", OutputLimitError, "arrays or objects"),
        (b"[" + b"0," * 10_000_001 + b"0]", OutputLimitError, "values"),
        (b'"' + b"x" * 101 + b'"', OutputLimitError, "at most 100 B"),
    ],
)
def test_hostile_json_is_refused(data, error, message):
    with pytest.raises(error, match=message) as caught:
        parse_json(data, "it", 100 if b"xxx" in data else None)
    assert caught.value.message.startswith("it ")


def test_the_deepest_that_is_accepted():
    value = parse_json(b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH, "it")
    assert json.dumps(value, indent=1)


def test_a_bomb_is_refused_before_it_is_parsed():
    data = b"[" + b"{}," * (4 * MB) + b"{}]"
    tracemalloc.start()
    try:
        with pytest.raises(OutputLimitError):
            parse_json(data, "it")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()


def test_lines_are_joined_whatever_the_chunks():
    data = b"one\n\ntwo three\nfour"
    for size in range(1, len(data) + 1):
        lines = LineSplitter()
        found = [line for start in range(0, len(data), size) for line in lines.feed(data[start : start + size])]
        assert [*found, lines.finish()] == [b"one", b"", b"two three", b"four"]
        assert lines.pending == 0


def test_a_log_keeps_the_newest_lines_and_stays_small():
    log = Log()
    for number in range(100_000):
        log.write(f"line {number}")
    assert log.tail[-1] == "line 99999"
    assert 32_000 < sum(map(len, log.tail)) < 200_000


def script(output, size=None, limit=MB):
    log = Log()
    exchange = ScriptExchange("go", {}, log, limit)
    size = size or len(output) or 1
    for start in range(0, len(output), size):
        exchange.feed(output[start : start + size])
    exchange.finish()
    return exchange, log.tail


@pytest.mark.parametrize("size", [None, 1, 7])
def test_script_output_is_split_into_log_and_result(size):
    exchange, log = script(b'hello\n{"a": 1}\n  {"result": {"x": 1}}  \nbye\n', size)
    assert exchange.reply.value == {"x": 1}
    assert log == ("hello", '{"a": 1}', "bye")


@pytest.mark.parametrize(
    ("line", "message", "kind"),
    [
        (b'{"error": "bad\\nluck"}', "bad luck", ""),
        (b'{"error": "x", "result": 1}', "x", ""),
        (b'{"error": {"code": 1}, "error_type": "Odd"}', '{"code": 1}', "Odd"),
        (b'{"error": null}', "no reason given", ""),
        (b'{"error": "' + b"x" * 100_000 + b'"}', "x" * 4000, ""),
    ],
)
def test_an_error_key_is_a_failure(line, message, kind):
    exchange, _ = script(line)
    assert exchange.reply.failure == Failure(message, kind)


def test_no_error_beside_a_result_is_a_success():
    assert script(b'{"result": 1, "error": null}')[0].reply == (1, None)


@pytest.mark.parametrize("output", [b'{"result": [1', b'{"result": NaN}\n', b'x {"result": 1}', b"[1]", b""])
def test_no_result(output):
    exchange, _ = script(output)
    assert exchange.reply is None
    assert (exchange.complaint is None) == (b'{"result"' not in output[:9])


def test_a_bad_line_after_a_result_is_log():
    assert script(b'{"result": 1}\n{"result": NaN}\n')[0].reply.value == 1


def test_the_rest_of_a_long_log_line_is_no_result():
    exchange, log = script(b"x" * 70_000 + b'{"result": 1}\n', size=70_000)
    assert exchange.reply is None
    assert log[-1] == '{"result": 1}'


def test_a_result_line_without_end_is_refused():
    with pytest.raises(OutputLimitError, match="larger than the 1 MB"):
        script(b'{"result": "' + b"x" * 2 * MB)


def test_a_request_carries_the_tool_context():
    exchange = ScriptExchange("go", {"x": "é"}, Log(), MB, {"available_tools": []})
    assert json.loads(exchange.request) == {
        "method": "go",
        "parameters": {"x": "é"},
        "tool_context": {"available_tools": []},
    }
    assert exchange.argument.encode() == exchange.request


@pytest.mark.parametrize("value", [float("nan"), b"x", {1, 2}])
def test_parameters_must_be_json(value):
    with pytest.raises(InvalidInputError):
        ScriptExchange("go", {"x": value}, Log(), MB)
    with pytest.raises(InvalidInputError):
        RpcExchange("run", {"x": value}, Log(), MB)


def rpc(*messages, limit=MB, **options):
    log = Log()
    exchange = RpcExchange("run", {}, log, limit, **options)
    lines = [message if isinstance(message, bytes) else json.dumps(message).encode() for message in messages]
    answer = exchange.feed(b"".join(line + b"\n" for line in lines))
    exchange.finish()
    return exchange, log.tail, answer


def message(**fields):
    return {"jsonrpc": "2.0", **fields}


def test_a_request_is_one_line_of_json_rpc():
    exchange = RpcExchange("run", {"method": "go", "parameters": {"x": "\n"}}, Log(), MB)
    assert exchange.request.count(b"\n") == 1
    assert json.loads(exchange.request) == message(
        id=1, method="run", params={"protocol": 1, "method": "go", "parameters": {"x": "\n"}}
    )


def test_an_answer():
    assert rpc(message(id=1, result={"value": [1]}))[0].reply == ([1], None)


def test_an_error_and_its_traceback():
    error = {"code": -32000, "message": "a\nb", "data": {"type": "ValueError", "traceback": "one\ntwo"}}
    exchange, log, _ = rpc(message(id=1, error=error))
    assert exchange.reply.failure == Failure("a b", "ValueError")
    assert log == ("one", "two")


CHUNKS = (
    message(method="chunk", params={"value": 1}),
    message(method="chunk", params={"value": "x" * 1000}),
    message(id=1, result={"chunks": 2}),
)


def test_chunks_are_collected_where_nobody_listens():
    exchange, _, _ = rpc(*CHUNKS)
    assert exchange.reply.value == [1, "x" * 1000]
    assert (exchange.chunks, exchange.handed) == (None, 0)


def test_chunks_are_handed_on_and_nothing_of_them_is_kept():
    seen = []
    exchange, _, _ = rpc(*CHUNKS, limit=1200, on_chunk=seen.append)
    assert seen == [1, "x" * 1000]
    assert exchange.reply.value is None
    assert exchange.chunks == 2
    assert 1000 < exchange.handed < 1300


def test_an_empty_stream_is_one():
    exchange, _, _ = rpc(message(id=1, result={"chunks": 0}), on_chunk=print)
    assert (exchange.reply, exchange.chunks) == ((None, None), 0)


def test_after_the_farewell_answers_and_chunks_count_no_more():
    seen = []
    exchange = RpcExchange("run", {}, Log(), MB, on_chunk=seen.append)
    assert json.loads(exchange.farewell()) == message(method="cancel")
    exchange.feed(b"".join(json.dumps(one).encode() + b"\n" for one in CHUNKS))
    assert (exchange.reply, seen) == (None, [])


def test_an_agent_says_that_it_heeds_the_farewell():
    assert rpc(message(method="cancellable"))[0].cooperative
    assert not rpc()[0].cooperative


def test_requests_of_the_agent_are_answered_with_not_available():
    _, _, answer = rpc(message(id="a", method="host/tools", params={}))
    assert json.loads(answer) == message(id="a", error={"code": -32601, "message": "host/tools is not available here"})


def test_a_second_answer_is_a_warning():
    exchange, _, _ = rpc(message(id=1, result={"value": 1}), message(id=1, result={"value": 2}))
    assert exchange.reply.value == 1
    assert exchange.warnings == ["answered twice; the first answer counts"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"garbage", "not the protocol: 'garbage'"),
        (b"{}", "not the protocol"),
        (b"[1]", "not the protocol"),
        (b"\xff\xfe", "not the protocol"),
        (b"x" * 1000, "' …"),
        (message(id=2, result={"value": 1}), "request that was not made"),
        (message(id=1, result=5), "not the protocol"),
        (message(id=1, result={"chunks": 3}), "not the protocol"),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {"value": NaN}}', "its answer is not JSON"),
    ],
)
def test_what_is_not_the_protocol_is_named(line, error):
    with pytest.raises(ExecutionError, match=error):
        rpc(line)


def test_half_a_message_is_named():
    exchange = RpcExchange("run", {}, Log(), MB)
    exchange.feed(b'{"jsonrpc": "2.0", "id"')
    exchange.finish()
    assert "in the middle of a message" in exchange.complaint.message


@pytest.mark.parametrize("params", [None, [], {"fraction": "x", "message": 5, "level": 7}])
def test_odd_notices_do_no_harm(params):
    notes = [message(method=method, params=params) for method in ("log", "progress", "unknown", 5)]
    assert rpc(*notes, message(id=1, result={"value": 1}), on_progress=lambda *_: None)[0].reply.value == 1


def test_chunks_together_are_capped():
    with pytest.raises(OutputLimitError):
        rpc(*[message(method="chunk", params={"value": "x" * 1000})] * 2000)


def test_an_answer_over_the_cap_is_refused_before_it_is_complete():
    exchange = RpcExchange("run", {}, Log(), MB)
    for _ in range(16):
        exchange.feed(b"x" * 65536)
    with pytest.raises(OutputLimitError):
        exchange.feed(b"x")
