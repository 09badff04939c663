"""Which nodes a rollout addresses: the same answer on every machine, and a stage only ever adds nodes."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.examples import ROLLOUT
from schemas.rollout import Rollout, bucket, wanted

NODES = [f"node-{number}" for number in range(2_000)]
SITE = {"site": "airport"}


def rollout(**changes: Any) -> Rollout:
    return Rollout(**{**dict(ROLLOUT), **changes})


def reached(one: Rollout) -> set[str]:
    return {node for node in NODES if wanted(one, node=node, labels=SITE) == one.release}


def test_a_nodes_place_is_the_same_for_ever() -> None:
    assert bucket(bytes(range(16)), "gate-17") == 61.12950912824223


@given(st.binary(min_size=16, max_size=16), st.text(max_size=64))
def test_a_place_is_a_percentage_below_a_hundred(salt: bytes, node: str) -> None:
    assert 0 <= bucket(salt, node) < 100


def test_a_later_stage_reaches_all_of_an_earlier_one_and_more() -> None:
    stages = (1, 5, 25, 60, 100)
    waves = [reached(rollout(stages=stages, stage=stage)) for stage in range(len(stages))]

    for earlier, later in pairwise(waves):
        assert earlier < later
    assert waves[-1] == set(NODES)


def test_a_stage_reaches_about_the_share_that_it_says() -> None:
    for percent in (5, 25, 50):
        share = len(reached(rollout(stages=(percent,), stage=0))) / len(NODES)

        assert abs(share - percent / 100) < 4 * (percent / 100 * (1 - percent / 100) / len(NODES)) ** 0.5


def test_another_salt_begins_with_other_nodes() -> None:
    one, other = (reached(rollout(stages=(10,), stage=0, salt=salt)) for salt in (bytes(16), bytes(15) + b"\x01"))

    assert len(one & other) < len(one) / 2


def test_who_is_not_reached_yet_keeps_the_fallback() -> None:
    early = rollout(stages=(5, 100), stage=0)

    assert all(wanted(early, node=node, labels=SITE) == early.fallback for node in set(NODES) - reached(early))


def test_a_halted_rollout_moves_nobody() -> None:
    assert {wanted(rollout(state="halted"), node=node, labels=SITE) for node in NODES} == {None}


def test_a_rolled_back_rollout_brings_everybody_to_the_fallback() -> None:
    back = rollout(state="rolled_back")

    assert {wanted(back, node=node, labels=SITE) for node in NODES} == {back.fallback}


def test_a_finished_rollout_reaches_everybody_whatever_its_stage_says() -> None:
    assert reached(rollout(state="done", stage=0)) == set(NODES)


def test_a_rollout_says_nothing_to_nodes_that_it_does_not_select() -> None:
    for labels in ({}, {"site": "harbour"}, {"airport": "site"}):
        assert wanted(rollout(state="done"), node="node-1", labels=labels) is None
    assert wanted(rollout(state="done"), node="node-1", labels={**SITE, "tier": "1"}) == ROLLOUT.release


def test_a_stage_beyond_the_last_is_the_last() -> None:
    assert rollout(stages=(5, 25), stage=7).percent == 25
