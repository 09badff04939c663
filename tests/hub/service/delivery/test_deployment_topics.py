"""What a real hub says on the small topics: only what changed, in an order in which a node finds all it needs, and its own again."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from fleetcast.mqtt_connection import Message
from hub.service.delivery.deployment_topics import DeploymentTopics
from hub.service.delivery.retained_topic_check import judge_deployments
from hub.signing.envelopes import seal
from schemas import codec
from schemas.bundle import TrustRoles, TrustTime
from schemas.deployment_index import DeploymentIndex, ModelSelectors
from schemas.deployments import DEFAULT, Deployment, Deployments, Envelope
from schemas.errors import Code
from schemas.rollout import ReleaseRef, Rollout
from schemas.selectors import parse
from tests import brokers
from tests.broker.client import Client
from tests.hub.hubs import Fleet, until
from tests.trust_fleet import change_keys, signed

RELEASE = ReleaseRef("1.0.0", bytes(32))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(tmp_path / "fleet")
    made.publish("1.0.0")
    return made


def statement(serial: int, where: str = "", *, model: str = "delay") -> bytes:
    one = Deployment(
        name="some" if where else DEFAULT, selector=parse(where), release=RELEASE, state="done", rollout=bytes([serial] * 16), started=1
    )
    expires = int((datetime.now(UTC) + timedelta(days=7)).timestamp())
    return codec.encode(Deployments(model=model, serial=serial, expires=expires, deployments=(one,)))


def deploy(fleet: Fleet, serial: int, where: str = "") -> bytes:
    """Sign a statement; returns what then stands on its topic."""
    fleet.repository.set_deployments("delay", statement(serial, where), rollouts=fleet.online[2])
    return fleet.repository.deployments("delay") or b""


@dataclass
class Listener:
    """All that is said on the hub's own topics."""

    fleet: Fleet
    client: Client

    @classmethod
    def on(cls, broker: brokers.Broker, fleet: Fleet) -> "Listener":
        client = Client.of(broker, "listener")
        client.open()
        topics = fleet.topics
        client.subscribe(
            topics.trust, topics.trust_time, topics.trust_roles, topics.deployed, topics.deploy("delay"), topics.model("delay")
        )
        return cls(fleet, client)

    def until_on(self, topic: str, payload: bytes | None = None) -> list[Message]:
        """All that comes up to a message on this topic, with this payload if one is given."""
        found: list[Message] = []
        while not found or found[-1].topic != topic or (payload is not None and found[-1].payload != payload):
            found.append(self.client.next(Message))
            self.client.link.ack(found[-1])
        return found

    def names(self, found: list[Message]) -> list[str]:
        return [message.topic.removeprefix(self.fleet.topics.prefix) for message in found if not message.retained]


def test_a_step_is_said_on_the_model_s_topic_alone(embedded: brokers.Broker, fleet: Fleet) -> None:
    deploy(fleet, 1, "site=a")
    with fleet.hub(embedded):
        until("the first announcement", lambda: retained(embedded, fleet.topics.trust))
        listener = Listener.on(embedded, fleet)
        listener.until_on(fleet.topics.model("delay"))
        listener.client.messages(seconds=0.5)
        said = deploy(fleet, 2, "site=a")
        assert listener.names(listener.until_on(fleet.topics.deploy("delay"), said)) == ["deploy/delay"]
        moved = Rollout(model="delay", serial=2, release=RELEASE, state="running", stages=(100,), salt=bytes(16), started=1)
        fleet.repository.set_rollout("delay", codec.encode(moved), rollouts=fleet.online[2], now=datetime.now(UTC))
        assert listener.names(listener.until_on(fleet.topics.trust)) == ["trust"], "a step that nodes of before read changes no other topic"
        said = deploy(fleet, 3, "site in (a,b)")
        found = listener.names(listener.until_on(fleet.topics.deployed))

    assert found == ["deploy/delay", "deployed"]


def test_what_stands_on_the_small_topics_fits_together(broker: brokers.Broker, fleet: Fleet) -> None:
    said = deploy(fleet, 1, "site=a")
    with fleet.hub(broker):
        until("the announcement", lambda: retained(broker, fleet.topics.trust))
        roles = codec.decode(TrustRoles, retained(broker, fleet.topics.trust_roles))
        stamp = codec.decode(TrustTime, retained(broker, fleet.topics.trust_time))
        index = codec.decode(DeploymentIndex, retained(broker, fleet.topics.deployed))

    assert retained(broker, fleet.topics.deploy("delay")) == said
    assert stamp.timestamp == roles.timestamp
    assert (index.root, index.targets) == (1, signed(roles.targets).version)
    assert index.models == (ModelSelectors("delay", (parse("site=a"),)),)
    assert len(codec.encode(stamp)) < 600


def retained(broker: brokers.Broker, topic: str) -> bytes:
    reader = Client.of(broker, "n9")
    reader.open()
    reader.subscribe(topic)
    found = reader.messages(seconds=0.3)
    reader.link.close()
    return found[-1].payload if found else b""


def test_a_release_says_new_roles_before_the_model_and_the_timestamp_comes_hourly(embedded: brokers.Broker, fleet: Fleet) -> None:
    deploy(fleet, 1)
    ahead = [0.0]
    with fleet.hub(embedded, wall=lambda: time.time() + ahead[0]):
        until("the first announcement", lambda: retained(embedded, fleet.topics.trust))
        listener = Listener.on(embedded, fleet)
        listener.until_on(fleet.topics.model("delay"))
        listener.client.messages(seconds=0.5)
        fleet.publish("1.1.0", seed=2)
        assert listener.names(listener.until_on(fleet.topics.trust)) == ["trust/roles", "trust/time", "model/delay", "trust"]
        ahead[0] = 3700.0
        fleet.repository.renew_releases("delay", team=fleet.team, now=datetime.now(UTC))  # The hub looks at once.
        found = listener.until_on(fleet.topics.trust)

    assert listener.names(found) == ["trust/roles", "trust/time", "model/delay", "trust"]


def test_the_index_comes_before_what_other_keys_may_have_signed(embedded: brokers.Broker, fleet: Fleet) -> None:
    deploy(fleet, 1)
    with fleet.hub(embedded):
        until("the first announcement", lambda: retained(embedded, fleet.topics.trust))
        listener = Listener.on(embedded, fleet)
        listener.until_on(fleet.topics.model("delay"))
        listener.client.messages(seconds=2)
        change_keys(fleet.repository, [fleet.targets], now=datetime.now(UTC), minimums={"delay": "1.0.0"})
        found = listener.names(listener.until_on(fleet.topics.trust_time))

    assert [name for name in found if name != "trust"] == ["trust/roles", "deployed", "trust/time"]


def test_rollouts_without_deployments_keep_the_hub_on_the_topic_of_before(fleet: Fleet) -> None:
    now, (snapshot, timestamp, rollouts) = datetime.now(UTC), fleet.online
    moved = Rollout(model="delay", serial=4, release=RELEASE, state="running", stages=(100,), salt=bytes(16), started=1)
    fleet.repository.set_rollout("delay", codec.encode(moved), rollouts=rollouts, now=now)
    fleet.repository.refresh(snapshot=snapshot, timestamp=timestamp, now=now)
    trust, topics = fleet.repository.trust_bundle(), DeploymentTopics(fleet.repository, fleet.topics)

    assert topics.payloads(trust, fleet.repository.standing(), now=now) == {}
    deploy(fleet, 3)  # older than the rollout
    assert topics.payloads(trust, fleet.repository.standing(), now=now) == {}
    deploy(fleet, 4)
    names = {topic.removeprefix(fleet.topics.prefix) for topic in topics.payloads(trust, fleet.repository.standing(), now=now)}
    assert names == {"trust/roles", "trust/time", "deploy/delay", "deployed"}


def test_what_a_stranger_puts_on_the_small_topics_is_told_and_put_right(embedded: brokers.Broker, fleet: Fleet) -> None:
    said, older = deploy(fleet, 2), codec.encode(seal("deployments", statement(1), fleet.online[2]))
    with fleet.hub(embedded):
        until("the announcement", lambda: retained(embedded, fleet.topics.trust))
        index, stamp = retained(embedded, fleet.topics.deployed), retained(embedded, fleet.topics.trust_time)
        stranger = Client.of(embedded, "stranger")
        stranger.open()
        strange = codec.encode(seal("deployments", statement(9), CryptoSigner.generate_ed25519()))
        stranger.link.publish(fleet.topics.deploy("delay"), strange, retain=True)
        until("a strange statement", lambda: len(fleet.refused("trust.signature")) == 1)
        until("ours again", lambda: retained(embedded, fleet.topics.deploy("delay")) == said)
        stranger.link.publish(fleet.topics.deploy("delay"), older, retain=True)
        until("an older statement", lambda: fleet.refused("trust.rollback"))
        stranger.link.publish(fleet.topics.deployed, codec.encode(DeploymentIndex(root=1, targets=1)), retain=True)
        until("another index", lambda: fleet.refused("trust.mismatch"))
        stranger.link.publish(fleet.topics.trust_time, b"", retain=True)
        until("a cleared timestamp", lambda: fleet.refused("trust.incomplete"))
        stranger.link.publish(fleet.topics.deploy("ghost"), strange, retain=True)

        until("ours again", lambda: retained(embedded, fleet.topics.deploy("delay")) == said)
        until("ours again", lambda: retained(embedded, fleet.topics.deployed) == index)
        until("ours again", lambda: retained(embedded, fleet.topics.trust_time) == stamp)
        until("nothing of a model that has no deployments", lambda: retained(embedded, fleet.topics.deploy("ghost")) == b"")


def test_statements_of_ours_are_judged_by_their_serial_and_others_by_their_key(fleet: Fleet) -> None:
    fleet.repository.refresh(snapshot=fleet.online[0], timestamp=fleet.online[1], now=datetime.now(UTC))
    ours, trust = deploy(fleet, 5), fleet.repository.trust_bundle()

    def code(signer: CryptoSigner, serial: int) -> Code:
        return judge_deployments(codec.encode(seal("deployments", statement(serial), signer)), ours, "delay", trust).code

    assert [code(fleet.online[2], serial) for serial in (4, 5, 6)] == [Code.TRUST_ROLLBACK, Code.TRUST_MISMATCH, Code.TRUST_MISMATCH]
    assert code(fleet.online[0], 6) == code(CryptoSigner.generate_ed25519(), 6) == Code.TRUST_SIGNATURE
    assert judge_deployments(b"", ours, "delay", trust).code == Code.TRUST_INCOMPLETE
    assert judge_deployments(b"junk", ours, "delay", trust).code == Code.SCHEMA_MALFORMED
    assert codec.decode(Envelope, ours).key.hex() == fleet.online[2].public_key.keyid
