"""The noise is the discrete Gaussian to the letter, and what it costs is what the papers say."""

import math
import os
from random import Random

import numpy as np
import pytest
from scipy import stats

from node.core.privacy import BitSource, day_of, days_of, discrete_gaussian, epsilon_of, rho_of

DRAWS = 1_000_000


def exact(sigma2: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma2))
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("sigma2", [(357, 1), (9, 4)])
def test_a_million_draws_fit_the_exact_mass_function(sigma2: tuple[int, int]) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    variance = sigma2[0] / sigma2[1]
    reach = math.ceil(4 * math.sqrt(variance))
    draws = np.array(discrete_gaussian(DRAWS // 5, sigma2, BitSource(Random(seed).randbytes)))

    inside = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1)
    expected = exact(variance, 20 * reach)
    middle = len(expected) // 2
    shares = expected[middle - reach : middle + reach + 1].copy()
    shares[0], shares[-1] = expected[: middle - reach + 1].sum(), expected[middle + reach :].sum()

    assert stats.chisquare(inside, shares * len(draws)).pvalue > 1e-6, f"seed {seed}"
    assert abs(draws.var() / variance - 1) < 0.02, f"seed {seed}"


def test_bits_are_uniform_below_any_bound() -> None:
    bits = BitSource(Random(5).randbytes)

    counts = np.bincount([bits.below(7) for _ in range(70_000)], minlength=7)

    assert stats.chisquare(counts).pvalue > 1e-6


def test_a_window_of_twenty_signals_at_epsilon_one_costs_what_the_method_states() -> None:
    assert rho_of(20, (18_9**2, 100)) == pytest.approx(0.028, abs=5e-4)


def test_twenty_four_windows_cost_a_device_day_of_about_six() -> None:
    assert epsilon_of(24 * 0.028, 1e-6) == pytest.approx(6.2, abs=0.1)


def test_epsilon_grows_with_rho_and_is_below_the_simple_bound() -> None:
    values = [epsilon_of(rho, 1e-6) for rho in (0.001, 0.01, 0.1, 1.0)]

    assert values == sorted(values)
    assert all(value <= rho + 2 * math.sqrt(rho * math.log(1e6)) for value, rho in zip(values, (0.001, 0.01, 0.1, 1.0), strict=True))


def test_every_day_that_an_interval_touches_pays() -> None:
    assert day_of(86_399) == 0
    assert list(days_of(86_399, 1)) == [0]
    assert list(days_of(86_399, 2)) == [0, 1]
