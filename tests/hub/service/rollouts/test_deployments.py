"""The controller's deployments: signed as one statement a model, taken over from earlier hubs, renewed, restored after a crash."""

import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Column, LargeBinary, MetaData, String, Table, insert, inspect

from hub.core.publish.metadata_expiry import life
from hub.core.rollouts import commands, fleet
from hub.core.rollouts.commands import Halt, Resume, Rollback
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.node_class import class_of
from hub.database import tables
from hub.database.connection import HUB_ACTOR
from hub.database.hearing import Hearing
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.controller import Controller
from hub.service.rollouts.listening import ListeningClock
from hub.signing import deployment_statements
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import DEFAULT, Deployment, Deployments, Envelope
from schemas.errors import Code, Refused
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout
from schemas.state import Profile, Slot, State
from tests.databases import only_sqlite, url_of
from tests.hub.earlier_databases import as_before_versions
from tests.hub.hubs import Fleet, deployment_of

SALT = b"o" * 16


class Hub:
    """A fleet's folder, three releases, eight nodes of two sites, and the controller."""

    def __init__(self, directory: Path) -> None:
        self.fleet, self.now = Fleet(directory), 1_800_000_000.0
        self.store = self.fleet.store
        self.manifests = [self.fleet.publish(f"1.{number}.0", seed=number) for number in range(3)]
        self.refs = [ReleaseRef(one.version, sha256(codec.encode(one))) for one in self.manifests]
        self.nodes = {f"n{number}": self.node(f"n{number}", "jfk" if number < 2 else "lga") for number in range(8)}
        self.listening = ListeningClock(Hearing(self.store.database), monotonic=lambda: self.now)
        self.listening.connected(1)
        self.listening.subscribed(denied=False)
        self.listening.took(0, waited=1.0, full=False)
        self.drawn = 0

    def begin(self) -> Controller:
        """A process of the hub begins."""
        self.controller = Controller(
            repository=self.fleet.repository,
            store=self.store,
            notes=Notes(self.store, publish=lambda alert: None, clock=lambda: self.now),
            nodes=self.nodes,
            signer=self.fleet.online[2],
            random_bytes=self.random_bytes,
            wall=lambda: self.now,
            monotonic=lambda: self.now,
            listening=self.listening,
            cohort_nodes_min=3,
        )
        return self.controller

    def random_bytes(self, count: int) -> bytes:
        self.drawn += 1
        return bytes([self.drawn]) * count

    def node(self, name: str, site: str) -> fleet.Node:
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"site": site})
        state = State(node=name, session=1, status="online", at=1, public_key=b"k", cohort="nyc", profile=profile)
        return fleet.Node(state, "online", 1, 0, b"k", heard_at=Listened(2.0**39))

    def serve(self, number: int, *names: str) -> None:
        """These nodes sign that they serve a release, and the hub looks."""
        version, digest = self.refs[number]
        for name in names or tuple(self.nodes):
            self.nodes[name] = replace(self.nodes[name], serving={"delay": fleet.Serving(version, digest, 1)})
        self.passes()

    def passes(self, seconds: float = 2.0) -> None:
        self.now += seconds
        self.controller.tick()

    def ask(self, kind: str, **body: object) -> str:
        self.store.database.actor = "ada"
        number = self.store.add_command("delay", commands.read(kind, json.dumps(body)))
        self.store.database.actor = HUB_ACTOR
        self.passes()
        answer = self.store.command(number)
        assert answer is not None
        return answer.text if answer.state == "done" else f"{answer.code}: {answer.text}"

    @property
    def signed(self) -> Deployments:
        found = deployment_statements.read(self.fleet.repository, "delay")
        assert found is not None
        return found.deployments

    @property
    def by_name(self) -> dict[str, Deployment]:
        return {one.name: one for one in self.signed.deployments}

    @property
    def earlier(self) -> Rollout:
        document = self.fleet.repository.rollout("delay")
        assert document is not None
        return codec.decode(Rollout, document)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    made = Hub(tmp_path / "fleet")
    made.begin()
    return made


def test_two_rollouts_of_one_model_run_side_by_side(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    hub.serve(0)
    hub.ask("start", version="1.1.0", where="site=jfk", stages=[50, 100], gate={"receipts_ratio_min": 1.0})
    hub.ask("start", version="1.2.0", stages=[50, 100], gate={"receipts_ratio_min": 1.0})
    hub.serve(1, "n0", "n1")
    hub.passes()

    assert {name: (one.state, one.release.version) for name, one in hub.by_name.items()} == {
        "site-jfk": ("done", "1.1.0"),
        DEFAULT: ("running", "1.2.0"),
    }
    rows = {row.deployment: row for row in hub.store.rollout_rows()}
    assert (rows["site-jfk"].addressed, rows["site-jfk"].serving) == (2, 2)
    assert rows[DEFAULT].addressed == 3, "half of the six for which it decides"


def test_every_change_is_one_statement_with_the_next_serial(hub: Hub) -> None:
    serials = []
    hub.ask("start", version="1.0.0", stages=[50, 100])
    for kind, body in (
        ("halt", {}),
        ("resume", {}),
        ("deploy_set", {"name": "hold", "where": "node=n1", "release": "1.1.0", "priority": 100}),
        ("deploy_remove", {"name": "hold"}),
        ("rollback", {}),
    ):
        hub.ask(kind, **body)
        serials.append(hub.signed.serial)

    assert serials == list(range(serials[0], serials[0] + 5))
    hub.passes(60)
    assert hub.signed.serial == serials[-1], "a look that changes nothing signs nothing"


def test_a_release_that_was_rolled_out_first_can_be_taken_back(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    answer = hub.ask("rollback")

    assert "to no release" in answer
    assert (hub.by_name[DEFAULT].state, hub.by_name[DEFAULT].fallback) == ("rolled_back", None)


def test_a_pin_to_what_its_node_serves_has_nothing_to_go_back_to(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    hub.serve(0)
    hub.ask("start", version="1.1.0")
    hub.serve(1)
    hub.ask("deploy_set", name="hold-1", where="node=n1", priority=60, release="1.1.0")
    serial, answer = hub.signed.serial, hub.ask("rollback", deployment="hold-1")

    assert answer == (
        "rollout.invalid: the rollout of delay 1.1.0 (deployment hold-1) has nothing to go back to, for its nodes were to serve 1.1.0 "
        "before it, too; `fleetcast deploy remove delay hold-1` takes the deployment away: 1 node then follows deployment default, which "
        "runs 1.1.0"
    )
    assert (hub.signed.serial, hub.by_name["hold-1"].state) == (serial, "done")


def test_a_release_that_began_twice_has_nothing_to_go_back_to(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    hub.serve(0)
    hub.ask("start", version="1.0.0", stages=[50, 100])
    answer = hub.ask("rollback")

    assert "has nothing to go back to, for its nodes were to serve 1.0.0 before it, too" in answer
    assert "`fleetcast rollout halt delay` stops it; `fleetcast rollout start delay@VERSION` moves its nodes" in answer


def test_nodes_that_such_a_rollout_did_move_go_back_to_their_own(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    hub.serve(0)
    hub.ask("start", version="1.1.0")
    hub.serve(1, *(name for name in hub.nodes if name != "n1"))
    hub.passes(3600)
    hub.ask("halt")
    hub.ask("deploy_set", name="default", release="1.1.0")
    hub.ask("deploy_set", name="default", release="1.1.0")
    slot = Slot(model="delay", state="active", serving=hub.refs[1].digest, serving_version="1.1.0", last_good=hub.refs[0].digest)
    n1 = hub.nodes["n1"]
    moved = fleet.Serving("1.1.0", hub.refs[1].digest, int(hub.now) + 1)
    hub.nodes["n1"] = replace(n1, state=n1.state.model_copy(update={"slots": (slot,)}), serving={"delay": moved})

    assert "rolled back to 1.1.0 (7 nodes) and 1.0.0 (1 node) by ada" in hub.ask("rollback")


def test_a_node_that_serves_what_is_decided_after_going_back_is_serving(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    hub.serve(0)
    node = hub.nodes["n1"]
    # A hub of an earlier version took back what had nothing to go back to.
    back = hub.by_name[DEFAULT].model_copy(update={"state": "rolled_back", "fallback": hub.refs[0]})

    found = class_of(back, node, model="delay", heard=True, silent_seconds=0, failed_from=0, now=1)

    assert (found.name, found.sentence) == ("serving", "serves 1.0.0")


def test_a_deployment_that_is_removed_leaves_no_row_behind(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    hub.ask("deploy_set", name="hold", where="node=n1", release="1.1.0")
    before = [row.deployment for row in hub.store.rollout_rows()]
    answer = hub.ask("deploy_remove", name="hold")

    assert before == [DEFAULT, "hold"]
    assert [row.deployment for row in hub.store.rollout_rows()] == [DEFAULT]
    assert answer == "deployment hold of delay is removed"
    assert hub.ask("deploy_remove", name="hold").startswith("request.unknown: there is no deployment hold")


def test_commands_name_the_deployment_where_there_are_several(hub: Hub) -> None:
    for site in ("jfk", "lga"):
        hub.ask("start", version="1.0.0", where=f"site={site}", stages=[50, 100])

    assert "choose one with --deployment" in hub.ask("halt")
    assert "halted by ada" in hub.ask("halt", deployment="site-lga")
    assert {name: one.state for name, one in hub.by_name.items()} == {"site-jfk": "running", "site-lga": "halted"}
    assert "no node has failed in the rollout of delay 1.0.0 (deployment site-jfk)" in hub.ask("retry", deployment="site-jfk")


def test_an_alert_of_a_halt_names_the_operator_who_last_acted_on_it(hub: Hub) -> None:
    hub.ask("start", version="1.0.0", stages=[50, 100], approve=[100])
    answer = hub.ask("approve")
    hub.begin()  # Another process of the hub knows it from the database.
    (row,) = hub.store.rollout_rows()
    for name, node in hub.nodes.items():
        hub.nodes[name] = replace(node, failures={("delay", hub.refs[0].digest): fleet.Failure("refused", "model.load", int(hub.now))})
    hub.passes()

    assert answer.endswith("has stage 2 approved by ada")
    assert row.actor == "ada"
    halted = [(one.alert.kind, one.alert.actor, one.alert.rollout) for one in hub.store.alerts()]
    assert halted == [("rollout_halted", "ada", row.rollout)]
    assert {event.body["rollout"] for event in hub.store.events() if event.kind == "rollout"} == {row.rollout}
    assert [event.actor for event in hub.store.changes()][:2] == [HUB_ACTOR, "ada"]


def test_a_statement_is_signed_again_at_half_of_its_life(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    before = hub.signed
    hub.passes(life("rollouts").total_seconds() / 2 - 3600)
    early = hub.signed
    hub.passes(2 * 3600)

    assert early == before
    assert (hub.signed.serial, hub.signed.deployments) == (before.serial + 1, before.deployments)
    assert hub.signed.expires > before.expires


def test_a_new_process_goes_on_with_each_deployment_where_it_was(hub: Hub) -> None:
    hub.ask("start", version="1.0.0", stages=[50, 100], gate={"soak_seconds": 600, "receipts_ratio_min": 0.0, "halt_on_drift": False})
    hub.ask("start", version="1.1.0", where="site=jfk")
    hub.ask("halt", deployment="site-jfk")
    before = {row.deployment: row.reason for row in hub.store.rollout_rows()}
    signed = hub.signed
    hub.begin()

    assert hub.signed == signed
    assert {row.deployment: row.reason for row in hub.store.rollout_rows()} == before
    assert before["site-jfk"] == "halted by ada"


def test_working_state_that_a_crash_left_behind_is_not_taken_for_the_signed_one(hub: Hub) -> None:
    hub.ask("start", version="1.0.0", stages=[50, 100], gate={"soak_seconds": 600, "receipts_ratio_min": 0.0})
    (row,) = hub.store.rollout_rows()
    hub.ask("halt")
    hub.store.put_rollout_row(row)  # As if the hub had died between the signature and the row.
    hub.begin()
    hub.passes()

    (row,) = hub.store.rollout_rows()
    assert deployment_of(row).state == "halted"


def earlier_rollout(hub: Hub, **changes: object) -> Rollout:
    fields: dict[str, object] = {
        "model": "delay",
        "serial": 7,
        "release": hub.refs[1],
        "fallback": hub.refs[0],
        "state": "running",
        "stages": (50, 100),
        "salt": SALT,
        "started": 1,
    }
    rollout = Rollout.model_validate(fields | changes)
    hub.fleet.repository.set_rollout("delay", codec.encode(rollout), rollouts=hub.fleet.online[2], now=datetime.fromtimestamp(hub.now, UTC))
    return rollout


def test_a_repository_of_an_earlier_hub_is_taken_over_and_moves_nobody(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "fleet")
    earlier_rollout(hub)
    hub.begin()

    (one,) = hub.signed.deployments
    assert hub.fleet.repository.deployments("delay") is not None
    assert (hub.signed.serial, one.name, one.release, one.fallback) == (8, DEFAULT, hub.refs[1], hub.refs[0])
    assert (one.rollout, one.state, one.percent) == (SALT, "running", 50)
    assert (hub.earlier.release, hub.earlier.salt, hub.earlier.state) == (hub.refs[1], SALT, "running")


def test_what_an_earlier_hub_did_after_a_step_back_is_taken_over_again(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    hub.ask("deploy_set", name="hold", where="node=n1", release="1.2.0", priority=100)
    earlier_rollout(hub, serial=99, state="done")
    hub.begin()
    hub.passes()

    assert hub.signed.serial == 100
    assert {name: one.release.version for name, one in hub.by_name.items()} == {"hold": "1.2.0", DEFAULT: "1.1.0"}


def test_earlier_nodes_keep_what_they_have_where_their_document_cannot_say_it(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    said = hub.earlier.state
    hub.ask("start", version="1.1.0", where="site=jfk", supersede=True)
    hub.ask("start", version="1.2.0", stages=[50, 100], supersede=True)

    assert (said, hub.earlier.state) == ("running", "halted")


def test_what_earlier_nodes_read_is_not_signed_again_for_a_serial_alone(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    before = hub.earlier
    hub.passes(life("rollouts").total_seconds() * 0.6)

    assert hub.signed.serial > before.serial
    assert hub.earlier == before


def test_what_earlier_nodes_read_is_made_good_after_a_crash_between_the_two(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    halted = hub.by_name[DEFAULT].model_copy(update={"state": "halted"})
    statement = hub.signed.model_copy(update={"serial": hub.signed.serial + 1, "deployments": (halted,)})
    hub.fleet.repository.set_deployments("delay", codec.encode(statement), rollouts=hub.fleet.online[2])
    before = hub.earlier.state
    hub.begin()
    hub.passes()

    assert (before, hub.earlier.state) == ("running", "halted")


def test_a_full_disk_between_the_two_documents_costs_no_serial(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise Refused(Code.DISK_FULL, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "set_rollout", full)
        answer = hub.ask("start", version="1.0.0")
        first = hub.signed
    hub.passes()

    assert "has begun" in answer
    assert (first.serial, hub.signed) == (1, first)
    assert hub.earlier.release.version == "1.0.0"


def test_a_key_that_may_no_longer_sign_is_replaced_at_the_next_start(hub: Hub) -> None:
    hub.ask("start", version="1.0.0")
    sealed = hub.fleet.repository.deployments("delay")
    assert sealed is not None
    path = hub.fleet.directory / "trust" / "documents" / "deployments" / "delay"
    path.write_bytes(codec.encode(codec.decode(Envelope, sealed).model_copy(update={"key": bytes(32)})))
    hub.begin()
    hub.passes()

    renewed = hub.fleet.repository.deployments("delay")
    assert renewed is not None
    assert codec.decode(Envelope, renewed).key.hex() == hub.fleet.online[2].public_key.keyid


@only_sqlite
def test_working_state_of_an_earlier_database_is_taken_over(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "fleet")
    rollout = earlier_rollout(hub, state="halted")
    earlier = Table(
        "rollouts",
        MetaData(),
        *(
            Column(column.name, String(64) if column.name == "model" else column.type, primary_key=column.name == "model")
            for column in tables.rollouts.columns
            if column.name != "deployment"
        ),
    )
    assert isinstance(earlier.c.document.type, LargeBinary)
    values = dict.fromkeys(("addressed", "heard", "serving", "failed", "silent", "updated_at"), 3)
    hub.store.close()
    with sqlite3.connect(hub.fleet.directory / "hub.sqlite") as old:
        as_before_versions(old)
    with hub.store.database.write() as db:
        earlier.create(db)
        times = {"stage_entered_at": 5, "held_since": None, "judged_from": 6, "reason": "it drifts"}
        db.execute(insert(earlier).values(model="delay", serial=7, document=codec.encode(rollout), **times, **values))

    Store(url_of(hub.fleet.directory / "hub.sqlite")).create()
    hub.begin()

    (row,) = hub.store.rollout_rows()
    with hub.store.database.read() as db:
        assert not inspect(db).has_table("rollouts")
    assert (row.deployment, row.stage_entered_at, row.judged_from, row.reason) == (DEFAULT, 5, 6, "it drifts")
    assert deployment_of(row).state == "halted"
    hub.passes()
    assert hub.store.rollout_rows()[0].reason == "it drifts"


@pytest.mark.parametrize("command", [Halt(), Resume(), Rollback()])
def test_a_command_of_an_earlier_version_is_still_understood(hub: Hub, command: commands.Command) -> None:
    assert commands.read(commands.kind_of(command), "{}") == command
    assert "has begun" in hub.ask("start", version="1.0.0", labels={"site": "jfk"}, force=True)
    assert list(hub.by_name) == ["site-jfk"]
