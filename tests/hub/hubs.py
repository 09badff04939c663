"""A real hub in a thread, and real devices with keys of their own, for tests of the service against a running broker."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from fleetcast.mqtt_connection import Message
from hub.core.delivery.encode import encode_block
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from hub.database.store import EventRow, RolloutRow, Store
from hub.publish.block_store import BlockStore
from hub.service.delivery.announce import Signers
from hub.service.loop import Service
from hub.settings import HubSettings
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.accuracy import Accuracy
from schemas.block_request import Range, Want
from schemas.deployments import Deployment, Deployments
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.receipt import Receipt, SealedReceipt
from schemas.signals import Privacy
from schemas.state import Profile, State
from schemas.topics import Topics
from schemas.window import Window, expected_counts, pack_counts
from tests.broker.client import Client
from tests.brokers import FLEET, Broker
from tests.databases import ON_POSTGRESQL, url_of
from tests.waiting import until

BLOCK_BYTES, BLOCKS = 20_000, 5
WINDOW_SECONDS = 3600
START = 1_700_000_000 // WINDOW_SECONDS * WINDOW_SECONDS


def deployment_of(row: RolloutRow) -> Deployment:
    """The deployment of which a row is the working state."""
    return codec.decode(Deployments, row.document).deployments[0]


@dataclass(slots=True)
class Fleet:
    """A fleet's folder, with keys in memory, and the database that the hub writes."""

    directory: Path
    team: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    targets: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    online: list[CryptoSigner] = field(default_factory=lambda: [CryptoSigner.generate_ed25519() for _ in range(3)])
    topics: Topics = field(default_factory=lambda: Topics(FLEET))

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        snapshot, timestamp, rollouts = self.online
        Repository.create(
            self.directory / "trust",
            root_signers=[CryptoSigner.generate_ed25519()],
            threshold=1,
            targets=self.targets,
            snapshot=snapshot,
            timestamp=timestamp,
            rollouts=rollouts,
            team=self.team.public_key,
            models=["delay"],
            now=datetime.now(UTC),
        )

    @property
    def repository(self) -> Repository:
        """Its trust."""
        return Repository(self.directory / "trust")

    @property
    def store(self) -> Store:
        """Its database, as an operator's command opens it."""
        store = Store(url_of(self.directory / "hub.sqlite"))
        store.create()
        return store

    @property
    def signers(self) -> Signers:
        """The hub's online keys."""
        return Signers(*self.online)

    def publish(
        self,
        version: str,
        seed: int = 1,
        *,
        calibration_rows: int | None = None,
        accuracy: Accuracy | None = None,
        blocks: BlockStore | None = None,
    ) -> Manifest:
        """A release with five blocks that do not compress and one watched signal; what it would predict does not matter here."""
        rng = np.random.default_rng(seed)
        store, listed = blocks or BlockStore(self.directory / "blocks"), list[Block]()
        data = rng.bytes(BLOCK_BYTES * BLOCKS)
        for at in range(0, len(data), BLOCK_BYTES):
            block, payloads = encode_block(data[at : at + BLOCK_BYTES])
            for digest, payload in payloads.items():
                store.put(digest, payload)
            listed.append(block)
        numerator, denominator = sigma2_for(4.0, 1e-6, 1)
        tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
        file = File(path="model.onnx", bytes=len(data), digest=sha256(data), blocks=tuple(listed))
        days = np.repeat(np.arange(30), 100)
        manifest = Manifest(
            model="delay",
            version=version,
            created=1,
            inputs=(tensor,),
            outputs=(tensor,),
            variants=(Variant(name="default", files=(file,)),),
            baseline=build_baseline(
                [(SignalSpec("hour", "numeric", "input", "x"), np.random.default_rng(0).normal(size=3000))],
                days,
                calibration_rows=calibration_rows,
            ),
            privacy=Privacy(
                epsilon=4.0, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=WINDOW_SECONDS
            ),
            accuracy=accuracy,
        )
        self.repository.add_release("delay", version, codec.encode(manifest), team=self.team, now=datetime.now(UTC))
        return manifest

    def settings(self, broker: Broker | None, **changes: Any) -> HubSettings:
        """Quick ones; without a broker, the embedded one."""
        tls = broker.tls("hub") if broker else None
        fields: dict[str, Any] = {
            "fleet": FLEET,
            "cohort_nodes_min": 3,
            "again_seconds": 0.0,
            "settle_seconds": 1,
            "connect_seconds": 60.0,
            "window_age_days_max": 36_500,
        }
        if ON_POSTGRESQL:
            fields["database_url"] = url_of(self.directory / "hub.sqlite")
        if broker is not None:
            fields["broker_url"] = broker.url("hub")
        if tls is not None:
            fields.update(tls_ca=tls.ca, tls_certificate=tls.certificate, tls_key=tls.key)
        return HubSettings(**{**fields, **changes})

    @contextlib.contextmanager
    def hub(self, broker: Broker | None, *, wall: Callable[[], float] = time.time, **changes: Any) -> Iterator[Service]:
        """The service, running; whatever it raises comes out at the end."""
        stop, raised = threading.Event(), list[BaseException]()
        service = Service(self.directory, self.settings(broker, **changes), signers=self.signers, wall=wall)

        def run() -> None:
            try:
                service.run(stop)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            until("the hub", lambda: raised or (self.directory / "hub.ready").exists())
            yield service
        finally:
            stop.set()
            thread.join(60)
        if raised:
            raise raised[0]

    def events(self, kind: str, since_id: int = 0) -> list[EventRow]:
        """What the hub has noted."""
        return [event for event in self.store.events(since_id) if event.kind == kind]

    def refused(self, code: str) -> list[str]:
        """Reasons of refusals with this code."""
        return [row.reason for row in self.store.refusals() if row.code == code]


@dataclass(slots=True)
class Device:
    """A node's part of the protocol, by hand."""

    name: str
    client: Client
    fleet: Fleet
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    sequence: int = 0
    session: int = 0
    kept: list[Message] = field(default_factory=list)

    @classmethod
    def connect(cls, name: str, broker: Broker, fleet: Fleet) -> "Device":
        """Connected, and said so."""
        device = cls(name, Client.of(broker, name), fleet)
        device.client.open()
        device.say_state()
        return device

    def say_state(self, status: str = "online", **changes: Any) -> None:
        """Report."""
        self.session += 1
        public = self.key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        fields = {
            "node": self.name,
            "session": self.session,
            "status": status,
            "at": int(time.time()),
            "public_key": public,
            "cohort": "nyc",
        }
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"site": self.name})
        state = State.model_validate({**fields, "profile": profile, **changes})
        self.client.link.publish(self.fleet.topics.state(self.name), codec.encode(state), retain=True)

    def sign(self, outcome: str, manifest: Manifest | None = None, *, code: str = "", node: str = "", **more: Any) -> None:
        """Send a receipt."""
        self.sequence += 1
        release = {"model": "delay", "version": manifest.version, "digest": sha256(codec.encode(manifest))} if manifest else {}
        fields = {"node": node or self.name, "sequence": self.sequence, "at": 1, "outcome": outcome, "code": code, **release, **more}
        body = codec.encode(Receipt.model_validate(fields))
        sealed = SealedReceipt(body=body, signature=self.key.sign(body, ec.ECDSA(hashes.SHA256())))
        self.client.link.publish(self.fleet.topics.receipt(self.name), codec.encode(sealed))

    def fetch(self, manifest: Manifest, *, again: bool = False, count: int = BLOCKS) -> list[Message]:
        """Subscribe, want, and wait for the first blocks of a release."""
        blocks = manifest.variants[0].files[0].blocks[:count]
        self.client.subscribe(*[self.fleet.topics.block(block.digest) for block in blocks])
        self.want(manifest, again=again, count=count)
        return [self.next_on(self.fleet.topics.block(block.digest)) for block in blocks]

    def want(self, manifest: Manifest, *, again: bool = False, count: int = BLOCKS) -> None:
        """Ask for the first blocks."""
        digest = sha256(codec.encode(manifest))
        want = Want(release=digest, variant="default", ranges=(Range(0, count),), encodings=("raw", "zstd"), again=again)
        self.client.link.publish(self.fleet.topics.want(self.name), codec.encode(want))

    def next_on(self, topic: str, *, wanted: Callable[[Message], bool] = lambda message: bool(message.payload)) -> Message:
        """The next message of a topic that is as wanted; those of other topics are kept. All are acknowledged in the order of arrival."""
        for at, message in enumerate(self.kept):
            if message.topic == topic and wanted(message):
                return self.kept.pop(at)
        while True:
            message = self.client.next(Message)
            self.client.link.ack(message)
            if message.topic == topic and wanted(message):
                return message
            if message.topic != topic:
                self.kept.append(message)

    def window(self, manifest: Manifest, counts: list[int], *, start: int = START, cohort: str = "nyc", rows: int | None = None) -> None:
        """Send counts, without noise."""
        assert manifest.baseline is not None
        total = sum(counts) if rows is None else rows
        packed = pack_counts(counts, expected_counts(manifest.baseline, total))
        release = sha256(codec.encode(manifest))[:8]
        window = Window(id=os.urandom(16), release=release, start=start, seconds=WINDOW_SECONDS, rows=total, counts=packed)
        self.client.link.publish(self.fleet.topics.telemetry("delay", cohort), codec.encode(window))
