"""`agenthub trust`, `verify` and `audit`: who made it, is it still that, and what is known against it."""

from __future__ import annotations

import argparse
import os
from typing import Any

from agenthub.cli.output import printable, printable_values
from agenthub.config import Settings
from agenthub.errors import InvalidInputError
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agenthub.cli.output import Output
    from agenthub.trust.installed import Verified
    from agenthub.trust.trusted import Trusted

_TRUST_HELP = """\
agenthub trust OWNER KEY        trust a key for an owner's releases, besides those trusted already
agenthub trust list [OWNER]     show what is trusted
agenthub trust remove OWNER [KEY]   forget a key, or all of an owner's
agenthub trust statement OWNER ARCHIVE   print what a signature of an archive has to be of, for other signers

KEY is a public key (ssh-ed25519 AAAA…), a file with one, the fingerprint of one (SHA256:…), or sha256:… of one
archive that is to be taken without a signature. Of an owner whose name is one of these words: agenthub trust add
OWNER KEY.
"""
_ACTIONS = ("add", "list", "remove", "statement")
_LARGEST_KEY_FILE = 64 * 1024
_SHOWN = 50


def configure_trust(parser: argparse.ArgumentParser) -> None:
    parser.usage = "agenthub trust OWNER KEY | list [OWNER] | remove OWNER [KEY] | statement OWNER ARCHIVE"
    parser.epilog = _TRUST_HELP
    parser.add_argument("words", nargs="*", metavar="OWNER KEY", help="see below")
    parser.add_argument("--identity", help="of Sigstore, in place of KEY: an e-mail address, or a workflow's address")
    parser.add_argument("--issuer", help="who says that it is that identity: https://…")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def trust(arguments: argparse.Namespace, output: Output) -> int:
    """Says whose keys are trusted, and changes it."""
    words = arguments.words or ["list"]
    action, rest = (words[0], words[1:]) if words[0] in _ACTIONS else ("add", words)
    if action == "list":
        return _list_trusted(rest, arguments, output)
    if not rest:
        raise InvalidInputError(f"trust {action} needs an OWNER", suggestion="see: agenthub trust --help")
    if action == "remove":
        return _distrust(rest[0], " ".join(rest[1:]) or None, output)
    if action == "statement":
        return _statement(rest, output)
    return _trust(rest[0], rest[1:], arguments, output)


def _trust(owner: str, words: list[str], arguments: argparse.Namespace, output: Output) -> int:
    from agenthub.trust.trusted import SIGSTORE, Trusted
    from agenthub.trust.trusted import trust as trust_entry

    if arguments.identity or arguments.issuer:
        if words or not (arguments.identity and arguments.issuer):
            raise InvalidInputError("--identity and --issuer go together, and in place of a KEY")
        entry = Trusted(SIGSTORE, arguments.identity, arguments.issuer)
    elif words:
        entry = _entry(" ".join(words))
    else:
        raise InvalidInputError(f"trust {owner} needs a KEY", suggestion="see: agenthub trust --help")
    known = trust_entry(Settings().paths, owner, entry)
    output.note(f"✓ {owner}: {entry.label} is trusted")
    for other in known:
        if other[:3] != entry[:3] and other.kind != "archive" and entry.kind != "archive":
            output.note(f"  so is {other.label} still: agenthub trust remove {owner} {other.key}")
    return 0


def _entry(text: str) -> Trusted:
    """What KEY means: a fingerprint, an archive's digest, a public key, or a file with one."""
    from agenthub.trust.keys import is_fingerprint, parse_public_key
    from agenthub.trust.trusted import ARCHIVE, SSH, Trusted

    if is_fingerprint(text):
        return Trusted(SSH, text)
    if text.startswith("sha256:"):
        return Trusted(ARCHIVE, text.lower())
    if os.path.isfile(text):
        with open(text, "rb") as file:
            data = file.read(_LARGEST_KEY_FILE + 1)
        if len(data) > _LARGEST_KEY_FILE:
            raise InvalidInputError(f"{text} is too large for a key")
        return Trusted(SSH, parse_public_key(data.decode("utf-8", "replace"), text).fingerprint)
    if text.startswith("SHA256:"):
        raise InvalidInputError(f"{text} is not a whole fingerprint", suggestion="ssh-keygen -l -f KEY.pub prints it")
    if " " not in text:
        raise InvalidInputError(
            f"'{text}' is no key, and no file",
            suggestion="give ssh-ed25519 AAAA…, SHA256:…, or a file that ends in .pub",
        )
    return Trusted(SSH, parse_public_key(text).fingerprint)


def _list_trusted(words: list[str], arguments: argparse.Namespace, output: Output) -> int:
    from agenthub.trust.trusted import all_trusted

    if len(words) > 1:
        raise InvalidInputError("trust list takes one OWNER, or none")
    owners = all_trusted(Settings().paths)
    if words:
        owners = {owner: entries for owner, entries in owners.items() if owner == words[0]}
    if arguments.json:
        rows = [{"owner": owner, **entry._asdict()} for owner, entries in owners.items() for entry in entries]
        output.json({"trusted": rows})
        return 0
    if not owners:
        output.note("nobody is trusted yet        next: agenthub trust OWNER KEY")
        return 0
    width = max(map(len, owners))
    lines = [
        f"{owner:<{width}}  {entry.kind:<8}  {entry.label}  since {entry.since[:10]}, by {entry.by}"
        for owner, entries in owners.items()
        for entry in entries
    ]
    output.result("\n".join(lines))
    return 0


def _distrust(owner: str, key: str | None, output: Output) -> int:
    from agenthub.trust.trusted import distrust

    for entry in distrust(Settings().paths, owner, key):
        output.note(f"✓ {owner}: {entry.label} is not trusted any more")
    return 0


def _statement(words: list[str], output: Output) -> int:
    import tempfile

    from agenthub.indexes.inspection import unpack_release
    from agenthub.trust.statements import Statement

    if len(words) != 2:
        raise InvalidInputError("trust statement needs OWNER and ARCHIVE")
    with tempfile.TemporaryDirectory(prefix="agenthub-") as scratch:
        found = unpack_release(words[1], os.path.join(scratch, "tree"))
    output.result_bytes(Statement(words[0], found.name, found.version, found.digest, found.tree_digest).text())
    return 0


# verify --------------------------------------------------------------------------------------------------------------


def configure_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agents", nargs="*", metavar="AGENT", help="which agents; without: all that are installed")
    parser.add_argument("--kept", action="store_true", help="also the earlier versions that are kept")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def verify(arguments: argparse.Namespace, output: Output) -> int:
    """Compares what is installed with what was installed; 1 where anything differs."""
    from agenthub.trust.installed import verify_version

    settings = Settings()
    store = Store.here(settings.paths)
    results = []
    with output.progress("verifying") as progress:
        for owner, name, directory in _versions(store, arguments.agents, kept=arguments.kept):
            progress.update(f"{owner}/{name}")
            with store.hold(directory):
                results.append((f"{owner}/{name}", directory, verify_version(settings, directory)))
    wrong = sum(1 for _, _, verified in results if verified.findings)
    if arguments.json:
        output.json({"ok": not wrong, "agents": [_verified_document(*result) for result in results]})
    else:
        for label, directory, verified in results:
            _show_verified(label, directory, verified, output)
        if not results:
            output.note("no agents are installed        next: agenthub install ./DIRECTORY")
        elif not wrong:
            files = sum(verified.files for _, _, verified in results)
            output.note(f"✓ {_count(len(results), 'agent')}, {files:,} files: all as they were installed")
    return 1 if wrong else 0


def _versions(store: Store, agents: Sequence[str], *, kept: bool) -> Iterator[tuple[str, str, str]]:
    """Owner, name and directory of each version that is meant."""
    if agents:
        found = [store.resolve(agent) for agent in agents]
    else:
        found = [(entry.owner, entry.name) for entry in store.list_agents()]
    for owner, name in dict.fromkeys(found):
        current = store.current_version_dir(owner, name)
        yield owner, name, os.path.realpath(current)
        for version in store.versions(owner, name) if kept else ():
            if not version.current:
                yield owner, name, version.directory


def _verified_document(label: str, directory: str, verified: Verified) -> dict[str, Any]:
    return {
        "agent": label,
        "path": directory,
        "ok": not verified.findings,
        "files": verified.files,
        "signer": verified.signer or None,
        "findings": [finding._asdict() for finding in verified.findings],
        "notes": list(verified.notes),
    }


def _show_verified(label: str, directory: str, verified: Verified, output: Output) -> None:
    for note in verified.notes:
        output.note(f"{label}: {printable(note)}")
    if verified.findings:
        output.page(output.style(f"{label} is not what was installed: {printable(directory)}", "bold"))
    for finding in verified.findings[: None if output.verbose else _SHOWN]:
        reason = f"  ({finding.reason})" if finding.reason else ""
        output.page(printable(f"  {finding.kind:<8} {finding.path}{reason}"))
    if len(verified.findings) > _SHOWN and not output.verbose:
        output.page(f"  and {len(verified.findings) - _SHOWN} more: -v shows them")
    if verified.findings:
        output.note(f"  to have it as it was: agenthub install --force SPEC, or agenthub uninstall {label}")


# audit ---------------------------------------------------------------------------------------------------------------


def configure_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agents", nargs="*", metavar="AGENT", help="which agents; without: all that are installed")
    parser.add_argument(
        "--database", metavar="PLACE", help="a file, directory or .zip of OSV advisories, or a server's address"
    )
    parser.add_argument("--ignore", action="append", default=[], metavar="ID", help="an advisory that does not count")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def audit(arguments: argparse.Namespace, output: Output) -> int:
    """Lists what is known against the packages of agents; 1 where there is anything, 4 where nothing could be known."""
    from agenthub.trust.audit import audit_agents

    settings = Settings()
    store = Store.here(settings.paths)
    records = [store.read_record(owner, name) for owner, name, _ in _versions(store, arguments.agents, kept=False)]
    with output.progress("auditing") as progress:
        report = audit_agents(settings, records, arguments.database, frozenset(arguments.ignore), progress.update)
    if arguments.json:
        output.json(report.to_json())
        return 1 if report.vulnerable else 0
    for agent in report.agents:
        for note in agent.notes:
            output.note(f"{agent.label}: {printable(note)}")
        if agent.found:
            output.page(output.style(f"{agent.label} {printable(agent.version)}", "bold"))
        for package, known in agent.found:
            row = printable_values(known._asdict())
            names = f"{row['id']} ({', '.join(row['aliases'])})" if row["aliases"] else row["id"]
            facts = filter(
                None, [row["severity"], f"fixed in {row['fixed_in']}" if row["fixed_in"] else "no fix known"]
            )
            output.page(printable(f"  {package.name} {package.version}  {names}  {' · '.join(facts)}"))
            if row["summary"]:
                output.page(f"      {row['summary']}")
    _sum_up(report, output)
    return 1 if report.vulnerable else 0


def _sum_up(report: Any, output: Output) -> None:
    looked = f"{_count(len(report.agents), 'agent')}, {_count(report.packages, 'package')}"
    ignored = f", {report.ignored} ignored" if report.ignored else ""
    if not report.vulnerable:
        output.note(f"✓ {looked}: nothing is known against them{ignored} ({printable(report.database)})")
        return
    number = sum(len(agent.found) for agent in report.agents)
    what = "vulnerability" if number == 1 else "vulnerabilities"
    output.note(f"{number} {what} in {looked}{ignored}        next: agenthub upgrade --all")


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"
