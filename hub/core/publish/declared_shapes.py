"""Compare the shapes that a model declares with those that it takes and gives, since nodes refuse what differs."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from schemas.manifest import Tensor

Shape = tuple[int, ...]
Answers = Mapping[str, NDArray[Any]]


def fits(declared: Shape, found: Shape) -> bool:
    """Return whether an array of this shape is what is declared; -1 is any length."""
    return len(declared) == len(found) and all(want in (-1, have) for want, have in zip(declared, found, strict=True))


def untrue(tensors: Sequence[Tensor], runs: Sequence[Answers]) -> dict[str, tuple[Shape, Shape]]:
    """Return, for each tensor that is declared otherwise than it is in these runs, the shape that is true and the first that differs."""
    found = {}
    for tensor in tensors:
        shapes = [tuple(run[tensor.name].shape) for run in runs if tensor.name in run]
        differing = next((shape for shape in shapes if not fits(tensor.shape, shape)), None)
        if differing is not None:
            found[tensor.name] = (mended(tensor.shape, shapes), differing)
    return found


def mended(declared: Shape, shapes: Sequence[Shape]) -> Shape:
    """Return the declared shape with every axis free that was found otherwise; of another rank, with every axis free that varies.

    The first axis of another rank is free as well: a model seldom gives as many rows for any number of them.
    """
    first = shapes[0]
    if len(declared) != len(first) or any(len(shape) != len(first) for shape in shapes):
        return tuple(length if at and all(shape[at : at + 1] == (length,) for shape in shapes) else -1 for at, length in enumerate(first))
    return tuple(want if all(shape[at] == want for shape in shapes) else -1 for at, want in enumerate(declared))
