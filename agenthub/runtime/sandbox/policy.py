"""What a run may touch. Made from manifest, grants and flags by the facade; enforced by `confinement`."""

from __future__ import annotations

from agenthub.values import NamedTuple

BUBBLEWRAP = "bubblewrap"
LANDLOCK = "landlock"
RLIMITS = "rlimits"


class Network(NamedTuple):
    """What a run may reach.

    Attributes:
        kind: `none`; `hosts`: those listed and nothing else; `any`.
        hosts: `api.example.com`, `api.example.com:8443`, `*.example.com`; a loopback or private address only if it is
            named literally.
    """

    kind: str = "none"
    hosts: tuple[str, ...] = ()


class SandboxPolicy(NamedTuple):
    """What a run may touch.

    Attributes:
        level: `auto`: the best tier of this machine; `strict`: bubblewrap or Landlock, or no run; `off`: rlimits only.
        agent_dir: read-only; holds the environment too, mostly.
        scratch: writable; HOME and TMPDIR.
        read: further absolute paths that may be read, files or directories. What is missing is left out.
        write: further absolute paths that may be written. A file can be changed in place, not replaced by a rename.
        network: what it may reach.
        programs: further installed programs that it may start, as absolute paths or as names looked up in PATH; None:
            any. Its own interpreter and the files of its own directory can always be started.
        temporary: two directories that stand for /tmp and /dev/shm, where a sandbox is kept for several runs: whoever
            keeps it can then see that nothing stays. (): file systems in memory, which end with the run.
    """

    level: str
    agent_dir: str
    scratch: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    network: Network = Network()
    programs: tuple[str, ...] | None = ()
    temporary: tuple[str, ...] = ()
