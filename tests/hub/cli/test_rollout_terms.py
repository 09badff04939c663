"""Terms of a rollout on the command line, and `rollout status` with classes, gates and nodes, over a fleet's real database."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hub.cli.errors import Exit
from hub.cli.time_arguments import DEADLINE
from hub.cli.time_arguments import iso as written
from hub.core.rollouts.listening import Listened
from hub.database.hearing import Hearing
from hub.database.rows import NodeRow
from hub.database.store import Store
from schemas import codec
from schemas.state import Profile, State
from tests.databases import url_of
from tests.hub.cli.fleets import Done, Made, make
from tests.hub.cli.test_rollout import Hub

STAGES = ("--stages", "canary: site=lab; 50; 100", "--approve", "50", "--deadline", "36h", "--activate", "22:00-05:00", "--retries", "2")


def fleet(folder: Path) -> Made:
    """A fleet with two releases and six nodes that have reported and serve nothing yet."""
    made = make(folder, "m")
    for version in ("1.0.0", "1.1.0"):
        assert made.publish(version).returncode == 0
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    for number in range(6):
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"site": "lab" if number < 2 else "jfk"})
        state = State(node=f"n{number}", session=1, status="online", at=1, public_key=b"k", cohort="c", profile=profile)
        store.upsert_node(NodeRow(state.node, 1, "online", int(time.time()), codec.encode(state), b"k", "c"))
    Hearing(store.database).keep_heard({f"n{number}": (Listened(0.0), 0) for number in range(6)})
    store.close()
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return fleet(tmp_path_factory.mktemp("terms"))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet of its own, in which a hub has begun a rollout by stages and looked at its gates."""
    made = fleet(tmp_path_factory.mktemp("staged"))
    with Hub(made):
        begun = start(made, *STAGES, "--json")
        assert begun.returncode == 0, begun.stderr
        until = time.monotonic() + 60
        while not status(made)[0]["gates"]:
            assert time.monotonic() < until, "no gate was looked at"
    return made


def status(made: Made, *more: str) -> list[dict[str, Any]]:
    return list(json.loads(made.run("rollout", "status", "m", *more, "--json").stdout))


def start(made: Made, *more: str) -> Done:
    return made.run("rollout", "start", "m@1.0.0", *more)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--activate", "Mon 10:00-10:00"), Exit.USAGE, "--activate: window 'Mon 10:00-10:00': it ends when it begins, and so never opens"),
        (("--fetch", "Foo 10:00-11:00"), Exit.USAGE, "--fetch: window"),
        (("--deadline", "2020-01-01T10:00"), Exit.REFUSED, "the deadline 2020-01-01 10:00 UTC has passed"),
        (("--deadline", "soon"), Exit.USAGE, "'soon' is no deadline: write 2026-12-24T18:00 (UTC)"),
        (("--deadline", "2026-12-24T18:00 Mars/Olympus"), Exit.USAGE, "is no deadline"),
        (("--stages", "canary: siet=lab; 100"), Exit.REFUSED, "stage canary: No node has a label siet. Did you mean site?"),
        (("--where", "tire!=lab"), Exit.REFUSED, "No node has a label tire. Did you mean site?"),
        (("--stages", "canary: site=lab; 100", "--approve", "50"), Exit.REFUSED, "those after the first (100), not 50 %"),
        (("--nodes-min", "7"), Exit.REFUSED, "stage 100 % reaches 6 of the 6 known nodes, and the gate asks for 7"),
        (("--latency-ratio-max", "1.5"), Exit.REFUSED, "no release was rolled out to these nodes before"),
        (("--latency-ratio-max", "0"), Exit.REFUSED, "latency_ratio_max"),
        (("--shadow-min", "0.9"), Exit.REFUSED, "m@1.0.0 is not compared in shadow"),
    ],
)
def test_terms_by_which_nothing_could_happen_are_refused_at_once(made: Made, more: tuple[str, ...], code: Exit, words: str) -> None:
    done = start(made, *more)

    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2030-12-24T18:00", "2030-12-24T18:00:00Z"),
        ("2030-12-24T18:00+01:00", "2030-12-24T17:00:00Z"),
        ("2030-07-24T18:00 Europe/Berlin", "2030-07-24T16:00:00Z"),
    ],
)
def test_a_deadline_has_a_zone_and_without_one_is_in_utc(text: str, iso: str) -> None:
    assert written(DEADLINE.convert(text, None, None)) == iso


def test_a_deadline_can_be_a_duration_from_now() -> None:
    assert abs(DEADLINE.convert("36h", None, None) - time.time() - 36 * 3600) < 5


def test_classes_gates_and_nodes_are_shown_and_add_up(staged: Made) -> None:
    (row,) = status(staged)
    gates, nodes, waiting = status(staged, "--gates"), status(staged, "--nodes"), status(staged, "--nodes", "--where", "state=waiting")
    table = staged.run("rollout", "status", "m").stdout
    lab, moving = (json.loads(staged.run("nodes", "--where", where, "--json").stdout) for where in ("site=lab", "state=moving"))
    nobody = staged.run("rollout", "status", "m", "--nodes", "--where", "site=jkf").stdout

    assert row["classes"] == {
        "serving": 0, "moving": 2, "waiting": 4, "refused": 0, "rolled_back": 0, "unreachable": 0, "expired": 0
    }  # fmt: skip
    assert [(one["stage"], one["where"], one["approve"]) for one in row["stages"]] == [
        ("canary", "site=lab", None), ("50 %", "", True), ("100 %", "", None)
    ]  # fmt: skip
    assert (row["activate"], row["fetch"], row["attempt"]) == ("22:00-05:00", None, 0)
    assert "m: 6 nodes: 2 moving, 4 waiting" in table
    assert "stages canary (site=lab), 50 %, needs approval, 100 %; activate 22:00-05:00; deadline 20" in table
    assert {(one["gate"], one["outcome"]) for one in gates} >= {("failures", "holds"), ("receipts", "waits"), ("approval", "waits")}
    assert {one["node"]: one["class"] for one in nodes} == {f"n{number}": "moving" if number < 2 else "waiting" for number in range(6)}
    assert {one["sentence"] for one in waiting} == {"waits for a later stage, and stage 2 (50 %) needs approval"}
    assert [one["node"] for one in lab] == [one["node"] for one in moving] == ["n0", "n1"]
    assert "No node matches site=jkf. 4 match site=jfk." in nobody


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--nodes",), Exit.USAGE, "--nodes needs a model"),
        (("--where", "model=delay"), Exit.USAGE, "--where selects nodes here, not rollouts, and needs a model"),
        (("m", "--nodes", "--gates"), Exit.USAGE, "not both"),
        (("m", "--where", "state=wating"), Exit.REFUSED, "there is no class wating; classes are serving"),
        (("m", "--where", "siet=lab"), Exit.REFUSED, "No node has a label siet. Did you mean site?"),
    ],
)
def test_a_wrong_question_about_nodes_is_refused(staged: Made, more: tuple[str, ...], code: Exit, words: str) -> None:
    done = staged.run("rollout", "status", *more)

    assert done.returncode == code, done.stdout
    assert words in " ".join(done.stderr.split())


def test_nodes_where_refuses_a_label_that_no_node_has(made: Made) -> None:
    done = made.run("nodes", "--where", "siet=lab")

    assert done.returncode == Exit.REFUSED
    assert "No node has a label siet. Did you mean site?" in " ".join(done.stderr.split())


def test_times_that_never_come_before_the_deadline_are_refused_by_plan_and_start(made: Made) -> None:
    day = (datetime.now(UTC) + timedelta(days=3)).strftime("%a")
    times = ("--fetch", f"{day} 10:00-11:00", "--activate", f"{day} 08:00-09:00")

    for command in (("plan", "m@1.1.0"), ("rollout", "start", "m@1.1.0")):
        alone = made.run(*command, *times, "--deadline", "24h")
        in_turn = made.run(*command, *times, "--deadline", "5d")
        assert (alone.returncode, "does not open before the deadline" in alone.stderr) == (Exit.REFUSED, True)
        assert (in_turn.returncode, "lets a node first fetch" in in_turn.stderr) == (Exit.REFUSED, True)
    assert made.run("plan", "m@1.1.0", *times, "--deadline", "14d").returncode == 0
