"""Computes how much noise an epsilon asks for, and what the noise does to an exponential."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

DENOMINATOR = 64  # sigma^2 travels as a fraction; rounding up to 1/64 costs less than 0.1 % of it
RHO_STEP, ROUNDING_MAX = 1e-4, 1e-3  # at epsilon 1 a window costs 0.0280 and not 0.02801: 25 of them are 0.7
EPSILON_MAX = 64.0
EXACT_SIGMA_MAX = 60.0  # beyond, discrete and continuous cannot be told apart, and the exact sum would take seconds
TAIL_SIGMAS = 12
POISSON_SIGMA2_MIN = 0.25  # from here on five terms of the dual sum are exact to the last bit


def sigma2_for(epsilon: float, delta: float, signals: int) -> tuple[int, int]:
    """Return the smallest variance, as a fraction, that gives (epsilon, delta) when a record moves one bin in each of `signals` histograms.

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
    return _whole(numerator, signals), DENOMINATOR


def _whole(numerator: int, signals: int) -> int:
    """Raise a variance a little, so that a window's rho has few decimals: 24 windows and an own baseline are to fit a day of 25."""
    rho = signals * DENOMINATOR / (2 * numerator)
    rounded = math.floor(rho / RHO_STEP) * RHO_STEP
    return math.ceil(signals * DENOMINATOR / (2 * rounded)) if rounded * (1 + ROUNDING_MAX) >= rho else numerator


def discrete_delta(sigma2: float, epsilon: float, signals: int) -> float:
    """Return the delta that discrete Gaussian noise of this variance really gives at epsilon.

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


def log_mgf(at: NDArray[np.float64], sigma2: float) -> NDArray[np.float64]:
    """Log E exp(u Z) of the discrete Gaussian Z with P(z) proportional to exp(-z^2 / (2 sigma^2)), exactly; any shape.

    Completing the square leaves u^2 sigma^2 / 2 and a ratio of two theta functions, summed directly for small variances and by Poisson's
    formula for the others. The ratio is at most one (Canonne, Kamath, Steinke 2020, corollary 17).
    """
    if sigma2 <= 0:
        return np.zeros_like(at)
    if sigma2 >= POISSON_SIGMA2_MIN:
        damping = [math.exp(-2 * math.pi**2 * sigma2 * k * k) for k in range(1, 6)]
        angle = 2 * math.pi * sigma2 * at
        theta = sum((2 * factor * np.cos(k * angle) for k, factor in enumerate(damping, 1) if factor > 0), np.ones_like(at))
        return at * at * (sigma2 / 2) + np.log(theta / (1 + 2 * sum(damping)))
    reach = math.ceil(TAIL_SIGMAS * math.sqrt(sigma2)) + 1
    draws = np.arange(-reach, reach + 1, dtype=np.float64)
    center = at * sigma2
    offset = center - np.round(center)
    theta = np.exp(-((draws - offset[..., None]) ** 2) / (2 * sigma2)).sum(axis=-1)
    still = np.exp(-(draws**2) / (2 * sigma2)).sum()
    found: NDArray[np.float64] = at * at * (sigma2 / 2) + np.log(theta / still)
    return found


def _delta_of(sigma: float, epsilon: float, sensitivity: float) -> float:
    half, shift = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    return float(ndtr(half - shift) - math.exp(epsilon) * ndtr(-half - shift))
