"""Where advisories are looked up: files of one's own, or a server that speaks OSV's API. Never silent about failing."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from agenthub.config import Settings
from agenthub.errors import InvalidInputError, UnreachableError
from agenthub.trust.advisories import (
    ECOSYSTEM,
    Package,
    Vulnerability,
    is_affected,
    is_identifier,
    merged,
    names_of,
    vulnerability,
    withdrawn,
)
from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agenthub.indexes.http import HttpClient

LARGEST_ENTRY = 4 << 20
"""Bytes of one advisory, and of all that a server answers to one request."""
LARGEST_FILE = 512 << 20
MOST_ENTRIES = 2_000_000

_BATCH = 500  # packages in a request; OSV takes 1,000
_MOST_PAGES = 20  # of 1,000 advisories of a package
_ATTEMPTS = 3
_BACK_OFF = 0.5  # seconds; doubled at each further attempt
_LARGEST_ANSWER = 64 << 20
_KINDS = (".json", ".yaml", ".yml")


class Answer(NamedTuple):
    """What a database knows.

    Attributes:
        found: what is known against each of the packages that were asked for; nothing, an empty list.
        entries: how many advisories were looked through; None: the server does not say.
        newest: when the newest of them was changed, as it says; empty where that is not known.
    """

    found: dict[Package, list[Vulnerability]]
    entries: int | None
    newest: str


def look_up(
    settings: Settings,
    packages: Sequence[Package],
    database: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Answer:
    """What is known against packages.

    Args:
        settings: of the command: `osv_url`, `offline`.
        packages: what is asked for.
        database: a file, a directory, a zip, or a server's address; None: the setting's.
        on_progress: called with a line of what is being done.

    Raises:
        UnreachableError: the database cannot be asked, or not be understood: nothing is known then.
        InvalidInputError: it names no database.
    """
    place = database or str(settings["osv_url"])
    if "://" not in place or place.startswith("file://"):
        return _local(os.path.expanduser(place.removeprefix("file://")), packages, on_progress)
    from agenthub.indexes.configured import index_url

    url = index_url(place)
    if url.startswith("git+"):
        raise InvalidInputError(f"{place} is not a database of advisories", suggestion="give https://HOST, or a file")
    if settings["offline"]:
        raise UnreachableError(
            f"offline: {url} was not asked, and so nothing is known",
            suggestion="--database FILE looks into a database on this machine",
        )
    return _Server(url, settings["index_timeout"], on_progress).look_up(packages)


# files ---------------------------------------------------------------------------------------------------------------


def _local(path: str, packages: Sequence[Package], on_progress: Callable[[str], None] | None) -> Answer:
    by_name: dict[str, list[Package]] = {}
    for package in packages:
        by_name.setdefault(package.name, []).append(package)
    found: dict[Package, list[Vulnerability]] = {package: [] for package in packages}
    entries, newest = 0, ""
    for where, entry in _entries(path):
        entries += 1
        if entries > MOST_ENTRIES:
            raise UnreachableError(f"{path} has more than {MOST_ENTRIES:,} advisories")
        if on_progress and entries % 1000 == 0:
            on_progress(f"{entries:,} advisories")
        names = names_of(entry, where)
        modified = str(entry.get("modified") or "")
        newest = max(newest, modified[:40])
        for name in names & by_name.keys():
            for package in by_name[name]:
                if is_affected(entry, package):
                    found[package].append(vulnerability(entry, package))
    if not entries:
        raise UnreachableError(
            f"{path} has no advisories in it", suggestion="it has to be OSV: .json, or a .zip of them"
        )
    return Answer({package: merged(known) for package, known in found.items()}, entries, newest)


def _entries(path: str) -> Iterator[tuple[str, Any]]:
    """Every advisory below a path, with where it stands."""
    try:
        if os.path.isdir(path):
            for folder, folders, files in os.walk(path, onerror=_raise):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(files):
                    if name.endswith(_KINDS):
                        file = os.path.join(folder, name)
                        yield from _parsed(file, _read(file, LARGEST_ENTRY))
        elif path.endswith(".zip"):
            yield from _zipped(path)
        else:
            yield from _parsed(path, _read(path, LARGEST_FILE))
    except OSError as error:
        raise UnreachableError(
            f"the database {path} cannot be read: {error.strerror or error}", suggestion="nothing was looked up"
        ) from error


def _raise(error: OSError) -> None:
    raise error


def _zipped(path: str) -> Iterator[tuple[str, Any]]:
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(_KINDS):
                    where = f"{path}: {member.filename}"
                    with archive.open(member) as file:
                        yield from _parsed(where, _bounded(where, file.read(LARGEST_ENTRY + 1), LARGEST_ENTRY))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise UnreachableError(f"the database {path} is damaged: {error}") from None


def _read(path: str, limit: int) -> bytes:
    with open(path, "rb") as file:
        return _bounded(path, file.read(limit + 1), limit)


def _bounded(where: str, data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise UnreachableError(f"{where} is larger than {limit >> 20} MB")
    return data


def _parsed(where: str, data: bytes) -> Iterator[tuple[str, Any]]:
    """The advisories in a file: one, a list of them, or an answer of a server's."""
    try:
        value = _yaml(data) if where.endswith((".yaml", ".yml")) else json.loads(data)
    except (ValueError, RecursionError):
        raise UnreachableError(f"{where} is damaged: it is not {'YAML' if where.endswith('ml') else 'JSON'}") from None
    if isinstance(value, dict) and isinstance(value.get("vulns"), list):
        value = value["vulns"]
    for entry in value if isinstance(value, list) else [value]:
        yield where, entry


def _yaml(data: bytes) -> Any:
    import yaml

    try:
        return yaml.load(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are the safe loader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


# a server ------------------------------------------------------------------------------------------------------------


class _Server:
    """OSV's API: which advisories there are for packages, in batches; then each advisory once."""

    def __init__(self, url: str, timeout: float, on_progress: Callable[[str], None] | None) -> None:
        from agenthub.indexes.http import HttpClient

        self._url = url
        self._client: HttpClient = HttpClient(timeout)
        self._say = on_progress or (lambda line: None)

    def look_up(self, packages: Sequence[Package]) -> Answer:
        ids: dict[Package, list[str]] = {}
        for start in range(0, len(packages), _BATCH):
            self._say(f"{min(start + _BATCH, len(packages))} of {len(packages)} packages")
            ids.update(self._ids(packages[start : start + _BATCH]))
        wanted = sorted({identifier for known in ids.values() for identifier in known})
        entries = {}
        for number, identifier in enumerate(wanted, 1):
            self._say(f"{number} of {len(wanted)} advisories")
            entries[identifier] = self._entry(identifier)
        found = {}
        for package, known in ids.items():
            about = [entries[identifier] for identifier in known if not withdrawn(entries[identifier])]
            found[package] = merged(vulnerability(entry, package) for entry in about)
        newest = max((str(entry.get("modified") or "")[:40] for entry in entries.values()), default="")
        return Answer(found, None, newest)

    def _ids(self, packages: Sequence[Package]) -> dict[Package, list[str]]:
        found: dict[Package, list[str]] = {package: [] for package in packages}
        pending = [(package, "") for package in packages]
        for _ in range(_MOST_PAGES):
            if not pending:
                return found
            queries = [
                {"package": {"name": package.name, "ecosystem": ECOSYSTEM}, "version": package.version}
                | ({"page_token": token} if token else {})
                for package, token in pending
            ]
            results = self._ask("POST", "/v1/querybatch", {"queries": queries}).get("results")
            if not isinstance(results, list) or len(results) != len(pending):
                raise self._nonsense("it does not answer each question")
            pending = [
                (package, following)
                for (package, _), result in zip(pending, results, strict=True)
                if (following := self._take(result, found[package]))
            ]
        raise self._nonsense("its answers have no end")

    def _take(self, result: Any, ids: list[str]) -> str:
        """Adds the ids of a result, and returns where the next page begins, if there is one."""
        vulns = (result.get("vulns") or []) if isinstance(result, dict) else None
        if not isinstance(vulns, list) or not all(
            isinstance(each, dict) and is_identifier(each.get("id")) for each in vulns
        ):
            raise self._nonsense("an answer has no list of advisories")
        ids += [each["id"] for each in vulns]
        token = result.get("next_page_token")
        return token if isinstance(token, str) else ""

    def _entry(self, identifier: str) -> dict[str, Any]:
        entry = self._ask("GET", f"/v1/vulns/{identifier}")
        names_of(entry, f"{self._url}: {identifier}")
        if entry["id"] != identifier:
            raise self._nonsense(f"for {identifier} it answers {entry['id']}")
        return entry

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        from agenthub.indexes.http import TransferError

        wait = _BACK_OFF
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._exchange(method, path, body)
            except TransferError as error:
                if not error.again or attempt == _ATTEMPTS:
                    raise UnreachableError(
                        f"the database {self._url} cannot be asked: {error.reason}",
                        suggestion="nothing is known of your packages; --database FILE looks into one on this machine",
                    ) from error
                time.sleep(min(error.after if error.after is not None else wait, 5.0))
                wait *= 2
        raise AssertionError("the last attempt returns or raises")

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = json.dumps(body).encode("ascii") if body is not None else None
        with self._client.exchange(method, self._url + path, headers, data) as response:
            if response.status != 200:
                raise self._nonsense(f"it answers {response.status}")
            received = bytearray()
            for chunk in self._client.chunks(response):
                received += chunk
                if len(received) > _LARGEST_ANSWER:
                    raise self._nonsense("its answer has no end")
        try:
            value = json.loads(bytes(received))
        except (ValueError, RecursionError):
            raise self._nonsense("its answer is not JSON") from None
        if not isinstance(value, dict):
            raise self._nonsense("its answer is not an object")
        return value

    def _nonsense(self, what: str) -> UnreachableError:
        return UnreachableError(
            f"the database {self._url} cannot be used: {what}", suggestion="nothing is known of your packages"
        )
