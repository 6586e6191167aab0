"""What an agent may do in a run.

Its manifest asks and the user consents; what the user granted or revoked since comes next; then the flags of this run;
and the paths among its inputs are always allowed. What nobody allowed is denied.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from agenthub.errors import InvalidInputError, InvalidManifestError, PermissionDeniedError
from agenthub.manifest.inputs import names_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agenthub.manifest import AgentManifest, Method

ANY = "*"  # among hosts or programs; among what is denied, all of the kind
ANY_WORD = "any"  # how a person writes it
KINDS = ("network", "read", "write", "run", "environment")


class Permissions(NamedTuple):
    """What is allowed, by kind. `"*"` among `network` or `run` means any.

    Attributes:
        network: hosts, each with or without a port.
        read: absolute paths that may be read.
        write: absolute paths that may be read and written.
        run: installed programs that may be found and started.
        environment: variables of the user's that are passed on where they are set.
    """

    network: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()

    def beyond(self, earlier: Permissions) -> Permissions:
        """What these allow that `earlier` ones do not."""
        return Permissions(
            *(
                () if ANY in before else tuple(item for item in now if item not in before)
                for now, before in zip(self, earlier, strict=True)
            )
        )


class Changes(NamedTuple):
    """What a user adds to and takes from an agent's permissions, by kind; denials go before what is allowed."""

    allow: Mapping[str, Sequence[str]] = {}
    deny: Mapping[str, Sequence[str]] = {}


def is_silent(manifest: AgentManifest) -> bool:
    """Whether an agent is of the older format, which knows no permissions.

    Such agents were written for a runner that restricted nothing. They get a profile that protects home, keys, other
    agents and the host, with the network, to which their users consented.
    """
    return manifest.permissions is None and manifest.entrypoint.kind == "script"


def asked_permissions(manifest: AgentManifest) -> Permissions:
    """What a manifest asks for.

    Raises:
        InvalidManifestError: a host, path or program that cannot be one.
    """
    declared = tuple(variable.name for variable in manifest.environment)
    if is_silent(manifest):
        return Permissions(network=(ANY,), run=(ANY,), environment=declared)
    asked = manifest.permissions or {}
    items = {kind: asked.get(kind) or () for kind in KINDS}
    items["environment"] = dict.fromkeys((*declared, *items["environment"]))
    try:
        return Permissions(
            *(
                (ANY,) if items[kind] is True else tuple(check_item(kind, item) for item in items[kind])
                for kind in KINDS
            )
        )
    except InvalidInputError as error:
        raise InvalidManifestError(
            f"{manifest.name}: permissions: {error.message}", suggestion=error.suggestion
        ) from None


def check_item(kind: str, item: str, directory: str = "/") -> str:
    """One permission as a person writes it, in the form that is kept: `any` as `"*"`, a path absolute.

    Raises:
        InvalidInputError: it cannot be one.
    """
    if not item or not item.isprintable():
        raise InvalidInputError(f"{item!r} is not a {kind} permission")
    if item in (ANY, ANY_WORD):
        return ANY
    if kind in ("read", "write"):
        return os.path.normpath(os.path.join(directory, os.path.expanduser(item)))
    if kind == "network":
        from agenthub.runtime.sandbox.hosts import parse_host

        parse_host(item)
    if kind == "environment" and not (item.isascii() and item.isidentifier()):
        raise InvalidInputError(f"{item!r} is not the name of an environment variable")
    if kind == "run" and "/" in item and not item.startswith("/"):
        raise InvalidInputError(f"{item!r} is neither the name of a program nor its absolute path")
    return item


def effective_permissions(
    manifest: AgentManifest, changes: Iterable[Changes], inputs: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> Permissions:
    """What a run may do.

    Args:
        manifest: what is asked for.
        changes: the user's, in order; items as `check_item` returns them.
        inputs: paths that this run's inputs name: to read, and to write.

    Raises:
        InvalidInputError: a change takes a part of something that is allowed as a whole.
        InvalidManifestError: as `asked_permissions`.
    """
    allowed = {kind: list(items) for kind, items in asked_permissions(manifest)._asdict().items()}
    for change in changes:
        for kind, items in allowed.items():
            for item in change.deny.get(kind, ()):
                _deny(kind, item, items)
            items += [item for item in change.allow.get(kind, ()) if item not in items]
    for kind, paths in zip(("read", "write"), inputs, strict=True):
        allowed[kind] += paths
    for kind in ("read", "write"):
        if ANY in allowed[kind]:
            raise InvalidInputError(f"'{ANY_WORD}' path cannot be allowed", suggestion="name directories, or files")
    return Permissions(*((ANY,) if ANY in allowed[kind] else tuple(dict.fromkeys(allowed[kind])) for kind in KINDS))


def _deny(kind: str, item: str, items: list[str]) -> None:
    if item == ANY:
        items.clear()
        return
    if item in items:
        items.remove(item)
        return
    paths = kind in ("read", "write")
    whole = ANY if ANY in items else next((path for path in items if paths and _is_in(item, path)), None)
    if whole:
        flag = f"--deny-{kind} {ANY_WORD} --allow-{kind} …"
        shown = "any" if whole == ANY else whole
        raise InvalidInputError(
            f"{item} cannot be denied alone: {kind} of {shown} is allowed as a whole",
            suggestion=f"deny all, and allow what it needs: {flag}",
        )
    items[:] = [path for path in items if not (paths and _is_in(path, item))]


def input_paths(method: Method, given: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The paths that a call's own inputs name, to read and to write; a manifest's defaults are none of the user's."""
    read: list[str] = []
    write: list[str] = []
    for name, value in given.items():
        parameter = method.parameters[name]
        if isinstance(value, str) and os.path.isabs(value) and names_path(parameter):
            (write if parameter.access == "write" else read).append(value)
    return read, write


def check_paths(permissions: Permissions, protected: Iterable[str], own: str, agent: str) -> None:
    """Sees that no path opens what no agent may touch: the store, other runs, agenthub itself.

    Args:
        permissions: of a run.
        protected: directories of agenthub's.
        own: the agent's directory, which it reads anyway.
        agent: its name.

    Raises:
        PermissionDeniedError: one does.
    """
    for path in (*permissions.read, *permissions.write):
        real = os.path.realpath(path)
        for place in protected:
            place = os.path.realpath(place)
            if _is_in(place, real) or (_is_in(real, place) and not (_is_in(real, own) and path in permissions.read)):
                where = "is part of" if _is_in(real, place) else "contains"
                raise PermissionDeniedError(
                    f"{agent} cannot be given {path}: it {where} {place}, which no agent may see",
                    suggestion="name a directory inside it, or a file" if where == "contains" else None,
                )


def covers(allowed: Iterable[str], path: str) -> bool:
    """Whether a path lies at or in one of those that are allowed."""
    return any(_is_in(path, place) for place in allowed)


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def takes_paths(manifest: AgentManifest) -> bool:
    """Whether a method of an agent takes a path."""
    methods = manifest.methods.values()
    return any(names_path(parameter) for method in methods for parameter in method.parameters.values())


def phrases(permissions: Permissions, manifest: AgentManifest | None = None) -> list[str]:
    """What is allowed, in a person's words, each to follow "may"; with the inputs of a manifest's methods."""
    found = ["read the files that you name in a run"] if manifest is not None and takes_paths(manifest) else []
    if ANY in permissions.network:
        found.append("use the network")
    elif permissions.network:
        found.append(f"reach {', '.join(permissions.network)} over the network, and nothing else")
    for kind, verb in (("read", "read"), ("write", "read and write")):
        paths = getattr(permissions, kind)
        if paths:
            found.append(f"{verb} {', '.join(map(_short, paths))}")
    if ANY in permissions.run:
        found.append("start the programs installed here")
    elif permissions.run:
        found.append(f"start {', '.join(permissions.run)}")
    if permissions.environment:
        found.append(f"see your {', '.join(permissions.environment)}")
    return found


def prohibitions(permissions: Permissions) -> list[str]:
    """What is not allowed, in a person's words, each to follow "may not"."""
    found = [] if permissions.network else ["use the network"]
    found.append("read anything else of yours" if permissions.read or permissions.write else "read your home")
    found.append("write anywhere else" if permissions.write else "write outside its scratch directory")
    if not permissions.run:
        found.append("start other programs")
    return found


def _short(path: str) -> str:
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if _is_in(path, home) and home != "/" else path
