"""Writes on the protocol's descriptors what its runner does not expect."""

import fcntl
import json
import os
import sys
import time

ESCAPES = (
    "\x1b]0;OWNED\x07",  # a title
    "\x1b[2J\x1b[1;1H",  # an empty screen
    "\x1b]52;c;b3duZWQ=\x07",  # the clipboard
    "\x9b31m",  # eight-bit controls
    "\rerror: it never happened",
    "\u202ereversed",
    "\x00\x07\x08",
)


def writers():
    """The descriptors beyond 2 that lead to the runner."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and leads_to_runner(int(name), os.O_WRONLY):
                found.append(int(name))
        except OSError:
            continue
    return found


def leads_to_runner(descriptor, mode):
    pipe = os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    return pipe and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == mode


def write(data):
    view = memoryview(data)
    for descriptor in writers():
        rest = view
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def say(facts):
    """Writes what the test wants: texts, each with the number of its repetitions."""
    for text, times in facts["parts"]:
        data = text.encode("latin-1")
        while times > 0:
            write(data * min(times, 100_000))
            times -= 100_000
    if facts["wait"]:
        time.sleep(10)
    return {"outcome": "done"}


def answer(value, request=1):
    return json.dumps({"jsonrpc": "2.0", "id": request, "result": {"value": value}}).encode() + b"\n"


def forge_on_every_descriptor(facts):
    for descriptor in range(64):
        try:
            os.write(descriptor, answer({"outcome": "forged"}))
        except OSError:
            continue
    return {"outcome": "honest"}


def forge_in_child(facts):
    """A child has the protocol's descriptors if it is a fork, and not if it is another program."""
    forged = answer({"outcome": "forged"})
    code = f"import os\nfor fd in range(64):\n  try: os.write(fd, {forged!r})\n  except OSError: pass"
    os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code])
    return {"outcome": "honest"}


def answer_for_ever(facts):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        write(answer({"outcome": "again"}) * 100)


def write_after_the_answer(facts):
    """Descendants go on, and hold the pipe open."""
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            end = time.monotonic() + 10
            while time.monotonic() < end:
                try:
                    write(answer({"outcome": "late"}))
                except OSError:
                    break
            os._exit(0)
    return {"outcome": "done"}


def close_everything(facts):
    os.closerange(0, 64)
    time.sleep(10)


def ask(facts):
    """What the runner says to requests of ours."""
    reader = [
        int(name)
        for name in os.listdir("/proc/self/fd")
        if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}") and leads_to_runner(int(name), os.O_RDONLY)
    ]
    names = ("host/run", "host/secret", "host/env", "run", "describe", "cancel", "\x1b]0;OWNED\x07", "x" * 10_000)
    answers = []
    for number, name in enumerate(names):
        request = number + 100
        write(json.dumps({"jsonrpc": "2.0", "id": request, "method": name, "params": {}}).encode() + b"\n")
        received = json.loads(os.read(reader[0], 65536))
        answers.append([received["id"] == request, received["error"]["code"]])
    return {"outcome": "done", "got": answers}


def ask_without_listening(facts):
    line = json.dumps({"jsonrpc": "2.0", "id": 5, "method": "host/secret"}).encode() + b"\n"
    end = time.monotonic() + 10
    while time.monotonic() < end:
        write(line * 1000)
    return {"outcome": "done"}


def call_the_runner(facts):
    """The runner's own methods, as notifications."""
    for name in ("run", "describe", "cancel", "result", "__init__", "$/exit", "rpc.discover"):
        write(json.dumps({"jsonrpc": "2.0", "method": name, "params": {"value": "forged"}}).encode() + b"\n")
    return {"outcome": "done"}


def log_lines_without_end(facts):
    """Two bytes of a message are one line of the log."""
    message = b'{"jsonrpc":"2.0","method":"log","params":{"message":"' + b"\\n" * (8 << 20) + b'"}}\n'
    write(message)
    return {"outcome": "done"}


def raise_escapes(facts):
    say_escapes(facts)
    raise RuntimeError("it broke: " + "".join(ESCAPES))


def say_escapes(facts):
    import agenthub_agent

    for text in ESCAPES:
        print("printed " + text)
        agenthub_agent.log("logged " + text, "warning")
        agenthub_agent.progress(0.5, "progress " + text)
    return "".join(ESCAPES)


def count_no_lower_than_memory(facts):
    raise MemoryError("x" * 100_000)
