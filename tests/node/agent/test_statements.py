"""Real agents and brokers: a node reads what concerns it, proves it, keeps it over restarts, and follows a hub of the version before."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from structlog.testing import capture_logs

from fleetcast.mqtt_connection import LinkEvent, Message, Published
from hub.signing.envelopes import seal
from node.agent.loop import Agent
from node.agent.trust.trust_state import TrustState
from node.core.trust import hub_topics
from node.settings import NodeSettings
from schemas import codec
from schemas.bundle import TrustTime
from schemas.deployment_index import index_of
from schemas.deployments import Deployments, Envelope
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.node.agent.test_loop import running, until, wants
from tests.trust_fleet import Fleet, signed, statement


class Scene:
    """What a hub retains at a broker, and nodes that hear it."""

    def __init__(self, broker: brokers.Broker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        # Both sides' clock is behind the machine's: it goes on by hours, and a test broker's certificate lasts one.
        self.fleet = Fleet.make(folder / "fleet", models=("delay", "other"), now=datetime.now(UTC) - timedelta(hours=40))
        self.topics, self.hub = Topics(brokers.FLEET), Client.of(broker, "hub")
        self.said: dict[str, Deployments] = {}
        for version in ("1.0.0", "1.1.0"):
            self.fleet.release(version)
        self.fleet.release("1.0.0", model="other")
        self.fleet.roles(after=timedelta())
        self.hub.open()

    def retain(self, topic: str, payload: bytes) -> None:
        self.hub.link.publish(topic, payload, retain=True)
        self.hub.next(Published)

    def say_roles(self) -> None:
        roles = self.fleet.roles(after=timedelta(hours=1))
        self.retain(self.topics.trust_roles, codec.encode(roles))
        self.retain(self.topics.trust_time, codec.encode(TrustTime(timestamp=roles.timestamp)))

    def say_models(self) -> None:
        self.retain(self.topics.model("delay"), codec.encode(self.fleet.models("1.0.0", "1.1.0")))
        self.retain(self.topics.model("other"), codec.encode(self.fleet.models("1.0.0", model="other")))

    def deploy(self, version: str, *, serial: int, model: str = "delay", where: str = "") -> Envelope:
        envelope = self.fleet.deploy(version, serial=serial, model=model, where=where)
        self.said[model] = codec.decode(Deployments, envelope.payload)
        self.retain(self.topics.deploy(model), codec.encode(envelope))
        return envelope

    def say_index(self, **hints: int) -> None:
        roles = self.fleet.repository.trust_roles()
        newest = {"root": signed(roles.roots[-1]).version, "targets": signed(roles.targets).version}
        self.retain(self.topics.deployed, codec.encode(index_of(self.said.values(), **{**newest, **hints})))

    def say_everything(self) -> None:
        self.deploy("1.0.0", serial=1)
        self.deploy("1.0.0", serial=1, model="other", where="site=b")
        self.say_roles()
        self.say_models()
        self.say_index()

    def say_old(self) -> None:
        self.retain(self.topics.trust, codec.encode(self.fleet.refresh(after=timedelta())))

    def agent(self, **changes: Any) -> Agent:
        tls = self.broker.tls("n1")
        keys = {"tls_ca": tls.ca, "tls_certificate": tls.certificate, "tls_key": tls.key} if tls else {}
        settings = NodeSettings(
            id="n1",
            fleet=brokers.FLEET,
            broker=self.broker.url("n1"),
            data=self.folder / "data",
            root=self.folder / "root.json",
            port=0,
            isolation="inline",
            labels={"site": "a"},
            **{**keys, **changes},
        )
        return Agent(
            settings,
            pinned_root=self.fleet.repository.root(),
            wall=self.wall,
            monotonic=time.monotonic,
            rng=Random(0),  # type: ignore[arg-type]
        )

    def wall(self) -> float:
        """The hub's clock, which goes on by an hour with each timestamp."""
        return self.fleet.now.timestamp() + 1


@pytest.fixture
def scene(broker: brokers.Broker, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(broker, tmp_path)
    with closing(made.hub.link):
        yield made


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Scene]:
    with brokers.running("embedded", tmp_path / "broker") as broker:
        made = Scene(broker, tmp_path)
        with closing(made.hub.link):
            yield made


def heard_by(node: Agent) -> list[Message]:
    """All that the broker gives this node from now on."""
    found: list[Message] = []
    parse = node._link.parse

    def note(event: LinkEvent) -> Any:
        if isinstance(event, Message):
            found.append(event)
        return parse(event)

    node._link.parse = note  # type: ignore[method-assign]
    return found


def names(scene: Scene, heard: list[Message]) -> set[str]:
    return {message.topic.removeprefix(scene.topics.prefix) for message in heard}


def serial(node: Agent, model: str = "delay") -> int | None:
    said = node._trust_state.statements().get(model)
    return said.serial if said is not None else None


def versions(node: Agent, model: str = "delay") -> list[str]:
    return [one.manifest.version for one in node._trust_state._releases.get(model, ())]


def test_an_empty_node_learns_what_concerns_it_and_reads_nothing_else(scene: Scene) -> None:
    scene.say_everything()
    scene.say_old()
    node = scene.agent()
    heard = heard_by(node)
    with running(node):
        until(lambda: serial(node) == 1 and versions(node) == ["1.0.0", "1.1.0"])
        until(lambda: wants(node) == "1.0.0")
        scene.say_roles()
        until(lambda: node._trust_state.view is not None and node._trust_state.view.timestamp_version == newest_time(scene))

    assert names(scene, heard) == {"trust/time", "trust/roles", "deployed", "deploy/delay", "model/delay"}
    assert serial(node, "other") is None


def newest_time(scene: Scene) -> int:
    version: int = signed(scene.fleet.repository.trust_roles().timestamp).version
    return version


def test_a_node_hears_nothing_of_a_step_that_does_not_concern_it(scene: Scene) -> None:
    scene.say_everything()
    node = scene.agent()
    heard = heard_by(node)
    with running(node):
        until(lambda: serial(node) == 1 and versions(node) != [])
        until(node._inbox.empty)
        before = len(heard)
        for step in range(2, 6):
            scene.deploy("1.0.0", serial=step, model="other", where="site=b")
            scene.fleet.roll("1.0.0", serial=step, model="other")
            scene.say_old()
        scene.deploy("1.1.0", serial=2)
        until(lambda: serial(node) == 2)

    assert names(scene, heard[before:]) == {"deploy/delay"}


def test_a_node_that_comes_to_match_reads_the_model_and_one_that_no_longer_does_leaves_it(embedded: Scene) -> None:
    embedded.say_everything()
    node = embedded.agent()
    heard = heard_by(node)
    with running(node):
        until(lambda: serial(node) == 1)
        embedded.deploy("1.0.0", serial=2, model="other", where="site in (a,b)")
        embedded.say_index()
        until(lambda: serial(node, "other") == 2 and versions(node, "other") == ["1.0.0"])
        embedded.deploy("1.0.0", serial=3, model="other", where="site=b")
        embedded.say_index()
        until(lambda: node._trust_state.followed == {"delay"})
        before = len(heard)
        embedded.deploy("1.0.0", serial=4, model="other", where="site=b")
        embedded.deploy("1.1.0", serial=2)
        until(lambda: serial(node) == 2)

    assert "deploy/other" not in names(embedded, heard[before:])


def test_roles_are_fetched_when_a_release_needs_newer_ones_and_then_left(scene: Scene) -> None:
    scene.say_everything()
    node = scene.agent()
    heard = heard_by(node)
    with running(node):
        until(lambda: versions(node) == ["1.0.0", "1.1.0"])
        scene.fleet.release("1.2.0")
        scene.say_roles()
        scene.retain(scene.topics.model("delay"), codec.encode(scene.fleet.models("1.1.0", "1.2.0")))
        until(lambda: versions(node) == ["1.1.0", "1.2.0"])
        until(lambda: node._trust_state._statements._roles.reason is None)
        before = len(heard)
        for _ in range(3):
            scene.say_roles()
        until(lambda: node._trust_state.view is not None and node._trust_state.view.timestamp_version == newest_time(scene))

    assert names(scene, heard[before:]) == {"trust/time"}


def test_a_new_key_for_rollouts_is_taken_up_by_the_index_and_the_old_one_is_refused(embedded: Scene) -> None:
    embedded.say_everything()
    node, fleet = embedded.agent(), embedded.fleet
    with running(node):
        until(lambda: serial(node) == 1)
        stolen = fleet.keys["rollouts"]
        fleet.keys["rollouts"] = CryptoSigner.generate_ed25519()
        fleet.rekey_rollouts()
        fleet.repository.renew_rollouts(rollouts=fleet.keys["rollouts"], now=fleet.now)
        embedded.say_roles()
        embedded.deploy("1.1.0", serial=2)
        embedded.say_index()
        until(lambda: serial(node) == 2)
        with capture_logs() as logs:
            forged = seal("deployments", codec.encode(statement("6.6.6", serial=9, expires=fleet.now + timedelta(days=9))), stolen)
            embedded.retain(embedded.topics.deploy("delay"), codec.encode(forged))
            until(lambda: any(line.get("code") == "trust.signature" for line in logs))

    assert serial(node) == 2


def test_a_new_timestamp_key_is_followed_and_refused_by_nobody(embedded: Scene) -> None:
    embedded.say_everything()
    node, fleet = embedded.agent(), embedded.fleet
    with running(node), capture_logs() as logs:
        until(lambda: serial(node) == 1)
        fleet.replace_key("timestamp")
        fleet.rekey("timestamp")
        roles = fleet.roles()
        embedded.retain(embedded.topics.trust_roles, codec.encode(roles))  # In the order in which a hub says them.
        embedded.say_index()
        embedded.retain(embedded.topics.trust_time, codec.encode(TrustTime(timestamp=roles.timestamp)))
        until(lambda: node._trust_state.view is not None and node._trust_state.view.root_version == 2)

    assert [line for line in logs if line["event"] == "message.refused"] == []


def test_a_forged_statement_is_no_finding_once_the_hub_said_its_own_again(embedded: Scene) -> None:
    embedded.say_everything()
    ours = codec.encode(embedded.deploy("1.1.0", serial=2))
    forged = codec.encode(seal("deployments", codec.encode(statement("6.6.6", serial=9)), embedded.fleet.keys["stranger"]))
    node = embedded.agent()

    def found() -> list[str]:
        return [one.kind for one in node._findings.all()]

    with running(node):
        until(lambda: serial(node) == 2)
        embedded.retain(embedded.topics.deploy("delay"), forged)
        until(lambda: "rollout" in found())
        embedded.retain(embedded.topics.deploy("delay"), ours)
        until(lambda: "rollout" not in found())

    assert serial(node) == 2


@pytest.mark.parametrize(("kind", "code"), [("older", "trust.rollback"), ("stranger", "trust.signature"), ("junk", "schema.malformed")])
def test_what_a_broker_puts_in_place_of_a_statement_is_refused(embedded: Scene, kind: str, code: str) -> None:
    embedded.say_everything()
    older = codec.encode(embedded.deploy("1.0.0", serial=2))
    stranger = seal("deployments", codec.encode(statement("6.6.6", serial=9)), embedded.fleet.keys["stranger"])
    embedded.deploy("1.1.0", serial=3)
    node = embedded.agent()
    with running(node):
        until(lambda: serial(node) == 3)
        with capture_logs() as logs:
            payload = {"older": older, "stranger": codec.encode(stranger), "junk": b"\x81 no msgpack"}[kind]
            embedded.retain(embedded.topics.deploy("delay"), payload)
            until(lambda: any(line.get("code") == code for line in logs))
        assert serial(node) == 3
        embedded.deploy("1.1.0", serial=4)
        until(lambda: serial(node) == 4)


def test_an_end_between_acknowledgement_and_effect_loses_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.say_everything()
    first = scene.agent()
    with monkeypatch.context() as patch, running(first):
        until(lambda: serial(first) == 1 and versions(first) != [])
        patch.setattr(TrustState, "_changed", lambda self: None)  # The process ends before it acts.
        scene.deploy("1.1.0", serial=2)
        until(lambda: serial(first) == 2)
        first._link._link.drop()
    scene.retain(scene.topics.deploy("delay"), b"")  # Nobody says it again.
    second = scene.agent()
    acted: list[int | None] = []
    with monkeypatch.context() as patch:
        follow = TrustState._follow

        def note(self: TrustState) -> None:
            acted.append(serial(second))
            follow(self)

        patch.setattr(TrustState, "_follow", note)
        with running(second):
            until(lambda: 2 in acted and wants(second) == "1.1.0")


def test_a_hub_of_before_is_followed_then_its_upgrade_then_its_downgrade(embedded: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_topics, "LOOK_SECONDS_MIN", 0.1)
    scene, fleet = embedded, embedded.fleet
    fleet.roll("1.0.0", serial=1)
    scene.say_old()
    scene.say_models()
    node = scene.agent()
    heard = heard_by(node)
    with running(node):
        until(lambda: serial(node) == 1)
        assert names(scene, heard) >= {"trust"}

        scene.deploy("1.1.0", serial=2)
        scene.say_roles()
        scene.say_index()
        until(lambda: serial(node) == 2 and not node._trust_state._statements._is_old_read)
        before = len(heard)
        scene.say_old()
        scene.deploy("1.1.0", serial=3)
        until(lambda: serial(node) == 3)
        assert (
            {"deploy/delay"} <= names(scene, heard[before:]) <= {"deploy/delay", "model/delay"}
        )  # what it asked for before may still come

        fleet.now += timedelta(hours=3)  # No timestamp alone comes any more, and what is retained of them stays.
        fleet.roll("1.0.0", serial=4)
        scene.say_old()
        until(lambda: serial(node) == 4)
        fleet.roll("1.1.0", serial=5)
        scene.say_old()
        until(lambda: serial(node) == 5)


def test_a_node_that_starts_after_a_downgrade_follows_what_is_newer(embedded: Scene) -> None:
    embedded.say_everything()
    first = embedded.agent()
    with running(first):
        until(lambda: serial(first) == 1)
    embedded.fleet.now += timedelta(hours=3)
    embedded.fleet.roll("1.1.0", serial=2)
    embedded.say_old()
    second = embedded.agent()
    with running(second):
        until(lambda: serial(second) == 2)


def test_an_older_timestamp_that_a_replaced_hub_left_behind_is_no_alarm(embedded: Scene) -> None:
    embedded.say_everything()
    embedded.fleet.now += timedelta(hours=3)
    embedded.fleet.roll("1.1.0", serial=2)
    embedded.say_old()
    first = embedded.agent()
    with running(first):
        until(lambda: serial(first) == 2)
    second = embedded.agent()
    with running(second), capture_logs() as logs:
        until(lambda: any(line["event"] == "timestamp.older" for line in logs))
        embedded.fleet.roll("1.0.0", serial=3)
        embedded.say_old()
        until(lambda: serial(second) == 3)

    assert [line for line in logs if line.get("code") == "trust.rollback"] == []


def test_a_broker_whose_index_promises_roles_that_do_not_come_is_asked_a_few_times(embedded: Scene) -> None:
    embedded.say_everything()
    embedded.say_index(targets=2**50)
    node = embedded.agent()
    with running(node):
        until(lambda: serial(node) == 1)
        statements = node._trust_state._statements
        until(lambda: statements._roles.reason == f"index 1 {2**50}")
        for _ in range(hub_topics.TRIES_MAX):
            node._trust_state.topics_of(["trust/roles"])
        until(lambda: statements._roles.reason in {None, "routine"})

        assert not statements._roles.begins(f"index 1 {2**50}", routine=False, now=node._monotonic())
