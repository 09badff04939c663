"""e-values have mean one while nothing has changed: by enumeration where that can be done, by seeded simulation where not."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from hub.core.drift.e_values import EFFECT_MIN, LAMBDAS, Part, log_evidence, plan, tolerance
from hub.core.drift.reference_model import Ordinary, of_signals
from hub.core.publish.noise import log_mgf
from tests.hub.core import drifting

pytestmark = pytest.mark.heavy


def e_values(ordinary: Ordinary, counts: NDArray[np.int64], *, windows: int, rows: float) -> NDArray[np.float64]:
    chosen = plan(ordinary, windows=windows, rows=rows, calibrated=False)
    nothing = np.zeros(ordinary.components)
    part = drifting.part(counts, windows=windows)
    return np.exp(log_evidence(part, ordinary, chosen, mean=nothing, variance=nothing, response=nothing))


@given(
    sigma2=st.floats(0.01, 900.0),
    at=st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=5),
)
@settings(deadline=None)
def test_the_noises_mgf_is_its_sum_over_the_mass_function(sigma2: float, at: list[float]) -> None:
    reach = math.ceil(40 * math.sqrt(sigma2) + 3 * sigma2)
    values = np.arange(-reach, reach + 1, dtype=np.float64)
    exponents = np.array(at)[:, None] * values - values**2 / (2 * sigma2)
    peak = exponents.max(axis=1)
    expected = peak + np.log(np.exp(exponents - peak[:, None]).sum(axis=1)) - np.log(np.exp(-(values**2) / (2 * sigma2)).sum())

    np.testing.assert_allclose(log_mgf(np.array(at), sigma2), expected, rtol=1e-9, atol=1e-9)


def test_noise_never_makes_more_of_an_exponential_than_a_gaussian_of_its_variance() -> None:
    at = np.linspace(-2, 2, 401)

    for sigma2 in (0.05, 0.3, 1.0, 20.0):
        assert (log_mgf(at, sigma2) <= at * at * sigma2 / 2 + 1e-12).all()


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_without_noise_the_mean_over_every_possible_interval_is_one(rows: int) -> None:
    counts = [50, 30, 15, 5]
    ordinary = of_signals([drifting.signal("s", counts)], rows=100, blocks=1, rho=0.0, sigma2=0.0)
    shares = ordinary.shares[0]

    mean = np.zeros((ordinary.components, len(LAMBDAS)))
    for rows_in in itertools.product(range(4), repeat=rows):
        found = np.bincount(np.array(rows_in, np.int64), minlength=4)
        mean += np.prod(shares[list(rows_in)]) * e_values(ordinary, found[None, :], windows=1, rows=4)

    np.testing.assert_allclose(mean, 1.0, rtol=1e-9)


def test_the_mean_e_value_over_every_possible_noise_is_one() -> None:
    sigma2 = 0.8
    ordinary = of_signals([drifting.signal("s", [60, 30, 10])], rows=100, blocks=1, rho=0.0, sigma2=sigma2)
    values = np.arange(-9, 10)
    mass = np.exp(-(values**2) / (2 * sigma2))
    mass /= mass.sum()

    mean = np.zeros((ordinary.components, len(LAMBDAS)))
    for row in range(3):
        for noise in itertools.product(range(len(values)), repeat=3):
            counts = values[list(noise)] + (np.arange(3) == row)
            mean += ordinary.shares[0, row] * np.prod(mass[list(noise)]) * e_values(ordinary, counts[None, :], windows=1, rows=8)

    np.testing.assert_allclose(mean, 1.0, rtol=1e-6)


@pytest.mark.parametrize(("windows", "sigma2"), [(1, 213.0), (20, 20.0)])
def test_of_many_windows_with_noise_the_mean_is_one(windows: int, sigma2: float) -> None:
    rng = np.random.default_rng(windows)
    ordinary = drifting.flat(1, sigma2=sigma2)

    found = []
    for _ in range(8000):
        counts = drifting.drawn(rng, np.zeros((1, 4)), 100 * windows) + drifting.noise(rng, sigma2, windows, (1, 9))
        found.append(e_values(ordinary, counts, windows=windows, rows=100.0 * windows))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))

    small = np.abs(LAMBDAS) <= 1  # e-values of larger lambdas are so skewed that no number of draws this small shows their mean
    assert (np.abs(mean - 1)[:, small] <= 4.5 * error[:, small]).all()
    assert (mean <= 1 + 4.5 * error).all()


def test_a_shift_of_no_more_than_the_tolerance_is_no_evidence_on_average() -> None:
    rng = np.random.default_rng(5)
    ordinary = drifting.flat(1)
    chosen = plan(ordinary, windows=1, rows=10_000.0, calibrated=False)
    nothing = np.zeros(ordinary.components)
    effects = np.zeros((1, 4))
    effects[0, 0] = EFFECT_MIN * 0.99

    logs = [
        log_evidence(
            drifting.part(drifting.drawn(rng, effects, 10_000)), ordinary, chosen, mean=nothing, variance=nothing, response=nothing + 1
        )
        for _ in range(300)
    ]

    assert tolerance(drifting.part(drifting.drawn(rng, effects, 10_000)), ordinary)[0] == EFFECT_MIN
    assert np.mean(logs, axis=0).max() < 0


@pytest.mark.parametrize(
    "bad",
    [
        {"rows": math.nan},
        {"rows": math.inf},
        {"windows": 0},
        {"windows": -3},
        {"counts": ()},
        {"counts": (2**60,)},
        {"counts": (1.5,)},
        {"seconds": 0},
        {"reference_rows": 5.0},
        {"noise_units": 0.5},
        {"reference_rows": -1.0},
        {"calibrated": True, "windows": 3, "noise_units": 2.0},
        {"calibrated": True, "reference_rows": math.nan},
    ],
)
def test_an_interval_that_cannot_be_is_refused_at_the_door(bad: dict[str, object]) -> None:
    good: dict[str, object] = {"start": 0, "seconds": 60, "windows": 1, "rows": 10.0, "counts": (1, 2)}
    Part(**good)  # type: ignore[arg-type]

    with pytest.raises(ValidationError):
        Part(**{**good, **bad})  # type: ignore[arg-type]


@given(
    counts=st.lists(st.integers(-(2**53), 2**53), min_size=9, max_size=9),
    rows=st.floats(-(2.0**53), 2.0**53),
    windows=st.integers(1, 2**31),
    calibrated=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_absurd_counts_and_negative_totals_make_finite_evidence(counts: list[int], rows: float, windows: int, calibrated: bool) -> None:
    ordinary = of_signals(
        [drifting.signal("s", [100] * 8 + [0], between=np.eye(5).ravel().tolist())], rows=800, blocks=12, rho=0.4, sigma2=3.0
    )
    part = Part(start=0, seconds=60, windows=windows, rows=rows, counts=tuple(counts), calibrated=calibrated)
    chosen = plan(ordinary, windows=64.0, rows=1024.0, calibrated=calibrated)
    one = np.ones(ordinary.components)

    assert np.isfinite(log_evidence(part, ordinary, chosen, mean=one, variance=one, response=one)).all()
