"""Demands the strongest tier, and asks for what belongs to the system."""

import errno
import os


def speak(facts):
    return {"outcome": "done"}


def look_into_processes(facts):
    """What another process may not show to everybody."""
    seen = []
    for name in ("environ", "mem", "maps", "auxv", "stack", "root/etc/shadow", "cwd/.", "fd/0", "exe"):
        path = f"/proc/{facts['canary']}/{name}"
        try:
            if name in ("fd/0", "exe"):
                os.readlink(path)
            else:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.read(descriptor, 16)
                finally:
                    os.close(descriptor)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EISDIR):  # of memory that is not there, and of a directory
                continue
        seen.append(name)
    return {"outcome": "done", "got": seen}


def look_at_devices(facts):
    seen = []
    for folder, _, files in os.walk("/dev"):
        for name in files:
            path = os.path.join(folder, name)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
                seen.append(path)
            except OSError:
                continue
    return {"outcome": "done", "got": sorted(seen)}
