"""On which machines wheels can be installed."""

from __future__ import annotations

import pytest

from agenthub.transfer.platforms import Platform, needed_platform, parse_wheel_name, this_machine

DEBIAN = Platform("linux", "x86_64", "glibc", (2, 36))
ALPINE = Platform("linux", "x86_64", "musl", (1, 2))


@pytest.mark.parametrize(
    ("wheels", "here", "needed"),
    [
        ([], DEBIAN, Platform("")),
        (["six-1.17.0-py2.py3-none-any.whl"], DEBIAN, Platform("linux", "x86_64")),
        (
            [
                "a-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                "b-1-py3-none-manylinux_2_28_x86_64.whl",
            ],
            DEBIAN,
            Platform("linux", "x86_64", "glibc", (2, 28)),
        ),
        (["a-1-cp312-cp312-linux_x86_64.whl"], DEBIAN, DEBIAN),  # built here
        (["a-1-cp312-abi3-manylinux1_x86_64.whl"], DEBIAN, Platform("linux", "x86_64", "glibc", (2, 5))),
        (
            ["a-1-cp312-cp312-manylinux_2_17_x86_64.musllinux_1_1_x86_64.whl"],
            ALPINE,
            Platform("linux", "x86_64", "musl", (1, 1)),
        ),
        (
            ["a-1-cp312-cp312-macosx_11_0_arm64.whl"],
            Platform("darwin", "arm64"),
            Platform("darwin", "arm64"),
        ),
    ],
)
def test_what_wheels_need(wheels, here, needed):
    assert needed_platform(wheels, here) == needed
    assert needed.runs_on(here)


@pytest.mark.parametrize(
    "machine",
    [
        Platform("darwin", "x86_64"),
        Platform("linux", "aarch64", "glibc", (2, 36)),
        Platform("linux", "x86_64", "glibc", (2, 27)),
        ALPINE,
    ],
)
def test_what_does_not_run(machine):
    assert not Platform("linux", "x86_64", "glibc", (2, 28)).runs_on(machine)
    assert Platform("").runs_on(machine)


@pytest.mark.parametrize(
    "name",
    ["x.whl", "../a-1-py3-none-any.whl", "a-1-py3-none-any.whl\n", "-a-1-py3-none-any.whl", "a-1 --index-url-any.whl"],
)
def test_what_is_no_wheel(name):
    assert parse_wheel_name(name) is None


def test_this_machine_is_one():
    here = this_machine()
    assert here.system
    assert here.runs_on(here)
