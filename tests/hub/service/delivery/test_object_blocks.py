"""A hub whose blocks are in an object store: with nothing in its folder, with a store that is away, silent, or has other bytes."""

import shutil
import time
from pathlib import Path

import pytest

from hub.core.delivery import store_health
from hub.publish import object_store
from hub.publish.blocks import open_blocks
from hub.service.delivery import block_fetcher
from schemas.manifest import Manifest
from tests.brokers import Broker
from tests.hub.hubs import Device, Fleet, until
from tests.hub.service.delivery.test_delivery import fetch
from tests.node.agent.hubs import Node
from tests.objects import Bucket
from tests.small_disk import small_disk


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent store is noticed soon, and asked again soon."""
    monkeypatch.setattr(object_store, "TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr(object_store, "RETRIES_MAX", 0)
    monkeypatch.setattr(block_fetcher, "RETRY", block_fetcher.Backoff(0.1, 0.2))
    monkeypatch.setattr(block_fetcher, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(store_health, "WELL_SECONDS", 0.5)


def published(fleet: Fleet, bucket: Bucket) -> Manifest:
    """A release whose blocks are in the bucket alone: the hub's folder is empty, as on another machine."""
    manifest = fleet.publish("1.0.0", blocks=open_blocks(fleet.directory, fleet.settings(None, **bucket.settings)))
    shutil.rmtree(fleet.directory / "blocks")
    return manifest


def alerts(fleet: Fleet, code: str) -> list[str]:
    return [event.text for event in fleet.events("alert") if code in str(event.body)]


def test_a_hub_with_an_empty_folder_serves_what_the_object_store_has(
    mosquitto: Broker, fleet: Fleet, bucket: Bucket, tmp_path: Path
) -> None:
    manifest = published(fleet, bucket)
    with fleet.hub(mosquitto, **bucket.settings):
        node = Node(mosquitto, tmp_path / "a")
        fetch(node, manifest)
        node.die()

    assert len(list((fleet.directory / "blocks").glob("??/*"))) == len(manifest.variants[0].files[0].blocks)


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_a_hub_without_its_object_store_says_so_and_goes_on(
    how: str, mosquitto: Broker, fleet: Fleet, bucket: Bucket, tmp_path: Path
) -> None:
    manifest = published(fleet, bucket)
    with fleet.hub(mosquitto, **bucket.settings):
        if how == "gone":
            bucket.go()
        else:
            bucket.road.fall_silent()
        device = Device.connect("n1", mosquitto, fleet)
        device.want(manifest)
        until("the alert", lambda: alerts(fleet, "blocks.unreachable"))
        assert bucket.url in alerts(fleet, "blocks.unreachable")[0]
        began = time.monotonic()
        Device.connect("n2", mosquitto, fleet)
        until("another node", lambda: fleet.store.node("n2"))
        assert time.monotonic() - began < 5  # the loop has not waited for the store
        assert fleet.store.publish_counts() == {}

        if how == "gone":
            bucket.come_back()
        else:
            bucket.road.fall_silent(silent=False)
        until("the blocks that were wanted", lambda: len(fleet.store.publish_counts()) == len(manifest.variants[0].files[0].blocks))
        until("the end of it", lambda: fleet.events("blocks.reachable"))


def test_a_hub_whose_disk_is_full_serves_from_memory_and_says_so(mosquitto: Broker, fleet: Fleet, bucket: Bucket, tmp_path: Path) -> None:
    manifest = published(fleet, bucket)
    count = len(manifest.variants[0].files[0].blocks)
    with small_disk(fleet.directory / "blocks", size_bytes=48 * 1024) as disk:
        if not disk.is_mount():
            pytest.skip("may not mount here")
        with fleet.hub(mosquitto, **bucket.settings):
            device = Device.connect("n1", mosquitto, fleet)
            device.fetch(manifest)
            until("the alert", lambda: alerts(fleet, "disk.full"))
            assert str(disk) in alerts(fleet, "disk.full")[0]
            assert len(fleet.store.publish_counts()) == count
            assert len(list(disk.glob("??/*"))) < count


def test_other_bytes_in_the_object_store_reach_no_node(mosquitto: Broker, fleet: Fleet, bucket: Bucket) -> None:
    manifest = published(fleet, bucket)
    digest = manifest.variants[0].files[0].blocks[0].digest
    key = f"releases/main/blocks/{digest.hex()[:2]}/{digest.hex()}"
    right = open_blocks(fleet.directory, fleet.settings(None, **bucket.settings)).read(digest)
    shutil.rmtree(fleet.directory / "blocks")
    bucket.write(key, right[:-1] + bytes([right[-1] ^ 1]))
    others = len(manifest.variants[0].files[0].blocks) - 1
    with fleet.hub(mosquitto, **bucket.settings):
        device = Device.connect("n1", mosquitto, fleet)
        device.want(manifest)
        until("the alert", lambda: alerts(fleet, "block.digest_mismatch"))
        until("the others", lambda: len(fleet.store.publish_counts()) == others)
        assert digest not in fleet.store.publish_counts()

        bucket.write(key, right)
        device.want(manifest)
        until("the block", lambda: digest in fleet.store.publish_counts())
