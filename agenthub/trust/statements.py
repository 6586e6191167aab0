"""What is signed: not an archive's bytes alone, but that they are this version of this owner's agent."""

from __future__ import annotations

import re

from agenthub.errors import InstallError
from agenthub.packages.names import is_name
from agenthub.values import NamedTuple

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION = re.compile(r"[A-Za-z0-9.+!_-]{1,128}")


class Statement(NamedTuple):
    """One release of one agent.

    Attributes:
        owner: whose agent it is.
        name: the agent's name.
        version: the released one.
        digest: `"sha256:…"` of the archive.
        tree_digest: `"sha256:…"` of what is in it, which an installed agent can be held to later.
    """

    owner: str
    name: str
    version: str
    digest: str
    tree_digest: str

    def text(self) -> bytes:
        """The bytes that are signed.

        Raises:
            InstallError: a part of it cannot be what it should be, and might say two things.
        """
        good = (
            is_name(self.owner)
            and is_name(self.name)
            and _VERSION.fullmatch(self.version)
            and _DIGEST.fullmatch(self.digest)
            and _DIGEST.fullmatch(self.tree_digest)
        )
        if not good:
            raise InstallError(f"a release of {self.owner!r}/{self.name!r} cannot be signed: {self.version!r}")
        lines = ("agenthub release 1", *(f"{field} {value}" for field, value in self._asdict().items()))
        return "".join(f"{line}\n" for line in lines).encode("ascii")
