"""Nodes' reports: durable before the hub goes by them, written together, and not at all where they say nothing new."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from fleetcast.mqtt_connection import Message
from hub.database.hearing import Hearing
from hub.service.broker.mqtt import StateArrived
from schemas import codec
from schemas.errors import Unreachable
from schemas.state import State
from tests.hub.service.telemetry.test_receipt_order import STATE, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path / "fleet")
    scene.ingest._listening.connected(1)
    scene.ingest._listening.subscribed(denied=False)
    scene.ingest._listening.took(0, waited=1.0, full=False)  # It hears its nodes.
    return scene


def arrived(state: State) -> StateArrived:
    return StateArrived(state, Message("topic", b"", retained=False, mid=1, qos=1, epoch=1))


def of(number: int, **changes: object) -> State:
    return STATE.model_copy(update={"node": f"n{number}", **changes})


def commits_of(work: Callable[[], object]) -> int:
    found: list[object] = []

    def note(connection: object) -> None:
        found.append(connection)

    event.listen(Engine, "commit", note)
    try:
        work()
    finally:
        event.remove(Engine, "commit", note)
    return len(found)


def test_reports_of_many_nodes_are_one_transaction(scene: Scene) -> None:
    states = [arrived(of(number)) for number in range(2, 40)]

    assert commits_of(lambda: scene.ingest.states(states)) == 1
    assert len(scene.store.nodes()) == len(scene.ingest.nodes) == 39


def test_a_report_that_says_nothing_new_is_kept_with_the_others_of_its_minute(scene: Scene) -> None:
    scene.ingest.states([arrived(of(2))])
    scene.ingest.save()
    scene.now += 300

    assert commits_of(lambda: scene.ingest.states([arrived(of(2, at=300))])) == 0
    assert scene.ingest.nodes["n2"].last_seen == scene.now
    assert scene.store.node("n2").last_seen == scene.now - 300  # type: ignore[union-attr]
    assert commits_of(scene.ingest.save) == 1
    assert scene.store.node("n2").last_seen == scene.now  # type: ignore[union-attr]
    assert set(Hearing(scene.store.database).heard()) == {"n2"}


def test_two_reports_of_one_node_count_in_their_order(scene: Scene) -> None:
    scene.ingest.states([arrived(of(2)), arrived(of(2, status="disconnected")), arrived(of(2, session=2)), arrived(of(3))])

    row = scene.store.node("n2")
    assert row is not None
    assert (row.status, codec.decode(State, row.state).session) == ("online", 2)
    said = [one.body["status"] for one in scene.store.events() if one.body.get("node") == "n2"]
    assert said == ["online", "disconnected", "online"]


def test_a_report_that_could_not_be_kept_is_kept_when_it_comes_again(scene: Scene) -> None:
    with scene.store.database.write() as db:
        db.execute(text("ALTER TABLE nodes RENAME TO away"))
    with pytest.raises(Unreachable):
        scene.ingest.states([arrived(of(2))])
    assert "n2" not in scene.ingest.nodes
    with scene.store.database.write() as db:
        db.execute(text("ALTER TABLE away RENAME TO nodes"))

    scene.ingest.states([arrived(of(2))])

    assert scene.store.node("n2") is not None
    assert "n2" in scene.ingest.nodes
