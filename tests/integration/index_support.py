"""Indexes for tests: small agents published into a directory, which is served on loopback as people would serve it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from agenthub.indexes.directory import IndexDirectory
from agenthub.indexes.publish import Publication, Published, publish, set_notice
from agenthub.indexes.publishers import Publisher
from agenthub.indexes.server import IndexServer, Serving
from agenthub.packages.pack import PackRules, pack
from tests.support import method, write_agent

TOKEN = "a-token-of-the-tests"
ANSWER = "def go():\n    return {answer!r}\n"


class TestIndex:
    """An index in a directory.

    >>> index = TestIndex(tmp_path / "index")
    >>> index.publish("acme/greeter", "1.0")          # an agent whose `go` says "acme/greeter 1.0"
    >>> cli.ok("install", "--yes", "--index", index.file_url, "acme/greeter")
    >>> with index.served() as url: …
    """

    __test__ = False

    def __init__(self, directory: Any) -> None:
        self.directory = Path(directory)
        self.index = IndexDirectory(str(directory))
        self._work = self.directory.parent / f"{self.directory.name}-sources"

    @property
    def file_url(self) -> str:
        return f"file://{self.directory}"

    def publish(
        self, agent: str, version: str = "1.0.0", code: str | None = None, *, by: str = "tests", **manifest: Any
    ) -> Published:
        """Writes an agent whose method `go` answers with its name and version, and publishes it."""
        return self.publish_directory(agent, self.write(agent, version, code, **manifest), by=by)

    def write(self, agent: str, version: str = "1.0.0", code: str | None = None, **manifest: Any) -> str:
        """The directory of an agent that was not published yet."""
        name = agent.partition("/")[2]
        directory = self._work / agent / version
        methods = manifest.pop("methods", {"go": method(f"what {name} says")})
        code = ANSWER.format(answer=f"{agent} {version}") if code is None else code
        return write_agent(
            directory, code, methods, **{"name": name, "version": version, "entrypoint": "agent", **manifest}
        )

    def publish_directory(self, agent: str, directory: Any, *, by: str = "tests", **options: Any) -> Published:
        """Packs an agent's directory and publishes it for the owner of `agent`."""
        archive = self.pack(directory)
        return publish(self.index, Publication(archive, agent.partition("/")[0], by, **{"force": True, **options}))

    def pack(self, directory: Any) -> str:
        """The archive of a directory, somewhere."""
        self._work.mkdir(parents=True, exist_ok=True)
        archive = str(self._work / f"{os.urandom(4).hex()}.agent")
        pack(str(directory), archive, PackRules())
        return archive

    def notice(self, agent: str, version: str, **reasons: str) -> None:
        """`yanked="reason"`, `deprecated="reason"`; an empty one takes it back."""
        set_notice(self.index, *agent.split("/"), version, **reasons)

    def document(self, agent: str) -> dict[str, Any]:
        """The document of an agent, as it lies there."""
        return json.loads(self.document_path(agent).read_bytes())

    def document_path(self, agent: str) -> Path:
        return self.directory / "agents" / f"{agent}.json"

    def archive(self, agent: str, version: str = "1.0.0") -> Path:
        """The archive of a release, as it lies there."""
        return self.directory / self.document(agent)["releases"][version]["file"]

    @contextlib.contextmanager
    def served(self, *, writable: bool = False, **options: Any):
        """Its address, while it is served by our own reference server; `TOKEN` publishes where it is writable."""
        publishers = (Publisher(TOKEN, "tester"),) if writable else ()
        serving = Serving(**{"publishers": publishers, **options})
        server = IndexServer(self.index, "127.0.0.1", 0, serving)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="index server")
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
