"""One node of twenty moves its cohort by at most twice its share, whatever it says, and honest windows lose nothing by that."""

from random import Random

import numpy as np
import pytest

from bench import influence
from hub.core.drift import interval_significance, intervals, outlier_filter, windows
from hub.core.drift.reference_model import ordinary
from hub.core.drift.stream_alarms import part_of
from hub.core.drift.subgroups import class_weights, classes_of
from hub.core.drift.windows import Reader, Taken
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import Own, noised, noisy
from schemas.errors import Refused
from schemas.manifest import Manifest
from schemas.signals import Privacy
from schemas.window import Window, write_counts
from tests.node.agent.telemetry.test_windows import manifest

SIGNALS, OWN_ROWS, BITS = 4, 1024, BitSource(Random(3).randbytes)
RNG = np.random.default_rng(0)


def release() -> Manifest:
    numerator, denominator = sigma2_for(1.0, 1e-6, SIGNALS)
    values = [(SignalSpec(f"s{at}", "numeric", "input", "x", at), RNG.normal(size=4000)) for at in range(SIGNALS)]
    return manifest(
        baseline=build_baseline(values, None, calibration_rows=OWN_ROWS),
        privacy=Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=60),
    )


RELEASE = release()
BASELINE, PRIVACY = RELEASE.baseline, RELEASE.privacy
assert BASELINE is not None
assert PRIVACY is not None


def counts(rows: int, shift: float = 0.0) -> list[int]:
    assert BASELINE is not None
    found = [
        np.bincount(np.searchsorted(one.edges, RNG.normal(shift, 1, rows), side="right"), minlength=one.bins) for one in BASELINE.signals
    ]
    return [int(count) for one in found for count in one]


def window(rows: int, shift: float = 0.0, *, calibrated: bool = True) -> Window:
    assert BASELINE is not None
    assert PRIVACY is not None
    own = Own(noisy(counts(OWN_ROWS), PRIVACY, BITS), np.full(BASELINE.bins, OWN_ROWS)) if calibrated else None
    return noised(
        counts(rows, shift), baseline=BASELINE, privacy=PRIVACY, bits=BITS, window_id=bytes(16), release=bytes(8), start=0, own=own
    )


def alarms(members: list[Taken]) -> tuple[str, ...]:
    assert BASELINE is not None
    assert PRIVACY is not None
    sums = intervals.add_up(members, range(len(members)))
    whole = intervals.interval(sums, release=bytes(32), model="m", cohort="c", start=0, seconds=60, calibrated=True)
    reference = ordinary(BASELINE, PRIVACY.sigma2)
    believed = outlier_filter.balanced(whole, intervals.subgroups(sums))
    return tuple(
        one.name for one in interval_significance.alarmed(interval_significance.test_interval(part_of(believed, reference), reference))
    )


def test_one_of_twenty_moves_its_cohort_by_at_most_twice_its_share() -> None:
    (figure,) = influence.measure()

    assert 1 <= figure.value <= 2
    assert figure.peer_value is not None
    assert figure.peer_value > 2, "the attack must have been one"


def test_300_rows_of_one_node_in_twenty_raise_no_alarm() -> None:
    reader = Reader(RELEASE)

    members = reader.read_many([window(300, shift=4.0), *[window(30) for _ in range(19)]], now=0)

    assert not any(isinstance(one, Refused) for one in members)
    assert alarms([one for one in members if isinstance(one, Taken)]) == ()


def test_zeros_over_a_million_rows_hide_no_drift_of_19_others() -> None:
    assert BASELINE is not None
    assert PRIVACY is not None
    reader, rows = Reader(RELEASE), 60_000
    empty = write_counts(np.zeros(BASELINE.bins, np.int64), center=None, privacy=PRIVACY)
    lie = Window(id=bytes(16), release=bytes(8), start=0, seconds=60, rows=rows, packed=empty, own_rows_log2=10)

    members = reader.read_many([lie, *[window(300, shift=0.7) for _ in range(19)]], now=0)

    assert len(alarms([one for one in members if isinstance(one, Taken)])) == SIGNALS


@pytest.mark.parametrize(("calibrated", "sds"), [(True, 14), (False, 7)])  # A difference may go twice as far by rows alone.
def test_counts_that_only_look_like_noise_in_each_bin_are_refused(calibrated: bool, sds: int) -> None:
    assert BASELINE is not None
    assert PRIVACY is not None
    honest = window(100, calibrated=calibrated)
    reader = Reader(RELEASE)
    fair = reader.read(honest, now=0)
    tilt = np.tile(np.append(np.sign(np.arange(8) - 3.5), 0.0), SIGNALS) * sds * PRIVACY.sigma2**0.5
    found = fair.counts + np.round(tilt).astype(np.int64)
    center = None if calibrated else windows.Expectation(BASELINE).of(honest.rows, 0)
    lie = honest.model_copy(update={"packed": write_counts(found, center=center, privacy=PRIVACY)})

    with pytest.raises(Refused, match="shape of signal") as caught:
        reader.read(lie, now=0)

    assert caught.value.code == "window.absurd"
    assert [type(one) for one in reader.read_many([honest, lie], now=0)] == [Taken, Refused]


@pytest.mark.parametrize("rows", [0, 20, 300, 3000])
def test_no_honest_window_is_refused_for_its_noise(rows: int) -> None:
    made = [window(rows, shift, calibrated=calibrated) for shift in (0.0, 9.0) for calibrated in (True, False) for _ in range(25)]

    assert [one for one in Reader(RELEASE).read_many(made, now=0) if isinstance(one, Refused)] == []


@pytest.mark.parametrize(
    ("rows", "capped"),
    [
        ([100] * 19 + [1_000_000], 140.0),
        ([10] * 15 + [1000] * 5, 1000.0),  # Idle nodes do not make those that work small.
        ([10] * 19 + [1000], 64.0),  # One alone is no measure for itself.
        ([100] * 3, 100.0),  # Too few to say which is heavy.
    ],
)
def test_a_window_is_weighed_beside_the_median_of_those_with_rows(rows: list[int], capped: float) -> None:
    table: dict[int, list[int]] = {}
    for one in rows:
        table.setdefault(int(classes_of(np.array([float(one)]))[0]), []).append(one)

    shares = class_weights([sum(those) for those in table.values()], [len(those) for those in table.values()])

    weighed = [share * max(those) for share, those in zip(shares, table.values(), strict=True)]
    assert max(weighed) == pytest.approx(capped)


def test_classes_add_up_over_batches_and_an_earlier_hubs_have_none() -> None:
    taken = [
        one for one in Reader(RELEASE).read_many([window(rows) for rows in (50, 100, 110, 3000, 100)], now=0) if isinstance(one, Taken)
    ]

    whole = intervals.add_up(taken, range(5))
    parts = intervals.merge(intervals.add_up(taken[:2], range(2)), intervals.add_up(taken[2:], range(2, 5)), tested=False)
    earlier = intervals.add_up(taken[:2], range(2))
    upgraded = intervals.merge(
        intervals.Sums(2, earlier.rows, 0.0, 2.0, earlier.counts, earlier.groups[:8]), intervals.add_up(taken[2:], range(3)), tested=False
    )

    assert np.array_equal(whole.groups, parts.groups)
    by_rows = intervals.subgroups(whole).by_rows
    assert by_rows is not None
    assert sum(by_rows.windows) == 5
    assert intervals.subgroups(upgraded).by_rows is None
