"""A window is charged before it leaves, leaves once, and not at all when the day's budget is spent."""

from pathlib import Path

import numpy as np
import pytest

from hub.core.baseline import SignalSpec, build_baseline
from hub.core.noise import sigma2_for
from node.agent.telemetry import Telemetry
from node.core.privacy import day_of
from node.serving import Observation
from node.store import NodeStore
from schemas import codec
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.signals import Privacy
from schemas.window import Window

DIGEST = sha256(b"release")


def manifest() -> Manifest:
    block = Block(sha256(b"x"), 1)
    numerator, denominator = sigma2_for(1.0, 1e-6, 1)
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
    return Manifest(
        model="m",
        version="1.0.0",
        created=1,
        inputs=(tensor,),
        outputs=(tensor,),
        variants=(Variant(name="v", files=(File(path="m.onnx", bytes=1, digest=block.digest, blocks=(block,)),)),),
        baseline=build_baseline([(SignalSpec("x", "numeric", "input", "x"), np.random.default_rng(0).normal(size=200))], None),
        privacy=Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=60),
    )


class Site:
    def __init__(self, folder: Path, *, rho_day_max: float = 0.7, waiting_max: int = 1000, waiting_bytes_max: int = 2**20) -> None:
        self.now = 1_000_000_000.0
        self.store = NodeStore(folder / "node.sqlite")
        self.telemetry = Telemetry(
            store=self.store,
            topic=lambda model, cohort: f"{model}/{cohort}",
            cohort="lab",
            rho_day_max=rho_day_max,
            grace_seconds=0,
            idle_seconds=10,
            witness=folder / "elsewhere" / "ledger.witness",
            waiting_max=waiting_max,
            waiting_bytes_max=waiting_bytes_max,
            clock=lambda: self.now,
        )
        self.telemetry.watch(DIGEST, manifest())

    def see(self, rows: int, at: float | None = None) -> None:
        values = np.zeros((rows, 1), np.float32)
        self.telemetry.observe(Observation("m", DIGEST, {"x": values}, {}, rows, at))

    def windows(self) -> list[Window]:
        return [codec.decode(Window, one.payload) for one in self.store.waiting(100) if one.kind == "window"]


def test_a_closed_window_is_charged_and_waits_in_the_outbox(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(50, at=30.0)
    site.see(50, at=100.0)

    site.telemetry.tick(site.now)

    assert [window.start for window in site.windows()] == [0]
    assert site.store.spent([0]) > 0
    assert site.windows()[0].release == DIGEST[:8]


def test_rows_without_a_time_are_of_now(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(5)
    site.telemetry.tick(site.now)

    site.telemetry.tick(site.now + 200)

    assert [window.start for window in site.windows()] == [int(site.now // 60 * 60)]
    assert site.telemetry.budget(site.now).rho_spent == site.store.spent([day_of(int(site.now))])


def test_past_the_daily_budget_nothing_leaves_and_the_node_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=0.06)  # one window of one signal costs about 0.028
    for minute in range(4):
        site.see(5, at=60.0 * minute + 1)
    site.see(5, at=10_000.0)

    site.telemetry.tick(site.now)

    budget = site.telemetry.budget(0.0)
    assert len(site.windows()) == 2
    assert budget.windows_withheld == 2
    assert budget.rho_spent <= 0.06


def test_an_interval_is_never_released_twice(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(5, at=1.0)
    site.see(5, at=100.0)
    site.telemetry.tick(site.now)
    sent = site.store.waiting(10)

    site.see(5, at=2.0)  # late
    site.telemetry.tick(site.now)

    assert site.store.waiting(10) == sent


def test_a_death_loses_no_more_than_what_came_since_the_checkpoint(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.see(1000, at=1.0)
    site.telemetry.checkpoint()
    site.store.close()

    again = Site(tmp_path)
    again.see(1, at=100.0)
    again.telemetry.tick(again.now)

    assert again.windows()[0].rows == pytest.approx(1000, abs=100)


def test_a_release_without_signals_sends_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    bare = manifest().model_copy(update={"baseline": None, "privacy": None})

    site.telemetry.watch(sha256(b"other"), bare)
    site.telemetry.observe(Observation("m", sha256(b"other"), {}, {}, 1, 1.0))
    site.telemetry.tick(site.now)

    assert site.windows() == []
