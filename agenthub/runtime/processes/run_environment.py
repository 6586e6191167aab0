"""The environment variables of a run: an allow-list, never the embedding program's own."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Language and time, and where certificates are: without these a request through a company's proxy fails.
_PASSED = (
    "LANG",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)


def run_environment(
    environ: Mapping[str, str], scratch: str, venv: str | None, declared: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a run.

    Args:
        environ: where the allowed variables are taken from.
        scratch: the run's own directory; its HOME, TMPDIR and cache.
        venv: the agent's virtual environment, whose programs come first; None: none.
        declared: variables that the manifest declares or the user passed; they win.
    """
    passed = {name: value for name, value in environ.items() if name in _PASSED or name.startswith("LC_")}
    path = environ.get("PATH", os.defpath)
    if venv is not None:
        path = os.path.join(venv, "bin") + os.pathsep + path
        passed["VIRTUAL_ENV"] = venv
    return {
        **passed,
        "PATH": path,
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": scratch,
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # an installed agent has its own; a directory of the user's is left as it is
        **(declared or {}),
    }
