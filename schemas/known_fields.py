"""Separate what this program knows of a document from what a newer one added, and find the minor version that a document's fields need.

Both walk plain values beside the document's own definition: maps, rows (a NamedTuple is a list on the wire) and what they hold.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from schemas.document import Document, Since


class Entry(NamedTuple):
    """Describe a field or a row's entry: the minor version that added it, and what it holds, if that has fields of its own."""

    minor: int
    holds: "Shape | None"


@dataclass(frozen=True, slots=True)
class Fields:
    """Describe a map with known keys, by their names on the wire."""

    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Row:
    """Describe a list whose positions have meanings; new ones are added at its end."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Each:
    """Describe a list or map of any length whose values have a shape."""

    holds: "Shape"


Shape = Fields | Row | Each


@lru_cache(maxsize=128)
def shape_of(kind: type[Document]) -> Fields:
    """Return a document's shape on the wire."""
    return _fields(kind)


def known(shape: Shape | None, value: Any) -> Any:
    """Return `value` without the fields and trailing entries that `shape` does not have, at any depth.

    A value of another type than the shape's is returned as it is: validation refuses it.
    """
    if isinstance(value, dict):
        if isinstance(shape, Fields):
            return {key: known(shape.entries[key].holds, item) for key, item in value.items() if key in shape.entries}
        if isinstance(shape, Each):
            return {key: known(shape.holds, item) for key, item in value.items()}
    if isinstance(value, tuple):
        if isinstance(shape, Row):
            return tuple(known(entry.holds, item) for entry, item in zip(shape.entries, value, strict=False))
        if isinstance(shape, Each):
            return tuple(known(shape.holds, item) for item in value)
    return value


def minor_of(shape: Shape | None, value: Any) -> int:
    """Return the oldest minor version that has every field that `value` holds; a field without a value is absent."""
    if isinstance(value, dict):
        if isinstance(shape, Fields):
            return _newest((shape.entries[key], item) for key, item in value.items())
        if isinstance(shape, Each):
            return max((minor_of(shape.holds, item) for item in value.values()), default=0)
    if isinstance(value, (list, tuple)):
        if isinstance(shape, Row):
            return _newest(zip(shape.entries, value, strict=False))
        if isinstance(shape, Each):
            return max((minor_of(shape.holds, item) for item in value), default=0)
    return 0


def _newest(present: Iterable[tuple[Entry, Any]]) -> int:
    return max((max(entry.minor, minor_of(entry.holds, item)) for entry, item in present if item is not None), default=0)


def _fields(kind: type[BaseModel]) -> Fields:
    return Fields(
        {
            field.alias or name: Entry(_minor(field.metadata), _shape(field.annotation))
            for name, field in kind.model_fields.items()
        }
    )  # fmt: skip


def _shape(annotation: Any) -> Shape | None:
    """Return the shape of an annotation's values; None if they have no fields, at any depth."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0])
    if origin in (Union, types.UnionType):
        shapes = [shape for shape in map(_shape, arguments) if shape is not None]
        if len(shapes) > 1:
            raise TypeError(f"{annotation}: which of them a newer program wrote could not be told")
        return shapes[0] if shapes else None
    if origin is tuple and arguments[1:] != (...,):
        return Row(tuple(Entry(0, _shape(one)) for one in arguments))
    if origin in (tuple, dict):
        holds = _shape(arguments[0] if origin is tuple else arguments[1])
        return Each(holds) if holds is not None else None
    return _shape_of_class(annotation) if isinstance(annotation, type) else None


def _shape_of_class(kind: type) -> Shape | None:
    if issubclass(kind, BaseModel):
        return _fields(kind)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = get_type_hints(kind, include_extras=True)
        return Row(tuple(Entry(_minor(getattr(hints[name], "__metadata__", ())), _shape(hints[name])) for name in kind._fields))
    return None


def _minor(metadata: Iterable[object]) -> int:
    return next((one.minor for one in metadata if isinstance(one, Since)), 0)
