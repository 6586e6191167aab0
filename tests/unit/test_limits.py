from __future__ import annotations

import pytest

from agenthub.config import MB, RuntimeConfig
from agenthub.errors import InvalidManifestError
from agenthub.runtime.processes.limits import Limits, merge_limits


def test_defaults_are_the_interface_documents():
    limits = Limits.from_config(RuntimeConfig())
    assert (limits.timeout, limits.memory, limits.grace) == (30, 1024 * MB, 5)
    assert limits == Limits()


def test_zero_in_the_configuration_means_no_cap():
    config = RuntimeConfig()
    config.max_execution_time = config.max_memory_usage = 0
    assert Limits.from_config(config)[:2] == (None, None)


def test_a_manifest_replaces_what_it_names():
    declared = {"timeout": "2min", "memory": "1.5GB", "cpu": 10, "processes": "64", "output": "10MB", "disk": 5}
    merged = merge_limits(Limits(grace=1), declared)
    assert merged == Limits(120, 1536 * MB, 10, 64, None, 5, 10 * MB, Limits().result, 1, 5)
    assert merge_limits(merged, {"timeout": None}) == merged


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"memory": "a lot"}, r"limits\.memory: 'a lot' is not a size"),
        ({"timeout": -1}, r"limits\.timeout: -1 is not a duration"),
        ({"timeout": 0}, r"limits\.timeout: must be above 0"),
        ({"processes": 1.5}, r"limits\.processes: 1\.5 is not a count"),
        ({"processes": True}, r"limits\.processes"),
        ({"memroy": 1}, r"there is no limit 'memroy'"),
    ],
)
def test_a_wrong_limit_is_named(declared, message):
    with pytest.raises(InvalidManifestError, match=message):
        merge_limits(Limits(), declared)


def test_a_misspelt_limit_gets_a_suggestion():
    with pytest.raises(InvalidManifestError) as caught:
        merge_limits(Limits(), {"memroy": 1})
    assert caught.value.suggestion == "did you mean 'memory'?"
