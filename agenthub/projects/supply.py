"""Where a sync takes content and packages from instead of their sources: a bundle."""

from __future__ import annotations

from typing import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.packages.sources import Fetched
    from agenthub.projects.lock_file import LockedAgent
    from agenthub.runtime.environments.pinned import Pins


class Supply(Protocol):
    """Has what a lock fixes, or a part of it. Called from several threads."""

    def tree(self, locked: LockedAgent, directory: str) -> Fetched | None:
        """Puts an agent's content into `directory`, which is not there yet; None where it has none of it."""

    def environment(self, locked: LockedAgent) -> tuple[Pins, str] | None:
        """An agent's packages, and the interpreter that they are for; None where it has none of them."""
