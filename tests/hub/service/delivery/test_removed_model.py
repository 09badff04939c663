"""The hub's part in a model's removal: the topic is cleared, the rollout is taken back and signed no more, and history stays readable."""

from datetime import UTC, datetime

from fleetcast.mqtt_connection import Message
from hub.core.rollouts import commands
from schemas import codec
from schemas.names import sha256
from schemas.rollout import Rollout
from tests.broker.client import Client
from tests.brokers import Broker
from tests.hub.hubs import START, Device, Fleet, until


def remove(fleet: Fleet) -> None:
    fleet.repository.undelegate("delay", targets=fleet.targets, now=datetime.now(UTC))


def retained(fleet: Fleet, broker: Broker) -> bytes:
    """What a subscriber that comes now gets for the model; the trust bundle comes after it."""
    client = Client.of(broker, "n2")
    client.open()
    client.subscribe(fleet.topics.model("delay"))
    client.subscribe(fleet.topics.trust)
    found = b""
    while (message := client.next(Message)).topic != fleet.topics.trust:
        found = bytes(message.payload)
    client.link.close()
    return found


def begin_rollout(fleet: Fleet) -> None:
    number = fleet.store.add_command("delay", commands.Start(version="1.0.0"))
    until("the rollout", lambda: (answer := fleet.store.command(number)) is not None and answer.state == "done")


def test_a_running_hub_clears_the_topic_and_signs_the_rollout_no_more(broker: Broker, fleet: Fleet) -> None:
    fleet.publish("1.0.0")
    with fleet.hub(broker):
        begin_rollout(fleet)
        until("the bundle", lambda: retained(fleet, broker))
        remove(fleet)
        until("the empty topic", lambda: not retained(fleet, broker))
        until("the end of the rollout", lambda: fleet.repository.rollout("delay") is None)

        device = Device.connect("n1", broker, fleet)  # the gate of a running rollout would now be looked at
        until("the node", lambda: fleet.store.node("n1"))
        device.client.link.close()

    assert fleet.repository.rollout("delay") is None
    assert fleet.refused("trust.not_listed") == []


def test_a_model_removed_while_the_hub_was_away_is_cleared_without_an_alarm(broker: Broker, fleet: Fleet) -> None:
    fleet.publish("1.0.0")
    with fleet.hub(broker):
        until("the bundle", lambda: retained(fleet, broker))
    remove(fleet)

    (fleet.directory / "hub.ready").unlink(missing_ok=True)
    with fleet.hub(broker):
        until("the empty topic", lambda: not retained(fleet, broker))

    assert fleet.refused("trust.not_listed") == []


def test_a_window_of_a_removed_release_is_still_counted(broker: Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(broker):
        until("the bundle", lambda: retained(fleet, broker))
        fleet.repository.remove_release("delay", "1.0.0", team=fleet.team, now=datetime.now(UTC))
        device = Device.connect("n1", broker, fleet)
        device.window(manifest, [100] * 9)
        until("the window", lambda: [one for one in fleet.store.intervals("delay") if one.start == START])
        device.client.link.close()

    assert fleet.refused("window.unknown_release") == []


def test_a_rollout_of_a_model_made_anew_has_a_higher_serial_than_before(broker: Broker, fleet: Fleet) -> None:
    fleet.publish("1.0.0")
    with fleet.hub(broker):
        begin_rollout(fleet)
        before = _rollout(fleet).serial
        remove(fleet)
        until("the end of the rollout", lambda: fleet.repository.rollout("delay") is None)
        fleet.repository.delegate("delay", team=fleet.team.public_key, targets=fleet.targets, now=datetime.now(UTC))
        manifest = fleet.publish("2.0.0", seed=2)
        number = fleet.store.add_command("delay", commands.Start(version="2.0.0"))
        until("the rollout", lambda: (answer := fleet.store.command(number)) is not None and answer.state == "done")

    assert _rollout(fleet).serial > before
    assert _rollout(fleet).release.digest == sha256(codec.encode(manifest))


def _rollout(fleet: Fleet) -> Rollout:
    document = fleet.repository.rollout("delay")
    assert document is not None
    return codec.decode(Rollout, document)
