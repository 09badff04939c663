"""The running hub and the roll: whose states and receipts count, over a running broker without an access list, where anybody may speak."""

from collections.abc import Iterator

import pytest
import structlog

from hub.database.enrolments import CertificateRow, Enrolments, Place
from schemas.errors import Code
from tests import brokers
from tests.broker.client import Client
from tests.hub.hubs import Device, Fleet, until
from tests.offices import spki


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def enrol(fleet: Fleet, device: Device, serial: str = "1") -> Enrolments:
    """As the endpoint writes it down."""
    enrolments, key = Enrolments(fleet.store.database), spki(device.key)
    digest = serial.encode().ljust(32, b"\0")
    place = Place(device.name, "", {})
    enrolments.add_tokens([(digest, place)], expires_at=2**40)
    assert enrolments.redeem(digest, place, key, CertificateRow(serial, device.name, "node", 2**40, b"0"))
    return enrolments


def heard(fleet: Fleet, name: str) -> bytes | None:
    row = fleet.store.node(name)
    return row.public_key if row is not None else None


def test_an_enrolled_node_cannot_be_played_by_who_speaks_first(fleet: Fleet, embedded: brokers.Broker) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(embedded):
        honest = Device("node-a", brokers_client(embedded, "honest"), fleet)
        enrol(fleet, honest)
        thief = Device.connect("node-a", embedded, fleet)
        until("the refusal of another key", lambda: fleet.refused(Code.RECEIPT_KEY_CHANGED))

        thief.sign("serving", manifest)
        honest.client.open()
        honest.say_state()
        until("the honest node", lambda: heard(fleet, "node-a") == spki(honest.key))
        honest.sequence = 1
        honest.sign("serving", manifest)
        until("the honest receipt", lambda: fleet.store.receipts(node="node-a"))
        until("the refusal of a forged receipt", lambda: fleet.refused(Code.RECEIPT_SIGNATURE))

        assert [one.sequence for one in fleet.store.receipts(node="node-a")] == [2]


def test_where_enrolment_is_required_a_stranger_is_nobody(fleet: Fleet, embedded: brokers.Broker) -> None:
    with fleet.hub(embedded, enrolment="required"):
        Device.connect("stranger", embedded, fleet)

        until("the refusal", lambda: fleet.refused(Code.RECEIPT_UNKNOWN_NODE))
        assert heard(fleet, "stranger") is None


def test_a_revoked_node_is_ignored_at_once_and_after_a_restart(fleet: Fleet, embedded: brokers.Broker) -> None:
    manifest = fleet.publish("1.0.0")
    device = Device("node-a", brokers_client(embedded, "node-a"), fleet)
    enrolments = enrol(fleet, device)
    with fleet.hub(embedded) as hub:
        device.client.open()
        device.say_state()
        until("the node", lambda: "node-a" in hub._ingest.nodes)

        enrolments.revoke("node-a")
        until("the hub to forget it", lambda: "node-a" not in hub._ingest.nodes)
        device.sign("serving", manifest)
        device.want(manifest)
        until("the refusals", lambda: len(fleet.refused(Code.ENROLMENT_REVOKED)) >= 2)
    with fleet.hub(embedded) as hub:
        assert "node-a" not in hub._ingest.nodes
        assert fleet.store.receipts(node="node-a") == []


def test_a_device_in_anothers_place_begins_anew_and_a_new_key_takes_over_from_the_old(fleet: Fleet, embedded: brokers.Broker) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(embedded):
        first = Device.connect("node-a", embedded, fleet)
        first.session = 40
        first.say_state()
        until("the first device", lambda: heard(fleet, "node-a") == spki(first.key))
        first.client.link.drop()

        second = Device("node-a", brokers_client(embedded, "node-a-2"), fleet)
        enrolments = enrol(fleet, second)
        second.client.open()
        second.say_state()  # session 1: of a device that has lost its disk, not of a connection that was overtaken
        until("the second device", lambda: heard(fleet, "node-a") == spki(second.key))

        row, old = enrolments.node("node-a"), second.key
        assert row is not None
        second.key = Device("other", second.client, fleet).key
        assert enrolments.renew(row.standing, spki(second.key), CertificateRow("2", "node-a", "node", 2**40, b"0"))
        second.say_state()
        until("the new key", lambda: heard(fleet, "node-a") == spki(second.key))
        new, second.key = second.key, old
        second.sign("serving", manifest)  # that waited in the device's outbox
        second.key = new
        second.sign("serving", manifest)
        until("both receipts", lambda: len(fleet.store.receipts(node="node-a")) == 2)


def brokers_client(broker: brokers.Broker, client_id: str) -> Client:
    return Client.of(broker, "node-a", client_id=client_id)
