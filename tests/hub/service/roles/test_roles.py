"""A hub whose roles are apart: together its processes do what one does, and each leaves what is another's."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from hub.core.rollouts import commands
from hub.database.connection import Database
from hub.database.leadership import Deposed, leader_of
from hub.database.members import Members
from hub.database.troubles import Troubles
from hub.service.alerts.dispatch import Turns
from hub.service.roles import processes
from schemas.errors import Code
from tests.brokers import Broker
from tests.databases import needs_postgresql
from tests.hub.apart import SharedFleet
from tests.hub.hubs import BLOCKS, START, WINDOW_SECONDS, Device, deployment_of, until

pytestmark = [needs_postgresql, pytest.mark.postgres]
ORDINARY = [125, 125, 125, 125, 125, 125, 125, 125, 0]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture
def shared(tmp_path: Path, mosquitto: Broker) -> SharedFleet:
    return SharedFleet.make(tmp_path / "fleet", mosquitto)


def state_of(fleet: SharedFleet) -> str:
    row = next(iter(fleet.store.rollout_rows()), None)
    return deployment_of(row).state if row else ""


def test_roles_apart_roll_a_release_out_and_test_what_nodes_count(shared: SharedFleet, mosquitto: Broker) -> None:
    manifest = shared.publish("1.0.0")
    with ExitStack() as stack:
        for roles, shard in ((("controller",), "1/1"), (("ingest",), "1/2"), (("ingest",), "2/2"), (("blocks",), "1/1")):
            stack.enter_context(shared.running(*roles, shard=shard))
        devices = [Device.connect(f"n{number}", mosquitto, shared) for number in range(6)]
        until("all nodes", lambda: shared.store.count_nodes() == len(devices))
        body = {"version": "1.0.0", "stages": [100], "gate": {"receipts_ratio_min": 1.0}}
        shared.store.add_command("delay", commands.read("start", json.dumps(body)))
        until("a rollout that runs", lambda: state_of(shared) == "running")

        got = devices[0].fetch(manifest)
        for device in devices:
            device.sign("serving", manifest)
            device.window(manifest, ORDINARY)

        assert len(got) == BLOCKS
        until("a rollout that is done", lambda: state_of(shared) == "done")
        row = until(
            "an interval that is tested", lambda: next((one for one in shared.store.intervals("delay") if one.tested_windows), None)
        )
        assert (row.windows, row.start, row.seconds) == (len(devices), START, WINDOW_SECONDS)
        names = {one.name: one for one in Members(shared.store.database).all()}
        assert [one.roles for one in names.values() if one.term] == ["controller"]
        assert sorted(one.shard for one in names.values() if one.roles == "ingest") == ["1/2", "2/2"]


def test_each_shard_takes_in_its_own_nodes_and_knows_them_after_a_restart(shared: SharedFleet, mosquitto: Broker) -> None:
    with shared.running("ingest", shard="1/2") as first, shared.running("ingest", shard="2/2") as second:
        for number in range(8):
            Device.connect(f"n{number}", mosquitto, shared)
        until("all nodes", lambda: len(first._ingest.nodes) + len(second._ingest.nodes) == 8)
        assert not first._ingest.nodes.keys() & second._ingest.nodes.keys()
        assert first._ingest.nodes
        assert second._ingest.nodes
        mine = set(first._ingest.nodes)
    mosquitto.restart()  # It has forgotten every state.
    with shared.running("ingest", shard="1/2") as again:
        assert set(again._ingest.nodes) == mine


@pytest.mark.parametrize("has_shares", [True, False])
def test_two_servers_of_blocks_cost_at_most_a_second_publish(
    shared: SharedFleet, mosquitto: Broker, monkeypatch: pytest.MonkeyPatch, has_shares: bool
) -> None:
    if not has_shares:
        monkeypatch.setattr("hub.service.roles.serving_blocks.SHARED", ())
    manifest = shared.publish("1.0.0")
    with shared.running("blocks", name="one"), shared.running("blocks", name="two"):
        got = Device.connect("n1", mosquitto, shared).fetch(manifest)
        assert len(got) == BLOCKS
        most = 1 if has_shares else 2
        until("all publishes", lambda: sum(shared.store.publish_counts().values()) >= BLOCKS * most)
        assert set(shared.store.publish_counts().values()) == {most}


@pytest.mark.parametrize(
    ("shards", "code", "words"),
    [
        ([("1/2", "a")], Code.SHARD_GAP, "no process has shard 2/2"),
        ([("1/2", "a"), ("2/2", "b"), ("2/2", "c")], Code.SHARD_OVERLAP, "2 processes have shard 2/2: b, c"),
        ([("1/1", "a"), ("1/2", "b"), ("2/2", "c")], Code.SHARD_OVERLAP, "a has 1/1, b has 1/2, c has 2/2"),
    ],
)
def test_shards_that_leave_a_gap_or_overlap_raise_an_alert(
    shared: SharedFleet, monkeypatch: pytest.MonkeyPatch, shards: list[tuple[str, str]], code: Code, words: str
) -> None:
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.0)
    with ExitStack() as stack:
        for shard, name in shards:
            stack.enter_context(shared.running("ingest", shard=shard, name=name))
        stack.enter_context(shared.running("controller"))
        found = until("an alert", lambda: [one for one in shared.store.alerts_of("refused") if one.code == code])

    assert words in found[0].text


def open_troubles(fleet: SharedFleet) -> set[tuple[str, str, str]]:
    return {(one.process, one.code, one.about) for one in Troubles(fleet.store.database).all()}


def test_a_role_that_no_process_has_raises_an_alert_until_one_is_back(shared: SharedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.5)
    missing = {("controller", "role.missing", "blocks")}
    with shared.running("ingest"):
        with shared.running("controller") as leader:
            found = until("an alert", lambda: [one for one in shared.store.alerts_of("refused") if "role blocks" in one.text])
            assert found[0].code == Code.ROLE_MISSING
            until("it to be open", lambda: open_troubles(shared) == missing)
            with shared.running("blocks", name="one"):
                until("its end", lambda: not open_troubles(shared))
            until("it to be open again", lambda: open_troubles(shared) == missing)
            until("nodes to be heard", lambda: not leader._listening.deaf)
        names = {("ingest-1-of-1", "role.missing", role) for role in ("blocks", "controller")}
        until("the one that is left to report both", lambda: open_troubles(shared) == names)
    assert open_troubles(shared) == set()


def test_a_process_that_starts_again_in_time_raises_no_alert(shared: SharedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 20.0)
    with shared.running("ingest"), shared.running("controller") as leader:
        with shared.running("blocks", name="one"):
            until("all roles", lambda: leader._processes is not None and not leader._processes._found)
        until("a role that is missing", lambda: leader._processes is not None and leader._processes._found)
        with shared.running("blocks", name="one"):
            until("all roles again", lambda: leader._processes is not None and not leader._processes._found)
    assert shared.store.alerts_of("refused") == []


def test_a_leader_whose_clock_goes_wrong_gives_the_lead_away_and_says_so(shared: SharedFleet) -> None:
    leading = shared.running("controller", name="first")
    first = leading.__enter__()
    assert first._leadership is not None
    first._leadership._wall = lambda: time.time() + 3600
    found = until("an alert", lambda: [one for one in shared.store.alerts_of("refused") if one.code == Code.LEADER_CLOCK])
    until("its end", lambda: not (shared.directory / "first.ready").exists())
    with pytest.raises(Deposed):
        leading.__exit__(None, None, None)
    assert "3600 s ahead of the database's" in found[0].text
    with shared.running("controller", name="second"):
        found_leader = leader_of(shared.store.database)
        assert found_leader is not None
        assert (found_leader.holder, found_leader.term) == ("second", 2)


def test_of_two_processes_one_delivers_to_a_receiver_until_it_is_gone(shared: SharedFleet) -> None:
    first, second = (Turns(Database(shared.url), "webhook/ops") for _ in range(2))

    assert (first.is_mine(), second.is_mine(), first.is_mine()) == (True, False, True)
    first.close()
    until("the other's turn", second.is_mine)
    second.close()


def test_nothing_in_a_leaders_name_is_published_once_the_lead_is_lost(shared: SharedFleet) -> None:
    leading = shared.running("controller", name="first")
    first = leading.__enter__()
    assert first._leadership is not None
    assert first._leadership._session is not None
    first._leadership._session.connection.dbapi_connection.close()  # type: ignore[union-attr]  # as a server that ends it
    until("its end", lambda: not (shared.directory / "first.ready").exists())
    for publish in (lambda: first._link.retain("fleetcast/v1/main/deployed", b"x"), lambda: first._link.retain_settings("n1", b"x")):
        with pytest.raises(Deposed):
            publish()
    with pytest.raises(Deposed):
        leading.__exit__(None, None, None)
