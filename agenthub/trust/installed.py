"""Whether an installed version still is what was installed: its files, its environment, its record, its signature."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from typing import Any

from agenthub import __version__
from agenthub.config import RECORD, VENV, Settings
from agenthub.errors import AgentRuntimeError, InstallError, StoreError
from agenthub.manifest import read_manifest
from agenthub.packages.files import read_json
from agenthub.packages.names import version_directory
from agenthub.packages.record import InstallRecord, environment_digest, read_record, seal
from agenthub.packages.tree import tree_digest
from agenthub.trust.contents import LIST, list_digest, present_files, read_list
from agenthub.values import NamedTuple

_BYTECODE = "__pycache__"
_NUMBER = re.compile(r"(-[0-9]+)?")  # of a version that was installed once more
_CHECK_TIMEOUT = 600.0


class Finding(NamedTuple):
    """One thing that is not as it was.

    Attributes:
        kind: `"changed"`, `"added"`, `"missing"`, or `"record"`: what the record says does not hold.
        path: the file, below the version's directory.
        reason: more about it, for people; empty where the kind says it all.
    """

    kind: str
    path: str
    reason: str = ""


class Verified(NamedTuple):
    """What was looked at, and what was found.

    Attributes:
        files: how many files were read.
        findings: sorted by path; empty where everything is as it was.
        notes: what could not be looked at, and why.
        signer: who signed it, where that was verified again; empty otherwise.
    """

    files: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    signer: str = ""


def verify_version(settings: Settings, version_dir: str) -> Verified:
    """Compares an installed version with its record, file by file.

    Args:
        settings: of the command: whom the user trusts.
        version_dir: the version's directory.

    Raises:
        StoreError: a newer agenthub wrote its record, or its files cannot be read at all.
    """
    try:
        record = read_record(version_dir)
    except StoreError as error:
        if "newer" in error.message:
            raise
        return Verified(0, (Finding("record", RECORD, error.message),), ())
    check = _Check(settings, version_dir, record)
    check.record_itself()
    check.files()
    check.content()
    check.environment()
    check.bytecode()
    check.signatures()
    found = sorted(dict.fromkeys(check.findings), key=lambda finding: (finding.path, finding.kind))
    return Verified(len(check.present), tuple(found), tuple(check.notes), check.signer)


class _Check:
    def __init__(self, settings: Settings, version_dir: str, record: InstallRecord) -> None:
        self._settings = settings
        self._directory = version_dir
        self._record = record
        self._bytecode: list[str] = []
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.present: dict[str, str] = {}
        self.signer = ""

    def record_itself(self) -> None:
        """That nobody wrote in the record, and that it fits where it is and the manifest beside it."""
        record = self._record
        values = read_json(os.path.join(self._directory, RECORD))
        if "seal" not in values:
            self.notes.append("its record is of an older agenthub, and has no seal")
        elif values["seal"] != seal(values):
            self._wrong("was edited after it was written")
        leaf, _, number = os.path.basename(self._directory).partition(version_directory(record.version, record.digest))
        if leaf or not _NUMBER.fullmatch(number):
            self._wrong(f"is of {record.version}, {record.digest[:19]}, and is not in the directory of that")
        if record.tool_version == __version__:  # another one may read a manifest otherwise
            try:
                manifest = read_manifest(self._directory).to_compiled()
            except AgentRuntimeError:
                manifest = None  # which the files tell more exactly
            if manifest is not None and _as_json(manifest) != _as_json(record.manifest):
                self._wrong("has another manifest than the agent: other methods, limits or permissions")
        said = environment_digest(record.digest, record.interpreter, record.dependencies)
        if record.environment_digest and record.environment_digest != said:
            self._wrong("has another interpreter or other packages than it was written with")

    def files(self) -> None:
        """That each file is there as it was, and no other."""
        self.present = present_files(self._directory, VENV)
        if not self._record.environment_files:
            self.notes.append("it was installed by an older agenthub, without a list of its files: content alone")
            return
        try:
            listed = read_list(self._directory)
        except FileNotFoundError:
            self.findings.append(Finding("missing", LIST))
            return
        except InstallError:
            self.findings.append(Finding("changed", LIST, "it is damaged"))
            return
        if list_digest(self._directory) != self._record.environment_files:
            self.findings.append(Finding("changed", LIST, "it is not the list that the record speaks of"))
        for path in sorted(listed.keys() | self.present.keys()):
            before, now = listed.get(path), self.present.get(path)
            if before is None and _is_bytecode(path):
                self._bytecode.append(path)
            elif before != now:
                self._differs(path, before, now)

    def content(self) -> None:
        """That the agent's own files have the digest of what was fetched."""
        try:
            digest = tree_digest(self._directory)
        except InstallError as error:
            self.findings.append(Finding("changed", ".", error.message))
            return
        if digest != self._record.digest:
            reason = f"its content is {digest[:19]}, and was {self._record.digest[:19]}"
            self.findings.append(Finding("changed", ".", reason))

    def environment(self) -> None:
        """That its environment has the packages that the record says."""
        from agenthub.runtime.environments.state import distributions

        if self._record.interpreter is None:
            return
        installed = set(distributions(os.path.join(self._directory, VENV)))
        said = {(str(one.get("name")), str(one.get("version"))) for one in self._record.dependencies}
        for name, version in sorted(installed ^ said):
            kind = "added" if (name, version) in installed else "missing"
            self.findings.append(Finding(kind, VENV, f"the package {name} {version}"))

    def bytecode(self) -> None:
        """That bytecode which came later is what its modules compile to."""
        if not self._bytecode:
            return
        python = self._python()
        if python is None:
            self.notes.append(f"{len(self._bytecode)} files of bytecode were not checked: its Python is not to be had")
            return
        paths = {os.path.join(self._directory, path): path for path in self._bytecode}
        for path, reason in _wrong_bytecode(python, list(paths)).items():
            self.findings.append(Finding("changed", paths[path], reason))

    def signatures(self) -> None:
        """That who signed it did so, and is trusted still."""
        source = self._record.source
        for kept in source.get("signatures") or ():
            try:
                self.signer = self._signed_by(source, kept)
            except AgentRuntimeError as error:
                self._wrong(error.message)
            except (KeyError, TypeError, ValueError, binascii.Error):
                self._wrong("has a damaged signature")

    def _signed_by(self, source: dict[str, Any], kept: dict[str, Any]) -> str:
        from agenthub.trust.releases import verify_signature
        from agenthub.trust.statements import Statement
        from agenthub.trust.trusted import trusted_of

        owner, _, name = str(source["location"]).partition("/")
        statement = Statement(owner, name, str(source["version"]), str(source["archive_digest"]), self._record.digest)
        data = base64.b64decode(kept["signature"], validate=True)
        signer = verify_signature(self._settings, statement, str(kept["kind"]), data)
        known = trusted_of(self._settings.paths, owner)
        if not any(entry.covers(signer.kind, signer.key, signer.issuer) for entry in known):
            self._wrong(f"names a signer whom you do not trust for {owner}: {signer.label}")
        return signer.label

    def _python(self) -> str | None:
        """An interpreter of the version that compiled it, which is never one that the version itself brings."""
        from agenthub.runtime.environments.interpreters import find_interpreter

        version = (self._record.interpreter or {}).get("version", "")
        try:
            return find_interpreter(version, preferred=version, who=self._record.name).path if version else None
        except AgentRuntimeError:
            return None

    def _differs(self, path: str, before: str | None, now: str | None) -> None:
        if now is None:
            self.findings.append(Finding("missing", path))
        elif before is None:
            self.findings.append(Finding("added", path, _link_reason(now)))
        else:
            self.findings.append(Finding("changed", path, _link_reason(now, before)))

    def _wrong(self, reason: str) -> None:
        self.findings.append(Finding("record", RECORD, reason))


def _is_bytecode(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return name.endswith(".pyc") and folder.rpartition("/")[2] == _BYTECODE


def _link_reason(now: str, before: str = "") -> str:
    if now.startswith("->") or before.startswith("->"):
        return f"it leads to {now.removeprefix('-> ') if now.startswith('->') else 'nowhere: it is a file'}"
    return "its mode" if before and now.removesuffix(" x") == before.removesuffix(" x") else ""


def _as_json(value: Any) -> Any:
    """A value as it comes back from a record: tuples are lists."""
    return json.loads(json.dumps(value))


def _wrong_bytecode(python: str, paths: list[str]) -> dict[str, str]:
    """Those of the files that are not what their modules compile to, with the reason."""
    import subprocess

    from agenthub.runtime.environments.tools import tool_environment

    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bytecode_check.py")
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-B", "-W", "ignore", program],
            input=json.dumps(paths).encode("ascii"),
            env=tool_environment(),
            capture_output=True,
            timeout=_CHECK_TIMEOUT,
            check=False,
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        pass
    if len(paths) == 1:  # what cannot be read is not what was compiled
        return {paths[0]: "is damaged"}
    middle = len(paths) // 2
    return _wrong_bytecode(python, paths[:middle]) | _wrong_bytecode(python, paths[middle:])
