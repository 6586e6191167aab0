"""What an agent says of itself: `agent.yaml`, read into a typed model.

`load_manifest` is what a run uses: it takes the compiled form that installing left in the record, and costs one JSON
file. `read_manifest` reads and checks the YAML.
"""

from __future__ import annotations

import os

from agenthub.config import RECORD
from agenthub.errors import AgentNotFoundError
from agenthub.manifest.model import AgentManifest, Entrypoint, Method, Parameter, Variable
from agenthub.quick_json import loads

__all__ = [
    "MANIFEST_NAMES",
    "AgentManifest",
    "Entrypoint",
    "Method",
    "Parameter",
    "Variable",
    "load_manifest",
    "read_manifest",
]

MANIFEST_NAMES = ("agent.yaml", "agent.yml")


def load_manifest(directory: str) -> AgentManifest:
    """The manifest of an agent directory, from its install record where it has one.

    Raises:
        AgentNotFoundError: there is no such directory.
        InvalidManifestError: the manifest is missing or wrong.
    """
    try:
        with open(os.path.join(directory, RECORD), encoding="utf-8") as file:
            compiled = loads(file.read())["manifest"]
    except (OSError, ValueError, KeyError):
        return read_manifest(directory)
    return AgentManifest.from_compiled(compiled)


def read_manifest(directory: str) -> AgentManifest:
    """Reads and checks `agent.yaml` (or `.yml`) of an agent directory.

    Raises:
        AgentNotFoundError: there is no such directory.
        InvalidManifestError: the manifest is missing or wrong; names file, line and key, and what would be right.
    """
    if not os.path.isdir(directory):
        raise AgentNotFoundError(
            f"there is no agent directory {directory}", suggestion="agenthub list shows what is installed"
        )
    from agenthub.manifest.reader import read

    return read(directory)
