"""Decide which operators that cut, join and shape tensors keep rows apart, and when: the same as in row_arithmetic."""

from fleetcast.joining.onnx_graph import Constant
from fleetcast.joining.row_values import Call, Item, Mixes, Rows, Same, Value, items_of, place, unknown


def joined(call: Call) -> list[Value]:
    """Join side by side, never below each other; or constants, such as the parts of a shape."""
    if call.all_same:
        items: list[Item] = []
        for one in call.inputs:
            if not isinstance(one, Same) or one.items is None or one.shape is None or len(one.shape) != 1:
                return unknown(call)
            items += one.items
        return [Same((len(items),), tuple(items), call.counts)]
    rows = [call.rows(at) for at in range(len(call.inputs))]
    if len({one.rank for one in rows}) != 1:
        raise Mixes
    place(call.number("axis", 0), rows[0].rank)
    return [Rows(rows[0].rank, all(one.fixed for one in rows))]


def split(call: Call) -> list[Value]:
    """Split along an axis that is not the rows'."""
    if call.all_same:
        return unknown(call)
    rows = call.rows()
    call.only_same(1)
    place(call.number("axis", 0), rows.rank)
    return [rows] * len(call.node.outputs)


def gather(call: Call) -> list[Value]:
    """Look rows up in a table of the model, or take the same columns of each row."""
    data, indices = call.value(0), call.value(1)
    axis = call.number("axis", 0)
    if isinstance(data, Same) and isinstance(indices, Same):
        if data.items is not None and indices.items is not None and axis == 0 and len(data.shape or ()) == 1:
            places = [one for one in indices.items if isinstance(one, int)]
            found = tuple(data.items[place] for place in places)
            return [Same(indices.shape, found, "rows" in found)]
        return unknown(call)
    if isinstance(data, Same):
        indexed = call.rows(1)
        if data.counts or not data.shape or axis not in {0, -len(data.shape)}:
            raise Mixes
        return [Rows(indexed.rank + len(data.shape) - 1, indexed.fixed)]
    rows, same = call.rows(0), call.same(1)
    if same.shape is None:
        raise Mixes
    place(axis, rows.rank)
    return [Rows(rows.rank - 1 + len(same.shape), rows.fixed)]


def gather_elements(call: Call) -> list[Value]:
    """Pick by each row's own places."""
    data, indices = call.rows(0), call.rows(1)
    place(call.number("axis", 0), data.rank)
    if data.rank != indices.rank:
        raise Mixes
    return [Rows(data.rank, data.fixed and indices.fixed)]


def sliced(call: Call) -> list[Value]:
    """Cut along axes that are stated, and are not the rows'."""
    if call.all_same:
        return unknown(call)
    rows = call.rows()
    call.only_same(1)
    axes = call.numbers("axes", 3)
    if not axes:  # all, from the first
        raise Mixes
    for axis in axes:
        place(axis, rows.rank)
    return [rows]


def squeezed(call: Call) -> list[Value]:
    """Leave out axes that are stated, and are not the rows'."""
    first = call.value(0)
    if isinstance(first, Same):
        return [Same(None, first.items, first.counts)]
    rows, axes = call.rows(), call.numbers("axes", 1)
    if not axes:
        raise Mixes
    return [Rows(rows.rank - len({place(axis, rows.rank) for axis in axes}), rows.fixed)]


def unsqueezed(call: Call) -> list[Value]:
    """Add axes behind the rows'."""
    first, axes = call.value(0), call.numbers("axes", 1)
    if isinstance(first, Same):
        scalar = first.items is not None and first.shape == () and axes == (0,)
        return [Same((1,) if scalar else None, first.items, first.counts)]
    rows = call.rows()
    if not axes:
        raise Mixes
    rank = rows.rank + len(axes)
    for axis in axes:
        place(axis, rank)
    return [Rows(rank, rows.fixed)]


def flattened(call: Call) -> list[Value]:
    """Flatten each row."""
    if call.all_same:
        return unknown(call)
    rows = call.rows()
    axis = call.number("axis", 1)
    if (axis + rows.rank if axis < 0 else axis) != 1:
        raise Mixes
    return [Rows(2, rows.fixed)]


def reshaped(call: Call) -> list[Value]:
    """Shape each row anew; the first axis stays the rows, or parts of them in order."""
    first, target = call.value(0), call.value(1)
    items: tuple[Item, ...] | None
    if "shape" in call.attributes:  # before opset 5
        items = call.numbers("shape")
    elif isinstance(target, Same):
        items = target.items
    else:
        raise Mixes
    if isinstance(first, Same):
        whole = items is not None and all(isinstance(one, int) and one > 0 for one in items)
        shape = tuple(one for one in items or () if isinstance(one, int)) if whole else None
        return [Same(shape, first.items, call.counts)]
    if not isinstance(first, Rows) or not items:
        raise Mixes
    rest = items[1:]
    if first.behind_one:  # [1, rows] as [rows] or [rows, 1]
        kept = items[0] in {-1, "rows"} and all(one == 1 for one in rest)
    elif items[0] == -1:  # whole rows, or parts of one row: that one row is answered alone shows that its values suffice
        kept = first.fixed and all(isinstance(one, int) and one > 0 for one in rest)
    else:
        kept = items[0] == "rows" or (items[0] == 0 and not call.number("allowzero", 0))
    if not kept:
        raise Mixes
    return [Rows(len(items), first.fixed)]


def transposed(call: Call) -> list[Value]:
    """Swap axes behind the rows'."""
    first, order = call.value(0), call.numbers("perm")
    if isinstance(first, Same):
        shape = None if first.shape is None else tuple(first.shape[at] for at in order) if order else first.shape[::-1]
        return [Same(shape, counts=first.counts)]
    if isinstance(first, Rows) and first.behind_one and first.rank == 2 and order in {None, (1, 0)}:
        return [Rows(2, first.fixed)]
    rows = call.rows()
    if rows.rank > 1 and (order is None or order[0] != 0):
        raise Mixes
    return [rows]


def expanded(call: Call) -> list[Value]:
    """Repeat each row's values, or give each row the same constant."""
    first = call.value(0)
    target = call.value(1)
    if isinstance(first, Same) and isinstance(target, Same) and not target.counts:
        return unknown(call)
    items = items_of(call, 1)
    if isinstance(first, Same):
        if first.counts or items[0] != "rows" or first.shape is None or len(first.shape) > len(items):
            raise Mixes
        if len(first.shape) == len(items) and first.shape[0] != 1:
            raise Mixes
        return [Rows(len(items), fixed=False)]
    rows = call.rows()
    if len(items) > rows.rank or (len(items) == rows.rank and items[0] not in {1, "rows"}):
        raise Mixes
    return [Rows(rows.rank, fixed=False)]


def filled(call: Call) -> list[Value]:
    """Fill a shape with a constant, as the first state of each row."""
    items = items_of(call, 0)
    if items and items[0] == "rows":
        return [Rows(len(items), fixed=False)]
    whole = all(isinstance(one, int) for one in items)
    return [Same(tuple(one for one in items if isinstance(one, int)) if whole else None, counts=call.counts)]


def padded(call: Call) -> list[Value]:
    """Pad along axes that are not the rows'."""
    rows, pads = call.rows(), call.numbers("pads", 1)
    call.only_same(2)
    if pads is None or len(pads) != 2 * rows.rank or call.value(3) is not None or pads[0] or pads[rows.rank]:
        raise Mixes
    return [rows]


def repeated(call: Call) -> list[Value]:
    """Repeat along axes that are not the rows'."""
    rows = call.rows()
    if items_of(call, 1)[:1] != (1,):
        raise Mixes
    return [rows]


def resized(call: Call) -> list[Value]:
    """Resize by factors, or to sizes; the rows stay as many."""
    rows = call.rows()
    scales, sizes = (2, 3) if call.node.op == "Resize" and call.opset > 10 else (1, 4)
    if axes := call.numbers("axes"):
        for axis in axes:
            place(axis, rows.rank)
        call.only_same(1)
    elif call.value(sizes) is not None:
        if items_of(call, sizes)[:1] != ("rows",):
            raise Mixes
    elif items_of(call, scales)[:1] != (1.0,):
        raise Mixes
    return [Rows(rows.rank, fixed=False)]


def shape(call: Call) -> list[Value]:
    """Return a tensor's shape, of which only the first axis depends on the request's rows."""
    first = call.value(0)
    if call.node.attributes:
        raise Mixes
    if isinstance(first, Same):
        return [Same(None if first.shape is None else (len(first.shape),), first.shape, first.counts)]
    rows = call.rows()
    return [Same((rows.rank,), ("rows", *[None] * (rows.rank - 1)), counts=True)]


def constant(call: Call) -> list[Value]:
    """Return what is in the file."""
    for name, value in call.attributes.items():
        if isinstance(value, Constant):
            return [Same(value.shape, value.items)]
        if name in {"value_int", "value_float", "value_string"}:
            return [Same((), value or None)]
        if name == "value_ints":
            return [Same((len(value),), value)]
    return [Same()]
