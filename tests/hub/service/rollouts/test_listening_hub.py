"""A running hub counts soak time and silence only while it hears its nodes, whatever becomes of its broker, itself and the clocks."""

import json
import re
import time
from collections.abc import Iterator

import pytest
import structlog

from hub.core.rollouts import commands
from hub.core.rollouts.rollout import DEAF
from hub.database.hearing import Hearing
from tests import brokers
from tests.hub.hubs import Device, Fleet, deployment_of, until

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


class Clock:
    """A wall clock that can be put to another time."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def reason(fleet: Fleet) -> str:
    return next((row.reason for row in fleet.store.rollout_rows()), "")


def state(fleet: Fleet) -> str:
    return next((deployment_of(row).state for row in fleet.store.rollout_rows()), "")


def left(fleet: Fleet) -> int:
    """Seconds for which the gate must hold."""
    found = re.search(r"it must for (\d+) s more", reason(fleet))
    return int(found[1]) if found else 0


def soaking(fleet: Fleet, device: Device, *, seconds: int) -> None:
    """A rollout whose one node serves its release, so that nothing but the soak time is missing."""
    manifest = fleet.publish("1.0.0")
    until("the node", lambda: fleet.store.node(device.name))
    gate = {"soak_seconds": seconds, "silent_seconds": 1200, "halt_on_drift": False}
    fleet.store.add_command("delay", commands.read("start", json.dumps({"version": "1.0.0", "gate": gate})))
    until("a rollout", lambda: state(fleet) == "running")
    device.sign("serving", manifest)


def later(fleet: Fleet, than: int) -> int:
    return until("time that passes", lambda: 0 < (now := left(fleet)) < than and now)


def test_neither_a_jump_of_the_wall_nor_hours_without_a_hub_are_soak_time_or_silence(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    wall, began = Clock(), time.monotonic()
    with fleet.hub(mosquitto, wall=wall, silent_seconds=1200):
        device = Device.connect("n1", mosquitto, fleet)
        soaking(fleet, device, seconds=10_000)
        found = [until("the gate", lambda: left(fleet))]
        for jump in (-DAY, DAY, DAY):
            wall.ahead += jump
            found.append(later(fleet, found[-1]))
    kept = Hearing(fleet.store.database).listened()
    wall.ahead += 7_200.0
    with fleet.hub(mosquitto, wall=wall, silent_seconds=1200):
        until("a hub that listens", lambda: Hearing(fleet.store.database).listened() > kept)
        found.append(later(fleet, found[-1]))

    assert state(fleet) == "running"
    assert found[0] - found[-1] <= time.monotonic() - began + 1
    assert [row.alert.kind for row in fleet.store.alerts()] == []
    (row,) = fleet.store.rollout_rows()
    assert (row.heard, row.silent) == (1, 0)


def test_no_soak_time_passes_while_the_broker_is_away(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        soaking(fleet, device, seconds=10_000)
        began, before = time.monotonic(), until("the gate", lambda: left(fleet))
        mosquitto.stop()
        until("a hub that knows", lambda: reason(fleet) == DEAF)
        gone = time.monotonic()
        until("time that would be seen", lambda: time.monotonic() - gone > 6)
        away = time.monotonic() - gone
        mosquitto.start()
        after = later(fleet, before)
        passed = time.monotonic() - began

    assert before - after <= passed - away + 2  # both are read in whole seconds, and may be a second old


def test_a_node_that_died_while_no_hub_ran_is_silent_when_the_hub_has_listened_long_enough(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        device.say_state("disconnected")
        until("its last word", lambda: (row := fleet.store.node("n1")) and row.status == "disconnected")
        heard = time.monotonic()
        # The hub may stop after the node has been silent for too long, and before it looks: then nobody has reported it.
        until("more silence than is allowed next", lambda: time.monotonic() - heard > 1.5)

    with fleet.hub(mosquitto, silent_seconds=1):
        alert = until("the alert", fleet.store.alerts)[0].alert
    kept = Hearing(fleet.store.database).listened()
    with fleet.hub(mosquitto, silent_seconds=1):
        until("a look at who is silent", lambda: Hearing(fleet.store.database).listened() > kept + 11)

    assert (alert.kind, alert.node, alert.code) == ("node_silent", "n1", "silent")
    assert len(fleet.store.alerts()) == 1, "it is reported once"
