"""Devices over their life, over a running broker: lost stores, copies, and names that are forgotten or given to new hardware."""

import time
from collections.abc import Iterator

import pytest
import structlog

from hub.core.enrol.enrolment import Roll
from hub.database.device_lives import DeviceLives
from schemas import codec
from schemas.errors import Code
from schemas.names import sha256
from schemas.state import State
from tests import brokers
from tests.broker.client import Client
from tests.hub.hubs import Device, Fleet, until
from tests.offices import spki

ABSURD = 2**53


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def lives(fleet: Fleet) -> DeviceLives:
    return DeviceLives(fleet.store.database)


def status(fleet: Fleet, name: str = "node-a") -> str | None:
    row = fleet.store.node(name)
    return row.status if row is not None else None


def alerts(fleet: Fleet, code: str) -> list[str]:
    return [row.alert.node or "" for row in fleet.store.alerts() if row.alert.code == code]


def process(device: Device, name: str, session: int) -> None:
    """Report as one process of a node does, with a connection of this number, and wait until the hub has taken it in."""
    state = State(node=device.name, session=session, status="online", at=int(time.time()), public_key=spki(device.key))
    device.client.link.publish(device.fleet.topics.state(device.name), codec.encode(state), retain=True, process=name)
    until("the state", lambda: (row := device.fleet.store.node(device.name)) is not None and row.session == session)


# Sessions and stores


@pytest.mark.parametrize("absurd", ["online", "lost"])
def test_a_node_is_seen_again_after_a_state_of_an_absurd_session(fleet: Fleet, broker: brokers.Broker, absurd: str) -> None:
    with fleet.hub(broker):
        device = Device.connect("node-a", broker, fleet)
        until("the node", lambda: status(fleet) == "online")
        device.session = ABSURD - 1
        device.say_state(absurd, **({"public_key": b"", "profile": None} if absurd == "lost" else {}))
        until("the absurd state", lambda: status(fleet) == "lost" if absurd == "lost" else fleet.store.node("node-a").session == ABSURD)  # type: ignore[union-attr]

        device.session = 6
        device.say_state("online" if absurd == "lost" else "disconnected")

        until("the node", lambda: status(fleet) == ("online" if absurd == "lost" else "disconnected"))
    with fleet.hub(broker) as hub:
        assert hub._ingest.nodes["node-a"].session <= 7


def test_a_node_that_lost_its_store_is_believed_by_its_next_receipt(fleet: Fleet, embedded: brokers.Broker) -> None:
    old, new = fleet.publish("1.0.0"), fleet.publish("1.1.0", seed=2)
    with fleet.hub(embedded) as hub:
        device = Device.connect("node-a", embedded, fleet)
        device.sequence = device.session = 40
        device.say_state()
        device.sign("serving", old)
        until("the receipt", lambda: len(fleet.store.receipts(node="node-a")) == 1)

        device.sequence, device.session = 40, 0  # the same number again, and a session from before
        device.say_state()
        device.sign("serving", new, at=2)  # later than what it replaces
        until("the second receipt", lambda: hub._ingest.nodes["node-a"].serving["delay"].version == "1.1.0")
        device.sequence = 0
        device.sign("serving", old, at=3)
        until("the third receipt", lambda: hub._ingest.nodes["node-a"].serving["delay"].version == "1.0.0")
    with fleet.hub(embedded) as hub:
        assert hub._ingest.nodes["node-a"].serving["delay"].version == "1.0.0"


# Copies


def test_two_devices_with_one_key_are_alerted_once_by_name_and_listed(fleet: Fleet, broker: brokers.Broker) -> None:
    with fleet.hub(broker):
        device = Device.connect("node-a", broker, fleet)
        until("the node", lambda: status(fleet) == "online")
        for session in range(11, 15):
            process(device, "first" if session % 2 else "second", session)
        until("the alert", lambda: alerts(fleet, Code.NODE_DUPLICATE))
    with fleet.hub(broker):
        device.session = 14
        device.say_state("disconnected")
        until("the hub to listen", lambda: status(fleet) == "disconnected")
        for session in range(16, 20):
            process(device, "first" if session % 2 else "second", session)

    assert alerts(fleet, Code.NODE_DUPLICATE) == ["node-a"]
    assert lives(fleet).marks()["node-a"].duplicate_since is not None


def test_a_node_that_signs_that_it_was_taken_over_is_alerted_once(fleet: Fleet, embedded: brokers.Broker) -> None:
    with fleet.hub(embedded):
        device = Device.connect("node-a", embedded, fleet)
        until("the node", lambda: status(fleet) == "online")
        for _ in range(3):
            device.sign("refused", code=Code.NODE_DUPLICATE)
        until("the receipts", lambda: len(fleet.store.receipts(node="node-a")) == 3)
        until("the alert", lambda: alerts(fleet, Code.NODE_DUPLICATE))

    assert alerts(fleet, Code.NODE_DUPLICATE) == ["node-a"]


# Forgotten


def test_a_forgotten_node_is_in_no_count_and_not_raised_by_what_is_retained(fleet: Fleet, broker: brokers.Broker) -> None:
    manifest = fleet.publish("1.0.0")
    device = Device.connect("node-a", broker, fleet)
    with fleet.hub(broker) as hub:
        until("the node", lambda: status(fleet) == "online")
        device.sign("serving", manifest)
        until("the receipt", lambda: fleet.store.receipts(node="node-a"))

        assert lives(fleet).forget("node-a")
        until("the hub to forget it", lambda: "node-a" not in hub._ingest.nodes)
        until("the state to be cleared", lambda: not hub._ingest.to_clear)
        looking = Client.of(broker, "hub-2" if broker.tls("hub") is None else "node-b")
        assert (status(fleet), fleet.store.receipts(node="node-a")) == (None, [])
    if broker.tls("hub") is None:  # elsewhere nobody else may read it
        looking.open()
        looking.subscribe(fleet.topics.state("node-a"))
        assert looking.messages(seconds=0.5) == []
        looking.link.close()
    device.client.link.close()

    with fleet.hub(broker) as hub:
        assert "node-a" not in hub._ingest.nodes
        assert alerts(fleet, Code.NODE_FORGOTTEN) == []


def test_a_forgotten_node_that_still_speaks_is_refused_and_alerted_once(fleet: Fleet, embedded: brokers.Broker) -> None:
    manifest = fleet.publish("1.0.0")
    device = Device.connect("node-a", embedded, fleet)
    with fleet.hub(embedded) as hub:
        until("the node", lambda: status(fleet) == "online")
        operator = lives(fleet)
        operator._database.actor = "ada"
        operator.forget("node-a")
        until("the hub to forget it", lambda: "node-a" not in hub._ingest.nodes)
        for _ in range(3):
            device.say_state()
            device.sign("serving", manifest)
            device.want(manifest)
        until("the alert", lambda: alerts(fleet, Code.NODE_FORGOTTEN))
        other = Device.connect("node-b", embedded, fleet)
        until("another node", lambda: status(fleet, "node-b") == "online")
    with fleet.hub(embedded):
        device.say_state()
        other.say_state("disconnected")
        until("the other node", lambda: status(fleet, "node-b") == "disconnected")

    assert alerts(fleet, Code.NODE_FORGOTTEN) == ["node-a"]
    assert [one.alert.actor for one in fleet.store.alerts() if one.alert.code == Code.NODE_FORGOTTEN] == ["ada"]
    assert fleet.refused(Code.NODE_FORGOTTEN) == []
    assert status(fleet) is None


def test_a_will_of_a_forgotten_node_is_no_sign_that_it_speaks(fleet: Fleet, embedded: brokers.Broker) -> None:
    device = Device.connect("node-a", embedded, fleet)
    with fleet.hub(embedded) as hub:
        until("the node", lambda: status(fleet) == "online")
        lives(fleet).forget("node-a")
        until("the hub to forget it", lambda: "node-a" not in hub._ingest.nodes)
        device.say_state("lost", public_key=b"", profile=None)
        Device.connect("node-b", embedded, fleet)
        until("another node", lambda: status(fleet, "node-b") == "online")

    assert alerts(fleet, Code.NODE_FORGOTTEN) == []


# New hardware


def test_new_hardware_takes_the_name_and_the_old_key_is_out(fleet: Fleet, embedded: brokers.Broker) -> None:
    manifest = fleet.publish("1.0.0")
    old = Device.connect("node-a", embedded, fleet)
    with fleet.hub(embedded) as hub:
        until("the node", lambda: status(fleet) == "online")
        old.sequence = 90
        old.sign("serving", manifest)
        until("the receipt", lambda: fleet.store.receipts(node="node-a"))

        lives(fleet).expect("node-a", fingerprint=None, expires_at=2**40)
        until("the hub to let it out", lambda: "node-a" not in hub._ingest.nodes)
        old.say_state()
        until("the refusal of the old key", lambda: fleet.refused(Code.RECEIPT_KEY_CHANGED))
        old.client.link.drop()

        new = Device.connect("node-a", embedded, fleet)
        until("the new device", lambda: status(fleet) == "online")
        assert fleet.store.node("node-a").public_key == spki(new.key)  # type: ignore[union-attr]
        new.sign("serving", manifest)
        until("its receipt", lambda: [row.sequence for row in fleet.store.receipts(node="node-a")] == [1])
    with fleet.hub(embedded) as hub:
        assert hub._ingest.nodes["node-a"].serving["delay"].version == "1.0.0"
        third = Device("node-a", new.client, fleet)
        third.session = 70
        third.say_state()
        until("the refusal of a third key", lambda: len(fleet.refused(Code.RECEIPT_KEY_CHANGED)) >= 2)

        assert fleet.store.node("node-a").public_key == spki(new.key)  # type: ignore[union-attr]


def test_only_the_key_that_the_operator_named_is_let_in(fleet: Fleet, embedded: brokers.Broker) -> None:
    first = Device.connect("node-a", embedded, fleet)
    with fleet.hub(embedded):
        until("the node", lambda: status(fleet) == "online")
        first.client.link.drop()
        new, thief = (Device("node-a", Client.of(embedded, "node-a"), fleet) for _ in range(2))
        lives(fleet).expect("node-a", fingerprint=sha256(spki(new.key)), expires_at=2**40)
        until("the old device to be out", lambda: status(fleet) is None)

        thief.client.open()
        thief.say_state()
        until("the refusal", lambda: fleet.refused(Code.RECEIPT_KEY_CHANGED))
        assert status(fleet) is None
        thief.client.link.drop()
        new.client.open()
        new.say_state()
        until("the new device", lambda: status(fleet) == "online")

        assert fleet.store.node("node-a").public_key == spki(new.key)  # type: ignore[union-attr]


def test_a_key_that_comes_too_late_is_refused(fleet: Fleet, embedded: brokers.Broker) -> None:
    with fleet.hub(embedded):
        first = Device.connect("node-a", embedded, fleet)
        until("the node", lambda: status(fleet))
        first.client.link.drop()
        lives(fleet).expect("node-a", fingerprint=None, expires_at=int(time.time()) - 1)
        until("the old device to be out", lambda: status(fleet) is None)
        Device.connect("node-a", embedded, fleet)
        until("the refusal", lambda: fleet.refused(Code.RECEIPT_KEY_CHANGED))

        assert "comes late" in fleet.refused(Code.RECEIPT_KEY_CHANGED)[0]
        assert status(fleet) is None


def test_a_forgotten_name_can_be_given_to_new_hardware(fleet: Fleet, embedded: brokers.Broker) -> None:
    with fleet.hub(embedded):
        first = Device.connect("node-a", embedded, fleet)
        until("the node", lambda: status(fleet) == "online")
        lives(fleet).forget("node-a")
        until("it to be out", lambda: status(fleet) is None)
        first.client.link.drop()
        lives(fleet).expect("node-a", fingerprint=None, expires_at=2**40)
        new = Device.connect("node-a", embedded, fleet)
        until("the new device", lambda: status(fleet) == "online")

        assert fleet.store.node("node-a").public_key == spki(new.key)  # type: ignore[union-attr]
        assert lives(fleet).marks() == {}


def test_what_was_said_of_a_name_is_news_once(fleet: Fleet) -> None:
    said, roll = lives(fleet), Roll()
    said.forget("node-a")
    revision, (life,) = said.changed_since(0)

    assert roll.take_life(life)
    assert not roll.take_life(life)
    assert said.changed_since(revision) == (revision, [])
    assert not said.forget("node-a")
