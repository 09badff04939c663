"""Transfers over a real broker and a real disk: damage, death and forgetting cost at most the window."""

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hub.core.encode import encode_block
from node.agent.delivery import Delivery
from node.agent.job import Outcome, Stalled
from node.agent.purse import Purse
from node.agent.stock import Stock
from node.carried import Carried
from node.core.budget import Policy
from node.core.lifecycle import Target
from node.files import Artifacts
from node.mqtt import BlockArrived, NodeLink
from node.store import NodeStore
from schemas import codec
from schemas.encoding import DECODABLE
from schemas.errors import Code, Refused, Unreachable
from schemas.manifest import Block, File, Index, Manifest, Tensor, Variant, cheapest
from schemas.mqtt import Connected, Disconnected, Message, Subscribed
from schemas.names import sha256
from schemas.topics import Topics
from schemas.want import Want
from tests.broker.client import Client
from tests.brokers import FLEET, Broker
from tests.small_disk import small_disk

BLOCK = 60_000


def release(data: bytes, *, indexed: bool = False) -> tuple[Manifest, dict[bytes, bytes]]:
    """A manifest of one file, and its payloads by digest."""
    payloads: dict[bytes, bytes] = {}
    blocks: list[Block] = []
    for at in range(0, len(data), BLOCK):
        block, encoded = encode_block(data[at : at + BLOCK])
        blocks.append(block)
        payloads.update(encoded)
    listed: dict[str, Any] = {"blocks": tuple(blocks)}
    if indexed:
        part, encoded = encode_block(codec.encode(Index(blocks=tuple(blocks))))
        payloads.update(encoded)
        listed = {"index": (part,)}
    file = File(path="model.onnx", bytes=len(data), digest=sha256(data), **listed)
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
    manifest = Manifest(
        model="m", version="1.0.0", created=1, inputs=(tensor,), outputs=(tensor,), variants=(Variant(name="v", files=(file,)),)
    )
    return manifest, payloads


def target(manifest: Manifest) -> Target:
    return Target(version=manifest.version, digest=sha256(codec.encode(manifest)))


@dataclass
class Hub:
    """Answers wants; counts what it publishes, and damages what it is told to, once."""

    broker: Broker
    manifest: Manifest
    payloads: dict[bytes, bytes]
    published: Counter[bytes] = field(default_factory=Counter)
    damage: set[bytes] = field(default_factory=set)
    mute_after: int = 10**9
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        client, topics = Client.of(self.broker, "hub"), Topics(FLEET)
        online = False
        while not self.stop.is_set():
            if not online:
                with contextlib.suppress(Unreachable, AssertionError):
                    client.open()
                    client.subscribe(topics.filter("want"))
                    online = True
                time.sleep(0.05)
                continue
            with contextlib.suppress(queue.Empty):
                event = client.inbox.get(timeout=0.05)
                online = not isinstance(event, Disconnected)
                if isinstance(event, Message):
                    self.serve(client, topics, codec.decode(Want, event.payload))
                    client.link.ack(event)
        client.link.close()

    def serve(self, client: Client, topics: Topics, want: Want) -> None:
        file = self.manifest.variants[0].files[0]
        blocks = file.blocks or codec.decode(Index, self.payloads[file.index[0].digest]).blocks if not want.index else file.index
        for first, length in want.ranges:
            for block in blocks[first : first + length]:
                payload = want.payload_of(block)
                data = self.payloads[payload.digest]
                if payload.digest in self.damage:
                    self.damage.discard(payload.digest)
                    data = bytes([data[0] ^ 1]) + data[1:]
                if sum(self.published.values()) < self.mute_after:
                    self.published[payload.digest] += 1
                    client.link.publish(topics.block(payload.digest), data)


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    thread = threading.Thread(target=hub.run, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stop.set()
        thread.join(10)


class Node:
    """A node's delivery, without the rest of it."""

    def __init__(self, broker: Broker, folder: Path, *, policies: dict[Any, Policy] | None = None, rate: float | None = None) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.link = NodeLink(broker.url("node-a"), fleet=FLEET, node="node-a", inbox=self.inbox, tls=broker.tls("node-a"))
        self.store, self.artifacts = NodeStore(folder / "node.sqlite"), Artifacts(folder / "artifacts")
        self.ended: list[Outcome] = []
        self.stalled: list[Stalled] = []
        self.carried = Carried(folder / "carried")
        self.link_file = folder / "link"
        self.wall = 1_700_000_000.0
        purse = Purse(
            self.store,
            link="free",
            link_file=self.link_file,
            policies=policies or {},
            rate_bytes_per_second_max=rate,
            wall=lambda: self.wall,
        )
        self.refused: list[Code] = []
        self.delivery = Delivery(
            store=self.store,
            artifacts=self.artifacts,
            link=self.link,
            window_bytes=400_000,
            filters_per_subscribe=8,
            rng=Random(0),
            stock=Stock(self.store, self.artifacts, self.carried),
            purse=purse,
            post=lambda event: (self.ended if isinstance(event, Outcome) else self.stalled).append(event),  # type: ignore[attr-defined]
            refused=lambda refusal, model: self.refused.append(refusal.code),
        )
        self.online = False
        self.session = 0

    def turn(self) -> None:
        if not self.online:
            self.session += 1
            with contextlib.suppress(Unreachable):
                self.link.open(session=self.session, at=1)
                self.online = True
        with contextlib.suppress(queue.Empty):
            event = self.link.parse(self.inbox.get(timeout=0.02))
            match event:
                case Connected():
                    self.delivery.connected(session_present=event.session_present, now=time.monotonic())
                case Disconnected():
                    self.online = False
                    self.delivery.disconnected()
                case Subscribed(mid, _):
                    self.delivery.granted(mid, time.monotonic())
                case BlockArrived():
                    self.delivery.arrived([event], time.monotonic())
        self.delivery.tick(time.monotonic())

    def until(self, done: Any, seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, "waited in vain"
            self.turn()

    def fetch(self, manifest: Manifest) -> None:
        self.delivery.start("m", target(manifest), manifest, "v", time.monotonic())

    def die(self) -> None:
        """As kill -9 would: nothing is said or saved."""
        self.link._link.drop()
        self.store.close()

    def file(self, manifest: Manifest) -> bytes:
        path = self.artifacts.relative(target(manifest).digest, "v", manifest.variants[0].files[0])
        return self.artifacts.path(path).read_bytes()


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
        ledger = node.store.bytes_of(target(manifest).digest)
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
        assert node.store.bytes_of(target(manifest).digest).wasted == BLOCK
        node.die()


def test_what_is_on_disk_is_not_fetched_again_after_a_kill(broker: Broker, tmp_path: Path) -> None:
    data = Random(3).randbytes(30 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(broker, manifest, payloads, mute_after=12)) as hub:
        node = Node(broker, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.store.bytes_of(target(manifest).digest).received >= 12 * BLOCK)
        node.die()
        held = {digest for digest, times in hub.published.items() if times}
        hub.mute_after = 10**9

        again = Node(broker, tmp_path)
        again.fetch(manifest)
        again.until(lambda: again.ended)

        assert again.file(manifest) == data
        assert all(hub.published[digest] == 1 for digest in held)
        ledger = again.store.bytes_of(target(manifest).digest)
        assert (ledger.received, ledger.reused) == (len(data), 0)
        again.die()


def test_a_block_that_changed_on_disk_is_found_and_fetched_again(broker: Broker, tmp_path: Path) -> None:
    data = Random(4).randbytes(10 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(broker, manifest, payloads, mute_after=6)) as hub:
        node = Node(broker, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.store.bytes_of(target(manifest).digest).received >= 6 * BLOCK)
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
        assert again.store.bytes_of(target(manifest).digest).received == 11 * BLOCK  # ten, and the damaged one once more
        again.die()


def test_a_broker_that_forgets_everything_half_way_costs_at_most_the_window(broker: Broker, tmp_path: Path) -> None:
    data = Random(5).randbytes(40 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(broker, manifest, payloads)) as hub:
        node = Node(broker, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.store.bytes_of(target(manifest).digest).received >= 10 * BLOCK)

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
        ledger = node.store.bytes_of(target(second).digest)
        assert (ledger.planned, ledger.received, ledger.reused) == (10 * BLOCK, 2 * BLOCK, 8 * BLOCK)
        node.die()


def test_a_full_disk_parks_the_transfer_and_room_lets_it_go_on(mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.agent.delivery.PARKED_SECONDS", 0.2)
    data = Random(8).randbytes(2 * BLOCK)
    manifest, payloads = release(data)
    with small_disk(tmp_path / "disk") as disk, serving(Hub(mosquitto, manifest, payloads)):
        filler = disk / "filler"
        filler.write_bytes(bytes(60_000))
        for number in range(2):
            with contextlib.suppress(OSError):
                (disk / f"filler-{number}").write_bytes(bytes(50_000))
        node = Node(mosquitto, tmp_path)
        node.artifacts = node.delivery._artifacts = node.delivery._stock._artifacts = Artifacts(disk / "artifacts")
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
