"""The door to declared hosts: a proxy of this process, brought into a run by whichever tier confines it."""

from __future__ import annotations

import os

from agenthub.runtime.sandbox.netns import NamespaceListener
from agenthub.runtime.sandbox.notify import ConnectNotifier, install_connect_filter
from agenthub.runtime.sandbox.policy import BUBBLEWRAP
from agenthub.runtime.sandbox.proxy import PROXY_PORT, AllowListProxy, proxy_variables
from agenthub.runtime.sandbox.upstream import UserProxies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from agenthub.runtime.sandbox.refusals import Refusal
    from agenthub.runtime.sandbox.upstream import Resolver


class DeclaredNetwork:
    """A `NetworkAttachment` for one run; from before it starts until it has ended, as a `with` block.

    Args:
        hosts: what was declared.
        tier: what will confine the run: `bubblewrap` or `landlock`.
        on_refusal: called once for each different refusal, in another thread; must not raise.
        on_request: called with host and port of each tunnel and each plain request that is let through.
        environ: where the user's own proxies are looked up; by default this process's environment.
        resolver: returns the numeric addresses of a name and a port; by default the system's.

    Raises:
        InvalidInputError: a host is malformed.
        EnvironmentError: the user's proxy cannot be used.
    """

    variables = proxy_variables(PROXY_PORT)  # for the run's environment

    def __init__(
        self,
        hosts: Iterable[str],
        tier: str,
        on_refusal: Callable[[Refusal], object] | None = None,
        on_request: Callable[[str, int], object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        proxies = UserProxies(os.environ if environ is None else environ)
        self._proxy = AllowListProxy(hosts, on_refusal, on_request, resolver=resolver, user_proxies=proxies)
        self._notifier: ConnectNotifier | None = None
        self._entrance: NamespaceListener | None = None
        try:
            # In this order: a fork is safe only before there are threads.
            self._entrance = NamespaceListener() if tier == BUBBLEWRAP else None
            self._proxy.start()  # here, because a thread inherits the restrictions of the one that starts it
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DeclaredNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What was refused so far."""
        return self._proxy.refusals

    def enter_namespace(self, pid: int) -> None:
        """Has the proxy listen inside the namespaces of a process. Raises EnvironmentError."""
        assert self._entrance is not None
        with self._entrance:
            self._proxy.serve(self._entrance.listen(pid))

    def restrict_thread(self) -> None:
        """Has the proxy answer every connect of this thread and of what it starts. Raises OSError."""
        self._notifier = ConnectNotifier(self._proxy, install_connect_filter())

    def close(self) -> None:
        """Ends every connection, and all threads and processes. May be called twice."""
        if self._entrance is not None:
            self._entrance.close()
        if self._notifier is not None:
            self._notifier.close()
        self._proxy.close()
