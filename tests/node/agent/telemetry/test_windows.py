"""A window is charged before it leaves, leaves once, and not at all when the day's budget is spent."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from hub.core.drift.windows import Reader
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from node.agent.telemetry.windows import Telemetry
from node.core.telemetry.privacy import day_of
from node.serving.loaded_model import Observation
from node.storage.store import NodeStore
from schemas import codec
from schemas.errors import Code, Refused
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.signals import Privacy, Signal
from schemas.window import Expectation, Window, read_counts
from tests.small_disk import small_disk

DIGEST = sha256(b"release")


def manifest(*, calibration_rows: int | None = None, signals: tuple[Signal, ...] = (), **changes: Any) -> Manifest:
    block = Block(sha256(b"x"), 1)
    numerator, denominator = sigma2_for(1.0, 1e-6, 1)
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
    baseline = build_baseline(
        [(SignalSpec("x", "numeric", "input", "x"), np.random.default_rng(0).normal(size=200))],
        None,
        calibration_rows=calibration_rows,
        unreferenced=signals,
    )
    fields = {
        "model": "m",
        "version": "1.0.0",
        "created": 1,
        "inputs": (tensor,),
        "outputs": (tensor,),
        "variants": (Variant(name="v", files=(File(path="m.onnx", bytes=1, digest=block.digest, blocks=(block,)),)),),
        "baseline": baseline,
        "privacy": Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=60),
    }
    return Manifest(**{**fields, **changes})


class Site:
    def __init__(
        self,
        folder: Path,
        *,
        rho_day_max: float = 0.7,
        waiting_max: int = 1000,
        waiting_bytes_max: int = 2**20,
        now: float = 1_000_000_000.0,
        cohort: str = "lab",
        release: Manifest | None = None,
        digest: bytes = DIGEST,
        sends: bool = True,
    ) -> None:
        self.now, self.digest = now, digest
        self.store = NodeStore(folder / "node.sqlite")
        self.telemetry = Telemetry(
            store=self.store,
            topic=lambda model, cohort: f"{model}/{cohort}",
            cohort=cohort,
            rho_day_max=rho_day_max,
            grace_seconds=0,
            idle_seconds=10,
            witness=folder / "elsewhere" / "ledger.witness",
            waiting_max=waiting_max,
            waiting_bytes_max=waiting_bytes_max,
            sends=sends,
            clock=lambda: self.now,
        )
        self.telemetry.watch(digest, release or manifest())

    def see(self, rows: int, at: float | None = None) -> None:
        values = np.zeros((rows, 1), np.float32)
        self.telemetry.observe(Observation("m", self.digest, {"x": values}, {}, rows, at))

    def rows(self, values: np.ndarray, at: float) -> None:
        """Rows whose numbers matter."""
        column = np.asarray(values, np.float32).reshape(-1, 1)
        self.telemetry.observe(Observation("m", self.digest, {"x": column}, {}, len(column), at))

    def minutes(self, count: int, rows: int, *, begin: int = 0) -> None:
        """So many full windows."""
        rng = np.random.default_rng(begin)
        for minute in range(begin, begin + count):
            self.rows(rng.normal(size=rows), at=60.0 * minute + 1)
        self.rows(np.zeros(1), at=60.0 * (begin + count) + 120)
        self.telemetry.tick(self.now)

    def windows(self) -> list[Window]:
        return [codec.decode(Window, one.payload) for one in self.store.waiting(100) if one.kind == "window"]


def test_a_closed_window_is_charged_and_waits_in_the_outbox(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(50, at=30.0)
    site.see(50, at=100.0)

    site.telemetry.tick(site.now)

    assert [window.start for window in site.windows()] == [0]
    assert site.store.spent([0]) > 0
    assert site.windows()[0].release == DIGEST[:8]


def test_rows_without_a_time_are_of_now(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(5)
    site.telemetry.tick(site.now)

    site.telemetry.tick(site.now + 200)

    assert [window.start for window in site.windows()] == [int(site.now // 60 * 60)]
    assert site.telemetry.budget(site.now).rho_spent == site.store.spent([day_of(int(site.now))])


def test_past_the_daily_budget_nothing_leaves_and_the_node_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=0.06)  # one window of one signal costs about 0.028
    for minute in range(4):
        site.see(5, at=60.0 * minute + 1)
    site.see(5, at=10_000.0)

    site.telemetry.tick(site.now)

    budget = site.telemetry.budget(0.0)
    assert len(site.windows()) == 2
    assert budget.windows_withheld == 2
    assert budget.rho_spent <= 0.06


def test_an_interval_is_never_released_twice(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(5, at=1.0)
    site.see(5, at=100.0)
    site.telemetry.tick(site.now)
    sent = site.store.waiting(10)

    site.see(5, at=2.0)  # late
    site.telemetry.tick(site.now)

    assert site.store.waiting(10) == sent


def test_a_death_loses_no_more_than_what_came_since_the_checkpoint(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(1000, at=1.0)
    site.telemetry.checkpoint()
    site.store.close()

    again = Site(tmp_path)
    again.see(1, at=100.0)
    again.telemetry.tick(again.now)

    assert again.windows()[0].rows == pytest.approx(1000, abs=100)


def test_a_release_without_signals_sends_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    bare = manifest().model_copy(update={"baseline": None, "privacy": None})

    site.telemetry.watch(sha256(b"other"), bare)
    site.telemetry.observe(Observation("m", sha256(b"other"), {}, {}, 1, 1.0))
    site.telemetry.tick(site.now)

    assert site.windows() == []


# Rows that are not as they should be


def odd(site: Site) -> dict[str, int]:
    site.telemetry.checkpoint()
    return {code: rows for _, _, code, rows in site.store.odd()}


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.array([[np.nan], [np.inf], [1.0]], np.float32), "rows.not_finite"),
        (np.array([["a"], ["b"]], object), "rows.datatype"),
        (np.zeros((2, 0), np.float32), "rows.wrong_shape"),
        (np.zeros(3, np.float32).reshape(3, 1)[:2].repeat(2, axis=0)[:3], "rows.wrong_shape"),
    ],
)
def test_rows_that_cannot_be_counted_are_other_and_told_on_the_device(tmp_path: Path, values: np.ndarray, code: str) -> None:
    site = Site(tmp_path)
    rows = 2 if code == "rows.wrong_shape" else len(values)
    site.telemetry.observe(Observation("m", DIGEST, {"x": values}, {}, rows, 1.0))
    site.rows(np.zeros(50), at=2.0)

    site.rows(np.zeros(1), at=500.0)
    site.telemetry.tick(site.now)

    assert list(odd(site)) == [code]
    assert len(site.windows()) == 1, "the rest is counted"


def test_rows_from_the_future_are_not_counted_and_close_no_window(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(5, at=site.now)

    site.see(5, at=site.now + 2 * 3600)
    site.telemetry.tick(site.now)

    assert odd(site) == {"rows.future": 5}
    assert site.windows() == []


def test_late_rows_are_dropped_and_their_interval_is_said_and_not_their_number(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.minutes(1, 50)

    site.see(7, at=2.0)
    site.see(1, at=600.0)
    site.telemetry.tick(site.now)

    assert odd(site)["rows.late"] == 7
    assert site.telemetry.budget(site.now).intervals_late == 1


# The ledger


def test_every_charge_is_an_entry_and_the_state_says_how_many(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.minutes(3, 20)

    budget = site.telemetry.budget(site.now)

    assert budget.ledger_entries == 3
    assert budget.code is None


def test_an_old_copy_of_the_ledger_sends_nothing_of_a_day(tmp_path: Path) -> None:
    site = Site(tmp_path, now=1000.0)
    site.minutes(2, 20)
    site.store.close()
    shutil.copy(tmp_path / "node.sqlite", tmp_path / "backup.sqlite")
    site = Site(tmp_path, now=1000.0)
    site.minutes(2, 20, begin=10)
    site.store.close()

    for leftover in tmp_path.glob("node.sqlite*"):
        leftover.unlink()
    shutil.copy(tmp_path / "backup.sqlite", tmp_path / "node.sqlite")
    site = Site(tmp_path, now=2000.0)
    site.minutes(2, 20, begin=20)
    silent = site.telemetry.budget(site.now)
    before = len(site.windows())
    site.now += 86_400 + 1
    site.minutes(1, 20, begin=int(site.now) // 60 + 1)

    assert silent.code == "ledger.rolled_back"
    assert before == 2, "of before the copy was made"
    assert site.store.withheld() == {"ledger.rolled_back": 4}, "one of them was open in the copy"
    assert len(site.windows()) == 3
    assert site.telemetry.budget(site.now).code is None


def test_a_lost_database_beside_its_witness_sends_nothing_of_a_day(tmp_path: Path) -> None:
    site = Site(tmp_path, now=1000.0)
    site.minutes(2, 20)
    site.store.close()
    for leftover in tmp_path.glob("node.sqlite*"):
        leftover.unlink()

    site = Site(tmp_path, now=1500.0)
    site.minutes(2, 20)

    assert site.windows() == []
    assert site.telemetry.budget(site.now).code == "ledger.rolled_back"


def test_a_ledger_that_was_edited_sends_nothing_of_a_day(tmp_path: Path) -> None:
    site = Site(tmp_path, now=1000.0)
    site.minutes(2, 20)
    site.store._db.execute("UPDATE spent SET rho = 0.0")
    site.store.close()

    site = Site(tmp_path, now=1500.0)
    site.minutes(2, 20, begin=20)

    assert len(site.windows()) == 2, "of before"
    assert site.telemetry.budget(site.now).code == "ledger.tampered"


def test_the_silence_is_kept_over_restarts_and_does_not_begin_again(tmp_path: Path) -> None:
    site = Site(tmp_path, now=1000.0)
    site.minutes(1, 20)
    site.store._db.execute("DELETE FROM ledger")
    site.store.close()
    Site(tmp_path, now=2000.0).store.close()

    later = Site(tmp_path, now=2000.0 + 86_400 - 10)
    assert later.telemetry.budget(later.now).code == "ledger.rolled_back"
    later.now += 20

    assert later.telemetry.budget(later.now).code is None


def test_a_node_of_before_the_chain_goes_on_with_what_it_spent(tmp_path: Path) -> None:
    site = Site(tmp_path, now=1000.0)
    with site.store.transaction():
        site.store.charge([0], 0.5)
    site.store.close()

    again = Site(tmp_path, now=1500.0)

    assert again.telemetry.budget(again.now).code is None
    assert again.store.spent([0]) == 0.5


# The own baseline


def test_after_its_calibration_a_node_sends_how_it_differs_from_itself(tmp_path: Path) -> None:
    release = manifest(calibration_rows=1024)
    site = Site(tmp_path, rho_day_max=5.0, release=release)

    site.minutes(6, 400)

    counts, own = site.windows()[:3], site.windows()[3:]
    assert [window.own_rows_log2 for window in counts] == [None] * 3
    assert {window.own_rows_log2 for window in own} == {10}
    assert release.baseline is not None
    assert release.privacy is not None
    expectation, bins = Expectation(release.baseline), release.baseline.bins
    found = [read_counts(one, expectation=expectation, privacy=release.privacy, bins=bins) for one in own]
    assert abs(np.mean([one.sum() for one in found])) < 60, "differences are of nothing"
    assert all(abs(window.rows - 400) < 60 for window in own)


def test_the_baseline_is_charged_once_to_each_of_its_days_and_never_made_again(tmp_path: Path) -> None:
    release = manifest(calibration_rows=1024)
    site = Site(tmp_path, rho_day_max=5.0, release=release)
    site.minutes(4, 400)
    made = site.store._db.execute("SELECT * FROM own").fetchall()
    site.store.close()

    again = Site(tmp_path, rho_day_max=5.0, release=release)
    again.minutes(4, 400, begin=100)

    entries = again.store.ledger()[1]
    assert [entry.what.split()[0] for entry in entries] == ["window", "baseline", *["window"] * 8]
    assert again.store._db.execute("SELECT * FROM own").fetchall() == made


def test_a_day_that_cannot_pay_for_the_baseline_takes_no_part_in_it(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=0.05, release=manifest(calibration_rows=256))

    with capture_logs() as logs:
        site.minutes(1, 400)

    assert len(site.windows()) == 1
    assert [(one["log_level"], one["ever"]) for one in logs if one["event"] == "baseline.unaffordable"] == [("warning", "never")]
    assert site.telemetry.budget(site.now).calibrating == ("m",)
    assert site.store._db.execute("SELECT count(*) FROM gathering").fetchone() == (0,)


SERVICE = Signal(
    name="service:error", kind="categorical", side="service", tensor="error", categories=("answered", "failed"), counts=(0, 0, 0)
)


def test_a_new_release_keeps_the_baseline_of_its_inputs_and_gathers_what_is_its_own(tmp_path: Path) -> None:
    first, second = (manifest(calibration_rows=256, signals=(SERVICE,), version=version) for version in ("1.0.0", "1.1.0"))
    site = Site(tmp_path, rho_day_max=5.0, release=first)
    site.minutes(2, 400)
    kept = {row[0] for row in site.store._db.execute("SELECT signal FROM own")}
    site.store.close()

    again = Site(tmp_path, rho_day_max=5.0, release=second, digest=sha256(b"another"))
    assert again.telemetry.budget(again.now).calibrating == ("m",)
    again.minutes(2, 400, begin=50)

    after = {row[0] for row in again.store._db.execute("SELECT signal FROM own")}
    costs = [entry.rho for entry in again.store.ledger()[1] if entry.what.startswith("baseline")]
    assert kept < after
    assert len(after) == 3
    assert costs[1] == pytest.approx(costs[0] / 2), "one signal of two is new"


def test_another_site_gathers_anew(tmp_path: Path) -> None:
    release = manifest(calibration_rows=256)
    site = Site(tmp_path, rho_day_max=5.0, release=release)
    site.minutes(2, 400)
    site.store.close()

    moved = Site(tmp_path, rho_day_max=5.0, release=release, cohort="elsewhere")

    assert moved.telemetry.budget(moved.now).calibrating == ("m",)


# Without a road


def test_windows_that_wait_too_long_become_one_in_an_interval_that_all_nodes_share(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=50.0, waiting_max=10)
    release = manifest()
    assert release.baseline is not None
    assert release.privacy is not None

    site.minutes(40, 30)

    windows = site.windows()
    assert len(windows) <= 10
    assert sum(window.noises for window in windows) == 40
    assert all(window.start % window.seconds == 0 and window.seconds // 60 in {1, 2, 4, 8, 16} for window in windows)
    assert len({window.id for window in windows}) == len(windows)
    assert sum(window.rows for window in windows) == pytest.approx(40 * 30, abs=300)
    assert site.telemetry.budget(site.now).windows_merged == 40 - len(windows)
    for window in windows:
        Reader(release, age_days_max=36_500).read(window, now=int(site.now))


def test_bytes_that_wait_are_bounded_too(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=50.0, waiting_bytes_max=600)

    site.minutes(40, 30)

    assert site.store.waiting_bytes("window") <= 600


def test_a_window_that_a_broker_may_have_is_never_part_of_another(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=50.0, waiting_max=8)
    site.minutes(8, 30)
    tried = [number for number, *_ in site.store.waiting_windows()][:4]
    site.store.mark_tried(tried)

    site.minutes(20, 30, begin=100)

    assert set(tried) <= {number for number, *_ in site.store.waiting_windows()}


def test_what_can_be_part_of_no_other_is_let_go_and_counted(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=50.0, waiting_max=8)

    for hour in range(0, 60, 2):
        site.rows(np.zeros(30), at=3600.0 * 2 * hour)
    site.telemetry.tick(site.now)

    assert site.store.count_waiting("window") == 8
    assert site.telemetry.budget(site.now).windows_dropped == 21


def test_merged_differences_are_as_noisy_as_they_say(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=50.0, waiting_max=8, release=manifest(calibration_rows=1024))

    site.minutes(60, 400)

    merged = [window for window in site.windows() if window.own_rows_log2 is not None and window.noises > 1]
    taken = [Reader(manifest(calibration_rows=1024), age_days_max=36_500).read(window, now=int(site.now)) for window in merged]
    assert merged
    assert all(one.noise_units == one.noises + (one.rows / 1024) ** 2 for one in taken)


def fill(disk: Path) -> Path:
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    return disk / "filler"


def turn(site: Site, times: int) -> None:
    for _ in range(times):
        site.telemetry.tick(site.now)
        site.see(10, at=2401.0)
        site.telemetry.checkpoint()


def counted(site: Site) -> dict[int, int]:
    """Rows by window, exactly, of what has not left."""
    return {start: sum(counts) for start, counts in site.telemetry._watched[DIGEST].sketch.snapshot().items()}


def test_windows_that_meet_a_full_disk_are_kept_whole_and_leave_with_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=2 * 2**20) as disk:
        site = Site(disk, rho_day_max=100.0)
        for minute in range(40):
            site.see(10, at=60.0 * minute + 1)
        site.see(10, at=2401.0)
        before = counted(site)
        filler = fill(disk)
        with pytest.raises(Refused) as refused:
            turn(site, 200)  # what the log of the database has room for is written
        assert refused.value.code is Code.DISK_FULL
        open_still = {start: rows for start, rows in before.items() if not site.store.window_closed("m", DIGEST, start)}
        assert open_still
        assert counted(site).items() >= open_still.items()

        filler.unlink()
        site.telemetry.tick(site.now)

        starts = sorted(window.start for window in site.windows())
        assert starts == [60 * minute for minute in range(40)]
        assert site.telemetry.budget(site.now).code is None
        assert site.telemetry.may_leave
        site.store.close()


def test_nothing_leaves_before_the_ledgers_witness_has_seen_its_price(tmp_path: Path) -> None:
    with small_disk(tmp_path / "elsewhere", size_bytes=64 * 1024) as disk:
        site = Site(tmp_path)
        filler = fill(disk)
        site.see(50, at=30.0)
        site.see(50, at=100.0)
        with pytest.raises(Refused) as refused:
            site.telemetry.tick(site.now)
        assert refused.value.code is Code.DISK_FULL
        assert (len(site.windows()), site.telemetry.may_leave, site.telemetry.budget(site.now).code) == (1, False, "disk.full")

        filler.unlink()
        site.telemetry.tick(site.now)

        assert (len(site.windows()), site.telemetry.may_leave, site.telemetry.budget(site.now).code) == (1, True, None)
        site.store.close()


def test_a_window_that_is_open_when_the_cohort_changes_counts_for_the_former(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(5)

    site.telemetry.cohorts.change("moved", at=site.now)
    site.see(5, at=site.now + 70)
    site.see(1, at=site.now + 200)
    site.telemetry.tick(site.now)

    topics = [one.topic for one in site.store.waiting(100) if one.kind == "window"]
    assert topics == ["m/lab", "m/moved"]


def test_windows_that_wait_for_a_former_cohort_can_still_become_one(tmp_path: Path) -> None:
    site = Site(tmp_path, waiting_max=8, rho_day_max=50.0)
    for minute in range(8):
        site.see(5, at=60.0 * minute + 1)
    site.telemetry.tick(site.now)
    site.telemetry.cohorts.change("moved", at=0.0)
    site.see(5, at=60.0 * 8 + 1)
    site.see(1, at=60.0 * 20)
    site.telemetry.tick(site.now)

    assert site.store.fact("windows_dropped") == 0
    assert site.store.fact("windows_merged") > 0


def test_telemetry_that_is_turned_off_counts_nothing_and_goes_on_later(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(5, at=30.0)

    site.telemetry.put_sends(sends=False)
    site.see(7, at=31.0)
    site.telemetry.tick(site.now)
    assert site.windows() == []
    assert site.store.spent([0]) == 0
    site.telemetry.put_sends(sends=True)
    site.see(5, at=100.0)
    site.telemetry.tick(site.now)

    assert [window.start for window in site.windows()] == [0]


def test_a_release_that_begins_to_serve_while_telemetry_is_off_is_counted_later(tmp_path: Path) -> None:
    site = Site(tmp_path, sends=False)
    site.see(5, at=30.0)

    site.telemetry.put_sends(sends=True)
    site.see(5, at=31.0)
    site.see(5, at=100.0)
    site.telemetry.tick(site.now)

    assert [window.start for window in site.windows()] == [0]
