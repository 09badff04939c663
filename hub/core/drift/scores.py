"""Makes the directions in which a histogram can move orthonormal under the reference. The baseline's spread and the drift test share them.

The first is the rank (higher or lower), then the share of "other", then the finer shapes. Under no drift every score has mean zero and
variance one a row (smooth tests: Neyman 1937; Rayner and Best 1989).
"""

import numpy as np
from numpy.typing import NDArray

from schemas.signals import Signal

Floats = NDArray[np.float64]

POLYNOMIALS = 4  # polynomials of the mid-rank; more see little through the noise
BARE_BINS = 1.5  # by which numbers without a reference have to move: one is chance, and noise comes on top
BARE_BINS_MIN = 4  # three of values and "other": between two nothing can move by a bin and a half
BARE_SCORES = 2  # for numbers without a reference: the rank, and the share of "other", which says that values are missing
SMOOTHING = 0.5  # added to every reference count, so that a bin never seen has a probability


def reference_shares(counts: Floats) -> Floats:
    """Return the reference's probabilities, none of them zero. Shape [bins]."""
    smoothed: Floats = counts + SMOOTHING
    shares: Floats = smoothed / smoothed.sum()
    return shares


def scores_of(kind: str, shares: Floats) -> Floats:
    """Return score functions as columns, [bins, scores], orthonormal under `shares`; the last bin is "other"."""
    bins = len(shares)
    other = np.zeros(bins)
    other[-1] = 1.0
    if kind == "numeric":
        ordinary = shares[:-1] / shares[:-1].sum()
        middle = np.append(np.cumsum(ordinary) - ordinary / 2 - 0.5, 0.0)
        powers = [np.where(other > 0, 0.0, middle**power) for power in range(1, min(POLYNOMIALS, bins - 2) + 1)]
        directions = [*powers[:1], other, *powers[1:]]
    else:
        order = np.argsort(-shares, kind="stable")[:-1]  # the rarest category is what is left when all the others are known
        directions = [np.eye(bins)[bin_] for bin_ in order]
    design = np.column_stack([np.ones(bins), *directions]) * np.sqrt(shares)[:, None]
    orthonormal, triangle = np.linalg.qr(design)
    signs = np.where(np.diag(triangle) < 0, -1.0, 1.0)  # so that a rising direction stays rising
    scores: Floats = (orthonormal * signs / np.sqrt(shares)[:, None])[:, 1:]
    return scores


def scores_of_signal(signal: Signal) -> Floats:
    """Return the score functions of a manifest's signal; of numbers that have no reference the rank and "other" alone (see `least_of`)."""
    scores = scores_of(signal.kind, reference_shares(np.array(signal.counts, np.float64)))
    return scores[:, :BARE_SCORES] if _bare(signal) else scores


def least_of(signal: Signal) -> float:
    """Return the least shift of the rank that matters, in its standard deviations; 0 where `evidence.EFFECT_MIN` says it all.

    Numbers that have no reference (latency, memory, words of an answer) are counted into octaves. When everything of a node stands beside
    an edge, a change of a few percent moves all of it by one bin: so only a shift of a bin and a half is one, which is about three times as
    much, or as little.
    """
    if not _bare(signal) or signal.bins < BARE_BINS_MIN:
        return 0.0
    rank = scores_of_signal(signal)[:-1, 0]
    return BARE_BINS * float(np.diff(rank).max())


def _bare(signal: Signal) -> bool:
    return signal.kind == "numeric" and not any(signal.counts)
