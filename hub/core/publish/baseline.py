"""Builds all that a manifest carries of the publisher's reference data: bins, reference counts, and how much ordinary days differ.

Real days differ from each other without anything being wrong. So the reference comes in blocks (days, shifts, batches), and each signal
carries the covariance between blocks of its mean scores; without it every real day would be an alarm. And hours of the week differ: where a
season is given, a signal that differs between its keys carries a reference for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fleetcast.measures import measured
from hub.core.drift.between_day_variance import autocorrelation, between_blocks
from hub.core.drift.scores import reference_shares, scores_of
from schemas.limits import BETWEEN_SCORES_MAX, CATEGORIES_MAX
from schemas.signals import Baseline, Measure, Season, Signal

BINS = 8  # the noise term scales with them
SEASON_EFFECT_MIN = 0.1  # between the keys' mean scores, root mean square; with less, one reference serves them all
SEASON_ROWS_MIN = 100  # rows of a key: with fewer, its reference is that of all keys together

Bins = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """Name a quantity of a model to watch: fields of schemas.signals.Signal."""

    name: str
    kind: Literal["numeric", "categorical"]
    side: Literal["input", "output", "service"]
    tensor: str
    column: int = 0
    measure: Measure | None = None
    seed: int | None = None
    softmax: bool | None = None
    padding: int | None = None
    unknown: int | None = None
    phrases: tuple[str, ...] | None = None

    def signal(self, **reference: Any) -> Signal:
        """Return the signal with its bins and counts."""
        return Signal(**{name: getattr(self, name) for name in self.__slots__}, **reference)

    def measured(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return its values, [rows], of its tensor's rows [rows, ...], as a node measures them."""
        if self.measure is None:
            return rows.reshape(len(rows))
        return measured(self.signal(counts=(0, 0), categories=(0.0,) if self.kind == "categorical" else ()), rows)


@dataclass(frozen=True, slots=True)
class Times:
    """When each row of the reference was, in seconds since 1970, [rows], and which hours of the week are compared apart."""

    seconds: NDArray[np.int64]
    season: Season

    @property
    def keys(self) -> Bins:
        """Return the season's key of each row, [rows]."""
        distinct, which = np.unique(self.seconds // 3600, return_inverse=True)
        found: Bins = np.array([self.season.key_of(int(hour) * 3600) for hour in distinct], np.intp)[which]
        return found


def build_baseline(
    values: Sequence[tuple[SignalSpec, NDArray[Any]]],
    blocks: NDArray[Any] | None,
    *,
    bins: int = BINS,
    times: Times | None = None,
    calibration_rows: int | None = None,
    unreferenced: Sequence[Signal] = (),
) -> Baseline:
    """Return the baseline of reference values, one array [rows] a signal; `blocks` [rows] says which day or batch a row is from.

    `unreferenced` are signals of which the publisher has no values: they stand last, and are compared with each node's own baseline only.
    """
    rows = len(values[0][1]) if values else 1
    keys = None
    if blocks is not None:
        _, keys = np.unique(blocks, return_inverse=True)
    hours = None if times is None else times.keys
    built = [_signal(spec, np.asarray(column), keys, bins, hours, times) for spec, column in values]
    signals = tuple(signal for signal, _ in built)
    means = [one for _, one in built if one is not None]
    sizes = np.ones(1) if keys is None else np.bincount(keys).astype(np.float64)
    return Baseline(
        rows=rows,
        blocks=len(sizes),
        autocorrelation=round(autocorrelation(means, sizes), 4) if means else None,
        signals=(*signals, *unreferenced),
        season=times.season if times is not None and any(one.seasons for one in signals) else None,
        calibration_rows=calibration_rows,
    )


def _signal(
    spec: SignalSpec, column: NDArray[Any], keys: Bins | None, bins: int, hours: Bins | None, times: Times | None
) -> tuple[Signal, Floats | None]:
    """Return a signal, and its blocks' mean scores [blocks, scores] where there are blocks."""
    edges: tuple[float, ...] = ()
    categories: tuple[float | str, ...] = ()
    if spec.kind == "numeric":
        edges, flat = _numeric(column, bins)
        count = len(edges) + 1
    else:
        categories, flat = _categorical(column)
        count = len(categories)
    counts = np.bincount(flat, minlength=count + 1)
    seasons = None if hours is None or times is None else _seasons(spec.kind, flat, hours, times.season.keys, counts)
    means, between = _blocks(_row_scores(spec.kind, counts, seasons, flat, hours), keys, None if seasons is None else hours)
    signal = spec.signal(
        edges=edges,
        categories=categories,
        counts=tuple(int(one) for one in counts),
        between=between,
        seasons=None if seasons is None else tuple(tuple(int(one) for one in row) for row in seasons),
    )
    return signal, means


def _numeric(column: NDArray[Any], bins: int) -> tuple[tuple[float, ...], Bins]:
    numbers = column.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    # The edges are public and of the publisher's data: quantiles, so that a bin holds enough rows to say nothing of one.
    quantiles = np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1], method="lower") if len(finite) else np.zeros(1)
    edges = tuple(float(edge) for edge in np.unique(quantiles))
    return edges, np.where(np.isfinite(numbers), np.searchsorted(edges, numbers, side="right"), len(edges) + 1)


def _categorical(column: NDArray[Any]) -> tuple[tuple[float | str, ...], Bins]:
    texts = [value.decode() if isinstance(value, bytes) else value for value in column.tolist()]
    plain = [value if isinstance(value, str) else float(value) for value in texts]
    seen: dict[float | str, int] = {}
    for value in plain:
        seen[value] = seen.get(value, 0) + 1
    categories = tuple(sorted(seen, key=lambda value: (-seen[value], str(value)))[:CATEGORIES_MAX])
    number = {category: at for at, category in enumerate(categories)}
    return categories, np.array([number.get(value, len(categories)) for value in plain], np.intp)


def _row_scores(kind: str, counts: Bins, seasons: Bins | None, flat: Bins, hours: Bins | None) -> Floats:
    """Return the scores of each row, [rows, scores], against its hours' own reference where there is one."""
    if seasons is None or hours is None:
        found: Floats = scores_of(kind, reference_shares(counts.astype(np.float64)))[flat]
    else:
        found = np.stack([scores_of(kind, reference_shares(row.astype(np.float64))) for row in seasons])[hours, flat]
    return found[:, :BETWEEN_SCORES_MAX]


def _blocks(scores: Floats, keys: Bins | None, hours: Bins | None) -> tuple[Floats | None, tuple[float, ...]]:
    """Return the mean scores by block, [blocks, scores], and the covariance between blocks; with `hours`, between blocks and hours."""
    if keys is None or keys.max() < 1:
        return None, ()
    means, _ = _means(scores, keys)
    cells = keys if hours is None else np.unique(keys * (int(hours.max()) + 1) + hours, return_inverse=True)[1]
    return means, tuple(float(one) for one in between_blocks(*_means(scores, cells)).ravel())


def _means(scores: Floats, cells: Bins) -> tuple[Floats, Floats]:
    """Return the mean scores and rows of each cell."""
    sizes = np.bincount(cells).astype(np.float64)
    return np.stack([np.bincount(cells, weights=column) for column in scores.T], axis=1) / sizes[:, None], sizes


def _seasons(kind: str, flat: Bins, hours: Bins, count: int, counts: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """Return the reference counts by key, [keys, bins]; None where the keys hardly differ."""
    table = np.zeros((count, len(counts)), np.intp)
    np.add.at(table, (hours, flat), 1)
    rows = table.sum(axis=1)
    enough = rows >= SEASON_ROWS_MIN
    scores = scores_of(kind, reference_shares(counts.astype(np.float64)))
    means = (table[enough] @ scores) / rows[enough, None]
    sampling = scores.shape[1] * float(np.mean(1 / rows[enough])) if enough.any() else 0.0
    if enough.sum() < 2 or float((means**2).sum(axis=1).mean()) - sampling < SEASON_EFFECT_MIN**2:
        return None
    table[~enough] = counts
    return table
