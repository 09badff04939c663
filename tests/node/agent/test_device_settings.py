"""What the hub sets of a running node: verified, durable before it is in force, and in force without a restart."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from fleetcast.mqtt_connection import Published
from hub.signing.envelopes import seal
from node.agent.loop import Agent
from node.agent.trust.device_settings import SERIAL
from node.core.delivery.byte_quota import Policy
from node.core.trust.clock import MonotonicSeconds
from node.settings import NodeSettings
from node.storage.store import TELEMETRY_OFF
from schemas import codec
from schemas.deployments import Envelope
from schemas.device_settings import DeviceSettings, LinkBudget
from schemas.errors import Code, Refused
from schemas.limits import LABELS_MAX
from schemas.names import sha256
from schemas.receipt import Receipt, SealedReceipt
from schemas.rollout import ReleaseRef, Rollout
from schemas.state import State
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.node.agent.test_loop import running, until
from tests.trust_fleet import Fleet, manifest

DAY_SECONDS = 86_400
OWN = {"labels": {"site": "jfk", "ring": "main"}, "cohort": "line", "budgets": {"metered": Policy(bytes_day_max=1000)}}


class Node:
    """A node whose hub is this test, which puts documents in its hands; every start is another process's, by what is on disk."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.fleet = Fleet.make(folder / "fleet", now=datetime.now(UTC))
        self.folder, self.changes, self.wall = folder, {**OWN, **changes}, time.time()
        self.start()

    def start(self) -> None:
        settings = NodeSettings(
            id="n1",
            fleet=brokers.FLEET,
            broker="mqtt://127.0.0.1:1",
            data=self.folder / "data",
            root=self.folder / "root.json",
            port=0,
            isolation="inline",
            **self.changes,
        )
        root = self.fleet.repository.root()
        self.agent = Agent(settings, pinned_root=root, wall=lambda: self.wall, monotonic=time.monotonic, rng=Random(0))
        self.agent.begin()

    def restart(self) -> None:
        self.agent.leave()
        self.start()

    def trusts(self) -> None:
        self.agent._trust_state.take_trust(self.fleet.refresh(after=timedelta()))

    def document(self, serial: int = 1, **fields: Any) -> DeviceSettings:
        given = {"node": "n1", "expires": int(self.wall) + 7 * DAY_SECONDS, **fields}
        return DeviceSettings(serial=serial, **given)

    def sealed(self, document: DeviceSettings, *, key: str = "rollouts") -> Envelope:
        return seal("settings", codec.encode(document), self.fleet.keys[key])

    def takes(self, serial: int = 1, **fields: Any) -> None:
        self.agent._hub_settings.take(self.sealed(self.document(serial, **fields)))

    def state(self) -> State:
        return self.agent._state_reports.state("online")

    @property
    def serial(self) -> int:
        return self.agent._hub_settings.in_force.serial

    def refusals(self) -> list[str]:
        rows = self.agent._store.outbox_payloads("receipt", 100)
        receipts = [codec.decode(Receipt, codec.decode(SealedReceipt, payload).body) for _, _, payload, _ in rows]
        return [one.code for one in reversed(receipts) if one.outcome == "refused"]


@pytest.fixture
def node(tmp_path: Path) -> Any:
    made = Node(tmp_path)
    made.trusts()
    yield made
    made.agent.leave()


def test_settings_are_in_force_at_once_and_after_a_restart(node: Node) -> None:
    node.takes(4, labels={"ring": "canary"}, cohort="other", telemetry=False, display_name="Gate 2")

    def check() -> None:
        state = node.state()
        assert state.profile is not None
        assert state.settings is not None
        assert state.profile.labels == {"site": "jfk", "ring": "canary"}
        assert (state.cohort, state.telemetry) == ("other", None)
        assert (state.settings.serial, state.settings.display_name, state.settings.ignored) == (4, "Gate 2", ())
        assert not node.agent._telemetry.sends
        assert not node.agent._reporter.windows

    check()
    node.restart()
    check()
    node.takes(5, display_name="Gate 2")
    state = node.state()
    assert state.profile is not None
    assert (state.profile.labels, state.cohort, node.agent._telemetry.sends) == (OWN["labels"], "line", True)


@pytest.mark.parametrize("fact", [SERIAL, TELEMETRY_OFF])
def test_settings_that_a_full_disk_stopped_halfway_are_in_force_once_there_is_room(
    node: Node, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    store, written = node.agent._store, node.agent._store.set_fact

    def full(name: str, value: int) -> None:
        if name == fact:
            raise Refused(Code.DISK_FULL, "no room")
        written(name, value)

    monkeypatch.setattr(store, "set_fact", full)
    with pytest.raises(Refused):
        node.takes(1, cohort="other", telemetry=False)
    monkeypatch.undo()

    node.takes(1, cohort="other", telemetry=False)

    assert (node.state().cohort, node.agent._telemetry.sends, node.agent._reporter.windows) == ("other", False, False)


@pytest.mark.parametrize("again", ["it comes again", "nothing comes"])
def test_a_statement_that_a_full_disk_kept_from_its_effect_has_it_once_there_is_room(
    node: Node, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    said, trust = node.fleet.deploy("1.0.0", serial=1), node.agent._trust_state
    node.fleet.release("1.0.0")
    node.trusts()
    trust.take_model(node.fleet.models("1.0.0"))

    def full(*_: object) -> None:
        raise Refused(Code.DISK_FULL, "no room")

    monkeypatch.setattr(node.agent._store, "put_slot", full)
    with pytest.raises(Refused):
        trust._statements.take_deployments("delay", said)
    assert "delay" not in node.agent._store.slots()
    monkeypatch.undo()

    if again == "it comes again":
        trust._statements.take_deployments("delay", said)
    else:
        trust.look_at_owed(MonotonicSeconds(time.monotonic()))

    assert node.agent._store.slots()["delay"].target is not None


def test_a_budget_is_lowered_and_never_raised(node: Node) -> None:
    node.agent._quota._link = "metered"
    node.takes(1, budgets={"metered": LinkBudget(bytes_day_max=10, hours="22:00-05:00")})
    assert node.agent._quota.policy == Policy(bytes_day_max=10, hours="22:00-05:00")

    node.takes(2, budgets={"metered": LinkBudget(bytes_day_max=10**9, full_download=True)})

    assert node.agent._quota.policy == OWN["budgets"]["metered"]  # type: ignore[index]


def test_what_the_site_does_not_accept_is_named_in_the_state(tmp_path: Path) -> None:
    node = Node(tmp_path, hub_may_set=("labels",))
    node.trusts()

    node.takes(1, labels={"ring": "canary"}, cohort="other", telemetry=False)

    state = node.state()
    assert state.settings is not None
    assert (state.settings.ignored, state.cohort, node.agent._telemetry.sends) == (("cohort", "telemetry"), "line", True)
    node.agent.leave()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (lambda node: node.sealed(node.document(3, labels={"ring": "x"})), Code.TRUST_ROLLBACK),
        (lambda node: node.sealed(node.document(9), key="targets"), Code.TRUST_SIGNATURE),
        (lambda node: node.sealed(node.document(9), key="stranger"), Code.TRUST_SIGNATURE),
        (lambda node: node.sealed(node.document(9, node="n2")), Code.TRUST_MISMATCH),
        (lambda node: node.sealed(node.document(9, expires=int(node.wall) - 1)), Code.TRUST_EXPIRED),
        (lambda node: seal("settings", bytes(60_000), node.fleet.keys["rollouts"]), Code.SCHEMA_TOO_LARGE),
        (lambda node: seal("settings", b"\xc1", node.fleet.keys["rollouts"]), Code.SCHEMA_MALFORMED),
        (lambda node: seal("deployments", codec.encode(node.document(9)), node.fleet.keys["rollouts"]), Code.TRUST_SIGNATURE),
        (lambda node: node.sealed(node.document(9, labels={f"a{i}": "x" for i in range(LABELS_MAX)})), Code.SETTINGS_INVALID),
    ],
    ids=["older", "wrong-role", "stranger", "another-node", "expired", "too-large", "malformed", "another-purpose", "too-many-labels"],
)
def test_refused_settings_are_reported_and_change_nothing(node: Node, bad: Callable[[Node], Envelope], code: Code) -> None:
    node.takes(4, labels={"ring": "canary"})
    before, file = node.agent._hub_settings.in_force, (node.folder / "data" / "trust" / "settings").read_bytes()

    node.agent._hub_settings.take(bad(node))

    assert node.refusals() == [code]
    assert [(one.kind, one.code) for one in node.agent._findings.all()] == [("settings", code)]
    assert node.agent._hub_settings.in_force == before
    assert (node.folder / "data" / "trust" / "settings").read_bytes() == file
    node.takes(5)
    assert node.agent._findings.all() == ()


def test_settings_stay_in_force_when_they_expire_and_over_a_restart(node: Node) -> None:
    node.takes(4, labels={"ring": "canary"})

    node.wall += 200 * DAY_SECONDS
    node.restart()

    assert (node.serial, node.refusals()) == (4, [])


def test_settings_that_come_before_trust_wait_for_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.takes(1, labels={"ring": "canary"})
    assert (node.serial, node.refusals()) == (0, [])

    node.trusts()

    assert node.serial == 1
    node.agent.leave()


def test_settings_refused_by_a_wrong_clock_are_taken_when_it_is_right(node: Node) -> None:
    envelope, now = node.sealed(node.document(1, cohort="other")), node.wall
    node.wall += 30 * DAY_SECONDS
    node.agent._hub_settings.take(envelope)
    assert node.refusals() == [Code.TRUST_EXPIRED]

    node.wall = now
    node.agent._hub_settings.look_again()

    assert (node.serial, node.agent._findings.all()) == (1, ())


def test_a_damaged_file_leaves_the_sites_own_settings_until_the_hubs_come(node: Node) -> None:
    node.takes(4, labels={"ring": "canary"})
    file = node.folder / "data" / "trust" / "settings"
    file.write_bytes(file.read_bytes()[:-3])

    node.restart()
    assert node.serial == 0
    node.takes(3)
    assert node.refusals() == [Code.TRUST_ROLLBACK]  # the serial is remembered beside the file
    node.takes(4, labels={"ring": "canary"})

    assert node.serial == 4


def test_a_lost_store_does_not_let_older_settings_in(node: Node) -> None:
    node.takes(4, labels={"ring": "canary"})
    node.agent.leave()
    for path in (node.folder / "data").glob("node.sqlite*"):
        path.unlink()

    node.start()
    node.takes(3)

    assert (node.serial, node.refusals()) == (4, [Code.TRUST_ROLLBACK])


def test_serials_of_a_key_that_was_replaced_bind_nobody(node: Node) -> None:
    node.takes(2**53, cohort="stolen")
    node.fleet.keys["rollouts"] = CryptoSigner.generate_ed25519()
    keys, repository, now = node.fleet.keys, node.fleet.repository, node.fleet.now
    node.fleet.rekey_rollouts()
    repository.renew_rollouts(rollouts=keys["rollouts"], now=now)
    node.trusts()

    node.takes(1, cohort="ours")

    assert (node.serial, node.state().cohort) == (1, "ours")


def test_a_relabelled_node_follows_where_it_now_is_in_mid_rollout(node: Node) -> None:
    for version in ("1.0.0", "1.1.0"):
        node.fleet.release(version)
    reference = ReleaseRef("1.1.0", sha256(manifest("1.1.0")))
    rollout = Rollout(
        model="delay", serial=1, release=reference, state="running", stages=(100,), salt=bytes(16), labels={"ring": "canary"}, started=1
    )
    node.fleet.repository.set_rollout("delay", codec.encode(rollout), rollouts=node.fleet.keys["rollouts"], now=node.fleet.now)
    node.trusts()
    node.agent._trust_state.take_model(node.fleet.models("1.0.0", "1.1.0"))
    assert wanted(node) is None

    node.takes(1, labels={"ring": "canary"})
    assert node.agent._trust_state.deciding("delay") is not None
    node.agent._trust_state.take_model(node.fleet.models("1.0.0", "1.1.0"))
    assert wanted(node) == "1.1.0"

    node.takes(2, labels={"ring": "main"})

    assert node.agent._trust_state.deciding("delay") is None
    assert wanted(node) is None  # what was begun is given up


def wanted(node: Node) -> str | None:
    slot = node.agent._store.slots().get("delay")
    return slot.target.version if slot is not None and slot.target is not None else None


def test_a_node_reads_its_settings_from_the_broker(broker: brokers.Broker, tmp_path: Path) -> None:
    fleet, topics, hub = Fleet.make(tmp_path / "fleet", now=datetime.now(UTC)), Topics(brokers.FLEET), Client.of(broker, "hub")
    tls = broker.tls("n1")
    keys = {"tls_ca": tls.ca, "tls_certificate": tls.certificate, "tls_key": tls.key} if tls else {}
    hub.open()

    def put(name: str, serial: int, **fields: Any) -> None:
        document = DeviceSettings(node=name, serial=serial, expires=int(time.time()) + DAY_SECONDS, **fields)
        envelope = seal("settings", codec.encode(document), fleet.keys["rollouts"])
        hub.link.publish(topics.settings(name), codec.encode(envelope), retain=True)
        hub.next(Published)

    hub.link.publish(topics.trust, codec.encode(fleet.refresh(after=timedelta())), retain=True)
    put("n1", 1, cohort="first")
    settings = NodeSettings(
        id="n1",
        fleet=brokers.FLEET,
        broker=broker.url("n1"),
        data=tmp_path / "data",
        root=tmp_path / "root.json",
        port=0,
        isolation="inline",
        **keys,
    )
    made = Agent(settings, pinned_root=fleet.repository.root(), wall=time.time, monotonic=time.monotonic, rng=Random(0))
    with running(made):
        until(lambda: made._hub_settings.in_force.cohort == "first")
        put("n1", 2, cohort="second")
        until(lambda: made._hub_settings.in_force.cohort == "second")
        hub.link.publish(topics.settings("n1"), b"", retain=True)
        put("n2", 9, cohort="third")
        hub.link.publish(topics.settings("n1"), b"\xc1", retain=False)
        until(lambda: [one.kind for one in made._findings.all()] == ["settings"])
        assert made._hub_settings.in_force.cohort == "second"
    hub.link.close()
