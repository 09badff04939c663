"""What operators read of a release whose nodes gather their baselines: that, what was counted, and from where drift can be judged."""

import json
from pathlib import Path

import pytest

from hub.database.rows import NodeRow
from hub.database.store import Store
from schemas import codec
from schemas.state import Profile, State
from tests.databases import url_of
from tests.hub.cli.fleets import run
from tests.hub.drifted import Days

APART = "2 with baselines, 2 without, 3 of a kind needed"
AT = ("--at", "2026-03-04")


@pytest.fixture(scope="module")
def gathering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of nodes without baselines of their own, unlike the reference."""
    days = Days(tmp_path_factory.mktemp("gathering") / "fleet")
    days.pass_days(days.publish("1.0.0", calibration_rows=1024), range(2), shift=lambda day: 1.0)
    return days.directory


def test_a_release_that_calibrates_says_so_and_raises_no_alarm(gathering: Path) -> None:
    done = run("drift", "--json", fleet=gathering)

    (row,) = json.loads(done.stdout)
    assert done.returncode == 0
    assert (row["state"], row["alarm"], row["signals"], row["newest"]) == ("calibrates", False, [], "2026-03-03T00:00:00Z")
    assert "calibrates" in run("drift", fleet=gathering).stdout


def test_what_is_counted_meanwhile_can_be_looked_at(gathering: Path) -> None:
    done = run("drift", "explain", "delay", "--json", fleet=gathering)

    shown = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (shown["alarm"], shown["own_baselines"], shown["signals"][0]["name"]) == (False, False, "delay")
    assert shown["signals"][0]["size"] == pytest.approx(1.0, abs=0.2)
    assert shown["signals"][0]["p_adjusted"] < 0.01
    assert [one["alarm"] for one in shown["signals"][0]["history"]] == [False, False]


def test_an_uncalibrated_interval_is_shown_on_request_beside_judged_ones(tmp_path: Path) -> None:
    days = Days(tmp_path / "fleet")
    manifest = days.publish("1.0.0", calibration_rows=1024)
    days.hear(manifest, 0, calibrated=True)
    days.settle()
    days.pass_days(manifest, range(1, 3), shift=lambda day: 1.0)

    newest, asked, at_none = (
        run("drift", "explain", "delay", "--json", *more, fleet=days.directory) for more in ((), AT, ("--at", "2026-04-01"))
    )

    assert asked.returncode == 0, asked.stderr
    shown = [json.loads(done.stdout) for done in (newest, asked)]
    assert [(one["since"], one["own_baselines"]) for one in shown] == [("2026-03-02T00:00:00Z", True), ("2026-03-04T00:00:00Z", False)]
    assert "the newest began at 2026-03-04" in at_none.stderr


def test_a_cohort_of_which_too_few_nodes_are_of_a_kind_says_so_and_is_not_quiet(tmp_path: Path) -> None:
    days = Days(tmp_path / "fleet")
    mixed, settled = days.publish("1.0.0", calibration_rows=1024), days.publish("1.1.0", calibration_rows=1024)
    days.hear(settled, 0, calibrated=True, cohort="bos")
    days.settle()
    for manifest, cohort in ((mixed, "nyc"), (settled, "bos")):
        days.hear(manifest, 1, nodes=2, calibrated=True, cohort=cohort)
        days.hear(manifest, 1, nodes=2, cohort=cohort)
    days.hear(mixed, 1, nodes=2, cohort="sfo")  # a cohort that is too small whatever its nodes have
    days.settle()

    rows = json.loads(run("drift", "--json", fleet=days.directory).stdout)
    read = " ".join(run("drift", fleet=days.directory).stdout.split())

    assert [(row["cohort"], row["state"], row["reason"]) for row in rows] == [("bos", "too few", APART), ("nyc", "too few", APART)]
    assert "too few: 2 with" in read


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [(2, "drift cannot be judged: 2 nodes in cohort nyc, 3 needed"), (12, "drift can be judged from stages of about 25 % on")],
)
def test_a_plan_says_from_which_stage_on_drift_can_be_judged(gathering: Path, nodes: int, expected: str) -> None:
    store = Store(url_of(gathering / "hub.sqlite"))
    for number in range(nodes):
        profile = Profile(arch="x86_64", cores=1, memory_bytes=2**30)
        state = State(node=f"n{number}", session=1, status="online", at=1, public_key=b"k", cohort="nyc", profile=profile)
        store.upsert_node(NodeRow(state.node, 1, "online", 1, codec.encode(state), b"", "nyc"))
    store.close()

    planned = json.loads(run("plan", "delay@1.0.0", "--json", fleet=gathering).stdout)
    read = run("plan", "delay@1.0.0", fleet=gathering).stdout

    assert (planned["drift"]["nodes_min"], planned["drift"]["text"]) == (3, expected)
    assert f"D{expected[1:]}." in read
