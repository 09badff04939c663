"""Right and wrong answers at the hub: a stream of their own, tested weeks late by the same detector, shown, exported, refused by code."""

import json
import math
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
from click.testing import CliRunner
from sqlalchemy import text

from hub.cli.drift import drift as drift_command
from hub.cli.export_windows import export_windows
from hub.core.drift import accuracy as labels
from hub.core.publish.noise import sigma2_for
from hub.database.drift_queries import Findings
from hub.database.store import Store, WindowRow
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_evidence import Evidence
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import noised
from schemas import codec, rice
from schemas.accuracy import Accuracy
from schemas.analytics_messages import Drift, MergedWindow
from schemas.errors import Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.signals import Privacy
from schemas.window import Window
from tests import brokers
from tests.databases import only_sqlite, settings_of, url_of
from tests.hub.earlier_databases import as_before_versions
from tests.hub.hubs import START, WINDOW_SECONDS, Device, Fleet, until
from tests.hub.service.telemetry.test_drift_job import Hub

BITS = BitSource(os.urandom)
DAY = 86_400
WEEKS = START // DAY * DAY - 21 * DAY


def accuracy() -> Accuracy:
    """Thirty days of a model that is right nine times in ten, a little more on some days than on others."""
    rng = np.random.default_rng(3)
    days = [(right := int(rng.binomial(400, rng.normal(0.9, 0.01))), 400 - right) for _ in range(30)]
    numerator, denominator = sigma2_for(0.5, 1e-6, 1)
    noise = Privacy(epsilon=0.5, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=DAY)
    return Accuracy(baseline=labels.accuracy_baseline(days), privacy=noise)


def answers_of(manifest: Manifest, right: int, wrong: int, *, start: int = WEEKS) -> Window:
    assert manifest.accuracy is not None
    return noised(
        (wrong, right, 0),
        baseline=manifest.accuracy.baseline,
        privacy=manifest.accuracy.privacy,
        bits=BITS,
        window_id=os.urandom(16),
        release=sha256(codec.encode(manifest))[:8],
        start=start,
        about="accuracy",
    )


# Over a broker


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def test_impossible_accuracy_windows_are_refused_and_good_ones_count_once(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    manifest = fleet.publish("1.0.0", accuracy=accuracy())
    bare = fleet.publish("1.1.0", seed=2)
    good = answers_of(manifest, 90, 10)
    bad: list[dict[str, object]] = [
        {"release": sha256(codec.encode(bare))[:8]},
        {"release": b"nobody's"},
        {"start": WEEKS + 3600},
        {"seconds": WINDOW_SECONDS},
        {"start": 4_000_000_000 // DAY * DAY},
        {"packed": rice.pack(np.zeros(8, np.int64))},
        {"packed": rice.pack(np.array([-900, 900, 0]))},
        {"packed": rice.pack(np.array([-45, -45, 90]))},
        {"rows": 5_000_000},
        {"about": None},
    ]
    codes = {"no_accuracy", "unknown_release", "wrong_shape", "future", "absurd", "overweight"}
    windows = [good.model_copy(update={"id": os.urandom(16), **changes}) for changes in bad]

    with brokers.running("embedded", tmp_path / "broker") as broker, fleet.hub(broker):
        device = Device.connect("n1", broker, fleet)
        for window in [*windows, good, good, answers_of(manifest, 80, 20)]:
            device.client.link.publish(fleet.topics.telemetry("delay", "nyc"), codec.encode(window))

        (row,) = until("the good ones", lambda: (rows := fleet.store.intervals("delay")) and rows[0].windows == 2 and rows)
        until("the bad ones", lambda: {one.code for one in fleet.store.refusals()} == {f"window.{code}" for code in codes})

    assert len(fleet.store.intervals("delay")) == 1
    assert (row.release, row.start, row.seconds) == (labels.stream_of(sha256(codec.encode(manifest))), WEEKS, DAY)
    assert abs(row.counts[1] - 170) < 150


# Over time


class Accurate(Hub):
    """The hub of a release whose sites say what was right, beside windows of its signals."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.manifest = self.fleet.publish("2.0.0", seed=4, accuracy=accuracy())
        self.digest = sha256(codec.encode(self.manifest))

    def label(self, day: int, share: float, *, nodes: int = 10, rows: int = 200, cohort: str = "nyc") -> None:
        """Windows of a day's answers come, with their noise."""
        assert self.manifest.accuracy is not None
        sigma = math.sqrt(self.manifest.accuracy.privacy.sigma2)
        for _ in range(nodes):
            right = int(self.rng.binomial(rows, share))
            counts = np.array([rows - right, right, 0]) + np.round(self.rng.normal(0, sigma, 3)).astype(int)
            self.sent += 1
            self.store.add_windows(
                [
                    WindowRow(
                        self.sent.to_bytes(16, "big"),
                        release=labels.stream_of(self.digest),
                        model="delay",
                        cohort=cohort,
                        start=WEEKS + day * DAY,
                        seconds=DAY,
                        counts=[int(one) for one in counts],
                        rows=rows,
                    )
                ]
            )

    def about(self, kind: type[Drift] | type[MergedWindow]) -> list[Drift | MergedWindow]:
        """What was said of accuracy."""
        return [one for one in self.said if type(one) is kind and one.about == "accuracy"]


def test_labels_weeks_late_find_the_cohort_whose_model_errs_and_no_other(tmp_path: Path) -> None:
    hub = Accurate(tmp_path / "fleet")
    for day in range(12):
        hub.hear(day)  # its signals stay what they were, and are tested in a stream of their own
        hub.label(day, 0.9 if day < 7 else 0.8)
        hub.label(day, 0.9, cohort="bos")
        hub.settle()

    (alert,) = hub.alerts()
    assert (alert.kind, alert.about, alert.cohort, alert.version) == ("drift", "accuracy", "nyc", "2.0.0")
    assert [one.name for one in alert.signals] == ["accuracy"]
    assert "accuracy is lower by" in alert.text
    assert "% of answers right, 90 % in the reference" in alert.text
    assert alert.since == WEEKS + 7 * DAY
    tests = [one for one in hub.about(Drift) if isinstance(one, Drift)]
    assert {one.start for one in tests if one.alarm} <= {WEEKS + day * DAY for day in range(7, 12)}
    assert {one.cohort for one in tests if one.alarm} == {"nyc"}
    assert len(hub.store.drifts("delay", of_signals=True)) == 12
    assert {one.about for one in hub.settling.newest()} == {None}


def test_accuracy_is_shown_explained_exported_and_told_to_hooks(tmp_path: Path) -> None:
    hub = Accurate(tmp_path / "fleet")
    (hub.fleet.directory / "fleet.toml").write_text(
        'fleet = "main"\ncohort_nodes_min = 3\n' + settings_of(hub.fleet.directory / "hub.sqlite")
    )
    for day in range(4):
        hub.hear(day)
        hub.label(day, 0.9 if day < 2 else 0.6)
        hub.settle()
    run, where = CliRunner().invoke, ["--dir", str(hub.fleet.directory), "--json"]

    rows = json.loads(run(drift_command, where).output.split("\n]")[0] + "\n]")
    explained = json.loads(run(drift_command, ["explain", "delay", "--signal", "accuracy", *where]).output)
    plain = json.loads(run(drift_command, ["explain", "delay", "--signal", "hour", *where]).output)
    exported = run(export_windows, ["--model", "delay", "--out", str(tmp_path / "w.parquet"), *where])
    assert exported.exit_code == 0, (exported.output, exported.exception)

    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "w.parquet").to_pylist()
    assert [(row["about"], row["alarm"]) for row in rows] == [("accuracy", True), ("signals", False)]
    assert [one["name"] for one in rows[0]["signals"]] == ["accuracy"]
    assert [one["name"] for one in explained["signals"]] == ["accuracy"]
    assert [one["name"] for one in plain["signals"]] == ["hour"]
    assert exported.exit_code == 0, exported.output
    assert [row["signal"] for row in table if row["about"] == "accuracy"] == ["accuracy"] * (4 * 3)
    releases = Releases(hub.fleet.repository, BlockStore(hub.fleet.directory / "blocks"))
    evidence = Evidence(Findings(hub.store.database), releases, cohort_nodes_min=3)
    (found,) = evidence.of(hub.alerts(), number="1", fleet="main", now=1).findings
    assert found.drift is not None
    assert found.window is not None
    assert (found.drift.about, found.window.about) == ("accuracy", "accuracy")
    assert [one.name for one in found.window.signals] == ["accuracy"]


def test_answers_of_too_few_nodes_are_neither_tested_nor_shown(tmp_path: Path) -> None:
    hub = Accurate(tmp_path / "fleet")
    hub.label(0, 0.2, nodes=2)
    hub.settle()

    assert hub.said == []
    hub.label(0, 0.2, nodes=1)
    hub.settle()
    assert len(hub.about(Drift)) == 1


def test_labels_that_come_after_the_test_are_marked_late_and_counted_in_their_own_day(tmp_path: Path) -> None:
    hub = Accurate(tmp_path / "fleet")
    hub.label(0, 0.9)
    hub.settle()
    hub.label(1, 0.9)
    hub.settle()
    hub.label(0, 0.9, nodes=4)
    hub.settle()

    last = hub.about(MergedWindow)[-1]
    assert isinstance(last, MergedWindow)
    assert (last.start, last.windows, last.late) == (WEEKS, 14, 4)


@only_sqlite
def test_a_database_of_an_earlier_hub_keeps_its_tests(tmp_path: Path) -> None:
    hub = Accurate(tmp_path / "fleet")
    hub.hear(0)
    hub.settle()
    before = hub.store.drifts("delay")
    hub.store.close()
    with sqlite3.connect(hub.fleet.directory / "hub.sqlite") as old:
        as_before_versions(old)
    with hub.store.database.write() as db:
        columns = "model, version, cohort, start, seconds, calibrated, tested_at, alarm, body"
        db.execute(text(f"CREATE TABLE drift_results AS SELECT {columns} FROM drift_tests"))  # noqa: S608
        db.execute(text("DROP TABLE drift_tests"))

    again = Store(url_of(hub.fleet.directory / "hub.sqlite"))
    with pytest.raises(Refused, match="start the hub of this version first"):
        again.open()  # as a command does: the earlier hub may run yet, and goes on by its own table
    with again.database.read() as db:
        assert db.execute(text("SELECT count(*) FROM drift_results")).scalar() == len(before)
    again.create()
    again.open()

    assert again.drifts("delay") == before != []
