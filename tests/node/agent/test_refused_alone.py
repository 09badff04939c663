"""A real agent beside a newer hub: what it does not understand stops nothing else, and is reported with the model's name."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleetcast.build_version import software
from fleetcast.mqtt_connection import Message, Published
from hub.signing import tuf_repository
from node.core.doctor import diagnosis
from node.core.doctor.findings import Trouble
from node.host.pidfile import read_status
from schemas import codec
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import State
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.node.agent.test_loop import agent, running, until
from tests.node.core.doctor.test_diagnosis import WELL
from tests.node.trust.test_refused_alone import changed
from tests.trust_fleet import Fleet, manifest, rollout


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[brokers.Broker]:
    with brokers.running("embedded", tmp_path / "broker") as broker:
        yield broker


class NewerHub:
    """Speaks as a hub whose documents an older node understands only in part."""

    def __init__(self, broker: brokers.Broker, folder: Path) -> None:
        self.fleet = Fleet.make(folder / "fleet", models=("delay", "other"), now=datetime.now(UTC))
        self.topics, self.client = Topics(brokers.FLEET), Client.of(broker, "hub")
        self.client.open()
        self.client.subscribe(self.topics.receipt("n1"))

    def say(self, *versions: str) -> None:
        trust = self.fleet.refresh(after=timedelta())
        documents = [(self.topics.model(model), self.fleet.models(*versions, model=model)) for model in ("delay", "other")]
        for topic, document in [*documents, (self.topics.trust, trust)]:
            self.client.link.publish(topic, codec.encode(document), retain=True)
            self.client.next(Published)

    def refusals(self, number: int) -> list[Receipt]:
        """The first receipts of a node."""
        found = self.client.messages(seconds=0.2, least=number)
        return [codec.decode(Receipt, codec.decode(SealedReceipt, one.payload).body) for one in found]


def test_other_models_follow_their_rollouts_beside_one_that_is_not_understood(embedded: brokers.Broker, tmp_path: Path) -> None:
    hub = NewerHub(embedded, tmp_path)
    for model in ("delay", "other"):
        hub.fleet.release("1.0.0", model=model)
    hub.fleet.roll("1.0.0", model="delay")
    newer = changed(rollout("1.0.0", model="other"), deployments=[1])
    hub.fleet.repository.set_rollout("other", newer, rollouts=hub.fleet.keys["rollouts"], now=hub.fleet.now)
    hub.say("1.0.0")
    node = agent(tmp_path, embedded.url("n1"), fleet=hub.fleet)

    with closing(hub.client.link), running(node):
        until(lambda: "delay" in node._store.slots())
        refusals = hub.refusals(1)
        hub.say("1.0.0")  # the same again is no news
        until(lambda: node._trust_state.view is not None and node._trust_state.view.timestamp_version >= 2)
        assert set(node._store.slots()) == {"delay"}

    assert [(one.outcome, one.model, one.code) for one in refusals] == [("refused", "other", "schema.malformed")]


def test_the_other_releases_of_a_model_are_used_beside_a_manifest_that_is_not_understood(embedded: brokers.Broker, tmp_path: Path) -> None:
    hub = NewerHub(embedded, tmp_path)
    for model in ("delay", "other"):
        hub.fleet.release("1.0.0", model=model)
    newer = changed(manifest("1.1.0"), explanation={"method": "shap"})
    hub.fleet.repository.add_release("delay", "1.1.0", newer, team=hub.fleet.keys["team"], now=hub.fleet.now)
    hub.fleet.roll("1.0.0", model="delay")
    hub.say("1.0.0", "1.1.0")
    node = agent(tmp_path, embedded.url("n1"), fleet=hub.fleet)

    with closing(hub.client.link), running(node):
        until(lambda: "delay" in node._store.slots())
        refusals = hub.refusals(1)

    assert [(one.outcome, one.model, one.code) for one in refusals] == [("refused", "delay", "schema.malformed")]
    assert "delay@1.1.0" in refusals[0].reason


def test_a_node_reports_what_it_refuses_until_it_understands_it_again(embedded: brokers.Broker, tmp_path: Path) -> None:
    hub = NewerHub(embedded, tmp_path)
    hub.fleet.release("1.0.0", model="delay")
    hub.fleet.release("1.0.0", model="other")
    newer = changed(rollout("1.0.0", model="other"), **{"@": "rollout/2"})
    hub.fleet.repository.set_rollout("other", newer, rollouts=hub.fleet.keys["rollouts"], now=hub.fleet.now)
    hub.client.subscribe(hub.topics.state("n1"))
    hub.say("1.0.0")
    node = agent(tmp_path, embedded.url("n1"), fleet=hub.fleet, state_seconds=7)

    with closing(hub.client.link), running(node):
        refused = reported(hub, lambda state: bool(state.findings))
        until(lambda: (status := read_status(tmp_path / "data")) is not None and bool(status.findings))
        doctor = [one.code for one in diagnosis.reported(replace(WELL, status=read_status(tmp_path / "data")))]
        hub.fleet.roll("1.0.0", serial=2, model="other")
        hub.say("1.0.0")
        mended = reported(hub, lambda state: state.findings == ())

    (finding,) = refused.findings or ()
    assert (finding.kind, finding.model, finding.code) == ("rollout", "other", "schema.unsupported")
    assert finding.reason.endswith("upgrade fleetcast at the receiver")
    assert doctor == [Trouble.DOCUMENT_REFUSED]
    assert (mended.software, mended.report_seconds) == (software(), 7)


def test_a_hub_that_does_not_read_new_fields_of_a_state_is_sent_none(
    embedded: brokers.Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuf_repository, "READS", {})
    hub = NewerHub(embedded, tmp_path)
    hub.fleet.release("1.0.0", model="other")
    newer = changed(rollout("1.0.0", model="other"), deployments=[1])
    hub.fleet.repository.set_rollout("other", newer, rollouts=hub.fleet.keys["rollouts"], now=hub.fleet.now)
    hub.fleet.release("1.0.0", model="delay")
    hub.client.subscribe(hub.topics.state("n1"))
    hub.say("1.0.0")
    node = agent(tmp_path, embedded.url("n1"), fleet=hub.fleet, state_seconds=1)

    with closing(hub.client.link), running(node):
        state = reported(hub, lambda state: state.timestamp_version > 0)
        found = node._findings.all()

    assert [one.code for one in found] == ["schema.malformed"]
    assert (state.findings, state.report_seconds) == (None, None)


def reported(hub: NewerHub, wanted: Callable[[State], bool]) -> State:
    """The next state that is as wanted."""
    while True:
        message = hub.client.next(Message)
        hub.client.link.ack(message)
        if message.topic == hub.topics.state("n1"):
            state = codec.decode(State, message.payload)
            if wanted(state):
                return state
