"""Signs and verifies releases with the `ssh-keygen` program: the keys that people have, and nothing to install."""

from __future__ import annotations

import os
import stat
import subprocess

from agenthub.errors import InstallError, InvalidInputError, PermissionDeniedError
from agenthub.packages.sources import file_digest
from agenthub.trust.keys import MOST_KEY_BYTES, NAMESPACE, PublicKey, signing_key
from agenthub.trust.statements import Statement

PROGRAM = "ssh-keygen"
# Never by PATH: a project's directory may stand first on it.
_PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/current-system/sw/bin")
_PRINCIPAL = "publisher"  # a word of ours: no owner's name gets into a file that ssh-keygen reads
_VERIFY_TIMEOUT = 30.0
_SIGN_TIMEOUT = 300.0  # seconds: somebody types a passphrase, or touches a security key
_SIGNING_VARIABLES = ("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY")


def sign_file(path: str, key: str, *, owner: str, name: str, version: str, tree_digest: str) -> bytes:
    """Signs a release: the archive at `path` as `version` of `owner/name`.

    Args:
        path: the archive.
        key: a file with a private key of OpenSSH; or with a public one whose private half ssh-agent holds.
        owner: whose agent it is.
        name: the agent's name.
        version: of the release.
        tree_digest: `"sha256:…"` of what is in the archive.

    Returns:
        bytes: the signature, as it is published beside the archive.

    Raises:
        InstallError: ssh-keygen is missing or refuses, or the archive cannot be read.
        InvalidInputError: `key` is no file with a key.
    """
    _check_key_file(key)
    statement = Statement(owner, name, version, file_digest(path), tree_digest)
    argv = [_program(), "-q", "-Y", "sign", "-n", NAMESPACE, "-f", os.path.abspath(key)]
    environment = {name: os.environ[name] for name in _SIGNING_VARIABLES if name in os.environ}
    code, signature, errors = _run(argv, statement.text(), environment, _SIGN_TIMEOUT)
    try:
        signing_key(signature)
    except ValueError:
        code = code or 1
    if code != 0:
        raise InstallError(
            f"{key} does not sign",
            details=[line for line in errors.splitlines() if line.strip()][-3:],
            suggestion="of a key with a passphrase, load it with ssh-add and give the .pub file",
        )
    return signature


def verify_file(path: str, signature: bytes, *, owner: str, name: str, version: str, tree_digest: str) -> PublicKey:
    """The key that signed the archive at `path` as `version` of `owner/name`; whether to trust it is not asked here.

    Raises:
        PermissionDeniedError: the signature is not one of this release.
        InstallError: ssh-keygen is missing, or the archive cannot be read.
    """
    return verify_statement(Statement(owner, name, version, file_digest(path), tree_digest), signature)


def verify_statement(statement: Statement, signature: bytes) -> PublicKey:
    """The key that signed `statement`.

    Raises:
        PermissionDeniedError: the signature is not one of it.
        InstallError: ssh-keygen is missing.
    """
    import tempfile

    label = f"{statement.owner}/{statement.name} {statement.version}"
    try:
        key = signing_key(signature)
    except ValueError as error:
        raise PermissionDeniedError(f"the signature of {label} is damaged: {error}") from None
    with tempfile.TemporaryDirectory(prefix="agenthub-") as folder:
        allowed, written = os.path.join(folder, "allowed"), os.path.join(folder, "signature")
        _write(allowed, f'{_PRINCIPAL} namespaces="{NAMESPACE}" {key.line}\n'.encode("ascii"))
        _write(written, signature)
        argv = [_program(), "-q", "-Y", "verify", "-n", NAMESPACE, "-I", _PRINCIPAL, "-f", allowed, "-s", written]
        code, _, _ = _run(argv, statement.text(), {}, _VERIFY_TIMEOUT)
    if code != 0:
        raise PermissionDeniedError(
            f"the signature of {label} does not belong to what was served: it was made for other content, "
            f"or for another agent or version"
        )
    return key


def _program() -> str:
    for place in _PLACES:
        path = os.path.join(place, PROGRAM)
        try:
            found = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return path
    raise InstallError(
        f"signatures need the program {PROGRAM}, which is not in {', '.join(_PLACES[:3])}",
        suggestion="install openssh-client (apt), openssh-clients (dnf) or openssh (apk, pacman)",
    )


def _check_key_file(path: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidInputError(f"cannot read the key {path}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_KEY_BYTES:
        raise InvalidInputError(f"{path} is not a file with a key")


def _run(argv: list[str], message: bytes, environment: dict[str, str], timeout: float) -> tuple[int, bytes, str]:
    # In our session, not in one of its own: it asks for a passphrase on our terminal.
    variables = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "HOME": os.path.expanduser("~"), **environment}
    try:
        done = subprocess.run(
            argv, input=message, env=variables, cwd="/", capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"{PROGRAM} did not answer within {timeout:.0f} seconds") from None
    except OSError as error:
        raise InstallError(f"{PROGRAM} cannot be started: {error.strerror}") from error
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
