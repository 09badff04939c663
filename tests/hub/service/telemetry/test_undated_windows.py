"""Windows that a hub's clock cannot date: they wait, and none is lost because the clock was behind or held."""

import os
import time
from pathlib import Path

import pytest

from fleetcast.mqtt_connection import Message
from hub.core.publish.believed_time import START_SECONDS_HELD
from hub.database.store import Store
from hub.database.undated_windows import UndatedRows
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import WindowArrived
from hub.service.steady_clock import SteadyClock
from hub.service.telemetry import undated_windows
from hub.service.telemetry.undated_windows import UndatedWindows
from schemas.errors import Code, Refused
from tests import brokers
from tests.databases import url_of
from tests.hub.hubs import WINDOW_SECONDS, Device, Fleet, until
from tests.hub.service.telemetry.test_ingest import intervals, send, window_of

HOUR, YEAR = 3600, 365 * 86_400.0


def waiting(fleet: Fleet) -> int:
    return sum(UndatedRows(fleet.store.database).counts().values())


def test_windows_wait_while_a_hub_that_was_off_for_a_year_holds_its_clock(embedded: brokers.Broker, tmp_path: Path) -> None:
    fleet, elapsed = Fleet(tmp_path / "fleet"), [0.0]
    manifest = fleet.publish("1.0.0")
    start = int(time.time()) // WINDOW_SECONDS * WINDOW_SECONDS
    with fleet.hub(embedded, wall=SteadyClock(time.time() - YEAR, elapsed=lambda: elapsed[0])):
        device = Device.connect("n1", embedded, fleet)
        send(device, window_of(manifest, start=start), window_of(manifest, start=start - 10 * WINDOW_SECONDS))
        until("both to wait", lambda: waiting(fleet) == 2)
        assert intervals(fleet) == []
    with fleet.hub(embedded, wall=SteadyClock(time.time() - YEAR, elapsed=lambda: elapsed[0])):  # They outlive the hub.
        send(Device.connect("n1", embedded, fleet), window_of(manifest, start=start))
        until("three to wait", lambda: waiting(fleet) == 3)

        elapsed[0] = START_SECONDS_HELD

        until("all", lambda: [row.windows for row in intervals(fleet)] == [1, 2])
        until("none that waits", lambda: waiting(fleet) == 0)
        assert fleet.refused("window.future") == []


def test_a_window_waits_for_a_clock_that_is_set_right_by_hours(embedded: brokers.Broker, tmp_path: Path) -> None:
    fleet, behind = Fleet(tmp_path / "fleet"), [10 * HOUR]
    manifest = fleet.publish("1.0.0")
    start = int(time.time()) // WINDOW_SECONDS * WINDOW_SECONDS
    far = (int(time.time()) + 3 * 86_400) // WINDOW_SECONDS * WINDOW_SECONDS
    with fleet.hub(embedded, wall=lambda: time.time() - behind[0]):
        send(Device.connect("n1", embedded, fleet), window_of(manifest, start=start), window_of(manifest, start=far))
        until("one to wait", lambda: waiting(fleet) == 1)
        (reason,) = until("the alert", lambda: fleet.refused("window.future"))
        assert "it waits until the hub's clock is there" in reason

        behind[0] = 0

        until("it", lambda: [row.start for row in intervals(fleet)] == [start])
        assert waiting(fleet) == 0


def test_the_pool_of_undated_windows_is_bounded_and_fair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undated_windows, "POOL_MAX", 5)
    store = Store(url_of(tmp_path / "hub.sqlite"), clock=lambda: 0)
    store.create()
    window = window_of(Fleet(tmp_path / "fleet").publish("1.0.0"))
    notes = Notes(store, publish=lambda alert: None, clock=lambda: 0.0)
    pool = UndatedWindows(store.database, notes, clock=lambda: window.start - 2.0 * HOUR)
    for cohort in ("loud",) * 7 + ("quiet",):
        message = Message("", b"", retained=False, mid=0, qos=0, epoch=0)
        event = WindowArrived("delay", cohort, window.model_copy(update={"id": os.urandom(16)}), message)
        pool.refused(event, Refused(Code.WINDOW_FUTURE, "no"))
    pool.keep()

    assert UndatedRows(store.database).counts() == {"loud": 4, "quiet": 1}
    assert pool.due() == []
