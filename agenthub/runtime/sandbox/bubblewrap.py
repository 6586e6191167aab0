"""Bubblewrap's command line: namespaces of a run's own, in which only what it may see exists."""

from __future__ import annotations

import os

from agenthub.config import MB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from agenthub.runtime.sandbox.visible import Visible

NOBODY = 65534
_OWN = ("/proc", "/dev", "/tmp", "/sys")  # noqa: S108 - not the host's
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")
_STANDARD = (
    ("urandom", "/dev/random"),  # each mount costs 0.1 ms
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
_LOADER_VARIABLES = ("LD_", "GLIBC_", "GCONV_", "MALLOC_", "LOCPATH")  # would reach bubblewrap itself
_LARGEST_TEMPORARY = 256 * MB


def find_bubblewrap() -> str | None:
    """The installed bubblewrap, or None."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, "bwrap")
        if folder.startswith("/") and os.access(path, os.X_OK):
            return path
    return None


def base_command(bwrap: str, *, network: bool) -> list[str]:
    """Every namespace, no capability, no terminal, and an end with its parent."""
    command = [bwrap, "--unshare-all", "--new-session", "--die-with-parent", "--cap-drop", "ALL"]
    command += ["--hostname", "agenthub"]
    if network:
        command.append("--share-net")
    if os.geteuid() == 0:  # tools behave otherwise for root; outside, the files remain root's
        command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    return command


def mounts(seen: Visible, memory: int | None, files: Mapping[str, int], temporary: tuple[str, ...] = ()) -> list[str]:
    """The file system of a run.

    Args:
        seen: what is in it.
        memory: the run's cap in bytes; file systems in memory are sized by it.
        files: path -> descriptor of the content of a small file.
        temporary: directories that stand for /tmp and /dev/shm; (): file systems in memory.
    """
    size = str(min(memory // 4, _LARGEST_TEMPORARY) if memory else _LARGEST_TEMPORARY)
    places: dict[str, list[str]] = {
        # Not bubblewrap's own /dev: its terminals cost a second user namespace, which takes 1 ms.
        "/dev": ["--size", size, "--tmpfs", "/dev", "--perms", "1777", "--dir", "/dev/shm"],  # noqa: S108
        "/proc": ["--proc", "/proc"],
    }
    for device in _DEVICES:
        places[device] = ["--dev-bind", device, device]
    if "/tmp" not in seen.readable and "/tmp" not in seen.writable:  # noqa: S108
        places["/tmp"] = ["--size", size, "--tmpfs", "/tmp"]  # noqa: S108
    if temporary:
        places["/tmp"] = ["--bind", temporary[0], "/tmp"]  # noqa: S108
        places["/dev/shm"] = ["--bind", temporary[1], "/dev/shm"]  # noqa: S108
    for path in seen.readable:
        if not seen.needless(path) and _is_bindable(path):
            places[path] = ["--ro-bind", path, path]
    for path in seen.writable:
        if _is_bindable(path):
            places[path] = ["--dev-bind" if path.startswith("/dev/") else "--bind", path, path]
    command = [word for path in sorted(places, key=_depth_first) for word in places[path]]
    for path, target in seen.links().items():
        if not _inside_own(path) or path.startswith("/tmp/"):  # noqa: S108
            command += ["--symlink", target, path]
    command += [word for target, path in _STANDARD for word in ("--symlink", target, path)]
    command += [word for path, descriptor in files.items() for word in ("--file", str(descriptor), path)]
    # Root's own user outside still owns what is in /proc/sys, and bubblewrap protects that from the capable only.
    # And in /dev the next run would find what one left.
    command += [word for path in ("/proc", "/dev")[: 2 if temporary else 1] for word in ("--remount-ro", path)]
    return command if "/" in seen.writable else [*command, "--remount-ro", "/"]


def accounts(seen: Visible, scratch: str, network: bool) -> dict[str, bytes]:
    """Small files that are made up: path -> content. Who else has an account here is nobody's business."""
    user = NOBODY if os.geteuid() == 0 else os.getuid()
    group = NOBODY if os.geteuid() == 0 else os.getgid()
    files = {
        "/etc/passwd": f"agent:x:{user}:{group}:agent:{scratch}:/bin/sh\n",
        "/etc/group": f"agent:x:{group}:\n",
    }
    if not network:
        files["/etc/hosts"] = "127.0.0.1 localhost agenthub\n::1 localhost agenthub\n"
    return {path: text.encode() for path, text in files.items() if not seen.covers(path)}


def split_environment(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The environment of bubblewrap, and the options that add what only the run may have."""
    inner = [name for name in env if name.startswith(_LOADER_VARIABLES)]
    options = [word for name in inner for word in ("--setenv", name, env[name])]
    return {name: value for name, value in env.items() if name not in inner}, options


def _is_bindable(path: str) -> bool:
    return not _inside_own(path) or path.startswith(("/tmp", "/dev/"))  # noqa: S108


def _inside_own(path: str) -> bool:
    return any(path == own or path.startswith(own + "/") for own in _OWN)


def _depth_first(path: str) -> list[str]:
    return path.strip("/").split("/") if path != "/" else []
