"""The seam for declared hosts: how a run with no network is given a door to a proxy."""

from __future__ import annotations

from typing import Protocol


class NetworkAttachment(Protocol):
    """Brings declared hosts into a confined run. Only one of the first two methods is called, by tier."""

    def enter_namespace(self, pid: int) -> None:
        """Bubblewrap: prepares the run's network namespace while the program waits.

        Called in a thread of its own. The loopback interface may not be up yet: bind to the wildcard address, or raise
        the interface. If this raises, the run is killed.

        Args:
            pid: the first process in the namespaces, in the caller's own numbering.
        """

    def restrict_thread(self) -> None:
        """Landlock: installs a filter with a listener for `connect` on the calling thread, and keeps the listener.

        Called in the thread that is about to start the program, before the filter that forbids further listeners. That
        filter allows TCP sockets and `connect`; Landlock refuses the connections that the kernel itself would make.
        """
