"""`NamedTuple` and `Protocol` of `typing` for what every command imports: importing `typing` and having `collections`
compile each class's constructor takes a start 8 ms, and these take less than one.

A type checker sees those of `typing`.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NamedTuple, Protocol, Self

    __all__ = ["NamedTuple", "Protocol"]
else:

    class Protocol:
        """What is said of a value's shape is for a type checker alone."""

    class _Fields(type):
        """Makes the annotated names of a class the names of a tuple's items."""

        def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            items = {field: property(itemgetter(position)) for position, field in enumerate(fields)}
            about = {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields, "__slots__": ()}
            return super().__new__(mcs, name, bases, {**namespace, **items, **about})

    class NamedTuple(tuple, metaclass=_Fields):
        """A tuple whose items have names, as `typing.NamedTuple` makes one, with the same methods."""

        def __new__(cls, *values: Any, **named: Any) -> Self:
            if named or len(values) != len(cls._fields):
                values = cls._complete(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _complete(cls, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            given = dict(zip(cls._fields, values, strict=False))
            complete = {**cls._field_defaults, **given, **named}
            if len(values) > len(cls._fields) or given.keys() & named or complete.keys() != set(cls._fields):
                raise TypeError(f"{cls.__name__} has the fields {', '.join(cls._fields)}; each is wanted once")
            return tuple([complete[field] for field in cls._fields])

        @classmethod
        def _make(cls, values: Iterable[Any]) -> Self:
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__} has {len(cls._fields)} fields, and got {len(made)}")
            return made

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes: Any) -> Self:
            return type(self)(**{**self._asdict(), **changes})

        def __repr__(self) -> str:
            fields = ", ".join(f"{field}={value!r}" for field, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)
