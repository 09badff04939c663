"""Reference against counted, for people: shares, their uncertainty, how far and which way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.drift.compare import compare, in_words, labels
from hub.core.drift.shift_size import NOTHING, Size
from schemas.analytics_messages import MergedWindow, SignalCounts


def window(signal: SignalCounts, rows: int, noise_sd: float = 0.0) -> MergedWindow:
    return MergedWindow(
        model="delay",
        version="1.0.0",
        cohort="nyc",
        start=0,
        seconds=60,
        windows=20,
        rows=rows,
        noise_sd=noise_sd,
        epsilon=1.0,
        delta=1e-6,
        signals=(signal,),
    )


def numeric(counts: tuple[int, ...], expected: tuple[float, ...], edges: tuple[float, ...] = (1.0, 2.0, 3.0)) -> SignalCounts:
    return SignalCounts(name="hour", kind="numeric", edges=edges, counts=counts, expected=expected)


def test_a_signal_is_shown_beside_its_reference_with_its_size_and_interval() -> None:
    size = Size(1.2, 1.1, 1.3, "sd", "higher", 1.2)
    (found,) = compare(window(numeric((0, 0, 0, 4000, 0), (1000.0, 1000.0, 1000.0, 1000.0, 0.0)), 4000), (size,))

    assert (found.bins[3].seen, found.bins[3].expected) == (1.0, 0.25)
    assert in_words(found) == "hour: higher, 1.20 sd (1.10 to 1.30)"


def test_the_uncertainty_of_a_share_is_that_of_noise_and_sampling() -> None:
    rng, seen, said = np.random.default_rng(6), [], 0.0
    for _ in range(2000):
        counts = rng.multinomial(4000, [0.25] * 4) + rng.normal(0, 40, 4)
        (found,) = compare(window(numeric((*(int(one) for one in counts), 0), (1000.0,) * 4 + (0.0,)), 4000, 40.0), (NOTHING,))
        seen.append(found.bins[0].seen)
        said = found.bins[0].sd

    assert float(np.std(seen)) == pytest.approx(said, rel=0.05)


@given(st.lists(st.integers(-1000, 100_000), min_size=3, max_size=9), st.integers(0, 100_000), st.floats(0, 1e4))
def test_whatever_was_counted_can_be_shown(counts: list[int], rows: int, noise_sd: float) -> None:
    edges = tuple(float(one) for one in range(len(counts) - 2))
    found = compare(window(numeric(tuple(counts), tuple(rows / len(counts) for _ in counts), edges), rows, noise_sd), (NOTHING,))

    assert len(found) == (1 if rows >= 1 else 0)
    assert all(np.isfinite([bin_.seen, bin_.sd]).all() for one in found for bin_ in one.bins)


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        (numeric((1, 1, 1, 1, 0), (1.0,) * 5), ["below 1", "1 to 2", "2 to 3", "3 and up", "other"]),
        (numeric((1, 1, 0), (1.0,) * 3, (0.1234567,)), ["below 0.123", "0.123 and up", "other"]),
        (numeric((1, 1, 1, 0), (1.0,) * 4, (1.00001, 1.00002)), ["below 1.00001", "1.00001 to 1.00002", "1.00002 and up", "other"]),
        (numeric((1, 0), (1.0,) * 2, ()), ["any", "other"]),
        (SignalCounts(name="c", kind="categorical", categories=("a", 2.0), counts=(1, 1, 0), expected=(1.0,) * 3), ["a", "2", "other"]),
    ],
)
def test_bins_are_named_as_people_write_them(signal: SignalCounts, expected: list[str]) -> None:
    assert labels(signal) == expected
