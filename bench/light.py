"""Nodes without disk, trust or models: the real transfer over a real connection each, many in a process."""

import multiprocessing
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from fleetcast.mqtt_connection import CONNACK_SECONDS, Connected, Disconnected, Message, Subscribed, TlsFiles
from node.broker.mqtt import NodeLink
from node.core.delivery.transfer import Ask, Complete, Piece, Subscribe, Transfer, Unsubscribe
from schemas.errors import Unreachable
from schemas.topics import Topics

PER_PROCESS = 250
TICK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Errand:
    """What all of them fetch, and from where."""

    port: int
    fleet: str
    release: bytes
    variant: str
    pieces: tuple[Piece, ...]
    window_bytes: int = 8 * 1024 * 1024
    tls_folder: str = ""  # Where ca.crt and each node's certificate and key are; empty: without TLS.


class _Inbox:
    def __init__(self, node: "LightNode", shared: "queue.Queue[tuple[LightNode, Any]]") -> None:
        self._node, self._shared = node, shared

    def put(self, event: Any) -> None:
        self._shared.put((self._node, event))


class LightNode:
    """One node; `received` counts payload bytes, wanted or not."""

    def __init__(self, name: str, errand: Errand, shared: "queue.Queue[tuple[LightNode, Any]]") -> None:
        self.errand, self.done, self.received, self.connections = errand, False, 0, 0
        self._topics = Topics(errand.fleet)
        at, tls = f"mqtt://{name}:x@127.0.0.1:{errand.port}", None
        if errand.tls_folder:
            at, files = f"mqtts://127.0.0.1:{errand.port}", f"{errand.tls_folder}/{name}"
            tls = TlsFiles(ca=f"{errand.tls_folder}/ca.crt", certificate=f"{files}.crt", key=f"{files}.key")
        self.link = NodeLink(at, fleet=errand.fleet, node=name, inbox=_Inbox(self, shared), tls=tls)  # type: ignore[arg-type]
        self._granting: dict[int, tuple[bytes, ...]] = {}
        self.online, self.retry_at = False, 0.0
        self.transfer, commands = Transfer.start(
            errand.pieces,
            window_bytes=errand.window_bytes,
            filters_per_subscribe=8,
            rng=Random(name),
            now=time.monotonic(),
            online=False,
        )
        self._run(commands)

    def connect(self) -> None:
        """Try; where nothing answers, again a second later, and else when the broker has had its time, as real nodes do."""
        self.connections += 1
        try:
            self.link.open(session=self.connections, at=int(time.time()))
        except Unreachable:
            self.retry_at = time.monotonic() + 1.0
        else:
            self.retry_at = time.monotonic() + CONNACK_SECONDS

    def handle(self, event: Any) -> None:
        """One event of its connection."""
        now = time.monotonic()
        match event:
            case Connected():
                self.online = True
                self._run(self.transfer.connected(session_present=event.session_present, now=now))
            case Disconnected():
                self.online, self.retry_at = False, now + 0.5
                self.transfer.disconnected()
            case Subscribed(mid, _):
                self._run(self.transfer.granted(self._granting.pop(mid, ()), now=now))
            case Message():
                digest = bytes.fromhex(event.topic.rsplit("/", 1)[1])
                self.received += len(event.payload)
                self._run(self.transfer.took(digest, now=now))
                self.link.ack(event)

    def tick(self) -> None:
        """Time passes."""
        if not self.online and time.monotonic() >= self.retry_at:
            self.connect()
        self._run(self.transfer.tick(time.monotonic()))

    def _run(self, commands: Sequence[Any]) -> None:
        for command in commands:
            match command:
                case Subscribe(digests, only_if_new):
                    mid = self.link.subscribe_blocks(digests, only_if_new=only_if_new)
                    if mid is not None:
                        self._granting[mid] = digests
                case Unsubscribe(digests):
                    self.link.unsubscribe_blocks(digests)
                case Ask():
                    self.link.want(command.want(self.errand.release, self.errand.variant))
                case Complete():
                    self.done = True


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of them."""

    nodes: int
    received_bytes: int  # by all of them
    seconds: float


def fetch(errand: Errand, nodes: int, *, spread_seconds: float = 0.0, timeout_seconds: float = 600.0) -> Fetched:
    """Have so many nodes fetch the errand, started at random within a while, in processes of their own.

    Raises:
        TimeoutError: not all were done in time.
    """
    began = time.monotonic()
    results: Any = multiprocessing.get_context("spawn").Queue()
    groups = [range(at, min(at + PER_PROCESS, nodes)) for at in range(0, nodes, PER_PROCESS)]
    processes = [
        multiprocessing.get_context("spawn").Process(target=_work, args=(errand, list(group), spread_seconds, timeout_seconds, results))
        for group in groups
    ]
    for process in processes:
        process.start()
    received = [results.get(timeout=timeout_seconds + 60) for _ in processes]
    for process in processes:
        process.join()
    if any(one is None for one in received):
        raise TimeoutError(f"{nodes} nodes were not done in {timeout_seconds} s")
    return Fetched(nodes, sum(received), time.monotonic() - began)


def _work(errand: Errand, numbers: list[int], spread_seconds: float, timeout_seconds: float, results: Any) -> None:
    shared: queue.Queue[tuple[LightNode, Any]] = queue.Queue()
    rng = Random(numbers[0])
    began = time.monotonic()
    starts = sorted((began + rng.random() * spread_seconds, number) for number in numbers)
    nodes: list[LightNode] = []
    ticked = 0.0
    while len(nodes) < len(numbers) or not all(node.done for node in nodes):
        now = time.monotonic()
        if now - began > timeout_seconds:
            results.put(None)
            return
        while starts and starts[0][0] <= now:
            nodes.append(LightNode(f"light-{starts.pop(0)[1]}", errand, shared))
        if now - ticked >= TICK_SECONDS:
            ticked = now
            for node in nodes:
                node.tick()
        try:
            node, event = shared.get(timeout=0.02)
            node.handle(event)
            for _ in range(500):
                node, event = shared.get_nowait()
                node.handle(event)
        except queue.Empty:
            pass
    results.put(sum(node.received for node in nodes))
    for node in nodes:
        node.link.close()
