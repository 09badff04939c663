"""Computes how much discrete Laplace noise an epsilon asks for, where delta is to be 0."""

import math

DENOMINATOR = 64  # the scale travels as a fraction, rounded up


def laplace_for(epsilon: float, signals: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the smallest scale, and its noise's variance, as fractions, that give epsilon when a record moves a bin in each of `signals`.

    The L1 sensitivity is `signals`, so the scale is signals / epsilon (Ghosh, Roughgarden and Sundararajan 2009: the geometric mechanism).

    Raises:
        ValueError: epsilon is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, not {epsilon}")
    numerator = math.ceil(signals / epsilon * DENOMINATOR)
    ratio = math.exp(-DENOMINATOR / numerator)
    variance = 2 * ratio / (1 - ratio) ** 2
    return (numerator, DENOMINATOR), (max(1, round(variance * DENOMINATOR)), DENOMINATOR)
