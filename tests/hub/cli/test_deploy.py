"""`fleetcast deploy` and rollouts by deployment, with a real hub that knows nodes by their reports."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.cli.errors import Exit
from hub.database.rows import NodeRow
from hub.database.store import Store
from schemas import codec
from schemas.state import Profile, State
from tests.databases import url_of
from tests.hub.cli.fleets import Done, Made, copied, make
from tests.hub.cli.test_rollout import Hub
from tests.hub.hubs import until


@pytest.fixture(scope="module")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet with three releases and six nodes, of which nothing was rolled out."""
    made = make(tmp_path_factory.mktemp("made"), "m")
    for number in range(3):
        made.publish_as(f"1.{number}.0", made.folder / "good.onnx")
    store = Store(url_of(made.fleet / "hub.sqlite"))
    for number in range(6):
        site = "jfk" if number < 2 else "lga"
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"site": site})
        state = State(node=f"n{number}", session=1, status="online", at=int(time.time()), profile=profile)
        store.upsert_node(NodeRow(state.node, 1, "online", state.at, codec.encode(state), b"", "default"))
    store.close()
    return made


@pytest.fixture
def made(unused: Made, tmp_path: Path) -> Made:
    """A copy of it."""
    return copied(unused, tmp_path / "made")


@pytest.fixture
def hub(made: Made) -> Iterator[Hub]:
    with Hub(made) as running:
        yield running


def ok(done: Done) -> Done:
    assert done.returncode == 0, done.stderr
    return done


def listed(made: Made, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok(made.run("deploy", "list", *more, "--json")).stdout)
    return found


def refused(done: Done) -> str:
    assert done.returncode == Exit.REFUSED, done.stdout
    return done.stderr


def test_deployments_are_set_listed_rolled_out_and_removed(made: Made, hub: Hub) -> None:
    ok(made.run("deploy", "set", "m", "default", "--release", "1.0.0"))
    by_site = ok(made.run("rollout", "start", "m@1.1.0", "--where", "site=jfk"))
    hold = ok(made.run("deploy", "set", "m", "hold", "--where", "node=n3", "--priority", "100", "--release", "1.0.0"))
    newest = ok(made.run("rollout", "start", "m@1.2.0", "--stages", "50,100", "--json"))
    rows = listed(made, "m")
    status = json.loads(ok(made.run("rollout", "status", "m", "--json")).stdout)

    assert [(row["deployment"], row["where"], row["release"], row["matched"], row["decided"]) for row in rows] == [
        ("hold", "node=n3", "1.0.0", 1, 1),
        ("site-jfk", "site=jfk", "1.1.0", 2, 2),
        ("default", "", "1.2.0", 6, 3),
    ]
    assert "rollout of m 1.1.0 (deployment site-jfk) has begun" in by_site.stdout
    assert "note: deployment hold decides for n3 instead of default" in hold.stderr
    assert "note: 2 of 6 nodes stay on 1.0.0 or 1.1.0, because deployment site-jfk decides for them" in newest.stderr
    assert [(row["deployment"], row["version"], row["state"]) for row in status] == [
        ("hold", "1.0.0", "done"),
        ("site-jfk", "1.1.0", "running"),
        ("default", "1.2.0", "running"),
    ]
    removed = ok(made.run("deploy", "remove", "m", "hold"))
    assert "note: 1 node then follows deployment default, which runs 1.0.0 or 1.2.0" in removed.stderr
    assert [row["deployment"] for row in listed(made)] == ["site-jfk", "default"]


def test_each_command_means_one_deployment(made: Made, hub: Hub) -> None:
    for site in ("jfk", "lga"):
        ok(made.run("rollout", "start", "m@1.0.0", "--where", f"site={site}", "--stages", "50,100", "--approve", "100"))

    assert "several deployments (site-jfk, site-lga): choose one with --deployment" in refused(made.run("rollout", "halt", "m"))
    for verb in ("approve", "halt", "resume", "back"):
        ok(made.run("rollout", verb, "m", "--deployment", "site-lga"))
    assert "no node has failed" in refused(made.run("rollout", "retry", "m", "--deployment", "site-jfk"))
    empty = made.run("rollout", "start", "m@1.0.0", "--where", "")
    assert (empty.returncode, "it is empty, such as from a variable that is not set" in empty.stderr) == (Exit.USAGE, True)
    states = {row["deployment"]: row["state"] for row in listed(made)}
    assert states == {"site-jfk": "running", "site-lga": "rolled_back"}


def test_a_rollout_that_went_back_is_listed_with_what_its_nodes_run_now(made: Made, hub: Hub) -> None:
    ok(made.run("deploy", "set", "m", "default", "--release", "1.0.0"))
    ok(made.run("rollout", "start", "m@1.1.0"))
    until("its gates", lambda: "receipts" in ok(made.run("rollout", "status", "m", "--gates")).stdout)
    ok(made.run("rollout", "back", "m"))

    (row,) = listed(made, "m")
    gates = ok(made.run("rollout", "status", "m", "--gates")).stdout
    table = ok(made.run("deploy", "list", "m")).stdout

    assert (row["release"], row["runs"], row["state"]) == ("1.1.0", "1.0.0", "rolled_back")
    assert "1.0.0" in table
    assert "rolled_back from 1.1.0" in table
    assert "serve it" not in gates
    assert "1.1.0 went back to 1.0.0" in gates


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("rollout", "start", "m@1.0.0", "--where", "site=jkf"), "2 match site=jfk"),
        (("rollout", "start", "m@1.0.0", "--where", "siet=jfk"), "Did you mean site?"),
        (("rollout", "start", "m@1.0.0", "--where", "site jfk"), "is no requirement, such as site=jfk"),
        (
            ("rollout", "start", "m@1.0.0", "--where", "node in (" + ",".join(f"n{number}" for number in range(10_000)) + ")"),
            "give its nodes",
        ),
        (("rollout", "start", "m@1.0.0", "--deployment", "hold"), "give --where SELECTOR to make it"),
        (("rollout", "start", "m@1.0.0", "--deployment", "Hold"), "deployment: "),
        (("rollout", "start", "m@1.0.0", "--approve", "50"), "among those after the first"),
        (("deploy", "set", "m", "hold", "--where", "node=n1"), "give the one to run, with --release"),
        (("deploy", "set", "m", "hold", "--where", "node=n9", "--release", "1.0.0"), "--allow-empty"),
        (("deploy", "set", "m", "default", "--where", "node=n1", "--release", "1.0.0"), "matches every node"),
        (("deploy", "set", "m", "hold", "--where", "node=n1", "--release", "9.9.9"), "there is no release m@9.9.9"),
        (("deploy", "set", "x", "hold", "--where", "node=n1", "--release", "1.0.0"), "there is no model 'x'"),
        (("deploy", "remove", "m", "hold"), "there is no deployment hold of m; there are none"),
        (("plan", "m@1.0.0", "--deployment", "hold"), "give --where SELECTOR to make it"),
        (("plan", "m@1.0.0", "--where", "site=jfk=b"), "is no requirement"),
    ],
)
def test_bad_selectors_and_deployments_are_refused_at_once_with_the_mend(unused: Made, command: tuple[str, ...], words: str) -> None:
    assert words in refused(unused.run(*command))


def test_two_deployments_of_one_priority_that_overlap_are_told(made: Made, hub: Hub) -> None:
    ok(made.run("deploy", "set", "m", "b", "--where", "site=jfk", "--release", "1.0.0"))

    tied = ok(made.run("deploy", "set", "m", "a", "--where", "node in (n1,n2)", "--release", "1.1.0"))
    planned = ok(made.run("plan", "m@1.2.0", "--where", "node=n0"))

    assert "note: deployments a and b have one priority, 10, and could match the same nodes: a decides then" in tied.stderr
    assert "Deployments b and node-n0 have one priority, 10" in planned.stdout
    assert [row["deployment"] for row in listed(made)] == ["a", "b"]


def test_a_plan_counts_only_nodes_for_which_the_deployment_would_decide(made: Made, hub: Hub) -> None:
    ok(made.run("deploy", "set", "m", "default", "--release", "1.0.0"))
    ok(made.run("deploy", "set", "m", "hold", "--where", "node=n1", "--priority", "100"))

    by_site = json.loads(ok(made.run("plan", "m@1.1.0", "--where", "site=jfk", "--json")).stdout)
    to_all = json.loads(ok(made.run("plan", "m@1.1.0", "--json")).stdout)
    said = ok(made.run("plan", "m@1.1.0", "--deployment", "default")).stdout
    nobody = ok(made.run("plan", "m@1.1.0", "--where", "site=jkf")).stdout

    assert (by_site["deployment"], [row["node"] for row in by_site["nodes"]]) == ("site-jfk", ["n0"])
    assert by_site["changes"] == [{"from": "default", "nodes": ["n0"]}]
    assert [row["node"] for row in to_all["nodes"]] == ["n0", "n2", "n3", "n4", "n5"]
    assert to_all["changes"] == []
    assert "1 of 6 nodes stays on 1.0.0, because deployment hold decides for it" in said
    assert "None of the 6 known nodes matches site=jkf. 2 match site=jfk." in nobody
