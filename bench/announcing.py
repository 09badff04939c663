"""What one change costs a hub and a node of a fleet with a thousand models: a real repository, the hub's announcer, a node's trusted set.

The broker is not in it: what the announcer gives to its connection is counted, and handed to the node.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from bench.figures import Figure, median
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.delivery.announce import Announcer, Signers
from hub.signing.role_lists import rollout_file
from hub.signing.tuf_repository import Repository
from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import ModelBundle, TrustRoles, role_name
from schemas.deployments import DEFAULT, Deployment, Deployments
from schemas.manifest import Block, File, Manifest, Tensor, Variant, target_path
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout, rollout_path
from schemas.topics import Topics

MODELS, RUNS = 1000, 5
# What this bench measured where each change had the hub read and encode every model, and nodes verify every role (a step, a release; roles,
# a model's bundle).
BEFORE_ANNOUNCE, BEFORE_ACCEPT = 6.17, 0.204


def measure() -> list[Figure]:
    """Step one model's rollout, publish a release of one model, look without a change; let a node take it."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = _Fleet(Path(folder))
        try:
            fleet.announce()
            node = _Node(fleet)
            steps, releases, accepted, heard = [], [], [], []
            for run in range(2, 2 + RUNS):
                name = fleet.names[run]
                fleet.step(name, run)
                steps.append(fleet.cost(fleet.announce))
                heard.append(fleet.heard())
                fleet.release(name, f"{run}.0.0")
                releases.append(fleet.cost(fleet.announce))
                heard.append(fleet.heard())
                accepted.append(fleet.cost(lambda name=name: node.take(name)))  # type: ignore[misc]
            look = median([fleet.cost(lambda: fleet.announce(seconds=61)) for _ in range(RUNS)])
        finally:
            fleet.close()
    print(
        f"a step {median(steps):.3f} s, a release {median(releases):.3f} s, a minute's look without a change {look:.3f} s of CPU",
        file=sys.stderr,
    )
    before = "before: all models read and encoded, all roles verified, at each change"
    return [
        Figure(
            "hub.announce_s.1000",
            max(median(steps), median(releases)),
            f"s of CPU to announce a step or a release of one of {MODELS} models, the dearer",
            "<= 0.1",
            before,
            BEFORE_ANNOUNCE,
        ),
        Figure(
            "node.accept_s.1000",
            median(accepted),
            "s of CPU of a node for the roles and the bundle of that release",
            "",
            before,
            BEFORE_ACCEPT,
        ),
        Figure(
            "node.other_model_bytes.1000",
            max(heard),
            "bytes to a node for a release of a model that it does not read, the topic included",
            "<= 600",
            "for a step of its rollout",
            min(heard),
        ),
    ]


class _Fleet:
    """A thousand models with a release and a deployment each, and the announcer; `said` is what it gave to the broker at the last look."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, float(int(time.time()))
        self.team, self.targets, self.snapshot, self.timestamp, self.rollouts = (CryptoSigner.generate_ed25519() for _ in range(5))
        self.names = [f"model-{number:04}" for number in range(MODELS)]
        self.topics, self.said = Topics("bench"), dict[str, bytes]()
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
            now=self.moment(),
        )
        self.refs: dict[str, ReleaseRef] = {}
        self._seed()
        self._store = Store(f"sqlite:///{folder / 'hub.sqlite'}", clock=lambda: self.now)
        self._store.create()
        self.announcer = Announcer(
            repository=self.repository,
            link=self,  # type: ignore[arg-type]
            notes=Notes(self._store, publish=lambda alert: None, clock=lambda: self.now),
            signers=Signers(self.snapshot, self.timestamp, self.rollouts),
            wall=lambda: self.now,
            monotonic=lambda: self.now,
        )

    def moment(self) -> datetime:
        """The time, for hub and node."""
        return datetime.fromtimestamp(self.now, UTC)

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()

    def heard(self) -> int:
        """What came of the last look on the topics that every node reads."""
        return sum(
            len(topic) + len(self.said.get(topic, b"")) for topic in (self.topics.trust_time, self.topics.deployed) if topic in self.said
        )

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
            role.expires = self.moment() + timedelta(days=90)
            metadata = Metadata(role)
            metadata.sign(self.team)
            folder.write(folder.path(role_name(name), 1), metadata.to_bytes())
            repository.set_deployments(name, self._deployments(name, 1), rollouts=self.rollouts)
            rollouts.targets[rollout_path(name)] = target = TargetFile.from_data("", before := self._rollout(name, 1), ["sha256"])
            folder.write(rollout_file(folder, name, target), before)
        repository._next("rollouts", rollouts, [self.rollouts], self.moment())

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
        expires = int((self.moment() + timedelta(days=7)).timestamp())
        return codec.encode(Deployments(model=name, serial=serial, expires=expires, deployments=(one,)))

    def _rollout(self, name: str, serial: int) -> bytes:
        salt = bytes([serial] * 16)
        one = Rollout(model=name, serial=serial, release=self.refs[name], state="running", stages=(100,), salt=salt, started=serial)
        return codec.encode(one)

    def release(self, name: str, version: str) -> None:
        """Publish a release of one model."""
        self.repository.add_release(name, version, self._manifest(name, version), team=self.team, now=self.moment())

    def step(self, name: str, serial: int) -> None:
        """Sign a step of one model's rollout, in today's form and in the one of before."""
        self.repository.set_deployments(name, self._deployments(name, serial), rollouts=self.rollouts)
        self.repository.set_rollout(name, self._rollout(name, serial), rollouts=self.rollouts, now=self.moment())

    def announce(self, seconds: float = 1) -> None:
        """Let the announcer look."""
        self.said.clear()
        self.now += seconds
        self.announcer.tick(online=True)

    @staticmethod
    def cost(work: Callable[[], object]) -> float:
        """The processor time of this."""
        began = time.process_time()
        work()
        return time.process_time() - began


class _Node:
    """The trusted set of a node that reads one model; it has taken up all roles once."""

    def __init__(self, fleet: _Fleet) -> None:
        self._fleet = fleet
        self._trust = Trust(fleet.folder / "node", fleet.repository.root())
        self._take_roles()

    def _take_roles(self) -> None:
        roles = codec.decode(TrustRoles, self._fleet.said[self._fleet.topics.trust_roles])
        self._trust.accept_roles(roles, now=self._fleet.moment())

    def take(self, name: str) -> None:
        """Take what the hub has said of a release."""
        self._take_roles()
        bundle = codec.decode(ModelBundle, self._fleet.said[self._fleet.topics.model(name)])
        self._trust.accept_model(bundle, now=self._fleet.moment())
