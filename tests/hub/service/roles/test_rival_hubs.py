"""Two hubs with one fleet's keys: the one that began later notices the other by name, signs nothing, and leaves the broker to it."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from fleetcast.mqtt_connection import Message
from hub.core.roles.rivals import HOLD_SECONDS, Rivals, heard, subscribed
from hub.core.rollouts import commands
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.troubles import troubles_of
from hub.service.broker.mqtt import OwnTopic
from hub.service.delivery.announce import Signers
from hub.service.loop import Service
from schemas import codec
from schemas.bundle import TrustTime
from schemas.errors import Code
from schemas.hub_presence import HubPresence
from schemas.names import sha256
from tests.brokers import Broker
from tests.databases import only_sqlite
from tests.hub.hubs import Device, Fleet, until


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def presence(name: str, *, since: int, beat: int = 1, place: str = "", stands_down: bool = False) -> HubPresence:
    return HubPresence(
        run=sha256(name.encode())[:16],
        place=sha256((place or name).encode()),
        host=name,
        pid=1,
        since=since,
        beat=beat,
        stands_down=stands_down,
    )


def test_nothing_is_signed_before_the_broker_has_said_what_it_retains() -> None:
    state = Rivals(presence("mine", since=10))
    assert state.standing(1e9) == "unsure"
    state = subscribed(state, now=5.0)
    assert (state.standing(5.1), state.standing(6.0)) == ("unsure", "leads")


def test_an_elder_hub_that_is_heard_again_puts_this_one_down() -> None:
    state = subscribed(Rivals(presence("mine", since=10)), now=0.0)
    state, other = heard(state, presence("elder", since=9), now=1.0)
    assert other is None
    state, other = heard(state, presence("elder", since=9), now=2.0)  # the same once more: the broker's memory
    assert (state.standing(3.0), other) == ("unsure", None)
    state, other = heard(state, presence("elder", since=9, beat=2), now=4.0)
    assert other is not None
    assert (state.standing(4.0), state.standing(1e9)) == ("down", "down")


def test_an_elder_hub_that_is_gone_is_waited_for_and_no_longer() -> None:
    state, _ = heard(subscribed(Rivals(presence("mine", since=10)), now=0.0), presence("elder", since=9), now=1.0)
    assert (state.standing(HOLD_SECONDS), state.standing(HOLD_SECONDS + 1.1)) == ("unsure", "leads")


def test_a_younger_hub_is_reported_once_and_keeps_nobody_from_signing() -> None:
    state = subscribed(Rivals(presence("mine", since=10)), now=0.0)
    state, other = heard(state, presence("younger", since=11), now=1.0)
    again, twice = heard(state, presence("younger", since=11, beat=2, stands_down=True), now=2.0)
    assert (other is not None, twice, again.standing(2.0)) == (True, None, "leads")


def test_a_hub_that_starts_again_in_its_own_folder_has_no_rival() -> None:
    state = subscribed(Rivals(presence("mine", since=10, place="folder")), now=0.0)
    for one in (presence("before", since=9, beat=7, place="folder"), presence("before", since=9, beat=8, place="folder")):
        state, other = heard(state, one, now=1.0)
        assert (state.standing(1.0), other) == ("leads", None)


@only_sqlite
def test_what_comes_before_a_leading_hub_has_signed_is_judged_once_it_has(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    fleet.publish("1.0.0")
    other = Fleet(tmp_path / "other")
    stamp = codec.encode(TrustTime(timestamp=other.repository.trust_roles().timestamp))
    service = Service(fleet.directory, fleet.settings(None), signers=Signers(*fleet.online))
    controlling = service._controlling
    assert controlling is not None
    assert controlling.rivals.standing == "leads"

    controlling._guard(OwnTopic("trust-time", None, Message(fleet.topics.trust_time, stamp, retained=True, mid=1, qos=1, epoch=1)))
    assert fleet.store.alerts_of("refused") == []
    controlling.tick(service._work, online=False)

    assert [one.code for one in fleet.store.alerts_of("refused")] == [Code.TRUST_SIGNATURE]
    service.leave()


@only_sqlite
def test_a_copy_of_a_folder_stands_down_and_both_say_so_by_name(tmp_path: Path, mosquitto: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = mosquitto
    monkeypatch.setattr("hub.service.roles.rival_hubs.BEAT_SECONDS", 0.5)
    fleet = Fleet(tmp_path / "fleet")
    fleet.publish("1.0.0")
    shutil.copytree(fleet.directory, tmp_path / "copy")
    copy = Fleet.__new__(Fleet)
    copy.directory, copy.team, copy.targets, copy.online, copy.topics = (
        tmp_path / "copy",
        fleet.team,
        fleet.targets,
        fleet.online,
        fleet.topics,
    )
    with fleet.hub(broker) as first:
        until("the first hub's word", lambda: first._controlling is not None and first._controlling.rivals._state.mine.beat > 0)
        service = Service(copy.directory, copy.settings(broker, connect_seconds=1e6), signers=Signers(*fleet.online))
        service._controlling.rivals._state = Rivals(presence("copy", since=2**39), clear_at=None)  # type: ignore[union-attr]
        stop = threading.Event()
        thread = threading.Thread(target=service.run, args=(stop,))
        thread.start()
        try:
            before = copy.repository.trust_bundle()
            until("the copy to stand down", lambda: service._stands_down and not service._online)
            found = until("the copy's alert", lambda: [one for one in copy.store.alerts_of("refused") if one.code == Code.HUB_DUPLICATE])
            number = copy.store.add_command("delay", commands.read("start", json.dumps({"version": "1.0.0"})))
            opened = OpenedFleet(copy.directory, copy.settings(broker), copy.store, copy.repository)
            until("its trouble", lambda: [row for row in troubles_of(opened, runs=True) if row["code"] == Code.HUB_DUPLICATE])
            answer = until("an answer", lambda: row if (row := copy.store.command(number)) and row.state != "open" else None)
            named = until(
                "the first hub's alert", lambda: [one for one in fleet.store.alerts_of("refused") if "pid" in one.text], seconds=60
            )
        finally:
            stop.set()
            thread.join(60)
        assert "this hub, which began later, signs nothing more" in found[0].text
        assert (answer.state, answer.code) == ("refused", str(Code.HUB_DUPLICATE))
        assert "on copy (pid 1)" in named[0].text
        assert copy.repository.trust_bundle() == before
        Device.connect("n1", broker, fleet)
        until("the first hub's ear", lambda: fleet.store.count_nodes() == 1)
