"""Decide which arithmetic operators keep rows apart, and when: each rule is given one, and says what comes out of it or raises `Mixes`."""

from fleetcast.joining.row_values import Call, Mixes, Rows, Same, Value, beside, place, unknown, with_rows


def elementwise(call: Call) -> list[Value]:
    """Work element by element, smaller tensors broadcast over larger ones."""
    rowed = with_rows(call.inputs)
    if not rowed:
        return _alike(call)
    if rowed[0].behind_one and len(call.inputs) == 1:
        return [rowed[0]] * len(call.node.outputs)
    rank = max(one.rank for one in rowed)
    for one in call.inputs:
        if isinstance(one, Same):
            beside(one, rank)
    if any(one.rank != rank or one.behind_one for one in rowed):
        raise Mixes
    return [Rows(rank, all(one.fixed for one in rowed))] * len(call.node.outputs)


def _alike(call: Call) -> list[Value]:
    """Give the same for constants."""
    first = call.value(0)
    if call.node.op in {"Cast", "Identity"} and isinstance(first, Same):
        return [first]
    shape: tuple[int, ...] | None = ()
    for one in call.inputs:
        if isinstance(one, Same):
            shape = None if shape is None or one.shape is None else _broadcast(shape, one.shape)
    return [Same(shape, counts=call.counts)] * len(call.node.outputs)


def _broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(len(one), len(other))
    padded = ((1,) * (rank - len(shape)) + shape for shape in (one, other))
    return tuple(b if a == 1 else a for a, b in zip(*padded, strict=True))


def quantised(call: Call) -> list[Value]:
    """Quantise by a scale that the model carries."""
    call.only_same(1)
    first = call.value(0)
    if not isinstance(first, Rows):
        return [Same(first.shape if first else None, counts=call.counts)]
    if call.number("block_size", 0) or first.behind_one:
        raise Mixes
    scale = call.same(1).shape
    if scale is None or len(scale) > 1:
        raise Mixes
    if scale not in {(), (1,)}:
        place(call.number("axis", 1), first.rank)
    return [first]


def by_channel(call: Call) -> list[Value]:
    """Compute each row by weights that the model carries: convolutions, pooling, norms of a picture."""
    if call.all_same:
        return unknown(call)
    rows = call.rows(rank_min=2)
    call.only_same(1)
    if len(call.node.outputs) > 1:  # places in the whole tensor, or statistics of all rows
        raise Mixes
    return [rows]


def batch_norm(call: Call) -> list[Value]:
    """Scale by statistics that the model carries, not by those of the rows at hand."""
    if call.number("training_mode", 0) or call.opset < 7:
        raise Mixes
    return by_channel(call)


def dropout(call: Call) -> list[Value]:
    """Drop nothing, as outside of training."""
    if len(call.inputs) > 2:  # as in training
        raise Mixes
    first = call.value(0)
    return [first, Same()] if first is not None else []


def along(call: Call) -> list[Value]:
    """Work along one axis, by default the last."""
    if call.all_same:
        return unknown(call)
    rows = call.rows()
    place(call.number("axis", -1), rows.rank)
    for one in call.inputs[1:]:
        if one is not None:
            if not isinstance(one, Same):
                raise Mixes
            beside(one, rows.rank)
    if len(call.node.outputs) > 1:
        raise Mixes
    return [rows]


def cumulated(call: Call) -> list[Value]:
    """Sum up along an axis that is not the rows'."""
    rows = call.rows()
    for axis in call.numbers("", 1) or (0,):
        place(axis, rows.rank)
    return [rows]


def matmul(call: Call, left: int = 0, right: int = 1) -> list[Value]:
    """Multiply each row, or each row's matrices, by what the model carries or by the row's own."""
    a, b = call.value(left), call.value(right)
    if isinstance(a, Rows) and isinstance(b, Rows):
        if a.behind_one or b.behind_one or a.rank != b.rank or a.rank < 3:
            raise Mixes
        return [Rows(a.rank, a.fixed and b.fixed)]
    if isinstance(a, Rows) and isinstance(b, Same):
        if a.behind_one or a.rank < 2 or b.counts or b.shape is None or not b.shape or len(b.shape) > a.rank:
            raise Mixes
        if len(b.shape) == a.rank > 2 and b.shape[0] != 1:
            raise Mixes
        return [Rows(a.rank - (len(b.shape) == 1), a.fixed)]
    if isinstance(a, Same) and isinstance(b, Rows):
        if b.behind_one or b.rank < 3 or a.counts or a.shape is None or len(a.shape) < 2 or len(a.shape) > b.rank:
            raise Mixes
        if len(a.shape) == b.rank and a.shape[0] != 1:
            raise Mixes
        return [Rows(b.rank, b.fixed)]
    return unknown(call)


def _scalar(call: Call, *places: int) -> None:
    for at in places:
        if call.value(at) is not None and call.same(at).shape not in {(), (1,)}:
            raise Mixes


def matmul_integer(call: Call) -> list[Value]:
    """Multiply whole numbers whose zero points the model carries."""
    call.only_same(2)
    _scalar(call, 2)  # the left side's zero point may have one a row
    return matmul(call)


def qlinear_matmul(call: Call) -> list[Value]:
    """Multiply quantised numbers whose scales the model carries."""
    for at in (1, 2, 4, 5, 6, 7):
        call.same(at)
    _scalar(call, 1, 2, 6, 7)
    return matmul(call, 0, 3)


def gemm(call: Call) -> list[Value]:
    """Multiply each row by weights, and add what is the same for every row."""
    if call.all_same:
        return unknown(call)
    rows = call.rows(rank_min=2)
    call.same(1)
    added = call.value(2)
    if call.number("transA", 0) or (isinstance(added, Rows) and (added.rank != 2 or added.behind_one)):
        raise Mixes
    if isinstance(added, Same):
        beside(added, 2)
    return [Rows(2, rows.fixed)]


def reduced(call: Call) -> list[Value]:
    """Reduce over axes that are stated, and are not the rows'."""
    if call.all_same:
        return unknown(call)
    rows = call.rows()
    axes = call.numbers("axes", 1)
    if not axes:  # over all of them
        raise Mixes
    places = {place(axis, rows.rank) for axis in axes}
    return [Rows(rows.rank - (0 if call.number("keepdims", 1) else len(places)), rows.fixed)]


def best(call: Call) -> list[Value]:
    """Find the place of the largest or smallest along an axis that is not the rows'."""
    rows = call.rows()
    place(call.number("axis", 0), rows.rank)
    return [Rows(rows.rank - (0 if call.number("keepdims", 1) else 1), rows.fixed)]


def top(call: Call) -> list[Value]:
    """Find the largest along an axis that is not the rows'."""
    rows = call.rows()
    call.only_same(1)
    place(call.number("axis", -1), rows.rank)
    return [rows, rows]


def hot(call: Call) -> list[Value]:
    """Mark a place along a new axis, which is not the first."""
    rows = call.rows()
    call.only_same(1)
    place(call.number("axis", -1), rows.rank + 1)
    return [Rows(rows.rank + 1, rows.fixed)]


# ai.onnx.ml: a tensor of one axis is one row there, so that two are needed.


def table(call: Call) -> list[Value]:
    """Turn [rows, columns] into the same or into scores."""
    rows = call.rows(rank_min=2)
    if rows.rank != 2:
        raise Mixes
    return [rows]


def classified(call: Call) -> list[Value]:
    """Give a label and scores for each row."""
    (rows,) = table(call)
    assert isinstance(rows, Rows)  # noqa: S101  # by what table gives
    return [Rows(1, rows.fixed), rows]


def columns(call: Call) -> list[Value]:
    """Put tables side by side."""
    rows = [call.rows(at, rank_min=2) for at in range(len(call.inputs))]
    if any(one.rank != 2 for one in rows):
        raise Mixes
    return [Rows(2, all(one.fixed for one in rows))]


def extracted(call: Call) -> list[Value]:
    """Take some columns of each row; or what is at the places that rows name, which comes behind an axis of 1."""
    data, places = call.value(0), call.value(1)
    if isinstance(data, Rows):
        call.only_same(1)
        return [call.rows(0, rank_min=2)]
    if not isinstance(data, Same) or not isinstance(places, Rows) or data.counts or data.shape is None or not places.fixed:
        raise Mixes
    if len(data.shape) != 1 and (len(data.shape) != 2 or data.shape[0] != 1):
        raise Mixes
    return [Rows(2, places.fixed, behind_one=True)]


def encoded(call: Call) -> list[Value]:
    """Add a last axis that marks the category."""
    rows = call.rows()
    return [Rows(rows.rank + 1, rows.fixed)]


def mapped(call: Call) -> list[Value]:
    """Map each element by a table that the model carries."""
    first = call.value(0)
    return [first if isinstance(first, Rows) else Same(counts=call.counts)]
