"""Compiles modules: a program that runs alone, on an environment's interpreter, and imports nothing of the environment.

Its one argument is a JSON file with a list of jobs `[source, target, digest, refusal]`: the module; where its bytecode
goes, without the ending that says which interpreter made it; the SHA-256 of the module; a file that is made where that
is not what is there. A module that cannot be compiled is left out. Runs on Python 3.8 and newer, and imports the
standard library alone.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib.util
import json
import marshal
import os
import resource
import signal
import sys

CPU_SECONDS = 30
"""What one module may take: a generated one of 5 MB takes 10."""
MEMORY = 2 << 30
MOST_PROCESSES = 8
CANNOT_WRITE = 4
_INDEX = 4  # bytes
_OWN_FAULT = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)  # of the module's name


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    tag = sys.implementation.cache_tag
    if tag is None:
        return CANNOT_WRITE
    queue = _queue(sys.argv[1] + ".queue", len(jobs))
    running: set[int] = set()
    left = len(jobs) + MOST_PROCESSES  # processes to start: each that dies has taken a module with it
    for _ in range(min(_processors(), MOST_PROCESSES, (len(jobs) + 15) // 16)):
        running.add(_start(jobs, queue, tag))
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == CANNOT_WRITE:
            for other in running:
                os.kill(other, signal.SIGKILL)
            while running:
                running.discard(os.wait()[0])
            return CANNOT_WRITE
        if status and left:
            left -= 1
            running.add(_start(jobs, queue, tag))
    return 0


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _queue(path: str, length: int) -> int:
    """A file of all numbers below `length`; whoever reads next has the next, as long as they share its position."""
    with open(path, "wb") as file:
        file.write(b"".join(number.to_bytes(_INDEX, "little") for number in range(length)))
    return os.open(path, os.O_RDONLY)


def _start(jobs: list[list[str]], queue: int, tag: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if hard < 0 else min(MEMORY, hard), hard))
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    while True:
        index = os.read(queue, _INDEX)
        if not index:
            os._exit(0)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        source, target, digest, refusal = jobs[int.from_bytes(index, "little")]
        bytecode = _compiled(source, digest)
        try:
            if bytecode is None:
                open(refusal, "wb").close()
            elif bytecode:
                _write(f"{target}.{tag}.pyc", bytecode)
        except OSError as error:
            if error.errno not in _OWN_FAULT:
                os._exit(CANNOT_WRITE)


def _compiled(source: str, digest: str) -> bytes | None:
    """The content of a `.pyc` file; empty where the module cannot be compiled, None where it is not the one meant."""
    try:
        with open(source, "rb") as file:
            data = file.read()
    except OSError:
        return None
    if base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode() != digest:
        return None
    try:
        code = compile(data, source, "exec", dont_inherit=True)
        # Holds as long as the source has this hash, whatever its times are: the same file has others elsewhere.
        flags = (0b11).to_bytes(4, "little")
        return importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(data) + marshal.dumps(code)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return b""


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    sys.exit(main())
