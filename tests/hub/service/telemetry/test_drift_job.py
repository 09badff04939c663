"""Intervals over time in the hub: evidence piles up over restarts, an episode is one alert, what comes late is one more factor."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update

from hub.core.drift.detector import Detector
from hub.core.drift.e_values import Part
from hub.database import tables
from hub.database.store import Store, WindowRow
from hub.publish.block_store import BlockStore
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_job import Settling
from schemas import codec
from schemas.analytics_messages import Alert, Drift, MergedWindow
from schemas.manifest import Manifest
from schemas.names import sha256
from tests.databases import url_of
from tests.hub.hubs import START, WINDOW_SECONDS, Fleet

ROWS = 400


class Hub:
    """Settling over a real store and repository, with a clock of ours."""

    def __init__(self, directory: Path) -> None:
        self.fleet, self.now = Fleet(directory), float(START)
        self.manifest = self.fleet.publish("1.0.0")
        self.digest = sha256(codec.encode(self.manifest))
        self.rng, self.sent = np.random.default_rng(7), 0
        self.owns: dict[int, np.ndarray] = {}  # nodes' own baselines, noised once
        self.said: list[MergedWindow | Drift | Alert] = []
        self.start()

    def start(self) -> None:
        """A new process over the same database."""
        self.store = Store(url_of(self.fleet.directory / "hub.sqlite"), clock=lambda: self.now)
        self.store.create()
        notes = Notes(self.store, publish=self.said.append, clock=lambda: self.now)
        self.settling = Settling(
            store=self.store,
            notes=notes,
            releases=Releases(self.fleet.repository, BlockStore(self.fleet.directory / "blocks")),
            publish=lambda document, retain=False: self.said.append(document),
            settled=lambda *_: None,
            cohort_nodes_min=3,
            settle_seconds=0,
            trim_outlying=False,
            alpha=0.01,
            run_length=1000.0,
            clock=lambda: self.now,
        )

    def hear(self, hour: int, *, shift: float = 0.0, windows: int = 10, cohort: str = "nyc", seconds: int = WINDOW_SECONDS) -> None:
        """Windows of an hour come, with their noise."""
        signal = self.manifest.baseline.signals[0]  # type: ignore[union-attr]
        sigma2 = self.manifest.privacy.sigma2  # type: ignore[union-attr]
        for _ in range(windows):
            bins = np.searchsorted(signal.edges, self.rng.normal(shift, 1, ROWS), side="right")
            counts = np.bincount(bins, minlength=signal.bins) + np.round(self.rng.normal(0, math.sqrt(sigma2), signal.bins)).astype(int)
            self.sent += 1
            self.store.add_windows(
                [
                    WindowRow(
                        self.sent.to_bytes(16, "big"),
                        release=self.digest,
                        model="delay",
                        cohort=cohort,
                        start=START + hour * WINDOW_SECONDS,
                        seconds=seconds,
                        counts=[int(one) for one in counts],
                    )
                ]
            )

    def hear_calibrated(self, hour: int, *, shift: float = 0.0, windows: int = 20, own_rows: int = 4096, groups: int = 1) -> None:
        """Windows of nodes far from the reference, as differences from what each has seen of itself."""
        signal = self.manifest.baseline.signals[0]  # type: ignore[union-attr]
        sigma = math.sqrt(self.manifest.privacy.sigma2)  # type: ignore[union-attr]

        def noised(place: float, rows: int) -> np.ndarray:
            bins = np.searchsorted(signal.edges, self.rng.normal(place, 1, rows), side="right")
            return np.bincount(bins, minlength=signal.bins) + np.round(self.rng.normal(0, sigma, signal.bins))

        share = ROWS / own_rows
        for node in range(windows):
            place = 1.5 if node % 2 else -1.5
            self.owns.setdefault(node, noised(place, own_rows))
            self.sent += 1
            self.store.add_windows(
                [
                    WindowRow(
                        self.sent.to_bytes(16, "big"),
                        release=self.digest,
                        model="delay",
                        cohort="nyc",
                        start=START + hour * WINDOW_SECONDS,
                        seconds=WINDOW_SECONDS,
                        counts=[int(one) for one in np.round(noised(place + shift, ROWS) - share * self.owns[node])],
                        rows=ROWS,
                        calibrated=True,
                        reference_rows=ROWS * share,
                        noise_units=1 + share**2,
                        group=node % groups,
                    )
                ]
            )

    def hear_zeros(self, hour: int, *, rows: int, group: int = 3) -> None:
        """One node says that nothing has changed in so many rows, by a baseline that supports them."""
        self.sent += 1
        self.store.add_windows(
            [
                WindowRow(
                    self.sent.to_bytes(16, "big"),
                    release=self.digest,
                    model="delay",
                    cohort="nyc",
                    start=START + hour * WINDOW_SECONDS,
                    seconds=WINDOW_SECONDS,
                    counts=[0] * self.manifest.baseline.bins,  # type: ignore[union-attr]
                    rows=rows,
                    calibrated=True,
                    reference_rows=4.0 * rows,
                    noise_units=17.0,
                    group=group,
                )
            ]
        )

    def settle(self) -> None:
        """Time passes."""
        self.now += WINDOW_SECONDS
        self.settling.tick()

    def drift(self, hour: int, cohort: str = "nyc") -> Drift:
        """What is kept of an hour."""
        (found,) = [one for one in self.store.drifts("delay") if one.start == START + hour * WINDOW_SECONDS and one.cohort == cohort]
        return found

    def counted(self, hour: int) -> Part | None:
        """What its stream has counted of an hour."""
        found = self.store.counted(self.digest, "nyc", START + hour * WINDOW_SECONDS, WINDOW_SECONDS, calibrated=False)
        return None if found is None else Part.model_validate_json(found)

    def alerts(self) -> list[Alert]:
        """Alerts on drift, so far."""
        return [one for one in self.said if isinstance(one, Alert)]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "fleet")


def test_a_small_shift_adds_up_over_hours_to_an_alarm_across_a_restart(hub: Hub) -> None:
    for hour in range(60):
        hub.hear(hour, shift=0.0 if hour < 20 else 0.09)
        hub.settle()
        hub.start()

    kinds = {hour: hub.drift(hour).alarm_kind for hour in range(60)}
    first = next(hour for hour, kind in kinds.items() if kind is not None)
    assert first >= 20
    assert kinds[first] in ("time", "both")
    found = hub.drift(first)
    assert found.evidence is not None
    assert found.evidence_needed == 3.0
    assert found.evidence >= 3.0
    assert found.streams == 1
    assert found.signals[0].direction_since == "higher"
    assert abs((found.since or 0) - START - 20 * WINDOW_SECONDS) <= 8 * WINDOW_SECONDS


def test_an_episode_is_one_alert_when_it_is_raised_and_one_when_it_is_over(hub: Hub) -> None:
    for hour in range(30):
        hub.hear(hour, shift=1.0 if 5 <= hour < 12 else 0.0)
        hub.settle()

    assert [one.kind for one in hub.alerts()] == ["drift", "drift_over"]
    raised = hub.alerts()[0]
    assert (raised.since, raised.alarm_kind) == (START + 5 * WINDOW_SECONDS, "both")
    assert "hour is higher" in raised.text
    events = [hub.drift(hour).episode for hour in range(30)]
    assert events[:5] == [None] * 5
    assert events[5] == "raised"
    assert set(events[6:12]) == {"lasting"}
    assert events.count("over") == 1


def test_differences_from_nodes_own_baselines_are_followed_in_the_same_stream(hub: Hub) -> None:
    """Sites that are unlike the reference, each like itself: no alarm, until they change."""
    for hour in range(24):
        hub.hear_calibrated(hour, shift=0.0 if hour < 12 else 0.4)
        hub.settle()

    found = [hub.drift(hour) for hour in range(24)]
    assert {one.calibrated for one in found} == {True}
    assert [one.alarm for one in found[:12]] == [False] * 12
    assert found[12].alarm or found[13].alarm
    assert found[13].signals[0].direction == "higher"
    assert [one.kind for one in hub.alerts()] == ["drift"]


def test_calibrated_and_other_windows_of_one_hour_have_a_result_each(hub: Hub) -> None:
    hub.hear(0)
    hub.hear_calibrated(0)
    hub.settle()

    found = [one for one in hub.store.drifts("delay") if one.start == START]
    assert sorted(one.calibrated is True for one in found) == [False, True]
    assert {one.streams for one in found} == {1}


def test_late_windows_are_counted_once_and_in_their_own_hour(hub: Hub) -> None:
    hub.hear(0)
    hub.settle()
    hub.hear(1)
    hub.settle()
    once = codec.decode(Detector, hub.store.streams()[0].state)
    hub.hear(0, windows=4)
    hub.settle()

    twice = codec.decode(Detector, hub.store.streams()[0].state)
    assert (once.intervals, twice.intervals) == (2, 2)
    assert once.evidence != twice.evidence
    assert hub.drift(0).windows == 14
    (row,) = [one for one in hub.store.intervals("delay") if one.start == START]
    counted = hub.counted(0)
    assert counted is not None
    assert (counted.windows, counted.counts) == (14, row.counts)


def test_two_intervals_of_one_stream_that_begin_at_one_moment_are_both_learnt_from(hub: Hub) -> None:
    for hour in (0, 1):
        hub.hear(hour)
        hub.settle()
    hub.hear(2)
    hub.hear(2, seconds=2 * WINDOW_SECONDS)
    hub.settle()

    (stream,) = hub.store.streams()
    assert hub.counted(2) is not None
    assert hub.store.counted(hub.digest, "nyc", START + 2 * WINDOW_SECONDS, 2 * WINDOW_SECONDS, calibrated=False) is not None
    first = codec.decode(Detector, stream.state)
    assert first.rows[-1] > 1.5 * first.rows[0]  # the moment's rows of both


def test_an_alarm_stays_when_what_comes_late_speaks_against_it(hub: Hub) -> None:
    hub.hear(0, shift=1.0, windows=4)
    hub.settle()
    hub.hear(0, windows=40)
    hub.settle()

    assert hub.drift(0).alarm
    assert [one.kind for one in hub.alerts()] == ["drift"]


def test_an_hour_of_too_few_nodes_is_evidence_of_nothing_until_enough_have_come(hub: Hub) -> None:
    hub.hear(0, shift=3.0, windows=2)
    hub.settle()
    before = hub.store.streams()
    hub.hear(0, shift=3.0, windows=1)
    hub.settle()

    assert before == []
    assert (hub.counted(0) or pytest.fail("nothing")).windows == 3
    assert hub.drift(0).alarm


def test_quiet_cohorts_raise_the_bar_for_each_other_and_drifting_ones_share_it(hub: Hub) -> None:
    cohorts = [f"c{number}" for number in range(8)]
    for hour in range(3):
        for cohort in cohorts:
            hub.hear(hour, cohort=cohort, windows=3, shift=1.0 if hour == 2 else 0.0)
        hub.settle()

    bars = [hub.drift(hour, cohort).evidence_needed for hour in (1, 2) for cohort in cohorts]
    assert bars[:8] == [round(math.log10(8000), 3)] * 8
    assert max(bars[8:]) <= 3.1  # type: ignore[type-var]
    assert len(hub.alerts()) == 8


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"not msgpack at all"])
def test_a_state_that_cannot_be_read_begins_anew_and_the_hour_is_tested(hub: Hub, damage: bytes) -> None:
    hub.hear(0)
    hub.settle()
    _damage(hub, lambda state: damage)
    hub.start()
    hub.hear(1, shift=1.0)
    hub.settle()

    assert hub.drift(1).alarm
    assert codec.decode(Detector, hub.store.streams()[0].state).intervals == 1


def test_a_state_of_other_components_begins_anew(hub: Hub) -> None:
    hub.hear(0)
    hub.settle()
    _damage(hub, lambda state: codec.encode(codec.decode(Detector, state).model_copy(update={"components": 99})))
    hub.start()
    hub.hear(1)
    hub.settle()

    assert codec.decode(Detector, hub.store.streams()[0].state).intervals == 1


def test_streams_of_which_nothing_came_for_long_do_not_raise_the_bar(hub: Hub) -> None:
    hub.hear(0, cohort="gone")
    hub.settle()
    hub.now += 40 * 86_400
    hub.store.prune()
    hub.start()
    hub.hear(1)
    hub.settle()

    assert hub.drift(1).streams == 1


def _damage(hub: Hub, change: Callable[[bytes], bytes]) -> None:
    with hub.store.database.write() as db:
        state = db.execute(select(tables.streams.c.state)).scalar_one()
        db.execute(update(tables.streams).values(state=change(state)))


def test_an_untestable_hour_is_told_and_the_others_are_tested(hub: Hub) -> None:
    other = Manifest(**{**dict(hub.manifest), "version": "6.6.6"})
    hub.hear(0)
    hub.store.add_windows(
        [
            WindowRow(
                bytes(16),
                release=sha256(codec.encode(other)),
                model="delay",
                cohort="nyc",
                start=START,
                seconds=WINDOW_SECONDS,
                counts=[1] * 9,
            )
        ]
    )
    hub.settle()

    assert hub.drift(0).windows == 10
    assert hub.store.unsettled_intervals(int(hub.now)) == []


@pytest.mark.parametrize("when", ["never", "first", "last"])
def test_one_heavy_window_hides_no_drift_of_a_hundred_others(hub: Hub, when: str) -> None:
    for hour in range(2):
        if when == "first":
            hub.hear_zeros(hour, rows=1_000_000)
        hub.hear_calibrated(hour, shift=2.0 * hour, windows=100, groups=8)
        if when == "last":
            hub.hear_zeros(hour, rows=1_000_000)
        hub.settle()

    assert [one.alarm for one in (hub.drift(0), hub.drift(1))] == [False, True]
    assert hub.drift(1).signals[0].size == pytest.approx(1.17 if when == "never" else 1.15, rel=0.02)


def test_a_busy_node_among_idle_ones_makes_no_alarm_and_hides_none(hub: Hub) -> None:
    for hour in range(6):
        hub.hear_calibrated(hour, shift=1.0 if hour == 5 else 0.0, windows=40, groups=8)
        hub.hear_zeros(hour, rows=200 * ROWS)
        hub.settle()

    assert [hub.drift(hour).alarm for hour in range(6)] == [False] * 5 + [True]
