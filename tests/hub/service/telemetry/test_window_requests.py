"""A hub whose session a broker lost asks for the windows of that time: every node, some at a time, over its own restarts."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fleetcast.mqtt_connection import Published
from hub.core.rollouts.listening import Listened
from hub.database.hearing import Hearing
from hub.database.store import NodeRow, Store
from hub.service.rollouts.listening import ListeningClock
from hub.service.telemetry.window_requests import (
    AGAIN_SECONDS,
    AT_ONCE_MAX,
    KEEP_SECONDS,
    LOOK_SECONDS,
    MARGIN_SECONDS,
    SETTLE_SECONDS,
    LostWindows,
)
from schemas.errors import Unreachable
from schemas.window import expected_counts
from schemas.window_request import WindowRequest
from tests import brokers
from tests.broker.client import Client
from tests.hub.hubs import Device, Fleet, until


@dataclass
class Life:
    """A process that takes windows in, with a clock by hand; its connection is always as it is put."""

    store: Store
    now: list[float]
    boot: str = "boot"
    process: str = "hub"
    asked: list[tuple[str, WindowRequest]] = field(default_factory=list)
    fails: Callable[[str], bool] = lambda node: False

    def __post_init__(self) -> None:
        self.listening = ListeningClock(Hearing(self.store.database), monotonic=lambda: self.now[0])
        self.online = False
        self.lost = LostWindows(
            self.store.database,
            process=self.process,
            ask=self.ask,
            listening=self.listening,
            random_bytes=lambda count: int(self.now[0]).to_bytes(count),
            monotonic=lambda: self.now[0],
            boot=lambda: self.boot,
        )
        self.lost.begin()

    def ask(self, node: str, request: WindowRequest) -> None:
        if self.fails(node):
            raise Unreachable("too much waits already")
        self.asked.append((node, request))

    def connect(self, *, session_present: bool) -> None:
        self.lost.connected(session_present=session_present)
        self.listening.connected(1)
        self.listening.subscribed(denied=False)
        self.listening.took(0, waited=1.0, full=False)
        self.online = True
        self.lost.tick(online=True)

    def disconnect(self) -> None:
        self.listening.disconnected()
        self.online = False
        self.lost.tick(online=False)

    def run(self, seconds: float, *, step_seconds: float = LOOK_SECONDS) -> list[str]:
        """Let time pass; return which nodes are asked in it."""
        self.asked.clear()
        for _ in range(int(seconds / step_seconds)):
            self.now[0] += step_seconds
            self.listening.tick()
            self.lost.tick(online=self.online)
        return [node for node, _ in self.asked]

    def report(self, *nodes: str, status: str = "online", session: int = 1) -> None:
        """Have nodes report themselves, as the hub keeps it."""
        rows = [NodeRow(node, session, status, 1, b"", b"key", "nyc") for node in nodes]  # type: ignore[arg-type]
        self.store.upsert_nodes(rows)
        Hearing(self.store.database).keep_heard({node: (Listened(self.listening.seconds), 1) for node in nodes})


@pytest.fixture
def life(fleet: Fleet) -> Life:
    made = Life(fleet.store, [1000.0])
    made.report("n1", "n2")
    made.connect(session_present=False)  # The first time: nothing can be lost.
    assert made.run(300, step_seconds=60) == []
    return made


def test_windows_are_asked_for_since_before_the_last_moment_that_was_heard(life: Life) -> None:
    life.disconnect()
    life.run(60)
    life.connect(session_present=False)

    assert life.run(SETTLE_SECONDS) == ["n1", "n2"]
    request = life.asked[0][1]
    assert 60 + MARGIN_SECONDS <= (request.since_seconds or 0) <= 60 + MARGIN_SECONDS + 2 * SETTLE_SECONDS
    assert request.until_seconds == SETTLE_SECONDS


def test_a_session_that_is_kept_asks_nobody(life: Life) -> None:
    life.disconnect()
    life.run(3600, step_seconds=600)
    life.connect(session_present=True)

    assert life.run(1200, step_seconds=60) == []


def test_time_that_a_backlog_waited_at_the_broker_is_asked_for(life: Life) -> None:
    life.disconnect()
    life.run(3600, step_seconds=600)
    life.lost.connected(session_present=True)
    life.listening.connected(1)  # The broker dies again before it has answered the subscription.
    life.disconnect()
    life.run(60)
    life.connect(session_present=False)

    life.run(SETTLE_SECONDS)
    assert (life.asked[0][1].since_seconds or 0) >= 3660 + MARGIN_SECONDS


def test_a_large_fleet_is_asked_in_parts(life: Life) -> None:
    life.report(*[f"many-{number}" for number in range(2 * AT_ONCE_MAX)])
    life.disconnect()
    life.connect(session_present=False)

    assert [len(life.run(SETTLE_SECONDS)), len(life.run(LOOK_SECONDS)), len(life.run(LOOK_SECONDS))] == [AT_ONCE_MAX, AT_ONCE_MAX, 2]


def test_a_node_that_is_away_is_asked_when_it_is_back(life: Life) -> None:
    life.report("n2", status="lost")
    life.disconnect()
    life.connect(session_present=False)
    assert set(life.run(3600, step_seconds=60)) == {"n1"}

    life.report("n2", session=2)

    assert life.run(LOOK_SECONDS) == ["n2"]
    assert (life.asked[0][1].until_seconds) >= 3600


def test_a_node_is_asked_twice_and_then_until_it_was_heard_over_that_connection(life: Life) -> None:
    life.disconnect()
    life.connect(session_present=False)
    assert life.run(SETTLE_SECONDS) == ["n1", "n2"]
    life.report("n1", "n2")
    assert set(life.run(AGAIN_SECONDS + KEEP_SECONDS)) == {"n1", "n2"}, "a cluster may have lost the first request"
    life.report("n1")
    life.report("n2", session=2)  # It was perhaps not there when it was asked.

    assert life.run(KEEP_SECONDS + SETTLE_SECONDS) == ["n2"]
    life.report("n2", session=2)
    life.run(KEEP_SECONDS + SETTLE_SECONDS)
    assert life.run(10 * AGAIN_SECONDS, step_seconds=60) == []


def test_a_restart_in_the_middle_goes_on_where_it_was(life: Life) -> None:
    life.report("n2", status="lost")
    life.disconnect()
    life.connect(session_present=False)
    assert life.run(SETTLE_SECONDS) == ["n1"]
    number, since = life.asked[0][1].number, life.asked[0][1].since_seconds or 0

    again = Life(life.store, life.now)  # The process before was killed.
    again.now[0] += 30
    again.connect(session_present=True)
    again.report("n2", session=2)

    assert again.run(SETTLE_SECONDS) == ["n2"]
    assert again.asked[0][1].number == number
    assert (again.asked[0][1].since_seconds or 0) >= since + 30


def test_a_hub_that_was_killed_before_it_wrote_the_loss_down_asks_all_the_same(life: Life) -> None:
    killed = Life(life.store, life.now)  # The broker accepts it, has no session, and makes one; then it is killed.

    again = Life(killed.store, killed.now)
    again.connect(session_present=True)

    assert again.run(SETTLE_SECONDS) == ["n1", "n2"]


def test_after_a_restart_of_the_machine_all_that_nodes_keep_is_asked_for(life: Life) -> None:
    again = Life(life.store, [5.0], boot="another")
    again.connect(session_present=False)

    assert again.run(SETTLE_SECONDS) == ["n1", "n2"]
    assert {request.since_seconds for _, request in again.asked} == {None}


def test_a_node_that_could_not_be_asked_is_asked_later(life: Life) -> None:
    life.disconnect()
    life.connect(session_present=False)
    life.fails = lambda node: node == "n2"
    assert life.run(SETTLE_SECONDS) == ["n1"]

    life.fails = lambda node: False

    assert life.run(LOOK_SECONDS) == ["n2"]


def test_each_of_several_processes_asks_for_what_it_lost_itself(life: Life) -> None:
    other = Life(life.store, life.now, process="ingest-2-of-2")
    other.connect(session_present=False)
    other.disconnect()
    other.connect(session_present=False)

    assert other.run(SETTLE_SECONDS) == ["n1", "n2"]
    assert life.run(SETTLE_SECONDS) == []


def test_windows_that_died_with_a_broker_while_the_hub_was_away_are_asked_for(fleet: Fleet, mosquitto: brokers.Broker) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(mosquitto):
        device = Device.connect("n1", mosquitto, fleet)
        until("the node", lambda: [row for row in fleet.store.nodes() if row.node == "n1"])
    assert manifest.baseline is not None
    device.window(manifest, [1] * len(expected_counts(manifest.baseline, 1)))
    device.client.next(Published)
    device.client.link.close()
    mosquitto.restart()
    asked = Client.of(mosquitto, "n1")
    asked.open()
    asked.subscribe(fleet.topics.settings("n1"))
    began = time.monotonic()
    with fleet.hub(mosquitto):
        back = Device("n1", asked, fleet, key=device.key, session=device.session)
        back.say_state()
        found = back.next_on(fleet.topics.settings("n1"), wanted=lambda message: not message.payload and bool(message.windows))
    request = WindowRequest.parse(found.windows)

    assert request.since_seconds is not None
    assert MARGIN_SECONDS <= request.since_seconds <= MARGIN_SECONDS + time.monotonic() - began + 600
    asked.link.close()
