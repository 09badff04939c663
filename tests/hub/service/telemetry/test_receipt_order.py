"""The running hub and its database agree about what a node serves, in whatever order and however often its receipts come."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcast.mqtt_connection import Message
from hub.core.enrol.enrolment import Roll
from hub.core.rollouts.fleet import Node
from hub.core.rollouts.listening import Listened
from hub.database.device_lives import DeviceLives
from hub.database.hearing import Hearing
from hub.database.known_nodes import known_nodes
from hub.database.rows import NodeRow, by_model
from hub.publish.block_store import BlockStore
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import ReceiptArrived
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.ingest import Ingest
from schemas import codec
from schemas.names import sha256
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import State
from tests.hub.hubs import Fleet
from tests.offices import spki

KEY = ec.generate_private_key(ec.SECP256R1())
STATE = State(node="n1", session=1, status="online", at=1, public_key=spki(KEY))


class Scene:
    """A hub's intake over a real database, without a broker."""

    def __init__(self, folder: Path) -> None:
        self.fleet, self.now = Fleet(folder), 1000.0
        self.roll = Roll(required=False)
        self.store = self.fleet.store
        self.begin()

    def begin(self) -> None:
        DeviceLives(self.store.database).erase("n1")
        self.store.upsert_node(NodeRow("n1", 1, "online", 1, codec.encode(STATE), STATE.public_key, ""))
        self.ingest = Ingest(
            store=self.store,
            listening=ListeningClock(Hearing(self.store.database), monotonic=lambda: self.now),
            notes=Notes(self.store, publish=lambda alert: None, clock=lambda: self.now),
            roll=self.roll,
            look=lambda: None,
            releases=Releases(self.fleet.repository, BlockStore(self.fleet.directory / "blocks")),
            silent_seconds=60,
            topic_of=self.fleet.topics.receipt,
            window_rows_max=1_000_000,
            window_age_days_max=800,
            set_cohorts=list,
            random_bytes=os.urandom,
            clock=lambda: self.now,
        )

    def take(self, *sealed: SealedReceipt) -> None:
        self.now += 1
        topic = self.fleet.topics.receipt("n1")
        self.ingest.receipts([ReceiptArrived("n1", one, Message(topic, b"", retained=False, mid=1, qos=1, epoch=1)) for one in sealed])

    def by_database(self) -> Node:
        return known_nodes(self.store, self.roll, listened=Listened(0.0), now=self.now).nodes["n1"]

    def listed(self) -> str | None:
        """Return what `fleetcast nodes` says."""
        found = by_model(self.store.serving()).get(("n1", "delay"))
        return found.version if found is not None else None

    def running(self) -> str | None:
        found = self.ingest.nodes["n1"].serving.get("delay")
        return found.version if found is not None else None


def signed(sequence: int, version: str, *, at: int, outcome: str = "serving") -> SealedReceipt:
    digest = sha256(version.encode())
    body = codec.encode(
        Receipt.model_validate(
            {"node": "n1", "sequence": sequence, "at": at, "outcome": outcome, "model": "delay", "version": version, "digest": digest}
        )
    )
    return SealedReceipt(body=body, signature=KEY.sign(body, ec.ECDSA(hashes.SHA256())))


RECEIPTS = {
    (sequence, at, outcome): signed(sequence, f"{sequence}.{at}.0", at=at, outcome=outcome)
    for sequence in range(1, 5)
    for at in (1, 2, 5)
    for outcome in ("serving", "refused", "rolled_back")
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("fleet"))


def test_receipts_that_come_again_undo_nothing_after_a_copy_has_signed(scene: Scene) -> None:
    scene.begin()
    first, second, third = (signed(number, f"{number}.0.0", at=10 * number) for number in (1, 2, 3))
    copied = signed(2, "9.0.0", at=25)
    for one in (first, second, copied, third):
        scene.take(one)

    scene.take(second)  # The broker's session was lost: each of the two devices sends again what it has signed.
    scene.take(copied)
    scene.take(first)

    assert scene.running() == scene.listed() == scene.by_database().serving["delay"].version == "3.0.0"


def test_a_receipt_that_was_lost_and_comes_late_is_older(scene: Scene) -> None:
    scene.begin()
    scene.take(signed(2, "2.0.0", at=20))
    scene.take(signed(1, "1.0.0", at=10))

    assert scene.running() == scene.listed() == scene.by_database().serving["delay"].version == "2.0.0"


def test_a_store_that_was_lost_counts_anew_for_the_hub_and_its_database(scene: Scene) -> None:
    scene.begin()
    scene.take(*(signed(number, f"{number}.0.0", at=number) for number in range(1, 8)))
    scene.take(signed(1, "8.0.0", at=100))

    assert scene.running() == scene.listed() == scene.by_database().serving["delay"].version == "8.0.0"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.sampled_from(sorted(RECEIPTS)), min_size=1, max_size=4), max_size=6))
def test_the_running_hub_and_its_database_fold_the_same(batches: list[list[tuple[int, int, str]]], scene: Scene) -> None:
    scene.begin()
    for batch in batches:
        scene.take(*(RECEIPTS[one] for one in batch))

    running, kept = scene.ingest.nodes["n1"], scene.by_database()
    assert (running.serving, running.failures, running.newest) == (kept.serving, kept.failures, kept.newest)
    assert (running.failed_at, running.measured) == (kept.failed_at, kept.measured)
    assert scene.running() == scene.listed()
    scene.ingest.save()
    proved = scene.by_database()
    assert replace(proved, last_seen=kept.last_seen, heard_at=kept.heard_at) == kept
    assert scene.store.proofs().keys() == {"n1"}
