"""What changes for a user when an agent becomes another version: shown before an upgrade, and part of its report."""

from __future__ import annotations

from typing import Any, NamedTuple

from agenthub.manifest import AgentManifest
from agenthub.packages.record import InstallRecord
from agenthub.runtime.runs.permissions import asked_permissions, phrases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class Changed(NamedTuple):
    """Something that was and will be otherwise; None: it was not, or will not be, there."""

    name: str
    before: str | None
    after: str | None


class Changes(NamedTuple):
    """The difference between an installed version and another one.

    Attributes:
        before: the installed version.
        after: the other one.
        commits: the short commits before and after, of a git source.
        packages: Python packages of its environment; where `packages_known` is False, the requirements it declares.
        packages_known: whether the packages are those that will be installed.
        more: what it may do besides, phrases that follow "may".
        less: what it may do no longer.
        variables: environment variables: `"required"`, `"optional"`, with `" secret"` where they are.
        requires: ranges of versions of other agents.
        methods: names, with what became of the method's parameters where it stays.
        python: ranges of Python.
    """

    before: str
    after: str
    commits: tuple[str, str] | None
    packages: list[Changed]
    packages_known: bool
    more: list[str]
    less: list[str]
    variables: list[Changed]
    requires: list[Changed]
    methods: list[Changed]
    python: Changed | None

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        values: dict[str, Any] = self._asdict()
        for key in ("packages", "variables", "requires", "methods"):
            values[key] = [each._asdict() for each in values[key]]
        values["python"] = self.python._asdict() if self.python else None
        return values


def changes_between(
    record: InstallRecord,
    manifest: AgentManifest,
    source: Mapping[str, Any],
    packages: Iterable[tuple[str, str]] | None,
    own: Collection[str] = (),
) -> Changes:
    """What is otherwise in another version of an installed agent.

    Args:
        record: of the installed version.
        manifest: of the other version.
        source: of the other version, as a record would keep it.
        packages: what its environment would have; None: not known.
        own: what the agent's own project is called, which is in its environment as well, and is no news.
    """
    earlier = AgentManifest.from_compiled(record.manifest)
    before, after = asked_permissions(earlier), asked_permissions(manifest)
    more, less = phrases(after.beyond(before)), phrases(before.beyond(after))
    held, holds = _isolation(earlier), _isolation(manifest)
    if held and held != holds:
        more.append(f"run where there is no {held}")
    if packages is None:
        changed = _changed(_declared(earlier.dependencies), _declared(manifest.dependencies))
    else:
        known = {package["name"]: package["version"] for package in record.dependencies if package["name"] not in own}
        changed = _changed(known, {name: version for name, version in packages if name not in own})
    return Changes(
        before=record.version,
        after=manifest.version,
        commits=_commits(record.source, source),
        packages=changed,
        packages_known=packages is not None,
        more=more,
        less=less,
        variables=_changed(_variables(earlier), _variables(manifest)),
        requires=_changed(earlier.requires, manifest.requires),
        methods=_changed(_methods(earlier), _methods(manifest)),
        python=next(iter(_changed({"python": earlier.python_version}, {"python": manifest.python_version})), None),
    )


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[Changed]:
    names = sorted({*before, *after})
    return [Changed(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _declared(dependencies: Sequence[str] | str | None) -> dict[str, str]:
    declared = dependencies if not isinstance(dependencies, str) else (dependencies,)
    return dict.fromkeys(declared or (), "declared")


def _variables(manifest: AgentManifest) -> dict[str, str]:
    return {
        variable.name: ("required" if variable.required else "optional") + (" secret" if variable.secret else "")
        for variable in manifest.environment
    }


def _methods(manifest: AgentManifest) -> dict[str, str]:
    return {
        name: ", ".join(
            f"{key}{'' if parameter.required else '?'}: {parameter.schema.get('type')}"
            for key, parameter in method.parameters.items()
        )
        for name, method in manifest.methods.items()
    }


def _commits(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str] | None:
    commits = (before.get("commit"), after.get("commit"))
    if not all(isinstance(commit, str) for commit in commits) or commits[0] == commits[1]:
        return None
    return str(commits[0])[:12], str(commits[1])[:12]


def _isolation(manifest: AgentManifest) -> str | None:
    return (manifest.permissions or {}).get("isolation")
