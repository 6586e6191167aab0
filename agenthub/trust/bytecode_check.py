"""Checks bytecode against its modules: a program that runs alone, on the Python that compiled it, and executes none.

Reads a JSON list of paths of `.pyc` files from standard input, and prints one of those that are not what their modules
compile to, with the reason. Runs on Python 3.8 and newer, and imports the standard library alone.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import sys
from types import CodeType
from typing import Any

_HEADER = 16
_HASHED = 0b1
_COMPARED = ("co_name", "co_code", "co_flags", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_nlocals")
_ALSO = ("co_stacksize", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_firstlineno", "co_exceptiontable")


def main() -> int:
    wrong = {}
    for path in json.load(sys.stdin):
        reason = _wrong(path)
        if reason:
            wrong[path] = reason
    json.dump(wrong, sys.stdout)
    return 0


def _wrong(path: str) -> str:
    source, tag = importlib.util.source_from_cache(path), sys.implementation.cache_tag
    if os.path.basename(path) != f"{os.path.splitext(os.path.basename(source))[0]}.{tag}.pyc":
        return "is no bytecode of this Python"
    try:
        with open(path, "rb") as file:
            data = file.read()
        with open(source, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return ""  # nor does Python load it without the module
    try:
        if data[:4] != importlib.util.MAGIC_NUMBER or not _fits(data[4:_HEADER], source, text):
            return ""  # Python does not load it
        compiled = compile(text, source, "exec", dont_inherit=True)
        found = marshal.loads(data[_HEADER:])  # noqa: S302 - is compared and never executed
        return "" if _same(found, compiled) else "is not what its module compiles to"
    except (EOFError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError):
        return "is damaged"


def _fits(header: bytes, source: str, text: bytes) -> bool:
    """Whether Python takes bytecode of this header for the module as it is."""
    flags = int.from_bytes(header[:4], "little")
    if flags == _HASHED:  # not looked at again: whatever it says, it is loaded
        return True
    if flags & _HASHED:
        return header[4:] == importlib.util.source_hash(text)
    found = os.stat(source)
    times = (int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF)
    return (int.from_bytes(header[4:8], "little"), int.from_bytes(header[8:12], "little")) == times


def _same(one: Any, other: Any) -> bool:
    """Whether two constants do the same; of code the file's name may differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, CodeType):
        names = [name for name in (*_COMPARED, *_ALSO) if hasattr(one, name)]
        return all(getattr(one, name) == getattr(other, name) for name in names) and _same(
            one.co_consts, other.co_consts
        )
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, frozenset):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    return repr(one) == repr(other)  # 0.0 and -0.0, 1 and True


if __name__ == "__main__":
    sys.exit(main())
