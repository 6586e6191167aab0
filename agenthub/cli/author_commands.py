"""`agenthub init` and `validate`."""

from __future__ import annotations

import argparse
import os
import re

from agenthub.cli.output import printable
from agenthub.errors import InstallError, InvalidInputError, InvalidManifestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agenthub.cli.output import Output

_MANIFEST = """\
# What this agent is and offers. All keys: docs/reference/manifest.md
name: {name}
version: "0.1.0"
description: Greets people, and counts the words of a text
author: {author}
python_version: ">=3.11"
entrypoint: agent:Agent

interface:
  methods:
    greet:
      description: A greeting
      parameters:
        name:
          type: string
          description: who is greeted
          required: true
      returns: {{type: string}}
    count_words:
      description: How often each word occurs in a text file
      parameters:
        file:
          type: file
          description: the text
          required: true
        most:
          type: integer
          description: how many words to return
          default: 10
          minimum: 1
      returns: {{type: object}}

dependencies: []

limits:
  timeout: 30s
  memory: 256MB
"""

_CODE = '''\
"""The agent's methods: the public methods of the class that agent.yaml names.

Values that JSON has go in and out. What is printed goes to the log, never into the result.
"""

import collections
import re


class Agent:
    def greet(self, name: str) -> str:
        return f"Hello, {name}!"

    def count_words(self, file: str, most: int = 10) -> dict[str, int]:
        with open(file, encoding="utf-8") as text:
            words = re.findall(r"\\w+", text.read().lower())
        print(f"{len(words)} words")
        return dict(collections.Counter(words).most_common(most))
'''


def configure_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="made if need be; nothing in it is overwritten")
    parser.add_argument("--name", help="the agent's name (default: the directory's)")


def init(arguments: argparse.Namespace, output: Output) -> int:
    """Writes an agent that passes `validate` and runs."""
    directory = os.path.abspath(arguments.directory)
    name = arguments.name or re.sub(r"[^a-z0-9]+", "-", os.path.basename(directory).lower()).strip("-") or "agent"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", name):
        raise InvalidInputError(f"{name!r} cannot be an agent's name: lower-case letters, digits and . _ - only")
    files = {"agent.yaml": _MANIFEST.format(name=name, author=_author()), "agent.py": _CODE}
    for file_name in files:
        if os.path.lexists(os.path.join(directory, file_name)):
            raise InvalidInputError(
                f"{os.path.join(arguments.directory, file_name)} exists already", suggestion="choose another directory"
            )
    try:
        os.makedirs(directory, exist_ok=True)
        for file_name, text in files.items():
            with open(os.path.join(directory, file_name), "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise InstallError(f"cannot write to {directory}: {error.strerror}") from None
    _consent_to_own(directory)
    shown = _as_path(arguments.directory)
    output.note(f"✓ {shown}        next: agenthub run {shown} greet --name you")
    return 0


def _consent_to_own(directory: str) -> None:
    """Whoever had an agent written need not be asked whether it may run."""
    from contextlib import suppress

    from agenthub.config import Settings
    from agenthub.errors import StoreError
    from agenthub.packages.store import Store
    from agenthub.runtime.agents.uninstalled import directory_content
    from agenthub.runtime.runs.locator import locate_directory

    with suppress(StoreError):
        agent = locate_directory(directory)
        Store(Settings().paths).add_consent(agent.directory, directory_content(agent))


def _as_path(directory: str) -> str:
    return directory if directory.startswith(("/", "./", "../", "~")) else f"./{directory}"


def _author() -> str:
    import getpass
    import json

    try:
        return json.dumps(getpass.getuser())
    except (OSError, KeyError):  # a user without a name
        return "somebody"


def configure_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", default=".", metavar="DIR", help="default: here")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("-y", "--yes", action="store_true", help="consent to installing its dependencies, in the cache")
    parser.add_argument("--no-environment", action="store_true", help="do not make its environment")


def validate(arguments: argparse.Namespace, output: Output) -> int:
    """Checks manifest, entry point, methods against the code, and environment."""
    from agenthub.runtime.agents.validator import validate_agent

    validation = validate_agent(os.path.abspath(arguments.directory))
    environment = "not checked"
    findings = list(validation.findings)
    if validation.manifest is not None and validation.valid and not arguments.no_environment:
        environment, more = _environment(arguments, output)
        findings += more
    valid = all(finding.severity != "error" for finding in findings)
    if arguments.json:
        output.json({"valid": valid, "environment": environment, "findings": [one._asdict() for one in findings]})
    else:
        for finding in findings:
            style = "red" if finding.severity == "error" else "yellow"
            text = printable(f"{finding.where}: {finding.message}")
            output.page(f"{output.style(finding.severity, style)}: {text}")
    if not valid:
        if not arguments.json:
            output.note(f"{arguments.directory} is not valid")
        return InvalidManifestError.exit_code
    manifest = validation.manifest
    assert manifest is not None
    count = "1 method" if len(manifest.methods) == 1 else f"{len(manifest.methods)} methods"
    output.note(f"✓ {manifest.name} {manifest.version}: {count}, environment {environment}")
    return 0


def _environment(arguments: argparse.Namespace, output: Output) -> tuple[str, list[Finding]]:
    """Makes the environment in the cache and asks the code, as loaded there, for its methods."""
    from agenthub.cli.consent import prepare_uninstalled
    from agenthub.errors import EnvironmentError, PermissionDeniedError
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.validator import Finding, validate_loaded

    runtime = AgentRuntime()
    try:
        agent = prepare_uninstalled(runtime, os.path.abspath(arguments.directory), arguments, output)
    except PermissionDeniedError:
        return "not checked (--yes does)", []
    except EnvironmentError as error:
        return "cannot be made", [Finding("error", "environment", line) for line in (error.message, *error.details[:5])]
    return "complete", validate_loaded(runtime, agent)


if TYPE_CHECKING:
    from agenthub.runtime.agents.validator import Finding
