"""What is old goes, piece by piece, and nothing that a rollout, an alarm, a receiver or the next receipt needs."""

from pathlib import Path

import pytest

from hub.core.drift.episodes import Episode
from hub.core.rollouts.commands import Halt
from hub.database import retention
from hub.database.outbox import Outbox
from hub.database.retention import DAY, Retention
from hub.database.rows import CountedRow, StreamRow
from hub.database.store import ReceiptRow, Store
from schemas.analytics_messages import Alert
from schemas.names import sha256
from tests.databases import url_of
from tests.hub.database.test_store import Clock, drift, window


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    made = Store(url_of(tmp_path / "hub.sqlite"), clock=clock)
    made.create()
    return made


def add_receipt(store: Store, sequence: int, at: int, outcome: str = "serving", model: str = "delay", node: str = "n1") -> None:
    store.add_receipts(
        [ReceiptRow(node, sequence, at, at, outcome, model, "1", sha256(model.encode()), 1, "", "", b"%d" % sequence)]  # type: ignore[arg-type]
    )


def numbers(store: Store, node: str = "n1") -> list[int]:
    return [row.sequence for row in store.receipts(node=node)]


def test_receipts_go_but_those_of_what_is_served_and_the_newest(store: Store, clock: Clock) -> None:
    for sequence, outcome in enumerate(("serving", "refused", "serving", "refused", "refused"), start=1):
        add_receipt(store, sequence, sequence, outcome)
    clock.now += 500 * DAY

    store.prune()

    assert numbers(store) == [5, 3]
    assert [row.sequence for row in store.serving()] == [3]
    add_receipt(store, 6, int(clock.now))
    assert numbers(store) == [6, 5, 3]


def test_what_a_running_rollout_needs_stays(store: Store, clock: Clock) -> None:
    for sequence, model in enumerate(("delay", "delay", "other", "other", "other"), start=1):
        add_receipt(store, sequence, 100 * sequence, "refused", model)
    for start in (0, 3600):
        store.add_windows([window(start, start=start)])
        store.mark_tested(store.intervals("delay", since=start)[0], alarmed=False, drift=drift(start))
    since = int(clock.now) - 900
    clock.now += 500 * DAY

    store.prune(Retention(needed_from={"delay": since}))

    assert numbers(store) == [5, 2, 1]
    assert (len(store.intervals("delay")), len(store.drifts())) == (2, 2)
    store.prune()
    assert (store.intervals("delay"), store.drifts(), numbers(store)) == ([], [], [5])


def test_the_alert_of_an_alarm_that_is_not_over_stays(store: Store, clock: Clock) -> None:
    release, episode = sha256(b"release"), Episode(since=900, raised=900, last=900, quiet_seconds=1)
    for model in ("delay", "other"):
        store.add_alert(Alert(kind="drift", at=int(clock.now), model=model, code="drift", text="drifts"))
    store.add_windows([window(1)])
    (row,) = store.intervals("delay")
    clock.now += 500 * DAY
    stream = StreamRow(release, "nyc", "delay", b"", 0.0, episode.model_dump_json(), int(clock.now))
    store.mark_tested(row, alarmed=True, drift=drift(), learnt=(stream, CountedRow(release, "nyc", 0, 3600, False, "{}")))

    store.prune()

    assert [one.alert.model for one in store.alerts()] == ["delay"]


def test_an_alert_on_its_way_to_a_receiver_stays(store: Store, clock: Clock) -> None:
    outbox = Outbox(store.database)
    outbox.keep_only(["webhook"])
    first, _ = (store.add_alert(Alert(kind="refused", at=int(clock.now), code="x", text=text)) for text in ("first", "second"))
    outbox.collect("webhook", lambda alert: alert.text == "first")
    clock.now += 500 * DAY

    store.prune()

    assert [one.id for one in store.alerts()] == [first]
    outbox.done("webhook", [first])
    store.prune()
    assert store.alerts() == []


def test_changes_of_the_fleet_outlive_other_events(store: Store, clock: Clock) -> None:
    store.add_event("rollout", "has begun", actor="ann")
    for number in range(5):
        store.add_event("node", str(number))
    kept = Retention(events_kept=2, history_days=10)

    store.prune(kept)
    assert [one.text for one in store.events()] == ["has begun", "3", "4"]
    clock.now += 11 * DAY
    store.prune(kept)

    assert [one.text for one in store.events()] == ["3", "4"]


def test_commands_go_once_they_were_answered(store: Store, clock: Clock) -> None:
    answered, waiting = (store.add_command("delay", Halt()) for _ in range(2))
    store.finish_command(answered, ok=True, text="halted")
    clock.now += 500 * DAY

    store.prune()

    assert store.command(answered) is None
    assert [one.id for one in store.open_commands()] == [waiting]


def test_a_piece_is_bounded_and_an_end_in_between_costs_nothing(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PIECE", 3)
    for number in range(7):
        store.add_refusal(int(clock.now), "topic", "x", str(number))
    clock.now += 500 * DAY
    pieces = retention.pieces(store.database, Retention())

    assert next(pieces) == 3
    pieces.close()
    assert [one.reason for one in store.refusals()] == ["3", "4", "5", "6"]

    assert list(retention.pieces(store.database, Retention()))[:2] == [3, 1]
    assert store.refusals() == []
