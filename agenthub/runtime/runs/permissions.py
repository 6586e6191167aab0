"""What an agent may do in a run.

Its manifest asks and the user consents; what the user granted or revoked since comes next; then the flags of this run;
and the paths among its inputs are always allowed. What nobody allowed is denied.
"""

from __future__ import annotations

import os

from agenthub.errors import InvalidInputError, InvalidManifestError, PermissionDeniedError
from agenthub.manifest.inputs import names_path
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from agenthub.manifest import AgentManifest, Method

ANY = "*"  # among hosts or programs; among what is denied, all of the kind
ANY_WORD = "any"  # how a person writes it
KINDS = ("network", "read", "write", "run", "environment")
_OF_THE_SYSTEM = ("/boot", "/dev", "/etc", "/net", "/proc", "/root", "/run", "/sys", "/var/run", "/var/spool")


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

        return parse_host(item).text
    if kind == "environment" and not (item.isascii() and item.isidentifier()):
        raise InvalidInputError(f"{item!r} is not the name of an environment variable")
    if kind == "run" and "/" in item and not item.startswith("/"):
        raise InvalidInputError(f"{item!r} is neither the name of a program nor its absolute path")
    return item


def checked_items(items: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Permissions by kind as a program gives them, in the form that is kept; relative paths are from here.

    Raises:
        InvalidInputError: a kind or an item that cannot be one.
    """
    unknown = [kind for kind in items if kind not in KINDS]
    if unknown:
        raise InvalidInputError(f"there is no permission {unknown[0]!r}", suggestion=f"one of {', '.join(KINDS)}")
    here = os.path.abspath(os.curdir)
    return {kind: tuple(check_item(kind, item, here) for item in given) for kind, given in items.items()}


def effective_permissions(
    manifest: AgentManifest, changes: Iterable[Changes], inputs: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> Permissions:
    """What a run may do.

    Args:
        manifest: what is asked for.
        changes: the user's, in order; items as `check_item` returns them.
        inputs: paths that this run's inputs name: to read, and to write.

    Raises:
        InvalidInputError: a change takes a part of something that is allowed as a whole, and so would take nothing.
        InvalidManifestError: as `asked_permissions`.
    """
    allowed = {kind: list(items) for kind, items in asked_permissions(manifest)._asdict().items()}
    changes = tuple(changes)
    for change in changes:
        for kind, items in allowed.items():
            for item in change.deny.get(kind, ()):
                _deny(kind, item, items)
            items += [item for item in change.allow.get(kind, ()) if item not in items]
    _check_denials(changes, allowed)
    for kind, paths in zip(("read", "write"), inputs, strict=True):
        allowed[kind] += paths
    for kind in ("read", "write"):
        if ANY in allowed[kind]:
            raise InvalidInputError(f"'{ANY_WORD}' path cannot be allowed", suggestion="name directories, or files")
    return Permissions(*((ANY,) if ANY in allowed[kind] else tuple(dict.fromkeys(allowed[kind])) for kind in KINDS))


def _deny(kind: str, denied: str, items: list[str]) -> None:
    if denied == ANY:
        items.clear()
    items[:] = [item for item in items if item == ANY or not _is_within(kind, item, denied)]


def _check_denials(changes: tuple[Changes, ...], allowed: Mapping[str, Sequence[str]]) -> None:
    """Sees that what was denied is denied, unless somebody allowed the very same since."""
    since: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for change in reversed(changes):
        for kind in KINDS:
            since[kind].update(change.allow.get(kind, ()))
            for denied in change.deny.get(kind, ()):
                if denied != ANY and denied not in since[kind]:
                    _check_denial(kind, denied, allowed)


def _check_denial(kind: str, denied: str, allowed: Mapping[str, Sequence[str]]) -> None:
    for given in (kind, "write") if kind == "read" else (kind,):  # what may be written may be read
        for item in allowed[given]:
            if item == ANY or _overlaps(kind, item, denied):
                raise InvalidInputError(
                    f"{denied} cannot be denied alone: "
                    f"{given} of {ANY_WORD if item == ANY else item} is allowed as a whole",
                    suggestion=f"deny all, and allow what it needs: --deny-{given} {ANY_WORD} --allow-{given} …",
                )


def _is_within(kind: str, item: str, denied: str) -> bool:
    """Whether all of an item is denied, however either is spelt."""
    if item == denied or kind == "environment":
        return item == denied
    if kind == "network":
        from agenthub.runtime.sandbox.hosts import parse_host

        return parse_host(item).is_within(parse_host(denied))
    if kind == "run" and not (item.startswith("/") and denied.startswith("/")):
        return os.path.basename(item) == os.path.basename(denied)
    if kind == "run":
        return os.path.realpath(item) == os.path.realpath(denied)
    return _is_in(os.path.realpath(item), os.path.realpath(denied))


def _overlaps(kind: str, item: str, denied: str) -> bool:
    if kind == "network":
        from agenthub.runtime.sandbox.hosts import parse_host

        return parse_host(item).overlaps(parse_host(denied))
    return _is_within(kind, item, denied) or _is_within(kind, denied, item)


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
    """Sees that no path opens what no agent may touch: the store, other runs, agenthub itself; or more than it says.

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
        if is_sensitive(real) and not is_sensitive(path):  # whoever may write there can have made the link
            raise PermissionDeniedError(
                f"{agent} cannot be given {path}: it leads by a link to {real}, which its name does not say",
                suggestion=f"if that is meant, name it: {real}",
            )
        for place in protected:
            place = os.path.realpath(place)
            if _is_in(place, real) or (_is_in(real, place) and not (_is_in(real, own) and path in permissions.read)):
                where = "is part of" if _is_in(real, place) else "contains"
                raise PermissionDeniedError(
                    f"{agent} cannot be given {path}: it {where} {place}, which no agent may see",
                    suggestion="name a directory inside it, or a file" if where == "contains" else None,
                )


def is_sensitive(path: str) -> bool:
    """Whether a path is of a kind that agents rarely need: of the system, a home, or hidden in it, as keys are."""
    home = os.path.realpath(os.path.expanduser("~"))
    path = os.path.normpath(path)
    for place in (home, os.path.expanduser("~")):
        if _is_in(path, place) and place != "/":
            return path == place or path[len(place) + 1] == "."
    return _is_in(home, path) or any(_is_in(path, place) for place in _OF_THE_SYSTEM)


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
            found.append(f"{verb} {', '.join(_one(_short(path)) for path in paths)}")
    if ANY in permissions.run:
        found.append("start the programs installed here")
    elif permissions.run:
        found.append(f"start {', '.join(map(_one, permissions.run))}")
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


def _one(item: str) -> str:
    """An item of a list that cannot be taken for several, or for the sentence around it."""
    return repr(item) if set(item) & set(" ,;:'\"") else item
