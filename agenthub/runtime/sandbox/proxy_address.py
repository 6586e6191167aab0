"""Where a confined run finds the proxy."""

from __future__ import annotations

PROXY_PORT = 3128  # at 127.0.0.1 inside the sandbox, where every port is free


def proxy_variables(port: int = PROXY_PORT) -> dict[str, str]:
    """What leads ordinary clients to the proxy: curl, Python's, Go's, Node's (24 and newer) and many others."""
    url = f"http://127.0.0.1:{port}"
    variables = {"NODE_USE_ENV_PROXY": "1"}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        variables[name] = variables[name.upper()] = url
    variables["no_proxy"] = variables["NO_PROXY"] = ""
    return variables
