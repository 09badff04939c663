"""Rollouts over simulated fleets: the model is what the cores are, the same seed is the same, and what never ends is said."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from hub.cli.commands import command
from simulation.core.calibration import Pace
from simulation.core.outcome import Outcome
from simulation.core.plan import Plan
from simulation.core.run import calibrated, run
from simulation.core.summary import outcome_of
from simulation.fleet_file import FleetFile, plan_of, sizes_of
from simulation.svg import drawn
from simulation.text import duration, page
from tests.hub.cli import fleets

FLEET = """\
nodes = 300
days_max = 20
[release]
full_bytes = 900000
delta_bytes = 500000
[rollout]
stages = "10,100"
soak_seconds = 7200
receipts_min = 0.5
silent_seconds = 300
fails_here = 0
[[groups]]
name = "cameras"
share = 40
link = "lte-m"
on = "13:00-18:00"
on_shift_minutes = 30
[[groups]]
name = "meters"
share = 40
link = "nb-iot"
budget_bytes_day = 320000
[[groups]]
name = "gates"
share = 20
link = "wifi"
""".replace("fails_here = 0\n", "")


BARE = [Pace.bare()] * 3
MINI = FLEET[: FLEET.index("[[groups]]")].replace("7200", "60") + '[[groups]]\nname = "gates"\nshare = 100\nlink = "wifi"\n'


def planned(text: str, *, nodes: int | None = None) -> Plan:
    file = FleetFile("fleet.toml", text)
    table = file.table()
    return plan_of(file, table, sizes_of(table.release), nodes=nodes)


def simulated(text: str, *, nodes: int | None = None, sample: int = 60, paces: list[Pace] | None = None) -> Outcome:
    return outcome_of(run(planned(text, nodes=nodes), seed=1, sample=sample, paces=paces))


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return simulated(FLEET)


def test_the_model_is_within_five_percent_of_the_cores_on_a_whole_fleet() -> None:
    """The same fleet twice: all of it by the real cores, and all by the model, calibrated on a sample that is another fleet's."""
    plan = planned(FLEET)
    paces = calibrated(plan, seed=99, sample=150)

    by_cores = outcome_of(run(plan, seed=1, sample=plan.nodes, paces=paces))
    by_model = outcome_of(run(plan, seed=1, sample=0, paces=paces))

    assert (by_cores.sampled, by_model.sampled) == (300, 0)
    for real, model in zip(by_cores.milestones, by_model.milestones, strict=True):
        assert real.seconds is not None
        assert model.seconds == pytest.approx(real.seconds, rel=0.05), f"{real.percent} %"
    for real_link, model_link in zip(by_cores.links, by_model.links, strict=True):
        assert model_link.bytes == pytest.approx(real_link.bytes, rel=0.05), real_link.link
    assert by_model.ended_seconds == pytest.approx(by_cores.ended_seconds, rel=0.05)
    assert by_cores.agreement is not None
    assert by_cores.agreement.nodes == 300


def test_every_node_arrives_by_the_hubs_stages_within_its_budget_and_hours(outcome: Outcome) -> None:
    assert outcome.state == "done"
    assert outcome.missing == ()
    assert [one.percent for one in outcome.steps if one.percent] == sorted(one.percent for one in outcome.steps)
    times = [one.seconds for one in outcome.milestones if one.seconds is not None]
    assert times == sorted(times)
    assert len(times) == 4
    groups = {one.group: one for one in outcome.groups}
    meters, cameras = dict(groups["meters"].waited_hours), dict(groups["cameras"].waited_hours)
    assert meters["budget"] > 100, "500,000 bytes take two days of 320,000"
    assert cameras["schedule"] > 50
    assert dict(groups["gates"].waited_hours)["schedule"] == 0


def test_the_bytes_are_those_that_nodes_need_and_little_more(outcome: Outcome) -> None:
    needed = {"lte-m": 120 * 500_000, "nb-iot": 120 * 500_000, "wifi": 60 * 500_000}

    for link in outcome.links:
        assert needed[link.link] <= link.bytes <= 1.1 * needed[link.link]
        assert link.wire_bytes > link.bytes


def test_the_same_seed_says_the_same_and_another_seed_does_not() -> None:
    plan = planned(MINI, nodes=40)

    first, second, other = (outcome_of(run(plan, seed=seed, sample=6, paces=BARE[:1])) for seed in (1, 1, 2))

    assert first == second
    assert first != other


def test_failures_halt_the_rollout_and_its_picture_says_so() -> None:
    found = simulated(FLEET + "fails = 1\n", sample=20, paces=BARE)

    assert found.state == "halted"
    assert found.ended_seconds is not None
    reasons = {(one.group, one.reason.split(";")[0].split(",")[0]) for one in found.missing}
    assert ("gates", "the release fails there") in reasons
    assert ("meters", "no stage has reached it") in reasons
    assert "it halts after" in " ".join(page(found))


def test_a_failed_node_that_retries_arrives_where_a_retry_mends() -> None:
    text = FLEET.replace("silent_seconds", "retries = 9\nretry_seconds = 60\nfailures_max = 0.9\nsilent_seconds")

    found = simulated(text + "fails = 0.5\nmends = 0.9\n", sample=20, paces=BARE)

    assert found.missing == ()
    assert any("begins attempt" in one.text for one in found.steps)


SLOW = '[links.slow]\nlike = "nb-iot"\nrate_kbit_s = 0.001\n'


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "full_bytes = 900000\ndelta_bytes = 500000",
            "full_bytes = 9000000\ndelta_bytes = 5000000",
            "its budget is too small: it needs about 18 days, 10 are simulated",
        ),
        ('link = "nb-iot"', 'link = "slow"', "the link is too slow"),
        ('link = "nb-iot"', 'link = "nb-iot"\nserves = "other"', "takes no whole blocks"),
        (
            'link = "nb-iot"',
            'link = "nb-iot"\non = "08:00-12:00"\nhours = "20:00-22:00"',
            "it is never on (08:00-12:00) while it may fetch",
        ),
        ("silent_seconds", "node_bytes_max = 100\nsilent_seconds", "the rollout allows a node 100"),
        ("silent_seconds", 'deadline = "12h"\nsilent_seconds', "deadline passed"),
    ],
)
def test_what_never_arrives_is_said_with_its_reason_and_not_waited_for(before: str, after: str, said: str) -> None:
    text = FLEET.replace("days_max = 20", "days_max = 10")
    text = text.replace("[[groups]]", SLOW + "[[groups]]", 1).replace(before, after)

    found = simulated(text, nodes=60, sample=9, paces=BARE)

    assert any(said in one.reason for one in found.missing), found.missing
    assert sum(one.nodes for one in found.missing) + sum(one.serving for one in found.groups) == 60


def test_a_page_has_80_columns_and_a_picture_and_the_svg_is_xml(outcome: Outcome) -> None:
    lines = list(page(outcome))

    assert max(map(len, lines)) <= 80
    assert sum("█" in line for line in lines) >= 9
    assert any(line.startswith("Where nodes wait") for line in lines)
    root = ElementTree.fromstring(drawn(outcome))  # noqa: S314  # we have drawn it ourselves
    assert root.tag.endswith("svg")
    assert duration(None) == "never"
    assert duration(90_000) == "1 d 1 h"


def test_the_command_prints_the_same_bytes_for_a_seed_and_draws(tmp_path: Path) -> None:
    runner, file = CliRunner(), tmp_path / "fleet.toml"
    file.write_text(MINI)
    picture = tmp_path / "curve.svg"
    arguments = ["simulate", str(file), "--nodes", "40", "--sample", "10", "--seed", "3", "--json", "--svg", str(picture)]

    first, second = (runner.invoke(command, arguments) for _ in range(2))

    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    found = json.loads(first.stdout)
    assert [one["percent"] for one in found["milestones"]] == [50, 90, 99, 100]
    assert found["nodes"] == 40
    assert picture.read_text().startswith("<svg")
    assert np.isfinite(found["agreement"]["worst"])
    assert "nodes = 10000" in runner.invoke(command, ["simulate", "--example"]).stdout
    assert "--example prints one" in str(runner.invoke(command, ["simulate"]).output)


def test_a_wrong_file_ends_with_3_and_its_line_and_no_file_with_the_example(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(MINI.replace("days_max", "days_most"))

    done = fleets.run("simulate", str(file))

    assert done.returncode == 3
    assert f"{file}, line 2: days_most: unknown key: did you mean 'days_max'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_a_simulation_with_130(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)
    terminal, end = pty.openpty()
    running = subprocess.Popen([fleets.BIN / "fleetcast", "simulate", file], stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    try:
        seen = b""
        while b"calibrating" not in seen:
            seen += os.read(terminal, 4096)
        running.send_signal(signal.SIGINT)

        assert running.wait(timeout=60) == 130
    finally:
        running.kill()
        running.wait()
        os.close(terminal)
