"""The hub's memory: on disk, in one transaction each, the same thing once."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.rollouts.commands import Halt, Start
from hub.database.drift_queries import Findings
from hub.database.retention import Retention
from hub.database.store import NodeRow, ReceiptRow, RolloutRow, Store, WindowRow
from schemas.analytics_messages import Alert, Drift, SignalDrift
from schemas.errors import Refused
from schemas.names import sha256
from tests.databases import only_sqlite, url_of
from tests.hub.earlier_databases import as_before_versions

RELEASE = sha256(b"release")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    made = Store(url_of(tmp_path / "hub.sqlite"), clock=clock)
    made.create()
    return made


def window(number: int, counts: tuple[int, ...] = (1, 2), start: int = 0, cohort: str = "nyc") -> WindowRow:
    return WindowRow(number.to_bytes(16, "big"), RELEASE, "delay", cohort, start, 3600, counts)


def drift(start: int = 0, alarm: bool = False, version: str = "1.0.0") -> Drift:
    signal = SignalDrift(name="hour", p_value=0.5, p_adjusted=1.0, effect=0.0, size=0.0, direction="shape")
    return Drift(
        model="delay", version=version, cohort="nyc", start=start, seconds=3600, windows=2, alarm=alarm, alpha=0.01, signals=(signal,)
    )


def receipt(sequence: int) -> ReceiptRow:
    return ReceiptRow("n1", sequence, 1000 + sequence, 1, "serving", "delay", "1.0.0", RELEASE, 1, "", "", b"sealed")


def test_everything_is_there_after_a_restart(tmp_path: Path, store: Store) -> None:
    node = NodeRow("n1", 3, "online", 7, b"state", b"key", "nyc")
    rollout = RolloutRow("delay", "default", 2, b"document", 1, None, 1, "waits", "[]", 6, 5, 4, 0, 1, 9)
    store.upsert_node(node)
    store.add_receipts([receipt(1)])
    store.put_rollout_row(rollout)
    store.add_windows([window(1)])
    store.note_sends([(RELEASE, 5, 1600)], [])
    store.close()

    again = Store(url_of(tmp_path / "hub.sqlite"))
    again.create()

    assert again.nodes() == [node]
    assert again.receipts() == [receipt(1)]
    assert again.rollout_rows() == [rollout]
    assert [row.counts for row in again.intervals("delay")] == [(1, 2)]
    assert [(row.digest, row.bytes, row.expires_at) for row in again.retained()] == [(RELEASE, 5, 1600)]


def test_the_same_receipt_twice_is_kept_once(store: Store) -> None:
    assert [one.is_fresh for one in store.add_receipts([receipt(1)])] == [True]
    assert [one.is_fresh for one in store.add_receipts([receipt(1), receipt(2)])] == [False, True]
    assert [row.sequence for row in store.receipts(model="delay", node="n1")] == [2, 1]
    assert len([event for event in store.events() if event.kind == "receipt"]) == 2


def signed(sequence: int, at: int, sealed: bytes, received_at: int = 5) -> ReceiptRow:
    return replace(receipt(sequence), at=at, sealed=sealed, received_at=received_at)


def newest_first(store: Store) -> list[bytes]:
    return [row.sealed for row in store.receipts(node="n1")]


def test_receipts_have_the_order_of_their_numbers_however_late_they_come(store: Store) -> None:
    for row in (signed(3, 30, b"3"), signed(1, 10, b"1", received_at=8), signed(2, 20, b"2", received_at=9)):
        store.add_receipts([row])

    assert newest_first(store) == [b"3", b"2", b"1"]


def test_of_two_receipts_with_one_number_the_first_stays(store: Store) -> None:
    store.add_receipts([signed(1, 10, b"1"), signed(2, 30, b"2")])

    (kept,) = store.add_receipts([signed(1, 20, b"a copy's", received_at=9)])

    assert (kept.is_fresh, kept.epoch) == (False, None)
    assert newest_first(store) == [b"2", b"1"]


def test_a_node_that_counts_anew_is_newer_and_its_old_receipts_come_back_in_vain(store: Store) -> None:
    old = [signed(number, number, b"old %d" % number) for number in (1, 2, 3)]
    store.add_receipts(old)
    store.add_receipts([signed(1, 100, b"new 1")])
    store.add_receipts([signed(2, 101, b"new 2")])

    again = store.add_receipts([replace(one, received_at=500) for one in old])

    assert [one.is_fresh for one in again] == [False, False, False]
    assert newest_first(store) == [b"new 2", b"new 1", b"old 3"]


@only_sqlite
def test_a_database_without_epochs_is_taken_over_with_them(tmp_path: Path, store: Store) -> None:
    store.add_receipts([signed(2, 2, b"old 2", received_at=2), signed(3, 3, b"old 3", received_at=3), signed(1, 100, b"new 1")])
    store.close()
    with sqlite3.connect(tmp_path / "hub.sqlite") as db:
        as_before_versions(db)
        db.execute("ALTER TABLE receipts DROP COLUMN epoch")
    again = Store(url_of(tmp_path / "hub.sqlite"))

    with pytest.raises(Refused, match="earlier version"):
        again.open()
    again.create()

    assert newest_first(again) == [b"new 1", b"old 3", b"old 2"]


def test_a_node_that_changes_its_status_is_an_event_and_one_that_does_not_is_none(store: Store) -> None:
    for status, seen in (("online", 1), ("online", 2), ("lost", 3)):
        store.upsert_node(NodeRow("n1", 1, status, seen, b"", b"", ""))  # type: ignore[arg-type]

    assert [event.body["status"] for event in store.events()] == ["online", "lost"]
    assert [row.last_seen for row in store.nodes()] == [3]


@settings(max_examples=30, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    batches=st.integers(1, 7),
    values=st.lists(st.integers(-(2**31), 2**31), min_size=13, max_size=13),
)
def test_windows_are_counted_once_however_often_and_in_whatever_batches_they_come(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], batches: int, values: list[int]
) -> None:
    store = Store(url_of(tmp_path_factory.mktemp("windows") / "hub.sqlite"))
    store.create()

    fresh = []
    for at in range(0, len(numbers), batches):
        fresh += store.add_windows([window(number, (values[number], 1)) for number in numbers[at : at + batches]])

    (interval,) = store.intervals("delay")
    store.close()
    assert sum(fresh) == interval.windows == len(set(numbers))
    assert interval.counts == (sum(values[number] for number in set(numbers)), len(set(numbers)))


def test_a_batch_that_fails_leaves_nothing_behind(store: Store) -> None:
    store.add_windows([window(1)])

    with pytest.raises(ValueError, match="same shape"):
        store.add_windows([window(2, start=3600), window(3, (1, 2, 3))])

    assert [(row.start, row.windows) for row in store.intervals("delay")] == [(0, 1)]
    assert store.add_windows([window(2), window(3)]) == [True, True]


def test_an_interval_is_unsettled_until_it_is_tested_and_again_when_a_late_window_comes(store: Store, clock: Clock) -> None:
    store.add_windows([window(1)])
    assert store.unsettled_intervals(before=999) == []
    (row,) = store.unsettled_intervals(before=1000)

    store.mark_tested(row, alarmed=True, drift=drift(alarm=True))
    assert store.unsettled_intervals(before=1000) == []
    assert store.known_cohorts() == {("delay", "nyc")}
    clock.now = 2000.0
    store.add_windows([window(2)])

    (late,) = store.unsettled_intervals(before=2000)
    assert (late.windows, late.tested_windows, late.alarmed) == (2, 1, True)


def test_drifts_come_newest_first_and_replace_the_earlier_test_of_their_interval(store: Store) -> None:
    for one in (drift(0), drift(7200), drift(3600), drift(0, alarm=True)):
        store.add_windows([window(one.start + one.alarm, start=one.start)])
        (row,) = store.unsettled_intervals(before=int(store.database.now()))
        store.mark_tested(row, alarmed=one.alarm, drift=one)

    assert [(one.start, one.alarm) for one in store.drifts("delay")] == [(7200, False), (3600, False), (0, True)]
    assert Findings(store.database).alarmed_since("delay", "1.0.0", 1000)
    assert not Findings(store.database).alarmed_since("delay", "1.0.0", 1001)
    assert not Findings(store.database).alarmed_since("delay", "1.1.0", 0)


def test_commands_wait_for_the_hub_and_carry_its_answer_back(store: Store) -> None:
    first, second = store.add_command("delay", Start(version="1.0.0")), store.add_command("delay", Halt())

    assert [(row.id, row.kind) for row in store.open_commands()] == [(first, "start"), (second, "halt")]
    store.finish_command(first, ok=True, text="has begun")
    store.finish_command(second, ok=False, text="is not running", code="rollout.invalid")

    assert store.open_commands() == []
    answers = [store.command(one) for one in (first, second)]
    assert [(row.state, row.text, row.code) for row in answers if row] == [
        ("done", "has begun", ""),
        ("refused", "is not running", "rollout.invalid"),
    ]


def test_alerts_and_refusals_are_events_too(store: Store) -> None:
    first = store.add_alert(Alert(kind="refused", at=1, code="trust.signature", text="a stranger"))
    store.add_refusal(2, "fleetcast/v1/main/trust", "trust.signature", "not ours")

    assert [(row.id, row.alert.code) for row in store.alerts()] == [(first, "trust.signature")]
    assert store.alerts(since_id=first) == []
    assert [(row.topic, row.code) for row in store.refusals()] == [("fleetcast/v1/main/trust", "trust.signature")]
    events = store.events()
    assert [(event.kind, event.body.get("code")) for event in events] == [("alert", None), ("refusal", "trust.signature")]
    assert events[0].body["alert"]["code"] == "trust.signature"
    assert store.events(since_id=events[0].id) == events[1:]


def test_what_is_sent_is_counted_and_what_is_retained_is_noted(store: Store) -> None:
    a, b = sha256(b"a"), sha256(b"b")
    store.note_sends([(a, 10, 1600), (b, 20, None)], [])
    store.note_sends([(a, 10, 1700)], [])

    assert store.publish_counts([a, b]) == {a: 2, b: 1}
    assert [(row.digest, row.expires_at) for row in store.retained()] == [(a, 1700)]
    store.note_sends([], [a])
    assert store.retained() == []


def test_ids_of_windows_long_gone_and_old_events_are_forgotten(store: Store, clock: Clock) -> None:
    store.add_windows([window(1)])
    for number in range(5):
        store.add_event("note", str(number))
    clock.now += 36 * 24 * 3600

    store.prune(Retention(events_kept=2))

    assert [event.text for event in store.events()] == ["3", "4"]
    assert store.add_windows([window(1)]) == [True]


def test_intervals_drifts_and_alerts_are_kept_as_long_as_the_operator_says(store: Store, clock: Clock) -> None:
    store.add_windows([window(1)])
    (row,) = store.intervals("delay")
    store.mark_tested(row, alarmed=False, drift=drift())
    store.add_windows([window(2, start=3600)])
    store.add_alert(Alert(kind="refused", at=int(clock.now), code="x", text="a stranger"))
    store.add_refusal(int(clock.now), "topic", "x", "not ours")
    clock.now += 11 * 24 * 3600

    store.prune(Retention(intervals_days=10, history_days=12))
    assert [row.start for row in store.intervals("delay")] == [3600], "what was not tested yet is kept"
    assert (len(store.drifts()), len(store.alerts()), len(store.refusals())) == (1, 1, 1)
    store.prune(Retention(history_days=10))

    assert (store.drifts(), store.alerts(), store.refusals()) == ([], [], [])


def test_calibrated_windows_are_added_up_apart_and_sub_groups_are_kept(store: Store) -> None:
    own = {"calibrated": True, "reference_rows": 2.5, "noise_units": 1.25}
    rows = [replace(window(number), rows=10, group=number % 2, **(own if number < 4 else {})) for number in range(7)]  # type: ignore[arg-type]
    store.add_windows(rows)

    plain, calibrated = sorted(store.intervals("delay"), key=lambda row: row.calibrated)
    groups = calibrated.groups

    assert (plain.windows, plain.rows, plain.reference_rows, plain.noise_units) == (3, 30, 0.0, 3.0)
    assert (calibrated.windows, calibrated.rows, calibrated.reference_rows, calibrated.noise_units) == (4, 40, 10.0, 5.0)
    assert (groups.windows[:3], groups.rows[:3]) == ((2, 2, 0), (20, 20, 0))
    assert groups.counts.sum(axis=0).tolist() == list(calibrated.counts)


def test_windows_after_the_first_test_are_late(store: Store) -> None:
    store.add_windows([window(1)])
    store.mark_tested(store.intervals("delay")[0], alarmed=False)

    store.add_windows([window(2), window(3)])

    assert [(row.windows, row.late) for row in store.intervals("delay")] == [(3, 2)]


@only_sqlite
def test_what_a_first_hub_added_up_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite"
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE intervals (release BLOB NOT NULL, cohort VARCHAR(64) NOT NULL, start BIGINT NOT NULL, seconds BIGINT NOT NULL,"
            " model VARCHAR(64) NOT NULL, windows BIGINT NOT NULL, counts BLOB NOT NULL, last_at BIGINT NOT NULL,"
            " tested_windows BIGINT NOT NULL, alarmed BOOLEAN NOT NULL, PRIMARY KEY (release, cohort, start, seconds))"
        )
        counts = np.array([5, 6], np.int64).tobytes()
        old.execute("INSERT INTO intervals VALUES (?, 'nyc', 0, 3600, 'delay', 2, ?, 7, 2, 1)", (RELEASE, counts))

    store = Store(url_of(path))
    store.create()
    store.create()
    store.add_windows([window(3)])

    (row,) = store.intervals("delay")
    assert (row.windows, row.counts, row.noise_units, row.late, row.alarmed) == (3, (6, 8), 3.0, 1, True)


@only_sqlite
def test_a_damaged_database_is_refused_by_name_and_not_a_stranger_s_exception(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite"
    path.write_bytes(Random(1).randbytes(8192))

    with pytest.raises(Refused, match=r"hub\.sqlite"):
        Store(url_of(path)).create()


@only_sqlite
def test_another_process_s_command_is_seen_while_the_hub_writes(tmp_path: Path, store: Store) -> None:
    with sqlite3.connect(tmp_path / "hub.sqlite") as other:
        other.execute("INSERT INTO commands (at, kind, model, body, state, code, text) VALUES (1, 'halt', 'delay', '{}', 'open', '', '')")
    store.add_windows([window(1)])

    assert [row.kind for row in store.open_commands()] == ["halt"]
