"""A whole site: its own broker with our bridge, a relay for blocks, and a hub up the road that sees the site's nodes."""

import time
from pathlib import Path

from fleetcast.mqtt_connection import Message
from schemas import codec, topics
from schemas.names import sha256
from tests.broker.client import Client
from tests.brokers import CONFIG, FLEET, Mosquitto
from tests.hub.hubs import BLOCK_BYTES, BLOCKS, Device, Fleet, until
from tests.hub.service.test_service import start_rollout, state_of
from tests.node.agent.hubs import Node
from tests.node.relay.test_relay import relaying, settings

BRIDGE = "site-7-bridge"


def bridged(up: Mosquitto, folder: Path) -> Mosquitto:
    """A site's broker, with the bridge as it is shipped; only paths and the port are other."""
    folder.mkdir()
    site = Mosquitto(folder)
    tls = up.tls(BRIDGE)
    text = (CONFIG / "site-bridge.conf").read_text()
    for found, wanted in (
        ("address broker.example:8883", f"address 127.0.0.1:{up.port}"),
        ("tls/uplink-ca.crt", tls.ca),
        ("tls/uplink-bridge.crt", tls.certificate),
        ("tls/uplink-bridge.key", tls.key),
        ("restart_timeout 5 120", "restart_timeout 1"),
    ):
        assert text.count(found) == 1, f"site-bridge.conf must say {found!r} once"
        text = text.replace(found, wanted)
    site.configure(text)
    return site


def client_of(broker: Mosquitto) -> Client:
    client = Client.of(broker, "hub")
    client.open()
    return client


def waiting(device: Device) -> list[Message]:
    found: list[Message] = []
    while not device.client.inbox.empty():
        event = device.client.inbox.get()
        if isinstance(event, Message):
            found.append(event)
    return found


def test_a_site_behind_a_bridge_and_a_relay_takes_part_in_a_rollout(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    up = Mosquitto(tmp_path / "up")
    (tmp_path / "up" / "acl").write_text(topics.access_list(FLEET, [BRIDGE]))
    up.start()
    site = bridged(up, tmp_path / "site")
    site.start()
    fleet = Fleet(tmp_path / "fleet")
    manifest = fleet.publish("1.0.0")
    try:
        with fleet.hub(up):
            device = Device.connect("n1", site, fleet)
            until("the site's node at the hub", lambda: [row.node for row in fleet.store.nodes()] == ["n1"])
            start_rollout(fleet, manifest.version)
            until("a rollout that runs", lambda: state_of(fleet) == "running")
            device.client.subscribe(fleet.topics.trust, fleet.topics.model("delay"))
            for topic in (fleet.topics.trust, fleet.topics.model("delay")):
                assert device.next_on(topic).payload
            with relaying(settings(up, site, tmp_path / "relay")):
                node = Node(site, tmp_path / "n2", name="n2")
                node.fetch(manifest, variant="default")
                node.until(lambda: node.ended)
            device.sign("serving", manifest)
            until("a rollout that is done", lambda: state_of(fleet) == "done")

            assert sum(fleet.store.publish_counts().values()) == BLOCKS
            assert node.store.usage_of(sha256(codec.encode(manifest))).received == BLOCKS * BLOCK_BYTES
            # What the site's nodes say while the road is closed arrives when it is open again.
            up.restart()
            device.say_state(cohort="nyc")
            until("the state", lambda: fleet.store.nodes()[0].cohort == "nyc")
            node.die()
    finally:
        site.stop()
        up.stop()


def test_blocks_and_wants_do_not_cross_the_bridge(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    up = Mosquitto(tmp_path / "up")
    (tmp_path / "up" / "acl").write_text(topics.access_list(FLEET, [BRIDGE]))
    up.start()
    site = bridged(up, tmp_path / "site")
    site.start()
    fleet = Fleet(tmp_path / "fleet")
    try:
        hub_up, hub_site = (Device("hub", client_of(broker), fleet) for broker in (up, site))
        hub_up.client.subscribe(fleet.topics.filter("want"), fleet.topics.filter("state"))
        hub_site.client.subscribe(fleet.topics.prefix + "block/+", fleet.topics.trust)
        small = [fleet.topics.trust_time, fleet.topics.trust_roles, fleet.topics.deployed, fleet.topics.deploy("delay")]
        hub_site.client.subscribe(*small)
        node = Device.connect("n1", site, fleet)
        hub_up.next_on(fleet.topics.state("n1"))  # the bridge is up
        node.client.link.publish(fleet.topics.want("n1"), b"a want")
        hub_up.client.link.publish(fleet.topics.block(bytes(32)), b"a block")
        hub_up.client.link.publish(fleet.topics.trust, b"trust", retain=True)

        for topic in small:
            hub_up.client.link.publish(topic, topic.encode(), retain=True)

        assert hub_site.next_on(fleet.topics.trust).payload == b"trust"
        assert [hub_site.next_on(topic).payload for topic in small] == [topic.encode() for topic in small]
        time.sleep(0.5)
        seen = {message.topic for one in (hub_up, hub_site) for message in [*one.kept, *waiting(one)]}
        assert not any("/block/" in topic or "/want/" in topic for topic in seen)
    finally:
        site.stop()
        up.stop()
