"""What a simulation counts with numpy is what the hub's core counts, node by node; and its tables of times are those of the schemas."""

from datetime import UTC
from random import Random

import numpy as np
import pytest

from hub.core.rollouts.tally import tally
from schemas.deployments import Deployment, Stage, is_reached, threshold_of
from schemas.rollout import Gate, ReleaseRef
from schemas.selectors import NodeFacts, parse
from schemas.windows import DAYS, Window, is_open, parse_windows
from simulation.core.counting import NOT_FAILED, Known, Reports, counted, positions, reached_by
from simulation.core.schedule import NEVER_SECONDS, Presence, minute_of_week, off_minutes, parse_schedule, week_of

NOW = 1_767_600_000


@pytest.mark.parametrize("seed", range(40))
def test_a_fleet_is_counted_as_the_hubs_core_counts_it(seed: int) -> None:
    rng = Random(seed)
    facts = [NodeFacts(f"n{at}", {"site": rng.choice("abc")}) for at in range(rng.randint(1, 60))]
    n = len(facts)
    stages = (Stage(None, "canary", parse("site=a")), Stage(30), Stage(100)) if rng.random() < 0.5 else (Stage(20), Stage(100))
    stage = rng.randrange(len(stages))
    rollout, names = rng.randbytes(16), [one.node for one in facts]
    deployment = Deployment(
        name="default",
        release=ReleaseRef("1.0.0", bytes(32)),
        state=rng.choice(["running", "halted", "done"]),
        rollout=rollout,
        stages=stages,
        stage=stage,
        threshold=threshold_of(rollout, max((one.percent or 0 for one in stages[: stage + 1]), default=0), names),
        gate=Gate(retries=rng.choice([None, 1, 3])),
        deadline=rng.choice([None, NOW - 5, NOW + 5]),
        started=NOW - 1000,
    )
    known = Known(
        facts=facts,
        off_seconds=np.array([rng.choice([0.0, 200.0, 600.0, 5000.0]) for _ in facts]),
        serving=np.array([rng.random() < 0.5 for _ in facts]),
        serves_nothing=np.zeros(n, bool),
        failed_at=np.array([rng.choice([NOT_FAILED, NOW - 500, NOW - 50]) for _ in facts]),
        tried=np.array([rng.randrange(5) for _ in facts]),
        quiet_after=np.full(n, 480.0),
    )
    reached = reached_by(deployment, facts, positions(rollout, facts))
    silent_seconds, judged_from = rng.choice([300, 3600]), NOW - 100

    assert reached.tolist() == [is_reached(deployment, one) for one in facts], f"seed {seed}"
    found = counted(deployment, known, reached, silent_seconds=silent_seconds, judged_from=judged_from, now=NOW)
    by_core = tally(deployment, Reports(known, silent_seconds=silent_seconds), judged_from=judged_from, now=NOW)
    assert found == by_core, f"seed {seed}"


@pytest.mark.parametrize("text", ["22:00-05:00", "Mon-Fri 08:00-18:00", "Sat,Sun 00:00-24:00; 12:30-12:31", "Fri 23:00-02:00"])
def test_a_table_of_the_week_says_what_the_windows_say(text: str) -> None:
    windows = parse_windows(text)
    week = week_of(windows)

    for minute in range(0, 7 * 1440, 7):
        at = NOW // 60 * 60 + 60 * minute
        assert week[minute_of_week(at)] == is_open(windows, at, UTC), (text, minute)


def test_a_node_is_off_since_its_window_closed_and_on_at_its_own_shift() -> None:
    presence = Presence(parse_schedule("10:00-11:00"), np.array([0.0, 3600.0]))
    noon = NOW // 86_400 * 86_400 + 12 * 3600

    assert presence.off_seconds(noon - 5400)[0] == 0.0
    assert presence.off_seconds(noon)[0] == pytest.approx(3660, abs=61)
    assert presence.off_seconds(noon - 1800)[1] == 0.0, "an hour later than the first"


def test_a_duty_cycle_is_on_for_its_share_of_the_time() -> None:
    presence = Presence(parse_schedule("10m every 1h"), np.arange(0.0, 3600.0, 10.0))

    off = presence.off_seconds(float(NOW + 1234))

    assert np.mean(off == 0.0) == pytest.approx(1 / 6, abs=0.01)
    assert 0 < off.max() <= 3000


def test_windows_that_never_open_are_off_for_ever() -> None:
    assert (off_minutes(np.zeros(7 * 1440, bool)) * 60 == NEVER_SECONDS).all()
    assert len(DAYS) == 7
    assert not week_of((Window(1, 60, 120),))[:60].any()
