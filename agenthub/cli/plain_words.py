"""Words that leave no doubt, read without argparse, the import of which takes a start several milliseconds.

The definitions are argparse's own, and so is the meaning. Whatever is not plain is left to argparse: help, complaints,
short options in one word, values that begin with a dash.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Definition = tuple[tuple[str, ...], dict[str, Any]]
    """Names of an option, and the keywords that `add_argument` takes with them."""


def read_plain(words: Sequence[str], definitions: Iterable[Definition]) -> tuple[dict[str, Any], list[str]] | None:
    """The values of options by their `dest`, and the words that are neither option nor value.

    Returns:
        None where it is argparse's to say: for a word or a value that is not plain.
    """
    options = {name: definition for names, definition in definitions for name in names}
    found: dict[str, Any] = {}
    others: list[str] = []
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        if not _is_option(word):
            others.append(word)
            continue
        name, equals, given = word.partition("=")
        definition = options.get(name)
        if definition is None or (equals and not (given and name.startswith("--"))):
            return None
        if not equals and _takes_value(definition) and waiting and not _is_option(waiting[-1]):
            given = waiting.pop()
        if not _keep(found, definition, given):
            return None
    return found, others


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _takes_value(definition: dict[str, Any]) -> bool:
    return definition.get("action", "store") in ("store", "append")


def _keep(found: dict[str, Any], definition: dict[str, Any], given: str) -> bool:
    """Adds a value; False where it is none for this option."""
    value: Any = given
    if not _takes_value(definition):
        if given:
            return False
        value = definition.get("const", True)
    elif not given:
        if definition.get("nargs") != "?":
            return False
        value = definition["const"]
    if value not in definition.get("choices", (value,)):
        return False
    dest = definition["dest"]
    if "append" in definition.get("action", ""):
        found.setdefault(dest, []).append(value)
    else:
        found[dest] = value
    return True
