"""What is shown of intervals: added up where they are of one kind, and differences put on top of the reference."""

from pathlib import Path

import pytest

from hub.core.drift.periods import on_reference, together
from schemas.analytics_messages import MergedWindow, SignalCounts
from schemas.manifest import Manifest
from tests.hub.drifted import Days

BINS = 9


def window(start: int, counts: tuple[int, ...], *, windows: int = 4, rows: int = 800, calibrated: bool | None = None) -> MergedWindow:
    expected = (0.0,) * BINS if calibrated else (100.0,) * BINS
    signal = SignalCounts(name="delay", kind="numeric", edges=tuple(map(float, range(BINS - 2))), counts=counts, expected=expected)
    fields = {"model": "delay", "version": "1.0.0", "cohort": "nyc", "start": start, "seconds": 60, "windows": windows, "rows": rows}
    return MergedWindow(**fields, noise_sd=3.0, epsilon=1.0, delta=1e-6, signals=(signal,), calibrated=calibrated)  # type: ignore[arg-type]


def test_intervals_add_up_and_their_noise_by_its_variance() -> None:
    found = together([window(120, (1,) * BINS), window(0, (2,) * BINS)])

    assert found is not None
    assert (found.start, found.seconds, found.windows, found.rows) == (0, 180, 8, 1600)
    assert found.signals[0].counts == (3,) * BINS
    assert found.noise_sd == pytest.approx(3 * 2**0.5)


def test_of_counts_and_differences_those_of_more_nodes_are_taken() -> None:
    found = together([window(0, (1,) * BINS), window(0, (5,) * BINS, windows=9, calibrated=True)])

    assert found is not None
    assert (found.windows, found.signals[0].counts) == (9, (5,) * BINS)
    assert together([]) is None


def test_differences_are_put_on_top_of_the_reference(tmp_path: Path) -> None:
    manifest: Manifest = Days(tmp_path / "fleet").publish("1.0.0")
    assert manifest.baseline is not None
    change = (-60, 0, 0, 0, 0, 0, 0, 60, 0)
    signals = tuple(
        SignalCounts(
            name=one.name,
            kind=one.kind,
            edges=one.edges,
            categories=one.categories,
            counts=(-60, *(0,) * (one.bins - 3), 60, 0),
            expected=(0.0,) * one.bins,
        )
        for one in manifest.baseline.signals
    )
    three = window(0, change, calibrated=True).model_copy(update={"signals": signals})

    found = on_reference(three, manifest)

    assert sum(found.signals[0].expected) == pytest.approx(800, abs=0.1)
    assert found.signals[0].counts[0] == round(found.signals[0].expected[0]) - 60
    assert found.signals[0].counts[-2] == round(found.signals[0].expected[-2]) + 60
    assert on_reference(window(0, (1,) * BINS), manifest) == window(0, (1,) * BINS)
