"""Make up inputs of a model from its signature alone, until one is found that it answers: small numbers, ones, axes, lengths.

The values are the same for the same signature, so that a release that is published again has the same golden inputs. They repeat, so that
the file that every node fetches is small.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.core.publish.release import DTYPES
from schemas.limits import MIB
from schemas.manifest import Tensor

Array = NDArray[Any]
ROWS, ROWS_BYTES_MAX = 4, MIB  # Rows that are tried together, where they are not large.
TILE = 1021  # Values before they repeat: a prime, so that rows and columns differ.
SEED = 20_131
WORDS = ("a", "b", "one", "two")
INPUT_BYTES_MAX = 8 * MIB  # An input that is larger is not tried: every node fetches golden inputs.
# Lengths of free axes, the rows' and the others', in the order in which they are tried: images need more than 8.
LENGTHS = ((ROWS, 4), (ROWS, 3), (1, 1), (2, 2), (1, 4), (ROWS, 8), (ROWS, 1), (1, 16), (1, 32), (1, 64), (1, 128), (1, 224))
FLOATS = ("small", "positive", "ones")
INTEGERS = ("few", "ones", "zeros", "order", "last", "twos", "free", "parts")
TRIES_OF_LENGTHS_MAX = 64  # Ways to fill the inputs, for each choice of lengths.


@dataclass(frozen=True, slots=True)
class Input:
    """Describe an input: `axes` are the names of its free axes, and "" for one without a name or with a length."""

    tensor: Tensor
    axes: tuple[str, ...]


def tries(inputs: Sequence[Input]) -> Iterator[dict[str, Array]]:
    """Yield inputs by name, the likeliest first."""
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for rows, other in LENGTHS:
        shapes = _shapes(inputs, rows, other)
        if tuple(shapes) in seen or any(_bytes(one.tensor, shape) > INPUT_BYTES_MAX for one, shape in zip(inputs, shapes, strict=True)):
            continue
        seen.add(tuple(shapes))
        large = sum(_bytes(one.tensor, shape) for one, shape in zip(inputs, shapes, strict=True)) > ROWS_BYTES_MAX
        if large and rows > 1 and any(one.tensor.shape[:1] == (-1,) for one in inputs):
            continue
        longest = max((length for shape in shapes for length in shape), default=1)
        for ways in islice(_ways(inputs), TRIES_OF_LENGTHS_MAX):
            yield {
                one.tensor.name: filled(one.tensor.datatype, shape, way, SEED + number, longest=longest)
                for number, (one, shape, way) in enumerate(zip(inputs, shapes, ways, strict=True))
            }


def _shapes(inputs: Sequence[Input], rows: int, other: int) -> list[tuple[int, ...]]:
    """Return a shape for each input; axes of one name have one length, and the first free axis of an input is its rows."""
    named: dict[str, int] = {}
    for one in inputs:
        if one.tensor.shape[:1] == (-1,) and one.axes[0]:
            named[one.axes[0]] = rows
    found = []
    for one in inputs:
        lengths = [
            length if length >= 0 else named.get(axis, rows if at == 0 and not axis else other)
            for at, (length, axis) in enumerate(zip(one.tensor.shape, one.axes, strict=True))
        ]
        found.append(tuple(lengths))
    return found


def _ways(inputs: Sequence[Input]) -> Iterator[tuple[str, ...]]:
    """Yield how to fill each input: all alike first, then each in its own way."""
    kinds = [FLOATS if DTYPES[one.tensor.datatype].kind == "f" else INTEGERS for one in inputs]
    alike = list(dict.fromkeys(tuple(kind[min(at, len(kind) - 1)] for kind in kinds) for at in range(len(INTEGERS))))
    yield from alike
    yield from (ways for ways in product(*kinds) if ways not in alike)


def filled(datatype: str, shape: Sequence[int], way: str, seed: int, *, longest: int = 1) -> Array:
    """Return an array of a shape, filled in one of the ways; `longest` is the longest axis of all inputs."""
    count = int(np.prod(shape, dtype=np.int64))
    dtype = DTYPES[datatype]
    rng = np.random.default_rng(seed)
    match dtype.kind:
        case "f":
            low = {"small": -1.0, "positive": 0.1}.get(way, 1.0)
            values = np.round(rng.uniform(low, 1.0, TILE), 3)
        case "O":
            values = np.array({"few": WORDS, "ones": ("1", "2"), "zeros": ("",)}.get(way, ("1",)), object)
        case _:
            values = np.array([longest // max(1, count)]) if way == "parts" else _integers(way, count, rng)
            if dtype.kind in "ub":
                values = np.abs(values)
    return np.resize(values, count).astype(dtype).reshape(shape)


def _integers(way: str, count: int, rng: np.random.Generator) -> Array:
    match way:
        case "few":
            return rng.integers(0, 2, TILE)
        case "order":
            return np.arange(max(1, min(count, TILE)))  # A permutation of axes, or positions.
        case "free":
            return np.array([-1, *[1] * (max(1, min(count, TILE)) - 1)])  # A shape whose first axis follows from the others.
        case _:
            return np.array([{"ones": 1, "zeros": 0, "last": -1, "twos": 2}[way]])


def _bytes(tensor: Tensor, shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size * (DTYPES[tensor.datatype].itemsize if tensor.datatype != "BYTES" else 8)


def answered(outputs: Mapping[str, Array]) -> bool:
    """Return whether these are answers to prove a device with: some values, and all numbers finite."""
    return any(one.size for one in outputs.values()) and all(
        np.isfinite(one).all() for one in outputs.values() if one.dtype.kind == "f" and one.size
    )
