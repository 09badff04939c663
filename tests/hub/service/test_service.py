"""The running hub, in a thread, against running brokers: what it says, what it takes in, and what it survives."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from fleetcast.mqtt_connection import Message
from hub.core.rollouts import commands
from hub.database.store import RolloutRow
from hub.service import loop
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle
from schemas.errors import Refused, Unreachable
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.rollout import Rollout
from tests import brokers
from tests.broker.client import Client
from tests.databases import only_sqlite
from tests.hub.hubs import BLOCKS, START, WINDOW_SECONDS, Device, Fleet, deployment_of, until
from tests.hub.queueing import queue

ORDINARY = [125, 125, 125, 125, 125, 125, 125, 125, 0]
SHIFTED = [20, 30, 40, 60, 100, 150, 250, 350, 0]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def start_rollout(fleet: Fleet, version: str, *stages: int) -> int:
    body = {"version": version, "stages": stages or (100,), "gate": {"receipts_ratio_min": 1.0}}
    return fleet.store.add_command("delay", commands.read("start", json.dumps(body)))


def rollout_row(fleet: Fleet) -> RolloutRow | None:
    return next(iter(fleet.store.rollout_rows()), None)


def state_of(fleet: Fleet) -> str:
    row = rollout_row(fleet)
    return deployment_of(row).state if row else ""


def newest_trust(device: Device) -> TrustBundle:
    return codec.decode(TrustBundle, device.next_on(device.fleet.topics.trust).payload)


def roll_out(fleet: Fleet, manifest: Manifest, devices: list[Device]) -> None:
    """Through to the end, by receipts."""
    start_rollout(fleet, manifest.version)
    until("a rollout that runs", lambda: state_of(fleet) == "running")
    for device in devices:
        device.sign("serving", manifest)
    until("a rollout that is done", lambda: state_of(fleet) == "done")


def test_blocks_that_two_nodes_want_are_published_once(broker: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    blocks = manifest.variants[0].files[0].blocks
    with fleet.hub(broker):
        first, second = (Device.connect(name, broker, fleet) for name in ("n1", "n2"))

        got = [first.fetch(manifest), second.fetch(manifest)]

        assert [[sha256(message.payload) for message in one] for one in got] == [[block.digest for block in blocks]] * 2
        assert fleet.store.publish_counts() == {block.digest: 1 for block in blocks}
        assert len(fleet.store.retained()) == BLOCKS
        second.want(manifest, again=True, count=1)
        until("a second publish", lambda: fleet.store.publish_counts([blocks[0].digest])[blocks[0].digest] == 2)


def test_a_want_for_what_there_is_not_is_refused_and_the_next_is_served(broker: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(broker):
        device = Device.connect("n1", broker, fleet)

        device.want(manifest.model_copy(update={"description": "never published"}))
        device.want(manifest, count=BLOCKS + 1)
        device.client.link.publish(fleet.topics.want("n1"), b"\x81 no msgpack")

        assert len(device.fetch(manifest)) == BLOCKS
        assert "there is no release" in until("the refusal", lambda: fleet.refused("release.unknown"))[0]
        assert len(until("the refusals", lambda: fleet.refused("schema.malformed"))) == 1, "one origin, one code, one note a minute"


def test_a_rollout_is_done_when_devices_have_signed(broker: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(broker):
        device = Device.connect("n1", broker, fleet)
        device.client.subscribe(fleet.topics.trust, fleet.topics.model("delay"))
        command = start_rollout(fleet, "1.0.0")
        announced = until("the announcement", lambda: newest_trust(device).documents)
        assert codec.decode(Rollout, announced[0].document).release.digest == sha256(codec.encode(manifest))
        answer = until("an answer", lambda: (row := fleet.store.command(command)) and row.state != "open" and row)
        assert (answer.state, answer.code) == ("done", "")

        assert state_of(fleet) == "running"
        device.sign("serving", manifest)

        until("done", lambda: state_of(fleet) == "done")
        row = rollout_row(fleet)
        assert row is not None
        assert (row.addressed, row.heard, row.serving, row.failed) == (1, 1, 1, 0)
        bundle = codec.decode(ModelBundle, device.next_on(fleet.topics.model("delay")).payload)
        assert [one.version for one in bundle.manifests] == ["1.0.0"]


def test_what_nodes_hold_stays_announced(embedded: brokers.Broker, fleet: Fleet) -> None:
    manifests = [fleet.publish(f"1.{number}.0", seed=number + 1) for number in range(4)]
    with fleet.hub(embedded):
        device = Device.connect("n1", embedded, fleet)
        device.client.subscribe(fleet.topics.model("delay"))
        until("the node", fleet.store.nodes)
        device.sign("serving", manifests[0])
        until("its receipt", fleet.store.receipts)
        start_rollout(fleet, "1.3.0")

        def has_three(message: Message) -> bool:
            bundle = codec.decode(ModelBundle, message.payload)
            return [one.version for one in bundle.manifests] == ["1.0.0", "1.2.0", "1.3.0"]

        assert device.next_on(fleet.topics.model("delay"), wanted=has_three)


def test_a_rollout_that_nodes_refuse_halts_and_alerts(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    one, two = fleet.publish("1.0.0"), fleet.publish("1.1.0", seed=2)
    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        roll_out(fleet, one, [device])
        start_rollout(fleet, "1.1.0")
        until("the second", lambda: state_of(fleet) == "running")

        device.sign("refused", two, code="model.golden_mismatch")

        until("a halt", lambda: state_of(fleet) == "halted")
        kinds = until("alerts", lambda: (rows := fleet.store.alerts()) and len(rows) >= 2 and {row.alert.kind: row.alert for row in rows})
        assert kinds["refused"].code == "model.golden_mismatch"
        assert "1.1.0 halted" in kinds["rollout_halted"].text
        fleet.store.add_command("delay", commands.Rollback())
        until("a rollback", lambda: state_of(fleet) == "rolled_back")
        row = rollout_row(fleet)
        assert row is not None
        fallback = deployment_of(row).fallback
        assert fallback is not None
        assert fallback.version == "1.0.0"


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("start", '{"version": "9.9.9"}', "release.unknown"),
        ("start", '{"version": "1.0.0", "stages": [50]}', "rollout.invalid"),
        ("start", "{", "rollout.invalid"),
        ("halt", "{}", "rollout.invalid"),
        ("dance", "{}", "rollout.invalid"),
    ],
)
def test_a_command_that_makes_no_sense_is_answered_with_its_code(
    embedded: brokers.Broker, fleet: Fleet, kind: str, body: str, code: str
) -> None:
    fleet.publish("1.0.0")
    with fleet.hub(embedded):
        command = queue(fleet.store, kind, "delay", body)

        answer = until("an answer", lambda: (row := fleet.store.command(command)) and row.state != "open" and row)

        assert (answer.state, answer.code) == ("refused", code)
        assert fleet.store.rollout_rows() == []


def test_receipts_count_only_with_the_first_key_and_wait_for_their_state(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(mosquitto):
        early = Device("n1", Client.of(mosquitto, "n1"), fleet)
        early.client.open()
        early.sign("serving", manifest)
        early.say_state()
        until("the receipt that came before its state", lambda: fleet.store.receipts(node="n1"))

        thief = Device("n1", early.client, fleet, session=7, sequence=7)
        thief.sign("serving", manifest)
        thief.say_state()
        early.sign("serving", manifest, node="n2")

        until("the refusals", lambda: len(fleet.refused("receipt.signature")) == 1 and fleet.refused("receipt.key_changed"))
        assert [row.sequence for row in fleet.store.receipts()] == [1]


def test_an_interval_is_shown_and_tested_from_the_least_number_of_nodes_on(broker: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    consumer = Client.of(broker, brokers.CONSUMER)
    consumer.open()
    for topic in (fleet.topics.windows("delay"), fleet.topics.drift("delay"), fleet.topics.alert):
        consumer.subscribe(topic)
    with fleet.hub(broker):
        device = Device.connect("n1", broker, fleet)
        for _ in range(3):
            device.window(manifest, ORDINARY, start=START)
            device.window(manifest, SHIFTED, start=START + WINDOW_SECONDS)
        for _ in range(2):
            device.window(manifest, SHIFTED, start=START + 2 * WINDOW_SECONDS)

        found = until("two tested intervals", lambda: (rows := fleet.store.drifts("delay")) and len(rows) == 2 and rows)

        assert [(row.start - START, row.alarm, row.windows) for row in found] == [(WINDOW_SECONDS, True, 3), (0, False, 3)]
        heard: dict[str, list[dict[str, object]]] = {}
        for message in consumer.messages(seconds=1.5, least=5):
            heard.setdefault(message.topic.rsplit("/", 1)[-1], []).append(json.loads(message.payload))
        assert {topic: len(found) for topic, found in heard.items()} == {"windows": 2, "drift": 2, "alert": 1}
        assert "hour" in str(heard["alert"][0]["text"])
        assert all(row["start"] != START + 2 * WINDOW_SECONDS for row in heard["windows"])

        device.window(manifest, ORDINARY, start=START + WINDOW_SECONDS)

        late = until("the late one", lambda: [row for row in fleet.store.drifts("delay") if row.windows == 4])
        assert late[0].alarm, "no alarm is withdrawn"
        assert len([row for row in fleet.store.alerts() if row.alert.kind == "drift"]) == 1


def test_absurd_and_foreign_windows_are_refused_with_their_codes(embedded: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(embedded):
        device = Device.connect("n1", embedded, fleet)
        device.window(manifest, [10**9] * 9, rows=1000)
        device.window(manifest.model_copy(update={"version": "3.3.3"}), ORDINARY)
        device.window(manifest, ORDINARY, start=START + 1)
        device.client.link.publish(fleet.topics.telemetry("delay", "No Cohort"), b"x")
        device.window(manifest, ORDINARY)

        for code in ("window.absurd", "window.unknown_release", "window.wrong_shape", "schema.malformed"):
            until(code, lambda code=code: fleet.refused(code))
        until("the good one", lambda: [row.windows for row in fleet.store.intervals("delay")] == [1])
        codes = {"window.absurd", "window.unknown_release", "window.wrong_shape", "schema.malformed"}
        until("an alert for each", lambda: {row.alert.code for row in fleet.store.alerts()} == codes)  # it follows the refusal


def test_what_a_stranger_puts_on_the_hubs_topics_is_told_and_put_right(embedded: brokers.Broker, fleet: Fleet, tmp_path: Path) -> None:
    fleet.publish("1.0.0")
    foreign = Fleet(tmp_path / "foreign")
    foreign.publish("6.6.6", seed=6)
    foreign.repository.refresh(snapshot=foreign.online[0], timestamp=foreign.online[1], now=datetime.now(UTC))
    with fleet.hub(embedded):
        device = Device.connect("n1", embedded, fleet)
        device.client.subscribe(fleet.topics.trust, fleet.topics.model("delay"))
        older, model = device.next_on(fleet.topics.trust).payload, device.next_on(fleet.topics.model("delay")).payload
        fleet.publish("1.1.0", seed=2)
        newest = device.next_on(fleet.topics.trust, wanted=lambda message: message.payload != older).payload
        newer_model = device.next_on(fleet.topics.model("delay"), wanted=lambda message: message.payload != model).payload
        stranger = Client.of(embedded, "stranger")
        stranger.open()

        forged = codec.encode(foreign.repository.model_bundle("delay", ["6.6.6"]))
        stranger.link.publish(fleet.topics.trust, codec.encode(foreign.repository.trust_bundle()), retain=True)
        until("a strange trust bundle", lambda: len(fleet.refused("trust.signature")) == 1)
        assert device.next_on(fleet.topics.trust, wanted=lambda message: message.payload == newest)
        stranger.link.publish(fleet.topics.model("delay"), forged, retain=True)
        until("a strange release", lambda: len(fleet.refused("trust.signature")) == 2)
        assert device.next_on(fleet.topics.model("delay"), wanted=lambda message: message.payload == newer_model)
        stranger.link.publish(fleet.topics.trust, b"", retain=True)
        until("a cleared trust bundle", lambda: fleet.refused("trust.incomplete"))

        until("ours again", lambda: _retained(embedded, fleet.topics.trust) == newest)
        assert _retained(embedded, fleet.topics.model("delay")) == newer_model


def _retained(broker: brokers.Broker, topic: str) -> bytes:
    reader = Client.of(broker, "reader")
    reader.open()
    reader.subscribe(topic)
    found = reader.messages(seconds=0.3, least=1)
    reader.link.close()
    return found[-1].payload if found else b""


def test_a_broker_that_forgot_everything_is_whole_again(broker: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(broker):
        device = Device.connect("n1", broker, fleet)
        device.fetch(manifest)

        broker.restart()

        again = Device("n1", Client.of(broker, "n1"), fleet, key=device.key, session=5)
        until("the broker", lambda: _opens(again.client))
        again.client.subscribe(fleet.topics.trust)
        assert newest_trust(again).roots
        assert len(again.fetch(manifest)) == BLOCKS
        until("the new publishes", lambda: set(fleet.store.publish_counts().values()) == {2})


def _opens(client: Client) -> bool:
    with contextlib.suppress(Unreachable, AssertionError):
        client.open()
        return True
    return False


def test_the_embedded_broker_is_started_again_on_the_same_port_and_told(fleet: Fleet) -> None:
    fleet.publish("1.0.0")
    ready = fleet.directory / "hub.ready"
    with fleet.hub(None) as service:
        before = json.loads(ready.read_text())
        assert (before["pid"], before["broker_url"]) == (os.getpid(), service.broker_url)

        os.kill(before["broker_pid"], signal.SIGKILL)

        after = until("another broker", lambda: (found := json.loads(ready.read_text()))["broker_pid"] != before["broker_pid"] and found)
        assert after["broker_url"] == before["broker_url"]
        until("the event", lambda: fleet.events("broker.restarted"))
        client = Client.of(_At(after["broker_url"]), "n1")
        until("the broker", lambda: _opens(client))
        client.subscribe(fleet.topics.trust)
        assert client.next(Message).payload
    assert not ready.exists()
    with fleet.hub(None) as service:
        assert service.broker_url == before["broker_url"]


class _At(brokers.Embedded):
    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, user: str = "hub") -> str:
        return self._url


def test_a_restarted_hub_goes_on_with_the_rollout_where_it_was(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(mosquitto):
        devices = [Device.connect(name, mosquitto, fleet) for name in ("n1", "n2")]
        until("both", lambda: len(fleet.store.nodes()) == 2)
        start_rollout(fleet, "1.0.0", 50, 100)
        until("a rollout that runs", lambda: state_of(fleet) == "running")
        before = rollout_row(fleet)
        assert before is not None
    for device in devices:
        device.sign("serving", manifest)

    with fleet.hub(mosquitto):
        until("done", lambda: state_of(fleet) == "done")
        row = rollout_row(fleet)

    assert row is not None
    assert row.serial == before.serial + 2
    assert {row.node for row in fleet.store.receipts()} == {"n1", "n2"}, "receipts waited at the broker for the hub"


def test_a_node_whose_connection_is_lost_is_told_once(mosquitto: brokers.Broker, fleet: Fleet) -> None:
    fleet.publish("1.0.0")
    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        until("the node", lambda: fleet.store.node("n1"))
        device.session -= 1
        device.say_state("lost", public_key=b"", profile=None)
        device.session -= 1
        device.say_state("lost", public_key=b"", profile=None)

        until("the alert", fleet.store.alerts)
        device.say_state()
        until("its return", lambda: (row := fleet.store.node("n1")) and row.status == "online")

        alerts = [(row.alert.kind, row.alert.node, row.alert.code) for row in fleet.store.alerts()]
        assert alerts == [("node_silent", "n1", "lost")]
        assert [event.body["status"] for event in fleet.events("node")] == ["online", "lost", "online"]


def test_a_second_hub_in_the_same_folder_is_refused(embedded: brokers.Broker, fleet: Fleet) -> None:
    with fleet.hub(embedded), pytest.raises(Refused, match="another hub runs"), fleet.hub(embedded):
        pass


@only_sqlite
@pytest.mark.parametrize(("replaced", "sentence"), [(False, "was deleted or moved"), (True, "was replaced by another file")])
def test_a_hub_whose_database_is_taken_away_ends_and_the_next_one_works(
    embedded: brokers.Broker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, replaced: bool, sentence: str
) -> None:
    monkeypatch.setattr(loop, "FILE_SECONDS", 0.0)
    path = fleet.directory / "hub.sqlite"

    def take_away() -> None:
        if replaced:
            shutil.copy(path, path.with_suffix(".copy"))
            path.with_suffix(".copy").replace(path)
        else:
            path.unlink()
        until("the hub to end", lambda: not (fleet.directory / "hub.ready").exists())

    with pytest.raises(Unreachable, match=sentence), fleet.hub(embedded):
        take_away()

    with fleet.hub(embedded) as hub:
        assert hub.broker_url == embedded.url("hub")
        assert path.exists()


def test_a_broker_that_is_not_there_ends_the_hub_with_a_clear_error(fleet: Fleet) -> None:
    url = f"mqtt://127.0.0.1:{brokers.free_port()}"

    with pytest.raises(Unreachable, match="did not answer"), fleet.hub(None, broker_url=url, connect_seconds=0.5):
        pass
