"""What the tests of streams and of cancelling share: one agent, in a store where its runs are cold or warm."""

from __future__ import annotations

import os
import signal

from tests.support import PATIENCE, install_into, invoke, method, start, write_agent

CODE = r"""
import asyncio, os, signal, time
import agenthub_agent


def words():
    yield "one "
    while not agenthub_agent.cancelled():
        time.sleep(0.005)


def rows(count):
    for number in range(count):
        yield {"row": number}


def mixed():
    yield "text"
    yield [1, "é"]
    yield "a line\n"
    yield "end"


def listed():
    yield from ["a", 1]


def plain():
    return {"one": "value"}


def nothing():
    return
    yield


def fails():
    yield "half a "
    raise ValueError("no more")


def told():
    agenthub_agent.log("a line of log")
    agenthub_agent.progress(0.4, "reading")
    yield "x"


def shown(place):
    agenthub_agent.progress(0.4, "reading\x1b[31m\nred")
    while not os.path.exists(os.path.join(place, "seen")):
        time.sleep(0.005)
    return "done"


async def later():
    for number in range(3):
        await asyncio.sleep(0)
        yield number


def gigabyte():
    for _ in range(1 << 14):
        yield "x" * (1 << 16)


def polite():
    assert not agenthub_agent.cancelled()
    print("here")
    while not agenthub_agent.cancelled():
        time.sleep(0.005)
    print("saved")
    return "too late"


def closing():
    print("here")
    try:
        while True:
            yield "x" * 1000
    finally:
        print("saved")


async def asynchronous():
    print("here")
    try:
        await asyncio.sleep(60)
    finally:
        print("saved")


async def asynchronous_stream():
    print("here")
    try:
        yield "first\n"
        await asyncio.sleep(60)
    finally:
        print("saved")


def signalled():
    signal.signal(signal.SIGTERM, lambda *_: (print("saved"), os._exit(0)))
    print("here")
    time.sleep(60)


def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    agenthub_agent.cancelled()
    if os.fork() == 0:
        os.setsid()
    else:
        print("here")
    while True:
        time.sleep(60)


def once():
    yield "first\n"
    time.sleep(60)
"""
_STREAMS = {
    "words": {},
    "rows": {"count": {"type": "integer", "required": True}},
    "mixed": {},
    "plain": {},
    "nothing": {},
    "fails": {},
    "told": {},
    "later": {},
    "gigabyte": {},
    "closing": {},
    "asynchronous_stream": {},
    "once": {},
}
METHODS = {
    **{name: {**method(**parameters), "stream": True} for name, parameters in _STREAMS.items()},
    "listed": method(),
    "shown": method(place={"type": "directory", "required": True}),
    **{name: method() for name in ("polite", "asynchronous", "signalled", "deaf")},
}


class Store:
    """A store with the agent `streamer`."""

    def __init__(self, place, warm):
        agent = write_agent(place / "streamer", CODE, METHODS, entrypoint="agent")
        self.home = install_into(place / "home", agent)
        self.env = {**os.environ, "AGENTHUB_HOME": self.home}
        self.warm = warm
        self._started = []
        assert self.run("streamer", "plain").code == 0, "and its bytecode is compiled, of which a first run tells"

    @property
    def workers(self):
        return invoke("ps", "--json", env=self.env).json["workers"]

    def prepare(self):
        """Sees that there is a worker, if there is to be one: a run that had to be killed took it along."""
        if self.warm and not self.workers:
            done = invoke("warm", "streamer", "--idle", "60s", env=self.env)
            assert done.code == 0, done.err
        return self

    def run(self, *words):
        return invoke("run", *words, env=self.env)

    def start(self, *words, **options):
        self._started.append(start("run", *words, env=self.env, **options))
        return self._started[-1]

    def close(self):
        for process in self._started:
            process.kill()
            process.communicate()
        for worker in self.workers if self.warm else ():
            os.kill(worker["pid"], signal.SIGTERM)


def ended(process):
    """Exit code, stdout and stderr of a command, once it has ended."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, (out or b"").decode(), err.decode()
