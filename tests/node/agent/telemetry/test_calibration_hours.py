"""A node's own baseline where hours of the week have references of their own: gathered by day, it fits the night; an old store is read."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from hub.core.publish.baseline import SignalSpec, Times, build_baseline
from node.core.telemetry.privatise import usual_of
from node.storage.store import NodeStore
from schemas.manifest import Manifest
from schemas.signals import Season
from schemas.window import Expectation, read_counts
from tests.node.agent.telemetry.test_windows import Site, manifest

HALF_DAY, ROWS = 12 * 3600, 2000
DAY_AND_NIGHT = Season(hours=12)


def seasonal() -> Manifest:
    """The reference is 0 by day and 2 by night, in standard deviations."""
    rng = np.random.default_rng(0)
    times = rng.integers(0, 40 * 86_400, 8000)
    values = rng.normal(np.where(times % 86_400 < HALF_DAY, 0.0, 2.0), 1.0)
    spec = SignalSpec("x", "numeric", "input", "x")
    return manifest(
        baseline=build_baseline([(spec, values)], None, times=Times(times.astype(np.int64), DAY_AND_NIGHT), calibration_rows=1024)
    )


def differences(site: Site, release: Manifest) -> dict[int, np.ndarray]:
    assert release.baseline is not None
    assert release.privacy is not None
    expectation, bins = Expectation(release.baseline), release.baseline.bins
    windows = [window for window in site.windows() if window.own_rows_log2 is not None]
    return {one.start: read_counts(one, expectation=expectation, privacy=release.privacy, bins=bins) for one in windows}


def test_a_baseline_that_was_gathered_by_day_fits_the_night_after_a_restart_too(tmp_path: Path) -> None:
    release, rng = seasonal(), np.random.default_rng(1)
    site = Site(tmp_path, rho_day_max=5.0, release=release)
    for minute in range(2):
        site.rows(rng.normal(0.2, 1, ROWS), at=60.0 * minute + 1)  # a site that is 0.2 above the reference, whatever the hour
    site.rows(rng.normal(0.2, 1, ROWS), at=300.0)
    site.telemetry.tick(site.now)
    site.store.close()

    again = Site(tmp_path, rho_day_max=5.0, release=release)
    again.rows(rng.normal(2.2, 1, ROWS), at=HALF_DAY + 1.0)
    again.rows(rng.normal(0.2, 1, ROWS), at=HALF_DAY + 61.0)  # by night as it is by day: this is another
    again.rows(np.zeros(1), at=HALF_DAY + 300.0)
    again.telemetry.tick(again.now)

    found = differences(again, release)
    assert np.abs(found[HALF_DAY]).max() < 0.15 * ROWS
    assert np.abs(found[HALF_DAY + 60]).max() > 0.2 * ROWS
    assert again.telemetry.budget(again.now).calibrating is None


def test_what_is_usual_is_the_reference_of_the_hours_in_their_shares() -> None:
    (signal,) = seasonal().baseline.signals  # type: ignore[union-attr]
    assert signal.seasons is not None
    day, night = (np.array(counts) / sum(counts) for counts in signal.seasons)

    np.testing.assert_allclose(usual_of(signal, 1000, [300, 100]), 1000 * (0.75 * day + 0.25 * night), atol=0.51)
    np.testing.assert_allclose(usual_of(signal, 1000, [0, 7]), 1000 * night, atol=0.51)


def test_a_store_of_a_first_node_keeps_its_baselines(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "node.sqlite") as db:
        db.execute("CREATE TABLE own (signal BLOB PRIMARY KEY, counts TEXT NOT NULL, rows INTEGER NOT NULL)")
        db.execute("INSERT INTO own VALUES (?, '5,-1,7', 1024)", (b"key",))

    store = NodeStore(tmp_path / "node.sqlite")
    store.put_own([(b"new", [1, 2], 512, [300, 212])])

    assert store.own([b"key", b"new", b"none"]) == {b"key": ([5, -1, 7], 1024, []), b"new": ([1, 2], 512, [300, 212])}


@pytest.mark.parametrize("document", ['{"counts": [9], "rows": 1000, "days": [0]}'])
def test_what_a_first_node_gathered_without_hours_is_gathered_anew(tmp_path: Path, document: str) -> None:
    release = seasonal()
    site = Site(tmp_path, rho_day_max=5.0, release=release)
    site.store.put_gathering("m", site.digest, document)

    site.rows(np.zeros(300), at=1.0)
    site.rows(np.zeros(1), at=300.0)
    site.telemetry.tick(site.now)

    assert site.telemetry.budget(site.now).calibrating == ("m",)
    assert '"hours": [' in (site.store.gathering("m", site.digest) or "")
