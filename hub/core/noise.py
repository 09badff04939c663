"""How much noise an epsilon asks for."""

import math

import numpy as np
from scipy.special import ndtr

DENOMINATOR = 64  # sigma^2 travels as a fraction; rounding up to 1/64 costs less than 0.1 % of it
EPSILON_MAX = 64.0
EXACT_SIGMA_MAX = 60.0  # beyond, discrete and continuous cannot be told apart, and the exact sum would take seconds
TAIL_SIGMAS = 12


def sigma2_for(epsilon: float, delta: float, signals: int) -> tuple[int, int]:
    """The smallest variance, as a fraction, that gives (epsilon, delta) when one record moves one bin in each of `signals` histograms.

    Analytic Gaussian mechanism (Balle and Wang 2018, theorem 8) for L2 sensitivity sqrt(signals), then raised until the discrete Gaussian,
    which is what the nodes draw, keeps delta too: for few signals and small variances it spends up to a few percent more.
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
    numerator = math.ceil(high * high * DENOMINATOR)
    while high <= EXACT_SIGMA_MAX and discrete_delta(numerator / DENOMINATOR, epsilon, signals) > delta:
        numerator += max(1, numerator // 1000)
    return numerator, DENOMINATOR


def discrete_delta(sigma2: float, epsilon: float, signals: int) -> float:
    """The delta that discrete Gaussian noise of this variance really gives at epsilon.

    A record moves one bin in each signal by one, so its privacy loss is (2 S + d) / (2 sigma^2), with S the sum of d draws; delta is the
    expectation of max(0, 1 - exp(epsilon - loss)) (Canonne, Kamath, Steinke 2020, section 2).
    """
    reach = math.ceil(TAIL_SIGMAS * math.sqrt(sigma2))
    one = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma2))
    one /= one.sum()
    total = one
    for _ in range(signals - 1):
        total = np.convolve(total, one)
    loss = (2 * (np.arange(len(total)) - len(total) // 2) + signals) / (2 * sigma2)
    return float((total * np.clip(1 - np.exp(np.minimum(epsilon - loss, 0.0)), 0, None)).sum())


def _delta_of(sigma: float, epsilon: float, sensitivity: float) -> float:
    half, shift = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    return float(ndtr(half - shift) - math.exp(epsilon) * ndtr(-half - shift))
