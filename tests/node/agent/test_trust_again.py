"""Real agents that could not use what the hub retains, for their clock was wrong or a folder was gone, follow it without a restart."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from structlog.testing import capture_logs

from fleetcast.mqtt_connection import Published
from node.agent.loop import Agent
from node.settings import NodeSettings
from node.trust.tuf_client import FolderGoneError, Trust
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.node.agent.test_loop import running, until, wants
from tests.trust_fleet import DAY, Fleet, change_keys


class Clock:
    """A machine's wall clock, that a test sets."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def wall(self) -> float:
        return time.time() + self.ahead.total_seconds()


class Scene:
    """A hub's word at a broker, and one node that hears it."""

    def __init__(self, broker: brokers.Broker, folder: Path) -> None:
        self.broker, self.folder, self.data = broker, folder, folder / "data"
        self.clock = Clock()
        self.fleet = Fleet.make(folder / "fleet", now=datetime.now(UTC))
        self.topics, self.hub = Topics(brokers.FLEET), Client.of(broker, "hub")
        for version in ("1.0.0", "1.1.0"):
            self.fleet.release(version)
        self.hub.open()
        self.rolled = 0

    def roll(self, version: str) -> None:
        self.rolled += 1
        self.fleet.roll(version, serial=self.rolled)
        self.say(self.fleet.refresh(after=timedelta()), self.fleet.models("1.0.0", "1.1.0"))

    def say(self, trust: TrustBundle, models: ModelBundle) -> None:
        for topic, document in ((self.topics.model("delay"), models), (self.topics.trust, trust)):
            self.hub.link.publish(topic, codec.encode(document), retain=True)
            self.hub.next(Published)

    def say_trust(self) -> None:
        self.hub.link.publish(self.topics.trust, codec.encode(self.fleet.refresh(after=timedelta())), retain=True)
        self.hub.next(Published)

    def set_minimum(self, version: str) -> None:
        change_keys(self.fleet.repository, [self.fleet.keys["targets"]], now=self.fleet.now, minimums={"delay": version})

    def agent(self) -> Agent:
        tls = self.broker.tls("n1")
        keys = {"tls_ca": tls.ca, "tls_certificate": tls.certificate, "tls_key": tls.key} if tls else {}
        settings = NodeSettings(
            id="n1",
            fleet=brokers.FLEET,
            broker=self.broker.url("n1"),
            data=self.data,
            root=self.folder / "root.json",
            port=0,
            isolation="inline",
            **keys,  # type: ignore[arg-type]
        )
        root = self.fleet.repository.root()
        return Agent(settings, pinned_root=root, wall=self.clock.wall, monotonic=time.monotonic, rng=Random(0))


@pytest.fixture
def scene(broker: brokers.Broker, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(broker, tmp_path)
    with closing(made.hub.link):
        yield made


@pytest.fixture
def without_tls(tmp_path: Path) -> Iterator[Scene]:
    """A broker whose certificate cannot expire by a clock that is ahead: it has none."""
    with brokers.running("embedded", tmp_path / "broker") as broker:
        made = Scene(broker, tmp_path)
        with closing(made.hub.link):
            yield made


@brokers.mainly("embedded")
@pytest.mark.parametrize("days", [-400, -40, 40])
def test_a_node_whose_clock_was_wrong_follows_once_it_is_right(scene: Scene, days: int) -> None:
    scene.roll("1.0.0")
    node = scene.agent()
    with running(node):
        until(lambda: wants(node) == "1.0.0")
        follows(scene, node, days)


@pytest.mark.parametrize("days", [-400, -40, 40])
def test_a_node_that_begins_with_a_wrong_clock_follows_once_it_is_right(without_tls: Scene, days: int) -> None:
    scene = without_tls
    scene.roll("1.0.0")
    first = scene.agent()
    with running(first):
        until(lambda: wants(first) == "1.0.0")
    scene.clock.ahead = days * DAY
    scene.roll("1.1.0")
    second = scene.agent()
    with running(second):
        follows(scene, second, days)


def follows(scene: Scene, node: Agent, days: int) -> None:
    """Have a node hear of 1.1.0 while its clock is wrong, and follow when its clock is set."""
    with capture_logs() as logs:
        scene.clock.ahead = days * DAY
        if scene.rolled == 1:
            scene.roll("1.1.0")
        if days > 0:
            until(lambda: any(line.get("code") == "trust.expired" for line in logs))
        else:
            until(lambda: node._trust_state.view is not None and node._trust_state.view.rollouts["delay"].release.version == "1.1.0")
        until(node._inbox.empty)
        assert wants(node) == "1.0.0"
        if days < 0:
            until(lambda: "clock.unknown" in {one.code for one in node._findings.all()})
            (found,) = (one for one in node._findings.all() if one.code == "clock.unknown")
            assert "the hub has signed at" in found.reason or "fleetcast was made at" in found.reason
        scene.clock.ahead = timedelta()
        until(lambda: wants(node) == "1.1.0")
        until(lambda: "clock.unknown" not in {one.code for one in node._findings.all()})


def test_a_fresh_node_whose_clock_is_ahead_follows_once_it_is_right(without_tls: Scene) -> None:
    scene = without_tls
    scene.clock.ahead = 40 * DAY
    scene.roll("1.0.0")
    node = scene.agent()
    with running(node):
        with capture_logs() as logs:
            until(lambda: any(line.get("code") == "trust.expired" for line in logs))
        scene.clock.ahead = timedelta()
        until(lambda: wants(node) == "1.0.0")


def test_an_oldest_version_counts_for_what_is_announced_already(without_tls: Scene) -> None:
    scene = without_tls
    scene.roll("1.0.0")
    node = scene.agent()
    with running(node):
        until(lambda: wants(node) == "1.0.0")
        scene.set_minimum("2.0.0")
        scene.roll("1.1.0")
        until(lambda: "release.too_old" in {one.code for one in node._findings.all()})
        assert wants(node) != "1.1.0"

        scene.set_minimum("1.0.0")
        scene.say_trust()
        until(lambda: wants(node) == "1.1.0")
        assert "release.too_old" not in {one.code for one in node._findings.all()}


@brokers.mainly("embedded")
def test_a_node_whose_trust_folder_was_removed_follows_without_a_restart(scene: Scene) -> None:
    scene.roll("1.0.0")
    node = scene.agent()
    with running(node):
        until(lambda: wants(node) == "1.0.0")
        with capture_logs() as logs:
            shutil.rmtree(scene.data / "trust")
            scene.roll("1.1.0")
            until(lambda: wants(node) == "1.1.0")

    assert [line for line in logs if line["event"] == "node.bug"] == []
    assert {"trusted-a", "trusted-b"} <= {path.name for path in (scene.data / "trust").iterdir()}


def test_a_data_folder_that_is_away_is_not_made_again_and_trust_goes_on_when_it_is_back(tmp_path: Path) -> None:
    fleet, data = Fleet.make(tmp_path / "fleet"), tmp_path / "data"
    trust = Trust(data / "trust", fleet.repository.root())
    bundle = fleet.refresh()
    data.rename(tmp_path / "away")
    with pytest.raises(FolderGoneError, match="is gone"):
        trust.accept(bundle, now=fleet.now)
    (tmp_path / "away").rename(data)

    assert trust.accept(bundle, now=fleet.now).root_version == 1


@brokers.mainly("mosquitto")
def test_a_node_whose_data_was_moved_away_follows_at_once_when_it_is_started(scene: Scene) -> None:
    scene.roll("1.0.0")
    first = scene.agent()
    with running(first):
        until(lambda: wants(first) == "1.0.0")
        first._link._link.drop()  # as a kill would: the broker keeps the session for ten minutes
    scene.data.rename(scene.data.with_name("away"))

    second = scene.agent()
    with running(second):
        until(lambda: wants(second) == "1.0.0")

    assert first._store is not second._store


@brokers.mainly("mosquitto")
@pytest.mark.parametrize("kind", ["trust", "model"])
def test_a_message_whose_handling_raised_is_asked_for_again(scene: Scene, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.roll("1.0.0")
    node = scene.agent()
    with running(node):
        until(lambda: wants(node) == "1.0.0")
        folder, raised = scene.data / "trust" / "lock", []
        beliefs = node._trust_state
        name = f"take_{kind}"
        take = getattr(beliefs, name)

        def fails_once(bundle: TrustBundle | ModelBundle) -> None:
            if not raised:
                raised.append(bundle)
                raise FileNotFoundError(2, "No such file or directory", str(folder))
            take(bundle)

        monkeypatch.setattr(beliefs, name, fails_once)
        scene.roll("1.1.0")
        until(lambda: wants(node) == "1.1.0" and bool(raised))
