"""A hub that only serves blocks, and a node that only fetches them, over a real broker and a real disk."""

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

from fleetcast.mqtt_connection import Connected, Disconnected, Message, Subscribed
from hub.core.delivery.encode import encode_block
from node.agent.delivery.block_sources import BlockSources
from node.agent.delivery.byte_quota import ByteQuota
from node.agent.delivery.transfers import Delivery
from node.agent.events import TransferEnded, TransferStalled
from node.broker.mqtt import BlockArrived, NodeLink
from node.core.activation.lifecycle import Target
from node.core.delivery.byte_quota import Policy
from node.storage.artifacts import Artifacts
from node.storage.sideload import Sideload
from node.storage.store import NodeStore
from schemas import codec
from schemas.block_request import Want
from schemas.errors import Code, Unreachable
from schemas.manifest import Block, File, Index, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.rollout import Carriage
from schemas.topics import Topics
from tests.broker.client import Client
from tests.brokers import FLEET, Broker

BLOCK = 60_000


def release(data: bytes, *, indexed: bool = False, model: str = "m") -> tuple[Manifest, dict[bytes, bytes]]:
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
        model=model, version="1.0.0", created=1, inputs=(tensor,), outputs=(tensor,), variants=(Variant(name="v", files=(file,)),)
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
    others: tuple[Manifest, ...] = ()
    mute_after: int = 10**9
    client: Client | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        client, topics = Client.of(self.broker, "hub"), Topics(FLEET)
        self.client = client
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
        manifest = next(one for one in (self.manifest, *self.others) if target(one).digest == want.release)
        file = manifest.variants[0].files[0]
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
        thread.join(60)


class Node:
    """A node's delivery, without the rest of it."""

    def __init__(
        self, broker: Broker, folder: Path, *, name: str = "node-a", policies: dict[Any, Policy] | None = None, rate: float | None = None
    ) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.link = NodeLink(broker.url(name), fleet=FLEET, node=name, inbox=self.inbox, tls=broker.tls(name))
        self.store, self.artifacts = NodeStore(folder / "node.sqlite"), Artifacts(folder / "artifacts")
        self.ended: list[TransferEnded] = []
        self.stalled: list[TransferStalled] = []
        self.carried = Sideload(folder / "carried")
        self.link_file = folder / "link"
        self.wall = 1_700_000_000.0
        self.quota = ByteQuota(
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
            sources=BlockSources(self.store, self.artifacts, self.carried),
            quota=self.quota,
            post=lambda event: (self.ended if isinstance(event, TransferEnded) else self.stalled).append(event),  # type: ignore[attr-defined]
            refused=lambda refusal, model: self.refused.append(refusal.code),
        )
        self.online = self.connected = False
        self.session = 0
        self.heard: list[Any] = []

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
                    self.connected = True
                    self.delivery.connected(session_present=event.session_present, now=time.monotonic())
                case Disconnected():
                    self.online = False
                    self.delivery.disconnected()
                case Subscribed(mid, _):
                    self.delivery.granted(mid, time.monotonic())
                case BlockArrived():
                    self.delivery.arrived([event], time.monotonic())
                case _:
                    self.heard.append(event)
        self.delivery.tick(time.monotonic())

    def until(self, done: Any, seconds: float = 100.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, "waited in vain"
            self.turn()

    def fetch(self, manifest: Manifest, *, variant: str = "v", carriage: Carriage | None = None, follows: bool = False) -> None:
        self.delivery.start(manifest.model, target(manifest), manifest, variant, time.monotonic(), carriage=carriage, follows=follows)

    def die(self) -> None:
        """As kill -9 would: nothing is said or saved."""
        self.link._link.drop()
        self.store.close()

    def file(self, manifest: Manifest) -> bytes:
        path = self.artifacts.relative(target(manifest).digest, "v", manifest.variants[0].files[0])
        return self.artifacts.path(path).read_bytes()
