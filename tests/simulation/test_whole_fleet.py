"""A whole fleet in one process, mistreated as a seed says: at rest every node serves what it should, and everybody knows.

`make soak-sim` runs more seeds; tests/simulation/README.md says how a failure is read, shrunk and kept.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.whole_fleet.operations import Plan, plan_of
from tests.simulation.whole_fleet.runs import Outcome, quiet, run, shrink

SEEDS, AT_ONCE = int(os.environ.get("SIM_SEEDS", "25")), 5  # A seed takes about a second of CPU; `make soak-sim` has the others.
KEPT = Path(__file__).parent / "whole_fleet" / "kept.json"


@pytest.fixture(autouse=True)
def without_logs() -> Iterator[None]:
    with quiet():
        yield


def failed(outcome: Outcome) -> str:
    smallest = shrink(outcome)
    kept = {"why": "", "seed": smallest.seed, **smallest.plan.as_json()}
    return f"{outcome}\n\nshrunk to:\n{smallest}\n\nto keep it, add to {KEPT.name}, with a sentence:\n{json.dumps(kept)}"


@pytest.mark.heavy
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_at_rest_every_node_serves_what_it_should(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        outcome = run(seed)
        if outcome.broken:
            pytest.fail(failed(outcome))


@pytest.mark.parametrize("kept", json.loads(KEPT.read_text()), ids=lambda kept: kept["why"].replace(" ", "-")[:60])
def test_what_once_failed_holds(kept: dict[str, object]) -> None:
    outcome = run(int(str(kept["seed"])), Plan.from_json(kept))

    assert outcome.broken == (), outcome


def test_a_seed_is_the_same_plan_again() -> None:
    assert plan_of(7) == plan_of(7)
    assert plan_of(7) == Plan.from_json(json.loads(json.dumps(plan_of(7).as_json())))


@pytest.mark.parametrize("seed", [2, 5])  # in both a process is killed at one of its calls
def test_a_seed_runs_the_same_way_again(seed: int) -> None:
    assert run(seed) == run(seed)
