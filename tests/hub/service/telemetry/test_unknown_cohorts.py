"""Cohorts that nobody has named lock no genuine one out; windows have an age; refusals of one kind push no other kind out."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hub.core.drift.cohorts import NODE_COHORTS_MAX, NODE_COHORTS_SECONDS, Named, surplus
from hub.core.drift.windows import Reader
from hub.database.early_windows import EarlyWindows
from hub.database.enrolments import Enrolments, Place
from hub.database.store import Store
from hub.service.alerts.event_log import REPORTS_MAX, Notes
from hub.service.telemetry.cohorts import Cohorts
from schemas import codec
from schemas.errors import Code, Refused
from schemas.limits import WINDOW_AGE_DAYS_MAX, WINDOW_FUTURE_SECONDS_MAX
from schemas.window import Window
from tests import brokers
from tests.databases import url_of
from tests.hub.hubs import WINDOW_SECONDS, Device, Fleet, until
from tests.hub.service.telemetry.test_ingest import window_of

DAY = 86_400


@dataclass(slots=True)
class Lab:
    """A fleet with a release, and copies of one of its windows."""

    fleet: Fleet
    window: Window

    def send(self, device: Device, *cohorts: str) -> None:
        for cohort in cohorts:
            window = self.window.model_copy(update={"id": os.urandom(16)})
            device.client.link.publish(self.fleet.topics.telemetry("delay", cohort), codec.encode(window))

    def heard(self) -> dict[str, int]:
        return {row.cohort: row.windows for row in self.fleet.store.intervals("delay")}

    def waiting(self) -> list[str]:
        return sorted(one.cohort for one in EarlyWindows(self.fleet.store.database).all())

    def alerts(self) -> list[str]:
        return [row.alert.text for row in self.fleet.store.alerts() if row.alert.code == "window.unknown_cohort"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    fleet = Fleet(tmp_path / "fleet")
    return Lab(fleet, window_of(fleet.publish("1.0.0")))


def test_300_invented_cohorts_lock_no_genuine_one_out_and_are_one_alert(embedded: brokers.Broker, lab: Lab) -> None:
    with lab.fleet.hub(embedded):
        liar = Device.connect("n1", embedded, lab.fleet)
        invented = [f"invented-{number}" for number in range(300)]

        lab.send(liar, *invented)
        until("the pool", lambda: lab.waiting() == sorted(invented))
        genuine = Device.connect("n2", embedded, lab.fleet)
        genuine.say_state(cohort="harbour")
        lab.send(genuine, "harbour", "nyc")

        until("the genuine ones", lambda: lab.heard() == {"harbour": 1, "nyc": 1})
        (alert,) = lab.alerts()
        assert "invented-0" in alert


def test_a_window_waits_over_a_restart_until_its_cohort_is_named(embedded: brokers.Broker, lab: Lab) -> None:
    with lab.fleet.hub(embedded):
        device = Device.connect("n1", embedded, lab.fleet)
        lab.send(device, "harbour", "harbour")
        until("both", lambda: lab.waiting() == ["harbour"] * 2)

    with lab.fleet.hub(embedded):
        device.say_state(cohort="harbour")

        until("both", lambda: lab.heard() == {"harbour": 2})
        until("none that waits", lambda: lab.waiting() == [])


def test_a_cohort_that_an_enrolment_names_counts_at_once(embedded: brokers.Broker, lab: Lab) -> None:
    Enrolments(lab.fleet.store.database).add_tokens([(bytes(32), Place("n9", "harbour", {}))], expires_at=int(time.time()) + DAY)
    with lab.fleet.hub(embedded):
        device = Device.connect("n1", embedded, lab.fleet)

        lab.send(device, "harbour")

        until("it", lambda: lab.heard() == {"harbour": 1})
        assert lab.alerts() == []


def test_the_pool_is_bounded_in_count_and_time(tmp_path: Path, lab: Lab) -> None:
    store, now = Store(url_of(tmp_path / "hub.sqlite"), clock=lambda: 0), [1e9]
    store.create()
    notes = Notes(store, publish=lambda alert: None, clock=lambda: now[0])
    set_cohorts: set[str] = set()
    pool = Cohorts(store.database, notes, set_cohorts=lambda: set_cohorts, clock=lambda: now[0])

    pool.wait([("delay", "loud", lab.window)] * 600)
    pool.wait([("delay", "quiet", lab.window)])
    kept = [one.cohort for one in EarlyWindows(store.database).all()]
    set_cohorts.add("quiet")
    now[0] += 2

    assert (kept.count("loud"), kept.count("quiet")) == (511, 1)
    assert [one.cohort for one in pool.due()] == ["quiet"]
    now[0] += DAY
    assert pool.due() == []
    assert EarlyWindows(store.database).all() == []


def test_of_many_waiting_cohorts_the_loudest_goes_first() -> None:
    @dataclass
    class One:
        cohort: str

    assert surplus([One("a"), One("b"), One("b"), One("c")], at_most=3) == [1]
    assert surplus([One("a"), One("b"), One("c")], at_most=1) == [0, 1]
    assert surplus([One("a")], at_most=3) == []


def test_one_node_brings_only_a_few_cohorts_a_day() -> None:
    named = Named()

    taken = [named.take("n1", f"c{number}", now=number) for number in range(NODE_COHORTS_MAX + 2)]

    assert taken == [True] * NODE_COHORTS_MAX + [False] * 2
    assert ("c0" in named, f"c{NODE_COHORTS_MAX}" in named) == (True, False)
    assert named.take("n1", "later", now=NODE_COHORTS_SECONDS + 1)
    assert ("c0" in named, "later" in named) == (False, True)
    named.forget("n1")
    assert "later" not in named


@pytest.mark.parametrize(
    ("days", "code"),
    [
        (20_000, Code.WINDOW_PAST),  # 1970 and thereabouts
        (WINDOW_AGE_DAYS_MAX + 1, Code.WINDOW_PAST),
        (WINDOW_AGE_DAYS_MAX - 1, None),
        (0, None),
        (-1, Code.WINDOW_FUTURE),
    ],
)
def test_a_windows_time_is_bounded_on_both_sides(tmp_path: Path, days: int, code: Code | None) -> None:
    manifest, now = Fleet(tmp_path / "fleet").publish("1.0.0"), 1_790_000_000
    start = (now - days * DAY) // WINDOW_SECONDS * WINDOW_SECONDS
    assert WINDOW_FUTURE_SECONDS_MAX < DAY

    (found,) = Reader(manifest).read_many([window_of(manifest, start=start)], now=now)

    assert (found.code if isinstance(found, Refused) else None) == code


def test_an_operator_who_replays_old_data_may_raise_the_age(tmp_path: Path) -> None:
    manifest = Fleet(tmp_path / "fleet").publish("1.0.0")

    assert Reader(manifest, age_days_max=36_500).read(window_of(manifest, start=0), now=1_790_000_000).start == 0


def test_refusals_of_one_kind_push_no_other_kind_out(tmp_path: Path) -> None:
    store, now = Store(url_of(tmp_path / "hub.sqlite"), clock=lambda: 0), [1e9]
    store.create()
    notes = Notes(store, publish=lambda alert: None, clock=lambda: now[0])

    for number in range(1000):
        notes.refusal(Refused(Code.WINDOW_ABSURD, "no"), f"telemetry/delay/c{number}")
        notes.node_refusal(node=f"n{number}", code=f"made-up-{number}", model=None, reason="no")
    notes.refusal(Refused(Code.RECEIPT_SIGNATURE, "no"), "node/n1/receipt")
    notes.node_refusal(node="n1", code="trust.signature", model=None, reason="no")
    now[0] += 61
    notes.refusal(Refused(Code.WINDOW_ABSURD, "no"), "telemetry/delay/c0")

    texts = [row.alert.text for row in store.alerts(limit=1000)]
    codes = [row.alert.code for row in store.alerts(limit=1000)]
    assert (codes.count("receipt.signature"), codes.count("trust.signature")) == (1, 1)
    assert codes.count("window.absurd") == REPORTS_MAX + 1
    assert sum(code.startswith("made-up") for code in codes) == REPORTS_MAX
    assert f"{1000 - REPORTS_MAX} more refusals of this kind" in texts[-1]
