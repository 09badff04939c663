"""What a node receives of rollouts that do not concern it: a real hub with its embedded broker, a real node, and the topic of before."""

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from securesystemslib.signer import CryptoSigner

from bench.figures import Figure, median
from hub.service.delivery.announce import Signers
from hub.service.loop import Service
from hub.settings import HubSettings
from hub.signing.tuf_repository import Repository
from node.agent.loop import Agent
from node.settings import NodeSettings
from schemas import codec
from schemas.deployments import Deployment, Deployments, Stage
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout
from schemas.selectors import from_labels

FLEET, MODELS, STEPS, HOURS = "bench", 50, 5, 5
LABELS = {"site": "elsewhere"}
QUIET_SECONDS = 3.0  # Ten times what the hub takes to say what was signed.
WAIT_SECONDS = 60.0


def measure() -> list[Figure]:
    """Renew hourly, and step the rollouts of models that the node does not run; the peer reads the topic of hubs before deployments."""
    with tempfile.TemporaryDirectory() as name:
        fleet = _Fleet(Path(name))
        with (
            fleet.running() as port,
            _Road(port) as road,
            _Road(port) as old,
            _listening(old.port, fleet.old_topic),
            _node(fleet, road.port) as node,
        ):
            _wait(lambda: _stamp(node) > 0)
            time.sleep(QUIET_SECONDS)  # What follows a start: the index, and roles once.
            hours = [_received((road, old), lambda: _wait_for_hour(fleet, node)) for _ in range(HOURS)]
            steps = [_received((road, old), lambda step=step: fleet.step(step)) for step in range(2, 2 + STEPS)]  # type: ignore[misc]
    what = f"bytes of PUBLISH packets, {MODELS} models that the node does not run"
    return [
        Figure(
            "sound.hourly_bytes",
            median([new for new, _ in hours]),
            what,
            "<= 700",
            "the topic of before",
            median([old for _, old in hours]),
        ),
        Figure(
            "sound.step_bytes_uninvolved",
            max(new for new, _ in steps),
            what,
            "<= 100",
            "the topic of before",
            median([old for _, old in steps]),
        ),
    ]


class _Fleet:
    """A hub with many models, each deployed to nodes elsewhere; its clock is set on by an hour at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ahead_seconds = folder, 0.0
        self.old_topic = f"fleetcast/v1/{FLEET}/trust"
        self.team, *online = (CryptoSigner.generate_ed25519() for _ in range(4))
        self.snapshot, self.timestamp, self.rollouts = online
        self.names = [f"model-{number}" for number in range(MODELS)]
        self.repository = Repository.create(
            folder / "hub" / "trust",
            root_signers=[CryptoSigner.generate_ed25519()],
            threshold=1,
            targets=CryptoSigner.generate_ed25519(),
            snapshot=self.snapshot,
            timestamp=self.timestamp,
            rollouts=self.rollouts,
            team=self.team.public_key,
            models=self.names,
            now=datetime.now(UTC),
        )
        self.releases = {name: self._release(name) for name in self.names}
        for name in self.names:
            self._say(name, 1)

    def wall(self) -> float:
        """The time, for hub and node."""
        return time.time() + self.ahead_seconds

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    def _release(self, name: str) -> ReleaseRef:
        graph = sha256(name.encode())
        tensor = Tensor(name="x", datatype="FP32", shape=(-1, 5))
        file = File(path="model.onnx", bytes=7, digest=graph, blocks=(Block(graph, 7),))
        variants = (Variant(name="fp32", files=(file,)),)
        document = codec.encode(Manifest(model=name, version="1.0.0", created=1, inputs=(tensor,), outputs=(tensor,), variants=variants))
        self.repository.add_release(name, "1.0.0", document, team=self.team, now=self._now())
        return ReleaseRef("1.0.0", sha256(document))

    def _say(self, name: str, serial: int) -> None:
        """Sign a stage of a rollout for nodes elsewhere, in today's form and in the one of before."""
        release, started = self.releases[name], int(self.wall())
        shares = tuple(range(10, 101, 10))
        one = Deployment(
            name="elsewhere",
            priority=10,
            selector=from_labels(LABELS),
            release=release,
            state="running",
            rollout=sha256(name.encode())[:16],
            stages=tuple(Stage(share) for share in shares),
            stage=serial,
            threshold=2**64 // 10 * serial,
            started=started,
        )
        said = Deployments(model=name, serial=serial, expires=int((self._now() + timedelta(days=7)).timestamp()), deployments=(one,))
        self.repository.set_deployments(name, codec.encode(said), rollouts=self.rollouts)
        before = Rollout(
            model=name,
            serial=serial,
            release=release,
            state="running",
            stages=shares,
            stage=serial,
            salt=one.rollout,
            labels=LABELS,
            started=started,
        )
        self.repository.set_rollout(name, codec.encode(before), rollouts=self.rollouts, now=self._now())

    def step(self, serial: int) -> None:
        """Step one model's rollout, and wait until it was said and nobody says anything more."""
        before = self.stamp()
        self._say(self.names[0], serial)
        _wait(lambda: self.stamp() != before)
        time.sleep(QUIET_SECONDS)

    def stamp(self) -> int:
        """The version of the newest timestamp that is retained."""
        version: int = json.loads(self.repository.trust_roles().timestamp)["signed"]["version"]
        return version

    def look(self) -> None:
        """Make the hub look at once whether something is to be signed again, as it does every minute: its files have changed."""
        envelope = self.folder / "hub" / "trust" / "documents" / "deployments" / self.names[1]
        envelope.touch()

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """The service with its own broker; yields the broker's port."""
        hub, stop = self.folder / "hub", threading.Event()
        signers = Signers(self.snapshot, self.timestamp, self.rollouts)
        service = Service(hub, HubSettings(fleet=FLEET), signers=signers, wall=self.wall)
        thread = threading.Thread(target=service.run, args=(stop,))
        thread.start()
        try:
            _wait((hub / "hub.ready").exists)
            yield int(json.loads((hub / "hub.ready").read_text())["broker_url"].rpartition(":")[2])
        finally:
            stop.set()
            thread.join(WAIT_SECONDS)


class _Road:
    """A road to the broker for one client, which counts the bytes of PUBLISH packets that come down."""

    def __init__(self, port: int) -> None:
        self.bytes, self._to = 0, port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]

    def __enter__(self) -> "_Road":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                broker = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._up, args=(client, broker), daemon=True).start()
                threading.Thread(target=self._down, args=(broker, client), daemon=True).start()

    @staticmethod
    def _up(client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError), client, broker:
            while data := client.recv(65_536):
                broker.sendall(data)

    def _down(self, broker: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), broker, client, broker.makefile("rb") as source:
            while head := source.read(1):
                size, length, shift = 0, b"", 0
                while not length or length[-1] & 0x80:
                    length += source.read(1)
                    size |= (length[-1] & 0x7F) << shift
                    shift += 7
                packet = head + length + source.read(size)
                if head[0] >> 4 == 3:
                    self.bytes += len(packet)
                client.sendall(packet)


@contextlib.contextmanager
def _node(fleet: _Fleet, port: int) -> Iterator[Agent]:
    settings = NodeSettings(
        id="node",
        fleet=FLEET,
        broker=f"mqtt://127.0.0.1:{port}",
        data=fleet.folder / "node",
        root=fleet.folder / "root.json",
        port=0,
        isolation="inline",
        labels={"site": "here"},
    )
    root = fleet.repository.root()
    agent = Agent(settings, pinned_root=root, wall=fleet.wall, monotonic=time.monotonic, rng=Random(0))  # type: ignore[arg-type]
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        yield agent
    finally:
        stop.set()
        thread.join(WAIT_SECONDS)


@contextlib.contextmanager
def _listening(port: int, topic: str) -> Iterator[None]:
    """A client that reads one topic, as nodes of before do."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="before", protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.subscribe(topic, qos=1)
    client.loop_start()
    try:
        yield
    finally:
        client.disconnect()
        client.loop_stop()


def _wait_for_hour(fleet: _Fleet, node: Agent) -> None:
    before = _stamp(node)
    fleet.ahead_seconds += 3_600
    fleet.look()
    _wait(lambda: _stamp(node) > before)
    time.sleep(QUIET_SECONDS)


def _stamp(node: Agent) -> int:
    view = node._trust_state.view
    return view.timestamp_version if view is not None else 0


def _received(roads: tuple[_Road, _Road], do: Callable[[], None]) -> tuple[int, int]:
    """The bytes that came down each road meanwhile."""
    before = [road.bytes for road in roads]
    do()
    new, old = (road.bytes - earlier for road, earlier in zip(roads, before, strict=True))
    return new, old


def _wait(over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not over():
        if time.monotonic() > deadline:
            raise SystemExit("bench sound: waited in vain for hub or node")
        time.sleep(0.05)
