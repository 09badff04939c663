"""Estimates how much ordinary blocks (days, shifts) differ, and how a block depends on the last. Knows nothing of why.

The mean scores of block t are u_t plus sampling, with u_t of covariance T between signals' scores and autocorrelation rho from a block to
the next. Both are read off the publisher's reference, of which there are few blocks; so both come with what few blocks get wrong:

- rho is pooled over all components, for one component's would be noise, and gets its small-sample bias of (1 + 3 rho)/b back (Kendall
  1954; Marriott and Pope 1954);
- the variance of b dependent values about their own mean is too small by (L - 1)/(b - 1), with L = (1 + rho)/(1 - rho), and is known no
  better than from (b - 1)(1 - rho^2)/(1 + rho^2) independent ones (Bayley and Hammersley 1946).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AUTOCORRELATION_MAX = 0.95  # beyond, a reference this short is one long drift
SHARE_MIN = 0.25  # the share of the variance that is taken to have been seen: a correction above four would be no estimate
FREEDOM_MIN = 2.0


def between_blocks(means: Floats, sizes: Floats) -> Floats:
    """Return the covariance T of the block effects, [scores, scores]: a moment estimate from mean scores, clipped to be positive."""
    width = means.shape[1]
    covariance = np.atleast_2d(np.cov(means.T)) - np.eye(width) * np.mean(1 / sizes)
    values, vectors = np.linalg.eigh(covariance)
    clipped: Floats = (vectors * np.clip(values, 0, None)) @ vectors.T
    return clipped


def autocorrelation(means: Sequence[Floats], sizes: Floats) -> float:
    """Return rho of the block effects, pooled over all components of all signals.

    Each of `means` is [blocks, scores], blocks in their order.
    """
    blocks = len(sizes)
    if blocks < 3 or not means:
        return 0.0
    centred = np.concatenate([one - one.mean(axis=0) for one in means], axis=1)
    sampling = float(np.mean(1 / sizes)) * (blocks - 1) * centred.shape[1]
    along = float((centred[1:] * centred[:-1]).sum())
    effect = float((centred[:-1] ** 2).sum()) - sampling
    if effect <= 0:  # blocks differ by no more than sampling: there is nothing that could depend on the last
        return 0.0
    plain = min(AUTOCORRELATION_MAX, max(-AUTOCORRELATION_MAX, along / effect))
    return float(min(AUTOCORRELATION_MAX, max(0.0, plain + (1 + 3 * plain) / blocks)))


def long_run(rho: float) -> float:
    """Return the variance of a mean of many dependent values, over that of as many independent ones."""
    return (1 + rho) / (1 - rho)


def unbiased(between: Floats, *, blocks: int, rho: float) -> Floats:
    """Return T with back what dependence between the blocks took from it."""
    return between / max(SHARE_MIN, 1 - (long_run(rho) - 1) / max(1, blocks - 1))


def freedom(*, blocks: int, rho: float) -> float:
    """Return how many independent squares the estimate of T is worth."""
    return max(FREEDOM_MIN, (blocks - 1) * (1 - rho * rho) / (1 + rho * rho))


def upper(between: Floats, *, sampling: float, blocks: int, rho: float, doubt: float) -> Floats:
    """Return the bound that T exceeds with probability `doubt`; `sampling` is the variance that sampling adds to a block's mean."""
    from scipy.special import chdtri  # noqa: PLC0415  # 0.4 s, which a command that halts a rollout has no use for

    degrees = freedom(blocks=blocks, rho=rho)
    factor = degrees / float(chdtri(degrees, 1 - doubt))
    bound: Floats = np.where(between > 0, (between + sampling) * factor - sampling, 0.0)
    return bound
