"""The typed model of a manifest, and its compiled form: plain JSON that needs no further checking."""

from __future__ import annotations

from agenthub.values import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Parameter(NamedTuple):
    """One parameter of a method.

    `schema` is JSON Schema with `type` spelt canonically; `kind` is `"file"`, `"directory"` or `"path"` (either)
    for paths, whose schema is a string's, else `"value"`; `access` says whether a path is read or written.
    """

    name: str
    description: str
    required: bool
    has_default: bool
    default: Any
    schema: dict[str, Any]
    kind: str = "value"
    access: str = "read"


class Method(NamedTuple):
    """One method. `returns` is the manifest's own mapping; `timeout` is in seconds."""

    name: str
    description: str
    parameters: dict[str, Parameter]
    returns: dict[str, Any]
    timeout: float | None = None
    stream: bool = False


class Entrypoint(NamedTuple):
    """How a call reaches the agent.

    kind `"script"`: `target` is a Python file that takes the request as its argument; `"command"`: `argv` is any
    program that does; `"python"`: `target` is `module` or `module:Class`, whose callables are the methods.
    """

    kind: str
    target: str = ""
    argv: tuple[str, ...] = ()


class Variable(NamedTuple):
    """An environment variable that the agent wants."""

    name: str
    description: str
    required: bool
    secret: bool


class AgentManifest(NamedTuple):
    """A checked manifest. `python_version` is a PEP 440 specifier set, or empty.

    `dependencies` are requirement strings, the name of a file that lists them, or None where the manifest is silent.
    `permissions` are the manifest's own mapping, or None where it says nothing of them. `commands` are
    `installation.commands`. `extra` keeps the keys that agenthub does not know. `requires` are ranges of versions of
    other agents, by `owner/name`.
    """

    name: str
    version: str
    description: str
    author: str
    license: str
    tags: tuple[str, ...]
    schema_version: str
    python_version: str
    methods: dict[str, Method]
    entrypoint: Entrypoint
    dependencies: tuple[str, ...] | str | None
    commands: tuple[str, ...]
    limits: dict[str, Any]
    permissions: dict[str, Any] | None
    environment: tuple[Variable, ...]
    extra: dict[str, Any]
    requires: dict[str, str] = {}  # noqa: RUF012 - never changed

    def to_compiled(self) -> dict[str, Any]:
        """JSON that `from_compiled` reads back."""
        compiled = self._asdict()
        compiled["methods"] = [
            [*method[:2], [list(parameter) for parameter in method.parameters.values()], *method[3:]]
            for method in self.methods.values()
        ]
        return compiled

    @classmethod
    def from_compiled(cls, compiled: dict[str, Any]) -> AgentManifest:
        """The manifest that `to_compiled` wrote; it was checked then."""
        methods = {}
        for name, description, parameters, *rest in compiled["methods"]:
            by_name = {parameter[0]: Parameter(*parameter) for parameter in parameters}
            methods[name] = Method(name, description, by_name, *rest)
        kind, target, argv = compiled["entrypoint"]
        dependencies = compiled["dependencies"]
        return cls(
            **{
                **compiled,
                "methods": methods,
                "tags": tuple(compiled["tags"]),
                "entrypoint": Entrypoint(kind, target, tuple(argv)),
                "dependencies": tuple(dependencies) if isinstance(dependencies, list) else dependencies,
                "commands": tuple(compiled["commands"]),
                "environment": tuple(Variable(*variable) for variable in compiled["environment"]),
            }
        )
