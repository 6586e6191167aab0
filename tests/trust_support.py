"""Keys and signed releases for tests, made with the real `ssh-keygen`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from agenthub.indexes.documents import SCHEMA_VERSION
from agenthub.indexes.inspection import inspect_archive
from agenthub.indexes.publish import NewSignature
from agenthub.trust.keys import parse_public_key
from agenthub.trust.signatures import sign_file
from tests.integration.index_support import TestIndex

assert SCHEMA_VERSION == 1
NO_ENVIRONMENT = {"entrypoint": {"command": ["sh", "agent.sh"]}}  # an agent that installs in no time


class Key(NamedTuple):
    """A pair of keys on disk."""

    path: str

    @property
    def public(self) -> str:
        return f"{self.path}.pub"

    @property
    def line(self) -> str:
        return Path(self.public).read_text().strip()

    @property
    def fingerprint(self) -> str:
        return parse_public_key(self.line).fingerprint


def make_key(path: Any, kind: str = "ed25519", *options: str, passphrase: str = "") -> Key:
    """A fresh pair of keys."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *options, "-N", passphrase, "-C", "a comment", "-f", str(path)], check=True
    )
    return Key(str(path))


class SignedIndex(TestIndex):
    """An index whose releases are signed, and which can be made to lie."""

    def release(self, agent: str, version: str, key: Key | None = None, code: str = "echo", **manifest: Any) -> str:
        """Publishes a version, signed where a key is given; returns the archive's digest."""
        directory = self.write(agent, version, "", **NO_ENVIRONMENT, **manifest)
        Path(directory, "agent.sh").write_text(f"{code}\n")
        archive = self.pack(directory)
        signed = (NewSignature("ssh", self.signature(agent, archive, key), key.fingerprint),) if key else ()
        self.publish_archive(agent, archive, signed)
        return str(self.document(agent)["releases"][version]["digest"])

    def publish_archive(self, agent: str, archive: str, signed: tuple[NewSignature, ...]) -> None:
        from agenthub.indexes.publish import Publication, publish

        owner = agent.partition("/")[0]
        publish(self.index, Publication(archive, owner, "tests", force=True, signatures=signed))

    def signature(self, agent: str, archive: str, key: Key) -> bytes:
        """A signature of an archive as a release of `agent`."""
        scratch = self._work / "scratch"
        scratch.mkdir(exist_ok=True)
        found = inspect_archive(archive, str(scratch))
        owner, _, name = agent.partition("/")
        return sign_file(
            archive, key.path, owner=owner, name=name, version=found.version, tree_digest=found.tree_digest
        )

    def lie(self, agent: str, version: str, **changes: Any) -> None:
        """Changes what the document says of a release, as whoever owns the server can."""
        document = self.document(agent)
        document["releases"][version].update(changes)
        document["serial"] += 1
        self.document_path(agent).write_text(json.dumps(document))
