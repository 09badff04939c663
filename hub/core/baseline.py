"""Bins, reference counts, and how much ordinary days differ: all that a manifest carries of the publisher's reference data.

Real days differ from each other without anything being wrong. So the reference comes in blocks (days, shifts, batches), and each signal
carries the covariance between blocks of its mean scores; without it every real day would be an alarm. And hours of the week differ: where a
season is given, a signal that differs between its keys carries a reference for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hub.core.scores import reference_shares, scores_of
from schemas.limits import BETWEEN_SCORES_MAX, CATEGORIES_MAX
from schemas.measures import measured
from schemas.signals import Baseline, Measure, Season, Signal

BINS = 8  # the noise term scales with them
SEASON_EFFECT_MIN = 0.1  # between the keys' mean scores, root mean square; with less, one reference serves them all
SEASON_ROWS_MIN = 100  # of a key: with fewer, its reference is that of all keys together

Bins = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """Which quantity of a model to watch: fields of schemas.signals.Signal."""

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
        """The signal with its bins and counts."""
        return Signal(**{name: getattr(self, name) for name in self.__slots__}, **reference)

    def measured(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Its values, [rows], of its tensor's rows [rows, ...], as a node measures them."""
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
        """The season's key of each row, [rows]."""
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
    """The baseline of reference values, one array [rows] a signal; `blocks` [rows] says which day or batch a row is from.

    `unreferenced` are signals of which the publisher has no values: they stand last, and are compared with each node's own baseline only.
    """
    rows = len(values[0][1]) if values else 1
    keys = None
    if blocks is not None:
        _, keys = np.unique(blocks, return_inverse=True)
    hours = None if times is None else times.keys
    signals = [_signal(spec, np.asarray(column), keys, bins, hours, times) for spec, column in values]
    return Baseline(
        rows=rows,
        blocks=1 if keys is None else int(keys.max()) + 1,
        signals=(*signals, *unreferenced),
        season=times.season if times is not None and any(one.seasons for one in signals) else None,
        calibration_rows=calibration_rows,
    )


def _signal(
    spec: SignalSpec, column: NDArray[Any], keys: NDArray[np.intp] | None, bins: int, hours: Bins | None, times: Times | None
) -> Signal:
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
    between = _between(spec.kind, counts, flat, keys) if seasons is None else _between_cells(spec.kind, seasons, flat, keys, hours)
    return spec.signal(
        edges=edges,
        categories=categories,
        counts=tuple(int(one) for one in counts),
        between=between,
        seasons=None if seasons is None else tuple(tuple(int(one) for one in row) for row in seasons),
    )


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


def _between(kind: str, counts: NDArray[np.intp], flat: Bins, keys: NDArray[np.intp] | None) -> tuple[float, ...]:
    """Covariance between blocks of the mean scores, sampling error taken off, clipped to be positive: a moment estimate."""
    if keys is None or keys.max() < 1:
        return ()
    scores = scores_of(kind, reference_shares(counts.astype(np.float64)))
    return _covariance(scores[flat], keys)


def _between_cells(
    kind: str, seasons: NDArray[np.intp], flat: Bins, keys: NDArray[np.intp] | None, hours: Bins | None
) -> tuple[float, ...]:
    """The same where windows are compared with their own hours: between blocks and hours, each against its hours' reference."""
    if keys is None or keys.max() < 1 or hours is None:
        return ()
    tables = np.stack([scores_of(kind, reference_shares(row.astype(np.float64))) for row in seasons])
    _, cells = np.unique(keys * len(seasons) + hours, return_inverse=True)
    return _covariance(tables[hours, flat], cells)


def _covariance(scores: NDArray[np.float64], cells: NDArray[np.intp]) -> tuple[float, ...]:
    sizes = np.bincount(cells).astype(np.float64)
    width = min(scores.shape[1], BETWEEN_SCORES_MAX)
    means = np.stack([np.bincount(cells, weights=column) for column in scores.T[:width]], axis=1) / sizes[:, None]
    covariance = np.atleast_2d(np.cov(means.T)) - np.eye(width) * np.mean(1 / sizes)
    values, vectors = np.linalg.eigh(covariance)
    clipped = (vectors * np.clip(values, 0, None)) @ vectors.T
    return tuple(float(one) for one in clipped.ravel())


def _seasons(kind: str, flat: Bins, hours: Bins, count: int, counts: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """Reference counts by key, [keys, bins]; None where the keys hardly differ."""
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
