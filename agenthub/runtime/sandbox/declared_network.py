"""The door to declared hosts: a proxy of this process, brought into a run by whichever tier confines it."""

from __future__ import annotations

import os
import threading

from agenthub.errors import AgentRuntimeError
from agenthub.runtime.sandbox.connect_filter import install_connect_filter
from agenthub.runtime.sandbox.hosts import DeclaredHosts
from agenthub.runtime.sandbox.policy import BUBBLEWRAP
from agenthub.runtime.sandbox.proxy_address import PROXY_PORT, proxy_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from agenthub.runtime.sandbox.netns import NamespaceListener
    from agenthub.runtime.sandbox.notify import ConnectNotifier
    from agenthub.runtime.sandbox.proxy import AllowListProxy
    from agenthub.runtime.sandbox.refusals import Refusal
    from agenthub.runtime.sandbox.upstream import Resolver


class DeclaredNetwork:
    """A `NetworkAttachment` for one run; from before it starts until it has ended, as a `with` block.

    The proxy is imported and made in a thread, while the run starts. To be made before the program has other threads,
    where it can be: only then an ordinary user's helper for bubblewrap is a fork, which is much cheaper.

    Args:
        hosts: what was declared.
        tier: what will confine the run: `bubblewrap` or `landlock`.
        on_refusal: called once for each different refusal, in another thread; must not raise.
        on_request: called with host and port of each tunnel and each plain request that is let through.
        environ: where the user's own proxies are looked up; by default this process's environment.
        resolver: returns the numeric addresses of a name and a port; by default the system's.

    Raises:
        InvalidInputError: a host is malformed.
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
        declared = DeclaredHosts(hosts)
        environ = dict(os.environ if environ is None else environ)
        self._lock = threading.Lock()
        self._proxy: AllowListProxy | None = None
        self._failure: AgentRuntimeError | None = None
        self._listener = -1  # of the filter for connect, until the proxy is there
        self._notifier: ConnectNotifier | None = None
        self._entrance: NamespaceListener | None = None
        if tier == BUBBLEWRAP and os.geteuid() != 0:
            from agenthub.runtime.sandbox.netns import NamespaceListener

            self._entrance = NamespaceListener()

        def make() -> AllowListProxy:
            # With what `_answer` needs: a restricted thread may not be able to read our own modules.
            import agenthub.runtime.sandbox.notify  # noqa: F401
            from agenthub.runtime.sandbox.proxy import AllowListProxy
            from agenthub.runtime.sandbox.upstream import UserProxies

            return AllowListProxy(
                declared, on_refusal, on_request, resolver=resolver, user_proxies=UserProxies(environ)
            )

        # Here, because a thread inherits the restrictions of the one that starts it.
        self._maker = threading.Thread(target=self._make, args=(make,), name="agenthub-proxy-maker", daemon=True)
        self._maker.start()

    def __enter__(self) -> DeclaredNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What was refused so far."""
        with self._lock:
            return self._proxy.refusals if self._proxy is not None else ()

    def check(self) -> None:
        """Waits until the proxy is there.

        Raises:
            EnvironmentError: the user's own proxy, to be found in the environment, cannot be used.
        """
        self._maker.join()
        if self._failure is not None:
            raise self._failure

    def enter_namespace(self, pid: int) -> None:
        """Has the proxy listen inside the namespaces of a process. Raises EnvironmentError."""
        from agenthub.runtime.sandbox.netns import NamespaceListener

        with self._entrance or NamespaceListener() as entrance:
            listener = entrance.listen(pid)
        try:
            self.check()
        except AgentRuntimeError:
            listener.close()
            raise
        assert self._proxy is not None
        self._proxy.serve(listener)

    def restrict_thread(self) -> None:
        """Has the proxy answer every connect of this thread and of what it starts. Raises OSError."""
        listener = install_connect_filter()
        with self._lock:
            self._listener = listener
            self._answer()

    def close(self) -> None:
        """Ends every connection, and all threads and processes. May be called twice."""
        self._maker.join()
        if self._entrance is not None:
            self._entrance.close()
        if self._notifier is not None:
            self._notifier.close()
        if self._listener >= 0:  # of a proxy that could not be made
            os.close(self._listener)
            self._listener = -1
        if self._proxy is not None:
            self._proxy.close()

    def _make(self, make: Callable[[], AllowListProxy]) -> None:
        try:
            proxy = make()
            proxy.start()
        except AgentRuntimeError as error:
            self._failure = error
            return
        with self._lock:
            self._proxy = proxy
            self._answer()

    def _answer(self) -> None:
        """Answers the connects of the run, once there are both a filter and a proxy. Under the lock."""
        if self._proxy is not None and self._listener >= 0:
            from agenthub.runtime.sandbox.notify import ConnectNotifier

            self._notifier = ConnectNotifier(self._proxy, self._listener)
            self._listener = -1
