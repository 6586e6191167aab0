"""The JSON Schema of `agent.yaml`: what `reader` checks against, and what is published for editors.

`docs/reference/agent.schema.json` is generated from here (`python -m agenthub.manifest.schema`); a test keeps it
current.
"""

from __future__ import annotations

from typing import Any

# The spellings of types that existing agents use, and JSON Schema's name for each. `file` and `directory` are paths.
TYPE_NAMES = {
    "string": "string",
    "str": "string",
    "text": "string",
    "integer": "integer",
    "int": "integer",
    "number": "number",
    "float": "number",
    "boolean": "boolean",
    "bool": "boolean",
    "array": "array",
    "list": "array",
    "object": "object",
    "dict": "object",
    "null": "null",
    "file": "string",
    "directory": "string",
}

_STRING = {"type": "string"}
_TEXT = {"type": "string", "minLength": 1}
_STRINGS = {"type": "array", "items": _TEXT}
_PATHS = {"type": "array", "items": {"type": "string", "pattern": "^(/|~/|~$)"}, "examples": [["~/notes"]]}
_SIZE = {"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["256MB"]}
_DURATION = {"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["30s", 30]}
_VARIABLE = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}
_VARIABLES = {
    "anyOf": [
        {"type": "object", "propertyNames": _VARIABLE, "additionalProperties": {"type": ["string", "null"]}},
        {"type": "array", "items": _VARIABLE},
    ],
    "examples": [{"OPENAI_API_KEY": "key of the endpoint"}],
}

PARAMETER: dict[str, Any] = {
    "type": "object",
    "description": "one parameter; any JSON Schema keyword may stand here too",
    "properties": {
        "type": {
            "anyOf": [
                {"type": "string", "enum": list(TYPE_NAMES)},
                {"type": "array", "items": {"type": "string", "enum": list(TYPE_NAMES)}, "minItems": 1},
            ],
            "description": "default: string; file and directory are paths, made absolute before the run",
            "examples": ["string"],
        },
        "description": {"type": "string", "description": "what a caller should put there"},
        "required": {
            "anyOf": [{"type": "boolean"}, _STRINGS],
            "description": "whether a call must give it (default: false)",
            "examples": [True],
        },
        "default": {"description": "used where a call does not give it"},
        "access": {"type": "string", "enum": ["read", "write"], "description": "of a path: default read"},
    },
}

METHOD: dict[str, Any] = {
    "type": "object",
    "required": ["description"],
    "properties": {
        "description": {**_STRING, "description": "what it does, in a line", "examples": ["Summarise a text"]},
        "parameters": {"type": ["object", "null"], "additionalProperties": PARAMETER, "description": "by name"},
        "returns": {
            "type": ["object", "null"],
            "description": "the result; type file: the path of a file that the method wrote",
            "examples": [{"type": "string"}],
        },
        "timeout": {**_DURATION, "description": "deadline of this method"},
        "stream": {"type": "boolean", "description": "whether it yields its result in pieces"},
    },
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "agent.yaml",
    "description": "The manifest of an agent that agenthub installs and runs",
    "type": "object",
    "required": ["name", "version", "description", "author", "interface"],
    "properties": {
        "name": {
            "type": "string",
            "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$",
            "description": "letters, digits, '.', '_' and '-'",
            "examples": ["data-analyst"],
        },
        "version": {
            "type": "string",
            "pattern": "^[0-9A-Za-z]([0-9A-Za-z._+!-]{0,62}[0-9A-Za-z])?$",
            "description": "in quotes, or YAML reads 1.10 as the number 1.1",
            "examples": ["1.2.0"],
        },
        "description": {
            **_STRING,
            "description": "what the agent is for, in a line",
            "examples": ["Reviews Python code"],
        },
        "author": {**_STRING, "description": "who made it", "examples": ["Ada Lovelace"]},
        "license": {**_STRING, "examples": ["MIT"]},
        "tags": {"type": "array", "items": _STRING, "examples": [["text", "llm"]]},
        "schema_version": {"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["1"]},
        "python_version": {
            "type": "string",
            "description": "PEP 440 range; '3.11+' means >=3.11",
            "examples": [">=3.11"],
        },
        "interface": {
            "type": "object",
            "required": ["methods"],
            "description": "what can be called",
            "properties": {
                "methods": {
                    "type": "object",
                    "description": "at least one, by name",
                    "examples": [{"greet": {"description": "Greets by name"}}],
                    "propertyNames": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]*$"},
                    "additionalProperties": METHOD,
                }
            },
        },
        "entrypoint": {
            "anyOf": [
                {"type": "string", "pattern": r"^[A-Za-z_][\w./-]*(:[A-Za-z_]\w*)?$"},
                {
                    "type": "object",
                    "required": ["command"],
                    "properties": {"command": {**_STRINGS, "minItems": 1}},
                    "additionalProperties": False,
                },
            ],
            "description": "absent: agent.py by the script contract; module[:Class]; {command: [...]}: any program",
            "examples": ["agent:DataAnalyst", {"command": ["node", "agent.js"]}],
        },
        "dependencies": {
            "anyOf": [_STRINGS, {"type": "string", "enum": ["pyproject.toml", "requirements.txt", "uv.lock"]}],
            "description": "requirements, or the file that lists them",
            "examples": [["requests>=2.31"]],
        },
        "installation": {
            "type": ["object", "null"],
            "properties": {"commands": {"type": "array", "items": _TEXT, "examples": [["make tables"]]}},
            "description": "commands run only where nothing declarative describes the environment, and with consent",
        },
        "requires": {
            "type": ["object", "null"],
            "propertyNames": {
                "type": "string",
                "pattern": "^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9_-])?/[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9_-])?$",
            },
            "additionalProperties": _STRING,
            "description": "other agents that it needs, by owner/name, each with a version or a range; '*': any",
            "examples": [{"acme/fetcher": ">=1,<2"}],
        },
        "limits": {
            "type": "object",
            "properties": {
                "timeout": {**_DURATION, "description": "wall clock of a run"},
                "memory": {**_SIZE, "description": "of the whole process tree"},
                "cpu": {**_DURATION, "description": "CPU time of the whole process tree"},
                "processes": {"type": "integer", "minimum": 1, "examples": [64]},
                "output": {**_SIZE, "description": "stdout and stderr together"},
                "disk": {**_SIZE, "description": "what its scratch directory may hold"},
                "open_files": {"type": "integer", "minimum": 16, "description": "descriptors of each process"},
                "file_size": {**_SIZE, "description": "of each file that it writes"},
            },
            "additionalProperties": False,
        },
        "permissions": {
            "type": "object",
            "description": "what the agent asks for; what is not asked for is denied",
            "properties": {
                "network": {
                    "anyOf": [_STRINGS, {"type": "boolean"}],
                    "description": "hosts, each with a port where it is neither 80 nor 443; true: any, false: none",
                    "examples": [["api.example.com"]],
                },
                "read": {**_PATHS, "description": "paths that it reads, beside those given as inputs"},
                "write": {**_PATHS, "description": "paths that it reads and writes, beside its scratch directory"},
                "environment": {"type": "array", "items": _VARIABLE, "examples": [["LANG"]]},
                "run": {
                    "anyOf": [_STRINGS, {"type": "boolean"}],
                    "description": "installed programs that it starts; true: any",
                    "examples": [["git"]],
                },
                "isolation": {
                    "type": "string",
                    "enum": ["bubblewrap", "landlock"],
                    "description": "the weakest sandbox that it may run in without the user's consent",
                },
                "tools": _STRINGS,
                "agents": _STRINGS,
            },
        },
        "environment": {
            "type": "object",
            "description": "environment variables, with what each is for; a name under secret and optional is both",
            "properties": {
                "required": {**_VARIABLES, "description": "a run is refused without them"},
                "optional": {**_VARIABLES, "description": "passed on where they are set"},
                "secret": {**_VARIABLES, "description": "required, and never shown"},
            },
            "additionalProperties": False,
        },
        "builtin_tools": {"description": "read and kept, as existing agents have it"},
    },
}


def rendered() -> str:
    """The published form."""
    import json

    return json.dumps(SCHEMA, indent=2) + "\n"


if __name__ == "__main__":
    print(rendered(), end="")
