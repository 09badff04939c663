"""What one change costs a hub and a node of a fleet with a thousand models: a real repository, the hub's announcer, a node's trusted set.

The broker is not in it: what the announcer gives to its connection is counted, and handed to the node.
"""

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from bench.figures import Figure
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.delivery.announce import Announcer, Signers
from hub.signing.tuf_repository import Repository
from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import ModelBundle, role_name
from schemas.deployments import DEFAULT, Deployment, Deployments
from schemas.manifest import Block, File, Manifest, Tensor, Variant, target_path
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout, rollout_path
from schemas.topics import Topics

MODELS, RUNS = 1000, 5


def measure() -> list[Figure]:
    """Step one model's rollout, publish a release of one model, look without a change; let a node take it."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = _Fleet(Path(folder))
        first = fleet.cost(fleet.announce)
        node = _Node(fleet)
        steps, published, accepted, models = [], [], [], []
        for run in range(2, 2 + RUNS):
            fleet.step(fleet.names[run], run)
            steps.append(fleet.cost(fleet.announce))
            fleet.release(fleet.names[run], f"{run}.0.0")
            published.append(fleet.cost(fleet.announce))
            accepted.append(fleet.cost(node.take_roles))
            models.append(fleet.cost(lambda name=fleet.names[run]: node.take_model(name)))  # type: ignore[misc]
        looks = [fleet.cost(lambda: fleet.announce(seconds=61)) for _ in range(RUNS)]
    print(
        {
            "first": first,
            "steps": steps,
            "published": published,
            "accepted": accepted,
            "model": models,
            "looks": looks,
            "node_first": node.first,
        }
    )
    return []


class _Fleet:
    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, float(int(time.time()))
        self.team, self.targets, self.snapshot, self.timestamp, self.rollouts = (CryptoSigner.generate_ed25519() for _ in range(5))
        self.names = [f"model-{number:04}" for number in range(MODELS)]
        self.topics, self.said = Topics("bench"), dict[str, bytes]()
        began = time.monotonic()
        self.repository = Repository.create(
            folder / "trust",
            root_signers=[CryptoSigner.generate_ed25519()],
            threshold=1,
            targets=self.targets,
            snapshot=self.snapshot,
            timestamp=self.timestamp,
            rollouts=self.rollouts,
            team=self.team.public_key,
            models=self.names,
            now=self._moment(),
        )
        print("created", time.monotonic() - began)
        self.refs: dict[str, ReleaseRef] = {}
        self._seed()
        print("seeded", time.monotonic() - began)
        store = Store(f"sqlite:///{folder / 'hub.sqlite'}", clock=lambda: self.now)
        store.create()
        self.announcer = Announcer(
            repository=self.repository,
            link=self,  # type: ignore[arg-type]
            notes=Notes(store, publish=lambda alert: None, clock=lambda: self.now),
            signers=Signers(self.snapshot, self.timestamp, self.rollouts),
            wall=lambda: self.now,
            monotonic=lambda: self.now,
        )

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def retain(self, topic: str, payload: bytes) -> None:
        self.said[topic] = payload

    def _seed(self) -> None:
        """Write what so many publishers and steps would have: one by one they would take minutes."""
        folder, repository = self.repository._folder, self.repository
        rollouts = Targets()
        for name in self.names:
            document = self._manifest(name, "1.0.0")
            folder.write(folder.documents / target_path(name, "1.0.0"), document)
            role = Targets(targets={target_path(name, "1.0.0"): TargetFile.from_data("", document, ["sha256"])})
            role.expires = self._moment() + timedelta(days=90)
            metadata = Metadata(role)
            metadata.sign(self.team)
            folder.write(folder.path(role_name(name), 1), metadata.to_bytes())
            repository.set_deployments(name, self._deployments(name, 1), rollouts=self.rollouts)
            rollouts.targets[rollout_path(name)] = target = TargetFile.from_data("", before := self._rollout(name, 1), ["sha256"])
            folder.write(repository._rollout_file(name, target), before)
        repository._next("rollouts", rollouts, [self.rollouts], self._moment())

    def _manifest(self, name: str, version: str) -> bytes:
        graph = sha256(f"{name}{version}".encode())
        tensor = Tensor(name="x", datatype="FP32", shape=(-1, 5))
        file = File(path="model.onnx", bytes=7, digest=graph, blocks=(Block(graph, 7),))
        variants = (Variant(name="fp32", files=(file,)),)
        document = codec.encode(Manifest(model=name, version=version, created=1, inputs=(tensor,), outputs=(tensor,), variants=variants))
        self.refs[name] = ReleaseRef(version, sha256(document))
        return document

    def _deployments(self, name: str, serial: int) -> bytes:
        one = Deployment(name=DEFAULT, release=self.refs[name], state="done", rollout=bytes([serial] * 16), started=serial)
        expires = int((self._moment() + timedelta(days=7)).timestamp())
        return codec.encode(Deployments(model=name, serial=serial, expires=expires, deployments=(one,)))

    def _rollout(self, name: str, serial: int) -> bytes:
        salt = bytes([serial] * 16)
        one = Rollout(model=name, serial=serial, release=self.refs[name], state="running", stages=(100,), salt=salt, started=serial)
        return codec.encode(one)

    def release(self, name: str, version: str) -> None:
        """Publish a release of one model."""
        self.repository.add_release(name, version, self._manifest(name, version), team=self.team, now=self._moment())

    def step(self, name: str, serial: int) -> None:
        """Sign a step of one model's rollout, in today's form and in the one of before."""
        self.repository.set_deployments(name, self._deployments(name, serial), rollouts=self.rollouts)
        self.repository.set_rollout(name, self._rollout(name, serial), rollouts=self.rollouts, now=self._moment())

    def announce(self, seconds: float = 1) -> None:
        self.said.clear()
        self.now += seconds
        self.announcer.tick(online=True)

    @staticmethod
    def cost(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began


class _Node:
    def __init__(self, fleet: _Fleet) -> None:
        self.fleet = fleet
        self.trust = Trust(fleet.folder / "node", fleet.repository.root())
        self.first = fleet.cost(self.take_roles)

    def take_roles(self) -> None:
        self.trust.accept_roles(self.fleet.repository.trust_roles(), now=self.fleet._moment())

    def take_model(self, name: str) -> None:
        bundle = codec.decode(ModelBundle, self.fleet.said[self.fleet.topics.model(name)])
        self.trust.accept_model(bundle, now=self.fleet._moment())
