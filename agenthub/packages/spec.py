"""What a user writes to say where an agent comes from: a directory, an archive, a git repository, an index's entry."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from agenthub.errors import AgentNotFoundError, InstallError, nearest

ARCHIVE_SUFFIXES = (".zip", ".agent", ".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MANIFESTS = ("agent.yaml", "agent.yml")
LOCAL_OWNER = "local"

_SPELLINGS = "write ./DIRECTORY, FILE.zip, FILE.tar.gz, git+URL[@REF][#subdirectory=DIR] or owner/name[@VERSION]"
_INDEX = re.compile(
    r"([a-z0-9][a-z0-9._-]*)/([a-z0-9][a-z0-9._-]*)(?:(?:@|(?=[<>=~!]))([0-9A-Za-z.+!_*<>=~, -]{1,200}))?",
    re.IGNORECASE | re.ASCII,
)
_SCP = re.compile(r"(?:[\w.][\w.-]*@)?([\w.][\w.-]*):(?![/:]{2})(.+)")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(/.*)?", re.DOTALL)
_REF = re.compile(r"\w[\w./@+-]*")
_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[::1\]")


class Spec(NamedTuple):
    """One source of one agent.

    Attributes:
        kind: `"directory"`, `"archive"`, `"git"` or `"index"`.
        location: an absolute path, a git URL, or `owner/name` of an index.
        ref: a git branch, tag or commit; of an index a version, its beginning, a range of versions, or `"latest"`.
        subdirectory: the agent's directory inside a repository.
        owner: who the agent belongs to unless the user says otherwise.
        text: what the user wrote.
    """

    kind: str
    location: str
    ref: str | None
    subdirectory: str | None
    owner: str
    text: str


def parse_spec(text: str, cwd: str | None = None) -> Spec:
    """The source that `text` names; relative paths are taken from `cwd` (by default the working directory).

    Raises:
        InstallError: it is no source, or one that is refused (another transport, an option in disguise).
        AgentNotFoundError: it names a local file or directory that does not exist.
    """
    _refuse_disguised_option(text, text)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise InstallError(f"{text!r} contains control characters")
    cwd = os.path.abspath(cwd or os.getcwd())
    if text.startswith("git+"):
        return _git(text, text[4:], cwd)
    if _is_path(text):
        return _local(text, cwd)
    if text.lower().endswith(ARCHIVE_SUFFIXES) and "://" not in text and os.path.exists(os.path.join(cwd, text)):
        return _local(text, cwd)
    if _looks_like_git(text):
        return _git(text, text, cwd)
    if "://" in text:
        raise InstallError(f"'{text}' is not a source of agents", suggestion=f"for a git repository: git+{text}")
    return _index_or_nothing(text, cwd)


def redacted(location: str) -> str:
    """`location` without the password that a URL may carry: what may be recorded and shown."""
    match = _URL.fullmatch(location)
    if not match or "@" not in match[2]:
        return location
    user, _, host = match[2].rpartition("@")
    return f"{match[1]}://{user.partition(':')[0]}@{host}{match[3] or ''}"


def _is_path(text: str) -> bool:
    return text in (".", "..", "~") or text.startswith(("./", "../", "/", "~"))


def _looks_like_git(text: str) -> bool:
    if "::" in text.partition("/")[0]:
        return True
    bare = text.partition("#")[0]
    return (bool(_URL.fullmatch(bare) or _SCP.fullmatch(bare))) and (bare.endswith(".git") or ".git@" in bare)


def _refuse_disguised_option(part: str, text: str) -> None:
    if not part or part.startswith("-"):
        raise InstallError(f"'{text}' is not a source of agents", suggestion=_SPELLINGS)


def _local(text: str, cwd: str) -> Spec:
    path = os.path.normpath(os.path.join(cwd, os.path.expanduser(text)))
    if os.path.isdir(path):
        return Spec("directory", path, None, None, LOCAL_OWNER, text)
    if os.path.basename(path) in MANIFESTS and os.path.isfile(path):
        raise InstallError(f"{text} is a manifest, not an agent", suggestion=f"did you mean {os.path.dirname(text)}?")
    if not os.path.lexists(path):
        raise AgentNotFoundError(f"there is no file or directory {path}", suggestion=_near(path))
    if not os.path.isfile(path) or not path.lower().endswith(ARCHIVE_SUFFIXES):
        known = ", ".join(ARCHIVE_SUFFIXES)
        raise InstallError(f"{path} is neither a directory nor an archive", suggestion=f"archives end in {known}")
    return Spec("archive", path, None, None, LOCAL_OWNER, text)


def _near(path: str) -> str | None:
    parent = os.path.dirname(path)
    try:
        close = nearest(os.path.basename(path), os.listdir(parent))
    except OSError:
        return f"{parent} does not exist either" if not os.path.exists(parent) else None
    return f"did you mean {os.path.join(parent, close)}?" if close else None


def _index_or_nothing(text: str, cwd: str) -> Spec:
    match = _INDEX.fullmatch(text)
    if match:
        owner, name, version = match[1].lower(), match[2].lower(), match[3]
        return Spec("index", f"{owner}/{name}", version.strip() if version else None, None, owner, text)
    _refuse_look_alike(text)
    if text.lower().endswith(ARCHIVE_SUFFIXES):
        path = os.path.join(cwd, text)
        raise AgentNotFoundError(f"there is no file {path}", suggestion=_near(path))
    if os.path.exists(os.path.join(cwd, text)):
        raise InstallError(f"'{text}' is not a source of agents", suggestion=f"did you mean ./{text}?")
    raise AgentNotFoundError(f"'{text}' names no agent, and there is no such file", suggestion=_SPELLINGS)


def _refuse_look_alike(text: str) -> None:
    """Names the letter that is another one than it looks like."""
    strange = next((letter for letter in text.partition("@")[0] if not letter.isascii()), None)
    if strange is None or "/" not in text:
        return
    import unicodedata

    called = unicodedata.name(strange, f"U+{ord(strange):04X}")
    raise InstallError(
        f"{text!r} names no agent: its letter {strange!r} is {called}", suggestion="names have a-z, 0-9 and . _ - only"
    )


def _git(text: str, rest: str, cwd: str) -> Spec:
    address, _, fragment = rest.partition("#")
    _refuse_disguised_option(address, text)
    subdirectory = _subdirectory(fragment, text) if fragment else None
    url, scp = _URL.fullmatch(address), _SCP.fullmatch(address)
    if url:
        location, ref, owner = _from_url(url, text)
    elif "::" in address.partition("/")[0]:
        raise _refused_transport(address.partition("::")[0], text)
    elif scp and not _is_path(address):
        head = address[: len(address) - len(scp[2])]
        path, ref = _split_ref(scp[2])
        location, owner = head + path, _owner(path, scp[1])
    else:
        location, ref = _split_local_ref(os.path.join(cwd, os.path.expanduser(address)))
        location, owner = os.path.normpath(location), LOCAL_OWNER
        if not os.path.isdir(location):
            raise AgentNotFoundError(f"there is no repository {location}", suggestion=_near(location))
    if ref is not None and (not _REF.fullmatch(ref) or ".." in ref or "@{" in ref):
        raise InstallError(f"'{ref}' is not a branch, a tag or a commit", details=(text,))
    return Spec("git", location, ref, subdirectory, owner, text)


def _from_url(url: re.Match[str], text: str) -> tuple[str, str | None, str]:
    scheme, authority, path = url[1].lower(), url[2], url[3] or ""
    host = authority.rpartition("@")[2]
    name = host if host.startswith("[") and host.endswith("]") else host.rpartition(":")[0] or host
    if scheme == "file":
        path, ref = _split_local_ref(path)
        return f"file://{authority}{path}", ref, LOCAL_OWNER
    if scheme not in ("https", "ssh") and not (scheme == "http" and _LOOPBACK.fullmatch(name.lower())):
        raise _refused_transport(scheme, text)
    if not name or name.startswith("-") or authority.startswith("-"):
        raise InstallError(f"'{text}' names no host", suggestion=_SPELLINGS)
    path, ref = _split_ref(path)
    return f"{scheme}://{authority}{path}", ref, _owner(path, name)


def _refused_transport(scheme: str, text: str) -> InstallError:
    return InstallError(
        f"git over '{scheme}' is refused: {redacted(text)}",
        suggestion="use https://, ssh://, file:// or a local path (http:// on this machine only)",
    )


def _split_ref(path: str) -> tuple[str, str | None]:
    """An `@` begins a ref after `.git`, or else where it is the last one and does not begin a path's component."""
    before, found, ref = path.rpartition(".git@")
    if found:
        return before + ".git", ref
    before, found, ref = path.rpartition("@")
    if not found or path.endswith(".git") or before.endswith("/") or not before:
        return path, None
    return before, ref


def _split_local_ref(path: str) -> tuple[str, str | None]:
    """As `_split_ref`, but what exists decides."""
    at = len(path)
    while at > 0:
        if os.path.isdir(path[:at]):
            return path[:at], path[at + 1 :] if at < len(path) else None
        at = path.rfind("@", 0, at)
    return _split_ref(path)


def _owner(path: str, host: str) -> str:
    """The first component of a repository's path on its host, as an owner's name; the host where there is only one."""
    parts = [part for part in path.split("/") if part]
    first = parts[0] if len(parts) > 1 else host
    return re.sub(r"[^a-z0-9._-]+", "-", first.lower()).strip("-._") or LOCAL_OWNER


def _subdirectory(fragment: str, text: str) -> str:
    key, _, value = fragment.partition("=")
    if key != "subdirectory":
        raise InstallError(f"'#{fragment}' is not understood in {text}", suggestion="write #subdirectory=DIR")
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if not parts or value.startswith("/") or ".." in parts or ".git" in [part.lower() for part in parts]:
        raise InstallError(f"'{value}' is not a directory inside the repository", details=(text,))
    return "/".join(parts)
