"""Describe what is known of a tensor while a graph is walked: whether its first axis are the rows, or what it is for any rows. Knows no
operator.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fleetcast.joining.onnx_graph import Constant, Node, Reader

Item = int | float | None | Literal["rows"]  # An element of a small constant; "rows" is how many rows there are, None is not known
Attributes = Mapping[str, tuple[int | float | None, ...] | Constant]


@dataclass(frozen=True, slots=True)
class Rows:
    """Hold a tensor whose first axis are the rows; `behind_one`: the second, behind an axis of 1. `fixed`: its other axes never change."""

    rank: int
    fixed: bool
    behind_one: bool = False


@dataclass(frozen=True, slots=True)
class Same:
    """Hold a tensor that is the same whatever stands in the rows; None is what is not known of it. `counts`: it depends on how many they
    are.
    """

    shape: tuple[int, ...] | None = None
    items: tuple[Item, ...] | None = None
    counts: bool = False


Value = Rows | Same


class Mixes(Exception):
    """Signal that rows may see each other here."""


class Call:
    """Hold one operator with what it is given."""

    def __init__(self, node: Node, inputs: Sequence[Value | None], reader: Reader, opset: int) -> None:
        self.node, self.inputs, self.opset = node, inputs, opset
        self._reader = reader
        self._attributes: Attributes | None = None

    @property
    def attributes(self) -> Attributes:
        """Return its attributes, read when the first is asked for: those of a forest are long."""
        if self._attributes is None:
            self._attributes = self._reader.attributes(self.node)
        return self._attributes

    def number(self, name: str, default: int) -> int:
        """Return an attribute that is one whole number."""
        return whole((self.attributes.get(name, (default,)),))[0] if name in self.attributes else default

    def numbers(self, name: str, at: int | None = None) -> tuple[int, ...] | None:
        """Return an attribute, or the input at a place, that is a list of whole numbers; None where it is absent."""
        if name in self.attributes:
            return whole((self.attributes[name],))
        if at is None or self.value(at) is None:
            return None
        same = self.same(at)
        if same.items is None or not all(isinstance(one, int) for one in same.items):
            raise Mixes
        return tuple(one for one in same.items if isinstance(one, int))

    def value(self, at: int) -> Value | None:
        """Return the input at a place; None where it is left out."""
        return self.inputs[at] if at < len(self.inputs) else None

    def rows(self, at: int = 0, *, rank_min: int = 1) -> Rows:
        """Return the input at a place, which has to have rows."""
        value = self.value(at)
        if not isinstance(value, Rows) or value.behind_one or value.rank < rank_min:
            raise Mixes
        return value

    def same(self, at: int) -> Same:
        """Return the input at a place, which has to be the same whatever the rows are and however many."""
        value = self.value(at)
        if not isinstance(value, Same) or value.counts:
            raise Mixes
        return value

    def only_same(self, begin: int) -> None:
        """Check whether all inputs from a place on are the same whatever the rows are."""
        for at in range(begin, len(self.inputs)):
            if self.inputs[at] is not None:
                self.same(at)

    @property
    def all_same(self) -> bool:
        """Return whether nothing that it is given has rows."""
        return not any(isinstance(one, Rows) for one in self.inputs)

    @property
    def counts(self) -> bool:
        """Return whether something that it is given depends on how many rows there are."""
        return any(isinstance(one, Same) and one.counts for one in self.inputs)


Rule = Callable[[Call], list[Value]]


def whole(found: tuple[tuple[int | float | None, ...] | Constant, ...]) -> tuple[int, ...]:
    """Return whole numbers, and nothing else."""
    (value,) = found
    items = value.items if isinstance(value, Constant) else value
    if items is None or not all(isinstance(one, int) for one in items):
        raise Mixes
    return tuple(one for one in items if isinstance(one, int))


def place(axis: int, rank: int) -> int:
    """Return an axis, counted from the first; it must not be the rows'."""
    place = axis + rank if axis < 0 else axis
    if not 0 < place < rank:
        raise Mixes
    return place


def with_rows(values: Sequence[Value | None]) -> list[Rows]:
    """Return those that have rows."""
    return [one for one in values if isinstance(one, Rows)]


def beside(same: Same, rank: int) -> None:
    """Check whether a constant meets each row alike when it is broadcast over a tensor of this rank with rows."""
    if same.counts or same.shape is None or len(same.shape) > rank or (len(same.shape) == rank and same.shape[0] != 1):
        raise Mixes


def unknown(call: Call) -> list[Value]:
    """Return outputs that have no rows, and of which nothing more is known."""
    return [Same(counts=call.counts)] * len(call.node.outputs)


def items_of(call: Call, at: int) -> tuple[Item, ...]:
    """Return what is known of the elements of a small input without rows."""
    value = call.value(at)
    if not isinstance(value, Same) or value.items is None:
        raise Mixes
    return value.items
