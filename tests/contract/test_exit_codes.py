"""The table of exit codes: the contract's, the classes', and the published one."""

from __future__ import annotations

import os
import re

import pytest

from agenthub import errors
from tests.support import PROJECT

CODES = {
    "ExecutionError": 1,
    "OutputLimitError": 1,
    "CpuLimitError": 1,
    "ProcessLimitError": 1,
    "OpenFilesLimitError": 1,
    "FileSizeLimitError": 1,
    "DiskLimitError": 1,
    "InvalidInputError": 2,
    "AgentNotFoundError": 3,
    "MethodNotFoundError": 3,
    "InvalidManifestError": 3,
    "EnvironmentError": 4,
    "InstallError": 4,
    "StoreError": 4,
    "UnreachableError": 4,
    "PermissionDeniedError": 5,
    "TimeoutError": 124,
    "InternalError": 125,
    "InterruptedError": 130,
    "MemoryLimitError": 137,
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_a_class_has_its_code(name, code):
    error = getattr(errors, name)("x", suggestion="y")
    assert (error.exit_code, error.error_type) == (code, name)
    assert error.to_dict() == {"error": "x", "error_type": name, "exit_code": code, "suggestion": "y"}
    assert errors.error_class(name) is type(error)


def test_no_class_is_without_one():
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AgentRuntimeError)
    }
    others = classes - set(CODES) - {"AgentRuntimeError"}
    assert all(issubclass(getattr(errors, name), errors.PermissionDeniedError) for name in others)


def test_a_name_that_an_agent_made_up_is_an_execution_error():
    for name in ("Nonsense", "nearest", "annotations", "builtins"):
        assert errors.error_class(name) is errors.ExecutionError


def test_the_published_table_is_the_same():
    with open(os.path.join(PROJECT, "docs", "reference", "envelope.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| (\d+) \| .* \|([^|]*)\|$", file.read(), re.MULTILINE)
    published = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert {name: published.get(name) for name in CODES} == CODES
