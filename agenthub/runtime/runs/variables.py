"""Which environment variables a run is given: what the manifest declares, what the user passes, and nothing else."""

from __future__ import annotations

from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agenthub.manifest import AgentManifest

# What existing agents read, by the public agents' own code (none of them declares it).
PROVIDERS = (
    *("OPENAI", "ANTHROPIC", "GOOGLE", "DEEPSEEK", "FIREWORKS", "COHERE", "MISTRAL", "GROQ", "HUGGINGFACE"),
    "AZURE_OPENAI",
)
KNOWN_VARIABLES = (
    *(f"{provider}_API_KEY" for provider in PROVIDERS),
    "OPENAI_BASE_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "OLLAMA_API_URL",
    "OLLAMA_TIMEOUT",
    "LMSTUDIO_API_URL",
    "LMSTUDIO_TIMEOUT",
)

# What opens the user's secrets is nobody's business, whatever a manifest, a grant or a flag says.
WITHHELD = ("AGENTHUB_SECRETS_PASSPHRASE",)


def run_variables(
    manifest: AgentManifest, passed: Iterable[str], allowed: Iterable[str], environ: Mapping[str, str]
) -> dict[str, str]:
    """The variables for a run, beside those that every run has.

    Args:
        manifest: whose required variables have to be there.
        passed: the user's `--env`, each `NAME=value`, or `NAME` for the value that it has in `environ`.
        allowed: names of those that are passed on where they are set.
        environ: the caller's environment.

    Raises:
        InvalidInputError: a declared required variable, or one passed by name, is not set.
    """
    variables = {name: environ[name] for name in allowed if name in environ}
    for text in passed:
        name, given, value = text.partition("=")
        if not name or "\0" in text:
            raise InvalidInputError(f"--env {text!r} is not NAME=VALUE or NAME")
        if not given and name not in environ:
            raise InvalidInputError(f"--env {name}: it is not set here", suggestion=f"write --env {name}=VALUE")
        variables[name] = value if given else environ[name]
    for name in WITHHELD:
        variables.pop(name, None)
    missing = [variable for variable in manifest.environment if variable.required and not variables.get(variable.name)]
    if missing:
        raise InvalidInputError(
            f"{manifest.name} needs the environment variable {' and '.join(variable.name for variable in missing)}"
            + (f" ({missing[0].description})" if len(missing) == 1 and missing[0].description else ""),
            suggestion=f"export {missing[0].name}=…, or give it with --env {missing[0].name}=…",
        )
    return variables


def undeclared_hints(manifest: AgentManifest, directory: str, dependencies: Iterable[str]) -> list[str]:
    """The provider variables that an agent's code names without its manifest declaring any.

    An agent of the older format says nothing of its variables; this is how the user hears of them before a run.
    """
    import os

    if manifest.environment:
        return []
    seen: set[str] = set()
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if name not in ("venv", ".venv", ".git", "node_modules")]
        for name in files:
            path = os.path.join(folder, name)
            if name.endswith((".py", ".js", ".mjs", ".ts", ".sh")) and os.path.isfile(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text = file.read(1024 * 1024)
                seen.update(variable for variable in KNOWN_VARIABLES if variable in text)
    if any(name.lower() in ("openai", "aisuite") for name in dependencies):
        seen.add("OPENAI_API_KEY")
    if "OPENAI_API_KEY" in seen:
        seen.add("OPENAI_BASE_URL")  # read by the client library, not by the agent's own code
    return [name for name in KNOWN_VARIABLES if name in seen]
