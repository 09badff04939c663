"""What is shown of an interval is what was tested of it: a lie that `trim_outlying` kept from the test is in no picture and no file."""

import json
from pathlib import Path

import pandas as pd
import pytest

from hub.database.drift_queries import Asked, Findings
from schemas.analytics_messages import MergedWindow
from tests.hub.cli.fleets import run
from tests.hub.drifted import BEGIN, Days

HONEST, LIES, LIE_ROWS = 63, 1, 20_000  # windows of a day; the lie spoils the eight windows of its sub-group


def days_of(directory: Path, *, trims: bool) -> Days:
    """A day of sixty-three nodes that are as ever and one that lies with all its weight, and a quiet one after it."""
    days = Days(directory, trims=trims)
    manifest = days.publish("1.0.0")
    days.hear(manifest, 0, nodes=HONEST)
    days.hear(manifest, 0, nodes=LIES, shift=3.0, rows=LIE_ROWS)
    days.settle()
    days.hear(manifest, 1, nodes=HONEST)
    days.settle()
    return days


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return days_of(tmp_path_factory.mktemp("trimmed") / "fleet", trims=True)


def test_explain_shows_what_was_tested_and_says_what_was_left_out(trimmed: Days, tmp_path: Path) -> None:
    at = ["--at", "2026-03-02", "--signal", "delay"]
    shown = json.loads(run("drift", "explain", "delay", *at, "--json", fleet=trimmed.directory).stdout)
    whole = days_of(tmp_path / "fleet", trims=False)
    untrimmed = json.loads(run("drift", "explain", "delay", *at, "--json", fleet=whole.directory).stdout)
    read = run("drift", "explain", "delay", *at, fleet=trimmed.directory).stdout

    tested = trimmed.store.drifts("delay")[-1]
    assert tested.left_out == shown["windows_left_out"] > 0
    assert (tested.windows, tested.windows + tested.left_out) == (shown["windows"], HONEST + LIES)
    assert (untrimmed["windows"], untrimmed["windows_left_out"]) == (HONEST + LIES, 0)
    assert shown["signals"][0]["size"] < untrimmed["signals"][0]["size"]
    assert f"{tested.left_out} windows unlike the others were left out" in " ".join(read.split())


def test_an_export_holds_what_was_published(trimmed: Days, tmp_path: Path) -> None:
    said = json.loads(
        run("export-windows", "--model", "delay", "--out", str(tmp_path / "w.parquet"), "--json", fleet=trimmed.directory).stdout
    )
    published = [one for one in trimmed.said if isinstance(one, MergedWindow)]

    frame = pd.read_parquet(tmp_path / "w.parquet")
    by_start = dict(list(frame.groupby("start")))
    assert said["windows_left_out"] == published[0].left_out
    assert [set(rows.left_out) for rows in by_start.values()] == [{published[0].left_out}, {0}]
    for window, rows in zip(published, by_start.values(), strict=True):
        assert rows["count"].tolist() == [count for signal in window.signals for count in signal.counts]
        assert set(rows.windows) == {window.windows}
    findings = Findings(trimmed.store.database)
    assert len(findings.trimmed(Asked("delay"))) == 1
    assert findings.trimmed(Asked("delay", since=published[1].start)) == frozenset()


def test_an_interval_of_which_too_few_windows_are_left_is_in_no_picture_and_no_file(tmp_path: Path) -> None:
    days = Days(tmp_path / "fleet", trims=True)
    manifest = days.publish("1.0.0")
    days.hear(manifest, 0, nodes=HONEST)
    days.settle()
    days.hear(manifest, 1, nodes=HONEST)
    days.hear(manifest, 1, nodes=LIES, shift=3.0, rows=LIE_ROWS)
    days.start(cohort_nodes_min=HONEST - 2)  # the lie takes the seven others of its sub-group along
    days.settle()
    asked = Asked("delay", windows_min=HONEST - 2)
    findings = Findings(days.store.database)

    said = json.loads(
        run("export-windows", "--model", "delay", "--out", str(tmp_path / "w.parquet"), "--json", fleet=days.directory).stdout
    )

    assert [one.start for one in days.store.drifts("delay")] == [BEGIN]
    assert (said["intervals"], said["first"], said["last"]) == (1, "2026-03-02T00:00:00Z", "2026-03-02T00:00:00Z")
    assert [one.start for one in findings.intervals(asked)] == [BEGIN]
    days.hear(manifest, 1, nodes=HONEST)
    days.settle()
    assert findings.count(asked) == 2  # enough have come since
