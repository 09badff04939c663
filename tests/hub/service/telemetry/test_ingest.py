"""Windows on their real way over a broker into intervals, each counted once; those that cannot be are refused by their codes."""

import os
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
import structlog

from hub.database.rows import IntervalRow
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import Own, noised
from schemas import codec, rice
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.state import State, TelemetryBudget
from schemas.window import Window
from tests import brokers
from tests.hub.hubs import START, WINDOW_SECONDS, Device, Fleet, until

BITS = BitSource(Random(1).randbytes)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def counts_of(manifest: Manifest, rows: int, shift: float = 0.0) -> list[int]:
    assert manifest.baseline is not None
    (signal,) = manifest.baseline.signals
    values = np.random.default_rng(rows).normal(shift, 1, rows)
    return np.bincount(np.searchsorted(signal.edges, values, side="right"), minlength=signal.bins).tolist()


def window_of(manifest: Manifest, rows: int = 500, *, shift: float = 0.0, own: Own | None = None, start: int = START) -> Window:
    assert manifest.baseline is not None
    assert manifest.privacy is not None
    return noised(
        counts_of(manifest, rows, shift),
        baseline=manifest.baseline,
        privacy=manifest.privacy,
        bits=BITS,
        window_id=os.urandom(16),
        release=sha256(codec.encode(manifest))[:8],
        start=start,
        own=own,
    )


def send(device: Device, *windows: Window) -> None:
    for window in windows:
        device.client.link.publish(device.fleet.topics.telemetry("delay", "nyc"), codec.encode(window))


def intervals(fleet: Fleet) -> list[IntervalRow]:
    return sorted(fleet.store.intervals("delay"), key=lambda row: (row.start, row.calibrated))


def own_of(manifest: Manifest, rows: int = 1024) -> Own:
    assert manifest.baseline is not None
    return Own(np.array(counts_of(manifest, rows), np.int64), np.full(manifest.baseline.bins, rows))


def test_a_window_is_counted_once_however_often_it_is_delivered(broker: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    window = window_of(manifest)
    with fleet.hub(broker):
        device = Device.connect("n1", broker, fleet)

        send(device, *[window] * 5, window_of(manifest, 400))

        until("both", lambda: [row.windows for row in intervals(fleet)] == [2])
        send(device, window, window_of(manifest, 300))
        until("three", lambda: [row.windows for row in intervals(fleet)] == [3])
        assert intervals(fleet)[0].rows == pytest.approx(1200, abs=120)


def test_a_window_that_was_taken_is_there_after_a_hub_that_died(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    window = window_of(manifest)
    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        send(device, window)
        until("one", lambda: [row.windows for row in intervals(fleet)] == [1])
    send(device, window, window_of(manifest))

    with fleet.hub(mosquitto):
        until("two", lambda: [row.windows for row in intervals(fleet)] == [2])


def test_calibrated_windows_are_an_interval_of_their_own_with_their_noise(embedded: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0", calibration_rows=1024)
    own = own_of(manifest)
    with fleet.hub(embedded):
        device = Device.connect("n1", embedded, fleet)

        send(device, window_of(manifest), *[window_of(manifest, own=own) for _ in range(4)])

        plain, calibrated = until("both", lambda: len(rows := intervals(fleet)) == 2 and rows[1].windows == 4 and rows)
        assert (plain.windows, plain.calibrated, plain.reference_rows) == (1, False, 0.0)
        assert calibrated.reference_rows == pytest.approx(4 * 500**2 / 1024, rel=0.3)
        assert calibrated.noise_units == pytest.approx(4 * (1 + (500 / 1024) ** 2), rel=0.2)
        assert abs(sum(calibrated.counts)) < 150


def test_windows_of_a_node_that_was_offline_are_one_interval_of_their_own(embedded: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    seconds = 2 * WINDOW_SECONDS
    start = START // seconds * seconds
    merged = window_of(manifest, start=start).model_copy(update={"seconds": seconds, "units": 2})
    with fleet.hub(embedded):
        device = Device.connect("n1", embedded, fleet)

        send(device, merged)

        (row,) = until("it", lambda: intervals(fleet))
        assert (row.windows, row.noise_units, row.seconds) == (1, 2.0, seconds)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rows": 5_000_000}, "window.overweight"),
        ({"release": b"nobody's"}, "window.unknown_release"),
        ({"start": START + 7}, "window.wrong_shape"),
        ({"seconds": 3 * WINDOW_SECONDS}, "window.wrong_shape"),
        ({"start": 4_000_000_000 // WINDOW_SECONDS * WINDOW_SECONDS}, "window.future"),
        ({"own_rows_log2": 12}, "window.wrong_shape"),
        ({"packed": bytes(5)}, "window.wrong_shape"),
        ({"rows": 50_000}, "window.absurd"),
    ],
)
def test_a_window_that_cannot_be_is_refused_and_the_next_is_counted(
    embedded: brokers.Broker, fleet: Fleet, changes: dict[str, object], code: str
) -> None:
    manifest = fleet.publish("1.0.0")
    good = window_of(manifest)
    bad = good.model_copy(update={"id": os.urandom(16), **changes})
    if code == "window.absurd":  # the differences stay, and with another centre the totals cannot be
        bad = bad.model_copy(update={"packed": rice.pack(np.full(9, -3_000))})
    with fleet.hub(embedded):
        device = Device.connect("n1", embedded, fleet)

        send(device, bad, good)

        until(code, lambda: fleet.refused(code))
        until("the good one", lambda: [row.windows for row in intervals(fleet)] == [1])


def test_a_window_over_the_weight_that_the_operator_allows_is_refused(embedded: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(embedded, window_rows_max=300):
        device = Device.connect("n1", embedded, fleet)

        send(device, window_of(manifest, 1000), window_of(manifest, 200))

        until("the refusal", lambda: fleet.refused("window.overweight"))
        until("the light one", lambda: [row.windows for row in intervals(fleet)] == [1])


@pytest.mark.parametrize("trim", [False, True])
def test_a_lie_of_one_window_is_told_and_left_out_where_the_operator_says_so(embedded: brokers.Broker, fleet: Fleet, trim: bool) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(embedded, trim_outlying=trim):
        device = Device.connect("n1", embedded, fleet)

        send(device, window_of(manifest, 60_000, shift=3.0), *[window_of(manifest, 900) for _ in range(60)])

        alert = until("the alert", lambda: [row.alert for row in fleet.store.alerts() if row.alert.code == "window.outlier"])[0]
        (drift,) = until("the test", lambda: fleet.store.drifts("delay"))
        assert "hour" in alert.text
        assert not drift.alarm  # One window beside sixty: it is weighed as one of them, left out or not.
        assert bool(drift.left_out) is trim


def test_a_ledger_that_is_counted_in_steps_since_an_upgrade_has_not_shrunk(embedded: brokers.Broker, fleet: Fleet) -> None:
    with fleet.hub(embedded):
        device = Device.connect("n1", embedded, fleet)
        for at, entries in enumerate((40, 64, 40), 10):  # Brought up to date, and back.
            device.say_state(at=at, telemetry=TelemetryBudget(rho_spent=0.0, rho_day_max=0.7, ledger_entries=entries))
            device.session += 1

        until("the last", lambda: (node := fleet.store.node("n1")) and codec.decode(State, node.state).at == 12)
        assert [row for row in fleet.store.alerts() if row.alert.code == "ledger.rolled_back"] == []


def test_a_ledger_that_shrank_with_its_witness_is_told_once(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    def said(entries: int, at: int) -> dict[str, object]:
        return {"at": at, "telemetry": TelemetryBudget(rho_spent=0.0, rho_day_max=0.7, ledger_entries=entries)}

    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        for entries, at in ((40, 10), (3, 20), (4, 30)):
            device.say_state(**said(entries, at))
            device.session += 1

        until("the alert", lambda: [row for row in fleet.store.alerts() if row.alert.code == "ledger.rolled_back"])
        until("the last", lambda: (row := fleet.store.node("n1")) and b"\x04" in row.state)
        assert [row.alert.node for row in fleet.store.alerts() if row.alert.code == "ledger.rolled_back"] == ["n1"]
