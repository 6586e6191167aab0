"""Which secrets a run is given: those that the manifest declares, the user granted, and nobody set for this run."""

from __future__ import annotations

from agenthub.errors import PermissionDeniedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from agenthub.config import Paths
    from agenthub.manifest import AgentManifest
    from agenthub.runtime.processes.masking import Masker
    from agenthub.runtime.secrets.store import SecretStore


class Secrets(dict[str, str]):
    """Values by name; shows its names only, wherever it is printed."""

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self))})"

    __str__ = __repr__


def resolve_secrets(names: Iterable[str], granted: Collection[str], store: SecretStore) -> Secrets:
    """The values of those of `names` that are granted and kept.

    Raises:
        PermissionDeniedError: the passphrase is wrong, or there is none, or the keyring is locked.
        StoreError: they cannot be read.
    """
    wanted = [name for name in dict.fromkeys(names) if name in granted]
    return Secrets(store.read(wanted)) if wanted else Secrets()


def secrets_for_run(
    manifest: AgentManifest,
    label: str,
    *,
    granted: Collection[str],
    passed: Iterable[str],
    environ: Mapping[str, str],
    paths: Paths,
    ask: Callable[[bool], str] | None = None,
) -> Secrets:
    """What the store adds to a run's variables.

    Args:
        manifest: only variables that it declares are looked up.
        label: what `agenthub grant` calls the agent.
        granted: names of secrets that the user granted this agent.
        passed: the user's `--env`; a value given there comes first.
        environ: the caller's environment; what is set in it comes first.
        paths: where secrets are kept; looked at only if something there may be wanted.
        ask: asks for the passphrase, see `SecretStore`.

    Raises:
        PermissionDeniedError: a required one is kept but not granted; or as `resolve_secrets`.
        StoreError: they cannot be read.
    """
    given = {text.partition("=")[0] for text in passed if "=" in text}
    missing = [one for one in manifest.environment if not environ.get(one.name) and one.name not in given]
    wanted = [one.name for one in missing if one.name in granted]
    required = [one.name for one in missing if one.required and one.name not in granted]
    if not wanted and not required:
        return Secrets()
    from agenthub.runtime.secrets.store import SecretStore

    store = SecretStore(paths, ask)
    withheld = [name for name in store.names() if name in required]
    if withheld:
        raise PermissionDeniedError(
            f"{manifest.name} needs {' and '.join(withheld)}, which you keep as a secret and did not grant it",
            suggestion=f"agenthub grant {label} secret {' '.join(withheld)}",
        )
    return resolve_secrets(wanted, granted, store)


def masker_for(manifest: AgentManifest, variables: Mapping[str, str], secrets: Mapping[str, str]) -> Masker | None:
    """What hides a run's secrets, and the variables that the manifest declares as secret; None where it has none."""
    declared = {one.name for one in manifest.environment if one.secret}
    values = {name: value for name, value in variables.items() if name in declared or name in secrets}
    if not values:
        return None
    from agenthub.runtime.processes.masking import Masker

    return Masker(values) or None
