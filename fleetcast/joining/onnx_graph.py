"""Read of an ONNX file what says how its operators are wired: nodes, constants, inputs and outputs. Knows bytes, not files.

A device has no library for this format, and needs none: a file is a protobuf message, of which a few fields are wanted. What does not
follow the format, or is larger than any model that a node should look through, is refused.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

FIELDS_MAX: Final = 300_000  # Fields of a file, all that are walked: about a third of a second on a small device
ITEMS_MAX: Final = 64  # values of a constant that are read: shapes, axes and paddings have no more
NAME_BYTES_MAX: Final = 4096

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_GRAPH, _OPSET, _FUNCTION = 7, 8, 25  # onnx.proto: ModelProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # GraphProto
_NODE_INPUT, _NODE_OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # NodeProto
_NAME, _INT, _TENSOR, _FLOATS, _INTS = 1, 3, 5, 7, 8  # AttributeProto
_DIMS, _DATA_TYPE, _FLOAT_DATA, _INT64_DATA, _TENSOR_NAME, _RAW_DATA = 1, 2, 4, 7, 8, 9  # TensorProto
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_INT32_DATA, _EXTERNAL = 5, 13

Item = int | float | None


class Unreadable(ValueError):
    """Signal that the bytes are no graph that can be looked through."""


class Span(NamedTuple):
    """Hold a message's or a text's bytes."""

    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class Constant:
    """Hold a tensor that stands in the file: its shape, and its values where they are few whole numbers or floats."""

    shape: tuple[int, ...]
    items: tuple[Item, ...] | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """Hold one operator: `domain` is empty for ONNX's own. An input that is left out has an empty name."""

    domain: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Span, ...]


@dataclass(slots=True)
class Graph:
    """Hold the nodes in the order in which they are run, the constants and the shapes of the inputs (-1 is a free axis) by name."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    opset: int = 0


class Reader:
    """Read one file's bytes."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._left = FIELDS_MAX

    def graph(self) -> Graph:
        """Return the graph.

        Raises:
            Unreadable: no ONNX file, one with functions of its own, or one that is too large to look through.
        """
        graphs, found = [], Graph()
        for number, value in self._fields(Span(0, len(self._view))):
            if number == _FUNCTION:
                raise Unreadable("functions of its own")
            if number == _GRAPH:
                graphs.append(_span(value))
            elif number == _OPSET:
                fields = dict(self._fields(_span(value)))
                if self._text(fields.get(1, Span(0, 0))) in {"", "ai.onnx"}:
                    found.opset = _number(fields.get(2, 0))
        if len(graphs) != 1:
            raise Unreadable("no graph, or more than one")
        inputs: list[Span] = []
        for number, value in self._fields(graphs[0]):
            if number == _NODE:
                found.nodes.append(self._node(_span(value)))
            elif number == _INITIALIZER:
                name, constant = self._tensor(_span(value))
                found.constants[name] = constant
            elif number == _INPUT:
                inputs.append(_span(value))
            elif number == _OUTPUT:
                found.outputs.append(self._text(dict(self._fields(_span(value))).get(1, Span(0, 0))))
        for span in inputs:  # behind the constants: old files list them among the inputs too
            name, shape = self._value_info(span)
            if name not in found.constants:
                found.inputs[name] = shape
        return found

    def attributes(self, node: Node) -> dict[str, tuple[Item, ...] | Constant]:
        """Return a node's attributes that are whole numbers or tensors; of others only that they are there.

        Raises:
            Unreadable: as `graph`.
        """
        found: dict[str, tuple[Item, ...] | Constant] = {}
        for span in node.attributes:
            name, items, tensor = "", [], None
            for number, value in self._fields(span):
                if number == _NAME:
                    name = self._text(_span(value))
                elif number == _TENSOR:
                    tensor = self._tensor(_span(value))[1]
                elif number in {_INT, _INTS}:
                    items += [_signed(value)] if isinstance(value, int) else self._packed(value)
                elif number == _FLOATS:
                    raise Unreadable(f"attribute {name!r} is of floats")
            found[name] = tensor if tensor is not None else tuple(items)
        return found

    def _node(self, span: Span) -> Node:
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[Span] = []
        op = domain = ""
        for number, value in self._fields(span):
            if number == _NODE_INPUT:
                inputs.append(self._text(_span(value)))
            elif number == _NODE_OUTPUT:
                outputs.append(self._text(_span(value)))
            elif number == _OP_TYPE:
                op = self._text(_span(value))
            elif number == _DOMAIN:
                domain = self._text(_span(value))
            elif number == _ATTRIBUTE:
                attributes.append(_span(value))
        return Node("" if domain == "ai.onnx" else domain, op, tuple(inputs), tuple(outputs), tuple(attributes))

    def _tensor(self, span: Span) -> tuple[str, Constant]:
        name, dims, kind, external = "", [], 0, False
        data: list[tuple[int, Span | int | float]] = []
        for number, value in self._fields(span):
            if number == _TENSOR_NAME:
                name = self._text(_span(value))
            elif number == _DIMS:
                dims += [_signed(value)] if isinstance(value, int) else self._packed(value)
            elif number == _DATA_TYPE:
                kind = _number(value)
            elif number in {_FLOAT_DATA, _INT32_DATA, _INT64_DATA, _RAW_DATA}:
                data.append((number, value))
            elif number == _EXTERNAL:
                external = True
        count = 1
        for axis in dims:
            count *= axis
        items = None if external or not 0 <= count <= ITEMS_MAX or len(data) > 1 else self._items(kind, count, data)
        return name, Constant(tuple(dims), items)

    def _items(self, kind: int, count: int, data: list[tuple[int, Span | int | float]]) -> tuple[Item, ...] | None:
        if count == 0:
            return ()
        if not data or not isinstance(data[0][1], Span):
            return None
        number, span = data[0]
        assert isinstance(span, Span)  # noqa: S101  # as above
        form = {(_FLOAT, _RAW_DATA): "f", (_FLOAT, _FLOAT_DATA): "f", (_INT64, _RAW_DATA): "q"}.get((kind, number))
        if form is not None:
            return (
                tuple(struct.unpack_from(f"<{count}{form}", self._view, span.begin))
                if span.length == count * struct.calcsize(form)
                else None
            )
        if (kind, number) == (_INT64, _INT64_DATA):
            return tuple(self._packed(span))
        return None

    def _value_info(self, span: Span) -> tuple[str, tuple[int, ...]]:
        """Return a graph's input or output: its name and shape."""
        fields = dict(self._fields(span))
        name = self._text(fields.get(1, Span(0, 0)))
        try:
            kind = dict(self._fields(_span(fields[2])))
            shape = _span(dict(self._fields(_span(kind[1])))[2])
        except KeyError:
            raise Unreadable(f"tensor {name!r} has no shape") from None
        axes = [dict(self._fields(_span(axis))) for number, axis in self._fields(shape) if number == 1]
        return name, tuple(_number(axis[1]) if axis.get(1) else -1 for axis in axes)

    def _packed(self, value: Span | int | float) -> list[int]:
        at, end = _span(value).begin, sum(_span(value))
        found: list[int] = []
        while at < end:
            if len(found) >= ITEMS_MAX:
                raise Unreadable("a long list")
            number, at = self._varint(at, end)
            found.append(_signed(number))
        return found

    def _fields(self, message: Span) -> Iterator[tuple[int, Span | int | float]]:
        at, end = message.begin, message.begin + message.length
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Unreadable(f"more than {FIELDS_MAX} fields")
            key, at = self._varint(at, end)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, at = self._varint(at, end)
                yield number, value
            elif kind == _LENGTH:
                size, at = self._varint(at, end)
                if size > end - at:
                    raise Unreadable("cut short")
                yield number, Span(at, size)
                at += size
            elif kind in {_FIXED32, _FIXED64}:
                size = 4 if kind == _FIXED32 else 8
                if size > end - at:
                    raise Unreadable("cut short")
                yield number, float(struct.unpack_from("<f" if size == 4 else "<d", self._view, at)[0])
                at += size
            else:
                raise Unreadable("no protobuf message")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):  # at most ten bytes
            if at >= end:
                raise Unreadable("cut short")
            byte = self._view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise Unreadable("no protobuf message")

    def _text(self, value: Span | int | float) -> str:
        span = _span(value)
        if span.length > NAME_BYTES_MAX:
            raise Unreadable("a long name")
        return bytes(self._view[span.begin : span.begin + span.length]).decode("utf-8", "replace")


def _span(value: Span | int | float) -> Span:
    if not isinstance(value, Span):
        raise Unreadable("a number in place of a message")
    return value


def _number(value: Span | int | float) -> int:
    if not isinstance(value, int):
        raise Unreadable("a message in place of a number")
    return _signed(value)


def _signed(value: int) -> int:
    """Return a varint as the 64 bits that it stands for."""
    return value - 2**64 if value >= 2**63 else value
