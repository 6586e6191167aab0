"""On which machines a set of wheels can be installed: system, processor and C library."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9][A-Za-z0-9.+!_]*)"
    r"(?:-[0-9][A-Za-z0-9_.]*)?-(?P<python>[A-Za-z0-9_.]+)-(?P<abi>[A-Za-z0-9_.]+)-(?P<platform>[A-Za-z0-9_.]+)\.whl",
    re.ASCII,
)
_LINUX = re.compile(r"(?P<libc>many|musl)?linux(?P<level>1|2010|2014|_\d{1,4}_\d{1,4}|)_(?P<machine>[A-Za-z0-9_]+)")
_OLD_LEVELS = {"1": (2, 5), "2010": (2, 12), "2014": (2, 17)}


class WheelName(NamedTuple):
    """What the name of a wheel's file says: the package, its version, and the platforms that it is for."""

    name: str
    version: str
    platforms: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """It alone, as a requirement."""
        return f"{self.name}=={self.version}"


class Platform(NamedTuple):
    """A machine, or what a machine has to be.

    Attributes:
        system: `"linux"`, `"darwin"` …; "": any.
        machine: the processor, `"x86_64"`; "": any.
        libc: `"glibc"` or `"musl"`; "": any.
        libc_version: the oldest that will do; of a machine, the one that it has.
    """

    system: str
    machine: str = ""
    libc: str = ""
    libc_version: tuple[int, int] = (0, 0)

    @property
    def label(self) -> str:
        """What messages call it."""
        version = ".".join(map(str, self.libc_version)) if any(self.libc_version) else ""
        return " ".join(filter(None, (self.system, self.machine, self.libc, version)))

    def runs_on(self, machine: Platform) -> bool:
        """Whether what asks for this can run there."""
        return (
            self.system in ("", machine.system)
            and self.machine in ("", machine.machine)
            and self.libc in ("", machine.libc)
            and (not self.libc or self.libc_version <= machine.libc_version)
        )


def parse_wheel_name(name: str) -> WheelName | None:
    """What the name of a wheel's file says; None where it is none."""
    found = _WHEEL.fullmatch(name)
    return WheelName(found["name"], found["version"], tuple(found["platform"].split("."))) if found else None


def this_machine() -> Platform:
    """The machine that we run on."""
    import platform
    import sys

    system, machine = sys.platform, platform.machine()
    if system != "linux":
        return Platform(system, machine)
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        said = ""
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", said)
    if found:
        return Platform(system, machine, "glibc", (int(found[1]), int(found[2])))
    return Platform(system, machine, "musl", _musl_version())


def needed_platform(wheels: Iterable[str], here: Platform) -> Platform:
    """What a machine has to be for wheels of these file names, which were chosen for the machine `here`.

    The same system and processor also where all of them are for any: which packages are needed may depend on that.
    """
    wheels = list(wheels)
    needed = Platform(here.system, here.machine) if wheels else Platform("")
    for name in wheels:
        wheel = parse_wheel_name(name)
        if wheel is None or "any" in wheel.platforms:
            continue
        versions = [version for tag in wheel.platforms if (version := _libc_of(tag, here)) is not None]
        if versions and here.libc:
            needed = needed._replace(libc=here.libc, libc_version=max(needed.libc_version, min(versions)))
    return needed


def _libc_of(tag: str, here: Platform) -> tuple[int, int] | None:
    """The oldest C library that a wheel with this tag runs on; what was built on this machine needs this one's."""
    found = _LINUX.fullmatch(tag)
    if found is None:
        return None
    if found["libc"] is None:
        return here.libc_version
    if found["libc"] != {"glibc": "many", "musl": "musl"}.get(here.libc):
        return None
    level = found["level"]
    if level in _OLD_LEVELS:
        return _OLD_LEVELS[level]
    major, _, minor = level.strip("_").partition("_")
    return (int(major), int(minor)) if minor else None


def _musl_version() -> tuple[int, int]:
    """As its loader says; (0, 0) where there is none."""
    import glob
    import subprocess

    for loader in sorted(glob.glob("/lib/ld-musl-*.so.1")):
        said = subprocess.run([loader], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stderr
        found = re.search(r"^Version (\d+)\.(\d+)", said, re.MULTILINE)
        if found:
            return int(found[1]), int(found[2])
    return 0, 0
