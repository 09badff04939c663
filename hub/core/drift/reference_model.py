"""Holds what is ordinary for a model: its reference as arrays, one row a component. Knows no interval and no clock.

A component is one score of one signal (see hub/core/drift/scores.py); components of all signals stand in one list, so that an interval is
tested in a few array operations whatever its signals are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.core.drift import between_day_variance
from hub.core.drift.scores import least_of, reference_shares, scores_of_signal
from schemas.signals import Baseline, Signal

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

LEADING_WEIGHT = 0.5  # the share of a numeric signal's budget for its rank score: most drift is higher or lower


@dataclass(frozen=True, eq=False)
class Ordinary:
    """Hold the reference of one release, or of an hour of its week. S signals, J components, B most bins of a signal, Q most scores."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    size: int  # the number of an interval's flat counts
    reference_rows: int  # M
    blocks: int  # 1 where the reference has none
    rho: float  # autocorrelation from a block to the next
    sigma2: float  # the variance of one window's noise on a count
    known: NDArray[np.bool_]  # [S]: it has reference counts; the others can be tested only by what nodes calibrated
    owner: Places  # [J]: which signal
    rank: Places  # [J]: which of its scores
    first: Places  # [S]: the component of each signal's first score
    gather: Places  # [J, B]: where a component's bins stand in the flat counts; `size` where it has fewer
    design: Floats  # [J, B]: its score of each bin, 0 where it has fewer
    shares: Floats  # [J, B]: the reference's probabilities
    least: Floats  # [J]: the least shift that matters of the rank of numbers that have no reference, 0 of all others
    noise_gain: Floats  # [J]: sum of squared scores, which is the noise's variance over K sigma^2
    between: Floats  # [J]: variance of the block effects, dependence accounted for
    log_weights: Floats  # [J]: logarithms of the components' parts of the evidence, which sum to 1
    between_matrix: Floats  # [S, Q, Q]
    noise_matrix: Floats  # [S, Q, Q]
    has_between: NDArray[np.bool_]  # [S]

    @property
    def components(self) -> int:
        """Return the number J of components."""
        return len(self.owner)

    @property
    def sampling(self) -> float:
        """Return the variance that sampling adds to the mean score of a block of the reference."""
        return self.blocks / self.reference_rows

    def totals(self, counts: Sequence[int]) -> Floats:
        """Return the scores H'C of flat counts, [J]."""
        found: Floats = (self.design * self.binned(counts)).sum(axis=1)
        return found

    def binned(self, counts: Sequence[int]) -> Floats:
        """Return the flat counts as every component sees them, [J, B].

        Raises:
            ValueError: they are not this reference's.
        """
        if len(counts) != self.size:
            raise ValueError(f"expected {self.size} counts, found {len(counts)}")
        flat = np.zeros(self.size + 1)
        flat[:-1] = counts
        found: Floats = flat[self.gather]
        return found

    def by_signal(self, values: Floats) -> Floats:
        """Return components [J] as [S, Q], zero where a signal has fewer scores."""
        found = np.zeros((len(self.names), self.noise_matrix.shape[1]))
        found[self.owner, self.rank] = values
        return found


def ordinary(baseline: Baseline, sigma2: float, *, hour: int | None = None) -> Ordinary:
    """Return a manifest's baseline as arrays.

    `sigma2` is the variance of one window's noise on a count, `hour` a key of the baseline's season.
    """
    rho = baseline.autocorrelation or 0.0
    if hour is None:
        return of_signals(baseline.signals, rows=baseline.rows, blocks=baseline.blocks, rho=rho, sigma2=sigma2)
    signals = [signal.model_copy(update={"counts": signal.reference(hour), "seasons": None}) for signal in baseline.signals]
    # The rows of an hour are fewer than those of all: the fewest of any signal's own.
    rows = min((sum(signal.counts) for signal in signals if sum(signal.counts)), default=baseline.rows)
    return of_signals(signals, rows=rows, blocks=baseline.blocks, rho=rho, sigma2=sigma2)


def of_signals(signals: Sequence[Signal], *, rows: int, blocks: int, rho: float, sigma2: float) -> Ordinary:
    """Return the model from plain arguments: a reference of one hour of the week has its own counts and T in `signals`, and own rows."""
    scores = [scores_of_signal(signal) for signal in signals]
    owner = np.concatenate([np.full(one.shape[1], number, np.intp) for number, one in enumerate(scores)])
    rank = np.concatenate([np.arange(one.shape[1]) for one in scores])
    width, most = max(one.shape[1] for one in scores), max(signal.bins for signal in signals)
    size = sum(signal.bins for signal in signals)
    gather, design = np.full((len(owner), most), size, np.intp), np.zeros((len(owner), most))
    shares, weights, least = np.zeros((len(owner), most)), np.zeros(len(owner)), np.zeros(len(owner))
    between_matrix, noise_matrix = np.zeros((len(signals), width, width)), np.zeros((len(signals), width, width))
    component = offset = 0
    for number, (signal, score) in enumerate(zip(signals, scores, strict=True)):
        mine, own = slice(component, component + score.shape[1]), score.shape[1]
        gather[mine, : signal.bins] = np.arange(offset, offset + signal.bins)
        design[mine, : signal.bins] = score.T
        shares[mine, : signal.bins] = reference_shares(np.array(signal.counts, np.float64))
        weights[mine] = _weights(signal.kind, own) / len(signals)
        least[component] = least_of(signal)
        noise_matrix[number, :own, :own] = score.T @ score
        if signal.between:
            between_matrix[number, :own, :own] = between_day_variance.unbiased(_square(signal.between, own), blocks=blocks, rho=rho)
        component, offset = component + own, offset + signal.bins
    return Ordinary(
        names=tuple(signal.name for signal in signals),
        kinds=tuple(signal.kind for signal in signals),
        size=size,
        reference_rows=rows,
        blocks=blocks,
        rho=rho,
        sigma2=sigma2,
        known=np.array([sum(signal.counts) > 0 for signal in signals]),
        owner=owner,
        rank=rank,
        first=np.flatnonzero(rank == 0),
        gather=gather,
        design=design,
        shares=shares,
        least=least,
        noise_gain=(design**2).sum(axis=1),
        between=between_matrix[owner, rank, rank],
        log_weights=np.log(weights),
        between_matrix=between_matrix,
        noise_matrix=noise_matrix,
        has_between=np.array([bool(signal.between) for signal in signals]),
    )


def _weights(kind: str, scores: int) -> Floats:
    if kind != "numeric" or scores < 2:
        return np.full(scores, 1 / scores)
    return np.concatenate([[LEADING_WEIGHT], np.full(scores - 1, (1 - LEADING_WEIGHT) / (scores - 1))])


def _square(between: Sequence[float], scores: int) -> Floats:
    """Return T as a matrix over all scores; one that says nothing of the finer scores is taken to hold of them what holds of the widest."""
    full = int(len(between) ** 0.5)
    given = np.array(between, np.float64).reshape(full, full)[:scores, :scores]
    found = np.eye(scores) * float(np.max(np.diag(given)))
    found[: len(given), : len(given)] = given
    return found
