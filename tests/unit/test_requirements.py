"""Agents that need agents: what is chosen, in which order, and what is said where nothing can be."""

from __future__ import annotations

import pytest

from agenthub.errors import AgentNotFoundError, InstallError
from agenthub.indexes.requirements import Known, resolve
from agenthub.packages.versions import matching


def published(**agents):
    """`fetcher={"1.0": {"acme/parser": ">=1"}}` -> what `releases` finds under `acme/fetcher`, the newest first."""

    def releases(label):
        name = label.partition("/")[2]
        if name not in agents:
            raise AgentNotFoundError(f"no index has {label}", suggestion="agenthub search")
        return [Known(label, version, agents[name][version]) for version in matching("latest", agents[name])]

    return releases


def root(**requires):
    return Known("me/root", "1.0", {f"acme/{name}": versions for name, versions in requires.items()})


def there(label, version, **requires):
    return {label: Known(label, version, {f"acme/{name}": text for name, text in requires.items()}, installed=True)}


def chosen(*arguments, **options):
    return [str(known) for known in resolve(*arguments, **options)]


def test_what_is_needed_comes_before_who_needs_it():
    releases = published(a={"1.0": {"acme/b": ">=1"}}, b={"1.0": {"acme/c": "1"}, "2.0": {}}, c={"1.5": {}, "2.0": {}})
    assert chosen(root(a="*", b="<2"), {}, releases) == ["acme/c 1.5", "acme/b 1.0", "acme/a 1.0"]


def test_the_newest_that_all_allow_and_no_pre_release_by_accident():
    releases = published(a={"1.0": {"acme/c": "<2"}}, c={"1.0": {}, "1.9": {}, "2.0": {}, "1.95rc1": {}})
    assert chosen(root(a="1", c=">=1"), {}, releases) == ["acme/c 1.9", "acme/a 1.0"]
    assert chosen(root(c=">=1.95rc1,<2"), {}, releases) == ["acme/c 1.95rc1"]
    assert chosen(root(c=">=3.0a1"), {}, published(c={"3.0b2": {}})) == ["acme/c 3.0b2"]


def test_an_older_release_is_taken_where_the_newest_needs_what_cannot_be():
    releases = published(a={"1.0": {}, "2.0": {"acme/c": ">=2"}}, b={"1.0": {"acme/c": "<2"}}, c={"1.0": {}, "2.0": {}})
    assert chosen(root(a="*", b="*"), {}, releases) == ["acme/a 1.0", "acme/c 1.0", "acme/b 1.0"]


def test_what_is_installed_stays_where_it_will_do():
    releases = published(c={"1.0": {}, "1.1": {}, "2.0": {}})
    assert chosen(root(c=">=1"), there("acme/c", "1.0"), releases) == []
    assert chosen(root(c=">=1.1"), there("acme/c", "1.0"), releases) == ["acme/c 2.0"]


def test_agents_that_need_each_other():
    releases = published(a={"1.0": {"acme/b": "1"}}, b={"1.0": {"acme/a": "1"}})
    assert sorted(chosen(root(a="*"), {}, releases)) == ["acme/a 1.0", "acme/b 1.0"]
    assert chosen(Known("acme/a", "1.0", {"acme/b": "1"}), {}, releases) == ["acme/b 1.0"]


def test_an_installed_agent_that_would_lack_what_it_needs_is_changed_too():
    installed = there("acme/c", "1.0") | there("acme/old", "1.0", c="<2")
    releases = published(c={"1.0": {}, "2.0": {}}, old={"1.0": {"acme/c": "<2"}, "2.0": {"acme/c": ">=2"}})
    assert chosen(root(c=">=2"), installed, releases) == ["acme/c 2.0", "acme/old 2.0"]


def test_or_else_it_is_said_who_is_in_the_way():
    installed = there("acme/c", "1.0") | there("acme/old", "1.0", c="<2")
    releases = published(c={"1.0": {}, "2.0": {}}, old={"1.0": {"acme/c": "<2"}, "2.0": {"acme/c": ">=2"}})
    with pytest.raises(InstallError) as caught:
        resolve(root(c=">=2"), installed, releases, fixed={"acme/old"})
    assert caught.value.message == "me/root 1.0 cannot be installed: no version of acme/c is right for all that need it"
    assert set(caught.value.details) == {
        "acme/old 1.0 (installed) needs acme/c <2",
        "me/root 1.0 needs acme/c >=2",
        "there is: 1.0, 2.0",
    }
    assert caught.value.suggestion == "agenthub unpin acme/old, or --force"


def test_what_was_lacking_before_is_no_reason_to_refuse():
    installed = there("acme/c", "1.0") | there("acme/old", "1.0", c=">=5") | there("acme/other", "1.0", gone="*")
    assert chosen(root(c=">=2"), installed, published(c={"2.0": {}})) == ["acme/c 2.0"]


def test_an_agent_that_nobody_has():
    with pytest.raises(InstallError) as caught:
        resolve(root(c=">=2"), {}, published())
    assert caught.value.message == (
        "me/root 1.0 cannot be installed: me/root 1.0 needs acme/c >=2, and no index has acme/c"
    )
    assert caught.value.suggestion == "agenthub search"


def test_many_possibilities_end():
    versions = {f"{major}.{minor}": {"acme/b": f"<{major}.{minor}"} for major in range(1, 9) for minor in range(9)}
    releases = published(a=versions, b={version: {"acme/a": f"<{version}"} for version in versions})
    with pytest.raises(InstallError, match="cannot be installed"):
        resolve(root(a="*", b="*"), {}, releases)
