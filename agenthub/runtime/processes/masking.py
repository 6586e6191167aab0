"""Takes the values of secrets out of what an agent says: its log, its errors, its result.

It guards against accidents: a printed request header, an exception with a URL in it. An agent that wants to give a
secret away can spell it backwards, and no filter of text stops that.
"""

from __future__ import annotations

import binascii
import json
from typing import Any, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SHORTEST = 6
"""Characters that a value needs to be masked: a shorter one would be found in text that has nothing to do with it."""
_SHORTEST_LINE = 12  # of a value of several lines, which a log shows one by one
_TELLING = 12  # characters of a value's beginning that are hidden where the rest has not come yet
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


class _Form(NamedTuple):
    """One spelling of a secret's value."""

    text: str
    name: str

    @property
    def mask(self) -> str:
        return f"[{self.name}]"

    @property
    def telling(self) -> int:
        return min(_TELLING, len(self.text) // 2)

    def begun_at_end_of(self, text: str) -> int:
        """How many characters at the end of `text` are the beginning, but not the whole, of this form."""
        end = text[-(len(self.text) - 1) :]
        start = end.find(self.text[0])
        while start >= 0:
            if self.text.startswith(end[start:]):
                return len(end) - start
            start = end.find(self.text[0], start + 1)
        return 0


class Masker:
    """Replaces values by `[NAME]`, as they are and as base64, URLs, JSON and Python spell them.

    Args:
        values: by name; those shorter than `SHORTEST` are left alone, see `too_short`.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.too_short = sorted(name for name, value in values.items() if len(value) < SHORTEST)
        forms: dict[str, str] = {}
        for name, value in sorted(values.items()):
            if len(value) >= SHORTEST:
                for text in _spellings(value):
                    forms.setdefault(text, name)
        # Longest first: a value that holds another one is masked as itself.
        self._forms = [_Form(text, forms[text]) for text in sorted(forms, key=lambda text: (-len(text), text))]
        self._numeric = any(_is_number(form.text) for form in self._forms)
        self.masked: set[str] = set()
        """Names of the secrets that were found so far."""

    def __repr__(self) -> str:
        return f"Masker({', '.join(sorted({form.name for form in self._forms}))})"

    def __bool__(self) -> bool:
        return bool(self._forms)

    def text(self, text: str) -> str:
        """`text` with every value replaced."""
        for form in self._forms:
            if form.text in text:
                text = text.replace(form.text, form.mask)
                self.masked.add(form.name)
        return text

    def pieces(self) -> Callable[[str], str]:
        """A function that masks a text which comes in pieces, also where a value is cut in two."""
        return _Pieces(self, self._forms)

    def value(self, value: Any) -> Any:
        """A JSON value with all its strings, keys and numbers masked; itself where nothing is found.

        A list of strings counts as one text in pieces, which is what a streamed result is.
        """
        texts = list(_texts(value, self._numeric))
        whole = "\0".join(texts)
        if isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value):
            whole += "\0" + "".join(value)
            if self._is_in(whole):
                return list(map(self.pieces(), value))
            return value
        if not self._is_in(whole):
            return value
        return self._file(value) if _is_file(value) else self._tree(value)

    def outcome(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """What a run came to, masked; `masked` lists the names that were found in it or earlier."""
        clean = dict(outcome)
        for key in ("error", "error_type", "suggestion"):
            if isinstance(clean.get(key), str):
                clean[key] = self._message(clean[key])
        for key in ("details", "warnings"):
            if clean.get(key):
                clean[key] = list(map(self.pieces(), clean[key]))
        if "result" in clean:
            clean["result"] = self.value(clean["result"])
            clean["warnings"] = [*clean.get("warnings", ()), *self._remarks(outcome["result"], clean["result"])]
        if self.masked:
            clean["masked"] = sorted(self.masked)
        return clean

    def lines(self, on_log: Callable[[str, str], None] | None) -> Callable[[str, str], None] | None:
        """`on_log` for lines that are masked first."""
        if on_log is None:
            return None
        mask = self.pieces()
        return lambda line, level: on_log(mask(line), level)

    def chunks(self, on_chunk: Callable[[Any], None] | None) -> Callable[[Any], None] | None:
        """`on_chunk` for chunks that are masked first; strings among them are pieces of one text."""
        if on_chunk is None:
            return None
        mask = self.pieces()
        return lambda chunk: on_chunk(mask(chunk) if isinstance(chunk, str) else self.value(chunk))

    def progress(
        self, on_progress: Callable[[float | None, str], None] | None
    ) -> Callable[[float | None, str], None] | None:
        """`on_progress` for messages that are masked first."""
        if on_progress is None:
            return None
        return lambda fraction, message: on_progress(fraction, self.text(message))

    def _remarks(self, result: Any, clean: Any) -> Iterator[str]:
        if _is_file(clean) and self._is_in(clean["data"]):
            yield "the file holds a secret, which is not masked: it is not text"
        elif clean is not result:
            yield "the result held a secret, which was masked"

    def _is_in(self, text: str) -> bool:
        return any(form.text in text for form in self._forms)

    def _message(self, text: str) -> str:
        """An error's message, in which an agent's words may have been cut short."""
        return "…".join(self._beginning(part) for part in self.text(text).split("…"))

    def _beginning(self, text: str) -> str:
        words = text.rstrip(" '\"")
        for form in self._forms:
            begun = form.begun_at_end_of(words)
            if begun >= form.telling:
                self.masked.add(form.name)
                return words[:-begun] + form.mask + text[len(words) :]
        return text

    def _tree(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._tree(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self._tree(item) for key, item in value.items()}
        if _is_plain_number(value):
            spelt = repr(value)
            clean = self.text(spelt)
            return value if clean == spelt else clean
        return value

    def _file(self, value: dict[str, Any]) -> dict[str, Any]:
        """A file's text, masked. Other files would be spoilt, and stay as they are."""
        others = self._tree({key: item for key, item in value.items() if key != "data"})
        try:
            data = binascii.a2b_base64(value["data"], strict_mode=True)
        except ValueError:  # an agent's own mapping, which only looks like a file
            return {**others, "data": self.text(value["data"])}
        try:
            clean = self.text(data.decode()).encode()
        except UnicodeDecodeError:
            return {**others, "data": value["data"]}
        return {**others, "size": len(clean), "data": binascii.b2a_base64(clean, newline=False).decode()}


class _Pieces:
    """Masks a text in pieces: remembers which values the last piece may have begun."""

    def __init__(self, masker: Masker, forms: list[_Form]) -> None:
        self._masker = masker
        self._forms = forms
        self._begun: list[tuple[_Form, int]] = []

    def __call__(self, piece: str) -> str:
        if not piece:
            return piece
        head, skipped, going_on = self._continued(piece)
        text = head + self._masker.text(piece[skipped:])
        self._begun = going_on
        if going_on and head:
            return text
        hidden: tuple[int, _Form] | None = None
        for form in self._forms:
            begun = form.begun_at_end_of(text)
            if begun:
                self._begun.append((form, begun))
            if begun >= form.telling and (hidden is None or begun > hidden[0]):
                hidden = begun, form
        if hidden is not None:
            self._masker.masked.add(hidden[1].name)
            text = text[: -hidden[0]] + hidden[1].mask
        return text

    def _continued(self, piece: str) -> tuple[str, int, list[tuple[_Form, int]]]:
        """A mask for the piece's beginning if it goes on with a value, how long that is, and what is still open."""
        head, skipped = "", 0
        going_on = []
        for form, seen in self._begun:
            rest = form.text[seen:]
            if piece.startswith(rest):
                if len(rest) > skipped:
                    head, skipped = form.mask, len(rest)
                    self._masker.masked.add(form.name)
            elif rest.startswith(piece):
                going_on.append((form, seen + len(piece)))
                if seen + len(piece) >= form.telling:
                    head, skipped = form.mask, len(piece)
                    self._masker.masked.add(form.name)
        return head, skipped, going_on


def _spellings(value: str) -> Iterator[str]:
    """The ways in which programs write a value, each at least `SHORTEST` long."""
    data = value.encode("utf-8", "surrogateescape")
    yield value
    for line in value.splitlines():
        line = line.strip()
        if len(line) >= _SHORTEST_LINE and not line.startswith("-----"):  # a PEM file's frame is no secret
            yield line
    for spelt in (json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)):
        yield spelt[1:-1]
    yield value.replace("/", "\\/")  # as some writers of JSON do
    for kept in (b"", b"/", b"!'()*"):
        percent = "".join(chr(byte) if byte in _UNRESERVED or byte in kept else f"%{byte:02X}" for byte in data)
        yield percent
        yield "".join(chr(byte) if byte in _UNRESERVED or byte in kept else f"%{byte:02x}" for byte in data)
        yield percent.replace("%20", "+")
    for spelt in _base64(data):
        yield spelt
        yield spelt.replace("+", "-").replace("/", "_")


def _base64(data: bytes) -> Iterator[str]:
    """Base64 of `data` alone, and what is the same whatever stands around it, at each of three offsets."""
    yield binascii.b2a_base64(data, newline=False).decode()
    for offset, start in enumerate((0, 2, 3)):
        whole = binascii.b2a_base64(b"\0" * offset + data, newline=False).decode()
        core = whole[start : (offset + len(data)) * 8 // 6]
        if len(core) >= SHORTEST:
            yield core


def _texts(value: Any, numbers: bool) -> Iterator[str]:
    """All texts in a JSON value, in no particular order; without recursion, and without copying them."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif numbers and _is_plain_number(item):
            yield repr(item)


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("encoding") == "base64"
        and "file" in value
        and isinstance(value.get("data"), str)
    )
