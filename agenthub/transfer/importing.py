"""Brings to this machine what was exported from another: adds what is not here, and changes nothing that is.

What would let agents do more, or loosen what holds them, is told apart: nobody gets that in passing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import NamedTuple

from agenthub.config import SETTINGS, Settings
from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InvalidInputError
from agenthub.indexes.configured import IndexSource, add_index, read_indexes
from agenthub.indexes.owners import Owners, Pin
from agenthub.packages.store import Store
from agenthub.runtime.agents.installer import AgentInstaller, Installed, InstallOptions
from agenthub.runtime.runs.permissions import check_item
from agenthub.runtime.secrets.store import SecretStore
from agenthub.transfer.exporting import HISTORY
from agenthub.transfer.installing import install_entries
from agenthub.transfer.opening import SETUP, Opened, check_platform, open_container
from agenthub.transfer.past import add_history
from agenthub.transfer.setups import Setup, parse_setup, user_settings
from agenthub.trust.trusted import ARCHIVE, Trusted, all_trusted, trust
from agenthub.user_config import change_settings, check_setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.agents.installer import Plan
    from agenthub.transfer.entries import AgentEntry

    Say = Callable[[str], None]

ADD, STAYS = "add", "stays"
_TIERS = ("landlock", "rlimits", "off")
_LOOSE = {"sandbox": ("strict", "auto", "off"), "signatures": ("known", "first-use")}
_ASKED = ("index", "osv_url", "sigstore_root")
"""Settings that say who is asked and believed."""


class Step(NamedTuple):
    """One thing of the file.

    Attributes:
        kind: `"agent"`, `"setting"`, `"index"`, `"owner"`, `"key"`, `"grant"`, `"secret"` or `"history"`.
        name: of what.
        text: what it is, or why it stays as it is here.
        action: `"add"` or `"stays"`.
        widens: whether it lets an agent do more, or loosens what holds agents.
    """

    kind: str
    name: str
    text: str
    action: str = ADD
    widens: bool = False


class Import(NamedTuple):
    """What importing would do: all steps, and what they are made of.

    `states` are the agents whose pin or wanted versions come along, and `granted` are those of a file's grants that are
    not given here, by agent.
    """

    steps: list[Step]
    settings: dict[str, str]
    indexes: list[IndexSource]
    owners: dict[str, Pin]
    trusted: list[tuple[str, Trusted]]
    agents: list[AgentEntry]
    states: list[AgentEntry]
    granted: dict[str, dict[str, list[str]]]

    @property
    def widens(self) -> bool:
        """Whether anything of it does."""
        return any(step.widens and step.action == ADD for step in self.steps)


@contextmanager
def opened_setup(runtime: AgentRuntime, path: str) -> Iterator[tuple[Opened, Setup]]:
    """An exported file, checked whole.

    Raises:
        AgentNotFoundError: there is no such file.
        InstallError: it is damaged or refused.
        EnvironmentError: it has packages, and they are for another platform.
    """
    store = Store(runtime.settings.paths)
    store.sweep()
    with store.new_staging() as scratch:
        opened = open_container(path, scratch, SETUP)
        check_platform(opened)
        yield opened, parse_setup(path, opened.values.get("setup"))


def plan_import(settings: Settings, opened: Opened, setup: Setup, *, grants: bool) -> Import:
    """What importing a file would do here.

    Args:
        settings: of the command.
        opened: the file.
        setup: what it says besides agents.
        grants: off: what lets agents do more stays away.
    """
    planner = _Planner(settings, grants)
    planner.settings(setup.settings)
    planner.indexes(setup.indexes)
    planner.owners(setup.owners)
    planner.trusted(setup.trusted)
    planner.agents(opened.entries)
    planner.secrets(setup.secrets)
    if opened.values.get("history") == HISTORY and HISTORY in opened.places:
        planner.plan.steps.append(Step("history", "runs", "those that are not here are added"))
    return planner.plan


def do_import(
    installer: AgentInstaller,
    opened: Opened,
    plan: Import,
    consent: Callable[[Sequence[Plan]], None],
    say: Say,
) -> list[tuple[AgentEntry, Installed]]:
    """Does what a plan says. Whatever ends it in the middle, it may be begun again, and goes on.

    Args:
        installer: installs agents.
        opened: the file.
        plan: what is to be done.
        consent: called once, with what installing its agents would do, before anything is; refuses by raising.
        say: called with a line of what is being done.

    Raises:
        PermissionDeniedError: `consent` refused, or an agent may not be believed.
        AgentRuntimeError: something cannot be written, or an agent's environment cannot be made.
    """
    asked: list[bool] = []

    def once(plans: Sequence[Plan]) -> None:
        consent(plans)
        asked.append(True)
        _write(installer.runtime.settings, plan)

    options = InstallOptions(alone=True, on_progress=say)
    done = install_entries(installer, opened, plan.agents, options, once)
    if not asked:
        once([])
    store = installer.store
    for entry in plan.states:
        _keep_state(store, entry)
    for label, grants in plan.granted.items():
        _grant(store, label, grants)
    if any(step.kind == "history" for step in plan.steps):
        add_history(installer.runtime.settings.paths, opened.places[HISTORY], say)
    return done


class _Planner:
    """Compares a file with this machine."""

    def __init__(self, settings: Settings, grants: bool) -> None:
        self._settings = settings
        self._paths = settings.paths
        self._store = Store(settings.paths)
        self._grants = grants
        self.plan = Import([], {}, [], {}, [], [], [], {})

    def _step(self, kind: str, name: str, text: str, *, stays: bool = False, widens: bool = False) -> bool:
        """Notes a step; whether it is to be done."""
        if widens and not self._grants and not stays:
            stays, text = True, f"{text} is left out, as you said"
        self.plan.steps.append(Step(kind, name, text, STAYS if stays else ADD, widens))
        return not stays

    def settings(self, values: dict[str, str]) -> None:
        here = user_settings(self._paths)
        for name, text in sorted(values.items()):
            if here.get(name) == text:
                continue
            try:
                check_setting(name, text, "setting")
            except InvalidInputError as error:
                self._step("setting", name, f"{error.message}", stays=True)
                continue
            if name in here:
                self._step("setting", name, f"is {here[name]} here, and {text} there", stays=True)
            elif name == "python" and os.sep in text:
                self._step("setting", name, f"{text} is a program of the other machine", stays=True)
            elif self._step("setting", name, text, widens=self._loosens(name, text)):
                self.plan.settings[name] = text

    def _loosens(self, name: str, text: str) -> bool:
        if name in _ASKED:
            return bool(text != SETTINGS[name].default)
        order = _LOOSE.get(name)
        if order is None:
            return False
        now: str = self._settings[name]
        return order.index(text.strip().lower()) > order.index(now)

    def indexes(self, indexes: Sequence[IndexSource]) -> None:
        here = read_indexes(self._paths)
        taken = {owner: source for source in here for owner in source.owners}
        pins = Owners(self._paths).pins()
        for source in indexes:
            known = next((one for one in here if one.name == source.name or one.url == source.url), None)
            if known is not None and (known.name, known.url) != (source.name, source.url):
                self._step("index", source.name, f"{source.url}: here {known.name} is {known.url}", stays=True)
                continue
            free = [owner for owner in source.owners if owner not in taken and owner not in pins]
            kept = [owner for owner in source.owners if owner not in free and taken.get(owner) != known]
            for owner in kept:
                self._step("owner", owner, f"belongs elsewhere here than to {source.name}", stays=True)
            if known is None or free:
                text = source.url + (f", for {', '.join(free)}" if free else "")
                if self._step("index", source.name, text):
                    self.plan.indexes.append(source._replace(owners=tuple(free)))

    def owners(self, owners: dict[str, Pin]) -> None:
        here = Owners(self._paths).pins()
        mapped = {owner: source.url for source in read_indexes(self._paths) for owner in source.owners}
        for owner, pin in sorted(owners.items()):
            known = mapped.get(owner) or (here[owner].url if owner in here else None)
            if known is not None and known != pin.url:
                self._step("owner", owner, f"belongs to {known} here, and to {pin.url} there", stays=True)
                continue
            if known is None:
                self._step("owner", owner, f"belongs to {pin.url}")
            self.plan.owners[owner] = pin

    def trusted(self, trusted: dict[str, tuple[Trusted, ...]]) -> None:
        here = all_trusted(self._paths)
        for owner, entries in sorted(trusted.items()):
            known = here.get(owner, ())
            has_keys = any(entry.kind != ARCHIVE for entry in known)
            for entry in entries:
                if any(each[:3] == entry[:3] for each in known):
                    continue
                if has_keys:
                    self._step("key", owner, f"{entry.label}: another key is trusted here", stays=True)
                elif self._step("key", owner, entry.label, widens=entry.kind == ARCHIVE):
                    self.plan.trusted.append((owner, entry))

    def agents(self, entries: Sequence[AgentEntry]) -> None:
        for entry in entries:
            try:
                record = self._store.read_record(entry.owner, entry.name)
            except AgentNotFoundError:
                self._step("agent", entry.label, entry.version)
                self.plan.agents.append(entry)
            except AgentRuntimeError as error:
                self._step("agent", entry.label, error.message, stays=True)
                continue
            else:
                if record.digest != entry.digest:
                    text = f"is {record.version} here, and {entry.version} there" + (
                        ", with other content" if record.version == entry.version else ""
                    )
                    self._step("agent", entry.label, text, stays=True)
                    continue
            self._state(entry)
            self._granted(entry)

    def _state(self, entry: AgentEntry) -> None:
        state = self._store.read_state(entry.owner, entry.name)
        if (entry.pinned or entry.wanted) and not (state.pinned or state.wanted):
            words = [*(["pinned"] if entry.pinned else []), *([f"stays within {entry.wanted}"] if entry.wanted else [])]
            if self._step("agent", entry.label, ", ".join(words)):
                self.plan.states.append(entry)

    def _granted(self, entry: AgentEntry) -> None:
        here = self._store.read_grants(entry.owner, entry.name)
        for kind, values in entry.grants.items():
            new = []
            for value in values:
                if value in here[kind] or value in here.get(f"denied_{kind}", ()):
                    continue
                try:
                    _check_grant(kind, value)
                except InvalidInputError as error:
                    self._step("grant", entry.label, error.message, stays=True)
                    continue
                denied = kind.startswith("denied_")
                word = f"no {kind.removeprefix('denied_')}" if denied else kind
                if self._step("grant", entry.label, f"{word} {value}", widens=not denied):
                    new.append(value)
            if new:
                self.plan.granted.setdefault(entry.label, {})[kind] = new

    def secrets(self, names: Sequence[str]) -> None:
        here = SecretStore(self._paths).names()
        for name in names:
            if name not in here:
                self._step("secret", name, f"came as a name alone: agenthub secret set {name}", stays=True)


def _check_grant(kind: str, value: str) -> None:
    kind = kind.removeprefix("denied_")
    if kind == "sandbox":
        if value not in _TIERS:
            raise InvalidInputError(f"{value!r} is not one of {', '.join(_TIERS)}")
        return
    checked = check_item("environment" if kind == "secrets" else kind, value)
    if checked != value or (kind == "secrets" and value == "*"):
        raise InvalidInputError(f"{value!r} is not a grant as agenthub writes it")


def _write(settings: Settings, plan: Import) -> None:
    """Settings, indexes and keys; agents come behind them."""
    paths = settings.paths
    if plan.settings:
        change_settings(paths.user_config, dict(plan.settings))
    for source in plan.indexes:
        add_index(paths, source.name, source.url, source.owners)
    if plan.owners:
        Owners(paths).adopt(plan.owners)
    for owner, entry in plan.trusted:
        trust(paths, owner, entry)


def _keep_state(store: Store, entry: AgentEntry) -> None:
    with store.agent_lock(entry.owner, entry.name):
        state = store.read_state(entry.owner, entry.name)
        store.write_state(entry.owner, entry.name, state._replace(pinned=entry.pinned, wanted=entry.wanted))


def _grant(store: Store, label: str, new: dict[str, list[str]]) -> None:
    owner, _, name = label.partition("/")
    with store.agent_lock(owner, name), suppress(AgentNotFoundError):
        store.current_version_dir(owner, name)
        grants = store.read_grants(owner, name)
        for kind, values in new.items():
            grants[kind] = sorted({*grants[kind], *values})
        store.write_grants(owner, name, grants)
