"""What a run does with bytes, descriptors and the end of its process."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time

import pytest
from processes_support import descriptors, make_agent, own_children, run_script, supervised

from agenthub.errors import EnvironmentError
from agenthub.runtime.process_manager import ProcessManager
from agenthub.runtime.processes.cancellation import Cancellation
from agenthub.runtime.processes.limits import Limits

MB = 1 << 20


def test_result_is_the_last_json_object_and_the_rest_is_log(tmp_path):
    lines = []
    answer = run_script(
        tmp_path,
        """
        import json, sys
        request = json.loads(sys.argv[1])
        assert json.load(sys.stdin) == request and sys.stdin.read() == ""
        print("hello")
        print('{"level": "info"}')
        print(json.dumps({"result": request["parameters"]["x"]}))
        print("bye")
        print("oops", file=sys.stderr)
        """,
        {"x": [1, "é", None]},
        on_log=lambda line, level: lines.append(line),
    )
    assert answer["result"] == [1, "é", None]
    assert answer["warnings"] == []
    assert sorted(lines) == ["bye", "hello", "oops", '{"level": "info"}']
    assert answer["memory_usage"].endswith("MB")
    assert answer["usage"]["peak_memory"] > 0  # how much is seen of so short a run is up to the scheduler
    assert answer["execution_time"] == answer["usage"]["wall"] > 0


def test_script_runs_in_its_directory_and_imports_its_neighbours(tmp_path):
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "neighbour.py").write_text("WORD = 'found'")
    answer = run_script(
        tmp_path,
        """
        import json, os, neighbour
        print(json.dumps({"result": [neighbour.WORD, os.getcwd(), os.environ["HOME"]]}))
        """,
    )
    word, directory, home = answer["result"]
    assert word == "found"
    assert directory == str(tmp_path / "agent")
    assert home != os.environ["HOME"]
    assert not os.path.exists(home)


def test_only_allowed_and_declared_variables_reach_the_agent(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates")
    answer = run_script(
        tmp_path, "import json, os; print(json.dumps({'result': dict(os.environ)}))", env={"KEY": "1"}, run_id="r1"
    )
    seen = answer["result"]
    assert "SECRET_OF_THE_SHELL" not in seen
    assert seen["SSL_CERT_FILE"] == "/certificates"
    assert seen["KEY"] == "1"
    assert seen["AGENTHUB_RUN_ID"] == "r1"
    assert "AGENTHUB_GATE" not in seen


def test_agent_inherits_three_descriptors_only(tmp_path):
    kept = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        answer = run_script(tmp_path, "import json, os; print(json.dumps({'result': os.listdir('/proc/self/fd')}))")
    finally:
        os.close(kept)
    assert len(answer["result"]) == 4  # the fourth is the one that lists them


def test_64_mib_both_ways(tmp_path):
    started = time.monotonic()
    answer = run_script(
        tmp_path,
        "import json, sys; print(json.dumps({'result': json.load(sys.stdin)['parameters']['x'][::-1]}))",
        {"x": "ab" * (32 * MB)},
        limits=Limits(timeout=60),
    )
    assert answer["result"] == "ba" * (32 * MB)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("size", "arguments"), [(1000, 2), (200_000, 1)])
def test_a_large_request_travels_by_stdin_alone(tmp_path, size, arguments):
    code = "import json, sys; print(json.dumps({'result': [len(sys.argv), len(sys.stdin.read())]}))"
    answer = run_script(tmp_path, code, {"x": "y" * size})
    assert answer["result"][0] == arguments
    assert answer["result"][1] > size


def test_an_agent_that_cannot_read_a_large_request_is_told_so(tmp_path):
    answer = run_script(tmp_path, "import sys; sys.exit('Invalid arguments')", {"x": "y" * 200_000})
    assert answer["error"] == "probe ended with exit code 1 without a result"
    assert "too long for an argument" in answer["suggestion"]


def test_never_reading_the_input_is_fine(tmp_path):
    answer = run_script(tmp_path, "print('{\"result\": 1}')", {"x": "y" * 8 * MB})
    assert answer["result"] == 1


def test_closing_stdin_early_is_fine(tmp_path):
    code = "import os, time; os.close(0); print('{\"result\": 1}', flush=True)"
    assert run_script(tmp_path, code, {"x": "y" * 8 * MB})["result"] == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("pass", "ended without a result: it wrote nothing"),
        ("print('garbage')", "ended without a result: its output holds none"),
        ("print('{\"result\": [1, 2')", "the result is not JSON"),
        ("print('{\"result\": NaN}')", "NaN is no JSON number"),
        ("print('{\"result\": 1e999}')", "too large for a float"),
        ('print(\'{"result": "\\\\ud800"}\')', "lone surrogate"),
        ('import os; os.write(1, b\'{"result": "\\xff"}\')', "not valid UTF-8"),
        ("print('{\"result\": ' + '['*100000 + ']'*100000 + '}')", "nested too deeply"),
        ("print('{\"result\": ' + '7'*5000 + '}')", "4,300 digits"),
        ("raise SystemExit(7)", "ended with exit code 7 without a result"),
        ("import os; os.kill(os.getpid(), 11)", "died of SIGSEGV (a segmentation fault) without a result"),
        ("import os; os.kill(os.getpid(), 9)", "died of SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", "died of signal 40"),
        ('print(\'{"error": "no key"}\')', "no key"),
    ],
)
def test_bad_output_is_an_execution_error(tmp_path, code, error):
    answer = run_script(tmp_path, code)
    assert error in answer["error"]
    assert answer["error_type"] == "ExecutionError" or "nested" in error
    assert answer["exit_code"] == 1
    assert "\n" not in answer["error"]
    assert answer["execution_time"] > 0


def test_the_last_of_two_results_counts(tmp_path):
    answer = run_script(tmp_path, "print('{\"result\": 1}'); print('{\"result\": 2}')")
    assert answer["result"] == 2
    assert answer["warnings"] == ["wrote 2 results; the last one counts"]


def test_a_result_with_an_exit_status_is_a_success_with_a_warning(tmp_path):
    answer = run_script(tmp_path, "print('{\"result\": 1}'); raise SystemExit(3)")
    assert answer["result"] == 1
    assert answer["warnings"] == ["gave a result, but ended with exit code 3"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_flood_is_stopped_and_does_not_fill_our_memory(stream):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = f"import sys\nwhile True: sys.{stream}.write('x' * 65536)"
    completion, _ = supervised(code, Limits(timeout=30, output=64 * MB))
    assert completion.reason == "output"
    assert 64 * MB < completion.output < 70 * MB
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 16 * MB


def test_a_result_over_the_cap_is_refused(tmp_path):
    code = "print('{\"result\": \"' + 'x' * (4 << 20) + '\"}')"
    answer = run_script(tmp_path, code, limits=Limits(timeout=20, result=MB))
    assert answer["error_type"] == "OutputLimitError"
    assert "larger than the 1 MB" in answer["error"]


def test_an_endless_line_is_cut_into_pieces():
    lines = []
    code = "import sys; sys.stderr.write('x' * 1000000)"
    supervised(code, on_log=lambda line, level: lines.append(line))
    assert sum(map(len, lines)) == 1_000_000
    assert max(map(len, lines)) <= 16384


def test_a_deadline_holds_against_whoever_ignores_sigterm():
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    completion, _ = supervised(code, Limits(timeout=0.5))
    assert completion.reason == "timeout"
    assert completion.signal == signal.SIGKILL
    assert 0.5 <= completion.wall < 3


def test_a_deadline_lets_an_agent_say_goodbye():
    lines = []
    code = """
    import signal, sys, time
    def leave(*_): print("goodbye"); sys.exit(0)
    signal.signal(15, leave)
    time.sleep(60)
    """
    completion, _ = supervised(code, Limits(timeout=0.5), on_log=lambda line, level: lines.append(line))
    assert completion.reason == "timeout"
    assert lines == ["goodbye"]


def test_cancellation_from_another_thread():
    with Cancellation() as cancellation:
        begun = threading.Event()
        thread = threading.Thread(target=lambda: (begun.wait(20), cancellation.cancel()))
        thread.start()
        completion, _ = supervised(
            "import time; print('begun', flush=True); time.sleep(60)",
            cancellations=(cancellation,),
            on_log=lambda line, level: begun.set(),
        )
        thread.join()
    assert completion.reason == "cancelled"
    assert completion.wall < 10


def test_cancellation_from_a_signal_handler():
    with Cancellation() as cancellation:
        before = signal.signal(signal.SIGUSR1, lambda *_: cancellation.cancel())
        try:
            completion, _ = supervised(
                "import os, signal, time; os.kill(os.getppid(), signal.SIGUSR1); time.sleep(60)",
                cancellations=(cancellation,),
            )
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert completion.reason == "cancelled"


def test_a_call_back_that_raises_ends_the_run():
    def interrupt(line, level):
        raise KeyboardInterrupt

    before = own_children()
    with pytest.raises(KeyboardInterrupt):
        supervised("import time; print('begun', flush=True); time.sleep(60)", on_log=interrupt)
    assert own_children() == before


def test_cleanup_processes_ends_the_runs_of_other_threads(tmp_path):
    path = make_agent(tmp_path / "agent", "import time; print('begun', flush=True); time.sleep(60)")
    manager = ProcessManager()
    begun = threading.Semaphore(0)
    answers = []

    def run():
        answers.append(manager.execute_agent(path, "go", {}, on_log=lambda line, level: begun.release()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=20)
    manager.cleanup_processes()
    for thread in threads:
        thread.join(20)
    assert [answer["error_type"] for answer in answers] == ["InterruptedError", "InterruptedError"]


def test_several_at_once_from_threads_stay_apart_and_leave_nothing():
    open_before, children_before = descriptors(), own_children()
    results = {}

    def run(number):
        code = f"""
        import json, os
        os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60')
        print(json.dumps({{'result': {number}}}))
        """
        completion, exchange = supervised(code, run_id=f"run-{os.getpid()}-{number}")
        results[number] = (completion.reason, exchange.reply.value)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {number: ("exited", number) for number in range(6)}
    assert descriptors() == open_before
    assert own_children() == children_before


def test_no_descriptor_is_left_whatever_happened(tmp_path):
    before = descriptors()
    supervised("pass")
    supervised("import time; time.sleep(60)", Limits(timeout=0.1))
    with pytest.raises(EnvironmentError):
        supervised("pass", argv=("/no/such/program",))
    with pytest.raises(EnvironmentError):
        supervised("pass", cwd=tmp_path / "missing")
    assert descriptors() == before


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "no such executable program"),
        (b"echo hello\n", 0o755, "neither a program nor"),
        (b"", 0o755, "neither a program nor"),
        (b"#!/no/such/interpreter\n", 0o755, "its interpreter /no/such/interpreter is missing"),
        (b"#!/usr/bin/env no-such-word\n", 0o755, "its interpreter no-such-word is missing"),
        (b"#!/bin/sh\n", 0o644, "no such executable program"),
    ],
)
def test_a_broken_program_is_an_environment_error(tmp_path, content, mode, reason):
    program = tmp_path / "program"
    if content is not None:
        program.write_bytes(content)
        program.chmod(mode)
    with pytest.raises(EnvironmentError, match=reason):
        supervised("", argv=(str(program),))


def test_a_command_is_any_program(tmp_path):
    code = """\
    #!/bin/sh
    read -r request
    printf '{"result": ["%s", "%s"]}\\n' "$1" "$(printf %s "$request" | wc -c)"
    """
    path = make_agent(tmp_path / "agent", code, "entrypoint: {command: [./run.sh, first]}", "run.sh")
    os.chmod(os.path.join(path, "run.sh"), stat.S_IRWXU)
    answer = ProcessManager().execute_agent(path, "go", {})
    assert answer["result"][0] == "first"


def test_python_in_a_command_is_the_environments(tmp_path):
    code = "import json, sys; print(json.dumps({'result': sys.executable}))"
    path = make_agent(tmp_path / "agent", code, "entrypoint: {command: [python, main.py]}", "main.py")
    assert ProcessManager().execute_agent(path, "go", {})["result"] == sys.executable


def test_directory_removed_in_the_middle(tmp_path):
    code = "import os, shutil; shutil.rmtree(os.getcwd()); raise SystemExit(1)"
    answer = run_script(tmp_path, code)
    assert answer["error_type"] == "ExecutionError"
    assert "was removed during the run" in answer["suggestion"]


def test_an_embedding_program_that_ignores_its_children(tmp_path):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert run_script(tmp_path, "print('{\"result\": 1}')")["result"] == 1
        assert "it wrote nothing" in run_script(tmp_path, "raise SystemExit(3)")["error"]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_sigint_in_the_middle_ends_the_run_and_is_raised():
    before = own_children()
    with pytest.raises(KeyboardInterrupt):
        supervised("import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)")
    assert own_children() == before
