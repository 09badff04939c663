"""`nodes forget`, `nodes replace` and `history` as operators run them: what they print, what they leave, and how they end."""

import json
import sqlite3
import time
from pathlib import Path

import pytest

from hub.cli.errors import Exit
from hub.core.rollouts.commands import Halt
from hub.database.device_lives import DeviceLives, Duplicate, OtherKey
from hub.database.enrolments import CertificateRow, Enrolments, Place
from hub.database.rows import NodeRow
from hub.database.store import Store
from schemas import codec
from schemas.errors import Code
from schemas.names import sha256
from schemas.state import Finding, State
from tests.databases import only_sqlite, url_of
from tests.hub.cli.fleets import Made, copied, make, run
from tests.hub.earlier_databases import as_before_versions

KEY = b"key of gw-1"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"), "m")


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    """A fleet of the test's own."""
    return copied(template, tmp_path / "made")


def opened(made: Made) -> Store:
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    return store


def with_nodes(made: Made, *names: str) -> Store:
    store = opened(made)
    for name in names:
        state = State(node=name, session=1, status="online", at=0, public_key=KEY)
        store.upsert_node(NodeRow(name, 1, "online", int(time.time()), codec.encode(state), KEY, "all"))
    return store


def listed(made: Made) -> dict[str, str]:
    return {row["node"]: row["status"] for row in json.loads(made.run("nodes", "--json").stdout)}


def enrol(store: Store, name: str) -> None:
    enrolments = Enrolments(store.database)
    digest = sha256(name.encode())
    enrolments.add_tokens([(digest, Place(name, "lab", {"site": "x"}))], expires_at=2**40)
    assert enrolments.redeem(
        digest, Place(name, "lab", {"site": "x"}), KEY, CertificateRow(name.encode().hex(), name, "node", 4_000_000_000, b"0")
    )


def test_a_node_is_forgotten_without_a_hub_and_again_with_the_same_end(made: Made) -> None:
    store = with_nodes(made, "gw-1", "gw-2")

    done = made.run("nodes", "forget", "gw-1", "--json", "--actor", "ann")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hub"].startswith("none runs here")
    assert listed(made) == {"gw-2": "online"}
    one = made.run("nodes", "gw-1")
    assert (one.returncode, "was forgotten" in one.stderr) == (Exit.REFUSED, True)
    assert made.run("nodes", "forget", "gw-1").returncode == 0
    assert len([event for event in store.events() if event.kind == "device"]) == 1
    unknown = made.run("nodes", "forget", "nobody")
    assert (unknown.returncode, "has never reported" in unknown.stderr) == (Exit.REFUSED, True)


def test_new_hardware_is_let_in_by_its_key_until_a_time(made: Made) -> None:
    store = with_nodes(made, "gw-1")

    done = made.run("nodes", "replace", "gw-1", "--fingerprint", sha256(b"new").hex(), "--hours", "2", "--json")

    assert done.returncode == 0, done.stderr
    life = DeviceLives(store.database).life("gw-1")
    assert life is not None
    assert (life.state, life.fingerprint, life.old_key) == ("expected", sha256(b"new"), KEY)
    assert life.expires_at is not None
    assert abs(life.expires_at - time.time() - 7200) < 120
    assert listed(made) == {}
    assert "gw-1 waits for new hardware" in made.run("nodes").stderr
    anybody = made.run("nodes", "replace", "gw-1")
    assert "whichever that is" in anybody.stdout
    assert made.run("nodes", "replace", "gw-1", "--fingerprint", "12").returncode == Exit.USAGE
    assert made.run("nodes", "replace", "nobody").returncode == Exit.REFUSED
    assert made.run("nodes", "replace", "hub").returncode == Exit.REFUSED


def test_a_node_that_was_enrolled_is_replaced_by_a_token_with_its_place(made: Made) -> None:
    store = with_nodes(made, "gw-1")
    enrol(store, "gw-1")

    done = made.run("nodes", "replace", "gw-1", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["node"] == "gw-1"
    (token,) = Enrolments(store.database).open_tokens()
    assert (token.place.cohort, dict(token.place.labels)) == ("lab", {"site": "x"})
    assert made.run("nodes", "replace", "gw-1", "--fingerprint", "ab" * 32).returncode == Exit.USAGE


def test_a_revoked_node_is_shown_as_revoked_and_a_forgotten_one_in_no_list(made: Made) -> None:
    store = with_nodes(made, "gw-1", "gw-2")
    for name in ("gw-1", "gw-2"):
        enrol(store, name)

    assert made.run("enroll", "revoke", "gw-1").returncode == 0
    assert made.run("nodes", "forget", "gw-2").returncode == 0

    assert listed(made) == {"gw-1": "revoked"}
    assert [row.node for row in store.counted_nodes()] == []
    assert [row["node"] for row in json.loads(made.run("enroll", "list", "--json").stdout)] == ["gw-1"]
    row = Enrolments(store.database).node("gw-2")
    assert row is not None
    assert row.standing.revoked_at is not None


def test_two_devices_with_one_name_are_shown(made: Made) -> None:
    store = with_nodes(made, "gw-1")
    DeviceLives(store.database).put_duplicate(Duplicate("gw-1", 1_700_000_000, 1_700_000_000))

    table = made.run("nodes").stdout
    assert "online (two devices)" in table
    assert "two devices use its name and key since 2023-11-14T22:13:20+00:00" in table
    assert "this ends at 2023-11-15T00:13:20+00:00" in table
    assert json.loads(made.run("nodes", "gw-1", "--json").stdout)["duplicate_since"].startswith("2023-11-14")


def test_a_device_with_another_key_is_shown_with_the_mend(made: Made) -> None:
    store = with_nodes(made, "gw-1")
    DeviceLives(store.database).put_other_key(OtherKey("gw-1", 1_700_000_000, bytes(32)))

    done = made.run("nodes")

    assert "online (another key)" in done.stdout
    assert "gw-1: its device shows another key" in done.stdout
    assert "`fleetcast nodes replace gw-1` lets it in [receipt.key_changed]" in done.stdout
    assert json.loads(made.run("nodes", "gw-1", "--json").stdout)["other_key_since"].startswith("2023-11-14")


def test_a_node_that_the_hub_believes_is_not_shown_as_one_that_it_does_not(made: Made) -> None:
    finding = Finding(kind="settings", code=str(Code.RECEIPT_KEY_CHANGED), reason="the hub knows another key of gw-1")
    state = State(node="gw-1", session=1, status="online", at=1, public_key=KEY, findings=(finding,))  # From before it was let in.
    opened(made).upsert_node(NodeRow("gw-1", 1, "online", 1, codec.encode(state), KEY, ""))

    assert "another key" not in made.run("nodes").stdout


# History


def test_every_change_has_its_actor_the_newest_first(made: Made) -> None:
    store = with_nodes(made, "gw-1")
    assert made.publish("1.0.0", "--actor", "ann").returncode == 0
    assert made.run("nodes", "forget", "gw-1", FLEETCAST_ACTOR="bob").returncode == 0
    assert made.run("rollout", "start", "m@1.0.0", "--force", "--actor", "cem").returncode == 0

    rows = json.loads(made.run("history", "--json").stdout)

    assert [(row["actor"], row["kind"]) for row in rows] == [("bob", "device"), ("ann", "release")]
    assert [row["what"] for row in json.loads(made.run("history", "--node", "gw-1", "--json").stdout)] == ["node gw-1 was forgotten"]
    assert [row["version"] for row in json.loads(made.run("history", "--model", "m", "--json").stdout)] == ["1.0.0"]
    assert json.loads(made.run("history", "--since", "2100-01-01", "--json").stdout) == []
    assert [command.actor for command in store.open_commands()] == ["cem"]
    assert "ann" in made.run("history").stdout


@pytest.mark.parametrize("name", ["", "a" * 65, "a\nb", "\x1b[2J"])
def test_a_name_that_is_none_is_refused(made: Made, name: str) -> None:
    with_nodes(made, "gw-1")

    assert made.run("nodes", "forget", "gw-1", "--actor", name).returncode == Exit.USAGE
    assert listed(made) == {"gw-1": "online"}


@only_sqlite
def test_a_database_without_actors_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite"
    store = Store(url_of(path))
    store.create()
    store.add_event("release", "m@1.0.0 was published", {"model": "m"})
    store.add_command("m", Halt())
    store.close()
    with sqlite3.connect(path) as db:  # as a hub of the version before left it
        as_before_versions(db)
        db.execute("DROP INDEX events_by_actor")
        for table in ("events", "commands", "deployment_rollouts", "device_lives"):
            db.execute(f"ALTER TABLE {table} DROP COLUMN actor")
        db.execute("ALTER TABLE deployment_rollouts DROP COLUMN tries_from")
        db.execute("DROP TABLE duplicate_nodes")

    again = Store(url_of(path))
    again.create()

    assert [(one.text, one.actor) for one in again.changes()] == [("m@1.0.0 was published", None)]
    assert [one.actor for one in again.open_commands()] == [None]
    assert (again.rollout_rows(), DeviceLives(again.database).life("n")) == ([], None)
    again.create()


def test_nodes_are_listed_a_page_at_a_time(made: Made) -> None:
    with_nodes(made, "gw-1", "gw-2", "gw-3").close()

    first, second = run("nodes", "--limit", "2", fleet=made.fleet), run("nodes", "--limit", "2", "--after", "gw-2", fleet=made.fleet)
    every = json.loads(run("nodes", "--json", fleet=made.fleet).stdout)
    some = run("nodes", "--limit", "1", "--where", "state!=serving", fleet=made.fleet)
    last = run("nodes", "--limit", "1", "--after", "gw-2", fleet=made.fleet)

    assert [name for name in ("gw-1", "gw-2", "gw-3") if name in first.stdout] == ["gw-1", "gw-2"]
    assert "2 of 3 nodes are shown; the next: fleetcast nodes list --after gw-2" in first.stderr
    assert ("gw-3" in second.stdout, "gw-2" in second.stdout, "are shown" in second.stderr) == (True, False, False)
    assert [row["node"] for row in every] == ["gw-1", "gw-2", "gw-3"]
    assert ("gw-3" in last.stdout, last.stderr) == (True, "")
    assert "1 of 3 nodes is shown; the next: fleetcast nodes list --where 'state!=serving' --after gw-1" in some.stderr


def test_a_single_node_refuses_what_is_for_the_list(made: Made) -> None:
    with_nodes(made, "gw-1").close()
    done = made.run("nodes", "list", "gw-1", "--columns", "node")

    assert done.returncode == Exit.USAGE
    assert "--columns is for the list of nodes" in " ".join(done.stderr.split())
