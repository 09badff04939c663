"""The noise is the discrete Gaussian to the letter, and what it costs is what the papers say."""

import math
import os
from random import Random

import numpy as np
import pytest
from scipy import stats

from hub.core.publish.laplace import laplace_for
from node.core.telemetry.privacy import BitSource, day_of, days_of, discrete_gaussian, discrete_laplace, epsilon_of
from schemas.signals import Privacy

pytestmark = pytest.mark.heavy

DRAWS = 1_000_000


def noise(sigma2: tuple[int, int], scale: tuple[int, int] | None = None) -> Privacy:
    gaussian = {"epsilon": 1.0, "delta": 0.0 if scale else 1e-6, "sigma2_numerator": sigma2[0], "sigma2_denominator": sigma2[1]}
    laplace = {} if scale is None else {"laplace_numerator": scale[0], "laplace_denominator": scale[1]}
    return Privacy.model_validate({**gaussian, **laplace, "window_seconds": 3600})


def exact(sigma2: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma2))
    return np.asarray(weights / weights.sum())


def fits(draws: np.ndarray, expected: np.ndarray, seed: int) -> None:
    """Chi-squared against the exact mass function, [-reach .. reach] in `expected`, whose ends take the tails."""
    reach = (len(expected) - 1) // 2
    inside = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1)
    assert stats.chisquare(inside, expected * len(draws)).pvalue > 1e-6, f"seed {seed}"


def with_tails(mass: np.ndarray, reach: int) -> np.ndarray:
    middle = len(mass) // 2
    shares = mass[middle - reach : middle + reach + 1].copy()
    shares[0], shares[-1] = mass[: middle - reach + 1].sum(), mass[middle + reach :].sum()
    return shares


@pytest.mark.timeout(300)
def test_a_million_gaussian_draws_fit_the_exact_mass_function() -> None:
    gaussian_fits((357, 1), DRAWS)


@pytest.mark.parametrize("sigma2", [(9, 4), (1, 64)])
def test_gaussian_draws_fit_the_exact_mass_function(sigma2: tuple[int, int]) -> None:
    gaussian_fits(sigma2, DRAWS // 10)


def gaussian_fits(sigma2: tuple[int, int], count: int) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    variance = sigma2[0] / sigma2[1]
    reach = math.ceil(4 * math.sqrt(variance))
    draws = np.array(discrete_gaussian(count, sigma2, BitSource(Random(seed).randbytes)))

    fits(draws, with_tails(exact(variance, 20 * reach), reach), seed)


@pytest.mark.timeout(300)
def test_a_million_laplace_draws_fit_the_exact_mass_function() -> None:
    laplace_fits((8, 1), DRAWS)


@pytest.mark.parametrize("scale", [(13, 5), (1, 3)])
def test_laplace_draws_fit_the_exact_mass_function(scale: tuple[int, int]) -> None:
    laplace_fits(scale, DRAWS // 10)


def laplace_fits(scale: tuple[int, int], count: int) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    size = scale[0] / scale[1]
    reach = math.ceil(6 * size)
    weights = np.exp(-np.abs(np.arange(-20 * reach, 20 * reach + 1)) / size)
    draws = np.array(discrete_laplace(count, scale, BitSource(Random(seed).randbytes)))

    fits(draws, with_tails(weights / weights.sum(), reach), seed)


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_our_draws_and_opendps_are_of_one_distribution(noise: str) -> None:
    """OpenDP is 265 MB, and in no lock: `make test-oracle` installs it beside and runs this."""
    opendp = pytest.importorskip("opendp.prelude", reason="OpenDP is not installed: `make test-oracle` installs it beside and runs this")
    opendp.enable_features("contrib")
    space = opendp.vector_domain(opendp.atom_domain(T="i64")), opendp.l2_distance(T="f64")
    if noise == "gaussian":
        theirs = opendp.m.make_gaussian(*space, scale=18.9)
        ours = discrete_gaussian(DRAWS // 10, (1890**2, 10**4), BitSource(os.urandom))
    else:
        theirs = opendp.m.make_laplace(space[0], opendp.l1_distance(T="i64"), scale=8.0)
        ours = discrete_laplace(DRAWS // 10, (8, 1), BitSource(os.urandom))

    found = np.array(theirs([0] * (DRAWS // 10)))

    reach = 60
    tables = [np.bincount(np.clip(one, -reach, reach) + reach, minlength=2 * reach + 1) for one in (np.array(ours), found)]
    seen = np.array(tables)[:, np.sum(tables, axis=0) >= 20]
    assert stats.chi2_contingency(seen).pvalue > 1e-6


def test_laplace_noise_for_an_epsilon_gives_it_and_no_delta() -> None:
    scale, sigma2 = laplace_for(1.0, 4)

    draws = np.array(discrete_laplace(100_000, scale, BitSource(Random(3).randbytes)))

    assert scale == (256, 64)
    assert draws.var() == pytest.approx(sigma2[0] / sigma2[1], rel=0.05)
    assert noise(sigma2, scale).rho(4) == pytest.approx(0.5)


def test_bits_are_uniform_below_any_bound() -> None:
    bits = BitSource(Random(5).randbytes)

    counts = np.bincount([bits.below(7) for _ in range(70_000)], minlength=7)

    assert stats.chisquare(counts).pvalue > 1e-6


def test_a_window_of_twenty_signals_at_epsilon_one_costs_what_the_method_states() -> None:
    assert noise((18_9**2, 100)).rho(20) == pytest.approx(0.028, abs=5e-4)


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
