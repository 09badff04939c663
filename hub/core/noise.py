"""How much noise an epsilon asks for."""

import math

from scipy.special import ndtr

DENOMINATOR = 64  # sigma^2 travels as a fraction; rounding up to 1/64 costs less than 0.1 % of it
EPSILON_MAX = 64.0


def sigma2_for(epsilon: float, delta: float, signals: int) -> tuple[int, int]:
    """The smallest variance, as a fraction, that gives (epsilon, delta) when one record moves one bin in each of `signals` histograms.

    Analytic Gaussian mechanism (Balle and Wang 2018, theorem 8) for L2 sensitivity sqrt(signals). The discrete Gaussian of the same
    variance spends no more to within 1e-9 of delta for the variances used here: tests/hub/core/test_noise.py computes it exactly.
    """
    if not (0 < epsilon <= EPSILON_MAX and 0 < delta < 1):
        raise ValueError(f"epsilon must be in (0, {EPSILON_MAX:.0f}] and delta in (0, 1), not {epsilon} and {delta}")
    sensitivity = math.sqrt(signals)
    low, high = 1e-3, 1.0
    while _delta_of(high, epsilon, sensitivity) > delta:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta_of(middle, epsilon, sensitivity) > delta else (low, middle)
    return math.ceil(high * high * DENOMINATOR), DENOMINATOR


def _delta_of(sigma: float, epsilon: float, sensitivity: float) -> float:
    half, shift = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    return float(ndtr(half - shift) - math.exp(epsilon) * ndtr(-half - shift))
