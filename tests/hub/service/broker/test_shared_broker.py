"""Two fleets on one broker without certificates: neither takes what waits for the other, and each hears of the other by name."""

from pathlib import Path

from fleetcast.mqtt_connection import Disconnected, Message
from hub.database.window_requests import WindowRequests
from hub.service.broker.shared_broker import MARKER
from hub.service.broker.taken_over import TakenOver
from schemas.analytics_messages import Alert
from schemas.errors import Code
from schemas.topics import Topics
from tests.broker.client import Client
from tests.brokers import FLEET, Broker
from tests.hub.hubs import Device, Fleet, until

OTHER = Topics("other")
DAY = 24 * 3600


def test_a_hub_leaves_the_session_of_another_fleet_with_all_that_waits_in_it(embedded: Broker, fleet: Fleet) -> None:
    with fleet.hub(embedded):
        Device.connect("n-0", embedded, fleet)
        until("a node that is known", lambda: fleet.store.node("n-0"))
    others_hub = Client.of(embedded, client_id="hub", session_expiry_seconds=DAY)
    others_hub.open()
    others_hub.subscribe(OTHER.filter("telemetry"))
    others_hub.link.close()
    node = Client.of(embedded, client_id="other.n-1")
    node.open()
    node.link.publish(OTHER.telemetry("delay", "lab"), b"a window of another fleet")

    with fleet.hub(embedded):
        alert = until("the alert", lambda: [one for one in fleet.store.alerts_of("refused") if one.code == Code.BROKER_SHARED])[0]
        Device.connect("n-1", embedded, fleet)
        until("its own node", lambda: fleet.store.node("n-1"))
        assert WindowRequests(fleet.store.database, "hub").count()  # What waited for this hub in that session is asked for again.
        assert others_hub.open().session_present
        assert others_hub.next(Message).payload == b"a window of another fleet"
        node.link.publish(OTHER.telemetry("delay", "lab"), b"one more")
        assert others_hub.next(Message).payload in {b"a window of another fleet", b"one more"}
        assert not fleet.store.refusals()

    assert "fleet 'other'" in alert.text
    assert f"connects as '{FLEET}.hub' from now on" in alert.text
    assert (fleet.directory / MARKER).read_text() == "other\n"
    others_hub.link.close()
    node.link.close()


def test_hubs_of_two_fleets_beside_each_other_keep_their_connections(embedded: Broker, fleet: Fleet) -> None:
    thief = Client.of(embedded, client_id="hub")
    with fleet.hub(embedded, client_id_has_fleet=True):
        thief.open()
        Device.connect("n-1", embedded, fleet)
        until("the node", lambda: fleet.store.node("n-1"))
        assert not [one for one in thief.heard if isinstance(one, Disconnected)]
        assert not fleet.store.alerts_of("refused")
    thief.link.close()


def test_a_hub_whose_connection_is_taken_names_both_possible_causes(fleet: Fleet, tmp_path: Path) -> None:
    class Heard:
        def __init__(self) -> None:
            self.alerts: list[Alert] = []

        def alert(self, one: Alert) -> None:
            self.alerts.append(one)

    heard = Heard()
    for client_id in ("hub", f"{FLEET}.hub"):
        TakenOver(heard).report(Disconnected("Session taken over", taken_over=True), client_id=client_id, now=0.0, at=1)  # type: ignore[arg-type]

    plain, with_fleet = [one.text for one in heard.alerts]
    assert "a second hub of this fleet" in plain
    assert "the hub of another fleet uses this broker" in plain
    assert "another fleet" not in with_fleet


def test_two_hubs_that_began_with_one_client_id_go_on_beside_each_other(embedded: Broker, fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other", topics=OTHER)
    with fleet.hub(embedded), other.hub(embedded, fleet="other"):
        mine, others = Device.connect("n-1", embedded, fleet), Device.connect("m-1", embedded, other)
        for device, one in ((mine, fleet), (others, other)):
            until("its own node", lambda device=device, one=one: device.say_state() or one.store.node(device.name), seconds=60)
        assert not [node.node for node in fleet.store.nodes() if node.node != "n-1"]
        assert not [node.node for node in other.store.nodes() if node.node != "m-1"]
        assert not fleet.store.refusals()
        assert not other.store.refusals()

    assert (fleet.directory / MARKER).exists() or (other.directory / MARKER).exists()
