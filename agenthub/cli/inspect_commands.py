"""`agenthub info`, `list` and `dir`."""

from __future__ import annotations

import argparse
import os

from agenthub.cli.output import printable_values
from agenthub.config import Settings, format_size
from agenthub.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agenthub.cli.output import Output

_WIDTH = 80


def configure_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def list_(arguments: argparse.Namespace, output: Output) -> int:
    """One line an agent."""
    agents = Store.here(Settings().paths).list_agents()
    if arguments.json:
        output.json({"agents": [entry._asdict() for entry in agents]})
        return 0
    if not agents:
        output.note("no agents are installed        next: agenthub install ./DIRECTORY")
        return 0
    labels = [f"{entry.owner}/{entry.name}" for entry in agents]
    names, versions = max(map(len, labels)), max(len(entry.version) for entry in agents)
    room = max(_WIDTH - names - versions - 4, 20)
    lines = []
    for label, entry in zip(labels, agents, strict=True):
        text = f"broken: {entry.problem}" if entry.problem else entry.description
        text = f"(project) {text}" if entry.project else text
        lines.append(f"{label.ljust(names)}  {entry.version.ljust(versions)}  {_shortened(text, room)}".rstrip())
    output.result("\n".join(lines))
    return 0


def configure_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", nargs="?", metavar="AGENT", help="whose directory; without: the root of everything")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def dir_(arguments: argparse.Namespace, output: Output) -> int:
    """Where an agent is on disk."""
    settings = Settings()
    path = settings.paths.home
    if arguments.agent:
        from agenthub.runtime.runs.locator import locate

        path = locate(Store.here(settings.paths), arguments.agent).directory
    if arguments.json:
        output.json({"path": path})
    else:
        output.result(path)
    return 0


def configure_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="AGENT", help="owner/name, name, or ./DIRECTORY")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def info(arguments: argparse.Namespace, output: Output) -> int:
    """What a person needs to decide about an agent, and to call it."""
    from agenthub.runtime.agent_runtime import AgentRuntime

    runtime = AgentRuntime()
    described = runtime.get_agent_info(arguments.agent)
    if arguments.json:
        output.json(described)
    else:
        output.page("\n".join(render_info(printable_values(described), output, os.path.expanduser("~"))))
    return 0


def render_info(info: dict[str, Any], output: Output, home: str) -> list[str]:
    """The page that `info` shows, as lines."""
    label = f"{info['owner']}/{info['name']}" if info["owner"] else info["name"]
    lines = [f"{output.style(label, 'bold')} {info['version']}     {_shortened(info['description'], 400)}"]
    lines += _field("author", " · ".join(filter(None, [info["author"], info["license"], ", ".join(info["tags"])])))
    lines += _source_lines(info, home)
    lines += permission_lines(info)
    lines += _field("limits", limits_text(info["limits"]))
    if info["cold"]:
        lines += _field("starts", f"cold at each run: {info['cold']}")
    for variable in info["variables"]:
        lines += _field("variable", _variable_text(variable))
    lines.append("")
    for name, method in info["methods"].items():
        lines += _method_lines(name, method, output)
    return lines


def _field(name: str, text: str) -> list[str]:
    if not text:
        return []
    import textwrap

    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{name:<9}",
        subsequent_indent=" " * 9,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _source_lines(info: dict[str, Any], home: str) -> list[str]:
    if not info["installed"]:
        return _field("source", f"not installed · {info['path']}")
    source, size = info["source"], info["size"]
    origin = f"{source['kind']} {source['location']}".replace(home, "~")
    if source.get("index"):
        origin += f" of {source['index']}".replace(home, "~")
    if info["commit"]:
        origin += f" at {info['commit'][:12]}"
    facts = [origin, f"installed {info['installed_at'][:10]}"]
    lines = _field("source", " · ".join(facts)) + _field("digest", info["digest"][:19])
    lines += _field("signed", _signed_text(info["provenance"]))
    lines += _field("versions", _versions_text(info))
    lines += _field("needs", ", ".join(f"{agent} {text or '*'}" for agent, text in info["requires"].items()))
    facts = []
    if info["interpreter"]:
        facts.append(f"Python {info['interpreter']['version']}")
    count = len(info["dependencies"])
    facts.append("1 package" if count == 1 else f"{count} packages")
    facts.append(f"{format_size(size['code'] + size['environment'])}")
    lines += _field("runs on", " · ".join(facts))
    return lines + _field("packages", ", ".join(f"{one['name']} {one['version']}" for one in info["dependencies"]))


def _versions_text(info: dict[str, Any]) -> str:
    """The other versions of it that are installed, and whether it stays this one."""
    others = ", ".join(each["version"] for each in info["versions"] if each["path"] != info["path"])
    parts = [f"also {others}" if others else "", "pinned" if info["pinned"] else ""]
    return " · ".join(filter(None, parts))


def _signed_text(provenance: dict[str, Any]) -> str:
    """Who vouches for it; nothing for what comes from where nobody can."""
    if provenance["signers"]:
        names = [f"{one['key']} ({one['issuer']})" if one["issuer"] else one["key"] for one in provenance["signers"]]
        first = ", trusted since its first use" if provenance["trust"] == "first use" else ""
        return f"by {', '.join(names)}{first}"
    if provenance["kind"] != "index":
        return ""
    return "no" if provenance["trust"] == "unsigned" else f"no: {provenance['trust']}"


def permission_lines(info: dict[str, Any]) -> list[str]:
    """What an agent may and may not do, and what holds it to that here."""
    permissions, isolation = info["permissions"], info["isolation"]
    lines = _field("may", "; ".join(permissions["may"]))
    lines += _field("may not", "; ".join(permissions["may_not"]))
    return lines + _field("held by", held_text(isolation, permissions["silent"]))


def held_text(isolation: dict[str, str], silent: bool) -> str:
    """What holds an agent on this machine, in a line."""
    tier = isolation["tier"]
    if tier == "rlimits":
        return f"nothing but limits: it runs with your rights ({isolation['reason']})"
    declares = "; it declares no permissions, and has the profile of older agents" if silent else ""
    return f"{tier}{declares}"


def limits_text(limits: dict[str, Any]) -> str:
    """`30 s · 1 GB · 64 processes`."""
    parts = []
    if limits["timeout"]:
        parts.append(f"{limits['timeout']:g} s")
    if limits["memory"]:
        parts.append(f"{format_size(limits['memory'])} of memory")
    if limits["cpu"]:
        parts.append(f"{limits['cpu']:g} s of CPU")
    if limits["processes"]:
        parts.append(f"{limits['processes']} processes")
    if limits["open_files"]:
        parts.append(f"{limits['open_files']} open files")
    parts.append(f"{format_size(limits['output'])} of output")
    for key, what in (("disk", "on disk"), ("file_size", "in a file")):
        if limits[key]:
            parts.append(f"{format_size(limits[key])} {what}")
    return " · ".join(parts)


def _variable_text(variable: dict[str, Any]) -> str:
    state = "set" if variable["set"] else "not set"
    need = "required" if variable["required"] else "optional"
    grant = "agenthub grant AGENT environment " + variable["name"]
    passed = "" if variable["passed"] else f", not passed on: {grant}"
    description = f": {variable['description']}" if variable["description"] else ""
    return f"{variable['name']} ({need}, {state}{passed}){description}"


def _method_lines(name: str, method: dict[str, Any], output: Output) -> list[str]:
    import textwrap

    returned = method["returns"].get("media_type") or method["returns"].get("type")
    arrow = f" → {returned}" if returned else ""
    lines = [f"{output.style(name, 'bold')}{arrow}"]
    lines += textwrap.wrap(method["description"], _WIDTH - 4, initial_indent="    ", subsequent_indent="    ")
    for key, parameter in method["parameters"].items():
        kind = parameter["type"] if isinstance(parameter["type"], str) else "|".join(parameter["type"])
        extra = "required" if parameter["required"] else ""
        if "default" in parameter:
            import json

            extra = f"default {json.dumps(parameter['default'], ensure_ascii=False)}"
        if "enum" in parameter:
            extra = "; ".join(filter(None, [extra, "one of " + ", ".join(map(str, parameter["enum"]))]))
        head = f"    {'--' + key.replace('_', '-'):<18} {kind:<9} "
        text = parameter["description"] + (f" ({extra})" if extra else "")
        lines += textwrap.wrap(text or " ", _WIDTH, initial_indent=head, subsequent_indent=" " * 33) or [head.rstrip()]
    return [*lines, f"    {output.style(method['example'], 'dim')}", ""]


def _shortened(text: str, room: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= room else text[: room - 1] + "…"
