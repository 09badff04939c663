"""All keys of a fleet are replaced by the real commands while its hub runs; nodes follow, and a thief with the old ones can do nothing."""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Signer
from sklearn.datasets import load_diabetes
from tuf.api.metadata import MetaFile

from hub.signing.envelopes import seal
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle import TrustTime
from schemas.deployment_index import index_of
from schemas.deployments import Deployments, Envelope
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.brokers import FLEET
from tests.e2e.test_path import Plant, until
from tests.trust_fleet import forged, signed

pytestmark = pytest.mark.timeout(400)
MODEL = "diabetes"
STOLEN = ("online/snapshot", "online/timestamp", "online/rollouts", "keys/targets", "keys/team")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with brokers.running("embedded", tmp_path / "broker") as broker:
        made = Plant(tmp_path, broker)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def keys(plant: Plant, *arguments: str, code: int = 0) -> Any:
    return plant.cli("keys", *arguments, "--passphrase-file", str(plant.directory / "secret"), code=code)


def end(plant: Plant, name: str) -> None:
    process, _ = plant.nodes[name]
    process.terminate()
    assert process.wait(100) == 0
    plant.processes.remove(process)


def served(plant: Plant, name: str) -> str:
    return str(plant.infer(name, load_diabetes().data[:1].astype("float32"))["model_version"])


def serving(plant: Plant) -> dict[str, str]:
    """The versions that nodes serve, by their signed receipts."""
    return {node["node"]: model["serving_version"] for node in plant.cli("nodes") for model in node["models"]}


def refusals(plant: Plant, name: str) -> list[str]:
    """What a node has refused for its signature."""
    lines = (plant.directory / f"{name}.log").read_text().splitlines()
    return [line for line in lines if "message.refused" in line and "trust.signature" in line]


class Thief:
    """Has every key of before, and may publish whatever he likes on the broker."""

    def __init__(self, plant: Plant, stolen: Path) -> None:
        self.keys: dict[str, Signer] = {Path(name).name: load_signer(stolen / f"{Path(name).name}.pem", b"test") for name in STOLEN}
        self.repository, self.topics = Repository(plant.fleet / "trust"), Topics(FLEET)
        self.client = Client.of(plant.broker, "thief")
        self.client.open()
        self.plant = plant

    def refused(self, topic: str, payload: bytes, *, by: tuple[str, ...], index: bytes = b"") -> None:
        """Retain a forgery, and see every one of these nodes refuse it for its signature; an index has nodes read the roles."""
        before = {name: self._refusals(name) for name in by}

        def is_refused() -> bool:  # Again and again, because the hub puts its own in place.
            if index:
                self.client.link.publish(self.topics.deployed, index, retain=True)
            self.client.link.publish(topic, payload, retain=True)
            time.sleep(1)
            return all(self._refusals(name) > before[name] for name in by)

        until(f"the refusal of {topic} by {', '.join(by)}", is_refused)

    def _refusals(self, name: str) -> int:
        return len(refusals(self.plant, name))

    def index(self) -> bytes:
        """Say that there are newer roles."""
        sealed = codec.decode(Envelope, self.repository.deployments(MODEL) or b"")
        return codec.encode(index_of([codec.decode(Deployments, sealed.payload)], root=1_000_000, targets=1_000_000))

    def timestamp(self) -> bytes:
        """One that is far ahead, as fast-forward attacks need it."""
        present = self.repository.trust_roles().timestamp
        return codec.encode(TrustTime(timestamp=forged(present, self.keys["timestamp"], version=1_000_000)))

    def roles(self) -> bytes:
        """Roles that give the model to the thief's own key, vouched for by a snapshot and a timestamp of the old keys."""
        roles = self.repository.trust_roles()
        targets = forged(roles.targets, self.keys["targets"], version=1_000_000)
        meta = {**signed(roles.snapshot).meta, "targets.json": MetaFile(1_000_000)}
        snapshot = forged(roles.snapshot, self.keys["snapshot"], version=1_000_000, meta=meta)
        timestamp = forged(roles.timestamp, self.keys["timestamp"], version=1_000_000, snapshot_meta=MetaFile(1_000_000))
        return codec.encode(roles.model_copy(update={"targets": targets, "snapshot": snapshot, "timestamp": timestamp}))

    def deployments(self) -> bytes:
        """A statement that halts every node at what it has, with a serial that is far ahead."""
        sealed = codec.decode(Envelope, self.repository.deployments(MODEL) or b"")
        ahead = codec.decode(Deployments, sealed.payload).model_copy(update={"serial": 1_000_000})
        return codec.encode(seal("deployments", codec.encode(ahead), self.keys["rollouts"]))

    def releases(self) -> bytes:
        """The model's role, signed by the key that its team no longer has."""
        bundle = self.repository.model_bundle(MODEL, self.repository.releases(MODEL))
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        return codec.encode(bundle.model_copy(update={"role": forged(bundle.role, self.keys["team"], expires=expires)}))


def test_nodes_follow_every_new_key_and_the_stolen_ones_can_do_nothing(plant: Plant, tmp_path: Path) -> None:
    names = ("steady", "sleeper")
    for name in names:
        plant.start_node(name)
    until("two nodes", lambda: len(plant.cli("nodes")) == 2)
    plant.publish("1.0.0", 1.0)
    plant.cli("rollout", "start", f"{MODEL}@1.0.0", "--wait", "--timeout-seconds", "200")
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    for name in STOLEN:
        shutil.copy(plant.fleet / f"{name}.pem", stolen)
    before = {row["role"]: row["keys"] for row in plant.cli("keys", "show")}

    end(plant, "sleeper")  # It is off over all rotations.
    assert keys(plant, "rotate", "snapshot", "timestamp", "rollouts", "--actor", "alice")["announced"] is True
    end(plant, "steady")  # It is restarted between two of them.
    plant.start_node("steady")
    assert keys(plant, "rotate", "targets", "--actor", "bob")["announced"] is True
    assert keys(plant, "rotate", "team", "--keep", f"{MODEL}@1.0.0", "--actor", "carol")["releases"] == [f"{MODEL}@1.0.0"]
    assert keys(plant, "rotate", "root", "--actor", "dave")["announced"] is True

    after = {row["role"]: row for row in keys(plant, "show", "--check")}
    assert not [role for role, row in after.items() if set(row["keys"]) & set(before[role])]
    assert not [opened for row in after.values() for opened in row["opens"] if not opened.endswith(": yes")]
    done = {(row["actor"], row["what"].partition(":")[0]) for row in plant.cli("history", "--limit", "50") if row["kind"] == "key"}
    assert {actor for actor, _ in done} == {"alice", "bob", "carol", "dave", "hub"}

    # The thief comes while one node is up and the other is still off. The hub puts its own in place again.
    plant.publish("1.1.0", 50.0)
    plant.cli("rollout", "start", f"{MODEL}@1.1.0")
    until("the release under the new keys", lambda: served(plant, "steady") == "1.1.0")
    assert refusals(plant, "steady") == [], "an honest change of keys is followed, and refused by nobody"
    thief = Thief(plant, stolen)
    thief.refused(thief.topics.trust_time, thief.timestamp(), by=("steady",))
    thief.refused(thief.topics.deploy(MODEL), thief.deployments(), by=("steady",))
    thief.refused(thief.topics.model(MODEL), thief.releases(), by=("steady",))
    thief.refused(thief.topics.trust_roles, thief.roles(), by=("steady",), index=thief.index())

    plant.start_node("sleeper")
    until("the sleeper", lambda: serving(plant) == dict.fromkeys(names, "1.1.0"))
    thief.refused(thief.topics.trust_time, thief.timestamp(), by=names)
    thief.refused(thief.topics.deploy(MODEL), thief.deployments(), by=names)
    thief.client.link.close()
    until("the hub's own statements again", lambda: not [one for row in plant.cli("nodes") for one in row["findings"]])

    plant.publish("1.2.0", 2.0)
    plant.cli("rollout", "start", f"{MODEL}@1.2.0", "--wait", "--timeout-seconds", "200")
    assert serving(plant) == dict.fromkeys(names, "1.2.0")
