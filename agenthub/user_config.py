"""Changes of the user's file of settings, which leave its other lines as they are."""

from __future__ import annotations

import os

from agenthub.config import Settings, check_setting_name
from agenthub.errors import InvalidInputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def check_setting(name: str, text: str, where: str) -> None:
    """Whether a setting may have this value.

    Raises:
        InvalidInputError: there is no such setting, or it may not.
    """
    setting = check_setting_name(name, where)
    Settings({setting.name: text}, environ={}).lookup(setting.name)
    if not text.isprintable():
        raise InvalidInputError(f"{where}: the value of {name} has control characters")


def change_settings(path: str, values: Mapping[str, str | None]) -> None:
    """Writes settings to the file at `path`, or removes those whose value is None, in one step.

    Raises:
        InvalidInputError: it cannot be written; it is as it was.
    """
    lines = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            lines = [line for line in file.read().splitlines() if line.partition("=")[0].strip() not in values]
    for name, text in values.items():
        if text is not None:
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{name} = "{escaped}"')
    partial = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(partial, "w", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
        os.replace(partial, path)
    except OSError as error:
        from contextlib import suppress

        with suppress(OSError):
            os.unlink(partial)
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
