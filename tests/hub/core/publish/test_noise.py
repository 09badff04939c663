"""The noise asked for is what the method states, and the discrete Gaussian keeps the promise made of the continuous one."""

import math

import numpy as np
import pytest

from hub.core.publish.noise import sigma2_for


@pytest.mark.parametrize(("epsilon", "sigma"), [(0.5, 36.0), (1.0, 18.9), (2.0, 10.0), (4.0, 5.3)])
def test_sigma_for_twenty_signals_is_the_stated_one(epsilon: float, sigma: float) -> None:
    numerator, denominator = sigma2_for(epsilon, 1e-6, 20)

    assert math.sqrt(numerator / denominator) == pytest.approx(sigma, abs=0.06)


@pytest.mark.parametrize(("epsilon", "signals"), [(0.5, 20), (1.0, 1), (1.0, 20), (4.0, 6)])
def test_the_discrete_gaussian_keeps_epsilon_and_delta(epsilon: float, signals: int) -> None:
    """Exactly: a record moves one bin in each signal, so its privacy loss is (2 sum Y + d) / (2 sigma^2), Y discrete Gaussian."""
    numerator, denominator = sigma2_for(epsilon, 1e-6, signals)
    sigma2 = numerator / denominator
    reach = math.ceil(14 * math.sqrt(sigma2))
    one = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma2))
    one /= one.sum()
    total = one
    for _ in range(signals - 1):
        total = np.convolve(total, one)
    sums = np.arange(len(total)) - len(total) // 2
    loss = (2 * sums + signals) / (2 * sigma2)

    delta = float((total * np.clip(1 - np.exp(epsilon - loss), 0, None)).sum())

    assert delta <= 1e-6 * 1.0001


@pytest.mark.parametrize("signals", [1, 6, 12, 20, 23, 64])
def test_a_day_of_windows_and_a_baseline_fit_a_days_budget_at_the_default_epsilon(signals: int) -> None:
    numerator, denominator = sigma2_for(1.0, 1e-6, signals)
    rho = signals * denominator / (2 * numerator)

    assert 0.697 < 25 * rho <= 0.7


def test_nonsense_is_not_answered() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        sigma2_for(0.0, 1e-6, 1)
