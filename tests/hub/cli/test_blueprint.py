"""`fleetcast blueprint`, `diff`, `apply`, `history --blueprint` and `status`, with a real hub that knows nodes by their reports."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.cli.errors import Exit
from hub.core.blueprint.reading import read
from hub.database.blueprint_rows import Blueprints
from hub.database.rows import NodeRow
from hub.database.store import Store
from hub.operations import opening
from hub.operations.blueprint import plan
from hub.operations.blueprint_apply import apply as apply_it
from hub.operations.blueprint_lock import alone
from schemas import codec
from schemas.errors import Refused
from schemas.state import Profile, State
from tests.databases import url_of
from tests.hub.cli.fleets import BIN, Done, Made, copied, make
from tests.hub.cli.test_rollout import Hub
from tests.hub.hubs import until

FIRST = """\
blueprint: 1
models:
  m:
    deployments:
      default: {release: 1.0.0, pin: true}
"""
SECOND = """\
blueprint: 1
fleet: f
models:
  m:
    deployments:
      hold: {where: node=n3, priority: 100, release: 1.0.0, pin: true}
      canary: {where: ring=canary, release: 1.2.0, stages: [50, 100]}
      default: {release: 1.1.0, stages: [10, 100]}
nodes:
  - where: site=jfk
    cohort: nyc
    labels: {ring: canary}
  - node: n5
    telemetry: off
    budgets: {metered: {hours: 22:00-05:00}}
"""


# A story that goes on from test to test, by a real hub: in order, and in one process.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet with three releases and six nodes, of which nothing was rolled out."""
    made = make(tmp_path_factory.mktemp("made"), "m")
    for number in range(3):
        made.publish_as(f"1.{number}.0", made.folder / "good.onnx")
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    for number in range(6):
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"site": "jfk" if number < 2 else "lga"})
        state = State(node=f"n{number}", session=1, status="online", at=int(time.time()), profile=profile)
        store.upsert_node(NodeRow(state.node, 1, "online", state.at, codec.encode(state), b"", "default"))
    store.close()
    return made


@pytest.fixture(scope="module")
def shared(unused: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A copy with a hub, for a story that goes on from test to test."""
    folder = tmp_path_factory.mktemp("shared") / "made"
    made = copied(unused, folder)
    with Hub(made):
        yield made


def written(made: Made, text: str, name: str = "fleet.yaml") -> str:
    path = made.folder / name
    path.write_text(text)
    return str(path)


def diff(made: Made, *more: str) -> tuple[int, dict[str, Any]]:
    done = made.run("diff", *more, "--json")
    assert done.returncode in {0, 2}, done.stderr
    return done.returncode, json.loads(done.stdout)


def apply(made: Made, *more: str, actor: str = "jane") -> Done:
    done = made.run("apply", *more, "--auto-approve", "--actor", actor)
    assert done.returncode == 0, done.stderr
    return done


def exported(made: Made) -> str:
    done = made.run("blueprint")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_approval_nothing_is_changed_and_the_cost_is_shown(shared: Made) -> None:
    done = shared.run("apply", written(shared, FIRST))
    again = shared.run("diff", written(shared, FIRST))

    assert (done.returncode, again.returncode) == (2, 2), done.stderr
    assert "+ make deployment default of m, priority 0: 1.0.0" in done.stderr
    assert "m: 6 nodes go from no release to 1.0.0, and fetch" in done.stderr
    assert "Nothing was changed" in done.stderr
    assert json.loads(shared.run("history", "--blueprint", "--json").stdout) == []


def test_a_blueprint_is_applied_once_and_then_differs_in_nothing(shared: Made) -> None:
    apply(shared, written(shared, FIRST))
    first = apply(shared, written(shared, SECOND))
    code, found = diff(shared, written(shared, SECOND))
    second = apply(shared, written(shared, SECOND))
    rows = json.loads(shared.run("deploy", "list", "m", "--json").stdout)
    set_of = json.loads(shared.run("nodes", "settings", "n5", "--json").stdout)["set"]

    assert (code, found["changes"]) == (0, [])
    assert "Revision 2 is in force" in first.stdout
    assert "Revision 2 is in force; 0 changes made." in second.stdout
    assert [(row["deployment"], row["priority"], row["runs"]) for row in rows] == [
        ("hold", 100, "1.0.0"),
        ("canary", 10, "1.2.0"),
        ("default", 0, "1.1.0"),
    ]
    assert set_of == {"telemetry": False, "budgets": {"metered": {"hours": "22:00-05:00"}}}


def test_what_the_revision_in_force_made_itself_is_nobodys_change_by_hand(shared: Made) -> None:
    code, found = diff(shared, written(shared, FIRST, "first.yaml"))

    assert code == 2
    assert {row["changed_by"] for row in found["changes"]} == {None}


def test_what_is_changed_by_hand_shows_with_the_name_of_who_did(shared: Made) -> None:
    shared.run("deploy", "set", "m", "hold", "--priority", "7", "--actor", "bob")
    shared.run("nodes", "set", "n5", "telemetry=on", "--actor", "bob")
    code, found = diff(shared)
    another = SECOND.replace("priority: 100", "priority: 50").replace("nyc", "lga")
    other = diff(shared, written(shared, another, "another.yaml"))[1]["changes"]
    said = shared.run("status")
    facts = json.loads(shared.run("status", "--json").stdout)["blueprint"]

    assert code == 2
    assert [(row["kind"], row["changed_by"].split(",")[0]) for row in found["changes"]] == [
        ("change_settings", "bob"),
        ("change_deployment", "bob"),
    ]
    assert [(row["kind"], row["changed_by"] is not None) for row in other] == [
        ("change_settings", False),  # Only the file asks for another cohort.
        ("change_settings", True),
        ("change_deployment", True),
    ]
    assert "revision 2, by jane" in said.stdout
    assert "2 things differ from it" in said.stdout
    assert (facts["revision"], facts["differences"]) == (2, 2)


def test_who_halts_and_resumes_is_not_named_for_another_persons_change(shared: Made) -> None:
    shared.run("deploy", "set", "m", "canary", "--priority", "11", "--actor", "bob")
    stopped = shared.run("rollout", "halt", "m", "--deployment", "canary", "--actor", "erin")
    resumed = shared.run("rollout", "resume", "m", "--deployment", "canary", "--actor", "root")
    found = [row["changed_by"].split(",")[0] for row in diff(shared)[1]["changes"] if row.get("deployment") == "canary"]

    assert (stopped.returncode, resumed.returncode) == (0, 0), stopped.stderr + resumed.stderr
    assert found == ["bob"]


def test_an_earlier_revision_is_gone_back_to_and_is_named(shared: Made) -> None:
    apply(shared, written(shared, SECOND))  # Takes back what bob did.
    shared.run("rollout", "halt", "m", "--deployment", "default")
    shared.run("rollout", "halt", "m", "--deployment", "canary")
    held = shared.run("apply", "--revision", "1", "--auto-approve")
    done = apply(shared, "--revision", "1", "--supersede", actor="ann")
    rows = json.loads(shared.run("history", "--blueprint", "--json").stdout)
    events = json.loads(shared.run("history", "--json").stdout)
    deployments = json.loads(shared.run("deploy", "list", "m", "--json").stdout)

    assert held.returncode == Exit.REFUSED
    assert "the rollout of m 1.1.0 (default) is halted at 10 %" in held.stderr
    assert "Revision 3 is in force" in done.stdout
    assert "the blueprint has no `nodes`: what the hub sets of nodes is left alone" in done.stderr
    assert [(row["revision"], row["actor"], row["state"], row["what"]) for row in rows] == [
        (3, "ann", "applied", "revision 1 again"),
        (2, "jane", "applied", ""),
        (1, "jane", "applied", ""),
    ]
    assert ("blueprint", "ann") in {(one["kind"], one["actor"]) for one in events}
    assert [(row["deployment"], row["runs"]) for row in deployments] == [("default", "1.0.0")]
    assert shared.run("blueprint", "--revision", "1").stdout == FIRST


def test_an_export_differs_in_nothing_from_its_fleet(shared: Made) -> None:
    text = exported(shared)
    code, found = diff(shared, written(shared, text))

    assert (code, found["changes"]) == (0, []), text
    assert "based_on: 3" in text


def test_a_file_made_from_an_older_revision_is_named_with_the_one_in_force(shared: Made) -> None:
    path = written(shared, exported(shared).replace("based_on: 3", "based_on: 2").replace("nyc", "jfk"))
    done = shared.run("apply", path, "--auto-approve")
    looked = shared.run("diff", path)
    same = shared.run("diff", written(shared, exported(shared).replace("based_on: 3", "based_on: 2"), "same.yaml"))

    assert done.returncode == Exit.REFUSED
    assert "what that changed would be taken back" in looked.stderr
    assert "no change follows, but the text of that would be replaced" in same.stderr
    assert "is based on revision 2, and revision 3 is in force, by ann" in done.stderr
    assert "is based on revision 2" in looked.stderr


def test_a_file_based_on_a_revision_that_never_was_is_a_mistake_with_its_place(shared: Made) -> None:
    done = shared.run("diff", written(shared, exported(shared).replace("based_on: 3", "based_on: 99"), "unknown.yaml"))
    zero = shared.run("diff", written(shared, exported(shared).replace("based_on: 3", "based_on: 0"), "zero.yaml"))

    assert (done.returncode, zero.returncode) == (Exit.REFUSED, Exit.REFUSED)
    assert "there is no revision 0; they count from 1, and the newest is 3" in zero.stderr
    assert "unknown.yaml, line 5, column 11: there is no revision 99; they count from 1, and the newest is 3" in done.stderr


def test_what_was_seen_and_is_so_no_more_is_named(shared: Made) -> None:
    fleet = opening.open_fleet(shared.fleet, "jane")
    first, second = (
        plan(fleet, read(text.encode(), name="f")) for text in (FIRST.replace("1.0.0", "1.2.0"), FIRST.replace("1.0.0", "1.1.0"))
    )
    seen = replace(first, written=second.written)
    with pytest.raises(Refused) as caught:
        apply_it(fleet, seen)
    fleet.store.close()

    assert "it now also takes: deployment default of m runs 1.1.0, instead of 1.0.0" in caught.value.reason
    assert "no longer needed: deployment default of m runs 1.2.0, instead of 1.0.0" in caught.value.reason


def test_what_went_back_is_not_begun_again_unasked(shared: Made) -> None:
    path = written(shared, FIRST.replace("1.0.0, pin: true", "1.1.0"))
    apply(shared, path)
    shared.run("rollout", "back", "m", "--actor", "bob")
    held = shared.run("apply", path, "--auto-approve")
    apply(shared, path, "--again")

    assert held.returncode == Exit.REFUSED
    assert "it went back from 1.1.0: --again begins it once more" in held.stderr
    assert diff(shared, path)[0] == 0


def test_two_applies_at_once_are_one_and_a_refusal_that_names_both(shared: Made) -> None:
    with alone(opening.open_fleet(shared.fleet, "jane"), what="first.yaml"):
        done = shared.run("apply", written(shared, SECOND, "second.yaml"), "--auto-approve", "--actor", "bob", "--supersede")

    assert done.returncode == Exit.REFUSED
    assert "first.yaml is being applied by jane" in done.stderr
    assert "second.yaml of bob was not begun" in done.stderr


def test_without_a_hub_nothing_is_queued_and_the_mend_is_named(unused: Made, tmp_path: Path) -> None:
    made = copied(unused, tmp_path / "made")
    done = made.run("apply", written(made, FIRST), "--auto-approve")
    none = made.run("diff")

    assert done.returncode == Exit.UNREACHABLE
    assert "start `fleetcast hub`" in done.stderr
    assert "no blueprint was applied to this fleet yet" in none.stderr


def test_an_apply_that_is_killed_anywhere_is_finished_by_the_next(unused: Made, tmp_path: Path) -> None:
    """The process is killed after each change of which it has reported, then once more where it goes on."""
    made = copied(unused, tmp_path / "made")
    path = written(made, SECOND)
    environment = {**os.environ, "FLEETCAST_DIR": str(made.fleet)}
    with Hub(made):
        apply(made, written(made, FIRST, "first.yaml"))
        reported = 0
        for _ in range(10):
            who = "carol" if reported else "alice"
            words = [str(BIN / "fleetcast"), "apply", path, "--auto-approve", "--actor", who]
            process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            for line in process.stderr:
                if " of " in line and line[0].isdigit() and ": " in line and "change" not in line:
                    reported += 1
                    process.send_signal(signal.SIGKILL)
                    break
            code = process.wait(60)
            process.stderr.close()
            if code == 0:
                break
        done = until("the rest to be obeyed", lambda: made.run("diff", path).returncode == 0)
        last = apply(made, path, actor="carol")
        events = made.run("history", "--json").stdout
        store = Store(url_of(made.fleet / "hub.sqlite"))
        rows = Blueprints(store.database).page(10)
        store.close()

    assert done
    assert reported >= 3
    assert "Revision 2 is in force" in last.stdout
    assert [(one.revision, one.state, one.actor, one.done, one.changes) for one in rows] == [
        (2, "applied", "alice, carol", 5, 5),
        (1, "applied", "jane", 1, 1),
    ]
    assert "blueprint revision 2 was applied: 5 of 5 changes, by alice, carol" in events


def test_a_change_that_a_killed_apply_did_not_come_to_count_counts(tmp_path: Path) -> None:
    store = Store(url_of(tmp_path / "hub.sqlite"))
    store.create()
    blueprints = Blueprints(store.database)
    blueprints.begin(FIRST, left=1, same_as=None)
    none_left = blueprints.begin(FIRST, left=0, same_as=None)
    blueprints.begin(SECOND, left=5, same_as=None)
    blueprints.count(2, 2)
    more_left = blueprints.begin(SECOND, left=4, same_as=None)  # Somebody took one of them back meanwhile.
    store.close()

    assert (none_left.done, none_left.changes) == (1, 1)
    assert (more_left.done, more_left.changes) == (2, 6)
