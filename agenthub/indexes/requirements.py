"""Agents that need agents: versions of them in which all needs hold, found by resolvelib; or why there are none."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver

from agenthub.errors import AgentNotFoundError, InstallError
from agenthub.packages.versions import matching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from typing import Any

_MOST_ROUNDS = 1000
_SHOWN = 6  # versions that an explanation lists


class Known(NamedTuple):
    """A version of an agent that could be the one.

    Attributes:
        label: `owner/name`.
        version: as it was published.
        requires: ranges of versions of other agents, by label.
        installed: whether it is the installed one.
    """

    label: str
    version: str
    requires: Mapping[str, str]
    installed: bool = False

    def __str__(self) -> str:
        return f"{self.label} {self.version}"


class _Need(NamedTuple):
    """That an agent is of a range of versions; `by` says who needs that."""

    label: str
    versions: str
    by: Known | None

    def __str__(self) -> str:
        what = f"{self.label} {self.versions or '*'}"
        if self.by is None:
            return f"{what} is to be installed"
        return f"{self.by}{' (installed)' if self.by.installed else ''} needs {what}"


def resolve(
    root: Known,
    installed: Mapping[str, Known],
    releases: Callable[[str], Sequence[Known]],
    fixed: Collection[str] = (),
) -> list[Known]:
    """What has to be installed with an agent, in the order in which that is done, without the agent itself.

    What is installed stays where it will do. An installed agent that would lack what it needs is changed, too, where
    that helps; one that lacks it already is let alone.

    Args:
        root: what is to be installed.
        installed: by label.
        releases: all versions that are published under a label, but for those that were yanked.
        fixed: labels of installed agents that stay what they are.

    Raises:
        InstallError: there is no such set of versions; says which needs are against each other.
    """
    concerned: dict[str, Known] = {}
    while True:
        provider = _Provider(root, installed, releases, fixed)
        needs = [_Need(root.label, root.version, None), *(_Need(label, "*", None) for label in concerned)]
        chosen = _solve(provider, needs, root)
        lacking = {
            label: agent
            for label, agent in installed.items()
            if label not in concerned and label not in chosen and _would_lack(agent, chosen, installed)
        }
        if not lacking:
            return [
                agent for agent in _in_order(root.label, chosen) if not agent.installed and agent.label != root.label
            ]
        concerned |= lacking


def _would_lack(agent: Known, chosen: Mapping[str, Known], installed: Mapping[str, Known]) -> bool:
    """Whether an installed agent has what it needs, and would not have it any more."""
    for label, versions in agent.requires.items():
        now, then = installed.get(label), chosen.get(label)
        if then is not None and not _allows(versions, then.version):
            return now is not None and _allows(versions, now.version)
    return False


def _solve(provider: _Provider, needs: list[_Need], root: Known) -> dict[str, Known]:
    try:
        result = Resolver(provider, BaseReporter()).resolve(needs, max_rounds=_MOST_ROUNDS)
    except ResolutionImpossible as error:
        raise provider.explain(root, [cause.requirement for cause in error.causes]) from None
    except ResolutionTooDeep:
        raise InstallError(f"{root} cannot be installed: what it needs has too many possibilities") from None
    return dict(result.mapping)


def _in_order(first: str, chosen: Mapping[str, Known]) -> Iterator[Known]:
    """Those that are needed before those that need them."""
    seen: set[str] = set()
    waiting = [(label, False) for label in (*sorted(chosen, reverse=True), first)]
    while waiting:
        label, complete = waiting.pop()
        if complete:
            yield chosen[label]
        elif label not in seen:
            seen.add(label)
            waiting.append((label, True))
            waiting += [(needed, False) for needed in sorted(chosen[label].requires, reverse=True) if needed in chosen]


class _Provider(AbstractProvider[_Need, Known, str]):
    """What resolvelib asks: who may be chosen, and what each needs."""

    def __init__(
        self,
        root: Known,
        installed: Mapping[str, Known],
        releases: Callable[[str], Sequence[Known]],
        fixed: Collection[str],
    ) -> None:
        self._root = root
        self._installed = installed
        self._releases = releases
        self._fixed = fixed
        self._published: dict[str, Sequence[Known]] = {}
        self._reasons: dict[str, AgentNotFoundError] = {}

    def identify(self, requirement_or_candidate: _Need | Known) -> str:
        return requirement_or_candidate.label

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, Known],
        candidates: Mapping[str, Iterator[Known]],
        information: Mapping[str, Iterator[Any]],
        backtrack_causes: Sequence[Any],
    ) -> tuple[bool, bool, str]:
        """What is in the way first, then what cannot be changed; then by name, so that each time is the same."""
        in_the_way = any(cause.requirement.label == identifier for cause in backtrack_causes)
        return identifier != self._root.label, not in_the_way, identifier

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[_Need]],
        incompatibilities: Mapping[str, Iterator[Known]],
    ) -> Callable[[], Iterator[Known]]:
        needs = list(requirements[identifier])
        refused = {each.version for each in incompatibilities[identifier]}
        return lambda: (known for known in self._fitting(identifier, needs) if known.version not in refused)

    def is_satisfied_by(self, requirement: _Need, candidate: Known) -> bool:
        return _allows(requirement.versions, candidate.version)

    def get_dependencies(self, candidate: Known) -> list[_Need]:
        needs = [_Need(label, versions, candidate) for label, versions in candidate.requires.items()]
        if candidate.installed:  # what was lacking before is no reason to change anything now
            needs = [need for need in needs if need.label in self._installed or need.label == self._root.label]
        return needs

    def explain(self, root: Known, causes: Sequence[_Need]) -> InstallError:
        """Why there is no set of versions: the needs that are against each other, and what there is."""
        labels = dict.fromkeys(need.label for need in causes)
        details = list(dict.fromkeys(str(need) for need in causes if need.by is not None))
        if len(labels) == 1:
            (label,) = labels
            if reason := self._reasons.get(label):
                return InstallError(
                    f"{root} cannot be installed: {details[0] if details else label}, and {reason.message}",
                    suggestion=reason.suggestion,
                )
            details.append(self._offered(label))
            what = f"no version of {label} is right for all that need it"
        else:
            what = f"what is needed of {', '.join(labels)} cannot be had together"
        return InstallError(f"{root} cannot be installed: {what}", details=details, suggestion=self._way_out(causes))

    def _way_out(self, causes: Sequence[_Need]) -> str | None:
        for need in causes:
            if need.by is not None and need.by.installed:
                held = need.by.label in self._fixed
                return f"agenthub {'unpin' if held else 'uninstall'} {need.by.label}, or --force"
        return None

    def _offered(self, label: str) -> str:
        versions = list(dict.fromkeys(known.version for known in self._candidates(label)))
        listed = ", ".join(versions[:_SHOWN]) + (" …" if len(versions) > _SHOWN else "")
        return f"there is: {listed}" if versions else f"there is no {label}"

    def _fitting(self, label: str, needs: Sequence[_Need]) -> Iterator[Known]:
        """Those that all needs allow, the best first; a pre-release only where there is nothing else."""
        installed = self._installed.get(label)
        if label != self._root.label and installed is not None and _fits(installed, needs):
            yield installed
        if label == self._root.label:
            yield from ([self._root] if _fits(self._root, needs) else [])
        elif label not in self._fixed:
            fitting = [known for known in self._published_under(label) if _fits(known, needs)]
            final = [known for known in fitting if not _is_prerelease(known.version)]
            yield from final or fitting

    def _candidates(self, label: str) -> list[Known]:
        if label == self._root.label:
            return [self._root]
        installed = self._installed.get(label)
        return ([installed] if installed else []) + list(self._published_under(label))

    def _published_under(self, label: str) -> Sequence[Known]:
        if label not in self._published:
            try:
                self._published[label] = self._releases(label)
            except AgentNotFoundError as error:
                self._published[label] = []
                self._reasons[label] = error
        return self._published[label]


def _fits(known: Known, needs: Sequence[_Need]) -> bool:
    return all(_allows(need.versions, known.version) for need in needs)


@lru_cache(maxsize=65536)
def _allows(versions: str, version: str) -> bool:
    return bool(matching(versions, [version]))


@lru_cache(maxsize=4096)
def _is_prerelease(version: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version).is_prerelease
    except InvalidVersion:
        return False
