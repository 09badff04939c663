"""A site behind a relay, on real brokers at both ends: each block crosses the uplink once, whatever happens to whom."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fleetcast.mqtt_connection import Published
from node.core.trust.hub_topics import QUIET_SECONDS
from node.relay.relay_loop import Relay
from node.relay.relay_settings import Door, RelaySettings
from schemas import codec
from schemas.block_request import Range, Want
from schemas.bundle import ManifestBytes, ModelBundle, RolloutBytes, TrustBundle
from schemas.deployment_index import DeploymentIndex, ModelSelectors
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.topics import Topics
from tests.broker.client import Client
from tests.brokers import FLEET, Broker, Embedded, Mosquitto
from tests.hub.hubs import until
from tests.node.agent.hubs import BLOCK, Hub, Node, release, serving, target

TOPICS = Topics(FLEET)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "site"
    folder.mkdir()
    broker = Mosquitto(folder)
    broker.start()
    yield broker
    broker.stop()


def announce(broker: Broker, *manifests: Manifest) -> None:
    """What a hub retains, as far as a relay looks at it."""
    client = Client.of(broker, "hub")
    client.open()
    documents = (RolloutBytes("m", b"not looked at"),)
    client.link.publish(
        TOPICS.trust,
        codec.encode(TrustBundle(roots=(b"{}",), timestamp=b"{}", snapshot=b"{}", targets=b"{}", rollouts=b"{}", documents=documents)),
        retain=True,
    )
    listed = tuple(ManifestBytes(one.version, codec.encode(one)) for one in manifests)
    client.link.publish(TOPICS.model("m"), codec.encode(ModelBundle(model="m", role=b"role", manifests=listed)), retain=True)
    for _ in range(2):
        client.next(Published)
    client.link.close()


def announce_index(broker: Broker, *models: str) -> None:
    """What a hub with deployments retains instead."""
    client = Client.of(broker, "hub")
    client.open()
    index = DeploymentIndex(root=1, targets=1, models=tuple(ModelSelectors(model, ((),)) for model in models))
    client.link.publish(TOPICS.deployed, codec.encode(index), retain=True)
    client.next(Published)
    client.link.close()


def door(broker: Broker, user: str) -> Door:
    tls = broker.tls(user)
    return Door(broker=broker.url(user), **({"tls_ca": tls.ca, "tls_certificate": tls.certificate, "tls_key": tls.key} if tls else {}))


def settings(up: Broker, site: Broker, folder: Path, name: str = "relay-7", **changes: object) -> RelaySettings:
    # At the site it is what the hub is elsewhere; one certificate is one connection, so no hub is connected there.
    fields = {"id": name, "fleet": FLEET, "data": folder, "upstream": door(up, name), "site": door(site, "hub"), **changes}
    return RelaySettings.model_validate(fields)


@contextlib.contextmanager
def relaying(chosen: RelaySettings) -> Iterator[Relay]:
    stop = threading.Event()
    relay = Relay(chosen, monotonic=time.monotonic, rng=Random(0))
    thread = threading.Thread(target=relay.run, args=(stop,), daemon=True)
    thread.start()
    try:
        until("the relay", lambda: all(relay._online.values()) and relay._library._models)
        yield relay
    finally:
        stop.set()
        thread.join(60)


def fetch(nodes: list[Node], manifest: Manifest) -> None:
    for node in nodes:
        node.fetch(manifest)
    deadline = time.monotonic() + 120
    while not all(node.ended for node in nodes):
        assert time.monotonic() < deadline, "waited in vain"
        for node in nodes:
            node.turn()
    assert [node.ended.pop().refusal for node in nodes] == [None] * len(nodes)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_site_costs_the_uplink_one_copy_and_latecomers_nothing(broker: Broker, site: Mosquitto, tmp_path: Path, indexed: bool) -> None:
    data = Random(1).randbytes(30 * BLOCK)
    manifest, payloads = release(data, indexed=indexed)
    announce(broker, manifest)
    with serving(Hub(broker, manifest, payloads)) as hub, relaying(settings(broker, site, tmp_path / "relay")) as relay:
        nodes = [Node(site, tmp_path / f"n{number}", name=f"n{number}") for number in range(4)]
        fetch(nodes[:3], manifest)
        hub.mute_after = 0  # the road is as good as gone
        fetch(nodes[3:], manifest)

        assert all(node.file(manifest) == data for node in nodes)
        assert set(hub.published.values()) == {1}
        assert len(hub.published) == 30 + indexed
        assert relay.cache.bytes == sum(len(payloads[digest]) for digest in hub.published)
        for node in nodes:
            node.die()


def test_a_relay_that_dies_goes_on_where_it_was_and_fetches_nothing_twice(mosquitto: Broker, site: Mosquitto, tmp_path: Path) -> None:
    data = Random(2).randbytes(30 * BLOCK)
    manifest, payloads = release(data)
    announce(mosquitto, manifest)
    chosen = settings(mosquitto, site, tmp_path / "relay")
    with serving(Hub(mosquitto, manifest, payloads, mute_after=12)) as hub:
        node = Node(site, tmp_path / "n", name="n1")
        with relaying(chosen):
            node.fetch(manifest)
            node.until(lambda: node.store.usage_of(target(manifest).digest).received >= 12 * BLOCK)
        held = set(hub.published)
        hub.mute_after = 10**9

        with relaying(chosen):
            node.until(lambda: node.ended)

        assert node.file(manifest) == data
        assert all(hub.published[digest] == 1 for digest in held)
        node.die()


def test_a_restarted_relay_hears_what_an_earlier_process_acknowledged(broker: Broker, site: Mosquitto, tmp_path: Path) -> None:
    manifest, _ = release(Random(8).randbytes(BLOCK))
    announce(broker, manifest)
    for _ in range(3):
        with relaying(settings(broker, site, tmp_path / "relay")) as relay:
            assert set(relay._library._models["m"]) == {target(manifest).digest}


def test_a_relay_of_a_hub_with_deployments_reads_no_rollouts(broker: Broker, site: Mosquitto, tmp_path: Path) -> None:
    manifest, _ = release(Random(8).randbytes(BLOCK))
    announce(broker, manifest)
    announce_index(broker, "m")
    with relaying(settings(broker, site, tmp_path / "relay")) as relay:
        time.sleep(2 * QUIET_SECONDS)  # longer than a relay waits for an index
        assert not relay._models._reads_bundle


def test_a_relay_follows_a_hub_that_is_upgraded_and_one_that_is_downgraded(mosquitto: Broker, site: Mosquitto, tmp_path: Path) -> None:
    manifest, _ = release(Random(8).randbytes(BLOCK))
    announce(mosquitto, manifest)
    with relaying(settings(mosquitto, site, tmp_path / "relay")) as relay:
        assert relay._models._reads_bundle
        announce_index(mosquitto, "other")
        until("the index", lambda: not relay._models._reads_bundle)
        node = Client.of(site, "n1")
        node.open()
        unknown = Want(release=bytes(32), variant="v", ranges=(Range(0, 1),), encodings=("raw",))
        node.link.publish(TOPICS.want("n1"), codec.encode(unknown))
        until("another look at the bundle", lambda: relay._models._looked_at > 0)
        until("the end of the look, for it names nothing new", lambda: not relay._models._reads_bundle)
        node.link.close()


def test_what_is_on_disk_is_served_while_the_uplink_is_down(tmp_path: Path, site: Mosquitto) -> None:
    (tmp_path / "up").mkdir()
    up = Embedded(tmp_path / "up")
    up.start()
    data = Random(3).randbytes(8 * BLOCK)
    manifest, payloads = release(data)
    announce(up, manifest)
    # The site's broker keeps nothing: what the second node gets, the relay has on disk.
    with serving(Hub(up, manifest, payloads)), relaying(settings(up, site, tmp_path / "relay", cache_bytes_max=0)):
        first = Node(site, tmp_path / "a", name="n1")
        fetch([first], manifest)
        up.kill()
        second = Node(site, tmp_path / "b", name="n2")
        fetch([second], manifest)

        assert second.file(manifest) == data
        first.die()
        second.die()


def test_the_disk_is_bounded_and_what_was_dropped_is_fetched_again(
    mosquitto: Broker, site: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.relay.relay_loop.PASSING_MAX", 4)
    data = Random(4).randbytes(20 * BLOCK)
    manifest, payloads = release(data)
    announce(mosquitto, manifest)
    chosen = settings(mosquitto, site, tmp_path / "relay", disk_bytes_max=5 * BLOCK, cache_bytes_max=0)
    with serving(Hub(mosquitto, manifest, payloads)) as hub, relaying(chosen) as relay:
        for name in ("n1", "n2"):
            node = Node(site, tmp_path / name, name=name)
            fetch([node], manifest)
            assert node.file(manifest) == data
            node.die()

        assert relay.cache.bytes <= 5 * BLOCK
        assert sum(path.stat().st_size for path in (tmp_path / "relay").rglob("*") if path.is_file()) <= 5 * BLOCK
        assert sum(hub.published.values()) <= 50  # twice twenty, and what was dropped before it could be served


def test_relays_in_a_chain_cost_each_road_one_copy(mosquitto: Broker, site: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    far = Mosquitto(tmp_path / "far")
    far.start()
    data = Random(5).randbytes(10 * BLOCK)
    manifest, payloads = release(data)
    for broker in (mosquitto, site):  # in the field the bridge between them brings this
        announce(broker, manifest)
    near, last = settings(mosquitto, site, tmp_path / "r1"), settings(site, far, tmp_path / "r2", "relay-8")
    with serving(Hub(mosquitto, manifest, payloads)) as hub, relaying(near), relaying(last):
        nodes = [Node(far, tmp_path / name, name=name) for name in ("n1", "n2")]
        fetch(nodes, manifest)

        assert all(node.file(manifest) == data for node in nodes)
        assert set(hub.published.values()) == {1}
        for node in nodes:
            node.die()
    far.stop()


def test_a_damaged_payload_is_fetched_again_and_the_site_never_sees_it(mosquitto: Broker, site: Mosquitto, tmp_path: Path) -> None:
    data = Random(6).randbytes(6 * BLOCK)
    manifest, payloads = release(data)
    announce(mosquitto, manifest)
    hub = Hub(mosquitto, manifest, payloads, damage={manifest.variants[0].files[0].blocks[3].digest})
    with serving(hub), relaying(settings(mosquitto, site, tmp_path / "relay")):
        node = Node(site, tmp_path / "n", name="n1")
        fetch([node], manifest)

        assert node.file(manifest) == data
        assert node.refused == []
        node.die()


def test_wants_that_make_no_sense_are_refused_and_the_next_is_served(mosquitto: Broker, site: Mosquitto, tmp_path: Path) -> None:
    data = Random(7).randbytes(3 * BLOCK)
    manifest, payloads = release(data)
    announce(mosquitto, manifest)
    digest = target(manifest).digest
    with serving(Hub(mosquitto, manifest, payloads)) as hub, relaying(settings(mosquitto, site, tmp_path / "relay")) as relay:
        bad = Client.of(site, "n9")
        bad.open()
        for release_digest, variant, ranges in (
            (sha256(b"none"), "v", (Range(0, 1),)),
            (digest, "none", (Range(0, 1),)),
            (digest, "v", (Range(2, 2),)),
            (digest, "v", (Range(0, 2**20),)),
        ):
            want = Want(release=release_digest, variant=variant, ranges=ranges, encodings=("raw",))
            bad.link.publish(TOPICS.want("n9"), codec.encode(want))
        bad.link.publish(TOPICS.want("n9"), b"no want at all")
        node = Node(site, tmp_path / "n", name="n1")
        fetch([node], manifest)

        assert node.file(manifest) == data
        assert relay._totals["refused"] >= 4
        assert set(hub.published.values()) == {1}
        bad.link.close()
        node.die()
