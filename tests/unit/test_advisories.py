"""Which versions an advisory in OSV's format is about."""

from __future__ import annotations

import pytest

from agenthub.errors import InstallError
from agenthub.trust.advisories import Package, is_affected, merged, names_of, vulnerability


def advisory(events=(), versions=(), *, identifier="PYSEC-2024-1", name="Some.Package", kind="ECOSYSTEM", **more):
    """One with one range."""
    ranges = [{"type": kind, "events": list(events)}] if events else []
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges, "versions": list(versions)}
    return {"id": identifier, "affected": [affected], **more}


UNTIL = ({"introduced": "0"}, {"fixed": "1.5"})
BETWEEN = ({"introduced": "1.0"}, {"fixed": "1.5"}, {"introduced": "2.0"}, {"last_affected": "2.3"})


@pytest.mark.parametrize(
    ("events", "affected", "unaffected"),
    [
        (UNTIL, ["0.1", "1.4.9", "1.5rc1", "0.dev1", "1.4.post1"], ["1.5", "1.5.0", "1.5.post1", "2", "1!0.1"]),
        (BETWEEN, ["1.0", "1.0.0", "1.4", "2.0", "2.3", "2.3.0"], ["0.9", "1.0rc1", "1.5", "1.9", "2.3.1", "2.4", "3"]),
        (BETWEEN[::-1], ["1.2", "2.1"], ["0.9", "1.7", "2.4"]),  # a list has no order of its own
        (({"introduced": "1.0"},), ["1.0", "99"], ["0.9"]),
        (({"introduced": "0"}, {"limit": "2.0"}), ["1.9"], ["2.0"]),
        (({"introduced": "0"}, {"limit": "*"}), ["1.9", "99"], []),
        (({"introduced": "0"}, {"last_affected": "1.0+local"}), ["1.0"], ["1.0.1"]),
    ],
)
def test_ranges(events, affected, unaffected):
    entry = advisory(events)
    assert [v for v in affected if not is_affected(entry, Package("some-package", v))] == []
    assert [v for v in unaffected if is_affected(entry, Package("some-package", v))] == []


def test_listed_versions():
    entry = advisory(versions=["1.0", "1.2", "weird"])
    assert is_affected(entry, Package("some-package", "1.0.0"))
    assert is_affected(entry, Package("some-package", "weird"))
    assert not is_affected(entry, Package("some-package", "1.1"))
    assert not is_affected(entry, Package("some-package", "odd"))


def test_what_does_not_count():
    inside = Package("some-package", "1.0")
    assert is_affected(advisory(UNTIL), inside)
    assert not is_affected(advisory(UNTIL, withdrawn="2024-01-01T00:00:00Z"), inside)
    assert not is_affected(advisory(UNTIL, kind="GIT"), inside)
    assert not is_affected(advisory(UNTIL, name="other"), inside)
    other = advisory(UNTIL)
    other["affected"][0]["package"]["ecosystem"] = "npm"
    assert not is_affected(other, inside)
    assert names_of(other, "x") == set()


def test_names_are_normalised():
    assert names_of(advisory(UNTIL, name="Some_.Package"), "x") == {"some-package"}


@pytest.mark.parametrize(
    ("version", "fixed"), [("1.2", "1.5"), ("2.1", ""), ("0.1", "")], ids=["in the first", "in the last", "in none"]
)
def test_the_fix_is_that_of_the_range(version, fixed):
    assert vulnerability(advisory(BETWEEN), Package("some-package", version)).fixed_in == fixed


def test_aliases_are_one():
    package = Package("some-package", "1.0")
    found = [
        vulnerability(advisory(UNTIL, identifier="GHSA-aaaa", aliases=["CVE-2024-1"], summary="bad"), package),
        vulnerability(advisory(UNTIL, identifier="PYSEC-2024-7"), package),
        vulnerability(advisory(UNTIL, identifier="PYSEC-2024-1", aliases=["CVE-2024-1"]), package),
        vulnerability(
            advisory(UNTIL, identifier="CVE-2024-1", database_specific={"severity": "HIGH"}, details="worse"), package
        ),
    ]
    one, other = merged(found)
    assert (one.id, one.aliases) == ("PYSEC-2024-1", ("CVE-2024-1", "GHSA-aaaa"))
    assert (one.summary, one.severity, one.fixed_in) == ("bad", "high", "1.5")
    assert other.id == "PYSEC-2024-7"


@pytest.mark.parametrize(
    "entry",
    [None, [], {}, {"id": 5}, {"id": "../x"}, {"id": "A" * 200}, {"id": "X-1", "affected": "x"}, {"id": "a b"}],
)
def test_what_is_no_advisory(entry):
    with pytest.raises(InstallError):
        names_of(entry, "there")


PACKAGE = {"ecosystem": "PyPI", "name": "some-package"}


@pytest.mark.parametrize(
    "affected",
    [
        [None, 5, "x", []],
        [{"package": None}, {"package": {"ecosystem": "PyPI"}}, {"package": {"ecosystem": "PyPI", "name": 5}}],
        [{"package": PACKAGE, "versions": [None, 5], "ranges": [5, {"type": 5}]}],
        [{"package": PACKAGE, "ranges": [{"type": "ECOSYSTEM", "events": [None, {"introduced": None}, {"a": "b"}]}]}],
    ],
)
def test_nonsense_is_no_match_and_no_crash(affected):
    entry = {"id": "X-1", "affected": affected, "aliases": 5, "severity": 5, "database_specific": 3, "summary": 1}
    package = Package("some-package", "1.0")
    names_of(entry, "x")
    assert not is_affected(entry, package)
    assert vulnerability(entry, package).id == "X-1"


@pytest.mark.parametrize(
    "affected",
    [
        {"package": PACKAGE, "ranges": 5},
        {"package": PACKAGE, "ranges": [{"type": "ECOSYSTEM", "events": 5}]},
        {"package": PACKAGE, "versions": "1.0"},
    ],
)
def test_what_nobody_can_understand_is_not_passed_over(affected):
    with pytest.raises(InstallError):
        is_affected({"id": "X-1", "affected": [affected]}, Package("some-package", "1.0"))
