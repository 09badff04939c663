"""What a hub's idle turn and a reconnect cost beside a year of history, against the same with a tenth of it: both in one run."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sqlalchemy import insert, text

from bench.figures import Figure, median
from hub.database import tables
from hub.database.store import Store
from hub.publish.block_store import BlockStore
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_job import Settling
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Drift, SignalDrift
from schemas.names import sha256

COHORTS, SIGNALS, BINS, DAYS, TIMES = 20, 20, 9, 9, 10
TURNS, ROUNDS = 100, 5
RELEASE = sha256(b"bench")


def measure() -> list[Figure]:
    """Nine days and ninety of hourly intervals of twenty cohorts; the peer reads every interval, as a hub without the index would."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (_hub(Path(folder) / str(days), days) for days in (DAYS, DAYS * TIMES))
        turns = _ratio(few, many, Settling.tick)
        reconnects = _ratio(few, many, Settling.newest)
        for store, _ in (few, many):
            with store.database.write() as db:
                db.execute(text("DROP INDEX merged_intervals_unsettled"))
        plain = _ratio(few, many, Settling.tick, turns=2)
    history = f"{DAYS * TIMES} days of history over {DAYS}"
    return [
        Figure("hub.idle_turn_ratio", turns, f"CPU of {history}", "<= 1.5", "the same without the index", plain),
        Figure("hub.reconnect_ratio", reconnects, f"CPU of {history}", "<= 1.5", "", None),
    ]


def _ratio(few: tuple[Store, Settling], many: tuple[Store, Settling], work: Callable[[Settling], object], turns: int = TURNS) -> float:
    return median([_seconds(many[1], work, turns) / _seconds(few[1], work, turns) for _ in range(ROUNDS)])


def _seconds(settling: Settling, work: Callable[[Settling], object], turns: int) -> float:
    work(settling)
    began = time.process_time()
    for _ in range(turns):
        work(settling)
    return (time.process_time() - began) / turns


def _hub(directory: Path, days: int) -> tuple[Store, Settling]:
    """A hub that has tested everything."""
    directory.mkdir()
    now = days * 86_400.0
    store = Store(f"sqlite:///{directory / 'hub.sqlite'}", clock=lambda: now)
    store.create()
    counts = np.zeros(SIGNALS * BINS, np.int64).tobytes()
    nothing = SignalDrift(name="signal", p_value=1.0, p_adjusted=1.0, effect=0.0, size=0.0, direction="shape")
    signals = tuple(nothing.model_copy(update={"name": f"signal {number}"}) for number in range(SIGNALS))
    intervals: list[dict[str, object]] = []
    tests: list[dict[str, object]] = []
    for hour in range(days * 24):
        start = hour * 3600
        key = {"model": "m", "start": start, "seconds": 3600, "calibrated": False}
        for cohort in (f"site-{number}" for number in range(COHORTS)):
            sums = {"windows": 500, "late": 0, "rows": 50_000, "reference_rows": 0.0, "noise_units": 500.0, "last_at": start}
            kept = {"counts": counts, "subgroups": counts * 4, "tested_windows": 500, "alarmed": False}
            intervals.append({**key, **sums, **kept, "release": RELEASE, "cohort": cohort})
            test = Drift(
                model="m", version="1.0.0", cohort=cohort, start=start, seconds=3600, windows=500, alarm=False, alpha=0.01, signals=signals
            )
            said = {"version": "1.0.0", "cohort": cohort, "about": "", "first_tested_at": start, "tested_at": start, "alarm": False}
            newest = test.model_dump_json()
            tests.append({**key, **said, "body": newest})
        if (hour + 1) % (DAYS * 24) == 0:  # nine days in one transaction: the sync of the disk is most of it
            with store.database.write() as db:
                db.execute(insert(tables.intervals), intervals)
                db.execute(insert(tables.drifts), tests)
            intervals, tests = [], []
    with store.database.write() as db:
        db.execute(insert(tables.newest_drifts).values(model="m", tested_at=int(now), body=newest))
    settling = Settling(
        store=store,
        notes=Notes(store, publish=lambda _: None, clock=lambda: now),
        releases=Releases(Repository(directory / "trust"), BlockStore(directory / "blocks")),
        publish=lambda *_, **__: None,
        settled=lambda *_: None,
        cohort_nodes_min=20,
        settle_seconds=0,
        trim_outlying=False,
        alpha=0.01,
        run_length=1000.0,
        clock=lambda: now,
    )
    assert len(settling.newest()) == 1
    return store, settling
