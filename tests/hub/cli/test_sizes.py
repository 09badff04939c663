"""One size of a drift, with its interval, in every view: alert, what webhooks and hooks are sent, table, picture, topic."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hub.database.drift_queries import Findings
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_evidence import Evidence
from schemas.analytics_messages import Alert, Drift, SignalDrift
from tests.hub.cli.fleets import run
from tests.hub.drifted import SHARES, Days

QUIET_DAYS, DAYS_MAX = 6, 40
MOVED = (0.25, 0.45, 0.2, 0.1)  # fifteen of a hundred flights are another carrier's


def until_an_alarm(directory: Path, *, shift: float = 0.0, carriers: Sequence[float] = SHARES, nodes: int, rows: int) -> tuple[Days, Alert]:
    """Days without drift and then with one, until it is found."""
    days = Days(directory / "fleet")
    manifest = days.publish("1.0.0")
    for day in range(DAYS_MAX):
        late = day >= QUIET_DAYS
        days.hear(manifest, day, shift=shift if late else 0.0, carriers=carriers if late else SHARES, nodes=nodes, rows=rows)
        days.settle()
        alerts = [one for one in days.said if isinstance(one, Alert)]
        if alerts:
            assert late
            return days, alerts[0]
    raise AssertionError("no alarm")


def said_of(signal: SignalDrift, alarm_kind: str | None) -> tuple[float | None, ...]:
    """Size, low, high as a reader of the topic takes them."""
    if alarm_kind == "interval":
        return signal.size, signal.size_low, signal.size_high
    return signal.size_since, signal.size_since_low, signal.size_since_high


CASES: dict[str, tuple[dict[str, Any], str, float, str]] = {
    "a shift of one deviation": ({"shift": 1.0, "nodes": 8, "rows": 300}, "delay", 1.0, "sd"),
    "a small shift, found over days": ({"shift": -0.18, "nodes": 8, "rows": 300}, "delay", 0.18, "sd"),
    "another mix of carriers": ({"carriers": MOVED, "nodes": 6, "rows": 100}, "carrier", 0.15, "share"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_view_has_the_same_size_and_the_truth_is_in_its_interval(tmp_path: Path, case: str) -> None:
    how, name, truth, unit = CASES[case]
    days, alert = until_an_alarm(tmp_path, **how)

    (signal,) = [one for one in alert.signals if one.name == name]
    expected = said_of(signal, alert.alarm_kind)
    value, low, high = expected
    assert value is not None
    assert low is not None
    assert high is not None
    assert low <= truth <= high
    assert low <= value <= high

    words = f"{value:.2f} sd ({low:.2f} to {high:.2f})"
    if unit == "share":
        words = f"{100 * value:.1f} percentage points ({100 * low:.1f} to {100 * high:.1f})"
    assert words in alert.text

    rounded = [pytest.approx(one, abs=2e-4) for one in expected]
    (row,) = json.loads(run("drift", "--json", fleet=days.directory).stdout)
    (shown,) = [one for one in row["signals"] if one["name"] == name]
    assert [shown[part] for part in ("size", "size_low", "size_high")] == rounded
    assert shown["size_unit"] == unit

    (past,) = json.loads(run("drift", "--since", "2026-03-01", "--json", fleet=days.directory).stdout)
    assert next(one for one in past["signals"] if one["name"] == name)["size"] == rounded[0]

    story = json.loads(run("drift", "explain", "delay", "--json", fleet=days.directory).stdout)
    (drawn,) = [one for one in story["signals"] if one["name"] == name]
    assert [drawn[part] for part in ("size", "size_low", "size_high")] == rounded
    assert (drawn["size_unit"], drawn["direction"]) == (unit, shown["direction"])
    assert words in run("drift", "explain", "delay", fleet=days.directory).stdout

    newest = [one for one in days.said if isinstance(one, Drift)][-1]
    (tested,) = [one for one in newest.signals if one.name == name]
    assert said_of(tested, newest.alarm_kind) == expected

    releases = Releases(days.fleet.repository, BlockStore(days.directory / "blocks"))
    (found,) = Evidence(Findings(days.store.database), releases, cohort_nodes_min=3).of([alert], number="1", fleet="main", now=1).findings
    assert found.drift is not None
    assert [said_of(one, found.drift.alarm_kind) for one in found.drift.signals if one.name == name] == [expected]


def test_quiet_days_of_a_small_fleet_show_about_nothing(tmp_path: Path) -> None:
    days = Days(tmp_path / "fleet")
    manifest = days.publish("1.0.0")
    for day in range(20):
        days.hear(manifest, day, nodes=6, rows=100)
        days.settle()

    story = json.loads(run("drift", "explain", "delay", "--signal", "carrier", "--signal", "delay", "--json", fleet=days.directory).stdout)
    carrier, delay = story["signals"]
    assert {one["size_unit"] for one in carrier["history"]} == {"share"}
    assert max(one["size"] for one in carrier["history"]) <= 0.1
    assert max(abs(one["effect"]) for one in delay["history"]) <= 0.4
    for one in (carrier, delay):
        assert sum(hour["size_low"] == 0.0 for hour in one["history"]) >= 17
