"""Bins, reference counts, and how much ordinary days differ: all that a manifest carries of the publisher's reference data.

Real days differ from each other without anything being wrong. So the reference comes in blocks (days, shifts, batches), and each signal
carries the covariance between blocks of its mean scores; without it every real day would be an alarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hub.core.scores import reference_shares, scores_of
from hub.core.spread import autocorrelation, between_blocks
from schemas.limits import CATEGORIES_MAX
from schemas.manifest import Baseline, Signal

Floats = NDArray[np.float64]

BINS = 8  # the noise term scales with them


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """Which values of a model's input or output to watch."""

    name: str
    kind: Literal["numeric", "categorical"]
    side: Literal["input", "output"]
    tensor: str
    column: int = 0


def build_baseline(values: Sequence[tuple[SignalSpec, NDArray[Any]]], blocks: NDArray[Any] | None, *, bins: int = BINS) -> Baseline:
    """The baseline of reference values, one array [rows] a signal; `blocks` [rows] says which day or batch a row is from."""
    rows = len(values[0][1])
    keys = None
    if blocks is not None:
        _, keys = np.unique(blocks, return_inverse=True)
    built = [_signal(spec, np.asarray(column), keys, bins) for spec, column in values]
    signals = tuple(signal for signal, _ in built)
    means = [one for _, one in built if one is not None]
    if keys is None or not means:
        return Baseline(rows=rows, blocks=1 if keys is None else int(keys.max()) + 1, signals=signals)
    sizes = np.bincount(keys).astype(np.float64)
    return Baseline(rows=rows, blocks=len(sizes), autocorrelation=round(autocorrelation(means, sizes), 4), signals=signals)


def _signal(spec: SignalSpec, column: NDArray[Any], keys: NDArray[np.intp] | None, bins: int) -> tuple[Signal, Floats | None]:
    """A signal, and its blocks' mean scores [blocks, scores] where there are blocks."""
    edges: tuple[float, ...] = ()
    categories: tuple[float | str, ...] = ()
    if spec.kind == "numeric":
        numbers = column.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        # The edges are public and of the publisher's data: quantiles, so that a bin holds enough rows to say nothing of one.
        quantiles = np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1], method="lower") if len(finite) else np.zeros(1)
        edges = tuple(float(edge) for edge in np.unique(quantiles))
        count = len(edges) + 1
        flat = np.where(np.isfinite(numbers), np.searchsorted(edges, numbers, side="right"), count)
    else:
        texts = [value.decode() if isinstance(value, bytes) else value for value in column.tolist()]
        plain = [value if isinstance(value, str) else float(value) for value in texts]
        distinct = sorted(set(plain), key=lambda value: (-plain.count(value), str(value)))[:CATEGORIES_MAX]
        categories = tuple(distinct)
        count = len(categories)
        number = {category: at for at, category in enumerate(categories)}
        flat = np.array([number.get(value, count) for value in plain], np.intp)
    counts = np.bincount(flat, minlength=count + 1)
    means = _block_means(spec.kind, counts, flat, keys)
    between = () if means is None or keys is None else tuple(between_blocks(means, np.bincount(keys).astype(np.float64)).ravel().tolist())
    signal = Signal(
        name=spec.name,
        kind=spec.kind,
        side=spec.side,
        tensor=spec.tensor,
        column=spec.column,
        edges=edges,
        categories=categories,
        counts=tuple(int(one) for one in counts),
        between=between,
    )
    return signal, means


def _block_means(kind: str, counts: NDArray[np.intp], flat: NDArray[np.intp], keys: NDArray[np.intp] | None) -> Floats | None:
    if keys is None or keys.max() < 1:
        return None
    scores = scores_of(kind, reference_shares(counts.astype(np.float64)))
    sizes = np.bincount(keys).astype(np.float64)
    return np.stack([np.bincount(keys, weights=column[flat]) for column in scores.T], axis=1) / sizes[:, None]
