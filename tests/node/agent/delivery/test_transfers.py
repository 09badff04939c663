"""Transfers over a real broker and a real disk: damage, death and forgetting cost at most the window."""

import contextlib
from pathlib import Path
from random import Random

import pytest

from node.storage.artifacts import Artifacts
from schemas.encoding import DECODABLE
from schemas.errors import Code, Refused
from schemas.manifest import Variant, cheapest
from schemas.names import sha256
from tests.brokers import Broker
from tests.node.agent.hubs import BLOCK, Hub, Node, release, serving, target
from tests.small_disk import small_disk


@pytest.mark.parametrize("indexed", [False, True])
def test_a_release_arrives_whole_each_block_once_and_its_ledger_adds_up(broker: Broker, tmp_path: Path, indexed: bool) -> None:
    data = Random(1).randbytes(40 * BLOCK + 17)
    manifest, payloads = release(data, indexed=indexed)
    with serving(Hub(broker, manifest, payloads)) as hub:
        node = Node(broker, tmp_path)

        node.fetch(manifest)
        node.until(lambda: node.ended)

        assert node.ended[0].refusal is None
        assert node.file(manifest) == data
        assert set(hub.published.values()) == {1}
        ledger = node.store.usage_of(target(manifest).digest)
        lists = sum(cheapest(part, DECODABLE).bytes for part in manifest.variants[0].files[0].index)
        assert (ledger.planned, ledger.received, ledger.reused, ledger.wasted) == (len(data) + lists, len(data) + lists, 0, 0)
        node.die()


def test_a_flipped_block_is_refused_reported_and_asked_for_again(broker: Broker, tmp_path: Path) -> None:
    data = Random(2).randbytes(6 * BLOCK)
    manifest, payloads = release(data)
    hub = Hub(broker, manifest, payloads, damage={manifest.variants[0].files[0].blocks[3].digest})
    with serving(hub):
        node = Node(broker, tmp_path)

        node.fetch(manifest)
        node.until(lambda: node.ended)

        assert node.file(manifest) == data
        assert node.refused == [Code.BLOCK_DIGEST]
        assert node.store.usage_of(target(manifest).digest).wasted == BLOCK
        node.die()


def test_what_is_on_disk_is_not_fetched_again_after_a_kill(broker: Broker, tmp_path: Path) -> None:
    data = Random(3).randbytes(30 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(broker, manifest, payloads, mute_after=12)) as hub:
        node = Node(broker, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.store.usage_of(target(manifest).digest).received >= 12 * BLOCK)
        node.die()
        held = {digest for digest, times in hub.published.items() if times}
        hub.mute_after = 10**9

        again = Node(broker, tmp_path)
        again.fetch(manifest)
        again.until(lambda: again.ended)

        assert again.file(manifest) == data
        assert all(hub.published[digest] == 1 for digest in held)
        ledger = again.store.usage_of(target(manifest).digest)
        assert (ledger.received, ledger.reused) == (len(data), 0)
        again.die()


def test_a_block_that_changed_on_disk_is_found_and_fetched_again(broker: Broker, tmp_path: Path) -> None:
    data = Random(4).randbytes(10 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(broker, manifest, payloads, mute_after=6)) as hub:
        node = Node(broker, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.store.usage_of(target(manifest).digest).received >= 6 * BLOCK)
        path = node.artifacts.path(node.artifacts.relative(target(manifest).digest, "v", manifest.variants[0].files[0]))
        node.die()
        first = next(iter(hub.published))
        at = [block.digest for block in manifest.variants[0].files[0].blocks].index(first) * BLOCK
        with path.open("r+b") as file:
            file.seek(at + 5)
            file.write(b"damage")
        hub.mute_after = 10**9

        again = Node(broker, tmp_path)
        again.fetch(manifest)
        again.until(lambda: again.ended)

        assert again.file(manifest) == data
        assert again.store.usage_of(target(manifest).digest).received == 11 * BLOCK  # ten, and the damaged one once more
        again.die()


def test_a_broker_that_forgets_everything_half_way_costs_at_most_the_window(broker: Broker, tmp_path: Path) -> None:
    data = Random(5).randbytes(40 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(broker, manifest, payloads)) as hub:
        node = Node(broker, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.store.usage_of(target(manifest).digest).received >= 10 * BLOCK)

        broker.restart()
        node.until(lambda: node.ended)

        assert node.file(manifest) == data
        assert sum(hub.published.values()) - len(hub.published) <= 400_000 // BLOCK + 1
        node.die()


def test_blocks_of_another_release_are_used_and_counted_as_reused(broker: Broker, tmp_path: Path) -> None:
    data = Random(6).randbytes(10 * BLOCK)
    first, payloads = release(data)
    changed = data[: 8 * BLOCK] + Random(7).randbytes(2 * BLOCK)
    second, more = release(changed)
    with serving(Hub(broker, first, payloads)):
        node = Node(broker, tmp_path)
        node.fetch(first)
        node.until(lambda: node.ended)
    node.ended.clear()

    with serving(Hub(broker, second, more)) as hub:
        node.fetch(second)
        node.until(lambda: node.ended)

        assert node.file(second) == changed
        assert sum(hub.published.values()) == 2
        ledger = node.store.usage_of(target(second).digest)
        assert (ledger.planned, ledger.received, ledger.reused) == (10 * BLOCK, 2 * BLOCK, 8 * BLOCK)
        node.die()


def test_a_full_disk_parks_the_transfer_and_room_lets_it_go_on(mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.agent.delivery.transfers.PARKED_SECONDS", 0.2)
    data = Random(8).randbytes(2 * BLOCK)
    manifest, payloads = release(data)
    with small_disk(tmp_path / "disk") as disk, serving(Hub(mosquitto, manifest, payloads)):
        filler = disk / "filler"
        filler.write_bytes(bytes(60_000))
        for number in range(2):
            with contextlib.suppress(OSError):
                (disk / f"filler-{number}").write_bytes(bytes(50_000))
        node = Node(mosquitto, tmp_path)
        node.artifacts = node.delivery._artifacts = node.delivery._sources._artifacts = Artifacts(disk / "artifacts")
        node.fetch(manifest)
        node.until(lambda: node.refused)
        assert node.refused[0] is Code.DISK_FULL
        assert not node.ended

        for path in disk.glob("filler*"):
            path.unlink()
        node.until(lambda: node.ended)

        assert node.file(manifest) == data
        node.die()


def test_a_manifest_whose_blocks_do_not_make_its_file_is_refused(broker: Broker, tmp_path: Path) -> None:
    data = Random(9).randbytes(3 * BLOCK)
    manifest, payloads = release(data)
    file = manifest.variants[0].files[0].model_copy(update={"digest": sha256(b"another file")})
    lying = manifest.model_copy(update={"variants": (Variant(name="v", files=(file,)),)})
    with serving(Hub(broker, lying, payloads)):
        node = Node(broker, tmp_path)

        node.fetch(lying)
        node.until(lambda: node.ended)

        refusal = node.ended[0].refusal
        assert isinstance(refusal, Refused)
        assert refusal.code is Code.ARTIFACT_DIGEST
        node.die()
