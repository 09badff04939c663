"""A fleet's folder in which days have passed: real windows of made-up rows, settled by the hub's own code, for what people look at."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hub.core.drift.accuracy import stream_of
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from hub.database.store import Store, WindowRow
from hub.publish.block_store import BlockStore
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_job import Settling
from schemas import codec
from schemas.accuracy import Accuracy
from schemas.analytics_messages import Alert, Drift, MergedWindow
from schemas.manifest import Manifest, Privacy
from schemas.names import sha256
from tests.databases import settings_of, url_of
from tests.hub.hubs import Fleet

DAY = 86_400
BEGIN = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())
ROWS, NODES = 300, 8
CARRIERS = ["UA", "AA", "DL", "B6"]
SHARES = (0.4, 0.3, 0.2, 0.1)
Shift = Callable[[int], float]  # of the delay, in standard deviations, on day n


@dataclass(slots=True)
class Days:
    """A hub's folder, its database and a clock of ours; `settle` is what the running hub does."""

    directory: Path
    trims: bool = False
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    now: float = float(BEGIN)
    sent: int = 0
    said: list[MergedWindow | Drift | Alert] = field(default_factory=list)
    fleet: Fleet = field(init=False)
    store: Store = field(init=False)
    settling: Settling = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.directory)
        self.store = Store(url_of(self.directory / "hub.sqlite"), clock=lambda: self.now)
        self.store.create()
        self.start()

    def start(self, *, cohort_nodes_min: int = 3) -> None:
        """The hub that settles, over the same database."""
        where = settings_of(self.directory / "hub.sqlite")
        (self.directory / "fleet.toml").write_text(f'fleet = "main"\ncohort_nodes_min = {cohort_nodes_min}\n{where}')
        self.settling = Settling(
            store=self.store,
            notes=Notes(self.store, publish=self.said.append, clock=lambda: self.now),
            releases=Releases(self.fleet.repository, BlockStore(self.directory / "blocks")),
            publish=lambda document, retain=False: self.said.append(document),
            settled=lambda *_: None,
            cohort_nodes_min=cohort_nodes_min,
            settle_seconds=0,
            trim_outlying=self.trims,
            alpha=0.01,
            run_length=1000.0,
            clock=lambda: self.now,
        )

    def publish(self, version: str, *, accuracy: Accuracy | None = None, calibration_rows: int | None = None) -> Manifest:
        """A release that watches a delay, an hour and a carrier, with thirty days of reference."""
        rng, rows = np.random.default_rng(0), 30 * 200
        values = [
            (SignalSpec("delay", "numeric", "input", "x", 0), rng.normal(0, 1, rows)),
            (SignalSpec("hour", "numeric", "input", "x", 1), rng.uniform(0, 24, rows)),
            (SignalSpec("carrier", "categorical", "input", "c", 0), rng.choice(CARRIERS, rows, p=[0.4, 0.3, 0.2, 0.1])),
        ]
        numerator, denominator = sigma2_for(4.0, 1e-6, len(values))
        plain = self.fleet.publish(f"{version}-plain")
        manifest = plain.model_copy(
            update={
                "version": version,
                "accuracy": accuracy,
                "baseline": build_baseline(values, np.repeat(np.arange(30), 200), calibration_rows=calibration_rows),
                "privacy": Privacy(epsilon=4.0, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=DAY),
            }
        )
        self.fleet.repository.add_release("delay", version, codec.encode(manifest), team=self.fleet.team, now=datetime.now(UTC))
        return manifest

    def hear(
        self,
        manifest: Manifest,
        day: int,
        *,
        shift: float = 0.0,
        nodes: int = NODES,
        cohort: str = "nyc",
        rows: int = ROWS,
        calibrated: bool = False,
        carriers: Sequence[float] = SHARES,
    ) -> None:
        """Windows of a day come; `calibrated`: of nodes with baselines of their own, of which no row differs."""
        assert manifest.baseline is not None
        assert manifest.privacy is not None
        delay, hour, carrier = manifest.baseline.signals
        for _ in range(nodes):
            parts = [
                np.searchsorted(delay.edges, self.rng.normal(shift, 1, rows), side="right"),
                np.searchsorted(hour.edges, self.rng.uniform(0, 24, rows), side="right"),
                np.array(
                    [carrier.categories.index(one) for one in self.rng.choice(CARRIERS, rows, p=carriers)],
                ),
            ]
            counts = np.concatenate(
                [np.bincount(bins, minlength=one.bins) for bins, one in zip(parts, (delay, hour, carrier), strict=True)]
            )
            noise = np.round(self.rng.normal(0, math.sqrt(manifest.privacy.sigma2), len(counts))).astype(int)
            self.sent += 1
            self.store.add_windows(
                [
                    WindowRow(
                        self.sent.to_bytes(16, "big"),
                        release=sha256(codec.encode(manifest)),
                        model="delay",
                        cohort=cohort,
                        start=BEGIN + day * DAY,
                        seconds=DAY,
                        counts=[int(one) for one in (noise if calibrated else counts + noise)],
                        rows=rows,
                        calibrated=calibrated,
                        reference_rows=rows / 4 if calibrated else 0.0,
                        group=self.sent,
                    )
                ]
            )

    def label(self, manifest: Manifest, day: int, *, right: int, wrong: int, nodes: int = NODES, cohort: str = "nyc") -> None:
        """Windows of a day's right and wrong answers come, with their noise."""
        assert manifest.accuracy is not None
        for _ in range(nodes):
            noise = np.round(self.rng.normal(0, math.sqrt(manifest.accuracy.privacy.sigma2), 3)).astype(int)
            self.sent += 1
            self.store.add_windows(
                [
                    WindowRow(
                        self.sent.to_bytes(16, "big"),
                        release=stream_of(sha256(codec.encode(manifest))),
                        model="delay",
                        cohort=cohort,
                        start=BEGIN + day * DAY,
                        seconds=DAY,
                        counts=[int(one) for one in np.array([wrong, right, 0]) + noise],
                    )
                ]
            )

    def settle(self) -> None:
        """A day passes."""
        self.now += DAY
        self.settling.tick()

    def pass_days(self, manifest: Manifest, days: range, *, shift: Shift = lambda day: 0.0, cohort: str = "nyc") -> None:
        """Days of one release in one cohort."""
        for day in days:
            self.hear(manifest, day, shift=shift(day), cohort=cohort)
            self.settle()
