"""Checks an agent's directory before anyone installs it: manifest, entry point, methods against the code.

The code is parsed and not run.
"""

from __future__ import annotations

import ast
import os
import shutil
from typing import NamedTuple

from agenthub.errors import AgentNotFoundError, AgentRuntimeError, InvalidManifestError, nearest
from agenthub.manifest.reader import examine
from agenthub.runtime.runs.permissions import asked_permissions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agenthub.manifest import AgentManifest, Method
    from agenthub.runtime.agent_runtime import AgentRuntime
    from agenthub.runtime.runs.locator import LocatedAgent

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """`severity` is `"error"` or `"warning"`; `where` is a file, with a line where there is one."""

    severity: str
    where: str
    message: str


class Validation(NamedTuple):
    """`manifest` is None where it has errors."""

    manifest: AgentManifest | None
    findings: list[Finding]

    @property
    def valid(self) -> bool:
        """Whether there are no errors."""
        return all(finding.severity != "error" for finding in self.findings)


def validate_agent(directory: str) -> Validation:
    """Everything that is wrong or doubtful about an agent, as far as it can be told without running it.

    Raises:
        AgentNotFoundError: there is no such directory.
    """
    if not os.path.isdir(directory):
        raise AgentNotFoundError(f"there is no directory {directory}")
    try:
        reading = examine(directory)
    except InvalidManifestError as error:
        where, _, message = error.message.partition(": ")
        if not message:
            where, message = "agent.yaml", error.message
        return Validation(None, [Finding("error", os.path.relpath(where, directory), message)])
    name = os.path.basename(reading.path)
    findings = [
        Finding(problem.severity, f"{name}:{problem.line}", f"{problem.key}: {problem.message}".removeprefix(": "))
        for problem in reading.problems
    ]
    if reading.manifest is not None:
        findings += _code_findings(directory, reading.manifest)
    return Validation(reading.manifest, findings)


def _code_findings(directory: str, manifest: AgentManifest) -> Iterator[Finding]:
    try:
        asked_permissions(manifest)
    except InvalidManifestError as error:
        yield Finding("error", "agent.yaml", error.message.removeprefix(f"{manifest.name}: "))
    entrypoint = manifest.entrypoint
    for name, method in manifest.methods.items():
        if method.stream and entrypoint.kind != "python":
            message = f"interface.methods.{name}.stream: by the script contract a result comes whole, at the end"
            yield Finding("warning", "agent.yaml", message)
    if entrypoint.kind == "command":
        yield from _command_findings(directory, entrypoint.argv)
    elif entrypoint.kind == "script":
        yield from _script_findings(directory, entrypoint.target, manifest)
    else:
        yield from _python_findings(directory, entrypoint.target, manifest)


def _command_findings(directory: str, argv: tuple[str, ...]) -> Iterator[Finding]:
    program = argv[0]
    if "/" in program:
        path = os.path.join(directory, program)
        if not os.path.isfile(path):
            yield Finding("error", "agent.yaml", f"entrypoint: there is no program {program} in the agent's directory")
        elif not os.access(path, os.X_OK):
            yield Finding("error", program, "is not executable: chmod +x")
    elif shutil.which(program) is None and not program.startswith("python"):
        yield Finding("warning", "agent.yaml", f"entrypoint: '{program}' is not installed on this machine")
    for argument in argv[1:]:
        if argument.endswith((".js", ".mjs", ".py", ".rb", ".sh")) and not os.path.exists(
            os.path.join(directory, argument)
        ):
            yield Finding("error", "agent.yaml", f"entrypoint: there is no file {argument} in the agent's directory")


def _script_findings(directory: str, script: str, manifest: AgentManifest) -> Iterator[Finding]:
    path = os.path.join(directory, script)
    if not os.path.isfile(path):
        hint = "; or name another program under entrypoint" if script == "agent.py" else ""
        yield Finding("error", "agent.yaml", f"there is no {script}, which the script contract starts{hint}")
        return
    tree, finding = _parsed(path, script)
    if tree is None:
        yield finding
        return
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {node.name for node in ast.walk(tree) if isinstance(node, _Function)}
    for name in manifest.methods:
        if name not in words | names:
            yield Finding("warning", script, f"does not seem to know the method {name}: its name does not occur")


def _python_findings(directory: str, target: str, manifest: AgentManifest) -> Iterator[Finding]:
    module, _, class_name = target.partition(":")
    relative = _module_file(directory, module)
    if relative is None:
        yield Finding("error", "agent.yaml", f"entrypoint: there is no module {module} in the agent's directory")
        return
    tree, finding = _parsed(os.path.join(directory, relative), relative)
    if tree is None:
        yield finding
        return
    body, complete = tree.body, not _imports_everything(tree)
    if class_name:
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        if class_name not in classes:
            if complete and class_name not in _bound_names(tree):
                near = nearest(class_name, classes)
                hint = f"; did you mean '{near}'?" if near else ""
                yield Finding("error", relative, f"has no class {class_name}, which the entrypoint names{hint}")
            return
        found = classes[class_name]
        body, complete = found.body, not (found.bases or found.keywords or found.decorator_list)
    functions = {node.name: node for node in body if isinstance(node, _Function)}
    known = functions.keys() | _bound_names(ast.Module(body, []))
    for name, method in manifest.methods.items():
        if name in functions:
            yield from _signature_findings(relative, functions[name], method, bound=bool(class_name))
        elif complete and name not in known:
            near = nearest(name, [word for word in functions if not word.startswith("_")])
            hint = f"; did you mean '{near}'?" if near else ""
            yield Finding("error", relative, f"has no method {name}, which the manifest offers{hint}")


def _module_file(directory: str, module: str) -> str | None:
    path = module.replace(".", "/")
    for relative in (f"{path}.py", f"{path}/__init__.py", f"src/{path}.py", f"src/{path}/__init__.py"):
        if os.path.isfile(os.path.join(directory, relative)):
            return relative
    return None


def _parsed(path: str, shown: str) -> tuple[ast.Module | None, Finding]:
    try:
        with open(path, "rb") as file:
            return ast.parse(file.read(), shown), Finding("", "", "")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        return None, Finding("error", f"{shown}:{line}" if line else shown, f"is not valid Python: {error.args[0]}")
    except OSError as error:
        return None, Finding("error", shown, f"cannot be read: {error.strerror}")
    except RecursionError:
        return None, Finding("error", shown, "is nested too deep to be checked")


def _imports_everything(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body)


def _bound_names(tree: ast.Module) -> set[str]:
    """Names that a body binds otherwise than by def: imports and assignments, whose signatures are not looked for."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _signature_findings(where: str, function: _Function, method: Method, *, bound: bool) -> Iterator[Finding]:
    if function.decorator_list:  # which may change what the function takes
        if not all(
            isinstance(node, ast.Name) and node.id in ("staticmethod", "classmethod")
            for node in function.decorator_list
        ):
            return
        bound = bound and "staticmethod" not in [getattr(node, "id", "") for node in function.decorator_list]
    place, arguments = f"{where}:{function.lineno}", function.args
    positional = [argument.arg for argument in arguments.args][1 if bound else 0 :]
    with_default = positional[len(positional) - len(arguments.defaults) :] if arguments.defaults else []
    keyword_only = {
        argument.arg: default is not None
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }
    accepted = [*positional, *keyword_only]
    if arguments.kwarg is None:
        for name in method.parameters:
            if name not in accepted:
                near = nearest(name, accepted)
                hint = f"; did you mean '{near}'?" if near else ""
                yield Finding("error", place, f"{method.name} does not take the parameter {name}{hint}")
    for name in accepted:
        if name in with_default or keyword_only.get(name):
            continue
        parameter = method.parameters.get(name)
        if parameter is None:
            yield Finding("error", place, f"{method.name} needs {name}, which the manifest does not declare")
        elif not parameter.required and not parameter.has_default:
            yield Finding(
                "error", place, f"{method.name} needs {name}, which the manifest leaves optional without a default"
            )


def validate_loaded(runtime: AgentRuntime, agent: LocatedAgent) -> list[Finding]:
    """Compares a manifest with the agent as it is when its entry point is imported in its environment.

    Only the method contract has something to compare; a script is not started.
    """
    if agent.manifest.entrypoint.kind != "python":
        return []
    where = agent.manifest.entrypoint.target
    try:
        described = runtime.describe_code(agent)
    except AgentRuntimeError as error:
        return [Finding("error", where, error.message)]
    missing = [name for name in agent.manifest.methods if name not in described]
    return [Finding("error", where, f"has no method {name}, which the manifest offers") for name in missing]
