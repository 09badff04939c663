"""Which nodes a rollout addresses: the same answer on every machine, and a stage only ever adds nodes."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.codec import encode
from schemas.names import sha256
from schemas.rollout import Fallback, ReleaseRef, Rollout, bucket
from tests.earlier_node import fallback_of, wanted
from tools.examples import ROLLOUT

NODES = [f"node-{number}" for number in range(2_000)]
SITE = {"site": "airport"}


def rollout(**changes: Any) -> Rollout:
    return Rollout(**{**dict(ROLLOUT), **changes})


def reached(one: Rollout) -> set[str]:
    return {node for node in NODES if wanted(one, node=node, labels=SITE, serving=None) == one.release}


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


def wants(one: Rollout, nodes: Iterable[str], serving: bytes | None) -> set[ReleaseRef | None]:
    return {wanted(one, node=node, labels=SITE, serving=serving) for node in nodes}


OTHER = sha256(b"any other release")


def test_a_node_that_is_not_reached_keeps_what_it_serves_whatever_that_is() -> None:
    early = rollout(stages=(5, 100), stage=0)
    outside = set(NODES) - reached(early)

    assert outside
    assert wants(early, outside, OTHER) == wants(early, outside, early.release.digest) == {None}


def test_a_node_that_serves_nothing_takes_the_fallback_until_it_is_reached() -> None:
    early = rollout(stages=(5, 100), stage=0)

    assert wants(early, set(NODES) - reached(early), None) == {early.fallback}


def test_a_halted_rollout_moves_nobody() -> None:
    assert wants(rollout(state="halted"), NODES, None) == wants(rollout(state="halted"), NODES, OTHER) == {None}


def test_going_back_leads_nodes_that_were_reached_or_have_it_to_the_fallback() -> None:
    back = rollout(state="rolled_back", stages=(5, 100), stage=0)
    inside = reached(rollout(state="running", stages=(5, 100), stage=0))
    outside = set(NODES) - inside

    assert wants(back, inside, OTHER) == wants(back, inside, back.release.digest) == {back.fallback}
    assert wants(back, outside, OTHER) == {None}
    assert wants(back, outside, back.release.digest) == wants(back, outside, None) == {back.fallback}


def test_of_several_fallbacks_the_first_counts_whose_labels_a_node_has() -> None:
    first, last = (Fallback(labels=labels, release=ReleaseRef("1.0.0", sha256(str(labels).encode()))) for labels in (SITE, {}))
    several = rollout(fallback=None, fallbacks=(first, last), labels={})

    assert fallback_of(several, SITE) == first
    assert fallback_of(several, {}) == last
    assert fallback_of(rollout(fallback=None, fallbacks=(first,), labels={}), {}) is None


def test_a_rollout_says_its_fallback_in_one_way_only() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        rollout(fallbacks=(Fallback(labels=SITE, release=ROLLOUT.release),))


def test_one_fallback_for_all_is_written_as_it_always_was() -> None:
    assert b"fallbacks" not in encode(ROLLOUT)


def test_a_finished_rollout_reaches_everybody_whatever_its_stage_says() -> None:
    assert reached(rollout(state="done", stage=0)) == set(NODES)


def test_a_rollout_says_nothing_to_nodes_that_it_does_not_select() -> None:
    for labels in ({}, {"site": "harbour"}, {"airport": "site"}):
        assert wanted(rollout(state="done"), node="node-1", labels=labels, serving=None) is None
    assert wanted(rollout(state="done"), node="node-1", labels={**SITE, "tier": "1"}, serving=None) == ROLLOUT.release


def test_a_stage_beyond_the_last_is_the_last() -> None:
    assert rollout(stages=(5, 25), stage=7).percent == 25
