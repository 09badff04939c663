"""Settings of nodes, signed by a hub: merged, renewed in time, published to whom they are for, and cleared with a forgotten node."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from hub.core.nodes.device_settings import read
from hub.core.rollouts import fleet as core
from hub.database.device_lives import DeviceLives
from hub.database.node_commands import NodeCommand, NodeCommands
from hub.service.nodes.device_settings import AT_ONCE, LOOK_SECONDS, TELL_SECONDS, WORK_SECONDS, SettingsKeeper
from node.trust.envelopes import opened
from schemas import codec
from schemas.deployments import Envelope
from schemas.device_settings import DeviceSettings
from schemas.errors import Code, Unreachable
from schemas.state import Profile, SettingsInForce, State
from tests.brokers import Broker, mainly
from tests.hub.hubs import Device, Fleet, until
from tests.trust_fleet import change_keys

DAY_SECONDS = 86_400


class Desk:
    """A keeper over a real repository and database; its broker is a list, and its clocks are this test's."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.fleet = Fleet(folder)
        self.store = self.fleet.store
        self.commands = NodeCommands(self.store.database)
        self.nodes = {name: seen(name, ring="main") for name in names}
        self.published: list[tuple[str, DeviceSettings | None]] = []
        self.forgotten: set[str] = set()
        self.wall, self.monotonic, self.step = 1_700_000_000.0, 0.0, 0.0
        self.signer = self.fleet.signers.rollouts
        self.room = 10**9
        self.start()

    def start(self) -> None:
        self.keeper = SettingsKeeper(
            repository=self.fleet.repository,
            store=self.store,
            nodes=self.nodes,
            is_forgotten=self.forgotten.__contains__,
            publish=self._publish,
            signer=self.signer,
            wall=lambda: self.wall,
            monotonic=self._now,
        )

    def _now(self) -> float:
        self.monotonic += self.step
        return self.monotonic

    def _publish(self, node: str, payload: bytes) -> None:
        if self.room == 0:
            raise Unreachable("too much waits already")
        self.room -= 1
        if not payload:
            self.published.append((node, None))
            return
        keys = {self.signer.public_key.keyid: self.signer.public_key}
        self.published.append((node, codec.decode(DeviceSettings, opened(codec.decode(Envelope, payload), "settings", keys))))

    def ask(self, **fields: Any) -> NodeCommand:
        """Queue a command, and return its answer."""
        number = self.queue(**fields)
        self.turns()
        found = self.commands.get(number)
        assert found is not None
        return found

    def queue(self, **fields: Any) -> int:
        return self.commands.add(read(json.dumps(fields)))

    def turns(self, count: int = 3) -> None:
        for _ in range(count):
            self.monotonic += LOOK_SECONDS
            self.keeper.tick(online=True)

    def newest(self, node: str) -> DeviceSettings | None:
        return next((document for name, document in reversed(self.published) if name == node), None)


def seen(name: str, *, serial: int = 0, **labels: str) -> core.Node:
    settings = SettingsInForce(serial=serial) if serial else None
    profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels=labels)
    state = State(node=name, session=1, status="online", at=1, profile=profile, settings=settings)
    return core.Node(state, "online", 1, 1, b"key")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, "a", "b", "c")


def test_a_command_is_signed_merged_and_published_to_its_node(desk: Desk) -> None:
    first = desk.ask(node="a", labels={"ring": "canary"})
    second = desk.ask(node="a", telemetry=False, unset=["label.other"])

    assert (first.state, second.state, first.text) == ("done", "done", "settings of node a are set")
    assert [name for name, _ in desk.published] == ["a", "a"]
    found = desk.newest("a")
    assert found is not None
    assert (found.serial, found.labels, found.telemetry) == (2, {"ring": "canary"}, False)
    assert found.expires == desk.wall + 7 * DAY_SECONDS


def test_a_selector_chooses_nodes_by_what_they_report(desk: Desk) -> None:
    desk.nodes["b"] = seen("b", ring="canary")

    answer = desk.ask(where="ring=main", cohort="nyc")

    assert answer.text == "settings of 2 nodes (ring=main) are set"
    assert {name for name, _ in desk.published} == {"a", "c"}
    assert [(one.actor, one.body["nodes"]) for one in desk.store.changes()] == [(desk.store.database.actor, ["a", "c"])]


def test_the_same_again_signs_nothing(desk: Desk) -> None:
    desk.ask(where="", cohort="nyc")
    desk.published.clear()

    answer = desk.ask(where="", cohort="nyc")

    assert (answer.text, desk.published) == ("the settings of 3 nodes are so already", [])


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"node": "typo"}, Code.NODE_UNKNOWN),
        ({"where": "ring=typo"}, Code.SELECTOR_INVALID),
        ({"where": "ring in (", "cohort": "x"}, Code.SELECTOR_INVALID),
        ({"node": "gone"}, Code.NODE_FORGOTTEN),
    ],
)
def test_a_command_about_nobody_is_refused(desk: Desk, fields: dict[str, str], code: Code) -> None:
    desk.forgotten.add("gone")

    answer = desk.ask(**{"cohort": "nyc", **fields})

    assert (answer.state, answer.code, desk.published) == ("refused", code, [])


def test_a_command_of_another_version_is_refused_alone(desk: Desk) -> None:
    number = desk.queue(node="a", cohort="x")
    with desk.store.database.write() as db:
        db.exec_driver_sql('UPDATE commands SET body = \'{"node": "a", "colour": "red"}\'')

    answer = desk.ask(node="b", cohort="x")

    assert answer.state == "done"
    refused = desk.commands.get(number)
    assert refused is not None
    assert (refused.state, refused.code) == ("refused", Code.SETTINGS_INVALID)


def test_settings_are_renewed_at_half_of_their_life_with_their_serial(desk: Desk) -> None:
    desk.ask(node="a", cohort="nyc")
    desk.wall += 3 * DAY_SECONDS
    desk.turns()
    assert len(desk.published) == 1

    desk.wall += DAY_SECONDS
    desk.turns()

    found = desk.newest("a")
    assert found is not None
    assert (len(desk.published), found.serial, found.cohort, found.expires) == (2, 1, "nyc", desk.wall + 7 * DAY_SECONDS)


def test_a_restarted_hub_publishes_what_it_has_signed(desk: Desk) -> None:
    desk.ask(where="", cohort="nyc")
    desk.published.clear()

    desk.start()
    desk.turns()

    assert sorted(name for name, _ in desk.published) == ["a", "b", "c"]


def test_a_broker_that_forgot_hears_everything_again(desk: Desk) -> None:
    desk.ask(where="", cohort="nyc")
    desk.published.clear()

    desk.keeper.forgot()
    desk.room = 1
    desk.turns()
    assert len(desk.published) == 1
    desk.room = 10
    desk.turns()

    assert sorted(name for name, _ in desk.published) == ["a", "b", "c"]


def test_a_forgotten_nodes_settings_are_cleared_and_no_longer_signed(desk: Desk) -> None:
    desk.ask(where="", cohort="nyc")
    desk.forgotten.add("a")
    del desk.nodes["a"]
    desk.published.clear()

    desk.room = 0
    desk.turns()
    assert "a" in desk.fleet.repository.nodes_with_settings()  # a hub that ends now clears it after its next start
    desk.start()
    desk.room = 10
    desk.turns()

    assert ("a", None) in desk.published
    assert sorted(desk.fleet.repository.nodes_with_settings()) == ["b", "c"]
    desk.published.clear()
    desk.wall += 4 * DAY_SECONDS
    desk.turns()
    assert sorted(name for name, _ in desk.published) == ["b", "c"]


def test_a_device_whose_key_counts_again_learns_it_in_the_same_turn(desk: Desk) -> None:
    other, two = bytes(32), bytes([1]) * 32
    desk.nodes["a"] = replace(desk.nodes["a"], other_key=other)
    desk.turns()
    assert (told := desk.newest("a")) is not None
    assert told.key_refused == other

    for restarted in (False, True):
        desk.nodes["a"] = replace(desk.nodes["a"], other_key=None)  # `nodes replace` has let it in
        desk.keeper.tick(online=True)  # The restarted hub reads what it has signed first.
        assert (cleared := desk.newest("a")) is not None
        assert cleared.key_refused is None
        desk.nodes["a"] = replace(desk.nodes["a"], other_key=two)
        desk.turns()
        assert (again := desk.newest("a")) is not None
        if restarted:
            assert again.key_refused == two
        else:
            assert again.key_refused is None  # two devices that speak in turn are not answered each time
            desk.monotonic += TELL_SECONDS
            desk.turns()
            desk.start()


def test_a_restored_hub_signs_above_what_its_nodes_report(desk: Desk) -> None:
    desk.ask(node="a", cohort="nyc")
    desk.nodes["a"], desk.nodes["b"] = seen("a", serial=7), seen("b", serial=3)

    desk.turns()

    documents = [desk.newest("a"), desk.newest("b")]
    assert [(one.serial, one.cohort) for one in documents if one is not None] == [(8, "nyc"), (4, None)]


def test_another_rollouts_key_signs_all_settings_anew(desk: Desk) -> None:
    desk.ask(where="", cohort="nyc")
    desk.signer = CryptoSigner.generate_ed25519()
    now = datetime.fromtimestamp(desk.wall, UTC)
    change_keys(desk.fleet.repository, [desk.fleet.targets], now=now, rollouts=desk.signer.public_key)
    desk.start()
    desk.room = 0
    desk.turns()
    desk.published.clear()

    desk.room = 10
    desk.turns()

    assert {name: one.serial for name, one in desk.published if one is not None} == {"a": 1, "b": 1, "c": 1}


def test_a_turn_signs_a_bounded_number_and_a_crash_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, *[f"n{number}" for number in range(4 * AT_ONCE)])
    desk.step = WORK_SECONDS / 2
    number = desk.queue(where="", cohort="nyc")

    desk.keeper.tick(online=True)
    done = len(desk.fleet.repository.nodes_with_settings())
    assert 0 < done < 4 * AT_ONCE
    answer = desk.commands.get(number)
    assert answer is not None
    assert answer.state == "open"
    desk.start()
    desk.turns(60)

    answer = desk.commands.get(number)
    assert answer is not None
    assert answer.text == f"settings of {4 * AT_ONCE - done} nodes (every node) are set; those of {done} nodes were so already"


@mainly("mosquitto")
def test_a_running_hub_publishes_to_the_node_and_clears_it(broker: Broker, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with fleet.hub(broker) as hub:
        device = Device.connect("node-a", broker, fleet)
        device.client.subscribe(fleet.topics.settings("node-a"))
        until("the hub to see it", lambda: "node-a" in hub._ingest.nodes)
        commands = NodeCommands(fleet.store.database)
        commands.add(read(json.dumps({"where": "site=node-a", "labels": {"ring": "canary"}})))

        message = device.next_on(fleet.topics.settings("node-a"))
        envelope = codec.decode(Envelope, message.payload)
        key = fleet.signers.rollouts.public_key
        found = codec.decode(DeviceSettings, opened(envelope, "settings", {key.keyid: key}))
        assert (found.node, found.labels) == ("node-a", {"ring": "canary"})

        DeviceLives(fleet.store.database).forget("node-a")
        cleared: Callable[[Any], bool] = lambda message: not message.payload  # noqa: E731
        device.next_on(fleet.topics.settings("node-a"), wanted=cleared)
        until("its settings to go", lambda: not fleet.repository.nodes_with_settings())
