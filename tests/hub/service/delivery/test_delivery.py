"""The hub's side of delivery, with real transfers: a cache at the broker, none, a broker of small packets, nodes of different pasts."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hub.core.delivery.encode import Ancestor, encode_block
from hub.core.rollouts.plan import by_site, cost, seconds
from hub.operations.node_blocks import NodeBlocks
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from node.core.activation.lifecycle import Target
from schemas import codec
from schemas.manifest import File, Manifest, Variant
from schemas.names import sha256
from schemas.state import Profile, Slot, State
from tests.brokers import Broker, Mosquitto
from tests.hub.hubs import BLOCK_BYTES, BLOCKS, Device, Fleet, until
from tests.node.agent.hubs import Node


def fetch(node: Node, manifest: Manifest) -> None:
    target = Target(version=manifest.version, digest=sha256(codec.encode(manifest)))
    node.delivery.start(manifest.model, target, manifest, "default", time.monotonic())
    node.until(lambda: node.ended)
    assert node.ended.pop().refusal is None


def test_what_the_broker_holds_serves_a_node_while_the_hub_is_down(broker: Broker, fleet: Fleet, tmp_path: Path) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(broker):
        first = Node(broker, tmp_path / "a")
        fetch(first, manifest)
        until("retained blocks", lambda: len(fleet.store.retained()) == BLOCKS)

    late = Node(broker, tmp_path / "b", name="node-b")
    fetch(late, manifest)

    assert late.store.usage_of(sha256(codec.encode(manifest))).received == BLOCKS * BLOCK_BYTES
    for node in (first, late):
        node.die()


def test_all_arrives_where_the_broker_keeps_no_block(broker: Broker, fleet: Fleet, tmp_path: Path) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(broker, cache_bytes_max=0):
        nodes = [Node(broker, tmp_path / name, name=name) for name in ("node-a", "node-b")]
        for node in nodes:
            fetch(node, manifest)
            node.die()

        assert fleet.store.retained() == []
        assert set(fleet.store.publish_counts().values()) == {2}  # one after the other


def test_a_broker_of_small_packets_is_told_and_takes_smaller_blocks(mosquitto: Mosquitto, fleet: Fleet, tmp_path: Path) -> None:
    mosquitto.stop()
    mosquitto.configure("max_packet_size 16384")
    mosquitto.start()
    manifest = fleet.publish("1.0.0")  # its blocks have 20,000 bytes
    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        device.want(manifest)

        reason = until("the refusal", lambda: fleet.refused("packet.too_small"))[0]
        assert "16384" in reason
        assert "--block-bytes 15872" in reason
        assert fleet.store.publish_counts() == {}
        assert '"packet_bytes_max": 16384' in (fleet.directory / "hub.ready").read_text()


def update(fleet: Fleet, parent: Manifest, version: str) -> Manifest:
    """A release whose last block is a delta of the parent's, and the others the same."""
    store = BlockStore(fleet.directory / "blocks")
    file = parent.variants[0].files[0]
    last = store.read(file.blocks[-1].digest)
    changed = last[:-4] + b"abcd"
    block, payloads = encode_block(changed, parents=[Ancestor((file.blocks[-1].digest,), last)])
    for digest, payload in payloads.items():
        store.put(digest, payload)
    whole = b"".join(store.read(one.digest) for one in file.blocks[:-1]) + changed
    new = File(path=file.path, bytes=file.bytes, digest=sha256(whole), blocks=(*file.blocks[:-1], block))
    fields: dict[str, Any] = {
        "version": version,
        "parents": (sha256(codec.encode(parent)),),
        "variants": (Variant(name="default", files=(new,)),),
    }
    manifest = parent.model_copy(update=fields)
    fleet.repository.add_release("delay", version, codec.encode(manifest), team=fleet.team, now=datetime.now(UTC))
    return manifest


def test_a_node_with_the_parent_takes_the_delta_and_one_without_the_whole(mosquitto: Broker, fleet: Fleet, tmp_path: Path) -> None:
    old = fleet.publish("1.0.0")
    new = update(fleet, old, "1.1.0")
    digest = sha256(codec.encode(new))
    with fleet.hub(mosquitto):
        updated, fresh = Node(mosquitto, tmp_path / "a"), Node(mosquitto, tmp_path / "b", name="node-b")
        fetch(updated, old)
        fetch(updated, new)
        fetch(fresh, new)

        assert updated.store.usage_of(digest).received < 100
        assert fresh.store.usage_of(digest).received == BLOCKS * BLOCK_BYTES
        for node in (updated, fresh):
            node.die()


def test_what_is_planned_is_what_a_node_of_that_past_fetches(fleet: Fleet) -> None:
    old = fleet.publish("1.0.0")
    new = update(fleet, old, "1.1.0")
    digests = {manifest.version: sha256(codec.encode(manifest)) for manifest in (old, new)}
    holdings = NodeBlocks(Releases(fleet.repository, BlockStore(fleet.directory / "blocks")))
    profile = Profile(arch="x86_64", cores=1, memory_bytes=1)
    slot = Slot(model="delay", state="active", serving=digests["1.0.0"])
    state = State(node="a", session=1, status="online", at=1, profile=profile, slots=(slot,))

    held = holdings.releases_of(state)
    has = holdings.cost_of(digests["1.1.0"], "default", held, follows=True)
    fresh = holdings.cost_of(digests["1.1.0"], "default", frozenset(), follows=False)
    lost = holdings.cost_of(digests["1.1.0"], "default", frozenset(), follows=True)

    assert (has.fetched_bytes < 100, has.reused_bytes, has.instead_bytes) == (True, (BLOCKS - 1) * BLOCK_BYTES, 0)
    assert (fresh.fetched_bytes, fresh.reused_bytes, fresh.instead_bytes) == (BLOCKS * BLOCK_BYTES, 0, 0)
    assert lost.instead_bytes == BLOCK_BYTES
    sites = by_site([("x", has), ("x", has), ("x", fresh), ("y", fresh)])
    assert (sites["x"].nodes, sites["x"].each_bytes) == (3, 2 * has.fetched_bytes + fresh.fetched_bytes)
    assert sites["x"].relayed_bytes == has.fetched_bytes + fresh.fetched_bytes  # the delta, and each whole block once
    assert sites["y"].relayed_bytes == sites["y"].each_bytes == fresh.fetched_bytes
    assert seconds(1_000_000, 1e6) == pytest.approx(8.12)
    assert cost(new.variants[0].files[0].blocks, (), lambda digest: True, follows=True).fetched == {}
