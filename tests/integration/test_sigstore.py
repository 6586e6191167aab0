"""Releases signed by Sigstore: identities in the place of keys, verified offline by the real library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from agenthub.indexes.publish import NewSignature
from agenthub.trust.statements import Statement
from tests.sigstore_support import Sigstore
from tests.support import assert_refused
from tests.trust_support import NO_ENVIRONMENT, SignedIndex, make_key

pytestmark = pytest.mark.slow  # the library alone takes a second to import

GITHUB = "https://token.actions.githubusercontent.com"
WORKFLOW = "https://github.com/alice/tool/.github/workflows/release.yml"


@pytest.fixture(scope="session")
def sigstore(tmp_path_factory):
    """A Sigstore, and the file of its trusted root."""
    made = Sigstore()
    place = tmp_path_factory.mktemp("sigstore") / "root.json"
    place.write_text(made.trusted_root())
    return made, str(place)


@pytest.fixture
def index(tmp_path, cli, sigstore, monkeypatch):
    """An index that is configured, as is the trusted root."""
    monkeypatch.setenv("AGENTHUB_SIGSTORE_ROOT", sigstore[1])
    made = SignedIndex(tmp_path / "index")
    cli.ok("index", "add", "--no-check", "main", made.file_url)
    return made


def release(index, version, sign, agent="alice/tool"):
    """Publishes a version with the bundle that `sign(statement)` makes."""
    directory = index.write(agent, version, "", **NO_ENVIRONMENT)
    Path(directory, "agent.sh").write_text(f"echo {version}\n")
    archive = index.pack(directory)
    index.publish_archive("probe/tool", archive, ())
    known = index.document("probe/tool")["releases"][version]
    owner, _, name = agent.partition("/")
    statement = Statement(owner, name, version, known["digest"], known["tree_digest"])
    index.publish_archive(agent, archive, (NewSignature("sigstore", sign(statement)),))


def signer(sigstore, identity, issuer=GITHUB):
    return lambda statement: sigstore[0].sign(statement.text(), identity, issuer)


def attester(sigstore, identity, issuer=GITHUB, subject="{owner}/{name}@{version}"):
    return lambda statement: sigstore[0].attest(
        subject.format(**statement._asdict()), statement.digest, identity, issuer
    )


def test_an_identity_is_remembered_without_its_tag(cli, index, sigstore):
    release(index, "1.0.0", signer(sigstore, f"{WORKFLOW}@refs/tags/v1.0.0"))
    assert "seen here for the first time" in cli.ok("install", "--yes", "alice/tool").err
    (row,) = cli.ok("trust", "list", "--json").json["trusted"]
    assert (row["kind"], row["key"], row["issuer"], row["by"]) == ("sigstore", WORKFLOW, GITHUB, "first use")
    info = cli.ok("info", "--json", "alice/tool").json["provenance"]
    assert info["attested"] is True
    assert info["signers"][0]["key"] == f"{WORKFLOW}@refs/tags/v1.0.0"
    release(index, "1.1.0", attester(sigstore, f"{WORKFLOW}@refs/tags/v1.1.0"))
    cli.ok("install", "--yes", "--force", "alice/tool")
    assert cli.ok("info", "--json", "alice/tool").json["provenance"]["trust"] == "signed"
    assert cli.ok("verify", "--json").json["agents"][0]["signer"].startswith(WORKFLOW)


@pytest.mark.parametrize(
    ("identity", "issuer"),
    [
        ("https://github.com/mallory/tool/.github/workflows/release.yml@refs/tags/v1.1.0", GITHUB),
        (f"{WORKFLOW}.evil@refs/tags/v1.1.0", GITHUB),
        (f"{WORKFLOW}@refs/tags/v1.1.0", "https://gitlab.com"),
        ("alice@example.org", GITHUB),
    ],
)
def test_another_identity_is_refused_until_the_user_takes_it(cli, index, sigstore, identity, issuer):
    release(index, "1.0.0", signer(sigstore, f"{WORKFLOW}@refs/tags/v1.0.0"))
    cli.ok("install", "--yes", "alice/tool")
    release(index, "1.1.0", signer(sigstore, identity, issuer))
    refused = cli("install", "--yes", "--force", "alice/tool")
    assert_refused(refused, 5, "another key", WORKFLOW, f"now:    {identity} ({issuer})")
    cli.ok(*refused.error_lines[-1].partition("agenthub ")[2].split())
    cli.ok("install", "--yes", "--force", "alice/tool")


def test_an_address_is_the_whole_address(cli, index, sigstore):
    cli.ok("trust", "alice", "--identity", "alice", "--issuer", GITHUB)
    release(index, "1.0.0", signer(sigstore, "alice@example.org"))
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "another key")
    cli.ok("trust", "alice", "--identity", "alice@example.org", "--issuer", GITHUB)
    cli.ok("install", "--yes", "alice/tool")


@pytest.mark.parametrize("known", [False, True], ids=["first", "known"])
@pytest.mark.parametrize(
    "change",
    [
        {"owner": "mallory"},
        {"name": "other"},
        {"version": "0.9"},
        {"digest": "sha256:" + "0" * 64},
        {"tree_digest": "sha256:" + "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_signature_of_something_else(cli, index, sigstore, change, known):
    if known:
        cli.ok("trust", "alice", "--identity", WORKFLOW, "--issuer", GITHUB)
    sign = signer(sigstore, f"{WORKFLOW}@refs/tags/v1")
    release(index, "1.0.0", lambda statement: sign(statement._replace(**change)))
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "does not belong to what was served")


@pytest.mark.parametrize("subject", ["mallory/tool@1.0.0", "tool-1.0.0.agent", "alice/tool@1.0.1", ""])
def test_an_attestation_of_something_else(cli, index, sigstore, subject):
    release(index, "1.0.0", attester(sigstore, f"{WORKFLOW}@refs/tags/v1", subject=subject))
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "one of something else")


def test_an_attestation_of_another_archive(cli, index, sigstore):
    attest = attester(sigstore, f"{WORKFLOW}@refs/tags/v1")
    release(index, "1.0.0", lambda statement: attest(statement._replace(digest="sha256:" + "0" * 64)))
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "one of something else")


@pytest.mark.parametrize("root", ["", "other"], ids=["public", "other"])
def test_a_sigstore_that_is_not_trusted(cli, index, sigstore, root, tmp_path, monkeypatch):
    """A private one under the public root, which the library brings, and under another private one's."""
    (tmp_path / "other").write_text(Sigstore().trusted_root())
    monkeypatch.setenv("AGENTHUB_SIGSTORE_ROOT", str(tmp_path / root) if root else "")
    release(index, "1.0.0", signer(sigstore, WORKFLOW))
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "does not belong to what was served")


def changed(*path, value):
    """A bundle with another value at `path`."""

    def change(bundle):
        document = json.loads(bundle)
        at = document
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value(at[path[-1]])
        return json.dumps(document).encode()

    return change


ENTRY = ("verificationMaterial", "tlogEntries", 0)


@pytest.mark.parametrize(
    "change",
    [
        changed("messageSignature", "signature", value=lambda text: "MEUC" + text[4:-8] + "AAAAAAA="),
        changed(*ENTRY, "integratedTime", value=lambda text: str(int(text) - 10)),
        changed(*ENTRY, "inclusionPromise", value=lambda _: None),
        changed(*ENTRY, "inclusionProof", "rootHash", value=lambda _: "A" * 43 + "="),
        changed("verificationMaterial", "tlogEntries", value=lambda _: []),
        changed("verificationMaterial", value=lambda _: {}),
        changed("mediaType", value=lambda _: "text/plain"),
        lambda bundle: b"[" * 100_000,
        lambda bundle: b"{}",
        lambda bundle: b"\xff\xfe",
    ],
)
def test_bundles_that_are_damaged(cli, index, sigstore, change):
    sign = signer(sigstore, WORKFLOW)
    release(index, "1.0.0", lambda statement: change(sign(statement)))
    assert_refused(cli("install", "--yes", "alice/tool"), 5, "the Sigstore signature of alice/tool 1.0.0")
    assert cli.ok("trust", "list", "--json").json["trusted"] == []


def test_without_the_library(cli, index, sigstore, monkeypatch):
    release(index, "1.0.0", signer(sigstore, WORKFLOW))
    with monkeypatch.context() as patch:
        for module in ("sigstore", "sigstore.errors", "sigstore.models"):
            patch.setitem(sys.modules, module, None)
        done = cli.ok("install", "--yes", "alice/tool")
        assert "not checked: agenthub[sigstore] does that" in done.err
        assert cli.ok("info", "--json", "alice/tool").json["provenance"]["trust"] == "not checked"
        assert cli.ok("trust", "list", "--json").json["trusted"] == []
        cli.ok("trust", "alice", "--identity", WORKFLOW, "--issuer", GITHUB)
        release(index, "1.1.0", signer(sigstore, WORKFLOW))
        assert_refused(cli("install", "--yes", "--force", "alice/tool"), 4, "agenthub[sigstore]")
    cli.ok("install", "--yes", "--force", "alice/tool")


def test_a_trusted_root_that_cannot_be_read(cli, index, sigstore, monkeypatch):
    monkeypatch.setenv("AGENTHUB_SIGSTORE_ROOT", "/nowhere/root.json")
    release(index, "1.0.0", signer(sigstore, WORKFLOW))
    assert_refused(cli("install", "--yes", "alice/tool"), 4, "/nowhere/root.json", "sigstore_root")


def test_either_of_two_signatures(cli, index, sigstore, tmp_path):
    """A release with both kinds counts for who trusts either of them."""
    key = make_key(tmp_path / "key")
    directory = index.write("alice/tool", "1.0.0", "", **NO_ENVIRONMENT)
    Path(directory, "agent.sh").write_text("echo\n")
    archive = index.pack(directory)
    index.publish_archive("probe/tool", archive, ())
    known = index.document("probe/tool")["releases"]["1.0.0"]
    text = Statement("alice", "tool", "1.0.0", known["digest"], known["tree_digest"]).text()
    signed = (
        NewSignature("ssh", index.signature("alice/tool", archive, key), key.fingerprint),
        NewSignature("sigstore", sigstore[0].sign(text, WORKFLOW, GITHUB)),
    )
    index.publish_archive("alice/tool", archive, signed)
    for words, kind in ((("--identity", WORKFLOW, "--issuer", GITHUB), "sigstore"), ((key.fingerprint,), "ssh")):
        cli.ok("trust", "alice", *words)
        cli.ok("install", "--yes", "--force", "alice/tool")
        assert cli.ok("info", "--json", "alice/tool").json["provenance"]["signers"][0]["kind"] == kind
        cli.ok("trust", "remove", "alice")
